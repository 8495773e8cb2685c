package state

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pmezard/go-difflib/difflib"
	"sigs.k8s.io/yaml"

	"github.com/weir-dev/weir/api/v1alpha1"
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
	// maxDiff bytes of an object are shown, and nothing is compared that has more lines than maxDiffLines.
	maxDiff      = 16 << 10
	maxDiffLines = 20000
	diffContext  = 3
	// diffBlock lines are compared at once: what it takes rises with their square, and a configuration that goes live waits for it.
	diffBlock = 400
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
			made.Objects, made.More = compare(c.objects, objs)
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

// compare lists what has changed between two readings.
func compare(before, after *source.Objects) (out []ObjectChange, more int) {
	was, is := byRef(before), byRef(after)
	wasHidden, isHidden := NewHider(before), NewHider(after)
	for _, o := range after.All() {
		ref := source.RefOf(o)
		old := was[ref]
		if old != nil && same(old, o) {
			continue
		}
		if len(out) == maxChangedObjects {
			more++
			continue
		}
		change := ObjectChange{Ref: ref, Action: "changed"}
		if old == nil {
			change.Action = "added"
		}
		change.Diff = diff(ref, text(old, wasHidden), text(o, isHidden))
		out = append(out, change)
	}
	for _, o := range before.All() {
		ref := source.RefOf(o)
		if is[ref] != nil {
			continue
		}
		if len(out) == maxChangedObjects {
			more++
			continue
		}
		out = append(out, ObjectChange{Ref: ref, Action: "removed", Diff: diff(ref, text(o, wasHidden), "")})
	}
	return out, more
}

func byRef(objs *source.Objects) map[source.ObjectRef]source.Object {
	out := make(map[source.ObjectRef]source.Object, objs.Len())
	for _, o := range objs.All() {
		out[source.RefOf(o)] = o
	}
	return out
}

func same(a, b source.Object) bool { return reflect.DeepEqual(a, b) }

func text(o source.Object, h Hider) string {
	if o == nil {
		return ""
	}
	return h.YAML(o)
}

// diff compares two texts of an object, as "diff -u" does.
func diff(ref source.ObjectRef, before, after string) string {
	a, b := lines(before), lines(after)
	if len(a) > maxDiffLines || len(b) > maxDiffLines {
		return fmt.Sprintf("The object has %d lines and had %d: too many to compare.\n", len(b), len(a))
	}
	// What is the same at both ends is left out, so that the blocks of what one line was added to fit each other.
	from, most := 0, min(len(a), len(b))
	for from < most && a[from] == b[from] {
		from++
	}
	tail := 0
	for tail < most-from && a[len(a)-1-tail] == b[len(b)-1-tail] {
		tail++
	}
	from, tail = max(0, from-diffContext), max(0, tail-diffContext)
	a, b = a[:len(a)-tail], b[:len(b)-tail]
	var out strings.Builder
	for ; from < max(len(a), len(b)) && out.Len() <= maxDiff; from += diffBlock {
		out.WriteString(diffOf(block(a, from), block(b, from), from))
	}
	head := "--- before/" + ref.String() + "\n+++ after/" + ref.String() + "\n"
	if out.Len() <= maxDiff {
		return head + out.String()
	}
	text := out.String()[:maxDiff]
	return head + text[:strings.LastIndexByte(text, '\n')+1] + "... and more lines\n"
}

// block are the lines to compare from one on, as far as there are any.
func block(lines []string, from int) []string {
	return lines[min(from, len(lines)):min(from+diffBlock, len(lines))]
}

// diffOf compares lines that so many stand before.
func diffOf(a, b []string, before int) string {
	if slices.Equal(a, b) {
		return ""
	}
	var out strings.Builder
	m := difflib.NewMatcher(a, b)
	for _, group := range m.GetGroupedOpCodes(diffContext) {
		first, last := group[0], group[len(group)-1]
		fmt.Fprintf(&out, "@@ -%s +%s @@\n", rangeOf(before+first.I1, before+last.I2), rangeOf(before+first.J1, before+last.J2))
		for _, c := range group {
			if c.Tag == 'e' {
				write(&out, " ", a[c.I1:c.I2])
				continue
			}
			write(&out, "-", a[c.I1:c.I2])
			write(&out, "+", b[c.J1:c.J2])
		}
	}
	return out.String()
}

func write(to *strings.Builder, mark string, lines []string) {
	for _, l := range lines {
		to.WriteString(mark + l)
	}
}

// rangeOf writes which lines are meant, as "diff -u" does: of one its number, of none that of the line before.
func rangeOf(from, to int) string {
	switch n := to - from; n {
	case 0:
		return fmt.Sprintf("%d,0", from)
	case 1:
		return strconv.Itoa(to)
	default:
		return fmt.Sprintf("%d,%d", from+1, n)
	}
}

// lines splits a text after each line break. An empty text has none.
func lines(s string) []string {
	if s == "" {
		return nil
	}
	return strings.SplitAfter(strings.TrimSuffix(s, "\n")+"\n", "\n")[:strings.Count(strings.TrimSuffix(s, "\n"), "\n")+1]
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
