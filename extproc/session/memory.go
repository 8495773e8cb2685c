package session

import (
	"container/list"
	"context"
	"maps"
	"slices"
	"sync"
	"time"
)

// memory is the Store of one process. Each policy has a part of its own, bounded by bytes; the least recently used values go first.
type memory struct {
	now     func() time.Time
	evicted func(part string)

	mu    sync.Mutex
	at    map[Ref]*kept
	parts map[string]*part
	names map[string]map[string]map[string]struct{} // tenant, consumer, ID: what is not hidden
}

type part struct {
	used, limit int64
	order       *list.List // of *kept; the front was used last
}

type kept struct {
	ref     Ref
	value   []byte
	version Version
	expires time.Time
	hidden  bool
	part    string
	place   *list.Element
}

// keptBytes is what an entry takes beside its value: hashes, maps, the list.
const keptBytes = 512

func (k *kept) size() int64 { return int64(len(k.value)) + keptBytes }

func newMemory(now func() time.Time, evicted func(part string)) *memory {
	return &memory{now: now, evicted: evicted, at: map[Ref]*kept{}, parts: map[string]*part{}, names: map[string]map[string]map[string]struct{}{}}
}

// Get implements Store.
func (m *memory) Get(_ context.Context, at Ref) ([]byte, Version, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k := m.live(at)
	if k == nil {
		return nil, Version{}, nil
	}
	m.parts[k.part].order.MoveToFront(k.place)
	return k.value, k.version, nil
}

// live is what is there and has not expired.
func (m *memory) live(at Ref) *kept {
	k := m.at[at]
	if k != nil && !k.expires.After(m.now()) {
		m.drop(k)
		return nil
	}
	return k
}

// Put implements Store.
func (m *memory) Put(_ context.Context, at Ref, value []byte, was Version, l Life) (Version, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var have Version
	old := m.live(at)
	if old != nil {
		have = old.version
	}
	if have != was {
		return Version{}, ErrConflict
	}
	if old != nil {
		m.drop(old)
	}
	k := &kept{ref: at, value: value, version: newVersion(), expires: m.now().Add(l.TTL), hidden: l.Hidden, part: l.Part}
	p := m.parts[l.Part]
	if p == nil {
		p = &part{order: list.New()}
		m.parts[l.Part] = p
	}
	p.limit = l.PartBytes
	k.place = p.order.PushFront(k)
	p.used += k.size()
	m.at[at] = k
	if !k.hidden {
		m.name(at)
	}
	for p.used > p.limit && p.order.Len() > 1 { // the newest stays
		m.drop(p.order.Back().Value.(*kept))
		m.evicted(l.Part)
	}
	return k.version, nil
}

// Remove implements Store.
func (m *memory) Remove(_ context.Context, at Ref, was Version) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	k := m.live(at)
	if k == nil {
		return nil
	}
	if k.version != was {
		return ErrConflict
	}
	m.drop(k)
	return nil
}

func (m *memory) drop(k *kept) {
	p := m.parts[k.part]
	p.order.Remove(k.place)
	if p.used -= k.size(); p.order.Len() == 0 {
		delete(m.parts, k.part)
	}
	delete(m.at, k.ref)
	if !k.hidden {
		consumers := m.names[k.ref.Tenant]
		if delete(consumers[k.ref.Consumer], k.ref.ID); len(consumers[k.ref.Consumer]) == 0 {
			delete(consumers, k.ref.Consumer)
		}
		if len(consumers) == 0 {
			delete(m.names, k.ref.Tenant)
		}
	}
}

func (m *memory) name(at Ref) {
	consumers := m.names[at.Tenant]
	if consumers == nil {
		consumers = map[string]map[string]struct{}{}
		m.names[at.Tenant] = consumers
	}
	ids := consumers[at.Consumer]
	if ids == nil {
		ids = map[string]struct{}{}
		consumers[at.Consumer] = ids
	}
	ids[at.ID] = struct{}{}
}

// Tenants implements Store.
func (m *memory) Tenants(context.Context) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Sorted(maps.Keys(m.names)), nil
}

// Consumers implements Store.
func (m *memory) Consumers(_ context.Context, tenant string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Sorted(maps.Keys(m.names[tenant])), nil
}

// IDs implements Store.
func (m *memory) IDs(_ context.Context, tenant, consumer string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Sorted(maps.Keys(m.names[tenant][consumer])), nil
}

// sweep looks at up to limit values and drops those that have expired.
func (m *memory) sweep(limit int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	for _, k := range m.at { // in another order each time
		if limit--; limit < 0 {
			break
		}
		if !k.expires.After(now) {
			m.drop(k)
		}
	}
}

// count says how many values and bytes there are. Values of policies that are not there any more count as well: they stay until they expire,
// or are used under another policy, so that a policy that is renamed loses nothing.
func (m *memory) count() (values int, bytes int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.parts {
		bytes += p.used
	}
	return len(m.at), bytes
}
