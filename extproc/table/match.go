package table

import (
	"cmp"
	"iter"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/weir-dev/weir/extproc/identity"
)

// Match is one match of a rule.
type Match struct {
	Path       string // "" matches every path
	PathExact  bool
	Method     string // "" matches every method
	Headers    []ValueMatch
	Query      []ValueMatch
	Models     []string // exact names and patterns; empty matches every model, and none
	Labels     map[string]string
	Created    time.Time // of the Route; older wins
	RouteOrder string    // "namespace/name" of the Route
	Order      int       // of the match within its Route
}

// ValueMatch matches a header (Name in lower case) or a query parameter.
type ValueMatch struct {
	Name   string
	Value  string         // compared exactly where Regexp is nil
	Regexp *regexp.Regexp // must match the whole value: compile it anchored
}

func (v *ValueMatch) matches(got string) bool {
	if v.Regexp != nil {
		return v.Regexp.MatchString(got)
	}
	return got == v.Value
}

// Request is what rules are matched against.
type Request struct {
	Method string
	Path   string // without the query
	Query  string // raw
	Model  string
	Labels map[string]string
	// Header returns a header's value by its name in lower case, and whether it is there. Several lines
	// of one name are joined by ",".
	Header func(name string) (string, bool)
}

// entry is a match with its rule. A match makes one of all its exact models, and one of each pattern, because each
// ranks by itself.
type entry struct {
	Match
	rule     *Rule
	patterns *identity.Patterns // nil where the entry names models exactly, or none
	exact    bool
}

// Builder collects rules. It is not safe for concurrent use.
type Builder struct {
	entries []entry
}

// Add adds a rule under one of its matches. The error speaks of a model pattern.
func (b *Builder) Add(rule *Rule, m Match) error {
	var exact, globs []string
	for _, name := range m.Models {
		if strings.Contains(name, "*") {
			globs = append(globs, name)
		} else {
			exact = append(exact, name)
		}
	}
	if len(exact) > 0 {
		e := entry{Match: m, rule: rule, exact: true}
		e.Models = exact
		b.entries = append(b.entries, e)
	}
	for i := range globs {
		p, err := identity.NewPatterns(globs[i : i+1])
		if err != nil {
			return err
		}
		e := entry{Match: m, rule: rule, patterns: p}
		e.Models = globs[i : i+1]
		b.entries = append(b.entries, e)
	}
	if len(m.Models) == 0 {
		b.entries = append(b.entries, entry{Match: m, rule: rule})
	}
	return nil
}

// Build sorts the rules by precedence and lays them out in t.
func (b *Builder) Build(t *Table) {
	slices.SortStableFunc(b.entries, compare)
	t.entries = b.entries
	t.byModel = map[string][]int{}
	t.generic = nil
	for i := range t.entries {
		e := &t.entries[i]
		if !e.exact {
			t.generic = append(t.generic, i)
			continue
		}
		for _, m := range e.Models {
			t.byModel[m] = append(t.byModel[m], i)
		}
	}
}

// compare orders by precedence, as the API type Route documents it; the more specific comes first.
func compare(a, b entry) int {
	more := func(x, y int) int { return cmp.Compare(y, x) }
	yes := func(x, y bool) int {
		switch {
		case x == y:
			return 0
		case x:
			return -1
		}
		return 1
	}
	return cmp.Or(
		yes(a.PathExact, b.PathExact),
		more(len(strings.TrimSuffix(a.Path, "/")), len(strings.TrimSuffix(b.Path, "/"))),
		yes(a.Method != "", b.Method != ""),
		more(len(a.Headers), len(b.Headers)),
		more(len(a.Query), len(b.Query)),
		yes(a.exact, b.exact),
		yes(a.patterns != nil, b.patterns != nil),
		more(longest(a.Models), longest(b.Models)),
		more(len(a.Labels), len(b.Labels)),
		a.Created.Compare(b.Created),
		strings.Compare(a.RouteOrder, b.RouteOrder),
		cmp.Compare(a.Order, b.Order),
	)
}

// longest ranks patterns: "gpt-4*" is more specific than "*". Exact names are all equal.
func longest(models []string) int {
	n := 0
	for _, m := range models {
		if strings.Contains(m, "*") {
			n = max(n, len(m))
		}
	}
	return n
}

// Find returns the most specific rule that matches, or nil.
func (t *Table) Find(r *Request) *Rule {
	named, generic := t.byModel[r.Model], t.generic
	for len(named) > 0 || len(generic) > 0 {
		var i int
		if len(generic) == 0 || len(named) > 0 && named[0] < generic[0] {
			i, named = named[0], named[1:]
		} else {
			i, generic = generic[0], generic[1:]
		}
		if e := &t.entries[i]; e.matches(r) {
			return e.rule
		}
	}
	return nil
}

// matches checks everything but exact models, which the index has checked.
func (e *entry) matches(r *Request) bool {
	part, _ := e.mismatch(r)
	return part == ""
}

// mismatch is the first part of the match that the request does not fit, and its name where there are several of the kind: exact models
// apart. "" where it fits.
func (e *entry) mismatch(r *Request) (part Part, name string) {
	if e.Method != "" && e.Method != r.Method {
		return PartMethod, ""
	}
	if !pathMatches(e.Path, e.PathExact, r.Path) {
		return PartPath, ""
	}
	if e.patterns != nil && (r.Model == "" || !e.patterns.Match(r.Model)) {
		return PartModel, ""
	}
	for k, v := range e.Labels {
		if got, ok := r.Labels[k]; !ok || got != v {
			return PartLabel, k
		}
	}
	for i := range e.Headers {
		got, ok := r.Header(e.Headers[i].Name)
		if !ok || !e.Headers[i].matches(got) {
			return PartHeader, e.Headers[i].Name
		}
	}
	if len(e.Query) > 0 {
		q, err := url.ParseQuery(r.Query)
		if err != nil {
			return PartQuery, e.Query[0].Name
		}
		for i := range e.Query {
			got, ok := q[e.Query[i].Name]
			if !ok || !e.Query[i].matches(got[0]) {
				return PartQuery, e.Query[i].Name
			}
		}
	}
	return "", ""
}

// pathMatches compares whole segments: "/a" and "/a/" both match "/a" and "/a/b", not "/ab".
func pathMatches(want string, exact bool, got string) bool {
	if exact {
		return want == got
	}
	want = strings.TrimSuffix(want, "/")
	rest, ok := strings.CutPrefix(got, want)
	return ok && (rest == "" || rest[0] == '/')
}

// All gives every match with its rule, the most specific first. A rule comes once for each alternative of its matches.
func (t *Table) All() iter.Seq2[Match, *Rule] {
	return func(yield func(Match, *Rule) bool) {
		for i := range t.entries {
			if e := &t.entries[i]; !yield(e.Match, e.rule) {
				return
			}
		}
	}
}
