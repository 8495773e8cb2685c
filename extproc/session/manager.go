package session

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Options of a Manager.
type Options struct {
	// Now is the clock.
	Now func() time.Time
	Log *slog.Logger
	// Place of the shared Redis; nil: there is never one.
	Place Place
	// Metrics are registered here; nil: nowhere.
	Metrics prometheus.Registerer
}

// Manager keeps the sessions of a process. It is safe for concurrent use.
type Manager struct {
	now     func() time.Time
	log     *slog.Logger
	memory  *memory
	redis   *inRedis // nil: none
	codec   *codec
	metrics *metrics
	locks   locks
	timers  timers
	sums    sync.Map // Ref of sessions that are summed up now

	// stores are memory and redis, as what reads and writes sessions sees them.
	stores struct{ own, shared Store }

	policies atomic.Pointer[map[string]*Policy]

	ctx  context.Context // of what goes on after a request
	stop context.CancelFunc
	work chan struct{} // has an element for each thing that goes on
	mu   sync.Mutex    // of closed, and of adding to wait
	shut bool
	wait sync.WaitGroup
}

const (
	// maxWork bounds summaries and extractions that go on at once; more are skipped, and counted.
	maxWork = 32
	// tombstoneTTL is how long it is remembered that a session was erased: longer than a request may take.
	tombstoneTTL = time.Hour
	// maxTries to write what others write too.
	maxTries = 50
	// writeTimeout bounds what is written when a request is over, tries included.
	writeTimeout = 5 * time.Second
	// sweepEvery and sweepMany bound how long expired sessions stay in memory.
	sweepEvery = time.Second
	sweepMany  = 2000
)

// ErrErased says that a session was erased while a request was under way.
var ErrErased = errors.New("the session was erased meanwhile")

// ErrTooLarge says that a session is larger than its policy lets it be, with nothing to forget.
var ErrTooLarge = errors.New("the session is larger than keep.bytes of its policy")

// New makes a Manager.
func New(o Options) (*Manager, error) {
	c, err := newCodec()
	if err != nil {
		return nil, err
	}
	m := &Manager{now: o.Now, log: o.Log, codec: c, work: make(chan struct{}, maxWork)}
	m.memory = newMemory(o.Now, func(part string) { m.metrics.evicted.WithLabelValues(part).Inc() })
	m.metrics = newMetrics(o.Metrics, m.memory.count)
	m.stores.own = m.memory
	if o.Place != nil {
		m.redis = newInRedis(o.Place, o.Now)
		m.stores.shared = m.redis
	}
	m.ctx, m.stop = context.WithCancel(context.Background())
	m.policies.Store(&map[string]*Policy{})
	return m, nil
}

// Use takes the policies that are in force from now on.
func (m *Manager) Use(list []*Policy) {
	now := make(map[string]*Policy, len(list))
	for _, p := range list {
		now[p.ID] = p
	}
	m.policies.Store(&now)
}

// Run leaves states whose time is over, and drops what has expired, until ctx ends.
func (m *Manager) Run(ctx context.Context) {
	t := time.NewTicker(sweepEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			m.Tick(ctx)
		}
	}
}

// Tick does once what Run does.
func (m *Manager) Tick(ctx context.Context) {
	m.memory.sweep(sweepMany)
	for range sweepMany {
		a, ok := m.timers.next(m.now())
		if !ok || ctx.Err() != nil {
			return
		}
		if err := m.timeOut(ctx, a); err != nil {
			m.failed("timeout", err)
		}
	}
}

// timeOut leaves the state of a session if its time is over; it is another replica's work where that has been faster.
func (m *Manager) timeOut(ctx context.Context, a Address) error {
	for _, p := range m.readers() {
		s, _, err := m.load(ctx, p, a)
		if err != nil {
			return err
		}
		if s == nil {
			continue
		}
		if p = m.policy(s.Policy); p == nil || p.Machine == nil {
			return nil
		}
		_, err = m.change(ctx, p, a, func(s *Session, there bool, tell func(Event)) (bool, error) {
			return there && p.Machine.expire(s, m.now(), tell), nil
		})
		return err
	}
	return nil
}

func (m *Manager) policy(id string) *Policy { return (*m.policies.Load())[id] }

// readers are stand-ins for policies that read what is in each of the stores, whatever policy wrote it.
func (m *Manager) readers() []*Policy {
	list := []*Policy{{}}
	if m.redis != nil {
		if conn, _ := m.redis.place(); conn != nil {
			list = append(list, &Policy{Redis: true})
		}
	}
	return list
}

// Close ends what goes on after requests, and waits for it.
func (m *Manager) Close() {
	m.mu.Lock()
	m.shut = true
	m.mu.Unlock()
	m.stop()
	m.wait.Wait()
}

// Wait waits for what goes on after requests that have ended.
func (m *Manager) Wait() { m.wait.Wait() }

// later does something after a request; it says whether there is room for it.
func (m *Manager) later(what func(ctx context.Context)) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.shut {
		return false
	}
	select {
	case m.work <- struct{}{}:
	default:
		return false
	}
	m.wait.Go(func() {
		defer func() { <-m.work }()
		what(m.ctx)
	})
	return true
}

func (m *Manager) failed(operation string, err error) {
	m.metrics.failures.WithLabelValues(operation).Inc()
	// Errors of this package and of Redis hold no texts.
	m.log.Warn("a session could not be used", "operation", operation, "error", err)
}

func (m *Manager) storeOf(p *Policy) Store {
	if p.Redis && m.stores.shared != nil {
		return m.stores.shared
	}
	return m.stores.own
}

// key finds a key of any policy that is in force, beginning with p: a session may have been written under another one.
func (m *Manager) key(p *Policy) func(id [keyIDLen]byte) *Key {
	return func(id [keyIDLen]byte) *Key {
		for _, k := range p.Keys {
			if k.id == id {
				return k
			}
		}
		for _, other := range *m.policies.Load() {
			for _, k := range other.Keys {
				if k.id == id {
					return k
				}
			}
		}
		return nil
	}
}

// load reads what is at an address, a note that it was erased included; nil where there is nothing.
func (m *Manager) load(ctx context.Context, p *Policy, a Address) (*Session, Version, error) {
	return m.loadRef(ctx, p, a.Ref())
}

func (m *Manager) loadRef(ctx context.Context, p *Policy, at Ref) (*Session, Version, error) {
	blob, v, err := m.storeOf(p).Get(ctx, at)
	if err != nil || blob == nil {
		return nil, v, err
	}
	s, err := m.decode(p, at, blob)
	return s, v, err
}

// decode gives the session of a value; nil where its time is over. Its Version counts then, too, so that it is replaced.
func (m *Manager) decode(p *Policy, at Ref, blob []byte) (*Session, error) {
	s, err := m.codec.decode(blob, at, m.key(p), len(p.Keys) > 0)
	if err != nil || m.ended(s) {
		return nil, err
	}
	return s, nil
}

// ended says whether the time of a session is over.
func (m *Manager) ended(s *Session) bool { return !s.Erased && !s.Expires.After(m.now()) }

// seen is what was found at an address: nil and the Version of nothing, perhaps.
type seen struct {
	session *Session
	version Version
}

// again reads what is at an address, where it may well be what was read before: then that is not decoded anew. From Redis it is not even
// fetched: a write does not succeed if something else is there. So who may find nothing to change must not begin with what was read before.
func (m *Manager) again(ctx context.Context, p *Policy, at Ref, before *seen) (*Session, Version, error) {
	if before == nil || before.session != nil && m.ended(before.session) {
		return m.loadRef(ctx, p, at)
	}
	if !p.Redis {
		blob, v, err := m.storeOf(p).Get(ctx, at)
		if err != nil {
			return nil, v, err
		}
		if v != before.version {
			if blob == nil {
				return nil, v, nil
			}
			s, err := m.decode(p, at, blob)
			return s, v, err
		}
	}
	if before.session == nil {
		return nil, before.version, nil
	}
	return before.session.clone(), before.version, nil
}

// Load reads a session; nil where there is none.
func (m *Manager) Load(ctx context.Context, p *Policy, a Address) (*Session, error) {
	s, _, err := m.load(ctx, p, a)
	if err != nil || s == nil || s.Erased {
		return nil, err
	}
	if err := s.open(); err != nil {
		return nil, err
	}
	return s, nil
}

// Update changes a session, or the beginning of one where there is none. do may run several times, on what is there each time: it makes the
// same change to whatever it finds. An error of it is given back, and changes nothing. It may replace turns, which are not open, and does not change them.
func (m *Manager) Update(ctx context.Context, p *Policy, a Address, do func(*Session) error) (*Session, error) {
	return m.change(ctx, p, a, func(s *Session, _ bool, _ func(Event)) (bool, error) {
		if err := s.openResponses(); err != nil {
			return false, err
		}
		return true, do(s)
	})
}

// edit changes a session. It says whether it did, and what is told.
type edit func(s *Session, there bool, tell func(Event)) (changed bool, err error)

// change is Update for who needs to know whether the session is there, wants to tell events, or may find nothing to change.
func (m *Manager) change(ctx context.Context, p *Policy, a Address, do edit) (*Session, error) {
	now, err := m.changeFrom(ctx, p, a, nil, do)
	return now.session, err
}

// changeFrom is change for who has read the session before; nil: has not. It gives what is there now.
func (m *Manager) changeFrom(ctx context.Context, p *Policy, a Address, before *seen, do edit) (seen, error) {
	at := a.Ref()
	release, err := m.locks.take(ctx, at)
	if err != nil {
		return seen{}, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	defer release()
	began := m.now()
	damaged := Version{} // of a value of which a part cannot be read
	for try := range maxTries {
		if try > 0 {
			before = nil
			m.metrics.conflicts.Inc()
			if err := pauseFor(ctx, try); err != nil {
				return seen{}, fmt.Errorf("%w: %w", ErrUnavailable, err)
			}
		}
		have, v, err := m.again(ctx, p, at, before)
		if err != nil && !errors.Is(err, errReplaceable) {
			return seen{}, err
		}
		if v != (Version{}) && v == damaged {
			have = nil
		}
		there := have != nil && !have.Erased
		s := m.start(p, a, have)
		var events []Event
		changed, err := do(s, there, func(e Event) { events = append(events, e); s.note(e) })
		gone := s.Forgotten
		now := seen{s, v}
		if err == nil && changed {
			now.version, err = m.save(ctx, p, a, s, v)
		}
		if errors.Is(err, errReplaceable) && damaged != v {
			damaged = v // the next try begins anew
			continue
		}
		if errors.Is(err, ErrConflict) {
			continue
		}
		if err != nil || !changed {
			return now, err
		}
		if n := s.Forgotten - gone; n > 0 {
			m.metrics.forgotten.WithLabelValues(p.ID, "size").Add(float64(n))
		}
		m.tell(p, events)
		m.metrics.seconds.WithLabelValues("write").Observe(m.now().Sub(began).Seconds())
		return now, nil
	}
	return seen{}, fmt.Errorf("%w, %d times in a row", ErrConflict, maxTries)
}

// start is a session to change: what is there, or a new one.
func (m *Manager) start(p *Policy, a Address, have *Session) *Session {
	if have != nil && !have.Erased {
		return have
	}
	now := m.now()
	s := &Session{Tenant: a.Tenant, Consumer: a.Consumer, ID: a.ID, Created: now}
	if have != nil {
		s.Erasure = have.Erasure
	}
	if p.Machine != nil {
		p.Machine.begin(s, now)
	}
	return s
}

// save writes a session that was changed, in place of what was read.
func (m *Manager) save(ctx context.Context, p *Policy, a Address, s *Session, was Version) (Version, error) {
	if err := s.trim(p.KeepTurns, p.KeepBytes); err != nil {
		return Version{}, err
	}
	if s.responsesBytes() > p.KeepBytes {
		return Version{}, ErrTooLarge
	}
	now := m.now()
	s.Policy, s.Used = p.ID, now
	s.Revision++
	s.Expires = now.Add(p.Idle)
	if end := s.Created.Add(p.Absolute); end.Before(s.Expires) {
		s.Expires = end
	}
	at := a.Ref()
	blob, err := m.codec.encode(s, at, p.writes())
	if err != nil {
		return Version{}, err
	}
	life := Life{TTL: s.Expires.Sub(now), Part: p.ID, PartBytes: p.MemoryBytes}
	if life.TTL <= 0 {
		life.TTL = time.Millisecond
	}
	v, err := m.storeOf(p).Put(ctx, at, blob, was, life)
	if err != nil {
		return Version{}, err
	}
	if p.Machine != nil {
		due, _ := p.Machine.due(s)
		m.timers.set(a, at, due)
	}
	return v, nil
}

// pauseFor waits a little before the next try: longer each time, and each for a time of its own.
func pauseFor(ctx context.Context, try int) error {
	most := time.Millisecond << min(try, 6)
	t := time.NewTimer(time.Duration(mathrand.Int64N(int64(most))))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// tell counts and logs events.
func (m *Manager) tell(p *Policy, events []Event) {
	for _, e := range events {
		m.metrics.events.WithLabelValues(p.ID, e.Name, e.To).Inc()
		m.log.Info("a session's state was told an event", "policy", p.ID, "event", e.Name, "from", e.From, "to", e.To)
	}
}

// Erase erases a session for good: a request that is under way does not bring it back, nor the beginning of one whose first request is. It
// says whether there was one. Sessions are looked for in memory and in Redis.
func (m *Manager) Erase(ctx context.Context, a Address) (bool, error) {
	was := false
	var errs []error
	for _, p := range m.readers() {
		done, err := m.erase(ctx, p, a.Ref(), &a)
		was = was || done
		errs = append(errs, err)
	}
	return was, errors.Join(errs...)
}

// erase puts a note in place of a session, also where there is none yet. name is nil where only the Ref is known: then there is no note in
// place of what cannot be read, which is only removed.
func (m *Manager) erase(ctx context.Context, p *Policy, at Ref, name *Address) (bool, error) {
	release, err := m.locks.take(ctx, at)
	if err != nil {
		return false, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	defer release()
	store := m.storeOf(p)
	for try := range maxTries {
		if try > 0 {
			if err := pauseFor(ctx, try); err != nil {
				return false, err
			}
		}
		blob, v, err := store.Get(ctx, at)
		if err != nil {
			return false, err
		}
		if blob == nil && (name == nil || !m.inUse(store)) {
			return false, nil
		}
		var s *Session // nil: there is none, or it cannot be read
		if blob != nil {
			s, _ = m.codec.decode(blob, at, m.key(p), false)
		}
		switch {
		case s != nil: // a note as well: a request that knows it may be under way
			err = m.bury(ctx, store, s, v)
		case name != nil:
			err = m.bury(ctx, store, &Session{Tenant: name.Tenant, Consumer: name.Consumer, ID: name.ID}, v)
		default:
			err = store.Remove(ctx, at, v)
		}
		if errors.Is(err, ErrConflict) {
			continue
		}
		if err != nil {
			return false, err
		}
		if blob == nil || s != nil && s.Erased {
			return false, nil
		}
		m.timers.set(Address{}, at, time.Time{})
		m.metrics.erased.Inc()
		if s != nil {
			m.metrics.forgotten.WithLabelValues(s.Policy, "erased").Add(float64(len(s.Turns)))
		}
		return true, nil
	}
	return false, fmt.Errorf("%w, %d times in a row", ErrConflict, maxTries)
}

// inUse says whether a policy in force keeps its sessions in a store.
func (m *Manager) inUse(store Store) bool {
	for _, p := range *m.policies.Load() {
		if m.storeOf(p) == store {
			return true
		}
	}
	return false
}

// common is the key of what no policy is known of, nil where none has keys. Policies that have some read nothing unencrypted, and all read
// what the key of another one has sealed.
func (m *Manager) common() *Key {
	var of *Policy
	for _, p := range *m.policies.Load() {
		if p.writes() != nil && (of == nil || p.ID < of.ID) {
			of = p
		}
	}
	if of == nil {
		return nil
	}
	return of.writes()
}

// bury puts the note in place of a session, under the key that the session's policy writes with.
func (m *Manager) bury(ctx context.Context, store Store, s *Session, was Version) error {
	k := m.common()
	life := Life{TTL: tombstoneTTL, PartBytes: 1 << 20, Hidden: true} // in a part of its own where the policy is not known
	if p := m.policy(s.Policy); p != nil {
		k, life.Part, life.PartBytes = p.writes(), p.ID, p.MemoryBytes
	}
	note := &Session{Tenant: s.Tenant, Consumer: s.Consumer, ID: s.ID, Erasure: newID(), Erased: true}
	at := Address{s.Tenant, s.Consumer, s.ID}.Ref()
	blob, err := m.codec.encode(note, at, k)
	if err != nil {
		return err
	}
	_, err = store.Put(ctx, at, blob, was, life)
	return err
}

// newID is 128 random bits.
func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
