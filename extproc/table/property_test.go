package table

import (
	"fmt"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"testing"
	"time"
)

// naiveFind scans every match of every rule and keeps the best, by a rank that is written down once more here: no
// index, no merged lists, no sorting of the rules beforehand.
func naiveFind(rules []*Rule, all []Match, r *Request) *Rule {
	var best *Rule
	var bestRank []string
	for i := range all {
		for _, model := range modelsOf(all[i]) {
			if !naiveMatches(&all[i], model, r) {
				continue
			}
			if rank := naiveRank(&all[i], model); best == nil || slices.Compare(rank, bestRank) < 0 {
				best, bestRank = rules[i], rank
			}
		}
	}
	return best
}

// modelsOf gives each alternative of a match; "" where it names none.
func modelsOf(m Match) []string {
	if len(m.Models) == 0 {
		return []string{""}
	}
	return m.Models
}

func naiveMatches(m *Match, model string, r *Request) bool {
	if m.Method != "" && m.Method != r.Method {
		return false
	}
	if m.PathExact && r.Path != m.Path {
		return false
	}
	if want := strings.TrimSuffix(m.Path, "/"); !m.PathExact && r.Path != want && !strings.HasPrefix(r.Path, want+"/") {
		return false
	}
	if model != "" {
		// The names of this test hold nothing that path.Match reads otherwise.
		if ok, err := path.Match(model, r.Model); err != nil || !ok || r.Model == "" {
			return false
		}
	}
	for _, h := range m.Headers {
		if got, ok := r.Header(h.Name); !ok || got != h.Value {
			return false
		}
	}
	for _, q := range m.Query {
		if !slices.Contains(strings.Split(r.Query, "&"), q.Name+"="+q.Value) {
			return false
		}
	}
	for k, v := range m.Labels {
		if r.Labels[k] != v {
			return false
		}
	}
	return true
}

// naiveRank gives words that sort as the documented order does, the most specific first.
func naiveRank(m *Match, model string) []string {
	first := func(yes bool) string { return map[bool]string{true: "0", false: "1"}[yes] }
	most := func(n int) string { return fmt.Sprintf("%06d", 999999-n) }
	glob := strings.Contains(model, "*")
	patternLength := 0
	if glob {
		patternLength = len(model)
	}
	return []string{
		first(m.PathExact), most(len(strings.TrimSuffix(m.Path, "/"))), first(m.Method != ""),
		most(len(m.Headers)), most(len(m.Query)), first(model != "" && !glob), first(glob), most(patternLength),
		most(len(m.Labels)), m.Created.UTC().Format("20060102150405"), m.RouteOrder, fmt.Sprintf("%06d", m.Order),
	}
}

// pick draws an element.
func choose[T any](rng *rand.Rand, list ...T) T { return list[rng.IntN(len(list))] }

func randomMatch(rng *rand.Rand, i int) Match {
	m := Match{
		Path: choose(rng, "", "", "/", "/v1", "/v1/", "/v1/chat", "/team/v1"), Method: choose(rng, "", "", "", "POST", "GET"),
		Created: epoch.Add(time.Duration(rng.IntN(3)) * time.Hour), RouteOrder: choose(rng, "a/a", "a/b", "b/a"), Order: i,
	}
	if m.Path != "" {
		m.PathExact = rng.IntN(4) == 0
	}
	for _, name := range []string{"x", "y"} {
		if rng.IntN(5) == 0 {
			m.Headers = append(m.Headers, ValueMatch{Name: name, Value: choose(rng, "1", "2")})
		}
		if rng.IntN(6) == 0 {
			m.Query = append(m.Query, ValueMatch{Name: name, Value: choose(rng, "1", "2")})
		}
		if rng.IntN(5) == 0 {
			if m.Labels == nil {
				m.Labels = map[string]string{}
			}
			m.Labels[name] = choose(rng, "1", "2")
		}
	}
	for range rng.IntN(4) {
		m.Models = append(m.Models, choose(rng, "a", "b", "ab", "abc", "a*", "ab*", "*c", "*", "a*c"))
	}
	slices.Sort(m.Models)
	m.Models = slices.Compact(m.Models)
	return m
}

func randomRequest(rng *rand.Rand) *Request {
	r := &Request{
		Method: choose(rng, "POST", "POST", "GET"), Path: choose(rng, "/v1", "/v1/chat", "/v1/chat/completions", "/team/v1/x", "/v10"),
		Model: choose(rng, "", "a", "b", "ab", "abc", "c", "zzz"), Labels: map[string]string{},
	}
	var h, q []string
	for _, name := range []string{"x", "y"} {
		if rng.IntN(2) == 0 {
			h = append(h, name, choose(rng, "1", "2"))
		}
		if rng.IntN(2) == 0 {
			q = append(q, name+"="+choose(rng, "1", "2"))
		}
		if rng.IntN(2) == 0 {
			r.Labels[name] = choose(rng, "1", "2")
		}
	}
	r.Header, r.Query = headers(h...), strings.Join(q, "&")
	return r
}

// TestFindEqualsLinearScan compares Find with a scan that shares nothing with it.
func TestFindEqualsLinearScan(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 1))
		var b Builder
		var rules []*Rule
		var all []Match
		for i := range 1 + rng.IntN(60) {
			rule, m := &Rule{Name: fmt.Sprint(i)}, randomMatch(rng, i)
			rules, all = append(rules, rule), append(all, m)
			if err := b.Add(rule, m); err != nil {
				t.Fatal(err)
			}
		}
		tbl := &Table{}
		b.Build(tbl)
		for range 60 {
			r := randomRequest(rng)
			if got, want := tbl.Find(r), naiveFind(rules, all, r); got != want {
				t.Fatalf("seed %d, request %+v: got %+v, want %+v", seed, r, got, want)
			}
		}
	}
}
