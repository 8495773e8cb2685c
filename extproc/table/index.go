package table

import (
	"cmp"
	"slices"
	"strings"

	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/internal/cow"
)

// Entry is a match with its rule. A match makes one of all its exact models, and one of each pattern, because each
// ranks by itself. It is immutable, and tables may share it.
type Entry struct {
	Match
	rule     *Rule
	patterns *identity.Patterns // nil where the entry names models exactly, or none
	exact    bool
	part     int // of its match
	rank     rank
}

// rank is the beginning of an entry's precedence, in numbers: the smaller comes first.
type rank struct{ place, models uint64 }

// Entries makes the entries of a rule under one of its matches. The error speaks of a model pattern.
func Entries(rule *Rule, m Match) ([]*Entry, error) {
	var exact, globs []string
	for _, name := range m.Models {
		if strings.Contains(name, "*") {
			globs = append(globs, name)
		} else {
			exact = append(exact, name)
		}
	}
	var out []*Entry
	add := func(models []string, patterns *identity.Patterns) {
		e := &Entry{Match: m, rule: rule, patterns: patterns, exact: len(models) > 0 && patterns == nil, part: len(out)}
		e.Models = models
		e.rank = e.ranked()
		out = append(out, e)
	}
	if len(exact) > 0 {
		add(exact, nil)
	}
	for i := range globs {
		p, err := identity.NewPatterns(globs[i : i+1])
		if err != nil {
			return nil, err
		}
		add(globs[i:i+1:i+1], p)
	}
	if len(m.Models) == 0 {
		add(nil, nil)
	}
	return out, nil
}

// ranked puts what decides about precedence first into numbers: it is compared on the path of requests.
func (e *Entry) ranked() rank {
	// The fields are wider than what the API types let in.
	var place, models uint64
	more := func(into *uint64, n, bits int) { *into = *into<<bits | uint64(1<<bits-1-min(n, 1<<bits-1)) }
	yes := func(into *uint64, b bool) {
		n := 0
		if b {
			n = 1
		}
		more(into, n, 1)
	}
	yes(&place, e.PathExact)
	more(&place, len(strings.TrimSuffix(e.Path, "/")), 30)
	yes(&place, e.Method != "")
	more(&place, len(e.Headers), 16)
	more(&place, len(e.Query), 16)
	yes(&models, e.exact)
	yes(&models, e.patterns != nil)
	more(&models, longest(e.Models), 30)
	more(&models, len(e.Labels), 30)
	return rank{place, models}
}

// compare orders by precedence, as the API type Route documents it; the more specific comes first.
func compare(a, b *Entry) int {
	switch {
	case a == b:
		return 0
	case a.rank.place != b.rank.place:
		return cmp.Compare(a.rank.place, b.rank.place)
	case a.rank.models != b.rank.models:
		return cmp.Compare(a.rank.models, b.rank.models)
	}
	return cmp.Or(
		a.Created.Compare(b.Created),
		strings.Compare(a.RouteOrder, b.RouteOrder),
		cmp.Compare(a.Order, b.Order),
		cmp.Compare(a.part, b.part),
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

// Index finds entries: every list is in the order of precedence. It is immutable; nil is empty.
type Index struct {
	entries []*Entry
	byModel cow.Map[[]*Entry] // entries that name a model exactly, by that model
	generic []*Entry          // entries with patterns or without models
}

var noEntries = &Index{}

// With gives an Index of other entries: without those that are gone, which must be in x, and with those that are new. What it costs beyond
// copies of pointers does not depend on the entries that stay.
func (x *Index) With(added, gone []*Entry) *Index {
	if x == nil {
		x = noEntries
	}
	if len(added) == 0 && len(gone) == 0 {
		return x
	}
	added, gone = sorted(added), sorted(gone)
	out := &Index{entries: merged(x.entries, added, gone)}
	if len(added)+len(gone) > len(out.entries)/4 {
		var byModel cow.Edit[[]*Entry]
		for _, e := range out.entries {
			if !e.exact {
				out.generic = append(out.generic, e)
				continue
			}
			for _, m := range e.Models {
				byModel.Set(m, append(byModel.Get(m), e))
			}
		}
		out.byModel = byModel.Map()
		return out
	}
	type change struct{ added, gone []*Entry }
	var generic change
	byModel := map[string]*change{}
	each := func(list []*Entry, note func(*change, *Entry)) {
		for _, e := range list {
			if !e.exact {
				note(&generic, e)
				continue
			}
			for _, m := range e.Models {
				if byModel[m] == nil {
					byModel[m] = &change{}
				}
				note(byModel[m], e)
			}
		}
	}
	each(added, func(c *change, e *Entry) { c.added = append(c.added, e) })
	each(gone, func(c *change, e *Entry) { c.gone = append(c.gone, e) })
	out.generic = x.generic
	if len(generic.added)+len(generic.gone) > 0 {
		out.generic = merged(x.generic, generic.added, generic.gone)
	}
	of := x.byModel.Edit()
	for m, c := range byModel {
		if list := merged(x.byModel.Get(m), c.added, c.gone); len(list) > 0 {
			of.Set(m, list)
		} else {
			of.Delete(m)
		}
	}
	out.byModel = of.Map()
	return out
}

func sorted(list []*Entry) []*Entry {
	list = slices.Clone(list)
	slices.SortStableFunc(list, compare)
	return list
}

// merged is a list with some entries more and others less; all lists are sorted. Of equals those that were there come first.
func merged(list, added, gone []*Entry) []*Entry {
	out := make([]*Entry, 0, max(0, len(list)+len(added)-len(gone)))
	for len(added) > 0 || len(gone) > 0 {
		if len(gone) > 0 && (len(added) == 0 || compare(gone[0], added[0]) <= 0) {
			n, _ := slices.BinarySearchFunc(list, gone[0], compare)
			for n < len(list) && list[n] != gone[0] { // behind its equals
				n++
			}
			out = append(out, list[:n]...)
			list, gone = list[min(n+1, len(list)):], gone[1:]
			continue
		}
		n, _ := slices.BinarySearchFunc(list, added[0], func(e, wanted *Entry) int {
			if compare(e, wanted) <= 0 {
				return -1
			}
			return 1
		})
		out = append(append(out, list[:n]...), added[0])
		list, added = list[n:], added[1:]
	}
	return append(out, list...)
}

// Use gives the table its entries. It is part of building a table.
func (t *Table) Use(x *Index) {
	if x == nil {
		x = noEntries
	}
	t.index = x
}

// Builder collects rules. It is not safe for concurrent use.
type Builder struct {
	entries []*Entry
}

// Add adds a rule under one of its matches. The error speaks of a model pattern.
func (b *Builder) Add(rule *Rule, m Match) error {
	list, err := Entries(rule, m)
	b.entries = append(b.entries, list...)
	return err
}

// Build sorts the rules by precedence and lays them out in t.
func (b *Builder) Build(t *Table) { t.Use((*Index)(nil).With(b.entries, nil)) }
