package api

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-dev/weir/console/state"
	"github.com/weir-dev/weir/extproc/authz"
	"github.com/weir-dev/weir/extproc/breaker"
	"github.com/weir-dev/weir/extproc/cache"
	"github.com/weir-dev/weir/extproc/limit"
	"github.com/weir-dev/weir/usage"
	"github.com/weir-dev/weir/usage/ledger"
	"github.com/weir-dev/weir/xds/compile"
	"github.com/weir-dev/weir/xds/load"
	"github.com/weir-dev/weir/xds/serve"
	"github.com/weir-dev/weir/xds/source"
)

// Sources are where the answers come from. All are required; functions are called by several goroutines.
type Sources struct {
	// Now is the clock.
	Now func() time.Time
	// Build is the version of weir.
	Build string
	// State remembers what nobody else keeps.
	State *state.State

	Publisher func() serve.State
	// Origin is where objects come from.
	Origin func() Origin
	// Problems are what is wrong with the configuration as it is written now.
	Problems func() []source.Problem
	// Objects are the last without errors; nil for none.
	Objects func() *source.Objects
	KeySets func() []KeySet
	// SharedState is nil where there is none; Shares says whether one is in use.
	SharedState func() *SharedState
	Shares      func() bool
	Authz       func() authz.State
	Ledger      *ledger.Ledger
	Desk        *usage.Desk
	Limits      *limit.Engine
	Breakers    *breaker.Set
	Steering    func() load.State
	// CacheStats says how the cache is, and PurgeCache removes answers from it.
	CacheStats func() cache.Stats
	PurgeCache func(context.Context, cache.Selector) (int, error)
}

// API answers what is asked of it under /api.
type API struct {
	Sources
	layouts layouts
	stream  hub

	mu   sync.Mutex // of what follows
	view view       // the newest
	// The newest that streams know of.
	requests, events uint64
	config           Configuration
	running          bool // some request ran at the last tick

	envoy atomic.Pointer[string] // why Envoy is away; nil while it is there
}

// New makes an API. Run it, so that it follows what changes.
func New(s Sources) *API {
	a := &API{Sources: s}
	s.State.Use(a.place)
	return a
}

// Register adds what it answers.
func (a *API) Register(mux *http.ServeMux) {
	mux.HandleFunc("GET /api/status", a.status)
	mux.HandleFunc("GET /api/limits", a.limits)
	mux.HandleFunc("GET /api/breakers", a.breakers)
	mux.HandleFunc("GET /api/backends", a.backends)
	mux.HandleFunc("GET /api/usage", a.usage)
	mux.HandleFunc("GET /api/topology", a.topology)
	mux.HandleFunc("GET /api/requests", a.listRequests)
	mux.HandleFunc("GET /api/requests/{id}", a.oneRequest)
	mux.HandleFunc("GET /api/history", a.history)
	mux.HandleFunc("GET /api/config", a.showConfig)
	mux.HandleFunc("GET /api/stream", a.serveStream)
	mux.HandleFunc("GET /api/cache", a.cache)
	mux.HandleFunc("POST /api/cache/purge", a.purgeCache)
}

const (
	// tickEvery is how often streams are told what has changed.
	tickEvery = time.Second
	// sampleEvery is how many ticks there are to each look at how everything is, while nobody watches.
	sampleEvery = 2
)

// Run follows what changes, until ctx ends; then it ends the streams.
func (a *API) Run(ctx context.Context) {
	t := time.NewTicker(tickEvery)
	defer t.Stop()
	defer a.stream.close()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			watched := a.stream.watched()
			if watched || n%sampleEvery == 0 {
				a.tick(a.Now(), watched)
			}
		}
	}
}

// Compiled takes a configuration: v is nil where it has errors.
func (a *API) Compiled(v *compile.Version, objs *source.Objects, problems []source.Problem) {
	version := ""
	if v != nil {
		version = v.ID
		a.layouts.put(layoutOf(v, objs, a.layouts.newest()))
	}
	a.State.Changes.Came(a.Now(), version, objs, problems)
	if v == nil {
		a.State.History.Set(a.Now(), configuration, state.StateDegraded, "what is written now has errors; the last good configuration keeps serving", "configuration")
	}
}

// WentLive takes the version that requests are decided by from now on.
func (a *API) WentLive(version string) {
	a.layouts.use(version)
	a.State.Changes.WentLive(a.Now(), version)
	a.State.History.Note(a.Now(), configuration, state.Info, "configuration", "Version "+version+" is live.")
}

// EnvoyUp takes that an Envoy is there, EnvoyDown that it has ended, and EnvoyNote anything else that has happened to it, as a sentence.
func (a *API) EnvoyUp(text string) {
	a.envoy.Store(nil)
	a.EnvoyNote(text)
	a.State.History.Set(a.Now(), envoy, state.StateOK, "", "envoy")
}

// EnvoyDown is described with EnvoyUp.
func (a *API) EnvoyDown(text string) {
	a.envoy.Store(&text)
	a.State.History.Fail(a.Now(), envoy, text, "envoy")
}

// EnvoyNote is described with EnvoyUp.
func (a *API) EnvoyNote(text string) {
	a.State.History.Note(a.Now(), envoy, state.Info, "envoy", text)
}

// BreakerChanged takes a change of a circuit breaker: endpoint says that its rule is a Backend's and its key an endpoint's.
func (a *API) BreakerChanged(c breaker.Change, endpoint bool) {
	s := state.Subject{Kind: state.KindBreaker, Name: c.Rule.Name + "|" + c.Key}
	if endpoint {
		s = state.Subject{Kind: state.KindEndpoint, Name: state.EndpointName(c.Rule.Name, c.Key)}
	}
	a.State.History.Breaker(s, c)
}

func write(w http.ResponseWriter, body any) {
	w.Header().Set("content-type", "application/json")
	w.Header().Set("cache-control", "no-store")
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(body) // the client went away
}

// Fail answers with an Error.
func Fail(w http.ResponseWriter, status int, message string) {
	w.Header().Set("content-type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(Error{message}) // the client went away
}

func utc(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}
