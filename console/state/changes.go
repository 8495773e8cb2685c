package state

import (
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/internal/textdiff"
	"github.com/weir-dev/weir/xds/source"
)

// What became of a configuration.
const (
	Pending    = "pending"    // on its way to Envoy
	Live       = "live"       // the last that went live is what is served
	Refusal    = "refused"    // by Weir: it has errors
	Rejected   = "rejected"   // by Envoy
	Superseded = "superseded" // by the next, before it went live
)

const (
	// maxChanges are kept.
	maxChanges = 50
	// maxChangedObjects of a change are shown.
	maxChangedObjects = 50
	// maxDiff bytes of what is different in an object are shown.
	maxDiff = 16 << 10
)

// Change is a configuration that came.
type Change struct {
	Seq     uint64
	At      time.Time
	Version string // "" where it has errors
	Outcome string
	Reason  string
	LiveAt  time.Time // zero where it did not go live
	Objects []ObjectChange
	More    int // objects that have changed and are not in Objects
}

// ObjectChange is what has become of one object.
type ObjectChange struct {
	Ref source.ObjectRef
	// Action is added, changed or removed.
	Action string
	// Diff is unified.
	Diff string
}

// Changes are the last configurations that came.
type Changes struct {
	mu      sync.Mutex
	seq     uint64
	list    []*Change // the oldest first
	objects *source.Objects
	hiding  hiding
	live    string
}

func newChanges() *Changes { return &Changes{} }

// Came notes a configuration: a version, or "" and the problems that keep it from being one. One that is as the last says nothing new.
func (c *Changes) Came(now time.Time, version string, objs *source.Objects, problems []source.Problem) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var last *Change
	if n := len(c.list); n > 0 {
		last = c.list[n-1]
	}
	made := &Change{At: now, Version: version, Outcome: Pending}
	if version == "" {
		made.Outcome, made.Reason = Refusal, reasons(problems)
		if last != nil && last.Outcome == Refusal && last.Reason == made.Reason {
			return
		}
	} else {
		if last != nil && last.Version == version && last.Outcome != Rejected {
			return
		}
		if c.objects != nil {
			made.Objects, made.More = compare(c.objects, objs, maxChangedObjects, &c.hiding)
		}
		c.objects = objs
		for _, o := range c.list {
			if o.Outcome == Pending {
				o.Outcome = Superseded
			}
		}
		if version == c.live {
			made.Outcome, made.LiveAt = Live, now
		}
	}
	c.seq++
	made.Seq = c.seq
	if len(c.list) >= maxChanges {
		c.list = slices.Delete(c.list, 0, 1)
	}
	c.list = append(c.list, made)
}

// reasons are the first errors.
func reasons(problems []source.Problem) string {
	const most = 5
	var lines []string
	more := 0
	for _, p := range problems {
		switch {
		case p.Severity != source.Error:
		case len(lines) == most:
			more++
		default:
			lines = append(lines, p.String())
		}
	}
	if more > 0 {
		lines = append(lines, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(lines, "\n")
}

// WentLive notes that requests are decided by a version.
func (c *Changes) WentLive(now time.Time, version string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.live = version
	for _, o := range slices.Backward(c.list) {
		if o.Version == version {
			if o.Outcome != Live {
				o.Outcome, o.LiveAt, o.Reason = Live, now, ""
			}
			return
		}
	}
}

// WasRejected notes that Envoy has refused a version.
func (c *Changes) WasRejected(version, reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, o := range slices.Backward(c.list) {
		if o.Version == version {
			if o.Outcome == Pending || o.Outcome == Superseded {
				o.Outcome, o.Reason = Rejected, reason
			}
			return
		}
	}
}

// All are those that are kept, the newest first.
func (c *Changes) All() []Change {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]Change, 0, len(c.list))
	for _, o := range slices.Backward(c.list) {
		out = append(out, *o)
	}
	return out
}

// Compare lists all that has changed between two readings.
func Compare(before, after *source.Objects) []ObjectChange {
	out, _ := compare(before, after, math.MaxInt, &hiding{})
	return out
}

// hiding remembers the Hider that was made last: most changes leave all secrets as they are.
type hiding struct {
	secrets map[source.SecretKey]source.Secret
	hider   Hider
}

// of is a Hider of objects.
func (h *hiding) of(objs *source.Objects) Hider {
	if h.secrets == nil || reflect.ValueOf(h.secrets).UnsafePointer() != reflect.ValueOf(objs.Secrets).UnsafePointer() {
		h.secrets, h.hider = objs.Secrets, NewHider(objs)
	}
	return h.hider
}

// compare lists so many objects that have changed between two readings, and counts the others.
func compare(before, after *source.Objects, most int, hiding *hiding) (out []ObjectChange, more int) {
	olds, news := source.Between(before, after)
	was, is := byRef(olds), byRef(news)
	hidden := sync.OnceValues(func() (was, is Hider) { return hiding.of(before), hiding.of(after) })
	for _, o := range news {
		ref := source.RefOf(o)
		old := was[ref]
		if old != nil && same(old, o) {
			continue
		}
		if len(out) == most {
			more++
			continue
		}
		change := ObjectChange{Ref: ref, Action: "changed"}
		if old == nil {
			change.Action = "added"
		}
		wasHidden, isHidden := hidden()
		change.Diff = textdiff.Unified(ref.String(), text(old, wasHidden), text(o, isHidden), maxDiff)
		out = append(out, change)
	}
	for _, o := range olds {
		ref := source.RefOf(o)
		if is[ref] != nil {
			continue
		}
		if len(out) == most {
			more++
			continue
		}
		wasHidden, _ := hidden()
		out = append(out, ObjectChange{Ref: ref, Action: "removed", Diff: textdiff.Unified(ref.String(), text(o, wasHidden), "", maxDiff)})
	}
	return out, more
}

func byRef(objects []source.Object) map[source.ObjectRef]source.Object {
	out := make(map[source.ObjectRef]source.Object, len(objects))
	for _, o := range objects {
		out[source.RefOf(o)] = o
	}
	return out
}

func same(a, b source.Object) bool { return a == b || reflect.DeepEqual(a, b) }

func text(o source.Object, h Hider) string {
	if o == nil {
		return ""
	}
	return h.YAML(o)
}

const (
	// hidden stands for what is not shown.
	hidden = "(hidden)"
	// lastApplied is a copy of the object that kubectl leaves in it, hashes included.
	lastApplied = "kubectl.kubernetes.io/last-applied-configuration"
	// demoKey is the annotation of a key that is told at the start of a demonstration.
	demoKey = "weir.dev/demo-key"
	// leastSecret is the length of the shortest value of a secret that is looked for: shorter ones are everywhere.
	leastSecret = 8
)

// Hider writes objects without what nobody should see. The zero value knows no secret.
type Hider struct{ values *strings.Replacer }

// NewHider knows the secrets that objects point to. They are not part of any object; where a text is one of them by mistake, it is hidden.
func NewHider(of *source.Objects) Hider {
	var pairs []string
	for _, s := range of.Secrets {
		if v := strings.TrimSpace(s.Reveal()); len(v) >= leastSecret {
			pairs = append(pairs, v, hidden)
		}
	}
	return Hider{strings.NewReplacer(pairs...)}
}

// YAML writes an object without hashes of keys, and without any text that is a secret's value.
func (h Hider) YAML(o source.Object) string {
	raw, err := yaml.Marshal(o)
	if err != nil { // it came from such a text
		return "# " + err.Error() + "\n"
	}
	var tree map[string]any
	if err := yaml.Unmarshal(raw, &tree, func(d *json.Decoder) *json.Decoder { d.UseNumber(); return d }); err != nil {
		return "# " + err.Error() + "\n"
	}
	delete(tree, "status")
	if meta, ok := tree["metadata"].(map[string]any); ok {
		for _, k := range []string{"managedFields", "uid", "resourceVersion", "generation"} {
			delete(meta, k)
		}
		if meta["creationTimestamp"] == nil {
			delete(meta, "creationTimestamp")
		}
		if notes, ok := meta["annotations"].(map[string]any); ok {
			delete(notes, lastApplied)
			if notes[demoKey] != nil {
				notes[demoKey] = hidden
			}
		}
	}
	kind := source.RefOf(o).Kind
	if spec, ok := tree["spec"].(map[string]any); ok && kind == "APIKey" && spec["hash"] != nil {
		spec["hash"] = hidden
	}
	tree["apiVersion"], tree["kind"] = v1alpha1.GroupVersion.String(), kind
	out, err := yaml.Marshal(tree)
	if err != nil {
		return "# " + err.Error() + "\n"
	}
	if h.values == nil {
		return string(out)
	}
	return h.values.Replace(string(out))
}
