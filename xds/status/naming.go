package status

import (
	"slices"
	"strings"

	"github.com/weir-dev/weir/xds/accept"
	"github.com/weir-dev/weir/xds/source"
)

// naming names readings, and what was compiled of them, at the price of what has changed since the ones before. The zero value is ready.
type naming struct {
	read, compiled source.Follower
}

// named is a reading by its names.
type named struct {
	read     source.Step
	compiled string                     // digest of what was compiled; "" where nothing was
	served   map[source.ObjectRef]int64 // generations of the refused objects that are part of that; 0 for none
}

func (n *naming) name(objs *source.Objects, res accept.Result) named {
	out := named{read: n.read.Next(objs)}
	if res.Objects != nil {
		out.compiled, out.served = n.compiled.Next(res.Objects).Digest, served(objs, res)
	}
	return out
}

// set names what is served, so that a process that reads the same objects knows it, whatever that one has accepted before.
func (n *named) set() Set {
	switch {
	case n.compiled == "":
		return Set{}
	case len(n.served) > maxExceptions:
		return Set{Digest: n.compiled}
	}
	s := Set{Digest: n.read.Digest}
	for ref, generation := range n.served {
		s.Except = append(s.Except, Exception{ref.Kind, ref.Namespace, ref.Name, generation})
	}
	slices.SortFunc(s.Except, func(a, b Exception) int { return strings.Compare(a.key(), b.key()) })
	return s
}

// served are the generations of the refused objects that are part of a Result; 0 for none.
func served(objs *source.Objects, res accept.Result) map[source.ObjectRef]int64 {
	out := make(map[source.ObjectRef]int64, len(res.Refused))
	for ref := range res.Refused {
		out[ref] = 0
	}
	if len(out) == 0 {
		return out
	}
	compiled := res.Objects.All()
	take := func(objects []source.Object) {
		for _, o := range objects {
			ref := source.RefOf(o)
			if _, refused := out[ref]; refused {
				out[ref] = o.GetGeneration()
			}
		}
	}
	_, others := source.Difference(objs.All(), compiled)
	take(others)
	for ref, kept := range res.Refused {
		if kept == accept.Older && out[ref] == 0 { // it is served as it was read, with values that are missing now
			take(compiled)
			break
		}
	}
	return out
}
