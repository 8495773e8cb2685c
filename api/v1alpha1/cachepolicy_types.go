package v1alpha1

import (
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// CachePolicy keeps answers and gives them again to requests that ask the same, so that they are not bought twice. Of several
// that cover a request one applies: the one with the most specific target (APIKey, Consumer, Tenant, rule of a Route, Route,
// LLMGateway), and of equals the oldest.
//
// +kubebuilder:object:root=true
// +kubebuilder:storageversion
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Namespaced,categories=weir,shortName=cachepol
// +kubebuilder:printcolumn:name="Eligible",type=string,JSONPath=`.spec.eligible`
// +kubebuilder:printcolumn:name="Scope",type=string,JSONPath=`.spec.scope`
// +kubebuilder:printcolumn:name="TTL",type=string,JSONPath=`.spec.ttl`
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name="Programmed",type=string,JSONPath=`.status.conditions[?(@.type=="Programmed")].status`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type CachePolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   CachePolicySpec `json:"spec"`
	Status Status          `json:"status,omitempty"`
}

// CachePolicyList is a list of CachePolicy.
//
// +kubebuilder:object:root=true
type CachePolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []CachePolicy `json:"items"`
}

// CachePolicySpec describes what is kept, for whom, how long and where. A policy of targetRefs alone keeps the answers to
// deterministic requests for an hour in memory, for each tenant by itself.
//
// +kubebuilder:validation:XValidation:rule="!has(self.maxTemperature) || self.eligible == 'Deterministic'",message="maxTemperature belongs to eligible: Deterministic"
// +kubebuilder:validation:XValidation:rule="!has(self.seeded) || !self.seeded || self.eligible == 'Deterministic'",message="seeded belongs to eligible: Deterministic"
type CachePolicySpec struct {
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
	// Eligible says which requests are answered from the cache. Deterministic: those whose answer does not depend on chance, by
	// maxTemperature and seeded; embeddings always. OptIn: those that say so in x-weir-cache-control (a max-age, or
	// "cache"). All: every one.
	// +optional
	// +kubebuilder:default=Deterministic
	// +kubebuilder:validation:Enum=Deterministic;OptIn;All
	Eligible CacheEligibility `json:"eligible,omitempty"`
	// MaxTemperature up to which a request is deterministic; without it 0. A request that sets no temperature has that of its
	// model, which is seldom 0, and is not deterministic.
	// +optional
	// +kubebuilder:validation:MaxLength=8
	// +kubebuilder:validation:Pattern=`^[0-2](\.[0-9]{1,4})?$`
	MaxTemperature string `json:"maxTemperature,omitempty"`
	// Seeded takes a request with a seed for deterministic too, whatever its temperature.
	// +optional
	Seeded bool `json:"seeded,omitempty"`
	// Scope says who shares answers. Tenant: the callers of a tenant. Consumer: each consumer has its own. Shared: everybody
	// whom the policy covers, over tenants: a caller can then learn by the time an answer takes what others have asked.
	// +optional
	// +kubebuilder:default=Tenant
	// +kubebuilder:validation:Enum=Tenant;Consumer;Shared
	Scope CacheScope `json:"scope,omitempty"`
	// TTL is how long an answer is fresh.
	// +optional
	// +kubebuilder:default="1h"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}(h|m|s|ms)){1,4}$`
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s') && duration(self) <= duration('8760h')",message="ttl must be from 1s to 8760h"
	TTL *Duration `json:"ttl,omitempty"`
	// JitterPercent of the TTL, at most, is taken from it at random for each answer, so that answers bought together do not run
	// out together.
	// +optional
	// +kubebuilder:default=10
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=50
	JitterPercent *int32 `json:"jitterPercent,omitempty"`
	// StaleWhileRevalidate is how long after its TTL an answer is still given, while one request in the background buys it
	// again.
	// +optional
	// +kubebuilder:default="0s"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}(h|m|s|ms)){1,4}$`
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="duration(self) <= duration('8760h')",message="staleWhileRevalidate may be at most 8760h"
	StaleWhileRevalidate *Duration `json:"staleWhileRevalidate,omitempty"`
	// RefreshAhead buys an answer again in the background shortly before its TTL ends when it is asked for just then: the likelier
	// the closer the end is and the longer the answer took, so that seldom more than one request does.
	// +optional
	// +kubebuilder:default=true
	RefreshAhead *bool `json:"refreshAhead,omitempty"`
	// Negative keeps refusals of the upstream too, for a short while: a request that was wrong once is wrong again. Without it
	// only answers with 200 are kept.
	// +optional
	Negative *NegativeCache `json:"negative,omitempty"`
	// MaxEntrySize is the largest answer that is kept, in bytes: 512Ki, 4Mi. A larger one is passed on and not kept.
	// +optional
	// +kubebuilder:default="1Mi"
	MaxEntrySize *resource.Quantity `json:"maxEntrySize,omitempty"`
	// Memory is the most that the answers of this policy take in the memory of each replica, in bytes: 64Mi, 1Gi. What is seldom
	// asked for leaves first. 0 keeps nothing in memory, which needs redis.
	// +optional
	// +kubebuilder:default="64Mi"
	Memory *resource.Quantity `json:"memory,omitempty"`
	// Redis keeps answers in the Redis of LLMGateway.spec.sharedState too, for all replicas. Without it each replica has its
	// own.
	// +optional
	Redis *CacheRedis `json:"redis,omitempty"`
	// WhenAbandoned says what becomes of an answer that is being bought when every caller who waited for it has left. Stop: it
	// is given up. Finish: it is bought to its end, and kept.
	// +optional
	// +kubebuilder:default=Stop
	// +kubebuilder:validation:Enum=Stop;Finish
	WhenAbandoned CacheAbandoned `json:"whenAbandoned,omitempty"`
	// PromptVersion is part of what answers are found by: with another one, none of those that are kept is found. A caller may add
	// its own by the header x-weir-prompt-version.
	// +optional
	// +kubebuilder:validation:MaxLength=128
	PromptVersion string `json:"promptVersion,omitempty"`
	// Tags that each answer has, to purge by. A caller may add its own by the header x-weir-cache-tags.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=16
	Tags []CacheTag `json:"tags,omitempty"`
	// Semantic finds answers to requests that mean the same in other words too. An answer may then be one to another question:
	// choose the threshold with care.
	// +optional
	Semantic *SemanticCache `json:"semantic,omitempty"`
}

// CacheTag is a word to purge by.
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=64
// +kubebuilder:validation:Pattern=`^[A-Za-z0-9]([-A-Za-z0-9_.:/]*[A-Za-z0-9])?$`
type CacheTag string

// CacheEligibility says which requests are answered from the cache.
type CacheEligibility string

// The eligibilities.
const (
	CacheDeterministic CacheEligibility = "Deterministic"
	CacheOptIn         CacheEligibility = "OptIn"
	CacheAll           CacheEligibility = "All"
)

// CacheScope says who shares answers.
type CacheScope string

// The scopes.
const (
	CacheTenant   CacheScope = "Tenant"
	CacheConsumer CacheScope = "Consumer"
	CacheShared   CacheScope = "Shared"
)

// CacheAbandoned says what becomes of an answer that nobody waits for any more.
type CacheAbandoned string

// What becomes of it.
const (
	CacheStop   CacheAbandoned = "Stop"
	CacheFinish CacheAbandoned = "Finish"
)

// NegativeCache keeps refusals.
type NegativeCache struct {
	// TTL of a refusal.
	// +optional
	// +kubebuilder:default="10s"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}(h|m|s|ms)){1,4}$`
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s') && duration(self) <= duration('1h')",message="ttl must be from 1s to 1h"
	TTL *Duration `json:"ttl,omitempty"`
	// Statuses that are kept. Those that say nothing about the request (401, 403, 408, 409, 425, 429 and 5xx) cannot be.
	// +optional
	// +listType=set
	// +kubebuilder:default={400, 404, 413, 422}
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	Statuses []NegativeStatus `json:"statuses,omitempty"`
}

// NegativeStatus is a status code that says that the request is wrong.
//
// +kubebuilder:validation:Enum=400;404;405;410;413;414;415;422;451
type NegativeStatus int32

// CacheRedis keeps answers in Redis.
type CacheRedis struct {
	// Write says when an answer goes to Redis. Through: before its last byte is given to the callers, so that every replica has it
	// when they do. Behind: soon after; what waits is lost when the replica is killed. Aside: when it is
	// asked for a second time, so that what is asked for once costs Redis nothing.
	// +optional
	// +kubebuilder:default=Through
	// +kubebuilder:validation:Enum=Through;Behind;Aside
	Write CacheWrite `json:"write,omitempty"`
	// MaxEntrySize is the largest answer that goes to Redis, in bytes after compression.
	// +optional
	// +kubebuilder:default="512Ki"
	MaxEntrySize *resource.Quantity `json:"maxEntrySize,omitempty"`
	// MaxWait is how long a request waits while another replica buys the same answer; then it buys it itself. 0s: it does not
	// wait.
	// +optional
	// +kubebuilder:default="30s"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}(h|m|s|ms)){1,4}$`
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="duration(self) <= duration('10m')",message="maxWait may be at most 10m"
	MaxWait *Duration `json:"maxWait,omitempty"`
	// Bloom spares Redis the question after what it does not have.
	// +optional
	// +kubebuilder:default={}
	Bloom *CacheBloom `json:"bloom,omitempty"`
}

// CacheWrite says when an answer goes to Redis.
type CacheWrite string

// The ways to write.
const (
	CacheThrough CacheWrite = "Through"
	CacheBehind  CacheWrite = "Behind"
	CacheAside   CacheWrite = "Aside"
)

// CacheBloom is a bloom filter over what Redis has.
type CacheBloom struct {
	// Enabled asks the filter before Redis.
	// +optional
	// +kubebuilder:default=true
	Enabled *bool `json:"enabled,omitempty"`
	// Keys that the filter is made for. It is made anew when it holds more.
	// +optional
	// +kubebuilder:default=1000000
	// +kubebuilder:validation:Minimum=1000
	// +kubebuilder:validation:Maximum=100000000
	Keys int64 `json:"keys,omitempty"`
	// FalsePositiveRate is the share of questions after what Redis does not have that get to Redis all the same, while the filter
	// holds as many keys as it is made for. The filter takes 1.2 MB of memory for a million keys at 0.01.
	// +optional
	// +kubebuilder:default="0.01"
	// +kubebuilder:validation:MaxLength=8
	// +kubebuilder:validation:Pattern=`^0\.[0-9]{1,6}$`
	FalsePositiveRate string `json:"falsePositiveRate,omitempty"`
}

// SemanticCache finds answers by meaning.
type SemanticCache struct {
	// Model that makes the embeddings, by the name that callers have for it: a Route must lead from it to a Backend that serves
	// embeddings.
	Model ModelName `json:"model"`
	// Threshold is the cosine similarity from which two requests mean the same: above 0, at most 1.
	// +optional
	// +kubebuilder:default="0.95"
	// +kubebuilder:validation:MaxLength=8
	// +kubebuilder:validation:Pattern=`^(0\.[0-9]{1,6}|1(\.0{1,6})?)$`
	Threshold string `json:"threshold,omitempty"`
	// Dimensions to ask the model for; without it: as many as it gives.
	// +optional
	// +kubebuilder:validation:Minimum=8
	// +kubebuilder:validation:Maximum=8192
	Dimensions int32 `json:"dimensions,omitempty"`
	// MaxEntries is how many requests are remembered by their meaning, in each replica or in Redis. The oldest leave first.
	// +optional
	// +kubebuilder:default=10000
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000000
	MaxEntries int32 `json:"maxEntries,omitempty"`
	// Index says where the meanings are. Auto: in Redis where the policy has redis and the server can search vectors, else in
	// memory. Memory: in the memory of each replica. Redis: in Redis; while it cannot be searched nothing is found by meaning.
	// +optional
	// +kubebuilder:default=Auto
	// +kubebuilder:validation:Enum=Auto;Memory;Redis
	Index SemanticIndex `json:"index,omitempty"`
}

// SemanticIndex says where meanings are kept.
type SemanticIndex string

// The places.
const (
	SemanticAuto   SemanticIndex = "Auto"
	SemanticMemory SemanticIndex = "Memory"
	SemanticRedis  SemanticIndex = "Redis"
)
