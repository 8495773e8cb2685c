// Package adapters lists the dialects that Weir speaks and finds the one that a request path means.
// A provider is one folder below this one and one line in Catalog; README.md is the tutorial.
package adapters

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/weir-dev/weir/adapters/anthropic"
	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/dashscope"
	"github.com/weir-dev/weir/adapters/openai"
)

// Catalog is every dialect there is. Their order says who is asked first where nothing else decides.
func Catalog() []canon.Dialect {
	return []canon.Dialect{
		openai.Dialect(),
		anthropic.Dialect(),
		dashscope.Dialect(),
	}
}

// Set is a checked list of dialects. It never changes: it is safe for concurrent use.
type Set struct {
	dialects []canon.Dialect
	patterns []pattern
	fallback *canon.Dialect // whose errors a path gets that says nothing; nil without inbound dialects
}

// pattern is one path that clients may ask for.
type pattern struct {
	text     string // Root + Path; of a path with {model}, what stands before it, slash included
	model    bool
	dialect  *canon.Dialect
	endpoint *canon.Endpoint
}

// modelSegment stands for one path segment that is a model's name.
const modelSegment = "/{model}"

// NewSet checks the dialects against the rules of canon.Dialect and each other.
func NewSet(dialects ...canon.Dialect) (*Set, error) {
	if len(dialects) == 0 {
		return nil, errors.New("a set of dialects must not be empty")
	}
	s := &Set{dialects: slices.Clone(dialects)}
	for i := range s.dialects {
		d := &s.dialects[i]
		if slices.ContainsFunc(s.dialects[:i], func(o canon.Dialect) bool { return o.Name == d.Name }) {
			return nil, fmt.Errorf("dialect %q is listed twice", d.Name)
		}
		if err := check(d); err != nil {
			return nil, fmt.Errorf("dialect %q: %w", d.Name, err)
		}
		if d.In == nil {
			continue
		}
		if s.fallback == nil || s.fallback.Header != "" && d.Header == "" {
			s.fallback = d
		}
		for k := range d.Endpoints {
			e := &d.Endpoints[k]
			p := pattern{text: d.Root + e.Path, dialect: d, endpoint: e}
			if head, ok := strings.CutSuffix(p.text, modelSegment); ok {
				p.text, p.model = head+"/", true
			}
			s.patterns = append(s.patterns, p)
		}
	}
	return s, nil
}

func check(d *canon.Dialect) error {
	if d.Name == "" || strings.Trim(d.Name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return errors.New("the name must be lower-case letters, digits and hyphens")
	}
	if d.In == nil && d.Out == nil {
		return errors.New("it needs In, Out or both")
	}
	if d.Root != "" && !isPath(d.Root) {
		return fmt.Errorf("root %q must start with a slash and not end with one", d.Root)
	}
	if len(d.Endpoints) == 0 {
		return errors.New("it has no endpoints")
	}
	if strings.ToLower(d.Header) != d.Header {
		return fmt.Errorf("header %q must be lower case", d.Header)
	}
	for i, e := range d.Endpoints {
		if !isPath(e.Path) || strings.Contains(strings.TrimSuffix(e.Path, modelSegment), "{") {
			return fmt.Errorf("endpoint path %q must start with a slash, not end with one, and have {model} only as its last segment", e.Path)
		}
		if e.Op == "" || e.Method == "" || strings.ToUpper(e.Method) != e.Method {
			return fmt.Errorf("endpoint %s needs an operation and a method in capitals", e.Path)
		}
		for _, o := range d.Endpoints[:i] {
			if o.Method == e.Method && o.Path == e.Path {
				return fmt.Errorf("endpoint %s %s is listed twice", e.Method, e.Path)
			}
		}
	}
	return nil
}

func isPath(s string) bool {
	return strings.HasPrefix(s, "/") && !strings.HasSuffix(s, "/")
}

// Get finds a dialect by the word that Backend.spec.dialect has.
func (s *Set) Get(name string) (canon.Dialect, bool) {
	for i := range s.dialects {
		if s.dialects[i].Name == name {
			return s.dialects[i], true
		}
	}
	return canon.Dialect{}, false
}

// Names lists the dialects in their order.
func (s *Set) Names() []string {
	names := make([]string, len(s.dialects))
	for i := range s.dialects {
		names[i] = s.dialects[i].Name
	}
	return names
}

// Outcome is how far a path was understood.
type Outcome uint8

// The outcomes.
const (
	Unknown     Outcome = iota // 404: no dialect has the path
	WrongMethod                // 405: Match.Allow has the methods
	Found
)

// Match is what a request's method and path mean.
type Match struct {
	Outcome Outcome
	// Dialect is never nil in a set that has an inbound dialect: for an Unknown path it is the one
	// in whose shape the error is best told.
	Dialect  *canon.Dialect
	Endpoint *canon.Endpoint // nil when Unknown; when WrongMethod, one with the path
	Prefix   string          // what the client's base URL has before Dialect.Root: "/team-a", or ""
	Model    string          // the {model} segment, percent-decoded; "" where there is none
	Allow    []string        // when WrongMethod
}

// Classify finds the endpoint that a request means. The path comes without query, as the client
// sent it; header gives a request header by its lower-case name, "" where absent.
//
// The end of the path decides and its beginning is free, so that a base URL may have any prefix; of
// several endpoints the longest wins, and of equals the dialect whose Header is there, else one that
// has no such Header. One trailing slash is ignored. Everything else is compared byte by byte:
// upper case, doubled slashes and percent-encoded letters make a path unknown, because a provider
// might read them otherwise than Weir. Only a {model} segment is decoded.
//
// Classify allocates nothing for a path that it finds, unless the model is percent-encoded.
func (s *Set) Classify(method, path string, header func(name string) string) Match {
	if len(path) > 1 {
		path = strings.TrimSuffix(path, "/")
	}
	best := Match{}
	length := 0
	tie := false // best is not the only dialect with that path
	for i := range s.patterns {
		p := &s.patterns[i]
		prefix, model, ok := p.match(path)
		if !ok {
			continue
		}
		n := len(path) - len(prefix)
		outcome := WrongMethod
		if p.endpoint.Method == method {
			outcome = Found
		}
		switch {
		case n < length || n == length && outcome < best.Outcome:
		case n == length && outcome == best.Outcome:
			tie = tie || p.dialect != best.Dialect
		default:
			best = Match{Outcome: outcome, Dialect: p.dialect, Endpoint: p.endpoint, Prefix: prefix, Model: model}
			length, tie = n, false
		}
	}
	if best.Outcome == Unknown {
		best.Dialect = s.guess(path, header)
		return best
	}
	if tie {
		s.settle(&best, path, length, header)
	}
	if best.Outcome == WrongMethod {
		best.Allow = s.methods(path, length, best.Dialect)
	}
	if strings.IndexByte(best.Model, '%') >= 0 {
		model, err := url.PathUnescape(best.Model)
		if err != nil {
			return Match{Dialect: best.Dialect}
		}
		best.Model = model
	}
	return best
}

// match compares the end of a path.
func (p *pattern) match(path string) (prefix, model string, ok bool) {
	if p.model {
		slash := strings.LastIndexByte(path, '/') + 1
		path, model = path[:slash], path[slash:]
		if model == "" {
			return "", "", false
		}
	}
	prefix, ok = strings.CutSuffix(path, p.text)
	return prefix, model, ok && !strings.HasSuffix(prefix, "/") && (prefix == "" || prefix[0] == '/')
}

// settle picks the dialect of a path that several have, by their headers.
func (s *Set) settle(best *Match, path string, length int, header func(string) string) {
	var chosen, plain *pattern
	for i := range s.patterns {
		p := &s.patterns[i]
		prefix, _, ok := p.match(path)
		if !ok || len(path)-len(prefix) != length ||
			best.Outcome == Found && p.endpoint.Method != best.Endpoint.Method {
			continue
		}
		switch {
		case p.dialect.Header == "":
			if plain == nil {
				plain = p
			}
		case chosen == nil && header(p.dialect.Header) != "":
			chosen = p
		}
	}
	if chosen == nil {
		chosen = plain
	}
	if chosen != nil {
		best.Dialect, best.Endpoint = chosen.dialect, chosen.endpoint
	}
}

// methods lists what a dialect allows on a path, sorted.
func (s *Set) methods(path string, length int, d *canon.Dialect) []string {
	var list []string
	for i := range s.patterns {
		p := &s.patterns[i]
		if prefix, _, ok := p.match(path); ok && p.dialect == d && len(path)-len(prefix) == length {
			list = append(list, p.endpoint.Method)
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// guess picks the dialect that an unknown path's error is told in: the one whose header is there,
// else the only one that has a path with which this one begins (/v1/messages/batches), else the
// fallback.
func (s *Set) guess(path string, header func(string) string) *canon.Dialect {
	for i := range s.dialects {
		if d := &s.dialects[i]; d.In != nil && d.Header != "" && header(d.Header) != "" {
			return d
		}
	}
	var found *canon.Dialect
	for i := range s.patterns {
		p := &s.patterns[i]
		if !strings.Contains(path, p.text) {
			continue
		}
		if found != nil && found != p.dialect {
			return s.fallback
		}
		found = p.dialect
	}
	if found == nil {
		return s.fallback
	}
	return found
}
