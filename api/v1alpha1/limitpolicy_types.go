package v1alpha1

import (
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// LimitPolicy says how much may be used: requests, tokens or money in a time, or requests at once. Every policy
// that applies to a request must admit it; the answer to one that is refused names the limit.
//
// +kubebuilder:object:root=true
// +kubebuilder:storageversion
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Namespaced,categories=weir,shortName=limitpol
// +kubebuilder:printcolumn:name="Mode",type=string,JSONPath=`.spec.mode`
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name="Programmed",type=string,JSONPath=`.status.conditions[?(@.type=="Programmed")].status`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type LimitPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   LimitPolicySpec `json:"spec"`
	Status Status          `json:"status,omitempty"`
}

// LimitPolicyList is a list of LimitPolicy.
//
// +kubebuilder:object:root=true
type LimitPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []LimitPolicy `json:"items"`
}

// LimitPolicySpec describes limits and what they apply to.
//
// +kubebuilder:validation:XValidation:rule="has(self.limits) || has(self.circuitBreaker)",message="give limits, circuitBreaker or both"
type LimitPolicySpec struct {
	// TargetRefs are what the policy applies to: a request that any of them covers.
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	TargetRefs []PolicyTarget `json:"targetRefs"`
	// Models the policy applies to, by the caller's name; "*" stands for any run of characters. Empty: any model.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=256
	Models []ModelName `json:"models,omitempty"`
	// Per says who shares a counter. Target: all that a target covers share one. Tenant, Consumer, Credential: each
	// has one of its own.
	// +optional
	// +kubebuilder:default=Target
	// +kubebuilder:validation:Enum=Target;Tenant;Consumer;Credential
	Per PolicyScope `json:"per,omitempty"`
	// Mode Shadow counts and reports what would have been refused, and refuses nothing.
	// +optional
	// +kubebuilder:default=Enforce
	// +kubebuilder:validation:Enum=Enforce;Shadow
	Mode PolicyMode `json:"mode,omitempty"`
	// Limits, all of which must admit a request.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	Limits []Limit `json:"limits,omitempty"`
	// CircuitBreaker answers 503 for a while when too many requests fail, so that what is behind can recover.
	// +optional
	CircuitBreaker *CircuitBreaker `json:"circuitBreaker,omitempty"`
	// Sharing says how the replicas of a gateway count together. It needs LLMGateway.spec.sharedState; without
	// that each replica counts for itself.
	// +optional
	// +kubebuilder:default={}
	Sharing Sharing `json:"sharing,omitempty"`
}

// PolicyTarget names what a policy applies to.
//
// +kubebuilder:validation:XValidation:rule="!has(self.sectionName) || self.kind == 'Route'",message="sectionName names a rule of a Route"
type PolicyTarget struct {
	// Kind of the target. LLMGateway: every request. Tenant: a tenant by its name; "*" is every tenant.
	// +kubebuilder:validation:Enum=LLMGateway;Route;Tenant;Consumer;APIKey
	Kind PolicyTargetKind `json:"kind"`
	// Name of an object in the namespace of the policy, or of a tenant.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^([*]|[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)$`
	Name string `json:"name"`
	// SectionName is the name of one rule of a Route.
	// +optional
	SectionName ObjectName `json:"sectionName,omitempty"`
}

// PolicyTargetKind is a kind that policies apply to.
type PolicyTargetKind string

// The kinds of target.
const (
	TargetGateway  PolicyTargetKind = "LLMGateway"
	TargetRoute    PolicyTargetKind = "Route"
	TargetTenant   PolicyTargetKind = "Tenant"
	TargetConsumer PolicyTargetKind = "Consumer"
	TargetAPIKey   PolicyTargetKind = "APIKey"
)

// PolicyScope says who shares a counter.
type PolicyScope string

// The scopes.
const (
	PerTarget     PolicyScope = "Target"
	PerTenant     PolicyScope = "Tenant"
	PerConsumer   PolicyScope = "Consumer"
	PerCredential PolicyScope = "Credential"
)

// PolicyMode says whether a policy refuses.
type PolicyMode string

// The modes.
const (
	ModeEnforce PolicyMode = "Enforce"
	ModeShadow  PolicyMode = "Shadow"
)

// Limit is one limit.
//
// +kubebuilder:validation:XValidation:rule="!has(self.burst) || self.algorithm == 'TokenBucket'",message="burst belongs to the algorithm TokenBucket"
// +kubebuilder:validation:XValidation:rule="self.unit != 'ConcurrentRequests' || (!has(self.window) && self.algorithm == 'SlidingWindow')",message="ConcurrentRequests has no window and no algorithm"
// +kubebuilder:validation:XValidation:rule="self.unit == 'ConcurrentRequests' || has(self.window)",message="give the window that the limit is for, such as 1m"
// +kubebuilder:validation:XValidation:rule="self.unit != 'Cost' || ![string(self.limit)].exists(s, s.endsWith('n') || s.endsWith('u') || s.endsWith('m'))",message="the suffixes n, u and m are not for money: write limit as a decimal number in quotes, such as \"0.005\""
// +kubebuilder:validation:XValidation:rule="self.unit != 'Cost' || !has(self.burst) || ![string(self.burst)].exists(s, s.endsWith('n') || s.endsWith('u') || s.endsWith('m'))",message="the suffixes n, u and m are not for money: write burst as a decimal number in quotes, such as \"0.005\""
type Limit struct {
	// Name of the limit, as refusals show it.
	Name ObjectName `json:"name"`
	// Unit that is counted. Tokens are reserved before (estimated input and the largest output asked for) and settled
	// after; so is Cost, in the currency of the gateway's prices.
	// +kubebuilder:validation:Enum=Requests;InputTokens;OutputTokens;TotalTokens;ConcurrentRequests;Cost
	Unit LimitUnit `json:"unit"`
	// Limit is how many units a window may hold. A quantity: 500, 100k, 2M; for Cost an amount in quotes: "12.50". A
	// whole number, but for Cost; above 0 and at most 1G.
	Limit resource.Quantity `json:"limit"`
	// Window of the limit: no stretch of time of this length holds more. With TokenBucket, the time in which
	// an empty bucket gains limit units.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}(h|m|s|ms)){1,4}$`
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s') && duration(self) <= duration('24h')",message="window must be from 1s to 24h; for longer there are Budgets"
	Window *Duration `json:"window,omitempty"`
	// Algorithm: SlidingWindow, or TokenBucket, which lets burst units through at once and then limit per window.
	// +optional
	// +kubebuilder:default=SlidingWindow
	// +kubebuilder:validation:Enum=SlidingWindow;TokenBucket
	Algorithm LimitAlgorithm `json:"algorithm,omitempty"`
	// Burst is what a full token bucket holds, written like limit. Without it: limit.
	// +optional
	Burst *resource.Quantity `json:"burst,omitempty"`
	// MaxWait lets a request wait for its turn instead of being refused at once; tenants take turns.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}(h|m|s|ms)){1,4}$`
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="duration(self) <= duration('60s')",message="maxWait may be at most 60s"
	MaxWait *Duration `json:"maxWait,omitempty"`
	// AssumedOutputTokens are reserved for a request that sets no largest output.
	// +optional
	// +kubebuilder:default=1024
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=10000000
	AssumedOutputTokens int64 `json:"assumedOutputTokens,omitempty"`
}

// LimitUnit is what a limit counts.
type LimitUnit string

// The units.
const (
	UnitRequests     LimitUnit = "Requests"
	UnitInputTokens  LimitUnit = "InputTokens"
	UnitOutputTokens LimitUnit = "OutputTokens"
	UnitTotalTokens  LimitUnit = "TotalTokens"
	UnitConcurrent   LimitUnit = "ConcurrentRequests"
	UnitCost         LimitUnit = "Cost"
)

// LimitAlgorithm is how a limit counts.
type LimitAlgorithm string

// The algorithms.
const (
	SlidingWindow LimitAlgorithm = "SlidingWindow"
	TokenBucket   LimitAlgorithm = "TokenBucket"
)

// CircuitBreaker protects what is behind from requests that would fail. It opens on the share of requests that ended
// with 5xx, a time-out or a broken answer; refusals of Weir's own and 4xx do not count.
type CircuitBreaker struct {
	// ErrorPercent of failed requests opens it.
	// +optional
	// +kubebuilder:default=50
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	ErrorPercent int32 `json:"errorPercent,omitempty"`
	// MinRequests in the window before the share means anything.
	// +optional
	// +kubebuilder:default=20
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
	// OpenFor is how long every request is answered 503; then some are let through to try.
	// +optional
	// +kubebuilder:default="5s"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}(h|m|s|ms)){1,4}$`
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('100ms') && duration(self) <= duration('1h')",message="openFor must be from 100ms to 1h"
	OpenFor *Duration `json:"openFor,omitempty"`
	// HalfOpenRequests that try. All must succeed; one failure opens it again.
	// +optional
	// +kubebuilder:default=3
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000
	HalfOpenRequests int32 `json:"halfOpenRequests,omitempty"`
	// WarmUp lets the load come back little by little over this time once it has closed. 0s: all at once.
	// +optional
	// +kubebuilder:default="10s"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}(h|m|s|ms)){1,4}$`
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="duration(self) <= duration('1h')",message="warmUp may be at most 1h"
	WarmUp *Duration `json:"warmUp,omitempty"`
}

// Sharing says how replicas count together.
type Sharing struct {
	// Mode Lease: replicas take shares ahead and admit from those without asking. Exact: every request asks the store.
	// Local: each replica counts for itself.
	// +optional
	// +kubebuilder:default=Lease
	// +kubebuilder:validation:Enum=Lease;Exact;Local
	Mode SharingMode `json:"mode,omitempty"`
	// OnFailure is what happens while the store cannot be reached. LocalShare: each replica admits its part of the
	// limit (the limit by the number of replicas last seen). Allow: everything. Deny: nothing, with 503.
	// +optional
	// +kubebuilder:default=LocalShare
	// +kubebuilder:validation:Enum=LocalShare;Allow;Deny
	OnFailure FailureMode `json:"onFailure,omitempty"`
}

// SharingMode is how replicas count together.
type SharingMode string

// The modes of sharing.
const (
	ShareLease SharingMode = "Lease"
	ShareExact SharingMode = "Exact"
	ShareLocal SharingMode = "Local"
)

// FailureMode is what happens while the shared store cannot be reached.
type FailureMode string

// The modes of failure.
const (
	FailLocalShare FailureMode = "LocalShare"
	FailAllow      FailureMode = "Allow"
	FailDeny       FailureMode = "Deny"
)
