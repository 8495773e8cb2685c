// Package cow has maps that are handed on again and again, each time with little changed: what has not changed is shared. Copying a Map costs
// nothing, changing one entry of it the copy of a small part, and finding out how two differ that came from one another costs what has changed.
package cow

import (
	"iter"
	"maps"
	"math/bits"
	"reflect"
)

// parts is how many parts a Map has: as many as partOf tells apart. Each change copies one of them, so with ten thousand entries it copies some forty.
const parts = 256

// Map is a map by name. It is not changed: an Edit makes another one. The zero value is empty. It is safe for concurrent use.
type Map[V any] struct {
	parts *[parts]map[string]V
	n     int
}

// Of makes a Map of what is in m.
func Of[V any](m map[string]V) Map[V] {
	var e Edit[V]
	for name, v := range m {
		e.Set(name, v)
	}
	return e.Map()
}

// partOf tells in which part a name is. It takes eight bytes at a time, because requests look names up.
func partOf(name string) int {
	const odd = 0x9e3779b97f4a7c15 // 2^64 divided by the golden ratio
	h := uint64(len(name))
	for len(name) >= 8 {
		h = (bits.RotateLeft64(h, 29) ^ word(name)) * odd
		name = name[8:]
	}
	rest := uint64(0)
	for i := range len(name) {
		rest = rest<<8 | uint64(name[i])
	}
	h = (bits.RotateLeft64(h, 29) ^ rest) * odd
	return int((h ^ h>>32) * odd >> 56)
}

// word is the first eight bytes.
func word(s string) uint64 {
	_ = s[7]
	return uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 | uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
}

// Get is what is under a name; the zero value where there is nothing.
func (m Map[V]) Get(name string) V {
	v, _ := m.Lookup(name)
	return v
}

// Lookup is what is under a name, and whether there is anything.
func (m Map[V]) Lookup(name string) (V, bool) {
	if m.parts == nil {
		var none V
		return none, false
	}
	v, ok := m.parts[partOf(name)][name]
	return v, ok
}

// Has says whether there is anything under a name.
func (m Map[V]) Has(name string) bool {
	_, ok := m.Lookup(name)
	return ok
}

// Len is the number of names.
func (m Map[V]) Len() int { return m.n }

// All yields everything, in no order.
func (m Map[V]) All() iter.Seq2[string, V] {
	return func(yield func(string, V) bool) {
		if m.parts == nil {
			return
		}
		for _, part := range m.parts {
			for name, v := range part {
				if !yield(name, v) {
					return
				}
			}
		}
	}
}

// Names yields all names, in no order.
func (m Map[V]) Names() iter.Seq[string] {
	return func(yield func(string) bool) {
		for name := range m.All() {
			if !yield(name) {
				return
			}
		}
	}
}

// Is says whether two Maps are one, or the one was made of the other and nothing has changed. Where it says no, they may be equal nonetheless.
func (m Map[V]) Is(other Map[V]) bool { return m.parts == other.parts }

// Edit begins to make another Map of m.
func (m Map[V]) Edit() Edit[V] { return Edit[V]{m: m} }

// Diff yields the names under which two Maps do not have the same.
func Diff[V comparable](before, after Map[V]) iter.Seq[string] {
	return func(yield func(string) bool) {
		if before.Is(after) {
			return
		}
		var none [parts]map[string]V
		was, is := before.parts, after.parts
		if was == nil {
			was = &none
		}
		if is == nil {
			is = &none
		}
		for i := range parts {
			if one(was[i], is[i]) {
				continue
			}
			for name, v := range is[i] {
				if had, ok := was[i][name]; (!ok || had != v) && !yield(name) {
					return
				}
			}
			for name := range was[i] {
				if _, still := is[i][name]; !still && !yield(name) {
					return
				}
			}
		}
	}
}

// one says whether two maps are one.
func one[V any](a, b map[string]V) bool {
	return reflect.ValueOf(a).UnsafePointer() == reflect.ValueOf(b).UnsafePointer()
}

// Edit is a Map in the making. What it is made of stays as it is. The zero value begins with nothing. It is not safe for concurrent use.
type Edit[V any] struct {
	m Map[V]
	// own are the parts that no Map has yet; nil where the Map itself is somebody's.
	own *[parts]bool
}

// Get is what is under a name now; the zero value where there is nothing.
func (e *Edit[V]) Get(name string) V { return e.m.Get(name) }

// Lookup is what is under a name now, and whether there is anything.
func (e *Edit[V]) Lookup(name string) (V, bool) { return e.m.Lookup(name) }

// Len is the number of names now.
func (e *Edit[V]) Len() int { return e.m.n }

// part is the part of a name, to be changed.
func (e *Edit[V]) part(name string) map[string]V {
	if e.own == nil {
		e.own = &[parts]bool{}
		if e.m.parts == nil {
			e.m.parts = &[parts]map[string]V{}
		} else {
			copied := *e.m.parts
			e.m.parts = &copied
		}
	}
	i := partOf(name)
	if !e.own[i] {
		e.own[i] = true
		if e.m.parts[i] == nil {
			e.m.parts[i] = map[string]V{}
		} else {
			e.m.parts[i] = maps.Clone(e.m.parts[i])
		}
	}
	return e.m.parts[i]
}

// Set has something under a name.
func (e *Edit[V]) Set(name string, v V) {
	part := e.part(name)
	n := len(part)
	part[name] = v
	e.m.n += len(part) - n
}

// Delete has nothing under a name.
func (e *Edit[V]) Delete(name string) {
	if !e.m.Has(name) {
		return
	}
	delete(e.part(name), name)
	e.m.n--
}

// Map hands out what was made. The Edit may be used on: what it changes then does not change that Map.
func (e *Edit[V]) Map() Map[V] {
	e.own = nil
	return e.m
}
