// Package shape checks a JSON tree against a description of what an API accepts. The descriptions
// are data, one table per request; the words of the error are left to each dialect, because every
// provider complains in its own way about the same mistake.
package shape

import (
	"math"
	"regexp"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/weir-dev/weir/test/sim/internal/jsontree"
)

// Type describes the values allowed at one place. Kinds is a set: a description may hold for a
// string and for a list at once, each with its own limits.
type Type struct {
	// Kinds are the JSON types allowed.
	Kinds jsontree.Kind
	// Enum, when set, lists the strings allowed.
	Enum []string
	// Pattern, when set, must match a string.
	Pattern *regexp.Regexp
	// MinLen and MaxLen bound a string in runes; MaxLen 0 means no bound.
	MinLen, MaxLen int
	// Low and High bound a number; nil means no bound. The Open ones exclude the bound itself.
	Low, High         *float64
	LowOpen, HighOpen bool
	// Items describes list elements, MinItems and MaxItems their number; MaxItems 0 means no bound.
	Items              *Type
	MinItems, MaxItems int
	// Fields are an object's members. Loose allows others too; Values describes those others.
	Fields []Field
	Loose  bool
	Values *Type
	// MaxMembers bounds the members of an object; 0 means no bound.
	MaxMembers int
	// Tag names the member whose string selects one of Variants. Other, when set, takes unlisted tags.
	Tag      string
	Variants map[string]*Type
	Other    *Type
}

// Field is a member of an object. An optional member may be null, which counts as absent.
type Field struct {
	Name     string
	Type     *Type
	Required bool
}

// What is the class of a problem.
type What uint8

// The classes.
const (
	Missing   What = iota // a required member is absent
	WrongType             // the JSON type is not allowed
	Unknown               // a member that the API does not know
	NotListed             // a string outside its enumeration, or an unknown tag
	TooLow                // a number under its bound
	TooHigh               // a number over its bound
	TooShort              // a string under its length
	TooLong               // a string over its length
	TooFew                // a list with too few elements
	TooMany               // a list or object with too many
	NoMatch               // a string that does not match its pattern
)

// Problem is the first thing found wrong.
type Problem struct {
	What What
	// Path leads to the place: member names and list indexes.
	Path []any
	// Node is the offending value, nil when Missing.
	Node *jsontree.Node
	// Type is the description that was not met, nil when Unknown.
	Type *Type
	// Listed are the strings allowed when NotListed.
	Listed []string
}

// Name is the last member name of the path.
func (p *Problem) Name() string {
	for i := len(p.Path) - 1; i >= 0; i-- {
		if s, ok := p.Path[i].(string); ok {
			return s
		}
	}
	return ""
}

// Dotted writes the path as a.0.b.
func (p *Problem) Dotted() string { return Dotted(p.Path...) }

// Bracketed writes the path as a[0].b.
func (p *Problem) Bracketed() string {
	var b []byte
	for _, e := range p.Path {
		switch e := e.(type) {
		case int:
			b = append(append(strconv.AppendInt(append(b, '['), int64(e), 10), ']'), ""...)
		case string:
			if len(b) > 0 {
				b = append(b, '.')
			}
			b = append(b, e...)
		}
	}
	return string(b)
}

// Dotted writes a path of names and indexes as a.0.b.
func Dotted(path ...any) string {
	var b []byte
	for _, e := range path {
		if len(b) > 0 {
			b = append(b, '.')
		}
		switch e := e.(type) {
		case int:
			b = strconv.AppendInt(b, int64(e), 10)
		case string:
			b = append(b, e...)
		}
	}
	return string(b)
}

// Check returns the first problem of a value, or nil. It reads in the order of the body, after
// looking for missing members.
func Check(n *jsontree.Node, t *Type) *Problem { return check(n, t, nil) }

func check(n *jsontree.Node, t *Type, path []any) *Problem {
	bad := func(w What) *Problem {
		return &Problem{What: w, Path: slices.Clone(path), Node: n, Type: t}
	}
	kinds := t.Kinds
	if kinds&jsontree.Num != 0 {
		kinds |= jsontree.Int
	}
	if n.Kind&kinds == 0 {
		return bad(WrongType)
	}
	switch n.Kind {
	case jsontree.Str:
		return checkString(n, t, bad)
	case jsontree.Int, jsontree.Num:
		v := n.Float()
		if math.IsInf(v, 0) {
			return bad(TooHigh)
		}
		if t.Low != nil && (v < *t.Low || t.LowOpen && v == *t.Low) {
			return bad(TooLow)
		}
		if t.High != nil && (v > *t.High || t.HighOpen && v == *t.High) {
			return bad(TooHigh)
		}
	case jsontree.Arr:
		if len(n.Items) < t.MinItems {
			return bad(TooFew)
		}
		if t.MaxItems > 0 && len(n.Items) > t.MaxItems {
			return bad(TooMany)
		}
		if t.Items == nil {
			return nil
		}
		for i, it := range n.Items {
			if p := check(it, t.Items, append(path, i)); p != nil {
				return p
			}
		}
	case jsontree.Obj:
		return checkObject(n, t, path, bad)
	}
	return nil
}

func checkString(n *jsontree.Node, t *Type, bad func(What) *Problem) *Problem {
	runes := utf8.RuneCountInString(n.Text)
	switch {
	case t.Enum != nil && !slices.Contains(t.Enum, n.Text):
		p := bad(NotListed)
		p.Listed = t.Enum
		return p
	case runes < t.MinLen:
		return bad(TooShort)
	case t.MaxLen > 0 && runes > t.MaxLen:
		return bad(TooLong)
	case t.Pattern != nil && !t.Pattern.MatchString(n.Text):
		return bad(NoMatch)
	}
	return nil
}

func checkObject(n *jsontree.Node, t *Type, path []any, bad func(What) *Problem) *Problem {
	if t.Tag != "" {
		tag := n.Get(t.Tag)
		where := append(path, t.Tag)
		if tag == nil {
			return &Problem{What: Missing, Path: slices.Clone(where), Type: &Type{Kinds: jsontree.Str}}
		}
		if !tag.Is(jsontree.Str) {
			return &Problem{What: WrongType, Path: slices.Clone(where), Node: tag, Type: &Type{Kinds: jsontree.Str}}
		}
		v := t.Variants[tag.Text]
		if v == nil {
			v = t.Other
		}
		if v == nil {
			return &Problem{What: NotListed, Path: slices.Clone(where), Node: tag, Type: t, Listed: sorted(t.Variants)}
		}
		return check(n, v, path)
	}
	if t.MaxMembers > 0 && len(n.Members) > t.MaxMembers {
		return bad(TooMany)
	}
	for _, f := range t.Fields {
		if f.Required && n.Get(f.Name) == nil {
			return &Problem{What: Missing, Path: append(slices.Clone(path), f.Name), Type: f.Type}
		}
	}
	for _, m := range n.Members {
		where := append(path, m.Name)
		ft := t.field(m.Name)
		switch {
		case ft != nil:
			if m.Value.Kind == jsontree.Null {
				continue
			}
		case t.Values != nil:
			ft = t.Values
		case t.Loose:
			continue
		default:
			return &Problem{What: Unknown, Path: slices.Clone(where), Node: m.Value}
		}
		if p := check(m.Value, ft, where); p != nil {
			return p
		}
	}
	return nil
}

func (t *Type) field(name string) *Type {
	for i := range t.Fields {
		if t.Fields[i].Name == name {
			return t.Fields[i].Type
		}
	}
	return nil
}

func sorted(m map[string]*Type) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
