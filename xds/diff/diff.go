// Package diff says what would change in Envoy, and among the objects, if one configuration took the place of another.
package diff

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strings"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"sigs.k8s.io/yaml"

	"github.com/weir-dev/weir/internal/textdiff"
	"github.com/weir-dev/weir/xds/compile"
)

// Change is one resource of Envoy that would be added, changed or removed.
type Change struct {
	// Type is cluster, endpoints, listener, route or secret.
	Type string `json:"type"`
	// Name says what is meant, with no hash in it: several resources may have one name.
	Name string `json:"name"`
	// Action is added, changed or removed.
	Action string `json:"action"`
	// Diff is unified, of YAML; "" of what is added or removed, and of secrets.
	Diff string `json:"diff,omitempty"`
}

// The actions.
const (
	Added   = "added"
	Changed = "changed"
	Removed = "removed"
)

// maxDiff bytes of a resource are shown.
const maxDiff = 16 << 10

// Versions compares what two versions tell Envoy, by type and name. Where a name stands for a hash of its content, as those of clusters and
// routes do, a resource that comes in the place of another counts as changed. before may be nil: there is nothing yet.
func Versions(before, after *compile.Version) []Change {
	var out []Change
	was, is := texts(before), texts(after)
	for _, kind := range slices.Sorted(maps.Keys(is)) {
		out = append(out, differ(kind, was[kind], is[kind])...)
	}
	return append(out, secrets(before, after)...)
}

// secrets compares values, and shows none.
func secrets(before, after *compile.Version) (out []Change) {
	was, is := values(before), values(after)
	names := maps.Clone(is)
	maps.Copy(names, was)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		switch old, next := was[name], is[name]; {
		case old == nil:
			out = append(out, Change{Type: "secret", Name: name, Action: Added})
		case next == nil:
			out = append(out, Change{Type: "secret", Name: name, Action: Removed})
		case !proto.Equal(old, next):
			out = append(out, Change{Type: "secret", Name: name, Action: Changed})
		}
	}
	return out
}

// values are the secrets of a version, by speaking name.
func values(v *compile.Version) map[string]*tlsv3.Secret {
	out := map[string]*tlsv3.Secret{}
	if v == nil {
		return out
	}
	names := compile.SpeakingNames(v)
	for name, s := range v.Secrets {
		s = proto.CloneOf(s)
		s.Name = "" // with a hash in it
		out[names.Replace(name)] = s
	}
	return out
}

// differ compares resources of one type, each a list of texts by a name.
func differ(kind string, was, is map[string][]string) (out []Change) {
	names := maps.Clone(is)
	maps.Copy(names, was)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		// Of those with one name, what is the same in both has not changed.
		old, next := without(was[name], is[name]), without(is[name], was[name])
		for i := range max(len(old), len(next)) {
			switch {
			case i >= len(old):
				out = append(out, Change{Type: kind, Name: name, Action: Added})
			case i >= len(next):
				out = append(out, Change{Type: kind, Name: name, Action: Removed})
			default:
				out = append(out, Change{kind, name, Changed, textdiff.Unified(kind+" "+name, old[i], next[i], maxDiff)})
			}
		}
	}
	return out
}

// without gives the texts that others does not have as often.
func without(list, others []string) (out []string) {
	left := map[string]int{}
	for _, t := range others {
		left[t]++
	}
	for _, t := range list {
		if left[t]--; left[t] < 0 {
			out = append(out, t)
		}
	}
	return out
}

// texts writes the resources of a version, by type and speaking name.
func texts(v *compile.Version) map[string]map[string][]string {
	out := map[string]map[string][]string{"cluster": {}, "endpoints": {}, "listener": {}, "route": {}}
	if v == nil {
		return out
	}
	names := compile.SpeakingNames(v)
	write(out["cluster"], names, maps.Collect(v.Clusters.All()))
	write(out["endpoints"], names, v.Endpoints)
	write(out["listener"], names, v.Listeners)
	write(out["route"], names, maps.Collect(v.Routes.All()))
	return out
}

func write[M proto.Message](to map[string][]string, names *strings.Replacer, from map[string]M) {
	for _, name := range slices.Sorted(maps.Keys(from)) {
		speaking := names.Replace(name)
		to[speaking] = append(to[speaking], names.Replace(text(from[name])))
	}
	for _, list := range to {
		slices.SortFunc(list, cmp.Compare)
	}
}

// text writes a message as YAML. Long texts in it, such as scripts with what they know of keys, are only told apart.
func text(m proto.Message) string {
	raw, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil { // it was made to be sent
		return "# " + err.Error() + "\n"
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var tree any
	if err := d.Decode(&tree); err != nil {
		return "# " + err.Error() + "\n"
	}
	out, err := yaml.Marshal(shortened(tree))
	if err != nil {
		return "# " + err.Error() + "\n"
	}
	return string(out)
}

// longText is the length from which on a text is not written out.
const longText = 400

func shortened(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k := range v {
			v[k] = shortened(v[k])
		}
	case []any:
		for i := range v {
			v[i] = shortened(v[i])
		}
	case string:
		if len(v) >= longText {
			h := fnv.New32a()
			h.Write([]byte(v))
			return fmt.Sprintf("(%d bytes, %08x)", len(v), h.Sum32())
		}
	}
	return v
}
