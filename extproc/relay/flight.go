package relay

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/extproc/cache"
	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/extproc/session"
	"github.com/weir-dev/weir/extproc/table"
	"github.com/weir-dev/weir/extproc/wire"
	"github.com/weir-dev/weir/internal/trace"
	"github.com/weir-dev/weir/usage"
)

// Flight is a request of a caller between the door's decision, which lets it in, and the relay, which answers it. It does not change.
type Flight struct {
	ID       string // unguessable: whoever has it is let in
	Gateway  string // that it came in by, "namespace/name"
	Identity *identity.Identity
	Rule     *table.Rule
	Dialect  *canon.Dialect  // the caller's
	Endpoint *canon.Endpoint // of it
	Model    string          // the caller's name
	Stream   bool
	// RequestID is what the caller knows the request by.
	RequestID string
	Trace     trace.Place
	Open      *usage.Open
	// Cache and Session are the policies that apply; nil where none does.
	Cache   *table.Kept[table.CachePolicy]
	Session *table.Kept[table.SessionPolicy]
	// Resource says that it asks for something that the Responses API keeps, and Keepers are the policies that may have kept it, if there are
	// any. Such a request has no Rule and no Model.
	Resource bool
	Keepers  []*session.Policy
	// Begun is when it was decided, and Expires when Envoy ends it at the latest.
	Begun, Expires time.Time
}

// Fill is a request of the relay's on behalf of a caller, between the relay and the inner listener's decision, which says what came of it.
type Fill struct {
	*Flight
	ID string // unguessable, and good for one request
	// Purpose is what the relay asks for; "" where it is the answer to the caller.
	Purpose string
	// Cache is what came of the cache, for the fill's entry.
	Cache string
	// As is the path of the caller's request, where the fill's is another: the rule is found by it.
	As string
	// Claim is asked when the fill is let in, where others may read its answer; false: somebody else buys it already. nil: nobody but its
	// caller reads it.
	Claim func() bool
	// Sticky is what requests of one conversation have in common, so that they find their prompt cache; "" for none.
	Sticky string

	mu      sync.Mutex
	open    *usage.Open
	refused *canon.Error
	taken   bool // another buys the answer
}

// lost says whether another buys the answer, so that nobody waits for this one.
func (f *Fill) lost(ctx context.Context) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.taken || f.open == nil && errors.Is(context.Cause(ctx), cache.ErrTaken)
}

// Shared says that others may read the answer, so that it must come whole.
func (f *Fill) Shared() bool { return f.Claim != nil }

// Word is what wire.KeyFill and metrics say of the fill: its purpose, or that it answers its caller.
func (f *Fill) Word() string { return cmp.Or(f.Purpose, wire.FillAnswer) }

// Began notes that the fill was let in. The decision calls it before Envoy is told: the caller's record may come as soon as the caller leaves.
// false: the answer is being bought by another fill, and this one must go no further.
func (f *Fill) Began(o *usage.Open) bool {
	claimed := f.Claim == nil || f.Claim()
	f.mu.Lock()
	if f.taken = !claimed; f.taken {
		f.mu.Unlock()
		return false
	}
	f.open = o
	f.mu.Unlock()
	if f.answers() {
		f.Open.Serve(usage.Served{Cache: f.Cache, Fill: o})
	}
	return true
}

// Refuse notes that the fill was refused, and why.
func (f *Fill) Refuse(e *canon.Error) {
	f.mu.Lock()
	f.refused = e
	f.mu.Unlock()
	if f.answers() {
		f.Open.Serve(refusedWith(f.Cache, e))
	}
}

// Refused is why the fill was refused; nil where it was not.
func (f *Fill) Refused() *canon.Error {
	_, e := f.outcome()
	return e
}

// AsCaller says whether the fill asks for what its caller has asked for, and so needs the caller's rights. What else a policy has Weir ask for,
// whoever calls need not have rights to.
func (f *Fill) AsCaller() bool { return f.Purpose == "" || f.Purpose == purposeRefresh }

// answers says whether the fill is the answer to its caller.
func (f *Fill) answers() bool { return f.Purpose == "" }

// refusedWith is what the relay did with a request that it answered with an error.
func refusedWith(cache string, e *canon.Error) usage.Served {
	return usage.Served{Cache: cache, Refused: true, Refusal: e.Message, Policy: e.Policy, Kind: string(e.Kind)}
}

// cut says whether a budget ended the answer.
func (f *Fill) cut() bool {
	o, _ := f.outcome()
	return o != nil && o.WasCut()
}

// refusedByWeir says whether an answer is a refusal of Weir's own, and says nothing of what the provider would have answered.
func (l *landed) refusedByWeir() bool {
	o, refused := l.fill.outcome()
	return refused != nil || l.backend() == "" || o != nil && o.WasRefused()
}

// outcome is what the decision has said. It may be called on nil.
func (f *Fill) outcome() (*usage.Open, *canon.Error) {
	if f == nil {
		return nil, nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.open, f.refused
}

// Flights are the requests and fills that are on their way. It is safe for concurrent use.
type Flights struct {
	now     func() time.Time
	flights shelf[*Flight]
	fills   shelf[*Fill]
}

// NewFlights returns none yet.
func NewFlights(now func() time.Time) *Flights { return &Flights{now: now} }

// NewID returns 128 random bits in hexadecimal digits.
func NewID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// landing is how long something may be on its way: Envoy goes on with a decision at once, unless the caller has gone.
const landing = 30 * time.Second

// Put keeps a flight until it is taken.
func (x *Flights) Put(f *Flight) { x.flights.put(f.ID, f, x.now().Add(landing)) }

// Take returns a flight, once; nil for what is none.
func (x *Flights) Take(id string) *Flight { return x.flights.take(id) }

// PutFill keeps a fill until it is taken.
func (x *Flights) PutFill(f *Fill) { x.fills.put(f.ID, f, x.now().Add(landing)) }

// TakeFill returns the fill of that ID, once; nil for what is none.
func (x *Flights) TakeFill(id string) *Fill { return x.fills.take(id) }

// Drop forgets a flight whose caller has gone.
func (x *Flights) Drop(id string) { x.flights.take(id) }

// Sweep forgets what never landed, and says how many that were.
func (x *Flights) Sweep() int {
	now := x.now()
	return x.flights.sweep(now) + x.fills.sweep(now)
}

// Clear forgets everything: Envoy has died, and with it all that was on its way.
func (x *Flights) Clear() {
	x.flights.clear()
	x.fills.clear()
}

// shelf keeps things by an ID for a while.
type shelf[T any] struct {
	mu sync.Mutex
	m  map[string]shelved[T]
}

type shelved[T any] struct {
	what  T
	until time.Time
}

func (s *shelf[T]) put(id string, what T, until time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.m == nil {
		s.m = map[string]shelved[T]{}
	}
	s.m[id] = shelved[T]{what, until}
}

func (s *shelf[T]) take(id string) (what T) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if x, ok := s.m[id]; ok {
		delete(s.m, id)
		return x.what
	}
	return what
}

// sweep says how many it has forgotten.
func (s *shelf[T]) sweep(now time.Time) (lost int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, x := range s.m {
		if now.After(x.until) {
			delete(s.m, id)
			lost++
		}
	}
	return lost
}

func (s *shelf[T]) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.m)
}

// NoStore says whether a caller wants its answer neither from the cache nor in it.
func NoStore(cacheControl string) bool {
	for part := range strings.SplitSeq(cacheControl, ",") {
		if strings.EqualFold(strings.TrimSpace(part), "no-store") {
			return true
		}
	}
	return false
}
