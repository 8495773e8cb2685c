// Package wire holds the names that ext_proc and the Envoy configuration made for it share: change one here
// and both sides change.
package wire

// Request headers between ext_proc and Envoy's routes. Clients' own are removed at the door, and none
// reaches a backend.
const (
	// RuleHeader carries the key of the Envoy route that ext_proc chose.
	RuleHeader = "x-weir-rule"
	// PathHeader carries the dialect's path, which a direct route appends to the backend's base path. Envoy keeps
	// the query as it is.
	PathHeader = "x-weir-path"
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
)

// Keys in PeekNamespace.
const (
	PeekModel  = "model"  // raw JSON of the top-level model
	PeekStream = "stream" // raw JSON of the top-level stream
	PeekError  = "error"  // why the body could not be read, one word
	PeekRead   = "read"   // true when there was a body
)

// Keys in DecisionNamespace.
const (
	KeyRoute      = "route"      // name of the rule
	KeyDialect    = "dialect"    // of the caller
	KeyExchange   = "exchange"   // finds what the decision kept for attempts; "" where it kept nothing
	KeyImmediate  = "immediate"  // "true" when ext_proc answered itself
	KeyModel      = "model"      // the caller's
	KeyOperation  = "operation"  // canon.Operation
	KeyConsumer   = "consumer"   // who calls
	KeyTenant     = "tenant"     // who pays
	KeyCredential = "credential" // which of the caller's credentials; never secret
	KeyVersion    = "version"    // of the table that decided
	KeyStream     = "stream"     // "true" when the caller asked for a stream
)

// Keys in AttemptNamespace.
const KeyContentLength = "content_length" // of a replaced body, decimal

// Keys in BackendNamespace.
const (
	KeyBackend = "backend" // the backend's ID
	KeyBase    = "base"    // the path that stands before the dialect's paths
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

// BackendTag is the custom tag of the access log that holds the ID of the backend that gave the answer.
const BackendTag = "backend"

// CallerHeaders must never reach a provider: the caller's own credentials and cookies, what tells where the caller
// is, and what names an account there (the account is the gateway's). Attempts share one header map in Envoy, so every
// attempt removes the one before's credential as well.
var CallerHeaders = []string{
	"authorization", "x-api-key", "api-key", "x-goog-api-key", "cookie", "proxy-authorization",
	"forwarded", "via", "x-real-ip", "true-client-ip", "cf-connecting-ip", "origin", "referer",
	"openai-organization", "openai-project", "x-dashscope-workspace", "anthropic-workspace-id", "x-goog-user-project",
}
