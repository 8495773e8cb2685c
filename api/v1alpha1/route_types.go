package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// Route says what goes where. Of all rules of all Routes that match a request, the most specific
// serves it, in the Gateway API's order: exact path, longest path prefix, method, most headers, most
// query parameters; then Weir's own: exact model, longest model pattern, most consumer labels; then the oldest
// Route, then namespace/name, then the order inside the Route.
//
// +kubebuilder:object:root=true
// +kubebuilder:storageversion
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Namespaced,categories=weir,shortName=llmroute
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name="Programmed",type=string,JSONPath=`.status.conditions[?(@.type=="Programmed")].status`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type Route struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   RouteSpec `json:"spec"`
	Status Status    `json:"status,omitempty"`
}

// RouteList is a list of Route.
//
// +kubebuilder:object:root=true
type RouteList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Route `json:"items"`
}

// RouteSpec is a list of rules.
type RouteSpec struct {
	// Rules of the route.
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	Rules []RouteRule `json:"rules"`
}

// RouteRule sends the requests that match to backends.
type RouteRule struct {
	// Name of the rule, for people and metrics.
	// +optional
	Name ObjectName `json:"name,omitempty"`
	// Matches: the rule applies when any one of them does. Empty: every request.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	Matches []RouteMatch `json:"matches,omitempty"`
	// Backends that serve the rule. Among those of the lowest priority number the weight decides who
	// is asked first. When an attempt fails (see retry), the others are asked in order: same priority first, then
	// the next.
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	Backends []RouteBackend `json:"backends"`
	// RequiredScopes that the caller's credential must all have; else 403.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MaxLength=256
	// +kubebuilder:validation:items:MinLength=1
	RequiredScopes []string `json:"requiredScopes,omitempty"`
	// Retry says when the next backend is asked.
	// +optional
	// +kubebuilder:default={}
	Retry RouteRetry `json:"retry,omitempty"`
	// Timeouts of the upstream side.
	// +optional
	// +kubebuilder:default={}
	Timeouts RouteTimeouts `json:"timeouts,omitempty"`
}

// RouteMatch applies when everything it says applies.
type RouteMatch struct {
	// Path of the request. Empty: every path.
	// +optional
	Path *PathMatch `json:"path,omitempty"`
	// Headers that must all match.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=16
	Headers []ValueMatch `json:"headers,omitempty"`
	// QueryParams that must all match.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=16
	QueryParams []ValueMatch `json:"queryParams,omitempty"`
	// Method of the request.
	// +optional
	// +kubebuilder:validation:Enum=GET;POST;PUT;PATCH;DELETE;HEAD;OPTIONS
	Method string `json:"method,omitempty"`
	// Models, any of which the request must ask for. "*" stands for any run of characters.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=256
	Models []ModelName `json:"models,omitempty"`
	// ConsumerLabels that the caller must have.
	// +optional
	// +kubebuilder:validation:MaxProperties=16
	ConsumerLabels map[string]string `json:"consumerLabels,omitempty"`
}

// PathMatch matches the path without its query.
type PathMatch struct {
	// Type of the match. PathPrefix counts whole segments: /a matches /a and /a/b, not /ab.
	// +optional
	// +kubebuilder:default=PathPrefix
	// +kubebuilder:validation:Enum=Exact;PathPrefix
	Type PathMatchType `json:"type,omitempty"`
	// Value to compare with.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:Pattern=`^/`
	Value string `json:"value"`
}

// PathMatchType is how a path is compared.
type PathMatchType string

// The path match types.
const (
	PathExact  PathMatchType = "Exact"
	PathPrefix PathMatchType = "PathPrefix"
)

// ValueMatch matches one header or query parameter.
type ValueMatch struct {
	// Type of the match.
	// +optional
	// +kubebuilder:default=Exact
	// +kubebuilder:validation:Enum=Exact;RegularExpression
	Type ValueMatchType `json:"type,omitempty"`
	// Name of the header (case does not matter) or query parameter (case matters).
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9!#$%&'*+\-.^_|~]+$`
	Name string `json:"name"`
	// Value to compare with; a regular expression (RE2) must match the whole value.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=4096
	Value string `json:"value"`
}

// ValueMatchType is how a value is compared.
type ValueMatchType string

// The value match types.
const (
	MatchExact             ValueMatchType = "Exact"
	MatchRegularExpression ValueMatchType = "RegularExpression"
)

// RouteBackend is one backend of a rule.
type RouteBackend struct {
	// Name of the Backend.
	Name ObjectName `json:"name"`
	// Namespace of the Backend. Without it: that of the Route. Another namespace must permit it by a ReferenceGrant.
	// +optional
	Namespace NamespaceName `json:"namespace,omitempty"`
	// Weight among the backends of the same priority. 0: never asked.
	// +optional
	// +kubebuilder:default=1
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=1000000
	Weight *int32 `json:"weight,omitempty"`
	// Priority: a higher number is asked only after every lower one has failed.
	// +optional
	// +kubebuilder:default=0
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=15
	Priority int32 `json:"priority,omitempty"`
	// Model asked of this backend instead of the caller's: this makes the caller's name an alias. The
	// backend's own upstreamName applies after it.
	// +optional
	Model ModelName `json:"model,omitempty"`
}

// RouteRetry says when the next backend is asked.
type RouteRetry struct {
	// Conditions: the failures after which the next backend is asked. Nothing is retried once the first byte of
	// an answer has reached the caller.
	// +optional
	// +listType=set
	// +kubebuilder:default={"ConnectFailure","ServerError","RateLimited","Timeout","Unauthorized"}
	// +kubebuilder:validation:items:Enum=ConnectFailure;ServerError;RateLimited;Timeout;Unauthorized
	// +kubebuilder:validation:MaxItems=5
	Conditions []RetryCondition `json:"conditions,omitempty"`
	// Attempts in all, the first one included. 0: one for each backend, and two at one backend alone whose several endpoints a
	// LoadPolicy steers.
	// +optional
	// +kubebuilder:default=0
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=16
	Attempts int32 `json:"attempts,omitempty"`
}

// RetryCondition is a failure after which the next backend is asked.
type RetryCondition string

// The retry conditions. ConnectFailure: no connection, or reset before the answer began. ServerError: status
// 5xx. RateLimited: status 429. Timeout: no first byte within timeouts.firstByte; it includes ConnectFailure, which Envoy
// does not tell from it. Unauthorized: status 401, 402 or 403, which from a backend means that the gateway's own key or account
// is refused.
const (
	RetryConnectFailure RetryCondition = "ConnectFailure"
	RetryServerError    RetryCondition = "ServerError"
	RetryRateLimited    RetryCondition = "RateLimited"
	RetryTimeout        RetryCondition = "Timeout"
	RetryUnauthorized   RetryCondition = "Unauthorized"
)

// RouteTimeouts of the upstream side.
//
// +kubebuilder:validation:XValidation:rule="!has(self.firstByte) || !has(self.request) || duration(self.firstByte) <= duration(self.request)",fieldPath=".firstByte",message="firstByte must not be longer than request, which ends the attempt first"
type RouteTimeouts struct {
	// Request is the time from the end of the request to the end of the answer, all attempts included.
	// +optional
	// +kubebuilder:default="10m"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}(h|m|s|ms)){1,4}$`
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.matches('[1-9]')",message="must be longer than zero"
	Request *Duration `json:"request,omitempty"`
	// FirstByte is the time one attempt has to begin its answer, at most request. Unset: as long as the request.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}(h|m|s|ms)){1,4}$`
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.matches('[1-9]')",message="must be longer than zero"
	FirstByte *Duration `json:"firstByte,omitempty"`
}
