package identity

import (
	"fmt"
	"strings"
)

// maxPatternBytes is the longest model name or pattern, as in the API types.
const maxPatternBytes = 256

// Patterns is an allow-list of model names, in which "*" stands for any run of characters. Names are
// compared by case. It is immutable; a list without entries admits nothing.
type Patterns struct {
	exact map[string]struct{}
	globs []string
}

// NewPatterns compiles an allow-list.
func NewPatterns(list []string) (*Patterns, error) {
	p := &Patterns{exact: make(map[string]struct{}, len(list))}
	for _, s := range list {
		if s == "" || len(s) > maxPatternBytes || !printable(s) {
			return nil, fmt.Errorf("a model name or pattern has 1 to %d printable characters and no space at its ends", maxPatternBytes)
		}
		if strings.Contains(s, "*") {
			p.globs = append(p.globs, s)
		} else {
			p.exact[s] = struct{}{}
		}
	}
	return p, nil
}

// Match reports whether the list admits the name. Its time is bounded by the product of the two lengths.
func (p *Patterns) Match(name string) bool {
	if _, ok := p.exact[name]; ok {
		return true
	}
	for _, g := range p.globs {
		if globMatch(g, name) {
			return true
		}
	}
	return false
}

// globMatch matches greedily and goes back only to the last star: an earlier star never needs to take
// more, because the later one can take whatever is left.
func globMatch(pattern, name string) bool {
	p, n := 0, 0
	star, retry := -1, 0
	for n < len(name) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, retry = p, n
			p++
		case p < len(pattern) && pattern[p] == name[n]:
			p++
			n++
		case star >= 0:
			retry++
			p, n = star+1, retry
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}
