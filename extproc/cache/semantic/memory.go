package semantic

import (
	"container/list"
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-dev/weir/extproc/cache"
)

// memory is the index in this process: exact, a look at every vector of a space. It is safe for concurrent use.
type memory struct {
	now  func() time.Time
	most int64 // bytes of all vectors
	used atomic.Int64

	mu      sync.Mutex
	shelves map[string]*shelf // by policy
}

// shelf has what one policy remembers.
type shelf struct {
	mu     sync.RWMutex
	spaces map[[16]byte]*room
	recent *list.List // of *item, the one that was added or found last in front
	bytes  int64
	closed bool // no policy has it any more
}

// room has the vectors of a space.
type room struct {
	space space
	items []*item
	byKey map[cache.Key]*item
}

type item struct {
	key     cache.Key
	vector  vector
	expires time.Time
	room    *room
	at      int // in room.items
	element *list.Element
	gone    bool
}

// overhead of an item beside its vector, in bytes: the structs, its places in slices, list and map.
const overhead = 320

func newMemory(now func() time.Time, most int64) *memory {
	return &memory{now: now, most: most, shelves: map[string]*shelf{}}
}

func (m *memory) shelf(policy string, create bool) *shelf {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.shelves[policy]
	if s == nil && create {
		s = &shelf{spaces: map[[16]byte]*room{}, recent: list.New()}
		m.shelves[policy] = s
	}
	return s
}

func (m *memory) nearest(_ context.Context, sp *space, v *vector, least float64, n int) ([]Match, error) {
	s := m.shelf(sp.policy, false)
	if s == nil {
		return nil, nil
	}
	now := m.now()
	found, expired := s.scan(sp.id, v, least, n, now)
	if len(found)+expired == 0 {
		return nil, nil
	}
	matches := make([]Match, len(found))
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, f := range found {
		matches[i] = Match{f.item.key, min(1, float64(f.similarity))}
		if i == 0 && !f.item.gone {
			s.recent.MoveToFront(f.item.element)
		}
	}
	if r := s.spaces[sp.id]; r != nil && expired > 0 {
		for i := len(r.items) - 1; i >= 0; i-- {
			if now.After(r.items[i].expires) {
				m.drop(s, r.items[i])
			}
		}
	}
	return matches, nil
}

// near is an item and how near it is.
type near struct {
	item       *item
	similarity float32
}

// scan looks at every vector of a space, and counts those whose time is over.
func (s *shelf) scan(id [16]byte, v *vector, least float64, n int, now time.Time) (found []near, expired int) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	r := s.spaces[id]
	if r == nil {
		return nil, 0
	}
	bound := float32(least)
	for _, it := range r.items {
		if now.After(it.expires) {
			expired++
			continue
		}
		similarity, ok := v.similarity(&it.vector, bound)
		// The same threshold for everybody: what rounding takes off is given back here and in Redis alike.
		if !ok || len(found) == n && similarity <= found[n-1].similarity {
			continue
		}
		if len(found) == n {
			found = found[:n-1]
		}
		at, _ := slices.BinarySearchFunc(found, similarity, func(a near, b float32) int {
			if a.similarity > b {
				return -1
			}
			return 1
		})
		found = slices.Insert(found, at, near{it, similarity})
		if len(found) == n {
			bound = max(bound, found[n-1].similarity)
		}
	}
	return found, expired
}

func (m *memory) add(_ context.Context, sp *space, v *vector, key cache.Key, expires time.Time) error {
	size := v.bytes() + overhead
	if size > m.most {
		return nil
	}
	s := m.shelf(sp.policy, true)
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	r := s.spaces[sp.id]
	if r == nil {
		r = &room{space: *sp, byKey: map[cache.Key]*item{}}
		s.spaces[sp.id] = r
	}
	if old := r.byKey[key]; old != nil {
		m.drop(s, old)
		s.spaces[sp.id] = r // it may have become empty
	}
	it := &item{key: key, vector: *v, expires: expires, room: r, at: len(r.items)}
	r.items = append(r.items, it)
	r.byKey[key] = it
	it.element = s.recent.PushFront(it)
	s.bytes += size
	m.used.Add(size)
	for s.recent.Len() > sp.most {
		m.drop(s, s.recent.Back().Value.(*item))
	}
	s.mu.Unlock()
	m.shrink()
	return nil
}

// shrink makes room where all policies together have too much: the one that has most gives.
func (m *memory) shrink() {
	for m.used.Load() > m.most {
		var largest *shelf
		var most int64
		m.mu.Lock()
		for _, s := range m.shelves {
			s.mu.RLock()
			if s.bytes > most {
				largest, most = s, s.bytes
			}
			s.mu.RUnlock()
		}
		m.mu.Unlock()
		if largest == nil {
			return
		}
		largest.mu.Lock()
		if last := largest.recent.Back(); last != nil {
			m.drop(largest, last.Value.(*item))
		}
		largest.mu.Unlock()
	}
}

// drop forgets an item; the shelf is locked.
func (m *memory) drop(s *shelf, it *item) {
	r := it.room
	last := len(r.items) - 1
	r.items[it.at] = r.items[last]
	r.items[it.at].at = it.at
	r.items[last] = nil
	r.items = r.items[:last]
	delete(r.byKey, it.key)
	if last == 0 {
		delete(s.spaces, r.space.id)
	}
	s.recent.Remove(it.element)
	it.gone = true
	size := it.vector.bytes() + overhead
	s.bytes -= size
	m.used.Add(-size)
}

func (m *memory) remove(_ context.Context, sp *space, key cache.Key) error {
	if s := m.shelf(sp.policy, false); s != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		if r := s.spaces[sp.id]; r != nil {
			if it := r.byKey[key]; it != nil {
				m.drop(s, it)
			}
		}
	}
	return nil
}

func (m *memory) purge(_ context.Context, sel *cache.Selector) (n int, _ error) {
	m.mu.Lock()
	var shelves []*shelf
	for policy, s := range m.shelves {
		if sel.Policy == "" || sel.Policy == policy {
			shelves = append(shelves, s)
		}
	}
	m.mu.Unlock()
	for _, s := range shelves {
		s.mu.Lock()
		for e := s.recent.Front(); e != nil; {
			it := e.Value.(*item)
			e = e.Next()
			sp := &it.room.space
			if (sel.Tenant == "" || sel.Tenant == sp.tenant) && (sel.Model == "" || sel.Model == sp.model) && (sel.Key == nil || *sel.Key == it.key) {
				m.drop(s, it)
				n++
			}
		}
		s.mu.Unlock()
	}
	return n, nil
}

// keep forgets what the policies that are not among those have.
func (m *memory) keep(policies map[string]bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for policy, s := range m.shelves {
		if !policies[policy] {
			s.mu.Lock()
			m.used.Add(-s.bytes)
			s.closed, s.bytes, s.spaces, s.recent = true, 0, map[[16]byte]*room{}, list.New()
			s.mu.Unlock()
			delete(m.shelves, policy)
		}
	}
}

// count tells how many items a policy has.
func (m *memory) count() map[string]int {
	m.mu.Lock()
	defer m.mu.Unlock()
	counts := map[string]int{}
	for policy, s := range m.shelves {
		s.mu.RLock()
		counts[policy] = s.recent.Len()
		s.mu.RUnlock()
	}
	return counts
}
