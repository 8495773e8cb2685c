package compile

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	compositev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/composite/v3"

	"github.com/weir-dev/weir/extproc/table"
	"github.com/weir-dev/weir/extproc/wire"
)

// SpeakingNames replaces, in any text about a Version, names that are hashes by names that say what is meant: two versions can then be
// compared by people. A cluster is named by its Backend, a chain by whom it asks, a route by its rule and the candidates that it has.
func SpeakingNames(v *Version) *strings.Replacer {
	named := map[string]string{}
	for name := range v.Clusters.Names() {
		switch kind, _, _ := strings.Cut(name, "/"); kind {
		case "backend":
			named[name] = name[:strings.LastIndexByte(name, '/')]
		case "direct":
			named[name] = "direct/[" + strings.Join(asked(v, name), ", ") + "]"
		}
	}
	for name := range v.Secrets {
		if strings.HasPrefix(name, "credential/") {
			named[name] = name[:strings.LastIndexByte(name, '/')]
		}
	}
	for name, c := range v.Table.Chains.All() {
		var list []string
		for _, cand := range c.Candidates {
			list = append(list, candidateName(cand))
		}
		named[name] = "chain/[" + strings.Join(list, ", ") + "]"
	}
	for key, r := range v.Routes.All() {
		if r.GetStatPrefix() == openStat {
			named[key] = r.GetName() + "#open-" + strings.Join(backendsOf(r), "-")
		}
	}
	for _, r := range v.Table.All() {
		nameRoutes(named, r)
	}
	var pairs []string
	for _, name := range slices.Sorted(maps.Keys(named)) {
		pairs = append(pairs, name, named[name])
	}
	return strings.NewReplacer(pairs...)
}

// nameRoutes names the routes of a rule.
func nameRoutes(named map[string]string, r *table.Rule) {
	name := func(key, format string, args ...any) {
		if key != "" && named[key] == "" {
			named[key] = r.Name + "#" + fmt.Sprintf(format, args...)
		}
	}
	var dialects []string
	for _, c := range r.Candidates {
		dialects = append(dialects, c.Backend.Dialect.Name)
	}
	variants := map[table.Mask]*table.Variant{}
	for _, mask := range r.Masks(dialects) {
		if v := r.Variant(mask); v != nil { // nobody calls in some dialects
			variants[mask] = v
		}
	}
	masks := slices.Sorted(maps.Keys(variants))
	for _, mask := range masks {
		name(variants[mask].DirectKey, "direct-%04b", mask)
		name(variants[mask].ChainKey, "chain-%04b", mask)
	}
	for _, mask := range masks {
		v := variants[mask]
		for _, first := range v.Candidates {
			name(v.First[first].Direct, "direct-%04b-from-%s", mask, first.Backend.ID)
			name(v.First[first].Chain, "chain-%04b-from-%s", mask, first.Backend.ID)
		}
	}
}

// candidateName is "default/openai", with the model that is asked for where the rule says one.
func candidateName(c *table.Candidate) string {
	if c.Model == "" {
		return c.Backend.ID
	}
	return c.Backend.ID + " as " + c.Model
}

// backendsOf are the names of the backends that a direct route may ask.
func backendsOf(r *routev3.Route) (out []string) {
	for _, w := range r.GetRoute().GetWeightedClusters().GetClusters() {
		out = append(out, strings.Split(w.GetName(), "/")[2])
	}
	return out
}

// asked are the backends that a cluster asks, one after the other.
func asked(v *Version, cluster string) (out []string) {
	of := func(name string) string {
		return v.Clusters.Get(name).GetMetadata().GetFilterMetadata()[wire.BackendNamespace].GetFields()[wire.KeyBackend].GetStringValue()
	}
	config := &compositev3.ClusterConfig{}
	typed := v.Clusters.Get(cluster).GetClusterType().GetTypedConfig()
	if !typed.MessageIs(config) || typed.UnmarshalTo(config) != nil {
		return []string{of(cluster)}
	}
	for _, e := range config.GetClusters() {
		out = append(out, of(e.GetName()))
	}
	return out
}
