package status

import (
	"slices"

	"k8s.io/apimachinery/pkg/types"

	"github.com/weir-dev/weir/xds/accept"
	"github.com/weir-dev/weir/xds/source"
)

// identity is one generation of one object. The zero value is its absence.
type identity struct {
	uid        types.UID
	generation int64
}

func identityOf(o source.Object) identity { return identity{o.GetUID(), o.GetGeneration()} }

// history knows which generation of each object the last readings had, by their digests. What it holds grows with the objects and
// with what has changed, not with their product; and so does what a reading costs, comparisons of pointers apart.
type history struct {
	serial  int
	names   naming
	digests map[string]reading
	order   []string // of digests, oldest first
	objects map[source.ObjectRef][]change
	// changed are the refs of objects that each reading changed, by its serial: of those after the one that was pruned last.
	changed map[int][]source.ObjectRef
	pruned  int
}

// reading is one of the last readings.
type reading struct {
	serial int
	except map[source.ObjectRef]int64 // generations that are served of others than were read, 0 for none; for the digest of what was compiled
}

// change is what an object became in a reading, and was until its next change.
type change struct {
	serial int
	identity
}

func newHistory() *history {
	return &history{digests: map[string]reading{}, objects: map[source.ObjectRef][]change{}, changed: map[int][]source.ObjectRef{}}
}

// add takes a reading. It returns its names, and the refs of what is not as in the one before.
func (h *history) add(objs *source.Objects, res accept.Result) (named, []source.ObjectRef) {
	h.serial++
	n := h.names.name(objs, res)
	var refs []source.ObjectRef
	there := make(map[source.ObjectRef]bool, len(n.read.Fresh))
	for _, o := range n.read.Fresh {
		ref := source.RefOf(o)
		there[ref] = true
		h.note(ref, identityOf(o))
		refs = append(refs, ref)
	}
	for _, o := range n.read.Gone {
		if ref := source.RefOf(o); !there[ref] {
			h.note(ref, identity{})
			refs = append(refs, ref)
		}
	}
	if len(refs) > 0 {
		h.changed[h.serial] = refs
	}
	h.name(n.read.Digest, reading{serial: h.serial})
	if res.Objects != nil && len(res.Refused) > 0 {
		h.name(n.compiled, reading{h.serial, n.served})
	}
	for len(h.order) > remembered {
		delete(h.digests, h.order[0])
		h.order = h.order[1:]
	}
	if h.serial%remembered == 0 {
		h.prune()
	}
	return n, refs
}

// name makes a digest the newest.
func (h *history) name(digest string, r reading) {
	if _, known := h.digests[digest]; known {
		for i, d := range h.order {
			if d == digest {
				h.order = append(h.order[:i:i], h.order[i+1:]...)
				break
			}
		}
	}
	h.digests[digest] = r
	h.order = append(h.order, digest)
}

func (h *history) note(ref source.ObjectRef, is identity) {
	changes := h.objects[ref]
	if n := len(changes); n > 0 && changes[n-1].identity == is {
		return
	}
	h.objects[ref] = append(changes, change{h.serial, is})
}

// prune forgets what no known digest needs.
func (h *history) prune() {
	oldest := h.serial
	for _, r := range h.digests {
		oldest = min(oldest, r.serial)
	}
	h.pruned = oldest
	for serial, refs := range h.changed {
		if serial > oldest {
			continue
		}
		delete(h.changed, serial)
		for _, ref := range refs {
			h.forget(ref, oldest)
		}
	}
}

// forget forgets what became of an object, but for what it was in a reading and after it.
func (h *history) forget(ref source.ObjectRef, oldest int) {
	all := h.objects[ref]
	changes := all
	for len(changes) > 1 && changes[1].serial <= oldest {
		changes = changes[1:]
	}
	switch {
	case len(changes) == 1 && changes[0].identity == (identity{}):
		delete(h.objects, ref)
	case len(changes) < len(all):
		h.objects[ref] = slices.Clone(changes)
	}
}

// current is what the last reading has of an object.
func (h *history) current(ref source.ObjectRef) identity {
	if changes := h.objects[ref]; len(changes) > 0 {
		return changes[len(changes)-1].identity
	}
	return identity{}
}

// between calls fn with the refs of what has changed from one reading to a later one, some of them more than once. It returns false where that
// is not known any more.
func (h *history) between(first, last int, fn func(source.ObjectRef)) bool {
	if first >= last {
		return true
	}
	if first < h.pruned {
		return false
	}
	for serial := first + 1; serial <= last; serial++ {
		for _, ref := range h.changed[serial] {
			fn(ref)
		}
	}
	return true
}

// find looks up a Set; false where its digest is not known.
func (h *history) find(s Set) (lookup, bool) {
	r, ok := h.digests[s.Digest]
	if !ok {
		return lookup{}, false
	}
	l := lookup{h, r.serial, r.except}
	if len(s.Except) > 0 {
		l.except = make(map[source.ObjectRef]int64, len(s.Except))
		for _, e := range s.Except {
			l.except[source.ObjectRef{Kind: e.Kind, Namespace: e.Namespace, Name: e.Name}] = e.Generation
		}
	}
	return l, true
}

// lookup knows the generations of a Set.
type lookup struct {
	history *history
	serial  int
	except  map[source.ObjectRef]int64
}

// at is what the Set has of an object.
func (l lookup) at(ref source.ObjectRef) identity {
	var is identity
	for _, c := range l.history.objects[ref] {
		if c.serial > l.serial {
			break
		}
		is = c.identity
	}
	if generation, other := l.except[ref]; other {
		if generation == 0 {
			return identity{}
		}
		is.generation = generation
	}
	return is
}
