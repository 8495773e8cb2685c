package extproc

import (
	"net/netip"
	"time"
)

// ExplainRequest is a request that is to be explained and not sent.
type ExplainRequest struct {
	Method  string      // "": POST where there is a body, else GET
	Path    string      // with the query
	Headers [][2]string // in any case; a credential is among them unless Consumer or Tenant is set
	Body    []byte
	// Consumer ("namespace/name") or Tenant ask what that caller would get, without a credential and without what a key adds of
	// its own. Tenant with Consumer takes the place of the Consumer's.
	Consumer, Tenant string
	// Source is the caller's address; the zero Addr where it does not matter.
	Source netip.Addr
	// Gateway is the LLMGateway, "namespace/name", that it comes in by; "" where there is one.
	Gateway string
}

// Explanation says what would become of a request, and why. It holds no secret and nothing of the text of the request.
type Explanation struct {
	Version string    `json:"version"` // of the configuration
	At      time.Time `json:"at"`
	// Live says that a running gateway was asked; without, nothing is known of what has been used, nor of endpoints.
	Live bool `json:"live"`

	Request    ExplainedRequest     `json:"request"`
	Caller     *ExplainedCaller     `json:"caller,omitempty"`
	Route      *ExplainedRoute      `json:"route,omitempty"`
	Rules      []ExplainedRule      `json:"rules"`
	RulesMore  int                  `json:"rulesNotShown,omitempty"`
	Estimate   *ExplainedEstimate   `json:"estimate,omitempty"`
	Limits     []ExplainedLimit     `json:"limits"`
	Breakers   []ExplainedBreaker   `json:"breakers"`
	Candidates []ExplainedCandidate `json:"candidates"`
	Outcome    ExplainedOutcome     `json:"outcome"`
	Relay      *ExplainedRelay      `json:"relay,omitempty"`
	Lane       *ExplainedLane       `json:"lane,omitempty"`
	Notes      []string             `json:"notes,omitempty"`
}

// ExplainedLane says whether Envoy may let requests like this one through without asking Weir about each. There is none for a request that
// no backend gets.
type ExplainedLane struct {
	Native bool   `json:"native"`
	Why    string `json:"why,omitempty"` // it may not
}

// ExplainedRelay says which policies of the relay cover the request, and whether it goes there: to be answered from what is kept, or on its
// behalf. What is kept is not looked at. There is none for a request that none covers.
type ExplainedRelay struct {
	CachePolicy   string `json:"cachePolicy,omitempty"`
	SessionPolicy string `json:"sessionPolicy,omitempty"`
	Relayed       bool   `json:"relayed"`
	Why           string `json:"why"`
}

// ExplainedRequest is what was read of the request.
type ExplainedRequest struct {
	Method    string `json:"method"`
	Path      string `json:"path"`
	Dialect   string `json:"dialect,omitempty"`
	Operation string `json:"operation,omitempty"`
	Model     string `json:"model,omitempty"`
	Stream    bool   `json:"stream"`
	BodyBytes int64  `json:"bodyBytes"`
	// MediaBytes of them are MediaParts pictures, sounds or files.
	MediaBytes int64 `json:"mediaBytes,omitempty"`
	MediaParts int64 `json:"mediaParts,omitempty"`
}

// ExplainedCaller is who calls.
type ExplainedCaller struct {
	Consumer   string            `json:"consumer,omitempty"`
	Namespace  string            `json:"namespace,omitempty"`
	Tenant     string            `json:"tenant"`
	Credential string            `json:"credential,omitempty"` // "key:name" or "jwt:issuer"
	KeyPrefix  string            `json:"keyPrefix,omitempty"`
	Labels     map[string]string `json:"labels,omitempty"`
	Scopes     []string          `json:"scopes,omitempty"`
	// AllowedModels are lists a model must all be on; none: any model.
	AllowedModels [][]string `json:"allowedModels,omitempty"`
}

// ExplainedRoute is the rule that serves the request.
type ExplainedRoute struct {
	Name           string   `json:"name"`
	RequiredScopes []string `json:"requiredScopes,omitempty"`
	TimeoutSeconds float64  `json:"timeoutSeconds"`
}

// ExplainedRule is one match of a rule, in the order in which they are tried.
type ExplainedRule struct {
	Route  string `json:"route"`
	Match  string `json:"match"`  // in words: "POST, path /v1/chat/completions, model gpt-*"
	Result string `json:"result"` // chosen, behind or no
	Why    string `json:"why"`
}

// What becomes of a rule.
const (
	RuleChosen = "chosen" // the first that matches
	RuleBehind = "behind" // it matches, and a more specific one comes before it
	RuleNo     = "no"
)

// ExplainedEstimate is what limits reckon with before the request runs.
type ExplainedEstimate struct {
	InputTokens int64 `json:"inputTokens"`
	// OutputTokens is the largest output that the request asks for; left out where it asks for none.
	OutputTokens *int64 `json:"outputTokens,omitempty"`
	// AssumedOutputTokens is what budgets reckon with instead: the most that one of them assumes.
	AssumedOutputTokens int64  `json:"assumedOutputTokens,omitempty"`
	Currency            string `json:"currency,omitempty"`
	// InputCost and Cost are decimal text: the dearest candidate's, of the input alone, and with OutputTokens, else with
	// AssumedOutputTokens. Left out where nobody has told a price; Cost also where nothing is known of the output.
	InputCost string `json:"inputCost,omitempty"`
	Cost      string `json:"cost,omitempty"`
}

// ExplainedLimit is one limit or budget that the request must pass. Amounts are units: counts, or decimal text of money in Money.
type ExplainedLimit struct {
	ID        string          `json:"id"`
	Name      string          `json:"name"`
	Unit      string          `json:"unit"`
	Per       string          `json:"per"`               // day, week, month or a duration; "" for what runs at once
	Subject   string          `json:"subject,omitempty"` // whose counter it is; "" where all share one
	Limit     int64           `json:"limit"`
	Remaining int64           `json:"remaining"` // negative in debt
	Needs     int64           `json:"needs"`
	Reserved  int64           `json:"reserved"`
	Money     *ExplainedMoney `json:"money,omitempty"`
	Waiting   int             `json:"waiting,omitempty"`
	Sharing   string          `json:"sharing"`
	// ResetSeconds is the time until the whole limit is free again if nothing more is used.
	ResetSeconds float64 `json:"resetSeconds"`
	// Result is one of the words below.
	Result            string  `json:"result"`
	RetryAfterSeconds float64 `json:"retryAfterSeconds,omitempty"`
	// Shadow and WarnOnly refuse nothing.
	Shadow   bool `json:"shadow,omitempty"`
	WarnOnly bool `json:"warnOnly,omitempty"`
	// Unknown says that replicas share the counter and the shared state did not answer: what is shown is what this replica knows.
	Unknown bool `json:"unknown,omitempty"`
}

// ExplainedMoney is the amounts of a budget, in the currency of the gateway.
type ExplainedMoney struct {
	Limit     string `json:"limit"`
	Remaining string `json:"remaining"`
	Needs     string `json:"needs"`
	Reserved  string `json:"reserved"`
}

// What a limit says.
const (
	LimitFits     = "fits"
	LimitFull     = "full"
	LimitTooLarge = "tooLarge"
	LimitUnknown  = "unavailable"
)

// ExplainedBreaker is one circuit breaker at the door.
type ExplainedBreaker struct {
	Policy            string  `json:"policy"`
	Subject           string  `json:"subject,omitempty"`
	State             string  `json:"state"`
	Requests          int64   `json:"requests"` // in its window
	Failures          int64   `json:"failures"`
	Refuses           bool    `json:"refuses"`
	Shadow            bool    `json:"shadow,omitempty"` // it would refuse, and is not enforced
	RetryAfterSeconds float64 `json:"retryAfterSeconds,omitempty"`
}

// ExplainedCandidate is a backend of the rule.
type ExplainedCandidate struct {
	Backend       string `json:"backend"`
	Priority      int32  `json:"priority"`
	Weight        uint32 `json:"weight"`
	Dialect       string `json:"dialect"` // "" where the Backend cannot be used
	UpstreamModel string `json:"upstreamModel,omitempty"`
	// Excluded says why it cannot serve the request; "" where it can.
	Excluded string `json:"excluded,omitempty"`
	// Share is what it gets of its weight by the load on its endpoints, and Usable whether it can take requests at all.
	Share  float64 `json:"share"`
	Usable bool    `json:"usable"`
	// Chance is how likely it is asked first, 0 to 1.
	Chance float64 `json:"chance"`
	// Translated requests lose the Dropped fields; Error says what the caller gets where the request cannot be translated.
	Translated bool     `json:"translated"`
	Dropped    []string `json:"droppedFields,omitempty"`
	Error      string   `json:"error,omitempty"`
	// Price per million tokens; nil where nobody has told. InputCost is what the input may cost there, and Cost what it may with the
	// output, as in ExplainedEstimate.
	Price     *ExplainedPrice `json:"price,omitempty"`
	InputCost string          `json:"inputCost,omitempty"`
	Cost      string          `json:"cost,omitempty"`
	// Pool is there where Weir picks the endpoint.
	Pool *ExplainedPool `json:"pool,omitempty"`
}

// ExplainedPrice is a price as decimal text, per million tokens and for the request itself.
type ExplainedPrice struct {
	Version string `json:"version,omitempty"`
	Input   string `json:"input"`
	Output  string `json:"output"`
	Request string `json:"request,omitempty"`
}

// ExplainedPool is a pool whose endpoints are picked.
type ExplainedPool struct {
	Mode string `json:"mode"`
	// Picked are the endpoints of the first attempts, in order; empty where Envoy chooses by weights, or there is none.
	Picked []string `json:"picked"`
	// Reason is load, session, prefix or weights; or why there is none: Full, Unavailable, NoPool.
	Reason       string  `json:"reason"`
	CachedTokens int64   `json:"cachedTokens"`
	Waiting      int     `json:"requestsWaiting"`
	MaxWait      float64 `json:"maxWaitSeconds,omitempty"`
	// Endpoints, best first; at most 20.
	Endpoints     []ExplainedEndpoint `json:"endpoints"`
	EndpointsMore int                 `json:"endpointsNotShown,omitempty"`
}

// ExplainedEndpoint is an endpoint as the request sees it.
type ExplainedEndpoint struct {
	Endpoint     string  `json:"endpoint"`
	Requests     int64   `json:"requestsInFlight"`
	Tokens       int64   `json:"tokensInFlight"`
	CachedTokens int64   `json:"cachedTokens"`
	Score        float64 `json:"score"` // tokens it has to do, by its speed and its rules; the least is the best
	Speed        float64 `json:"speed"`
	Factor       float64 `json:"factor"`
	Breaker      string  `json:"breaker"`
	Cannot       string  `json:"cannot,omitempty"`
	// Weight and Why are what the load controller says of it, where it was asked.
	Weight uint32 `json:"weight,omitempty"`
	Why    string `json:"why,omitempty"`
}

// ExplainedOutcome is what the caller would get.
type ExplainedOutcome struct {
	// Served says that the request would go to a backend, or be answered by Weir with 200.
	Served bool `json:"served"`
	// By is the backend that is most likely asked first, "weir" for what Weir answers itself, "" for a refusal. Then are those that are
	// asked when it fails.
	By   string   `json:"by,omitempty"`
	Then []string `json:"then,omitempty"`
	// Retries that Envoy may make.
	Endpoints []string `json:"endpoints,omitempty"`

	// Status, Kind, Code, Message and Headers of Weir's own answer; zero where a backend answers.
	Status  int               `json:"status,omitempty"`
	Kind    string            `json:"kind,omitempty"`
	Code    string            `json:"code,omitempty"`
	Message string            `json:"message,omitempty"`
	Headers map[string]string `json:"headers,omitempty"`
	// Body is the whole answer, in the caller's dialect.
	Body string `json:"body,omitempty"`
	// WaitsSeconds is how long the request would wait for room before it is refused so.
	WaitsSeconds float64 `json:"waitsSeconds,omitempty"`
}
