package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// LoadPolicy says how the load of Backends is steered: how signals become weights, when an endpoint is isolated and how it
// comes back, and how Weir picks an endpoint for each request.
//
// +kubebuilder:object:root=true
// +kubebuilder:storageversion
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Namespaced,categories=weir,shortName=loadpol
// +kubebuilder:printcolumn:name="Picking",type=string,JSONPath=`.spec.picking.mode`
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name="Programmed",type=string,JSONPath=`.status.conditions[?(@.type=="Programmed")].status`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type LoadPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   LoadPolicySpec `json:"spec"`
	Status Status         `json:"status,omitempty"`
}

// LoadPolicyList is a list of LoadPolicy.
//
// +kubebuilder:object:root=true
type LoadPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []LoadPolicy `json:"items"`
}

// LoadPolicySpec describes how load is steered. Every part has defaults: a policy of targetRefs alone is a good one.
type LoadPolicySpec struct {
	// TargetRefs are the Backends that the policy steers: named ones, or with LLMGateway every Backend of the namespace that no other
	// policy names.
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=256
	TargetRefs []LoadPolicyTarget `json:"targetRefs"`
	// Weights says how signals become weights.
	// +optional
	// +kubebuilder:default={}
	Weights WeightRules `json:"weights,omitempty"`
	// Health says when endpoints are isolated and how they come back.
	// +optional
	// +kubebuilder:default={}
	Health HealthRules `json:"health,omitempty"`
	// CircuitBreaker isolates an endpoint whose requests fail, whatever its health check says.
	// +optional
	// +kubebuilder:default={}
	CircuitBreaker EndpointBreaker `json:"circuitBreaker,omitempty"`
	// Picking says how Weir picks an endpoint for each request.
	// +optional
	// +kubebuilder:default={}
	Picking Picking `json:"picking,omitempty"`
	// Admission holds requests back while every endpoint is full.
	// +optional
	Admission *LoadAdmission `json:"admission,omitempty"`
	// FailureMode says what Envoy does with requests while Weir itself does not answer it. Closed: it answers 503. Open: it sends
	// those on by the last weights that it can judge by itself, and answers 503 to the others. It can judge rules that match by
	// path, method, model and consumer labels, and requests to Backends of the caller's dialect that call the model as the caller does. It lets in
	// callers by an APIKey with secretRef or a hash of the kind sha256, without allowedCIDRs, whose key has 16 characters or more.
	// Limits, budgets and the ledger do not see those requests. It matters where Envoy outlives Weir, with `weir serve`: the
	// Envoy of `weir run` ends with it.
	// +optional
	// +kubebuilder:default=Closed
	// +kubebuilder:validation:Enum=Closed;Open
	FailureMode LoadFailureMode `json:"failureMode,omitempty"`
}

// LoadPolicyTarget names what a LoadPolicy steers.
type LoadPolicyTarget struct {
	// Kind of the target.
	// +kubebuilder:validation:Enum=Backend;LLMGateway
	Kind LoadTargetKind `json:"kind"`
	// Name of an object in the namespace of the policy.
	Name ObjectName `json:"name"`
}

// LoadTargetKind is a kind that LoadPolicies steer.
type LoadTargetKind string

// The kinds.
const (
	LoadTargetBackend LoadTargetKind = "Backend"
	LoadTargetGateway LoadTargetKind = "LLMGateway"
)

// LoadFailureMode is what Envoy does while Weir does not answer.
type LoadFailureMode string

// The modes.
const (
	LoadFailClosed LoadFailureMode = "Closed"
	LoadFailOpen   LoadFailureMode = "Open"
)

// WeightRules turn signals into weights. On every tick each weight is computed anew from the endpoint's base weight:
// base x factors of the rules x latency x warm-up. A signal that an endpoint does not give has no rule applied.
type WeightRules struct {
	// Tick is the longest time between two computations; a signal that crosses a line is computed at once.
	// +optional
	// +kubebuilder:default="250ms"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}(h|m|s|ms)){1,4}$`
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('50ms') && duration(self) <= duration('10s')",message="tick must be from 50ms to 10s"
	Tick *Duration `json:"tick,omitempty"`
	// SmoothingPercent is how much of a new sample enters the average that rules look at (the alpha of an exponentially weighted moving average).
	// +optional
	// +kubebuilder:default=30
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	SmoothingPercent int32 `json:"smoothingPercent,omitempty"`
	// GPUUtilization, percent of the busiest GPU of the endpoint.
	// +optional
	// +kubebuilder:default={enter: 85, leave: 75, factorPercent: 70}
	GPUUtilization *PercentRule `json:"gpuUtilization,omitempty"`
	// GPUMemory, percent used of the fullest GPU. Inference servers take most of it when they start, so it has no default.
	// +optional
	GPUMemory *PercentRule `json:"gpuMemory,omitempty"`
	// KVCache, percent used of the cache of keys and values.
	// +optional
	// +kubebuilder:default={enter: 95, leave: 85, factorPercent: 50}
	KVCache *PercentRule `json:"kvCache,omitempty"`
	// QueueDelay is how long requests wait in the endpoint before it works on them.
	// +optional
	// +kubebuilder:default={enter: "500ms", leave: "300ms", factorPercent: 50}
	QueueDelay *DelayRule `json:"queueDelay,omitempty"`
	// Headroom, percent left of the rate limits that a public API reports. The rule applies below enter, until above leave.
	// +optional
	// +kubebuilder:default={enter: 10, leave: 20, factorPercent: 50}
	Headroom *HeadroomRule `json:"headroom,omitempty"`
	// Latency compares the time to the first token with the median of the pool.
	// +optional
	// +kubebuilder:default={}
	Latency *LatencyRule `json:"latency,omitempty"`
	// PreferCheapPercent shifts load between Backends of a rule towards the cheaper: each weight is multiplied by
	// (cheapest price / own price) to the power of this, divided by 100. 0: prices do not matter.
	// +optional
	// +kubebuilder:default=0
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=300
	PreferCheapPercent int32 `json:"preferCheapPercent,omitempty"`
	// FloorPercent of the base weight is the least an endpoint gets that is not isolated.
	// +optional
	// +kubebuilder:default=5
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	FloorPercent int32 `json:"floorPercent,omitempty"`
	// MaxStepPercent of the base weight is the largest change in one tick of 250ms; longer ticks may change more in proportion. Isolation is not bounded.
	// +optional
	// +kubebuilder:default=50
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	MaxStepPercent int32 `json:"maxStepPercent,omitempty"`
	// PublishPercent is the change of a weight, against the one that Envoy has, that is worth telling Envoy.
	// +optional
	// +kubebuilder:default=5
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=50
	PublishPercent int32 `json:"publishPercent,omitempty"`
	// StaleAfter is the age at which metrics no longer count as they are: from then on the weight moves towards
	// the base weight and is there after decay.
	// +optional
	// +kubebuilder:default="5s"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}(h|m|s|ms)){1,4}$`
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('500ms') && duration(self) <= duration('10m')",message="staleAfter must be from 500ms to 10m"
	StaleAfter *Duration `json:"staleAfter,omitempty"`
	// Decay is how long a weight takes back to the base weight once its metrics are stale.
	// +optional
	// +kubebuilder:default="30s"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}(h|m|s|ms)){1,4}$`
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s') && duration(self) <= duration('1h')",message="decay must be from 1s to 1h"
	Decay *Duration `json:"decay,omitempty"`
}

// PercentRule multiplies a weight while a percentage is too high.
//
// +kubebuilder:validation:XValidation:rule="self.leave <= self.enter",message="leave may not be above enter"
type PercentRule struct {
	// Enter: above it the rule begins to apply.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	Enter int32 `json:"enter"`
	// Leave: below it the rule ends.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=100
	Leave int32 `json:"leave"`
	// FactorPercent of the weight that remains. 100 turns the rule off.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	FactorPercent int32 `json:"factorPercent"`
	// Samples in a row that must be across a line.
	// +optional
	// +kubebuilder:default=2
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=10
	Samples int32 `json:"samples,omitempty"`
}

// HeadroomRule multiplies a weight while what is left of a rate limit is too little.
//
// +kubebuilder:validation:XValidation:rule="self.leave >= self.enter",message="leave may not be below enter"
type HeadroomRule struct {
	// Enter: below it the rule begins to apply.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	Enter int32 `json:"enter"`
	// Leave: above it the rule ends.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	Leave int32 `json:"leave"`
	// FactorPercent of the weight that remains. 100 turns the rule off.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	FactorPercent int32 `json:"factorPercent"`
}

// DelayRule multiplies a weight while a delay is too long.
//
// +kubebuilder:validation:XValidation:rule="duration(self.leave) <= duration(self.enter)",message="leave may not be above enter"
type DelayRule struct {
	// Enter: above it the rule begins to apply.
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}(h|m|s|ms)){1,4}$`
	// +kubebuilder:validation:MaxLength=32
	Enter Duration `json:"enter"`
	// Leave: below it the rule ends.
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}(h|m|s|ms)){1,4}$`
	// +kubebuilder:validation:MaxLength=32
	Leave Duration `json:"leave"`
	// FactorPercent of the weight that remains. 100 turns the rule off.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	FactorPercent int32 `json:"factorPercent"`
	// Samples in a row that must be across a line.
	// +optional
	// +kubebuilder:default=2
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=10
	Samples int32 `json:"samples,omitempty"`
}

// LatencyRule multiplies a weight by (median time to the first token of the pool / the endpoint's own), within bounds.
type LatencyRule struct {
	// MinPercent is the least factor.
	// +optional
	// +kubebuilder:default=25
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	MinPercent int32 `json:"minPercent,omitempty"`
	// MaxPercent is the largest factor. With both at 100 latency does not matter.
	// +optional
	// +kubebuilder:default=150
	// +kubebuilder:validation:Minimum=100
	// +kubebuilder:validation:Maximum=1000
	MaxPercent int32 `json:"maxPercent,omitempty"`
	// AcrossBackends compares the Backend with the others of its rules and priority as well, within the same bounds: requests move to
	// those that answer sooner, whatever the weights in the Route say. It is for Backends that are equals, such as two public APIs.
	// +optional
	AcrossBackends bool `json:"acrossBackends,omitempty"`
}

// HealthRules say when endpoints are isolated and how they come back.
type HealthRules struct {
	// FailedChecks in a row isolate an endpoint.
	// +optional
	// +kubebuilder:default=2
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	FailedChecks int32 `json:"failedChecks,omitempty"`
	// PassedChecks in a row bring it back.
	// +optional
	// +kubebuilder:default=2
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	PassedChecks int32 `json:"passedChecks,omitempty"`
	// WarmUp is how long an endpoint that comes back, or is new in a pool that runs, takes to its full weight. 0s: at once.
	// +optional
	// +kubebuilder:default="20s"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}(h|m|s|ms)){1,4}$`
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="duration(self) <= duration('1h')",message="warmUp may be at most 1h"
	WarmUp *Duration `json:"warmUp,omitempty"`
	// WarmUpFromPercent of its weight is what an endpoint begins its warm-up with.
	// +optional
	// +kubebuilder:default=10
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	WarmUpFromPercent int32 `json:"warmUpFromPercent,omitempty"`
	// PanicPercent: while fewer of a pool's endpoints than this are not isolated, those that only failed their health checks are used as
	// well, because the checks are more likely to be wrong than the endpoints. 0: isolated endpoints are never used, and when all are, the rule's
	// other Backends serve, or requests get 503.
	// +optional
	// +kubebuilder:default=0
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=100
	PanicPercent int32 `json:"panicPercent,omitempty"`
}

// EndpointBreaker isolates an endpoint whose requests fail: 5xx, time-outs, broken answers. Refusals of Weir's own, 4xx and
// callers that go away do not count.
type EndpointBreaker struct {
	// ErrorPercent of failed requests opens it. 0 turns it off.
	// +optional
	// +kubebuilder:default=50
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=100
	ErrorPercent *int32 `json:"errorPercent,omitempty"`
	// MinRequests in the window before the share means anything.
	// +optional
	// +kubebuilder:default=10
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000000
	MinRequests int32 `json:"minRequests,omitempty"`
	// Window that is looked at.
	// +optional
	// +kubebuilder:default="10s"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}(h|m|s|ms)){1,4}$`
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s') && duration(self) <= duration('1h')",message="window must be from 1s to 1h"
	Window *Duration `json:"window,omitempty"`
	// OpenFor is how long the endpoint gets nothing; then some requests are let through to try.
	// +optional
	// +kubebuilder:default="5s"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}(h|m|s|ms)){1,4}$`
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('100ms') && duration(self) <= duration('1h')",message="openFor must be from 100ms to 1h"
	OpenFor *Duration `json:"openFor,omitempty"`
	// HalfOpenRequests that try. All must succeed; one failure opens it again. Then the endpoint warms up.
	// +optional
	// +kubebuilder:default=3
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000
	HalfOpenRequests int32 `json:"halfOpenRequests,omitempty"`
}

// PickMode is how an endpoint is picked.
type PickMode string

// The modes.
const (
	PickLeastLoad PickMode = "LeastLoad"
	PickWeights   PickMode = "Weights"
)

// Picking says how Weir picks an endpoint for each request.
type Picking struct {
	// Mode LeastLoad: Weir picks, by what it has itself in flight at each endpoint. Weights: Envoy picks, by weights alone.
	// +optional
	// +kubebuilder:default=LeastLoad
	// +kubebuilder:validation:Enum=LeastLoad;Weights
	Mode PickMode `json:"mode,omitempty"`
	// Choices that are compared for a request: 2 is the power of two choices. 0: all of a pool of up to 32, else 2.
	// +optional
	// +kubebuilder:default=0
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=64
	Choices int32 `json:"choices,omitempty"`
	// KVCacheLimitPercent: an endpoint whose cache is fuller gets no request while as many others are not.
	// +optional
	// +kubebuilder:default=98
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	KVCacheLimitPercent int32 `json:"kvCacheLimitPercent,omitempty"`
	// PrefixAffinity sends prompts that begin alike to the endpoint that has that beginning in its cache. The prompt
	// passes through Weir for this.
	// +optional
	PrefixAffinity *PrefixAffinity `json:"prefixAffinity,omitempty"`
	// SessionAffinity sends requests of one session to one endpoint.
	// +optional
	SessionAffinity *SessionAffinity `json:"sessionAffinity,omitempty"`
}

// PrefixAffinity keeps prompts that begin alike together.
type PrefixAffinity struct {
	// BlockTokens is the length of the blocks that beginnings are compared by, in tokens of about four bytes.
	// +optional
	// +kubebuilder:default=64
	// +kubebuilder:validation:Minimum=16
	// +kubebuilder:validation:Maximum=4096
	BlockTokens int32 `json:"blockTokens,omitempty"`
	// MaxBlocks that are remembered for the pool; the least recently used go first. One takes 24 bytes.
	// +optional
	// +kubebuilder:default=200000
	// +kubebuilder:validation:Minimum=1000
	// +kubebuilder:validation:Maximum=10000000
	MaxBlocks int32 `json:"maxBlocks,omitempty"`
	// MaxGapTokens: an endpoint that has so many tokens more in flight than the least loaded one, beyond what its cache saves, is not kept to.
	// +optional
	// +kubebuilder:default=16384
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=10000000
	MaxGapTokens int32 `json:"maxGapTokens,omitempty"`
}

// SessionAffinity keeps the requests of a session together.
type SessionAffinity struct {
	// Header that names the session.
	// +optional
	// +kubebuilder:default="x-session-id"
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9!#$%&'*+.^_|~-]+$`
	Header string `json:"header,omitempty"`
	// IdleTimeout after which a session is forgotten.
	// +optional
	// +kubebuilder:default="10m"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}(h|m|s|ms)){1,4}$`
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s') && duration(self) <= duration('24h')",message="idleTimeout must be from 1s to 24h"
	IdleTimeout *Duration `json:"idleTimeout,omitempty"`
	// MaxGapTokens: an endpoint that has so many tokens more in flight than the least loaded one is not kept to.
	// +optional
	// +kubebuilder:default=16384
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=10000000
	MaxGapTokens int32 `json:"maxGapTokens,omitempty"`
}

// LoadAdmission holds requests back while every endpoint of a Backend is full. A request that has waited too long, or finds no
// room to wait, is answered 429 with retry-after.
type LoadAdmission struct {
	// MaxRequestsPerEndpoint in flight.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100000
	MaxRequestsPerEndpoint int32 `json:"maxRequestsPerEndpoint"`
	// MaxTokensPerEndpoint in flight, of prompts less what is cached. 0: no bound.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=1000000000
	MaxTokensPerEndpoint int64 `json:"maxTokensPerEndpoint,omitempty"`
	// MaxWaiting requests; more are refused at once.
	// +optional
	// +kubebuilder:default=1000
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=100000
	MaxWaiting int32 `json:"maxWaiting,omitempty"`
	// MaxWait of one request.
	// +optional
	// +kubebuilder:default="10s"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}(h|m|s|ms)){1,4}$`
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="duration(self) <= duration('60s')",message="maxWait may be at most 60s"
	MaxWait *Duration `json:"maxWait,omitempty"`
	// Priorities of callers, by their labels; the first that fits counts, and 0 where none does. Higher goes first. Within a priority tenants take turns.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=32
	Priorities []LoadPriority `json:"priorities,omitempty"`
}

// LoadPriority gives callers a priority.
type LoadPriority struct {
	// ConsumerLabels that the caller must have.
	// +kubebuilder:validation:MinProperties=1
	// +kubebuilder:validation:MaxProperties=16
	ConsumerLabels map[string]string `json:"consumerLabels"`
	// Priority of those callers.
	// +kubebuilder:validation:Minimum=-100
	// +kubebuilder:validation:Maximum=100
	Priority int32 `json:"priority"`
}
