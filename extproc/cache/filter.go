package cache

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"math"
	"math/bits"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bits-and-blooms/bloom/v3"
	"github.com/prometheus/client_golang/prometheus"
)

const (
	// recentKeys that Redis lists, so that replicas need not read the whole filter when it has changed.
	recentKeys = 4096
	// page of a filter that is read at once, in bytes.
	page = 256 << 10
	// makeBatch is how many positions are written at once while a filter is made.
	makeBatch = 2000
	// makeLock is how long a replica that died keeps the others from making a filter.
	makeLock = 30 * time.Second
	// remakeAfter is the least age of a filter that is made anew because it is too full or of another size.
	remakeAfter = 10 * time.Minute
	// tokenLen of what makes an entry of the list unlike any other.
	tokenLen = 8
)

// filter is the bloom filter of one policy: what it does not have, Redis does not have. The truth is in Redis; each replica
// has a copy, which it asks only while it has heard less than freshFor ago what was added. A key is added before its record is
// written, and early enough for every copy. Whenever anything does not fit (Redis lost the filter, or went back in time), it is
// made anew from the keys that Redis has, and nobody asks it until it is complete.
type filter struct {
	policy  string
	want    Bloom
	keys    []string
	answers filterAnswers

	view    atomic.Pointer[view]
	freshAt atomic.Int64 // when the last look that succeeded began, in Unix nanoseconds
	working atomic.Bool  // it is being read or made; nothing below is used by the beat then

	n       int64  // keys added in this epoch, as far as is known
	last    string // the last one in the list
	spoilt  string // epoch that has lost keys, and is not asked again
	since   time.Time
	retryAt time.Time // to make it
}

type filterAnswers struct{ no, right, wrong prometheus.Counter }

// view is a copy of one epoch. Bits are only ever set.
type view struct {
	epoch string
	m, k  uint
	words []atomic.Uint64
	set   atomic.Int64 // bits
}

func newFilter(r *remote, p *Policy) *filter {
	at := r.prefix + "{filter." + short(p.ID) + "}:"
	return &filter{
		policy: p.ID, want: *p.Bloom, answers: r.c.metrics.filterAnswers(p.ID),
		keys: []string{at + "state", at + "bits", at + "recent", at + "lock"},
	}
}

// filter of a policy; nil where it has none.
func (r *remote) filter(p *Policy) *filter {
	if p.Bloom == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	f := r.filters[p.ID]
	if f == nil || f.want != *p.Bloom {
		fresh := newFilter(r, p)
		r.filters[p.ID] = fresh
		return fresh
	}
	return f
}

func (r *remote) all() []*filter {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]*filter, 0, len(r.filters))
	for _, f := range r.filters {
		out = append(out, f)
	}
	return out
}

// use makes the filters of the policies, and lets go of others.
func (r *remote) use(used map[string]*Policy) {
	for _, p := range used {
		if p.Redis {
			r.filter(p)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for id := range r.filters {
		if p := used[id]; p == nil || !p.Redis || p.Bloom == nil {
			delete(r.filters, id)
		}
	}
}

// positions of a key.
func positions(k Key, m, hashes uint) []uint64 {
	at := bloom.Locations(k[:], hashes)
	for i := range at {
		at[i] %= uint64(m)
	}
	return at
}

func (v *view) add(k Key) {
	for _, at := range positions(k, v.m, v.k) {
		if bit := uint64(1) << (at % 64); v.words[at/64].Or(bit)&bit == 0 {
			v.set.Add(1)
		}
	}
}

func (v *view) has(k Key) bool {
	for _, at := range positions(k, v.m, v.k) {
		if v.words[at/64].Load()&(1<<(at%64)) == 0 {
			return false
		}
	}
	return true
}

// estimate of the keys that it holds.
func (v *view) estimate() float64 {
	x, m := float64(v.set.Load()), float64(v.m)
	if x >= m {
		return math.Inf(1)
	}
	return -m / float64(v.k) * math.Log1p(-x/m)
}

// absent tells whether Redis surely has no record of the key, and whether the filter could be asked at all.
func (f *filter) absent(k Key, r *remote) (absent, asked bool) {
	v := f.view.Load()
	if v == nil {
		return false, false
	}
	now := r.c.now().UnixNano()
	if now-f.freshAt.Load() >= int64(freshFor) || now-r.joined.Load() < 2*int64(freshFor) {
		return false, false
	}
	return !v.has(k), true
}

// filterState is what Redis says of a filter.
type filterState struct {
	epoch string
	n     int64
	ready bool
	m, k  uint
	list  []any // recent keys, newest first
}

var errFilter = errors.New("the state of a bloom filter in Redis is not what Weir writes")

// look asks for the state, and for the keys after n of the epoch.
func (f *filter) look(ctx context.Context, r *remote, epoch string, n int64) (*filterState, error) {
	out, err := r.script(ctx, r.scripts.filter, f.keys, "look", epoch, n).Slice()
	if err != nil || len(out) == 0 {
		return nil, err
	}
	if len(out) != 6 {
		return nil, errFilter
	}
	s := &filterState{}
	var numbers [3]uint64
	for i, at := range []int{1, 3, 4} {
		text, _ := out[at].(string)
		if numbers[i], err = strconv.ParseUint(text, 10, 40); err != nil {
			return nil, errFilter
		}
	}
	s.epoch, _ = out[0].(string)
	ready, _ := out[2].(string)
	s.list, _ = out[5].([]any)
	s.n, s.ready, s.m, s.k = int64(numbers[0]), ready == "1", uint(numbers[1]), uint(numbers[2])
	if s.m == 0 || s.m > math.MaxUint32 || s.k == 0 || s.k > 64 {
		return nil, errFilter
	}
	return s, nil
}

// follow brings the copy up to date. What takes long is done in a goroutine of working.
func (f *filter) follow(ctx context.Context, r *remote, working *sync.WaitGroup) {
	if f.working.Load() {
		return
	}
	began := r.c.now()
	v := f.view.Load()
	epoch := ""
	if v != nil {
		epoch = v.epoch
	}
	s, err := f.look(ctx, r, epoch, f.n)
	later := func(work func(context.Context, *remote) error) {
		f.working.Store(true)
		working.Go(func() {
			defer f.working.Store(false)
			if err := work(ctx, r); err != nil && ctx.Err() == nil && !f.mend(ctx, r, err) {
				r.failed("filter", err)
			}
		})
	}
	switch {
	case errors.Is(err, errFilter):
		r.c.metrics.errors.WithLabelValues("filter").Inc()
		f.remake(r, began, later)
	case err != nil:
		if ctx.Err() != nil {
			return
		}
		if !f.mend(ctx, r, err) {
			r.failed("filter", err)
			return
		}
		f.view.Store(nil) // the next look finds no state, or what another replica makes
	case s == nil || !s.ready:
		f.view.Store(nil)
		f.remake(r, began, later)
	case s.epoch == f.spoilt:
		f.spoil(ctx, r, s.epoch)
		f.remake(r, began, later)
	case v == nil || s.epoch != v.epoch:
		f.view.Store(nil)
		later(f.load)
	case !f.take(v, s):
		// The list is not the one that was read before, or too short: the filter may have lost keys.
		f.view.Store(nil)
		if s.n >= f.n && s.n-f.n >= int64(len(s.list)) {
			later(f.load) // only behind
			return
		}
		f.spoil(ctx, r, s.epoch)
		f.remake(r, began, later)
	default:
		f.freshAt.Store(began.UnixNano())
		r.c.metrics.filterKeys.WithLabelValues(f.policy).Set(v.estimate())
		m, k := f.size()
		if began.Sub(f.since) > remakeAfter && (v.m != m || v.k != k || v.estimate() > 1.05*float64(f.want.Keys)) {
			f.remake(r, began, later)
		}
	}
}

// spoil tells every replica not to ask this epoch any more.
func (f *filter) spoil(ctx context.Context, r *remote, epoch string) {
	f.spoilt = epoch
	if err := r.script(ctx, r.scripts.filter, f.keys, "spoil", epoch).Err(); err != nil && ctx.Err() == nil {
		r.failed("filter", err)
	}
}

// mend removes what somebody else has put in place of a part of the filter, so that it can be made anew. err is what Redis said to a command; the
// answer says whether that was why, and is not any more.
func (f *filter) mend(ctx context.Context, r *remote, err error) bool {
	if !strings.Contains(err.Error(), "WRONGTYPE") { // a script may say where it was before that
		return false
	}
	wrong, err := r.script(ctx, r.scripts.filter, f.keys, "mend").Int64()
	if err != nil {
		return false
	}
	if wrong > 0 { // else another replica was faster
		r.c.metrics.errors.WithLabelValues("filter").Inc()
		if r.mayTell() {
			r.c.log.Warn("Redis had something else in place of a policy's bloom filter; that was removed, and the filter is made anew", "policy", f.policy)
		}
	}
	return true
}

func (f *filter) size() (m, k uint) {
	m, k = bloom.EstimateParameters(uint(f.want.Keys), f.want.FalsePositives)
	return min(m, math.MaxUint32), k
}

// remake makes the filter anew, not more often than each second.
func (f *filter) remake(r *remote, now time.Time, later func(func(context.Context, *remote) error)) {
	if now.Before(f.retryAt) || !r.writable() {
		return
	}
	f.retryAt = now.Add(pause)
	later(f.make)
}

// take adds the keys of a look. false: they do not follow on what is known.
func (f *filter) take(v *view, s *filterState) bool {
	more := s.n - f.n
	if more < 0 {
		return false
	}
	want := more
	if f.last != "" {
		want++
	}
	if int64(len(s.list)) < want {
		return false
	}
	if f.last != "" && s.list[more] != f.last {
		return false
	}
	for i := range more {
		text, _ := s.list[i].(string)
		if len(text) != len(Key{})+tokenLen {
			return false
		}
		v.add(Key([]byte(text[:len(Key{})])))
	}
	if more > 0 {
		f.last, _ = s.list[0].(string)
	}
	f.n = s.n
	return true
}

// load reads the whole filter.
func (f *filter) load(ctx context.Context, r *remote) error {
	s, err := f.look(ctx, r, "", 0)
	if err != nil || s == nil || !s.ready {
		return err
	}
	v := &view{epoch: s.epoch, m: s.m, k: s.k, words: make([]atomic.Uint64, (s.m+63)/64)}
	size := (int64(s.m) + 7) / 8
	for at := int64(0); at < size; at += page {
		bounded, cancel := r.bound(ctx)
		raw, err := r.conn.GetRange(bounded, f.keys[1], at, min(at+page, size)-1).Bytes()
		cancel()
		if err != nil {
			return err
		}
		if int64(len(raw)) != min(page, size-at) {
			return nil // it has just been made anew: the next look sees that
		}
		for i, b := range raw {
			if b == 0 {
				continue
			}
			// Redis counts bits from the highest of a byte.
			j := uint64(at) + uint64(i)
			v.words[j/8].Or(uint64(bits.Reverse8(b)) << (8 * (j % 8)))
			v.set.Add(int64(bits.OnesCount8(b)))
		}
	}
	f.n, f.last, f.since = s.n, "", r.c.now()
	if len(s.list) > 0 {
		f.last, _ = s.list[0].(string)
	}
	f.freshAt.Store(0) // until the next look, which brings what was added meanwhile
	f.view.Store(v)
	return nil
}

// make makes a filter of what Redis has. Records that were announced to the one before are written by the time it looks.
func (f *filter) make(ctx context.Context, r *remote) error {
	m, k := f.size()
	var random [16]byte
	_, _ = rand.Read(random[:]) // never fails
	epoch := hex.EncodeToString(random[:])
	done, err := r.script(ctx, r.scripts.filter, f.keys, "make", epoch, m, k, makeLock.Milliseconds()).Int64()
	if err != nil || done == 0 {
		return err
	}
	f.view.Store(nil)
	timer := time.NewTimer(2 * r.grace)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		// The next to try need not wait until the lock ends. Where this fails it does.
		_ = r.script(ctx, r.scripts.filter, f.keys, "leave", epoch).Err()
		return nil
	}
	var batch []any
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		args := append([]any{"fill", epoch, makeLock.Milliseconds()}, batch...)
		done, err := r.script(ctx, r.scripts.filter, f.keys, args...).Int64()
		if err == nil && done == 0 {
			err = errRemade
		}
		batch = batch[:0]
		return err
	}
	err = r.scan(ctx, r.prefix+"*:e:"+short(f.policy)+":*", func(keys []string) error {
		for _, key := range keys {
			if name, ok := keyOfName(key); ok {
				for _, at := range positions(name, m, k) {
					batch = append(batch, at)
				}
			}
			if len(batch) >= makeBatch {
				if err := flush(); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err == nil {
		err = flush()
	}
	if err == nil {
		err = r.script(ctx, r.scripts.filter, f.keys, "ready", epoch).Err()
	}
	if errors.Is(err, errRemade) {
		return nil
	}
	if err == nil {
		r.c.metrics.filterMade.WithLabelValues(f.policy).Inc()
	}
	return err
}

// errRemade says that somebody else makes the filter by now.
var errRemade = errors.New("the filter is made by another replica")

// announce adds a key to the filter before its record is written.
func (r *remote) announce(ctx context.Context, p *Policy, key Key) (announced, error) {
	f := r.filter(p)
	if f == nil {
		return announced{}, nil
	}
	r.touch()
	var element [len(key) + tokenLen]byte
	copy(element[:], key[:])
	_, _ = rand.Read(element[len(key):]) // never fails
	for range 4 {
		v := f.view.Load()
		if v == nil {
			// It is not read yet, or there is none. Who makes it then finds the record, and who has a copy of what was lost has
			// let go of it by the time the record can be found.
			s, err := f.look(ctx, r, "", 0)
			if err != nil && f.mend(ctx, r, err) {
				continue
			}
			if err != nil && !errors.Is(err, errFilter) {
				return announced{}, err
			}
			if s == nil {
				return announced{at: r.c.now().UnixNano(), alone: r.lonely(freshFor)}, nil
			}
			v = &view{epoch: s.epoch, m: s.m, k: s.k}
		}
		args := []any{"add", v.epoch, element[:], recentKeys}
		for _, at := range positions(key, v.m, v.k) {
			args = append(args, at)
		}
		done, err := r.script(ctx, r.scripts.filter, f.keys, args...).Int64()
		if err != nil && f.mend(ctx, r, err) {
			continue
		}
		if err != nil {
			return announced{}, err
		}
		if done == 1 {
			alone := r.lonely(freshFor)
			if len(v.words) > 0 {
				v.add(key)
			}
			return announced{at: r.c.now().UnixNano(), alone: alone}, nil
		}
		f.view.CompareAndSwap(v, nil)
	}
	return announced{}, errors.New("the bloom filter changed while a key was added to it")
}
