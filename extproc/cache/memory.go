package cache

import (
	"math"
	"time"

	"github.com/maypok86/otter/v2"
)

// memory keeps the records of one policy in this process: at most so many bytes, by W-TinyLFU, so that what is often asked
// for is not driven out by a flood of what is asked for once. It is safe for concurrent use.
type memory struct {
	records *otter.Cache[Key, *record]
}

// newMemory makes a tier of that many bytes, which calls evicted for each record that has to leave for another.
func newMemory(bytes int64, evicted func()) *memory {
	return &memory{records: otter.Must(&otter.Options[Key, *record]{
		MaximumWeight: uint64(bytes),
		Weigher: func(_ Key, r *record) uint32 {
			return uint32(min(r.size(), math.MaxUint32))
		},
		// What is past its time only takes room. Whether it is, Cache decides by its own clock.
		ExpiryCalculator: otter.ExpiryWritingFunc(func(e otter.Entry[Key, *record]) time.Duration {
			return e.Value.keepFor()
		}),
		OnAtomicDeletion: func(e otter.DeletionEvent[Key, *record]) {
			if e.Cause == otter.CauseOverflow {
				evicted()
			}
		},
	})}
}

// find is the record that answers the ask, whatever its age; nil where there is none, or no memory.
func (m *memory) find(a *Ask) *record {
	if m == nil {
		return nil
	}
	if r := m.get(a.Key); r != nil && r.fits(a) {
		return r
	}
	return nil
}

func (m *memory) get(k Key) *record {
	r, _ := m.records.GetIfPresent(k)
	return r
}

func (m *memory) set(r *record) { m.records.Set(r.key, r) }

// drop removes the record if it still is that one.
func (m *memory) drop(r *record) bool {
	dropped := false
	m.records.ComputeIfPresent(r.key, func(have *record) (*record, otter.ComputeOp) {
		dropped = have == r
		if dropped {
			return nil, otter.InvalidateOp
		}
		return have, otter.CancelOp
	})
	return dropped
}

// purge removes what is selected and says how much it was.
func (m *memory) purge(s *Selector) (n int) {
	if s.Key != nil {
		if r := m.get(*s.Key); r != nil && s.selects(r) && m.drop(r) {
			n++
		}
		return n
	}
	for r := range m.records.Values() {
		if s.selects(r) && m.drop(r) {
			n++
		}
	}
	return n
}

// clear forgets all, and ends what cleans up after it.
func (m *memory) clear() {
	m.records.InvalidateAll()
	m.records.StopAllGoroutines()
}

// resize changes how many bytes it may take.
func (m *memory) resize(bytes int64) {
	if m.records.GetMaximum() != uint64(bytes) {
		m.records.SetMaximum(uint64(bytes))
	}
}

// usage is how many bytes and records it has.
func (m *memory) usage() (bytes uint64, records int) {
	return m.records.WeightedSize(), m.records.EstimatedSize()
}
