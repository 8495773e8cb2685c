package table

import (
	"math/bits"
	"slices"
	"testing"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/extproc/identity"
)

func TestCapable(t *testing.T) {
	r := ruleOf("r",
		&Candidate{Backend: served("n/a", "openai", "m1", "m2")},
		&Candidate{Backend: served("n/b", "anthropic", "m2")},
		&Candidate{Backend: served("n/any", "openai")},
		&Candidate{Backend: served("n/c", "openai", "m9"), Model: "m9"},
	)
	for _, c := range []struct {
		model, dialect string
		want           Mask
	}{
		{"m1", "", 0b1101},
		{"m2", "", 0b1111},
		{"other", "", 0b1100},
		{"m2", "openai", 0b1101},
		{"m2", "anthropic", 0b0010},
		{"m1", "anthropic", 0},
		{"m1", "gemini", 0},
	} {
		if got := r.Capable(c.model, c.dialect); got != c.want {
			t.Errorf("Capable(%q, %q) = %04b, want %04b", c.model, c.dialect, got, c.want)
		}
	}
}

// TestMasksHoldWhateverARequestCanHave: a mask that Masks forgets is a request that no Envoy route serves.
func TestMasksHoldWhateverARequestCanHave(t *testing.T) {
	dialects := []string{"openai", "anthropic"}
	r := ruleOf("r",
		&Candidate{Backend: served("n/a", "openai", "m1", "m2")},
		&Candidate{Backend: served("n/b", "anthropic", "m2", "m3")},
		&Candidate{Backend: served("n/c", "dashscope"), Model: "q"},
	)
	masks := r.Masks(dialects)
	for _, model := range []string{"m1", "m2", "m3", "unknown", ""} {
		for _, d := range append([]string{""}, dialects...) {
			if m := r.Capable(model, d); m != 0 && !slices.Contains(masks, m) {
				t.Errorf("model %q, dialect %q: %03b is missing in %03b", model, d, m, masks)
			}
		}
	}
	for i, m := range masks {
		if m == 0 || bits.Len16(uint16(m)) > len(r.Candidates) {
			t.Errorf("mask %03b has no candidate or too many", m)
		}
		if slices.Contains(masks[i+1:], m) {
			t.Errorf("mask %03b is listed twice", m)
		}
	}
}

func TestMasksOfSixteenCandidates(t *testing.T) {
	var list []*Candidate
	for range MaxCandidates {
		list = append(list, &Candidate{Backend: served("n/any", "openai")})
	}
	r := ruleOf("r", list...)
	if got := r.Capable("m", ""); got != 0xffff {
		t.Errorf("all sixteen can serve, got %016b", got)
	}
}

func TestVariant(t *testing.T) {
	r := ruleOf("r")
	if r.Variant(1) != nil {
		t.Error("a rule without variants has one")
	}
	v := &Variant{ChainKey: "k"}
	r.SetVariants(map[Mask]*Variant{3: v})
	if r.Variant(3) != v || r.Variant(1) != nil {
		t.Error("Variant does not return what SetVariants was given")
	}
}

func TestChainNth(t *testing.T) {
	a, b := served("n/a", "openai"), served("n/b", "openai")
	first, second := &Candidate{Backend: a, Model: "m1"}, &Candidate{Backend: b}
	third := &Candidate{Backend: a, Model: "m2"}
	c := &Chain{Candidates: []*Candidate{first, second, third}}
	for _, x := range []struct {
		backend string
		n       int
		want    *Candidate
	}{
		{"n/a", 0, first}, {"n/a", 1, third}, {"n/a", 2, third}, {"n/a", 99, third},
		{"n/b", 0, second}, {"n/b", 1, second}, {"n/c", 0, nil}, {"", 0, nil},
	} {
		if got := c.Nth(x.backend, x.n); got != x.want {
			t.Errorf("Nth(%q, %d) = %+v, want %+v", x.backend, x.n, got, x.want)
		}
	}
}

func TestUpstreamModel(t *testing.T) {
	b := &Backend{Models: map[string]string{"gpt": "gpt-4o-2024", "same": "same"}}
	for _, c := range []struct{ alias, asked, want string }{
		{"", "gpt", "gpt-4o-2024"}, {"", "same", "same"}, {"", "unknown", "unknown"},
		{"gpt", "alias", "gpt-4o-2024"}, {"other", "alias", "other"},
	} {
		if got := (&Candidate{Backend: b, Model: c.alias}).UpstreamModel(c.asked); got != c.want {
			t.Errorf("alias %q, asked %q: got %q, want %q", c.alias, c.asked, got, c.want)
		}
	}
	if got := (&Candidate{Backend: &Backend{}}).UpstreamModel("m"); got != "m" {
		t.Errorf("a backend of any model calls m %q", got)
	}
}

// TestUpstreamModels: it is the same whatever the weights, and however many backends serve a model by one name; another when the name
// stands for something else.
func TestUpstreamModels(t *testing.T) {
	azure := &Backend{Models: map[string]string{"gpt": "eu-gpt"}}
	for _, c := range []struct {
		name, model string
		rule        *Rule
		want        []string
	}{
		{"one", "gpt", ruleOf("r", &Candidate{Backend: azure}), []string{"eu-gpt"}},
		{"any model", "x", ruleOf("r", &Candidate{Backend: served("n/any", "openai")}), []string{"x"}},
		{"twice", "m", ruleOf("r", &Candidate{Backend: served("n/a", "openai", "m")}, &Candidate{Backend: served("n/b", "openai", "m"), Weight: 5}), []string{"m"}},
		{"an alias", "fast", ruleOf("r", &Candidate{Backend: served("n/a", "openai", "z"), Model: "z"}, &Candidate{Backend: served("n/b", "openai", "a"), Model: "a"}), []string{"a", "z"}},
		{"one that does not serve it", "m", ruleOf("r", &Candidate{Backend: served("n/a", "openai", "m")}, &Candidate{Backend: served("n/b", "openai", "other")}), []string{"m"}},
		{"nobody", "gpt-5", ruleOf("r", &Candidate{Backend: azure}), nil},
	} {
		if got := c.rule.UpstreamModels(c.model); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestModelsFor(t *testing.T) {
	gpt, claude := served("n/gpt", "openai", "gpt-4o", "gpt-5"), served("n/claude", "anthropic", "claude")
	listed := ruleOf("listed", &Candidate{Backend: gpt}, &Candidate{Backend: claude})
	alias := ruleOf("alias", &Candidate{Backend: claude, Model: "claude"})
	secret := ruleOf("secret", &Candidate{Backend: served("n/secret", "openai", "o1-secret")})
	secret.RequiredScopes = []string{"research"}
	labelled := ruleOf("labelled", &Candidate{Backend: served("n/lab", "openai", "lab-model")})
	globbed := ruleOf("globbed", &Candidate{Backend: served("n/glob", "openai", "qwen-plus", "other")})
	unserved := ruleOf("unserved", &Candidate{Backend: claude})

	var b Builder
	for _, a := range []struct {
		r *Rule
		m Match
	}{
		{listed, Match{}}, {alias, Match{Models: []string{"smart", "fast"}}}, {secret, Match{}},
		{labelled, Match{Labels: map[string]string{"team": "lab"}}}, {globbed, Match{Models: []string{"qwen-*"}}},
		{unserved, Match{Models: []string{"nobody-serves-this"}}},
	} {
		if err := b.Add(a.r, a.m); err != nil {
			t.Fatal(err)
		}
	}
	tbl := &Table{Created: 1700000000}
	b.Build(tbl)

	for _, c := range []struct {
		name string
		id   identity.Identity
		want []string
	}{
		{"anybody", identity.Identity{}, []string{"claude", "fast", "gpt-4o", "gpt-5", "qwen-plus", "smart"}},
		{"with scope", identity.Identity{Scopes: []string{"research"}}, []string{"claude", "fast", "gpt-4o", "gpt-5", "o1-secret", "qwen-plus", "smart"}},
		{"with label", identity.Identity{Labels: map[string]string{"team": "lab"}}, []string{"claude", "fast", "gpt-4o", "gpt-5", "lab-model", "qwen-plus", "smart"}},
		{"with other label", identity.Identity{Labels: map[string]string{"team": "x"}}, []string{"claude", "fast", "gpt-4o", "gpt-5", "qwen-plus", "smart"}},
		{"narrowed", identity.Identity{Models: []*identity.Patterns{patterns(t, "gpt-*", "smart")}}, []string{"gpt-4o", "gpt-5", "smart"}},
		{"narrowed twice", identity.Identity{Models: []*identity.Patterns{patterns(t, "gpt-*"), patterns(t, "*-5")}}, []string{"gpt-5"}},
		{"nothing", identity.Identity{Models: []*identity.Patterns{patterns(t, "none")}}, []string{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			for _, m := range tbl.ModelsFor(&c.id, "") {
				got = append(got, m.ID)
				if m.Created != 1700000000 {
					t.Errorf("%s: created %d", m.ID, m.Created)
				}
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}

	owners := map[string]string{}
	for _, m := range tbl.ModelsFor(&identity.Identity{}, "") {
		owners[m.ID] = m.Owner
	}
	for model, want := range map[string]string{"gpt-4o": "n/gpt", "claude": "n/claude", "smart": "n/claude"} {
		if owners[model] != want {
			t.Errorf("%s is owned by %q, want %q", model, owners[model], want)
		}
	}
	if list := built(t, nil, nil).ModelsFor(&identity.Identity{}, ""); list == nil || len(list) != 0 {
		t.Errorf("an empty table lists %v; it must be an empty list, which prints as []", []canon.Model(list))
	}
}
