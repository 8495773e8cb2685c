package accept

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/weir-dev/weir/xds/compile"
	"github.com/weir-dev/weir/xds/source"
)

// patience is how many conflicts of objects that claim several things are settled one by one, each with two compilations. After so many, all
// that contradict an object that stays, or a younger one, are refused at once.
const patience = 8

// round is the work on one reading.
type round struct {
	keeper  *Keeper
	objs    *source.Objects
	compile CompileFunc
	current map[source.ObjectRef]source.Object

	refused  map[source.ObjectRef]Kept
	wrong    map[source.ObjectRef]bool // refused for more than a value that is missing
	problems []source.Problem
	settled  int  // conflicts
	twice    bool // an older generation was refused too

	held     map[source.ObjectRef]bool          // as Envoy serves them: they wait until others have been tried
	values   map[source.SecretKey]source.Secret // what stands for values that Envoy refuses, or that wait
	byEnvoy  []source.Problem                   // of objects that Envoy refuses
	ofValues []source.Problem                   // of objects that go on with an older value because Envoy refuses the new one

	noted   map[source.ObjectRef][]source.Problem // by the object that was refused for them
	outcome *outcome                              // to be remembered; nil for nothing
}

// readErrors notes the Errors of the source. It returns false where there are some that no object can be blamed for.
func (r *round) readErrors(problems []source.Problem) bool {
	r.blameMore(problems)
	blameable := true
	for _, p := range problems {
		switch {
		case p.Severity != source.Error:
		case p.Object.Name == "":
			blameable = false
		case r.current[p.Object] == nil && !r.isAccepted(p): // the source has left it out already
		case r.refused[p.Object] == 0:
			r.refuse(p.Object)
		}
	}
	return blameable
}

// isAccepted says whether the object that a problem of the source is about was accepted, and not one that had its name before.
func (r *round) isAccepted(p source.Problem) bool {
	was := r.keeper.accepted[p.Object]
	return was != nil && (p.UID == "" || was.GetUID() == "" || p.UID == was.GetUID())
}

// last is the generation of an object that may stand for it: the last one that was accepted, or the one that Envoy serves where it is to wait.
func (r *round) last(ref source.ObjectRef) source.Object {
	if r.held[ref] {
		return r.keeper.proven(ref)
	}
	return r.keeper.accepted[ref]
}

// blameMore notes which objects are wrong for more than a value that is missing.
func (r *round) blameMore(found []source.Problem) {
	for _, p := range found {
		if p.Severity == source.Error && p.Reason != source.ReasonSecretUnavailable {
			r.wrong[p.Object] = true
		}
	}
}

// refuse replaces an object by its last accepted generation; at the second time, or where there is none, by nothing, or by what lets nothing pass.
func (r *round) refuse(ref source.ObjectRef) {
	if r.refused[ref] == 0 && r.older(ref) != nil {
		r.refused[ref] = Older
		return
	}
	r.twice = r.twice || r.refused[ref] != 0
	if r.refused[ref] != Shut && limited(r.current[ref]) {
		r.refused[ref] = Shut
		return
	}
	r.refused[ref] = LeftOut
}

// older is the last accepted generation of an object, nil where there is none that could be served in its place. It is the same generation where
// only values are missing that may outlive their being read.
func (r *round) older(ref source.ObjectRef) source.Object {
	was, now := r.last(ref), r.current[ref]
	if was == nil || now != nil && (!sameObject(was, now) || !sameDiscovery(was, now)) {
		return nil
	}
	if now != nil && sameGeneration(was, now) && r.wrong[ref] {
		return nil
	}
	for _, value := range r.keeper.references(was) {
		if _, read := r.objs.Secrets[value.key]; read || value.keep {
			continue
		}
		if _, had := r.keeper.last.Secrets[value.key]; had {
			return nil // also where another object keeps that value
		}
	}
	return was
}

// settle refuses objects until the others can be compiled.
func (r *round) settle() (*compile.Version, *source.Objects) {
	if version, set := r.again(); version != nil {
		return version, set
	}
	given := maps.Clone(r.refused)
	for first := true; ; first = false {
		set := r.build(nil)
		version, found := r.compile(set)
		if version != nil {
			r.note(found)
			return version, set
		}
		blamed := r.blame(found)
		ordered := blamed.plain == nil && blamed.conflicts != nil
		if ordered {
			// Who comes second is blamed for a conflict, so those that were created first go first.
			_, found = r.compile(r.build(older))
			blamed = r.blame(found)
		}
		if first {
			r.outcome = r.outcomeOf(given, found, ordered)
		}
		r.blameMore(found)
		next := blamed.plain
		if next == nil {
			next = r.losers(blamed.conflicts)
		}
		if next == nil {
			r.outcome = nil
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

// losers are the objects that lose the conflicts that a compilation by age has found.
func (r *round) losers(conflicts []source.ObjectRef) []source.ObjectRef {
	var out, several []source.ObjectRef
	for _, ref := range conflicts {
		if claimsOne(ref.Kind) {
			out = append(out, ref)
		} else {
			several = append(several, ref)
		}
	}
	if len(several) == 0 {
		return out
	}
	if r.settled++; r.settled > patience {
		return append(out, r.losersAtOnce(several)...)
	}
	// Only the first is known to contradict an object that stays: the others may contradict it.
	return append(out, slices.MinFunc(several, func(a, b source.ObjectRef) int { return older(r.standing(a), r.standing(b)) }))
}

// losersAtOnce tries the blamed objects the other way round, behind those that nobody blames: who is not blamed then contradicts only older ones
// that are, and which go.
func (r *round) losersAtOnce(conflicts []source.ObjectRef) []source.ObjectRef {
	last := make(map[source.ObjectRef]bool, len(conflicts))
	for _, ref := range conflicts {
		last[ref] = true
	}
	_, found := r.compile(r.build(func(a, b source.Object) int {
		lastA, lastB := last[source.RefOf(a)], last[source.RefOf(b)]
		switch {
		case lastA && lastB:
			return older(b, a)
		case lastA:
			return 1
		case lastB:
			return -1
		}
		return older(a, b)
	}))
	var out []source.ObjectRef
	for _, ref := range r.blame(found).conflicts {
		if last[ref] {
			out = append(out, ref)
		}
	}
	if len(out) == 0 {
		return conflicts
	}
	return out
}

// claimsOne says whether objects of a kind that lose a conflict claim nothing while they are compiled, so that all who are blamed in a
// compilation by age contradict an object that stays. The others may hold a second port, or a second Backend, against a third.
func claimsOne(kind string) bool { return kind == "APIKey" || kind == "JWTIssuer" }

// standing is what stands for an object now.
func (r *round) standing(ref source.ObjectRef) source.Object {
	switch r.refused[ref] {
	case Older:
		return r.last(ref)
	case LeftOut:
		return nil
	case Shut:
		return r.keeper.shut(r.current[ref])
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
		at := rank(p.Object.Kind)
		if p.Reason == source.ReasonSecretUnavailable {
			at = 0 // a value is not missing because of others, and must not be given back by those that keep it
		}
		if at < lowest {
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
	case "LimitPolicy", "Budget", "CachePolicy", "SessionPolicy":
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
			r.noted[ref] = append(r.noted[ref], p)
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
