package accept

import (
	"cmp"
	"math"
	"slices"
	"strings"

	"github.com/weir-dev/weir/xds/compile"
	"github.com/weir-dev/weir/xds/source"
)

// patience is how many conflicts are settled one by one, each with a compilation. After so many, all objects that contradict others are
// refused at once, also one that would be right without another of them.
const patience = 64

// round is the work on one reading.
type round struct {
	keeper  *Keeper
	objs    *source.Objects
	compile CompileFunc
	current map[source.ObjectRef]source.Object

	refused  map[source.ObjectRef]Kept
	problems []source.Problem
	settled  int // conflicts
}

// readError notes an Error of the source. It returns false for one that no object can be blamed for.
func (r *round) readError(p source.Problem) bool {
	switch {
	case p.Object.Name == "":
		return false
	case r.current[p.Object] == nil && r.keeper.accepted[p.Object] == nil:
		return true // the source has left it out already
	case r.refused[p.Object] == 0:
		r.refuse(p.Object)
	}
	return true
}

// refuse replaces an object by its last accepted generation; at the second time, or where there is none, by nothing.
func (r *round) refuse(ref source.ObjectRef) {
	if r.refused[ref] == 0 && r.older(ref) != nil {
		r.refused[ref] = Older
		return
	}
	r.refused[ref] = LeftOut
}

// older is the last accepted generation of an object, nil where there is none that could be served in its place.
func (r *round) older(ref source.ObjectRef) source.Object {
	was, now := r.keeper.accepted[ref], r.current[ref]
	if was == nil || was == now || now != nil && (!sameObject(was, now) || !sameDiscovery(was, now)) {
		return nil
	}
	return was
}

// settle refuses objects until the others can be compiled.
func (r *round) settle() (*compile.Version, *source.Objects) {
	for {
		set := r.build(false)
		version, found := r.compile(set)
		if version != nil {
			r.note(found)
			return version, set
		}
		blamed := r.blame(found)
		if blamed.plain == nil && blamed.conflicts != nil {
			// Who comes second is blamed for a conflict, so those that were created first go first.
			_, found = r.compile(r.build(true))
			blamed = r.blame(found)
		}
		next := blamed.plain
		if next == nil {
			next = r.losers(blamed.conflicts)
		}
		if next == nil {
			r.note(found)
			r.noteBlameless(found)
			return nil, nil
		}
		for _, ref := range next {
			if r.refused[ref] == 0 {
				r.noteOf(ref, found)
			}
			r.refuse(ref)
		}
	}
}

// losers are the objects that lose the conflicts.
func (r *round) losers(conflicts []source.ObjectRef) []source.ObjectRef {
	if len(conflicts) == 0 {
		return nil
	}
	if r.settled++; r.settled > patience {
		return conflicts
	}
	// Only the first is known to contradict an object that stays: the others may contradict it.
	return []source.ObjectRef{slices.MinFunc(conflicts, func(a, b source.ObjectRef) int { return older(r.standing(a), r.standing(b)) })}
}

// standing is what stands for an object now.
func (r *round) standing(ref source.ObjectRef) source.Object {
	switch r.refused[ref] {
	case Older:
		return r.keeper.accepted[ref]
	case LeftOut:
		return nil
	}
	return r.current[ref]
}

// blamed are the objects that Errors name, those of the lowest rank only.
type blamed struct {
	plain     []source.ObjectRef // wrong, whatever others of their rank are
	conflicts []source.ObjectRef // contradict another
}

func (r *round) blame(found []source.Problem) blamed {
	lowest := math.MaxInt
	conflict := map[source.ObjectRef]bool{}
	for _, p := range found {
		if p.Severity != source.Error || r.standing(p.Object) == nil {
			continue
		}
		if at := rank(p.Object.Kind); at < lowest {
			lowest = at
			clear(conflict)
		} else if at > lowest {
			continue
		}
		only, seen := conflict[p.Object]
		conflict[p.Object] = p.Reason == source.ReasonConflict && (only || !seen)
	}
	var b blamed
	for ref, is := range conflict {
		if is {
			b.conflicts = append(b.conflicts, ref)
		} else {
			b.plain = append(b.plain, ref)
		}
	}
	return b
}

// rank orders kinds by what they refer to. Objects of a lower rank are settled first, because those of a higher one may be wrong only because
// of them.
func rank(kind string) int {
	switch kind {
	case "Route", "APIKey", "LoadPolicy":
		return 1 // they refer to Backends and Consumers
	case "LimitPolicy", "Budget":
		return 2 // and these to all of them
	}
	return 0
}

// older orders objects by age, then by namespace, name and kind.
func older(a, b source.Object) int {
	return cmp.Or(a.GetCreationTimestamp().Compare(b.GetCreationTimestamp().Time),
		strings.Compare(a.GetNamespace(), b.GetNamespace()), strings.Compare(a.GetName(), b.GetName()),
		strings.Compare(source.RefOf(a).Kind, source.RefOf(b).Kind))
}

// noteOf keeps what was found wrong with an object when it was refused.
func (r *round) noteOf(ref source.ObjectRef, found []source.Problem) {
	for _, p := range found {
		if p.Object == ref {
			r.problems = append(r.problems, p)
		}
	}
}

// noteBlameless keeps the Errors that name an object which is no part of what was compiled, so that refusing it does not help.
func (r *round) noteBlameless(found []source.Problem) {
	for _, p := range found {
		if r.refused[p.Object] == LeftOut {
			r.problems = append(r.problems, p)
		}
	}
}

// note keeps what was found with all others: that of a refused object would be about what stands for it.
func (r *round) note(found []source.Problem) {
	for _, p := range found {
		if r.refused[p.Object] == 0 {
			r.problems = append(r.problems, p)
		}
	}
}
