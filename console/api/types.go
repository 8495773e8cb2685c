// Package api holds the JSON that the console and the terminal show, and the handlers that answer it. Nothing here changes
// anything, and nothing secret is in any answer.
//
//	GET /api/status              Status: build, configuration, objects, what Weir depends on
//	GET /api/limits              Limits: every limit and budget and who has used it most
//	GET /api/breakers            Breakers: the circuit breakers of LimitPolicies
//	GET /api/backends            Steering: the Backends that a LoadPolicy steers, and the reasons of each weight
//	GET /api/usage               Usage: sums of the ledger; ?from= &to= &by=tenant,model,day...
//	GET /api/topology            Topology: clients, routes, backends, endpoints and the rates between them
//	GET /api/requests            Requests: running and recent; ?limit= &route= &backend= &tenant= &status= &q= &running=
//	GET /api/requests/{id}       Request: all that is known of one, by its id, or by the request ID that the caller has
//	GET /api/history             History: failures of everything that Weir depends on; ?minutes=60 (at most 240) &all=true
//	GET /api/config              Config: status, problems, objects, and the changes of the last versions; ?kind=Backend
//	GET /api/stream              Server-sent events, see Stream*: topology, live, requests, event, config
//
// Errors are Error with a status of 4xx or 5xx. Times are RFC 3339 in UTC, durations seconds, money decimal text, IDs of objects
// "namespace/name". Fields that may be missing are marked omitempty; lists are never null.
package api

import (
	"time"

	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/extproc/identity/keystore"
	"github.com/weir-dev/weir/usage/ledger"
)

// Error is the answer to what cannot be answered.
type Error struct {
	Error string `json:"error"`
}

// --- /api/status ---

// Status is the answer of /api/status.
type Status struct {
	Version       string        `json:"version"` // of weir
	Configuration Configuration `json:"configuration"`
	Origin        Origin        `json:"source"`
	// Problems of the configuration as it is written now, a line each.
	Problems []string `json:"problems"`
	// Objects counts them by kind.
	Objects map[string]int `json:"objects"`
	KeySets []KeySet       `json:"keySets"`
	// SharedState is left out where none is configured.
	SharedState *SharedState `json:"sharedState,omitempty"`
	Ledger      LedgerState  `json:"ledger"`
	// ExternalAuthorization is left out where it is not served.
	ExternalAuthorization *Authz `json:"externalAuthorization,omitempty"`
}

// Origin is where objects come from.
type Origin struct {
	Name string `json:"name"` // folder deploy/local
	// Connected is false while what is served may be old, Since when that began, and Reason why.
	Connected bool      `json:"connected"`
	Since     time.Time `json:"since"`
	Reason    string    `json:"reason,omitempty"`
}

// Configuration is which versions are served, on their way, and refused.
type Configuration struct {
	Serving        string    `json:"serving"`
	Since          time.Time `json:"since"`
	Pending        string    `json:"pending,omitempty"`
	Rejected       string    `json:"rejected,omitempty"` // by Envoy
	Reason         string    `json:"reason,omitempty"`   // of Rejected
	EnvoyConnected bool      `json:"envoyConnected"`
	Retained       int       `json:"retained"` // versions whose resources Envoy has
}

// KeySet is the state of the signing keys of an issuer.
type KeySet = identity.SourceState

// SharedState is the state that replicas share.
type SharedState struct {
	Error     string          `json:"error,omitempty"`   // of the last command; "" while Redis answers
	Problem   string          `json:"problem,omitempty"` // why another one is in use than the configuration names
	Since     *time.Time      `json:"since,omitempty"`   // the last change between the two
	Replicas  int             `json:"replicas"`
	Restoring bool            `json:"restoring,omitempty"` // lost counters are being put together again
	Keys      *keystore.State `json:"keys,omitempty"`
	Shipping  string          `json:"shippingError,omitempty"` // why ledger entries are not sent
	Shipped   int64           `json:"shipped,omitempty"`
	// ShipsLedger: entries of the ledger are sent.
	ShipsLedger bool `json:"-"`
}

// LedgerState is how the ledger stands.
type LedgerState struct {
	Folder string `json:"folder"`
	Open   int    `json:"openRequests"`
	Error  string `json:"error,omitempty"`
}

// Authz is the server of the external authorization protocol.
type Authz struct {
	Address            string `json:"address,omitempty"`
	TLS                bool   `json:"tls"`
	ClientCertificates bool   `json:"clientCertificates"`
	Error              string `json:"error,omitempty"`
}

// --- /api/limits ---

// Limits is the answer of /api/limits.
type Limits struct {
	Store  Store   `json:"sharedState"`
	Limits []Limit `json:"limits"`
}

// Store is where limits are counted that replicas share.
type Store struct {
	Configured bool       `json:"configured"`
	Up         bool       `json:"up"`
	DownSince  *time.Time `json:"downSince,omitempty"`
	Replicas   int        `json:"replicas"`
}

// Limit is one limit or budget. Amounts are in Unit: counts, or nano-units of money (1e9 is one unit of the currency).
type Limit struct {
	ID            string         `json:"id"` // "Budget/namespace/name..." is a budget
	Name          string         `json:"name"`
	Unit          string         `json:"unit"`
	Limit         int64          `json:"limit"`
	Window        string         `json:"window,omitempty"`
	Currency      string         `json:"currency,omitempty"`      // of money
	WarnAtPercent int64          `json:"warnAtPercent,omitempty"` // of budgets
	Shadow        bool           `json:"shadow,omitempty"`
	Sharing       string         `json:"sharing"`
	Admitted      uint64         `json:"admitted"`
	Refused       uint64         `json:"refused"`
	ShadowRefused uint64         `json:"shadowRefused"`
	Waiting       int            `json:"waiting"`
	Leased        int64          `json:"leased"`
	Bound         int64          `json:"overspendBound"`
	Counters      int            `json:"counters"`
	Subjects      []LimitSubject `json:"subjects"` // those that have used most
}

// LimitSubject is one counter of a limit.
type LimitSubject struct {
	Subject      string  `json:"subject"`
	Limit        int64   `json:"limit"`
	Remaining    int64   `json:"remaining"`
	Reserved     int64   `json:"reserved"`
	ResetSeconds float64 `json:"resetSeconds"`
	Waiting      int     `json:"waiting"`
	Admitted     uint64  `json:"admitted"`
	Refused      uint64  `json:"refused"`
}

// --- /api/breakers ---

// Breakers is the answer of /api/breakers.
type Breakers struct {
	Breakers []Breaker `json:"breakers"`
}

// Breaker is one circuit breaker of a LimitPolicy. State is Closed, Open, HalfOpen or WarmingUp.
type Breaker struct {
	Policy            string    `json:"policy"`
	Subject           string    `json:"subject"`
	State             string    `json:"state"`
	Since             time.Time `json:"since"`
	Requests          int64     `json:"requests"`
	Failures          int64     `json:"failures"`
	RetryAfterSeconds float64   `json:"retryAfterSeconds"`
	Refused           uint64    `json:"refused"`
}

// --- /api/usage ---

// Usage is the answer of /api/usage.
type Usage struct {
	From time.Time  `json:"from"`
	Rows []UsageRow `json:"rows"`
}

// UsageRow is one sum. Cost is the amount of money, exactly, and so is SavedCost, what answers from a cache would have cost.
type UsageRow struct {
	ledger.Row
	Cost      string `json:"cost"`
	SavedCost string `json:"savedCost,omitempty"`
}

// --- /api/topology ---

// Topology is everything that requests pass, and the rates at which they do.
type Topology struct {
	At time.Time `json:"at"`
	// Version of the configuration that requests are decided by.
	Version  string    `json:"version"`
	Gateways []Gateway `json:"gateways"`
	Clients  []Client  `json:"clients"` // busiest first, at most 200
	Routes   []Route   `json:"routes"`
	Backends []Backend `json:"backends"`
	Edges    []Edge    `json:"edges"` // those with traffic
	Totals   Totals    `json:"totals"`
}

// Gateway is an LLMGateway.
type Gateway struct {
	ID        string     `json:"id"`
	Listeners []Listener `json:"listeners"`
}

// Listener is where callers come in.
type Listener struct {
	Name    string `json:"name"`
	Address string `json:"address"` // "0.0.0.0:8080"
	URL     string `json:"url"`     // for callers on this machine where Address is every address
}

// Client is a consumer of a tenant that has sent requests in the last five minutes. ID is "tenant/consumer", with "-" for what is not
// known: "-/-" is everybody who was let in without a credential, or refused. "*/*" stands for all others where there are too many.
type Client struct {
	ID       string    `json:"id"`
	Tenant   string    `json:"tenant"`
	Consumer string    `json:"consumer"`
	LastSeen time.Time `json:"lastSeen"`
}

// Route is one rule of a Route object.
type Route struct {
	ID      string         `json:"id"` // "namespace/route" or "namespace/route/rule": what x-weir-route shows
	Route   string         `json:"route"`
	Matches []string       `json:"matches"` // a sentence each: "model gpt-4o or gpt-4*; path under /v1"
	Targets []RouteBackend `json:"backends"`
	// RequiredScopes of the caller's credential.
	RequiredScopes []string `json:"requiredScopes,omitempty"`
}

// RouteBackend is a backend of a rule. LiveWeight is what steering makes of Weight now; left out where nothing steers the backend.
type RouteBackend struct {
	Backend    string   `json:"backend"`
	Model      string   `json:"model,omitempty"`
	Weight     uint32   `json:"weight"`
	Priority   int32    `json:"priority"`
	LiveWeight *float64 `json:"liveWeight,omitempty"`
}

// Backend is a Backend object.
type Backend struct {
	ID      string   `json:"id"`
	Dialect string   `json:"dialect"`
	Host    string   `json:"host"`   // the authority it is asked by
	Models  []string `json:"models"` // callers' names; empty: any
	Steered bool     `json:"steered"`
	Policy  string   `json:"policy,omitempty"`  // the LoadPolicy
	Picking string   `json:"picking,omitempty"` // Envoy or Weir, who picks endpoints; of steered ones
	BackendState
	Endpoints []Endpoint `json:"endpoints"`
}

// BackendState is what changes of a backend.
type BackendState struct {
	// Health is ok, degraded (some endpoints cannot take requests, or requests to it fail lately), down or idle (nothing is known:
	// not steered, and no requests lately).
	Health string `json:"health"`
	// Why Health is not ok, in words.
	Why string `json:"why,omitempty"`
	// Share of its weight that steering leaves it; 1 where nothing is against it.
	Share    float64 `json:"share"`
	InFlight int64   `json:"inFlight"`
	Waiting  int     `json:"waiting"`
}

// Endpoint is an address of a backend.
type Endpoint struct {
	ID      string `json:"id"`      // "namespace/name|address"
	Address string `json:"address"` // "ip:port" or "name:port"
	EndpointState
}

// EndpointState is what changes of an endpoint. Fields that only steering knows are left out of endpoints that are not steered.
type EndpointState struct {
	// Status is that of steering (Active, WarmingUp, Isolated), or what requests tell of an endpoint that is not steered: ok, degraded,
	// down, idle.
	Status          string     `json:"status"`
	Weight          uint32     `json:"weight"`
	BaseWeight      uint32     `json:"baseWeight"`
	PublishedWeight uint32     `json:"publishedWeight"`
	Why             string     `json:"why,omitempty"`
	Reasons         []Reason   `json:"reasons,omitempty"`   // not in LiveEndpoint
	GPU             *float64   `json:"gpu,omitempty"`       // utilization, 0 to 1
	GPUMemory       *float64   `json:"gpuMemory,omitempty"` // 0 to 1
	Queue           *float64   `json:"queue,omitempty"`     // requests that wait there
	Running         *float64   `json:"running,omitempty"`   // requests that run there, by its own word
	KVCache         *float64   `json:"kvCache,omitempty"`   // 0 to 1
	SignalError     string     `json:"signalError,omitempty"`
	InFlight        int64      `json:"inFlight"`
	TTFTSeconds     *float64   `json:"ttftSeconds,omitempty"`
	ErrorRate       *float64   `json:"errorRate,omitempty"` // 0 to 1
	Breaker         string     `json:"breaker,omitempty"`
	BlockedUntil    *time.Time `json:"blockedUntil,omitempty"` // it has answered 429, and said until when
}

// Edge is the traffic between two places, over the last ten seconds. Kind is "client" (From a Client, To a Route), "route" (From a Route,
// To a Backend) or "backend" (From a Backend, To an Endpoint); From and To are their IDs. A route "-" is none: requests that were refused
// before a route was found. With "*/*" it may be "*".
type Edge struct {
	Kind string `json:"kind"`
	From string `json:"from"`
	To   string `json:"to"`
	Rates
}

// Rates of the last ten seconds, by requests that have ended; InFlight is now.
type Rates struct {
	Requests float64 `json:"requestsPerSecond"`
	Errors   float64 `json:"errorsPerSecond"` // failed attempts on "route" and "backend" edges; else refused and failed requests
	Tokens   float64 `json:"tokensPerSecond"`
	InFlight int     `json:"inFlight"`
}

// Totals are those of the whole gateway.
type Totals struct {
	Rates
	// TTFTSeconds is the mean of the streams that ended in the last ten seconds, from the beginning of each; 0 for none.
	TTFTSeconds float64 `json:"ttftSeconds"`
	// CostPerHour at the rate of the last ten seconds, in Currency.
	CostPerHour string `json:"costPerHour"`
	Currency    string `json:"currency"`
}

// --- /api/requests ---

// Requests is the answer of /api/requests. A restart forgets them; the ledger does not.
type Requests struct {
	Running []RequestSummary `json:"running"` // newest first
	Recent  []RequestSummary `json:"recent"`  // newest first
	// More says that there are more that match than were asked for.
	More bool `json:"more"`
	// Total that are kept.
	Total int `json:"total"`
}

// RequestSummary is a line of a list.
type RequestSummary struct {
	ID        string    `json:"id"` // what /api/requests/{id} takes
	RequestID string    `json:"requestId"`
	At        time.Time `json:"at"` // when it began
	// Outcome is running, ok, refused (by Weir: login, limits, no route...), failed (by a backend or Envoy), aborted (the caller went
	// away) or interrupted (Envoy or Weir ended).
	Outcome         string  `json:"outcome"`
	Status          int     `json:"status"`           // 0 while it runs, and where there was none
	Reason          string  `json:"reason,omitempty"` // why Outcome is not ok, in words
	Tenant          string  `json:"tenant,omitempty"`
	Consumer        string  `json:"consumer,omitempty"`
	Route           string  `json:"route,omitempty"`
	Backend         string  `json:"backend,omitempty"`
	Endpoint        string  `json:"endpoint,omitempty"`
	Model           string  `json:"model,omitempty"`
	Operation       string  `json:"operation,omitempty"`
	Dialect         string  `json:"dialect,omitempty"`
	Stream          bool    `json:"stream"`
	Attempts        int     `json:"attempts"`
	DurationSeconds float64 `json:"durationSeconds"` // so far, while it runs
	TTFTSeconds     float64 `json:"ttftSeconds"`     // 0: not known
	InputTokens     int64   `json:"inputTokens"`
	OutputTokens    int64   `json:"outputTokens"`
	Cost            string  `json:"cost,omitempty"`
	SavedCost       string  `json:"savedCost,omitempty"` // what an answer from the cache would have cost; absent where no price applied
	Currency        string  `json:"currency,omitempty"`
	Estimated       bool    `json:"estimated"` // tokens and cost are Weir's estimate
	TraceID         string  `json:"traceId,omitempty"`
	// Cache is what came of the cache: hit, stale, negative, shared (somebody else was buying the answer), miss or bypass; absent where no
	// CachePolicy covers the request.
	Cache string `json:"cache,omitempty"`
	// Purpose is what Weir asked for by itself, on behalf of the consumer: refresh, embedding, summary or extraction; absent where a caller asked.
	Purpose string `json:"purpose,omitempty"`
}

// Request is all that is known of one.
type Request struct {
	RequestSummary
	Gateway  string   `json:"gateway,omitempty"`
	Method   string   `json:"method,omitempty"`
	Path     string   `json:"path,omitempty"`   // without its query
	Caller   string   `json:"caller,omitempty"` // address of the connection
	BytesIn  uint64   `json:"bytesIn"`
	BytesOut uint64   `json:"bytesOut"`
	Decision Decision `json:"decision"`
	// Tried are the attempts in order; of those of a chain the last is the one that answered.
	Tried []Attempt `json:"tried"`
	// Timeline are the moments that are known, in order.
	Timeline   []Moment `json:"timeline"`
	Tokens     Tokens   `json:"tokens"`
	Flags      []string `json:"flags"`                // of the ledger: estimated, aborted, translated, cut...
	Envoy      string   `json:"envoy,omitempty"`      // response code details
	EnvoyFlags string   `json:"envoyFlags,omitempty"` // response flags, "UF,URX"
}

// Decision is what Weir decided and by what.
type Decision struct {
	Version    string `json:"version,omitempty"`
	Consumer   string `json:"consumer,omitempty"`
	Tenant     string `json:"tenant,omitempty"`
	Credential string `json:"credential,omitempty"` // which one; never its value
	Route      string `json:"route,omitempty"`
	// Matched is by what the route matches, in words.
	Matched []string `json:"matched"`
	// Limits that were asked, as they stood then.
	Limits []LimitAsked `json:"limits"`
	// Candidates in the order in which they would be asked.
	Candidates []Candidate `json:"candidates"`
	// Endpoints that Weir has named, in order; empty where Envoy picks.
	Endpoints []string `json:"endpoints"`
	// Steps tell the decision in sentences, in order.
	Steps []string `json:"steps"`
}

// LimitAsked is a limit that a request was held against.
type LimitAsked struct {
	Name         string  `json:"name"`
	Unit         string  `json:"unit"`
	Limit        int64   `json:"limit"`
	Remaining    int64   `json:"remaining"`
	ResetSeconds float64 `json:"resetSeconds"`
}

// Candidate is a backend that could serve a request.
type Candidate struct {
	Backend    string `json:"backend"`
	Model      string `json:"model"` // as the backend is asked for it
	Translated bool   `json:"translated"`
	Weight     uint32 `json:"weight"`
	Priority   int32  `json:"priority"`
	// Outcome is answered, failed, asked or "not asked".
	Outcome string `json:"outcome"`
}

// Attempt is one request to a backend.
type Attempt struct {
	N               int     `json:"n"` // from 1
	Backend         string  `json:"backend"`
	Model           string  `json:"model,omitempty"`
	Endpoint        string  `json:"endpoint,omitempty"`
	StartSeconds    float64 `json:"startSeconds"` // since the request began
	DurationSeconds float64 `json:"durationSeconds"`
	Status          int     `json:"status"`
	Flags           string  `json:"flags,omitempty"`
	Reason          string  `json:"reason,omitempty"`
	Failed          bool    `json:"failed"`
	Last            bool    `json:"last"`
}

// Moment is a moment of a request. Name is received, decided, sent, sentAll, firstByte, firstToken, lastByte or done.
type Moment struct {
	Name      string  `json:"name"`
	AtSeconds float64 `json:"atSeconds"` // since the request began
}

// Tokens in the buckets of the ledger.
type Tokens struct {
	Input      int64 `json:"input"`
	CacheRead  int64 `json:"cacheRead"`
	CacheWrite int64 `json:"cacheWrite"`
	Output     int64 `json:"output"`
	Reasoning  int64 `json:"reasoning"`
}

// --- /api/history ---

// History is the answer of /api/history.
type History struct {
	At    time.Time `json:"at"`
	Since time.Time `json:"since"` // when Weir was started: nothing older is known
	// Dependencies, those in trouble first. Endpoints without a failure or an event in that time are left out, unless ?all=true.
	Dependencies []Dependency `json:"dependencies"`
	Events       []Event      `json:"events"` // newest first, of all
}

// Dependency is something that Weir depends on. Kind is backend, endpoint, breaker (of a LimitPolicy), redis, envoy, issuer, configuration
// or ledger.
type Dependency struct {
	ID    string `json:"id"` // "kind:name"; an endpoint's name is "namespace/name|address"
	Kind  string `json:"kind"`
	Name  string `json:"name"`
	State string `json:"state"` // ok, degraded, down, idle
	Why   string `json:"why,omitempty"`
	// Since is when State began.
	Since time.Time `json:"since"`
	// Failures of each minute; Requests where they are counted. Equally long, oldest first, the last minute is the present one.
	FirstMinute time.Time `json:"firstMinute"`
	Failures    []uint32  `json:"failures"`
	Requests    []uint32  `json:"requests"`
	Events      []Event   `json:"events"` // newest first
}

// Event is something that happened to a dependency.
type Event struct {
	Seq        uint64    `json:"seq"`
	At         time.Time `json:"at"`
	Dependency string    `json:"dependency"` // its ID
	Severity   string    `json:"severity"`   // info, warning, error
	Type       string    `json:"type"`       // breaker, steering, envoy, redis, configuration, keys, ledger, failure
	Text       string    `json:"text"`       // a sentence
	Count      int       `json:"count"`      // how often in a row; At is the last
}

// --- /api/config ---

// Config is the answer of /api/config.
type Config struct {
	Status   Configuration `json:"status"`
	Problems []Problem     `json:"problems"` // of what is written now
	Objects  []Object      `json:"objects"`  // of the last configuration without errors; at most 2,000
	// More counts objects that are left out.
	More    int      `json:"more"`
	Changes []Change `json:"changes"` // newest first
}

// Problem is one thing that is wrong with the objects.
type Problem struct {
	Severity string `json:"severity"` // error or warning
	Object   string `json:"object,omitempty"`
	Field    string `json:"field,omitempty"`
	File     string `json:"file,omitempty"`
	Line     int    `json:"line,omitempty"`
	Message  string `json:"message"`
}

// Object is one object as it is used, defaults included. References to secrets are in it, secrets and key hashes are not.
type Object struct {
	Kind string `json:"kind"`
	ID   string `json:"id"`
	File string `json:"file,omitempty"`
	Line int    `json:"line,omitempty"`
	YAML string `json:"yaml"`
}

// Change is a configuration that came. Outcome is live, pending, refused (by Weir: it has errors), rejected (by Envoy) or superseded.
type Change struct {
	Seq     uint64    `json:"seq"`
	At      time.Time `json:"at"`
	Version string    `json:"version,omitempty"` // "" for a refused one
	Outcome string    `json:"outcome"`
	Reason  string    `json:"reason,omitempty"`
	// LiveAt is when it went live.
	LiveAt  *time.Time     `json:"liveAt,omitempty"`
	Objects []ObjectChange `json:"objects"`
	// More counts changed objects that are left out.
	More int `json:"more"`
}

// ObjectChange is one object that a change adds, changes or removes.
type ObjectChange struct {
	Kind   string `json:"kind"`
	ID     string `json:"id"`
	Action string `json:"action"` // added, changed, removed
	Diff   string `json:"diff"`   // unified; bounded, with a last line that says so
}

// --- /api/stream ---

// The names of the events of /api/stream; the data of each is one line of JSON. The id of an event resumes the stream after it
// (Last-Event-ID): requests and events that came meanwhile are sent, if they are still known. A client that does not read is cut off.
const (
	// StreamTopology has a Topology: first of all, and again with each new configuration. It replaces all that was known.
	StreamTopology = "topology"
	// StreamLive has a Live, every second.
	StreamLive = "live"
	// StreamRequests has a NewRequests.
	StreamRequests = "requests"
	// StreamEvent has an Event, also of one whose Count has risen: Seq tells.
	StreamEvent = "event"
	// StreamConfig has a Configuration, whenever it changes: /api/config has the rest.
	StreamConfig = "config"
)

// Live is what has changed since the topology, or the Live before.
type Live struct {
	At time.Time `json:"at"`
	// Edges that have changed, at most 300, the busiest first; one whose traffic has ended comes once with zeros.
	Edges []Edge `json:"edges"`
	// Clients that are new.
	Clients   []Client       `json:"clients"`
	Backends  []LiveBackend  `json:"backends"`
	Endpoints []LiveEndpoint `json:"endpoints"`
	// Weights of routes that have changed.
	Routes []LiveRoute `json:"routes"`
	Totals Totals      `json:"totals"`
}

// LiveBackend is a backend whose state has changed.
type LiveBackend struct {
	ID string `json:"id"`
	BackendState
}

// LiveEndpoint is an endpoint whose state has changed by more than Why and Reasons. At most 150 are in a Live: those whose status, weight
// or breaker has changed come first, the others come with the next.
type LiveEndpoint struct {
	ID string `json:"id"`
	EndpointState
}

// LiveRoute is a route whose live weights have changed: one for each of Route.Targets, null where nothing steers the backend.
type LiveRoute struct {
	ID      string     `json:"id"`
	Weights []*float64 `json:"liveWeights"`
}

// NewRequests are those that have ended since the last, newest first; at most 30.
type NewRequests struct {
	Requests []RequestSummary `json:"requests"`
	// Skipped are more that ended.
	Skipped int `json:"skipped"`
	// Running are those in flight, newest first; at most 30.
	Running []RequestSummary `json:"running"`
}
