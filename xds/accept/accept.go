// Package accept keeps one bad object from stopping all others. The objects of a cluster belong to many people, so what is wrong is
// replaced by its last accepted generation, or left out, and the rest is served. A folder has one owner: there it is all or nothing, and
// nothing of this applies.
package accept

import (
	"slices"

	"github.com/weir-dev/weir/xds/compile"
	"github.com/weir-dev/weir/xds/source"
)

// CompileFunc compiles objects; the Version is nil where a Problem is an Error. It is called several times where objects are refused.
type CompileFunc func(*source.Objects) (*compile.Version, []source.Problem)

// Kept says what stands for an object that was refused.
type Kept int

// What stands for a refused object.
const (
	// Older is its last accepted generation. It is the same one where only values are missing that may outlive their being read.
	Older Kept = iota + 1
	// LeftOut is nothing at all.
	LeftOut
	// Shut is, for a LimitPolicy or Budget whose older generation is not known, one that lets nothing pass that it covers.
	Shut
)

// String is "older", "left out" or "shut".
func (k Kept) String() string {
	switch k {
	case Older:
		return "older"
	case Shut:
		return "shut"
	}
	return "left out"
}

// Result is what can be served of a reading.
type Result struct {
	// Version is what was compiled; nil where nothing can be served: what is served already goes on.
	Version *compile.Version
	// Objects are those that Version was compiled from; nil without one.
	Objects *source.Objects
	// Problems are those of the reading: of each refused object those of its refused generation, not of what stands for it.
	Problems []source.Problem
	// Refused are the objects of the reading that are not part of Version as they were read.
	Refused map[source.ObjectRef]Kept
	// Envoy are those among them that Envoy refuses, and those that go on with an older value because Envoy refuses the new one.
	Envoy []EnvoyRefusal
	// Trial says that Version is not all that can be served: it is to find out which of several changes Envoy refuses, and others wait.
	Trial bool
}

// Keeper remembers the last accepted generation of each object. It is for one goroutine.
type Keeper struct {
	accepted map[source.ObjectRef]source.Object
	last     *source.Objects // what was compiled last
	refs     map[source.Object][]reference
	shuts    map[source.Object]source.Object // what stands for policies that are shut

	// The last reading, as it came and by name, and what may be accepted otherwise than it stands there: what has changed since something was
	// accepted, and what was refused then. So that one change costs what it changes.
	read    *source.Objects
	current map[source.ObjectRef]source.Object
	open    map[source.ObjectRef]bool

	outcome *outcome // of the last reading of which something could be served; nil for one that has to be settled anew

	envoy   envoy
	reading *source.Objects // the last
}

// NewKeeper returns a Keeper that remembers nothing: at first an object that is refused is left out.
func NewKeeper() *Keeper {
	return &Keeper{
		accepted: map[source.ObjectRef]source.Object{}, last: source.NewObjects(), refs: map[source.Object][]reference{},
		shuts:   map[source.Object]source.Object{},
		current: map[source.ObjectRef]source.Object{}, open: map[source.ObjectRef]bool{},
		envoy: envoy{objects: map[source.ObjectRef]blame{}, values: map[source.SecretKey]blamedValue{}},
	}
}

// Compile compiles what is right of a reading. Of two objects that contradict each other the one that was created first is right, then the
// one whose namespace and name come first. The outcome depends on the reading, and on what this Keeper has accepted before of objects that
// are wrong now.
func (k *Keeper) Compile(objs *source.Objects, problems []source.Problem, compileFn CompileFunc) Result {
	k.take(objs)
	r := &round{keeper: k, objs: objs, compile: compileFn, current: k.current, refused: map[source.ObjectRef]Kept{},
		wrong: map[source.ObjectRef]bool{}, noted: map[source.ObjectRef][]source.Problem{}}
	given := len(problems)
	refusals := k.consider(r)
	problems = slices.Concat(problems, r.byEnvoy)
	r.problems = slices.Concat(problems, r.ofValues)
	blameable := r.readErrors(problems)
	r.hold()
	version, set := r.settle()
	if !blameable {
		version, set = nil, nil
	}
	source.SortProblems(r.problems)
	if version != nil {
		k.outcome = r.end()
		k.remember(r.refused, set)
		k.tried(version.ID, set)
	} else if k.envoy.search != nil {
		// What is tried cannot be compiled without what waits. So nothing waits, and nobody is blamed.
		k.envoy.search, k.envoy.hopeless = nil, objs
		return k.Compile(objs, problems[:given], compileFn)
	}
	for o := range k.shuts {
		if ref := source.RefOf(o); r.current[ref] != o || r.refused[ref] != Shut {
			delete(k.shuts, o)
		}
	}
	for o := range k.refs {
		ref := source.RefOf(o)
		if r.current[ref] != o && k.accepted[ref] != o {
			delete(k.refs, o)
		}
	}
	return Result{Version: version, Objects: set, Problems: slices.Compact(r.problems), Refused: r.refused, Envoy: refusals, Trial: k.envoy.search != nil}
}

// take takes a reading. What has not changed is the same pointer.
func (k *Keeper) take(objs *source.Objects) {
	olds, news := source.Between(k.read, objs)
	for _, o := range olds {
		ref := source.RefOf(o)
		delete(k.current, ref)
		k.open[ref] = true
	}
	for _, o := range news {
		ref := source.RefOf(o)
		k.current[ref] = o
		k.open[ref] = true
	}
	k.read = objs
}

// remember takes over what was accepted, and forgets what is gone.
func (k *Keeper) remember(refused map[source.ObjectRef]Kept, set *source.Objects) {
	for ref := range refused {
		k.open[ref] = true
	}
	for ref := range k.open {
		was, now := k.accepted[ref], k.current[ref]
		if was != nil && (now == nil && refused[ref] == 0 || now != nil && !sameObject(was, now)) {
			delete(k.accepted, ref)
		}
		if refused[ref] != 0 {
			continue // it stays open
		}
		if now != nil {
			k.accepted[ref] = now
		}
		delete(k.open, ref)
	}
	k.last = set
}

// sameObject says whether two generations are of one object, and not of two that had the same name one after the other.
func sameObject(a, b source.Object) bool {
	return a.GetUID() == b.GetUID() || a.GetUID() == "" || b.GetUID() == ""
}

// sameGeneration says whether two readings of one object are of one generation.
func sameGeneration(a, b source.Object) bool {
	return a == b || a.GetGeneration() == b.GetGeneration() && a.GetGeneration() != 0
}
