package table

import (
	"iter"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
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
	Gateways   []string  // whose requests it is for, "namespace/name"; nil: all
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
	Gateway string // that it came in by, "namespace/name"; "" where that is not known
	Method  string
	Path    string // without the query
	Query   string // raw
	Model   string
	Labels  map[string]string
	// Header returns a header's value by its name in lower case, and whether it is there. Several lines
	// of one name are joined by ",".
	Header func(name string) (string, bool)
}

// entries are all of the table, the most specific first.
func (t *Table) entries() []*Entry {
	if t.index == nil {
		return nil
	}
	return t.index.entries
}

// Find returns the most specific rule that matches, or nil.
func (t *Table) Find(r *Request) *Rule {
	if t.index == nil {
		return nil
	}
	named, generic := t.index.byModel.Get(r.Model), t.index.generic
	for len(named) > 0 || len(generic) > 0 {
		var e *Entry
		if len(generic) == 0 || len(named) > 0 && compare(named[0], generic[0]) < 0 {
			e, named = named[0], named[1:]
		} else {
			e, generic = generic[0], generic[1:]
		}
		if e.matches(r) {
			return e.rule
		}
	}
	return nil
}

// matches checks everything but exact models, which the index has checked.
func (e *Entry) matches(r *Request) bool {
	part, _ := e.mismatch(r)
	return part == ""
}

// mismatch is the first part of the match that the request does not fit, and its name where there are several of the kind: exact models
// apart. "" where it fits.
func (e *Entry) mismatch(r *Request) (part Part, name string) {
	if e.Method != "" && e.Method != r.Method {
		return PartMethod, ""
	}
	if !pathMatches(e.Path, e.PathExact, r.Path) {
		return PartPath, ""
	}
	if !e.serves(r.Gateway) {
		return PartGateway, ""
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

// AnyGateway stands for every LLMGateway, where a question is not about one of them.
const AnyGateway = "*"

// serves says whether the match is for requests of a gateway. One that is not known is none.
func (m *Match) serves(gateway string) bool {
	return m.Gateways == nil || gateway == AnyGateway || slices.Contains(m.Gateways, gateway)
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
		for _, e := range t.entries() {
			if !yield(e.Match, e.rule) {
				return
			}
		}
	}
}

// All gives every match with its rule, as Table.All does.
func (x *Index) All() iter.Seq2[Match, *Rule] { return (&Table{index: x}).All() }
