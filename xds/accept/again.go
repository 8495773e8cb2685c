package accept

import (
	"maps"
	"slices"

	"github.com/weir-dev/weir/xds/compile"
	"github.com/weir-dev/weir/xds/source"
)

// outcome is how the objects of a reading were settled. While the first compilation finds the same of the same objects, whoever contradicts
// whom is the same, and so is who is refused.
type outcome struct {
	given   map[source.ObjectRef]Kept // refused because of what the source said
	byAge   bool                      // how that compilation was ordered
	found   []source.Problem          // what it found of objects with Errors
	blamed  map[source.ObjectRef]source.Object
	refused map[source.ObjectRef]Kept
	noted   map[source.ObjectRef][]source.Problem
}

// outcomeOf begins to remember what the first compilation found.
func (r *round) outcomeOf(given map[source.ObjectRef]Kept, found []source.Problem, byAge bool) *outcome {
	o := &outcome{given: given, byAge: byAge, found: ofBlamed(found), blamed: map[source.ObjectRef]source.Object{}}
	for _, p := range o.found {
		o.blamed[p.Object] = r.current[p.Object]
	}
	for ref := range given {
		o.blamed[ref] = r.current[ref]
	}
	return o
}

// end completes what is remembered of a round; nil where its outcome follows from more than what the first compilation found: where an object
// was refused only later, or is left out because its older generation was wrong too.
func (r *round) end() *outcome {
	o := r.outcome
	if o == nil || r.twice {
		return nil
	}
	for ref := range r.refused {
		if o.blamed[ref] == nil {
			return nil
		}
	}
	o.refused, o.noted = r.refused, r.noted
	return o
}

// again settles a reading as the last one was settled; nil where it is another case.
func (r *round) again() (*compile.Version, *source.Objects) {
	o := r.keeper.outcome
	if o == nil || !maps.Equal(o.given, r.refused) {
		return nil, nil
	}
	for ref, was := range o.blamed {
		if r.current[ref] != was {
			return nil, nil
		}
	}
	order := older
	if !o.byAge {
		order = nil
	}
	_, found := r.compile(r.build(order))
	if !slices.Equal(ofBlamed(found), o.found) {
		return nil, nil
	}
	given := r.refused
	r.refused = maps.Clone(o.refused)
	set := r.build(nil)
	version, rest := r.compile(set)
	if version == nil {
		r.refused = given
		return nil, nil
	}
	for ref := range o.refused {
		if o.given[ref] == 0 {
			r.problems = append(r.problems, o.noted[ref]...)
		}
	}
	r.note(rest)
	r.outcome, r.noted = o, o.noted
	return version, set
}

// ofBlamed are the problems of objects that an Error names, also what is odd about them besides: it is told of them as it was then.
func ofBlamed(found []source.Problem) []source.Problem {
	blamed := map[source.ObjectRef]bool{}
	for _, p := range found {
		if p.Severity == source.Error {
			blamed[p.Object] = true
		}
	}
	var out []source.Problem
	for _, p := range found {
		if blamed[p.Object] {
			out = append(out, p)
		}
	}
	source.SortProblems(out)
	return out
}
