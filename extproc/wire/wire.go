// Package wire holds the names that ext_proc and the Envoy configuration made for it share: change one here
// and both sides change.
package wire

// Request headers between ext_proc and Envoy's routes. Clients' own are removed at the door, and none
// reaches a backend.
const (
	// RuleHeader carries the key of the Envoy route that ext_proc chose.
	RuleHeader = "x-weir-rule"
	// RetriesHeader is Envoy's own: it bounds the retries of one request.
	RetriesHeader = "x-envoy-max-retries"
	// PathHeader carries the dialect's path, which a direct route appends to the backend's base path. Envoy keeps
	// the query as it is.
	PathHeader = "x-weir-path"
	// LaneHeader carries the exchange of a request that the door lets through by itself. Weir sees it only where Envoy asks nevertheless,
	// because the stream is older than the configuration that has its route.
	LaneHeader = "x-weir-exchange"
	// PreparedHeader is on attempts that ext_proc has prepared.
	PreparedHeader = "x-weir-prepared"
	// FlightHeader names a request between the door and the relay, and a fill between the relay and the inner listener.
	FlightHeader = "x-weir-flight"
	// TimeoutHeader is Envoy's own: how long a request may take, in milliseconds.
	TimeoutHeader = "x-envoy-upstream-rq-timeout-ms"
)

// PrivateHeaders are those request headers of Weir's that clients must not set: they are removed at every door, but for RuleHeader, which the
// door sets, and FlightHeader at the inner listener.
var PrivateHeaders = []string{RuleHeader, PathHeader, LaneHeader, PreparedHeader, FlightHeader, "x-weir-at", "x-weir-from"}

// Request headers by which callers say what they want of caches and sessions. They reach no backend.
const (
	CacheControlHeader  = "x-weir-cache-control"
	CacheTagsHeader     = "x-weir-cache-tags"
	PromptVersionHeader = "x-weir-prompt-version"
	SessionHeader       = "x-weir-session"
)

// Response headers of answers that the relay has given.
const (
	CacheHeader        = "x-weir-cache"            // hit, stale, shared, miss, bypass or negative
	SimilarityHeader   = "x-weir-cache-similarity" // of the request whose answer it is, where that was found by its meaning
	SessionStateHeader = "x-weir-session-state"
)

// DroppedHeader is a response header that names what of a request its backend did not get, because it has no word for it.
const DroppedHeader = "x-weir-dropped"

// RelayKey is the value of RuleHeader that leads a request to the relay.
const RelayKey = "weir.relay#answers"

// RelayCluster is Envoy's cluster of the relay, and InnerListener the listener of its fills.
const (
	RelayCluster  = "weir.relay"
	InnerListener = "weir.inner"
)

// Response headers that Envoy adds to every answer of a backend, before ext_proc sees it; a backend's own are replaced.
const (
	// RouteHeader carries the name of the rule.
	RouteHeader = "x-weir-route"
	// BackendHeader carries the ID of the backend that answered.
	BackendHeader = "x-weir-backend"
)

// Namespaces of dynamic metadata.
const (
	// PeekNamespace holds what the peek filter read in the body.
	PeekNamespace = "weir.peek"
	// DecisionNamespace holds what ext_proc decided. It travels to every attempt and into the access log.
	DecisionNamespace = "weir"
	// AttemptNamespace holds what an attempt needs of Envoy.
	AttemptNamespace = "weir.attempt"
	// BackendNamespace is endpoint and cluster metadata.
	BackendNamespace = "weir"
	// LoadNamespace holds what the headers of answers say about load: for each attempt of the request that was answered, the one
	// that failed included, a text that ParseLoad reads.
	LoadNamespace = "weir.load"
	// TokenUsageNamespace holds the usage that Envoy read in an answer, typed: envoy.data.ai.v3.TokenUsage.
	TokenUsageNamespace = "envoy.ai.token_usage"
)

// Keys in PeekNamespace.
const (
	PeekModel  = "model"  // raw JSON of the top-level model
	PeekStream = "stream" // raw JSON of the top-level stream
	PeekError  = "error"  // why the body could not be read, one word
	PeekRead   = "read"   // true when there was a body
	PeekSource = "source" // the caller's address and port
	PeekHide   = "hide"   // true when Weir asked for the usage of a stream in the caller's place
	PeekID     = "id"     // of the request, unique: Envoy's record has it whatever comes of the decision

	// Top-level numbers as raw JSON, where they are numbers of 32 bytes or less.
	PeekMaxTokens           = "max_tokens"
	PeekMaxCompletionTokens = "max_completion_tokens"
	PeekMaxOutputTokens     = "max_output_tokens"
	PeekN                   = "n"

	PeekSize       = "size"        // bytes of the body, as it came
	PeekMedia      = "media"       // how many of them are in strings that look like media in base64; absent for none
	PeekMediaCount = "media_count" // of such strings

	PeekLane = "lane" // true when the door can let requests through that Weir has decided in advance
	PeekVoid = "void" // the exchange of a request in a lane that came too late for it, and is asked for instead
)

// Keys in DecisionNamespace.
const (
	KeyRoute       = "route"        // name of the rule
	KeyDialect     = "dialect"      // of the caller
	KeyExchange    = "exchange"     // finds what the decision kept for attempts; "" where it kept nothing
	KeyImmediate   = "immediate"    // "true" when ext_proc answered itself
	KeyModel       = "model"        // the caller's
	KeyOperation   = "operation"    // canon.Operation
	KeyConsumer    = "consumer"     // who calls
	KeyTenant      = "tenant"       // who pays
	KeyCredential  = "credential"   // which of the caller's credentials; never secret
	KeyVersion     = "version"      // of the table that decided
	KeyStream      = "stream"       // "true" when the caller asked for a stream
	KeyEndpoints   = "endpoints"    // "ip:port,ip:port": the endpoints that attempts go to, in this order
	KeyNeeds       = "needs"        // whose answers Weir must see: IDs of backends with a space before and after each, or "*" for all
	KeyTrace       = "trace"        // trace.Place.Header: the traceparent of attempts, up to the digit that numbers them
	KeyTraceFlags  = "trace_flags"  // trace.Place.Flags: what follows the digit
	KeyTraceParent = "trace_parent" // the caller's span
	KeyPolicy      = "policy"       // name of the limit, budget or circuit breaker that refused
	KeyRefusal     = "refusal"      // why Weir refused, in words; nothing of what is wrong with a body but its place
	KeyNative      = "native"       // "true" when Weir had decided in advance, and was not asked
	KeyRelayed     = "relayed"      // "true" when the relay answers: from what is kept, or by a fill
	KeyFill        = "fill"         // what the relay asks for, by purpose: a fill is no request of a caller's
	KeyOpen        = "open"         // "true" when nobody decided, and Envoy let the request through because Weir did not answer
)

// Keys in DecisionNamespace of a lane, by which the door lets further requests through that are like this one: see package lane.
const (
	KeyLane       = "lane"        // "<slot>:<generation>:<prefix of exchanges>"
	KeyLaneRule   = "lane_rule"   // for RuleHeader
	KeyLanePath   = "lane_path"   // for PathHeader
	KeyLaneVary   = "lane_vary"   // "a,b": request headers, in lower case, that the decision depends on besides those that all do
	KeyLaneSample = "lane_sample" // the share of traces that begin here to be sampled, from 0 to 1
)

// A request in a lane has its facts together under KeyAhead, in a struct: those that Envoy reads by their keys, and the others, which are for
// its record alone, in one text. Envoy takes a microsecond or more for each value that is set.
const (
	KeyAhead = "ahead"
	KeyRest  = "rest" // in KeyAhead: "key\nvalue\nkey\nvalue"
)

// Keys in DecisionNamespace that are headers of the answer by the same name.
const (
	KeyLimitRequests     = "x-ratelimit-limit-requests"
	KeyRemainingRequests = "x-ratelimit-remaining-requests"
	KeyResetRequests     = "x-ratelimit-reset-requests" // seconds
	KeyLimitTokens       = "x-ratelimit-limit-tokens"
	KeyRemainingTokens   = "x-ratelimit-remaining-tokens"
	KeyResetTokens       = "x-ratelimit-reset-tokens" // seconds
	KeyBudgetWarning     = "x-weir-budget-warning"
)

// AnswerHeaders are those keys.
var AnswerHeaders = []string{
	KeyLimitRequests, KeyRemainingRequests, KeyResetRequests, KeyLimitTokens, KeyRemainingTokens, KeyResetTokens, KeyBudgetWarning,
}

// Values of KeyFill; a fill with a purpose of its own says that.
const (
	FillAnswer = "answer" // it answers its caller, or nobody has decided about it
	FillTaken  = "taken"  // it was refused because another buys its answer: it was for nobody, and nothing is told of it
)

// Keys in AttemptNamespace.
const KeyContentLength = "content_length" // of a replaced body, decimal

// Keys in BackendNamespace.
const (
	KeyBackend = "backend" // the backend's ID
	KeyBase    = "base"    // the path that stands before the dialect's paths
	KeyReports = "reports" // LoadFormatText where the backend is asked to report its load; of endpoints alone
)

// CodeDetailsAttribute tells who made an answer: ViaUpstream when a backend did.
const (
	CodeDetailsAttribute = "response.code_details"
	ViaUpstream          = "via_upstream"
)

// The attributes of an attempt.
const (
	ClusterAttribute      = "xds.cluster_name"
	HostMetadataAttribute = "xds.upstream_host_metadata"
)

// AccessLog is what Envoy sends to Weir: one record for each request, and one for each attempt that failed. They have one log, and so one
// stream for each of Envoy's workers, in which a failed attempt comes before its request.
const AccessLog = "weir"

// BackendTag is the custom tag of the access log that holds the ID of the backend that gave the answer.
const BackendTag = "backend"

// TraceHeader carries the trace context (W3C): the caller's at the door, and the attempt's own on the way to a backend.
const TraceHeader = "traceparent"

// TraceStateHeader carries what others have to say of the caller's trace. It means nothing in another one.
const TraceStateHeader = "tracestate"

// FirstTokenTag is the custom tag of the access log that holds the time, in microseconds, between the beginning of the last
// attempt and the first byte of the body of its answer.
const FirstTokenTag = "first_token"

// Backends report their load (ORCA) in LoadReport where LoadFormat asks them to.
const (
	LoadReport     = "endpoint-load-metrics"
	LoadFormat     = "endpoint-load-metrics-format"
	LoadFormatText = "TEXT"
)

// RetryAfter is when a backend wants to be asked again.
const RetryAfter = "retry-after"

// LoadHeaders are the headers by which the backends of a dialect tell what is left of their rate limits.
var LoadHeaders = map[string][]string{
	"openai": {
		"x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens",
	},
	"anthropic": {
		"anthropic-ratelimit-requests-limit", "anthropic-ratelimit-requests-remaining",
		"anthropic-ratelimit-tokens-limit", "anthropic-ratelimit-tokens-remaining",
		"anthropic-ratelimit-input-tokens-limit", "anthropic-ratelimit-input-tokens-remaining",
		"anthropic-ratelimit-output-tokens-limit", "anthropic-ratelimit-output-tokens-remaining",
	},
}

// CallerHeaders must never reach a provider: the caller's own credentials and cookies, what tells where the caller
// is, what names an account there (the account is the gateway's), and the wish for reports of load, which are Weir's. Attempts share one header map in Envoy, so every
// attempt removes the one before's credential as well.
var CallerHeaders = []string{
	"authorization", "x-api-key", "api-key", "x-goog-api-key", "cookie", "proxy-authorization",
	"forwarded", "via", "x-real-ip", "true-client-ip", "cf-connecting-ip", "origin", "referer",
	"openai-organization", "openai-project", "x-dashscope-workspace", "anthropic-workspace-id", "x-goog-user-project",
	LoadFormat,
}

// GatewayMetadata is the gRPC metadata of the door's calls that names the LLMGateway, "namespace/name".
const GatewayMetadata = "x-weir-gateway"

// InnerMetadata is the gRPC metadata of the calls of the inner listener, to which only the relay connects: "true".
const InnerMetadata = "x-weir-inner"
