package table

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// TestPrecedence holds the order that the API type Route documents. The matches stand from the most to the least
// specific, and every one of them applies to the request, so of any two the earlier must win, whichever was
// added first.
func TestPrecedence(t *testing.T) {
	value := func(names ...string) (out []ValueMatch) {
		for _, n := range names {
			out = append(out, ValueMatch{Name: n, Value: "1"})
		}
		return out
	}
	r := request(func(r *Request) {
		r.Query = "q=1&p=1"
		r.Header = headers("a", "1", "b", "1", "c", "1")
		r.Labels = map[string]string{"team": "x", "tier": "y"}
	})
	order := []struct {
		name string
		m    Match
	}{
		{"exact path", Match{Path: "/v1/chat/completions", PathExact: true}},
		{"longest prefix", Match{Path: "/v1/chat/completions"}},
		{"longer prefix", Match{Path: "/v1/chat"}},
		{"shorter prefix and a method", Match{Path: "/v1", Method: "POST"}},
		{"shorter prefix and everything but a method", Match{Path: "/v1/", Headers: value("a", "b", "c"), Query: value("q", "p"), Models: []string{"gpt-4o"}}},
		{"method and three headers", Match{Method: "POST", Headers: value("a", "b", "c")}},
		{"method, one header, two parameters", Match{Method: "POST", Headers: value("a"), Query: value("q", "p")}},
		{"method alone", Match{Method: "POST"}},
		{"three headers", Match{Headers: value("a", "b", "c")}},
		{"two headers and two parameters", Match{Headers: value("a", "b"), Query: value("q", "p")}},
		{"two headers and one parameter", Match{Headers: value("a", "b"), Query: value("q")}},
		{"two headers and an exact model", Match{Headers: value("a", "b"), Models: []string{"gpt-4o"}}},
		{"one header", Match{Headers: value("a")}},
		{"two parameters", Match{Query: value("q", "p")}},
		{"one parameter and an exact model", Match{Query: value("q"), Models: []string{"gpt-4o"}}},
		{"one parameter", Match{Query: value("q")}},
		{"exact model and two labels", Match{Models: []string{"gpt-4o"}, Labels: map[string]string{"team": "x", "tier": "y"}}},
		{"exact model", Match{Models: []string{"gpt-4o"}}},
		{"long pattern", Match{Models: []string{"gpt-4*"}}},
		{"short pattern and a label", Match{Models: []string{"g*"}, Labels: map[string]string{"team": "x"}}},
		{"short pattern", Match{Models: []string{"g*"}}},
		{"any model", Match{Models: []string{"*"}}},
		{"two labels", Match{Labels: map[string]string{"team": "x", "tier": "y"}}},
		{"one label", Match{Labels: map[string]string{"team": "x"}}},
		{"oldest", Match{Created: epoch.Add(-time.Hour), RouteOrder: "z/z", Order: 9}},
		{"first by namespace and name", Match{RouteOrder: "a/a", Order: 9}},
		{"second by namespace and name", Match{RouteOrder: "a/b", Order: 1}},
		{"same Route, later match", Match{RouteOrder: "a/b", Order: 2}},
		{"youngest", Match{Created: epoch.Add(time.Hour), RouteOrder: "a/a"}},
	}
	for i := range order {
		if order[i].m.Created.IsZero() {
			order[i].m.Created = epoch
		}
		if !matches(t, order[i].m, r) {
			t.Fatalf("%q does not apply to the request of this test", order[i].name)
		}
	}
	for i, first := range order {
		for _, second := range order[i+1:] {
			for _, reversed := range []bool{false, true} {
				names, list := []string{first.name, second.name}, []Match{first.m, second.m}
				if reversed {
					slices.Reverse(names)
					slices.Reverse(list)
				}
				if got := built(t, names, list).Find(r); got.Name != first.name {
					t.Errorf("%q and %q (reversed: %v): got %q", first.name, second.name, reversed, got.Name)
				}
			}
		}
	}
}

// TestPatternsRankOneByOne: a long pattern that does not match the request lends no rank to a short one beside it.
func TestPatternsRankOneByOne(t *testing.T) {
	tbl := built(t, []string{"mixed", "gpt"}, []Match{
		{Models: []string{"*", "a-very-long-pattern-*", "exact"}}, {Models: []string{"gpt-4*"}},
	})
	for model, want := range map[string]string{
		"gpt-4o": "gpt", "other": "mixed", "a-very-long-pattern-1": "mixed", "exact": "mixed",
	} {
		if got := tbl.Find(request(func(r *Request) { r.Model = model })); got == nil || got.Name != want {
			t.Errorf("model %s: got %v, want %s", model, got, want)
		}
	}
}

// TestLessSpecificServesWhatMoreSpecificDoesNot: precedence is among rules that match, not among all.
func TestLessSpecificServesWhatMoreSpecificDoesNot(t *testing.T) {
	tbl := built(t, []string{"exact", "header", "rest"}, []Match{
		{Path: "/v1/messages", PathExact: true},
		{Headers: []ValueMatch{{Name: "x-version", Value: "v2"}}},
		{},
	})
	for _, c := range []struct {
		edit func(*Request)
		want string
	}{
		{func(r *Request) { r.Path = "/v1/messages" }, "exact"},
		{func(r *Request) { r.Header = headers("x-version", "v2") }, "header"},
		{func(r *Request) { r.Header = headers("x-version", "v1") }, "rest"},
	} {
		if got := tbl.Find(request(c.edit)); got == nil || got.Name != c.want {
			t.Errorf("got %v, want %s", got, c.want)
		}
	}
	if got := built(t, []string{"header"}, []Match{{Headers: []ValueMatch{{Name: "x", Value: "1"}}}}).Find(request()); got != nil {
		t.Errorf("nothing matches, yet Find gives %s", got.Name)
	}
	if got := built(t, nil, nil).Find(request()); got != nil {
		t.Errorf("an empty table gives %s", got.Name)
	}
}

func ExampleTable_Find() {
	var b Builder
	_ = b.Add(&Rule{Name: "default/all"}, Match{})
	_ = b.Add(&Rule{Name: "default/canary"}, Match{Headers: []ValueMatch{{Name: "x-version", Value: "v2"}}})
	t := &Table{}
	b.Build(t)
	found := t.Find(&Request{Model: "gpt-4o", Header: func(name string) (string, bool) { return "v2", name == "x-version" }})
	fmt.Println(found.Name)
	// Output: default/canary
}
