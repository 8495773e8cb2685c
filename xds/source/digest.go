package source

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"slices"
	"strconv"
)

// Digest names which generations of which objects these are, in 16 hexadecimal digits: two readings of a cluster with equal digests
// hold the same objects, in whichever order. Endpoints and secret values do not matter to it. Objects of a folder have neither UID nor
// generation, so it tells their names only.
func (o *Objects) Digest() string {
	var s sum
	for _, obj := range o.All() {
		s.add(obj)
	}
	return s.String()
}

// Follower follows the readings of one source: it tells what each has that the one before had not, and its Digest, at the price of what has
// changed. It relies on objects that have not changed being the same pointers. The zero value has seen nothing. It is for one goroutine.
type Follower struct {
	objs *Objects
	sum  sum
	name string
}

// Step is how a reading differs from the one before.
type Step struct {
	// Digest is that of the reading.
	Digest string
	// Gone are objects that the reading before had, and Fresh those that it had not. An object that has changed is in both, as it was
	// and as it is.
	Gone, Fresh []Object
}

// Next takes a reading.
func (f *Follower) Next(o *Objects) Step {
	if o == f.objs {
		return Step{Digest: f.name}
	}
	s := Step{Digest: f.name}
	s.Gone, s.Fresh = Between(f.objs, o)
	if f.objs == nil || len(s.Gone)+len(s.Fresh) > 0 {
		for _, obj := range s.Gone {
			f.sum.remove(obj)
		}
		for _, obj := range s.Fresh {
			f.sum.add(obj)
		}
		s.Digest = f.sum.String()
	}
	f.objs, f.name = o, s.Digest
	return s
}

// Difference returns which objects are in one of two lists only. An object is its pointer. Where both lists are in the order of All, of
// Objects that are sorted, an object that is in both costs a comparison of pointers.
func Difference(before, after []Object) (gone, fresh []Object) {
	for len(before) > 0 && len(after) > 0 {
		b, a := before[0], after[0]
		if a == b {
			before, after = before[1:], after[1:]
			continue
		}
		order := compareRefs(RefOf(b), RefOf(a))
		if order <= 0 {
			gone, before = append(gone, b), before[1:]
		}
		if order >= 0 {
			fresh, after = append(fresh, a), after[1:]
		}
	}
	gone, fresh = append(gone, before...), append(fresh, after...)
	if len(gone) == 0 || len(fresh) == 0 {
		return gone, fresh
	}
	// What stands elsewhere in the other list is in both.
	moved := make(map[Object]bool, len(gone))
	for _, obj := range gone {
		moved[obj] = false
	}
	some := false
	for _, obj := range fresh {
		if _, both := moved[obj]; both {
			moved[obj], some = true, true
		}
	}
	if some {
		is := func(obj Object) bool { return moved[obj] }
		gone, fresh = slices.DeleteFunc(gone, is), slices.DeleteFunc(fresh, is)
	}
	return gone, fresh
}

// sum is a hash of a set of generations, made of the hashes of each: adding and removing one takes as long however many there are.
type sum [sha256.Size / 8]uint64

func (s *sum) add(obj Object) {
	h := hashGeneration(obj)
	for i := range s {
		s[i] += h[i]
	}
}

func (s *sum) remove(obj Object) {
	h := hashGeneration(obj)
	for i := range s {
		s[i] -= h[i]
	}
}

// hashGeneration is a hash of what an object is called and of its generation.
func hashGeneration(obj Object) (out sum) {
	var space [256]byte
	line := appendPart(space[:0], kindOf(obj))
	line = appendPart(line, obj.GetNamespace())
	line = appendPart(line, obj.GetName())
	line = appendPart(line, obj.GetUID())
	var digits [20]byte
	line = appendPart(line, strconv.AppendInt(digits[:0], obj.GetGeneration(), 10))
	h := sha256.Sum256(line)
	for i := range out {
		out[i] = binary.BigEndian.Uint64(h[8*i:])
	}
	return out
}

// String is short, so it is made of all of the sum.
func (s *sum) String() string {
	var b [sha256.Size]byte
	for i, n := range s {
		binary.BigEndian.PutUint64(b[8*i:], n)
	}
	h := sha256.Sum256(b[:])
	return hex.EncodeToString(h[:8])
}

// appendPart appends a part as hashParts writes it.
func appendPart[T ~string | ~[]byte](line []byte, part T) []byte {
	line = append(strconv.AppendInt(line, int64(len(part)), 10), ':')
	return append(line, part...)
}
