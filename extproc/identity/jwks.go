package identity

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Clock tells the time and waits; a test has its own.
type Clock interface {
	Now() time.Time
	After(d time.Duration) <-chan time.Time
}

type systemClock struct{}

func (systemClock) Now() time.Time                         { return time.Now() }
func (systemClock) After(d time.Duration) <-chan time.Time { return time.After(d) }

// The defaults of JWKSOptions.
const (
	DefaultRefresh  = 5 * time.Minute
	DefaultKeepFor  = 24 * time.Hour
	DefaultTimeout  = 5 * time.Second
	DefaultWait     = 3 * time.Second
	DefaultMaxBytes = 1 << 20
)

const (
	// minInterval is the least time between two fetches of a URL, whatever tokens or servers ask for. It is less than
	// DefaultWait, so that a token with a new key gets in while others with made-up ones cause fetches.
	minInterval = 2 * time.Second
	// A server's cache-control: max-age is honoured between these.
	minMaxAge = 30 * time.Second
	maxMaxAge = time.Hour
	// minRetryAfter is told to callers where the next fetch is due any moment.
	minRetryAfter = time.Second
)

// JWKSOptions tune a JWKS. The zero value is sound.
type JWKSOptions struct {
	// Client makes the requests; its transport is used, its redirect policy is replaced.
	Client *http.Client
	// Clock is the system's where nil.
	Clock Clock
	// Refresh is the time between fetches where the server's cache-control: max-age does not say otherwise.
	Refresh time.Duration
	// KeepFor is how long the last keys serve after a refresh of them was due and has failed, where a KeyLocation does
	// not say.
	KeepFor time.Duration
	// Timeout of one fetch.
	Timeout time.Duration
	// Wait is how long a request waits at most for keys that it needs and that are not there.
	Wait time.Duration
	// MaxBytes of a document.
	MaxBytes int64
	// Notify is called after each fetch, from the goroutine of that URL, with what States would tell. It must not block.
	Notify func(SourceState)
}

// SourceState is what is known about one JWKS URL, for status pages.
type SourceState struct {
	URL       string    `json:"url"`                // of the key set, or of the OpenID configuration that names it
	KeysURL   string    `json:"keysURL,omitempty"`  // what the OpenID configuration named last
	Keys      int       `json:"keys"`               // usable keys now held
	Skipped   []string  `json:"skipped,omitempty"`  // keys of the document that are not used, and why
	Fetched   time.Time `json:"fetched,omitzero"`   // last success; zero: never
	Attempted time.Time `json:"attempted,omitzero"` // last try; zero: the first is under way
	Next      time.Time `json:"next,omitzero"`      // next try
	UsableTo  time.Time `json:"usableTo,omitzero"`  // when the keys stop being used unless a fetch succeeds; zero: none are held
	Err       string    `json:"error,omitempty"`    // of the last try; "" after a success
}

// JWKS keeps the keys of issuers, one background goroutine per URL. It outlives the Authenticators that
// read from it: make one per process. It is safe for concurrent use.
type JWKS struct {
	opts JWKSOptions
	ctx  context.Context
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu      sync.Mutex
	remotes map[published]*remote
}

// published is what is fetched first for an issuer's keys.
type published struct {
	url    string
	issuer string // "": the document is the key set
}

// NewJWKS makes a manager without URLs. Stop ends it.
func NewJWKS(opts JWKSOptions) *JWKS {
	client := http.Client{}
	if opts.Client != nil {
		client = *opts.Client
	}
	client.CheckRedirect = sameOrigin
	opts.Client = &client
	if opts.Clock == nil {
		opts.Clock = systemClock{}
	}
	if opts.Refresh <= 0 {
		opts.Refresh = DefaultRefresh
	}
	opts.Refresh = max(opts.Refresh, minInterval)
	if opts.KeepFor <= 0 {
		opts.KeepFor = DefaultKeepFor
	}
	if opts.Wait <= 0 {
		opts.Wait = DefaultWait
	}
	if opts.Timeout <= 0 {
		opts.Timeout = DefaultTimeout
	}
	if opts.MaxBytes <= 0 {
		opts.MaxBytes = DefaultMaxBytes
	}
	ctx, stop := context.WithCancel(context.Background())
	return &JWKS{opts: opts, ctx: ctx, stop: stop, remotes: make(map[published]*remote)}
}

// Watch starts fetching from a location, unless it is watched already.
func (j *JWKS) Watch(at KeyLocation) (RemoteKeys, error) {
	if err := at.check(); err != nil {
		return nil, err
	}
	keep := at.KeepFor
	if keep <= 0 {
		keep = j.opts.KeepFor
	}
	doc := published{at.Document(), at.Issuer}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.ctx.Err() != nil {
		return nil, errors.New("the fetching of keys has been stopped")
	}
	r := j.remotes[doc]
	if r == nil {
		ctx, cancel := context.WithCancel(j.ctx)
		r = &remote{published: doc, opts: &j.opts, cancel: cancel, stopped: ctx.Done(), wake: make(chan struct{}, 1)}
		r.state.Store(&remoteState{done: make(chan struct{}), report: SourceState{URL: doc.url, Next: j.opts.Clock.Now()}})
		j.remotes[doc] = r
		j.wg.Go(func() { r.run(ctx) })
	}
	r.keepFor.Store(int64(keep))
	return watched{r, keep}, nil
}

// Retain stops fetching every document but these. Call it with Authenticator.URLs once a new Authenticator has
// replaced the old one.
func (j *JWKS) Retain(urls []string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for doc, r := range j.remotes {
		if !slices.Contains(urls, doc.url) {
			r.cancel()
			delete(j.remotes, doc)
		}
	}
}

// States reports on every URL, sorted.
func (j *JWKS) States() []SourceState {
	j.mu.Lock()
	defer j.mu.Unlock()
	out := make([]SourceState, 0, len(j.remotes))
	for _, r := range j.remotes {
		out = append(out, r.report(r.state.Load()))
	}
	slices.SortFunc(out, func(a, b SourceState) int { return strings.Compare(a.URL, b.URL) })
	return out
}

// Stop ends all fetching and waits for it. The keys that are held serve until they are too old.
func (j *JWKS) Stop() {
	j.mu.Lock()
	j.stop()
	j.mu.Unlock()
	j.wg.Wait()
}

// remote is one document. run alone writes its state.
type remote struct {
	published
	opts    *JWKSOptions
	cancel  context.CancelFunc
	stopped <-chan struct{}
	wake    chan struct{}
	begun   atomic.Uint64 // fetches that have begun
	keepFor atomic.Int64  // of who watched last, for reports
	state   atomic.Pointer[remoteState]
}

type remoteState struct {
	set      *KeySet // nil before the first success
	bodyHash [32]byte
	keysURL  string    // what discovery found last
	fresh    time.Time // when the refresh after the last success was due
	next     time.Time
	failures int           // in a row
	serial   uint64        // of the fetch that made the state; 0: none has ended
	done     chan struct{} // closed when there is a newer state
	report   SourceState
}

// report adds what depends on who watches.
func (r *remote) report(st *remoteState) SourceState {
	out := st.report
	if st.set != nil {
		out.UsableTo = st.fresh.Add(time.Duration(r.keepFor.Load()))
	}
	return out
}

// watched is a document as one issuer uses it.
type watched struct {
	*remote
	keep time.Duration
}

// Current makes watched a RemoteKeys.
func (w watched) Current(now time.Time) (*KeySet, time.Duration) {
	st := w.state.Load()
	if st.set != nil && now.Before(st.fresh.Add(w.keep)) {
		return st.set, 0
	}
	return nil, max(st.next.Sub(now), minRetryAfter)
}

// Await makes watched a RemoteKeys. It does not wait for a fetch that the backoff after failures puts off for longer than
// a request waits: callers of a dead issuer are told at once.
func (w watched) Await(ctx context.Context, fits func(*KeySet) bool) (sure bool) {
	need := w.begun.Load() + 1
	ctx, cancel := context.WithTimeout(ctx, w.opts.Wait)
	defer cancel()
	for {
		st := w.state.Load()
		if set, _ := w.Current(w.opts.Clock.Now()); set != nil && fits(set) {
			return true
		}
		switch {
		case st.serial >= need:
			return st.failures == 0
		case st.failures > 0 && st.next.Sub(w.opts.Clock.Now()) > w.opts.Wait:
			return false
		}
		if w.begun.Load() == st.serial { // else a fetch is under way, and may be enough
			select {
			case w.wake <- struct{}{}:
			default: // somebody has asked already
			}
		}
		select {
		case <-st.done:
		case <-ctx.Done():
			return false
		case <-w.stopped:
			return false
		}
	}
}

func (r *remote) run(ctx context.Context) {
	defer r.cancel()
	clock := r.opts.Clock
	for full := true; ; {
		select { // a wish that came before this fetch is met by it
		case <-r.wake:
		default:
		}
		before := r.state.Load()
		st := r.refresh(ctx, full)
		if ctx.Err() != nil {
			return
		}
		r.state.Store(st)
		close(before.done)
		if r.opts.Notify != nil {
			r.opts.Notify(r.report(st))
		}
		due := clock.After(st.next.Sub(clock.Now()))
		full = true
		wake := r.wake
		if st.failures > 0 {
			wake = nil // the backoff holds, whoever asks
		}
		select {
		case <-ctx.Done():
			return
		case <-due:
			continue
		case <-wake:
		}
		full = false
		if early := st.report.Attempted.Add(minInterval).Sub(clock.Now()); early > 0 {
			select {
			case <-ctx.Done():
				return
			case <-due:
				full = true
			case <-clock.After(early):
			}
		}
	}
}
