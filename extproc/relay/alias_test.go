package relay

import (
	"testing"

	"github.com/weir-dev/weir/extproc/table"
	"github.com/weir-dev/weir/extproc/wire"
)

// TestAliasFindsItsOwnModel: a name of the caller's that stands for another model since the last version of the configuration finds no answer of
// the former one, and finds it again where it is turned back. What does not change who may have answered changes nothing.
func TestAliasFindsItsOwnModel(t *testing.T) {
	r := newRig(t, plainly)
	one, two := &table.Backend{ID: "default/one"}, &table.Backend{ID: "default/two"}
	p := policyOf()
	for _, c := range []struct {
		what       string
		candidates []*table.Candidate
		want       string
	}{
		{"first", []*table.Candidate{{Backend: one, Model: "gpt-4o"}}, "miss"},
		{"again", []*table.Candidate{{Backend: one, Model: "gpt-4o"}}, "hit"},
		{"another weight, and another backend with that model", []*table.Candidate{{Backend: one, Model: "gpt-4o", Weight: 3}, {Backend: two, Model: "gpt-4o"}}, "hit"},
		{"another model", []*table.Candidate{{Backend: one, Model: "gpt-5"}}, "miss"},
		{"one of two", []*table.Candidate{{Backend: one, Model: "gpt-5"}, {Backend: two, Model: "gpt-4o"}}, "miss"},
		{"turned back", []*table.Candidate{{Backend: two, Model: "gpt-4o"}}, "hit"},
	} {
		f := r.flight(p, func(f *Flight) {
			f.Rule = &table.Rule{Name: f.Rule.Name, Timeout: f.Rule.Timeout, Candidates: c.candidates}
		})
		status, h, body := r.ask(f)
		if got := h.Get(wire.CacheHeader); status != 200 || body != plainAnswer || got != c.want {
			t.Errorf("%s: %d, %s: %q; want %s", c.what, status, body, got, c.want)
		}
	}
}
