package table

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// TestConsiderEqualsFind: what is chosen is what Find finds, in the order of precedence, and every other match has a reason.
func TestConsiderEqualsFind(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 2))
		var b Builder
		for i := range 1 + rng.IntN(40) {
			if err := b.Add(&Rule{Name: fmt.Sprint(i)}, randomMatch(rng, i)); err != nil {
				t.Fatal(err)
			}
		}
		tbl := &Table{}
		b.Build(tbl)
		for range 40 {
			r := randomRequest(rng)
			want := tbl.Find(r)
			var chosen *Rule
			for i, c := range tbl.Consider(r) {
				if (c.Part == "") != naiveEntry(tbl, i, r) {
					t.Fatalf("seed %d, request %+v: match %+v has the part %q", seed, r, c.Match, c.Part)
				}
				if c.Chosen {
					if chosen != nil || c.Part != "" {
						t.Fatalf("seed %d: two are chosen, or one that does not match", seed)
					}
					chosen = c.Rule
				}
			}
			if chosen != want {
				t.Fatalf("seed %d, request %+v: chosen %+v, found %+v", seed, r, chosen, want)
			}
		}
	}
}

// naiveEntry says whether one of a table's matches fits a request, by the scan that shares nothing with it.
func naiveEntry(t *Table, i int, r *Request) bool {
	m := t.entries()[i].Match
	for _, model := range modelsOf(m) {
		if naiveMatches(&m, model, r) {
			return true
		}
	}
	return false
}

// TestMismatch names the first part that does not fit.
func TestMismatch(t *testing.T) {
	full := Match{
		Method: "POST", Path: "/v1", Gateways: []string{"a/in", "a/more"}, Models: []string{"gpt-4o"}, Labels: map[string]string{"team": "lab"},
		Headers: []ValueMatch{{Name: "x-a", Value: "1"}}, Query: []ValueMatch{{Name: "q", Value: "1"}},
	}
	fitting := func(edit func(*Request)) *Request {
		return request(func(r *Request) {
			r.Gateway = "a/more"
			r.Labels, r.Header, r.Query = map[string]string{"team": "lab"}, headers("x-a", "1"), "q=1"
		}, edit)
	}
	for _, c := range []struct {
		edit func(*Request)
		want string
	}{
		{func(*Request) {}, " "},
		{func(r *Request) { r.Method = "GET" }, "method "},
		{func(r *Request) { r.Path = "/v2" }, "path "},
		{func(r *Request) { r.Gateway = "a/out" }, "gateway "},
		{func(r *Request) { r.Gateway = "" }, "gateway "},
		{func(r *Request) { r.Gateway, r.Model = "a/out", "other" }, "gateway "},
		{func(r *Request) { r.Gateway = AnyGateway }, " "},
		{func(r *Request) { r.Model = "other" }, "model "},
		{func(r *Request) { r.Model, r.Path = "other", "/v2" }, "path "},
		{func(r *Request) { r.Labels = nil }, "consumerLabels team"},
		{func(r *Request) { r.Header = headers("x-a", "2") }, "headers x-a"},
		{func(r *Request) { r.Query = "q=2" }, "queryParams q"},
		{func(r *Request) { r.Query = "q=%zz" }, "queryParams q"},
	} {
		got := built(t, []string{"only"}, []Match{full}).Consider(fitting(c.edit))[0]
		if text := string(got.Part) + " " + got.Name; text != c.want || got.Chosen != (strings.TrimSpace(c.want) == "") {
			t.Errorf("got %q, chosen %v; want %q", text, got.Chosen, c.want)
		}
	}
}
