package compile

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"math/bits"
	"reflect"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/weir-dev/weir/internal/cow"
	"github.com/weir-dev/weir/xds/source"
)

// What a Compiler remembers from one run to the next.
//
// A unit is what was made of one object. Beside that object it was made of answers to questions: what is this secret, what became of that
// Backend, does this Route exist. Each answer has a cell, which says in which run the answer was last another one. A unit counts
// as long as its object is the same and none of its cells is newer than the unit. Runs settle an answer before they ask for it.

// cell says when an answer was last another one. Users are the units that have asked.
type cell struct {
	changed uint64 // the run
	users   int
	asked   [kinds]bool // by units of a kind
}

// kind is what a unit is of.
type kind uint8

const (
	ofOthers kind = iota
	ofBackend
	ofRoute
	ofPolicy
	ofAdvice
	kinds
)

// value is an answer with its cell.
type value[T comparable] struct {
	cell
	is T
}

func settle[T comparable](k *Compiler, v *value[T], is T) {
	if v.is != is {
		v.is = is
		k.stir(&v.cell)
	}
}

// stir notes that an answer is another one than before.
func (k *Compiler) stir(c *cell) {
	c.changed = k.run
	if c.users == 0 {
		return
	}
	for of, asked := range c.asked {
		if asked {
			k.stirred[of] = k.run
		}
	}
}

// calm says that every unit of a kind which counted in the last run counts in this one, as far as answers are known yet.
func (k *Compiler) calm(of kind) bool { return k.stirred[of] < k.run }

// unit is what was made in one run.
type unit struct {
	kind      kind
	made      uint64
	of        []*cell
	problems  []source.Problem
	resources []sharing
}

// sharing is a share in what a version hands to Envoy.
type sharing struct {
	in   interface{ drop(name string) }
	name string
}

// counts says whether what was made is what would be made now.
func (u *unit) counts() bool {
	for _, c := range u.of {
		if c.changed > u.made {
			return false
		}
	}
	return true
}

// drop gives up the unit's shares. What replaces it has been made before, so that what both have stays as it is.
func (u *unit) drop() {
	for _, c := range u.of {
		c.users--
	}
	for _, r := range u.resources {
		r.in.drop(r.name)
	}
}

// asks notes that what is made now depends on an answer.
func (c *compiler) asks(answer *cell) {
	if c.unit != nil {
		answer.users++
		answer.asked[c.unit.kind] = true
		c.unit.of = append(c.unit.of, answer)
	}
}

// make makes a unit: what f asks for, gives to Envoy and complains of is the unit's.
func (c *compiler) make(u *unit, f func()) {
	around, problems := c.unit, c.problems
	c.unit, c.problems = u, nil
	u.made = c.run
	f()
	u.problems = c.problems
	c.unit, c.problems = around, problems
}

// digest is the SHA-256 of some content, and of its name.
type digest [sha256.Size]byte

func digestOf(parts ...string) digest {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return digest(h.Sum(nil))
}

// sum adds up the digests of a set, so that the order does not matter, and one more or less is cheap.
type sum [4]uint64

func (s *sum) add(d digest) {
	var carry uint64
	for i := range s {
		s[i], carry = bits.Add64(s[i], binary.LittleEndian.Uint64(d[8*i:]), carry)
	}
}

func (s *sum) sub(d digest) {
	var borrow uint64
	for i := range s {
		s[i], borrow = bits.Sub64(s[i], binary.LittleEndian.Uint64(d[8*i:]), borrow)
	}
}

// held is one of the maps of a version: what units have a share in, by name.
type held[V any] struct {
	m      cow.Edit[V]
	shares map[string]*share
	total  sum
	// flat is the last map that plain handed out; nil when something has changed since.
	flat map[string]V
	// partly says that digests do not cover all of a value, so that one of equal digest is another.
	partly bool
	// inside says that versions do not get the map, and bare that there is nothing in it: of the values only the digests are kept.
	inside, bare bool
}

type share struct {
	n int
	digest
}

func newHeld[V any]() *held[V] {
	return &held[V]{shares: map[string]*share{}}
}

// put takes a share in a value. One that was there under the name with an equal digest stays.
func (h *held[V]) put(c *compiler, name string, v V, d digest) {
	c.unit.resources = append(c.unit.resources, sharing{h, name})
	s := h.shares[name]
	switch {
	case s == nil:
		s = &share{digest: d}
		h.shares[name] = s
		h.total.add(d)
		h.keep(name, v)
	case s.digest != d:
		h.total.sub(s.digest)
		h.total.add(d)
		s.digest = d
		h.keep(name, v)
	case h.partly:
		h.keep(name, v)
	}
	s.n++
}

func (h *held[V]) keep(name string, v V) {
	if !h.bare {
		h.m.Set(name, v)
		h.flat = nil
	}
}

// share takes a share in what is there.
func (h *held[V]) share(c *compiler, name string) {
	c.unit.resources = append(c.unit.resources, sharing{h, name})
	h.shares[name].n++
}

func (h *held[V]) drop(name string) {
	s := h.shares[name]
	if s.n--; s.n > 0 {
		return
	}
	h.total.sub(s.digest)
	delete(h.shares, name)
	h.m.Delete(name)
	h.flat = nil
}

// handOut gives a version that is served its map.
func (h *held[V]) handOut() cow.Map[V] {
	if h.inside {
		return cow.Map[V]{}
	}
	return h.m.Map()
}

// plain does so for what there is little of: a change copies all of it.
func (h *held[V]) plain() map[string]V {
	if h.inside {
		return nil
	}
	if h.flat == nil {
		h.flat = make(map[string]V, h.m.Len())
		for name, v := range h.m.Map().All() {
			h.flat[name] = v
		}
	}
	return h.flat
}

// putMessage takes a share in a message.
func putMessage[M proto.Message](c *compiler, h *held[M], name string, m M) {
	h.put(c, name, m, digestOf(name, string(deterministic(m))))
}

// object is a pointer to an object.
type object interface {
	comparable
	source.Object
}

// ledger follows the objects of one kind. Its cell is that of the whole list.
type ledger[T object] struct {
	cell
	objects []T
	digests []digest
	total   sum
}

// objects follows one kind of objects. It returns how they stand now; nil: all stand where they stood.
func follow[T object](c *compiler, l *ledger[T], objects []T) *moves {
	m := aligned(l.objects, objects)
	if m == nil {
		return nil
	}
	c.stir(&l.cell)
	var gone []digest
	l.digests, gone = moved(m, l.digests)
	for i, from := range m.from {
		if from >= 0 {
			continue
		}
		o := objects[m.head+i]
		content, err := source.Content(o)
		if err != nil { // objects that came through a schema can be printed as JSON
			panic(fmt.Sprintf("compile: %v", err))
		}
		l.digests[m.head+i] = content
		l.total.add(content)
		c.count(source.RefOf(o), 1)
	}
	for _, content := range gone {
		l.total.sub(content)
	}
	var left []T
	l.objects, left = moved(m, l.objects)
	for i, from := range m.from {
		if from < 0 {
			l.objects[m.head+i] = objects[m.head+i]
		}
	}
	for _, o := range left {
		c.count(source.RefOf(o), -1)
	}
	return m
}

// moves is how a list has changed: what it begins and ends with is as it was, and between these stands now what stood elsewhere, or nowhere.
type moves struct {
	head, tail int
	from       []int // of each between them, where it stood; -1 for nowhere
	gone       []int // where those stood that stand nowhere now
}

// between is the range of a list of n elements in which something has changed: none for nil.
func (m *moves) between(n int) (first, end int) {
	if m == nil {
		return 0, 0
	}
	return m.head, n - m.tail
}

// moved puts what belongs to the elements of a list where they stand now, in place: of new ones there is nothing yet. It returns what belonged to those
// that are gone.
func moved[U any](m *moves, list []U) (now, gone []U) {
	middle := make([]U, len(m.from))
	for i, from := range m.from {
		if from >= 0 {
			middle[i] = list[from]
		}
	}
	for _, i := range m.gone {
		gone = append(gone, list[i])
	}
	return slices.Replace(list, m.head, len(list)-m.tail, middle...), gone
}

// aligned finds the elements of a list in the list before; nil where the lists are equal. An element counts once.
func aligned[T comparable](before, now []T) *moves {
	head := 0
	for head < len(before) && head < len(now) && before[head] == now[head] {
		head++
	}
	if head == len(before) && head == len(now) {
		return nil
	}
	tail := 0
	for tail < len(before)-head && tail < len(now)-head && before[len(before)-1-tail] == now[len(now)-1-tail] {
		tail++
	}
	m := &moves{head: head, tail: tail, from: make([]int, len(now)-head-tail)}
	at := make(map[T]int, len(before)-head-tail)
	for j := head; j < len(before)-tail; j++ {
		at[before[j]] = j
	}
	stays := make([]bool, len(before)-head-tail)
	for i := range m.from {
		m.from[i] = -1
		if j, ok := at[now[head+i]]; ok {
			m.from[i], stays[j-head] = j, true
			delete(at, now[head+i])
		}
	}
	for j, stays := range stays {
		if !stays {
			m.gone = append(m.gone, head+j)
		}
	}
	return m
}

// name is whether an object exists, in a cell.
type name struct {
	cell
	n       int // of objects of this name
	existed bool
}

// count notes that there is one object more of a name, or one less.
func (c *compiler) count(ref source.ObjectRef, n int) {
	at := c.names[ref]
	if at == nil {
		at = &name{}
		c.names[ref] = at
	}
	at.n += n
	c.counted = append(c.counted, at)
}

// settleNames says which names came or went, when all objects have been counted. double says that some object is there twice.
func (c *compiler) settleNames() (double bool) {
	for _, at := range c.counted {
		double = double || at.n > 1
		if exists := at.n > 0; exists != at.existed {
			at.existed = exists
			c.stir(&at.cell)
		}
	}
	c.counted = nil
	return double
}

// known says whether an object exists.
func (c *compiler) known(ref source.ObjectRef) bool {
	at := c.names[ref]
	if at == nil {
		if c.unit == nil {
			return false
		}
		at = &name{}
		c.names[ref] = at
	}
	c.asks(&at.cell)
	return at.n > 0
}

// values follows what objects point to.
type values[K comparable, V any] struct {
	cells map[K]*valueOf[V]
	there int // cells that have a value
	last  map[K]V
	total sum

	same   func(a, b V) bool
	digest func(K, V) digest
}

type valueOf[V any] struct {
	cell
	value   V
	there   bool
	seen    uint64 // the run
	content digest
}

func (w *values[K, V]) follow(k *Compiler, now map[K]V) {
	if reflect.ValueOf(w.last).UnsafePointer() == reflect.ValueOf(now).UnsafePointer() {
		return
	}
	w.last = now
	for key, v := range now {
		at := w.at(key)
		at.seen = k.run
		if at.there && w.same(at.value, v) {
			continue
		}
		w.leave(at)
		at.value, at.there, at.content = v, true, w.digest(key, v)
		k.stir(&at.cell)
		w.total.add(at.content)
		w.there++
	}
	if w.there == len(now) {
		return
	}
	for _, at := range w.cells {
		if at.there && at.seen != k.run {
			w.leave(at)
			var none V
			at.value, at.there = none, false
			k.stir(&at.cell)
		}
	}
}

func (w *values[K, V]) leave(at *valueOf[V]) {
	if at.there {
		w.total.sub(at.content)
		w.there--
	}
}

func (w *values[K, V]) at(k K) *valueOf[V] {
	at := w.cells[k]
	if at == nil {
		at = &valueOf[V]{}
		w.cells[k] = at
	}
	return at
}

// get answers what a value is. It is a function, because methods of compiler have no type parameters.
func get[K comparable, V any](c *compiler, w *values[K, V], k K) (V, bool) {
	at := w.cells[k]
	if at == nil {
		if c.unit == nil {
			var none V
			return none, false
		}
		at = w.at(k)
	}
	c.asks(&at.cell)
	return at.value, at.there
}

// sweep forgets the cells that nobody has asked for and that answer nothing, once they are many.
func sweep[K comparable, V any](cells map[K]V, live int, used func(V) bool) {
	if len(cells) > 2*live+64 {
		maps.DeleteFunc(cells, func(_ K, v V) bool { return !used(v) })
	}
}
