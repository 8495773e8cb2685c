package state

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/xds/source"
)

const hash = "sha256:37a721706adc5240e60def713f9817d6800983f74ab6c89c32f41c244b29e03f"

// objects are a backend with a URL and a key, and n consumers.
func objects(t *testing.T, url string, n int) *source.Objects {
	t.Helper()
	o := source.NewObjects()
	add := func(x source.Object) {
		if err := o.Add(x); err != nil {
			t.Fatal(err)
		}
	}
	meta := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: "default", Name: name} }
	add(&v1alpha1.Backend{ObjectMeta: meta("a"), Spec: v1alpha1.BackendSpec{Dialect: "openai", URL: url, DefaultMaxTokens: 2000000}})
	key := &v1alpha1.APIKey{ObjectMeta: meta("k"), Spec: v1alpha1.APIKeySpec{Consumer: "c", Hash: hash}}
	key.Annotations = map[string]string{lastApplied: `{"spec":{"hash":"` + hash + `"}}`, demoKey: "weir-demo-key", "note": "the key is upstream-secret-1"}
	add(key)
	for i := range n {
		add(&v1alpha1.Consumer{ObjectMeta: meta(fmt.Sprint("c", i)), Spec: v1alpha1.ConsumerSpec{Tenant: "t"}})
	}
	o.Secrets[source.SecretKeyOf("default", v1alpha1.SecretRef{Name: "s", Key: "k"})] = source.NewSecret("upstream-secret-1\n")
	return o
}

func TestYAMLHides(t *testing.T) {
	o := objects(t, "http://a.example", 0)
	text := ""
	for _, x := range o.All() {
		text += NewHider(o).YAML(x)
	}
	for _, secret := range []string{"37a7217", "weir-demo-key", "upstream-secret-1"} {
		if strings.Contains(text, secret) {
			t.Errorf("%s is shown:\n%s", secret, text)
		}
	}
	for _, want := range []string{"kind: APIKey", "hash: (hidden)", "defaultMaxTokens: 2000000\n", "apiVersion: weir.dev/v1alpha1", "url: http://a.example"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing:\n%s", want, text)
		}
	}
}

func TestChanges(t *testing.T) {
	c := newChanges()
	at := func(n int) time.Time { return t0.Add(time.Duration(n) * time.Minute) }
	bad := []source.Problem{{Message: "look out", Severity: source.Warning}, {Message: "there is no Backend x", File: "r.yaml", Line: 3}}
	one, two := objects(t, "http://one.example", 0), objects(t, "http://two.example", 1)

	c.Came(at(0), "v1", one, nil)
	c.WentLive(at(1), "v1")
	c.Came(at(2), "v1", one, nil) // nothing is new
	c.Came(at(3), "", one, bad)
	c.Came(at(4), "", one, bad)
	c.Came(at(5), "v2", two, nil)
	c.Came(at(6), "v3", one, nil)
	c.WasRejected("v3", "no")
	c.Came(at(7), "v4", two, nil)
	c.WentLive(at(8), "v4")
	c.Came(at(9), "", two, bad)
	c.Came(at(10), "v4", two, nil) // back to what is live

	var got []string
	for _, x := range c.All() {
		line := fmt.Sprint(x.Seq, " ", x.Version, " ", x.Outcome, " ", x.Reason)
		for _, o := range x.Objects {
			line += fmt.Sprint(" ", o.Action, " ", o.Ref)
		}
		got = append(got, line)
	}
	want := []string{
		"7 v4 live ", "6  refused r.yaml:3: there is no Backend x",
		"5 v4 live  changed Backend default/a added Consumer default/c0", "4 v3 rejected no changed Backend default/a removed Consumer default/c0",
		"3 v2 superseded  changed Backend default/a added Consumer default/c0", "2  refused r.yaml:3: there is no Backend x", "1 v1 live ",
	}
	if g, w := strings.Join(got, "\n"), strings.Join(want, "\n"); g != w {
		t.Errorf("got\n%s\nwant\n%s", g, w)
	}
	diff := c.All()[2].Objects[0].Diff
	if !strings.HasPrefix(diff, "--- before/Backend default/a\n+++ after/Backend default/a\n@@ ") || !strings.HasSuffix(diff, "\n-  url: http://one.example\n+  url: http://two.example\n") {
		t.Errorf("the difference is\n%s", diff)
	}
	if at := c.All()[0].LiveAt; !at.Equal(t0.Add(10 * time.Minute)) {
		t.Errorf("what is live already is live since %v", at)
	}
}

func TestChangesAreBounded(t *testing.T) {
	c := newChanges()
	c.Came(t0, "v0", objects(t, "http://a.example", 0), nil)
	for i := range maxChanges {
		c.Came(t0, fmt.Sprint("w", i), objects(t, "http://a.example", i%2*(maxChangedObjects+7)), nil)
	}
	all := c.All()
	if len(all) != maxChanges || len(all[0].Objects) != maxChangedObjects || all[0].More != 7 || len(all[1].Objects) != maxChangedObjects || all[1].More != 7 {
		t.Errorf("%d changes, the last of %d objects and %d more", len(all), len(all[0].Objects), all[0].More)
	}
	var a, b strings.Builder
	for i := range 4000 {
		fmt.Fprintln(&a, "line", i)
		fmt.Fprintln(&b, "other", i)
	}
	ref := source.ObjectRef{Kind: "Backend", Namespace: "default", Name: "a"}
	if d := diff(ref, a.String(), b.String()); len(d) > maxDiff+100 || !strings.HasSuffix(d, " more lines\n") {
		t.Errorf("%d bytes, ending in %q", len(d), d[len(d)-40:])
	}
	if d := diff(ref, a.String(), strings.Repeat("x\n", maxDiffLines+1)); !strings.Contains(d, "too many to compare") {
		t.Errorf("%.100q", d)
	}
	if d := diff(ref, a.String(), a.String()+"last\n"); !strings.HasSuffix(d, "@@ -3998,3 +3998,4 @@\n line 3997\n line 3998\n line 3999\n+last\n") {
		t.Errorf("%q", d)
	}
	if d := diff(ref, a.String(), strings.Replace(strings.Replace(a.String(), "line 10\n", "", 1), "line 3000\n", "new\n", 1)); !strings.Contains(d, "\n-line 10\n") || !strings.Contains(d, "\n+new\n") {
		t.Errorf("%q", d)
	}
	if d := diff(ref, "", "a: 1\nb: 2\n"); !strings.HasSuffix(d, "@@ -0,0 +1,2 @@\n+a: 1\n+b: 2\n") {
		t.Errorf("%q", d)
	}
}

// TestDiffBlocks: many lines are not compared at once. What that takes rises with their square, and a configuration goes live after it.
func TestDiffBlocks(t *testing.T) {
	ref := source.ObjectRef{Kind: "Backend", Namespace: "default", Name: "a"}
	most := 0
	for line := range strings.SplitSeq(diff(ref, strings.Repeat("a\n", 3*diffBlock), strings.Repeat("b\n", 3*diffBlock)), "\n") {
		var from, n int
		if _, err := fmt.Sscanf(line, "@@ -%d,%d", &from, &n); err == nil {
			most = max(most, n)
		}
	}
	if most != diffBlock {
		t.Errorf("%d lines are compared at once", most)
	}
}

// TestDiffIsAPatch: whatever has changed, the text before becomes the text after by it.
func TestDiffIsAPatch(t *testing.T) {
	ref := source.ObjectRef{Kind: "Backend", Namespace: "default", Name: "a"}
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		var a, b []string
		for range rnd.IntN(3 * diffBlock) {
			a = append(a, fmt.Sprintf("line %d\n", rnd.IntN(50)))
		}
		edits := 1 + rnd.IntN(6)
		for _, l := range a {
			switch rnd.IntN(max(1, len(a)) * 3 / edits) {
			case 0:
				continue
			case 1:
				b = append(b, "changed\n")
			case 2:
				b = append(b, l, "added\n")
			default:
				b = append(b, l)
			}
		}
		d := diff(ref, strings.Join(a, ""), strings.Join(b, ""))
		if got := patched(t, a, d); got != strings.Join(b, "") {
			t.Fatalf("seed %d: the difference does not lead from one to the other:\n%s", seed, d)
		}
	}
}

// patched applies a unified diff.
func patched(t *testing.T, to []string, diff string) string {
	t.Helper()
	var out []string
	at := 0 // lines of to that are done
	for _, l := range strings.SplitAfter(diff, "\n")[2:] {
		switch {
		case l == "":
		case l[0] == '@':
			from, n := 0, 1
			text, _, _ := strings.Cut(strings.TrimPrefix(l, "@@ -"), " ")
			if fmt.Sscanf(text, "%d,%d", &from, &n); n > 0 {
				from--
			}
			out = append(out, to[at:from]...)
			at = from
		case l[0] == '+':
			out = append(out, l[1:])
		default:
			if at >= len(to) || to[at] != l[1:] {
				t.Fatalf("line %d is not %q", at+1, l[1:])
			}
			if at++; l[0] == ' ' {
				out = append(out, l[1:])
			}
		}
	}
	return strings.Join(append(out, to[at:]...), "")
}
