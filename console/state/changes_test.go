package state

import (
	"fmt"
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
}
