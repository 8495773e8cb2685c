package key

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"math"

	"github.com/weir-dev/weir/extproc/cache"
)

// sum hashes a series of values so that no two series are read as one: each begins with its kind, and texts with their length.
type sum struct {
	h   hash.Hash
	n   int // of buf
	buf [1024]byte
	// canonical JSON in the making, kept from value to value
	json canonical
}

// layout is hashed first: another layout of what follows must have another word, so that old entries in Redis are not found.
const layout = "weir cache key 1"

func newSum() *sum {
	s := &sum{h: sha256.New()}
	s.text(layout)
	return s
}

func (s *sum) key() (k cache.Key) {
	s.flush()
	s.h.Sum(k[:0])
	return k
}

func (s *sum) flush() {
	_, _ = s.h.Write(s.buf[:s.n]) // a hash never fails
	s.n = 0
}

// room makes place for a small value of at most n bytes.
func (s *sum) room(n int) {
	if s.n+n > len(s.buf) {
		s.flush()
	}
}

// tag tells what comes next.
func (s *sum) tag(t byte) {
	s.room(1)
	s.buf[s.n] = t
	s.n++
}

func (s *sum) uint(n uint64) {
	s.room(binary.MaxVarintLen64)
	s.n += binary.PutUvarint(s.buf[s.n:], n)
}

func (s *sum) text(t string) {
	s.uint(uint64(len(t)))
	for len(t) > 0 {
		if s.n == len(s.buf) {
			s.flush()
		}
		n := copy(s.buf[s.n:], t)
		s.n += n
		t = t[n:]
	}
}

func (s *sum) bytes(t []byte) {
	s.uint(uint64(len(t)))
	if len(t) <= len(s.buf) {
		s.room(len(t))
		s.n += copy(s.buf[s.n:], t)
		return
	}
	s.flush()
	_, _ = s.h.Write(t)
}

func (s *sum) bool(b bool) {
	if b {
		s.tag(1)
	} else {
		s.tag(0)
	}
}

// The opt methods hash a tag and a value where there is one, and nothing where there is none.

func (s *sum) optInt(t byte, n *int64) {
	if n != nil {
		s.tag(t)
		s.uint(uint64(*n))
	}
}

func (s *sum) optFloat(t byte, f *float64) {
	if f != nil {
		s.tag(t)
		s.room(8)
		v := *f
		if v == 0 { // -0 is 0
			v = 0
		}
		binary.LittleEndian.PutUint64(s.buf[s.n:], math.Float64bits(v))
		s.n += 8
	}
}

func (s *sum) optBool(t byte, b *bool) {
	if b != nil {
		s.tag(t)
		s.bool(*b)
	}
}

// value hashes a JSON value that has passed jsonx.Check in its canonical form.
func (s *sum) value(v []byte) { s.bytes(s.json.of(v)) }
