package table

import (
	"testing"
	"time"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/extproc/identity"
)

// epoch is when the Routes of these tests were made, unless they say otherwise.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// built lays out one rule for each match; the rule of matches[i] is named names[i].
func built(t testing.TB, names []string, matches []Match) *Table {
	t.Helper()
	var b Builder
	for i, m := range matches {
		if err := b.Add(&Rule{Name: names[i]}, m); err != nil {
			t.Fatalf("add %s: %v", names[i], err)
		}
	}
	tbl := &Table{}
	b.Build(tbl)
	return tbl
}

// matches says whether a table that has nothing but m finds it.
func matches(t *testing.T, m Match, r *Request) bool {
	t.Helper()
	return built(t, []string{"only"}, []Match{m}).Find(r) != nil
}

// request is a POST that asks for gpt-4o at the OpenAI path, changed by edits.
func request(edits ...func(*Request)) *Request {
	r := &Request{Method: "POST", Path: "/v1/chat/completions", Model: "gpt-4o", Header: headers()}
	for _, edit := range edits {
		edit(r)
	}
	return r
}

// headers makes Request.Header of name, value, name, value...
func headers(pairs ...string) func(string) (string, bool) {
	m := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = pairs[i+1]
	}
	return func(name string) (string, bool) {
		v, ok := m[name]
		return v, ok
	}
}

// served makes a backend of a dialect with models, none meaning any model.
func served(id, dialect string, models ...string) *Backend {
	b := &Backend{ID: id, Dialect: &canon.Dialect{Name: dialect}}
	for _, m := range models {
		if b.Models == nil {
			b.Models = map[string]string{}
		}
		b.Models[m] = m
	}
	return b
}

// ruleOf makes a rule that asks the backends in this order.
func ruleOf(name string, candidates ...*Candidate) *Rule {
	for i, c := range candidates {
		c.Bit = 1 << i
	}
	return &Rule{Name: name, Candidates: candidates}
}

func patterns(t *testing.T, list ...string) *identity.Patterns {
	t.Helper()
	p, err := identity.NewPatterns(list)
	if err != nil {
		t.Fatal(err)
	}
	return p
}
