package identity

import (
	"context"
	"errors"
	"net/http"
	"net/url"
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
	DefaultMaxStale = time.Hour
	DefaultTimeout  = 5 * time.Second
	DefaultMaxBytes = 1 << 20
)

const (
	// minInterval is the least time between two fetches of a URL, whatever tokens or servers ask for.
	minInterval = 10 * time.Second
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
	// MaxStale is how long the last keys serve after a refresh of them was due and has failed.
	MaxStale time.Duration
	// Timeout of one fetch.
	Timeout time.Duration
	// MaxBytes of a document.
	MaxBytes int64
	// Notify is called after each fetch, from the goroutine of that URL, with what States would tell. It must not block.
	Notify func(SourceState)
}

// SourceState is what is known about one JWKS URL, for status pages.
type SourceState struct {
	URL       string    `json:"url"`
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
	remotes map[string]*remote
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
	if opts.MaxStale <= 0 {
		opts.MaxStale = DefaultMaxStale
	}
	if opts.Timeout <= 0 {
		opts.Timeout = DefaultTimeout
	}
	if opts.MaxBytes <= 0 {
		opts.MaxBytes = DefaultMaxBytes
	}
	ctx, stop := context.WithCancel(context.Background())
	return &JWKS{opts: opts, ctx: ctx, stop: stop, remotes: make(map[string]*remote)}
}

// Watch starts fetching a URL, unless it is watched already.
func (j *JWKS) Watch(rawURL string) (RemoteKeys, error) {
	u, err := url.Parse(rawURL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, errors.New("it is not an absolute http or https URL")
	}
	if u.User != nil {
		return nil, errors.New("it holds a user name or password, which would show in reports; signing keys are public and need none")
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.ctx.Err() != nil {
		return nil, errors.New("the fetching of keys has been stopped")
	}
	if r := j.remotes[rawURL]; r != nil {
		return r, nil
	}
	ctx, cancel := context.WithCancel(j.ctx)
	r := &remote{url: rawURL, opts: &j.opts, cancel: cancel, wake: make(chan struct{}, 1)}
	r.state.Store(&remoteState{report: SourceState{URL: rawURL, Next: j.opts.Clock.Now()}})
	j.remotes[rawURL] = r
	j.wg.Go(func() { r.run(ctx) })
	return r, nil
}

// Retain stops fetching every URL but these. Call it with Authenticator.URLs once a new Authenticator has
// replaced the old one.
func (j *JWKS) Retain(urls []string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for u, r := range j.remotes {
		if !slices.Contains(urls, u) {
			r.cancel()
			delete(j.remotes, u)
		}
	}
}

// States reports on every URL, sorted.
func (j *JWKS) States() []SourceState {
	j.mu.Lock()
	defer j.mu.Unlock()
	out := make([]SourceState, 0, len(j.remotes))
	for _, r := range j.remotes {
		out = append(out, r.state.Load().report)
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

// remote is one URL. run alone writes its state.
type remote struct {
	url    string
	opts   *JWKSOptions
	cancel context.CancelFunc
	wake   chan struct{}
	state  atomic.Pointer[remoteState]
}

type remoteState struct {
	set      *KeySet // nil before the first success
	bodyHash [32]byte
	usableTo time.Time
	next     time.Time
	failures int // in a row
	report   SourceState
}

// Current makes remote a RemoteKeys.
func (r *remote) Current(now time.Time) (*KeySet, time.Duration) {
	st := r.state.Load()
	if st.set != nil && now.Before(st.usableTo) {
		return st.set, 0
	}
	return nil, max(st.next.Sub(now), minRetryAfter)
}

// Refresh makes remote a RemoteKeys. Many calls before the next fetch count as one.
func (r *remote) Refresh() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *remote) run(ctx context.Context) {
	defer r.cancel()
	clock := r.opts.Clock
	for {
		select { // a wish that came before this fetch is met by it
		case <-r.wake:
		default:
		}
		st := r.refresh(ctx)
		if ctx.Err() != nil {
			return
		}
		r.state.Store(st)
		if r.opts.Notify != nil {
			r.opts.Notify(st.report)
		}
		due := clock.After(st.next.Sub(clock.Now()))
		select {
		case <-ctx.Done():
			return
		case <-due:
			continue
		case <-r.wake:
		}
		if early := st.report.Attempted.Add(minInterval).Sub(clock.Now()); early > 0 {
			select {
			case <-ctx.Done():
				return
			case <-due:
			case <-clock.After(early):
			}
		}
	}
}
