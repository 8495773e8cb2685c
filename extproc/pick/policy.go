package pick

import (
	"cmp"
	"time"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/extproc/breaker"
)

// Mode says who chooses the endpoint of a request.
type Mode uint8

// The modes.
const (
	// LeastLoad: this package chooses.
	LeastLoad Mode = iota
	// Weights: Envoy chooses, by its weights. Requests and what becomes of them are counted here, and no endpoint is named.
	Weights
)

// String is the mode as a LoadPolicy spells it.
func (m Mode) String() string {
	if m == Weights {
		return string(v1alpha1.PickWeights)
	}
	return string(v1alpha1.PickLeastLoad)
}

// allOf is the largest pool of which all endpoints are compared when the policy leaves it open.
const allOf = 32

// Policy is how one pool is picked from. It must not change once it has been passed to Update.
type Policy struct {
	Mode Mode
	// Choices that are compared for a request. 0: all of a pool of up to 32, else 2.
	Choices int
	// KVLimit, 0..1: an endpoint whose cache is fuller gets nothing while at least as many others are not.
	KVLimit   float64
	Prefix    *Prefix       // nil: no prefix affinity
	Session   *Session      // nil: no session affinity
	Admission *Admission    // nil: everything is admitted at once, as it always is with Weights
	Breaker   *breaker.Rule // nil: no breaker for endpoints; its subjects are endpoint keys
}

// Prefix keeps prompts that begin alike together.
type Prefix struct {
	BlockTokens  int   // length of the blocks that beginnings are compared by
	MaxBlocks    int   // that are remembered for the pool
	MaxGapTokens int64 // beyond what the cache saves, that the endpoint may be worse than the best
}

// Session keeps the requests of a session together.
type Session struct {
	Header       string // that names the session
	IdleTimeout  time.Duration
	MaxGapTokens int64 // that the endpoint may be worse than the best
}

// Admission holds requests back while every endpoint is full.
type Admission struct {
	MaxRequests int   // in flight at one endpoint
	MaxTokens   int64 // in flight at one endpoint, less what is cached; 0: no bound
	MaxWaiting  int   // requests of the pool; more are refused at once
	MaxWait     time.Duration
	Priorities  []Priority
}

// Priority gives the callers that have all of Labels a priority; higher goes first.
type Priority struct {
	Labels   map[string]string
	Priority int32
}

// PriorityOf is the priority of a caller with these labels: that of the first entry that fits, or 0.
func (a *Admission) PriorityOf(labels map[string]string) int32 {
	if a == nil {
		return 0
	}
next:
	for i := range a.Priorities {
		for k, v := range a.Priorities[i].Labels {
			if have, ok := labels[k]; !ok || have != v {
				continue next
			}
		}
		return a.Priorities[i].Priority
	}
	return 0
}

// FromAPI gives the policy of a pool, whose key is its Backend's ID ("namespace/name"). What the spec leaves out has the
// defaults that the schema gives it.
func FromAPI(poolKey string, spec *v1alpha1.LoadPolicySpec) *Policy {
	p := &Policy{Choices: int(spec.Picking.Choices), KVLimit: float64(cmp.Or(spec.Picking.KVCacheLimitPercent, 98)) / 100}
	if spec.Picking.Mode == v1alpha1.PickWeights {
		p.Mode = Weights
	}
	if a := spec.Picking.PrefixAffinity; a != nil {
		p.Prefix = &Prefix{BlockTokens: int(cmp.Or(a.BlockTokens, 64)), MaxBlocks: int(cmp.Or(a.MaxBlocks, 200_000)), MaxGapTokens: int64(a.MaxGapTokens)}
	}
	if a := spec.Picking.SessionAffinity; a != nil {
		p.Session = &Session{Header: cmp.Or(a.Header, "x-session-id"), IdleTimeout: v1alpha1.DurationOr(a.IdleTimeout, 10*time.Minute), MaxGapTokens: int64(a.MaxGapTokens)}
	}
	if a := spec.Admission; a != nil {
		p.Admission = &Admission{MaxRequests: int(max(1, a.MaxRequestsPerEndpoint)), MaxTokens: a.MaxTokensPerEndpoint,
			MaxWaiting: int(a.MaxWaiting), MaxWait: v1alpha1.DurationOr(a.MaxWait, 10*time.Second)}
		for _, r := range a.Priorities {
			p.Admission.Priorities = append(p.Admission.Priorities, Priority{Labels: r.ConsumerLabels, Priority: r.Priority})
		}
	}
	p.Breaker = breakerRule(poolKey, &spec.CircuitBreaker)
	return p
}

// breakerRule has no warm-up of its own: the endpoint's weight warms up, and with it Endpoint.Factor.
func breakerRule(poolKey string, b *v1alpha1.EndpointBreaker) *breaker.Rule {
	percent := int32(50)
	if b.ErrorPercent != nil {
		percent = *b.ErrorPercent
	}
	if percent <= 0 {
		return nil
	}
	return &breaker.Rule{
		ID: "Backend/" + poolKey, Name: poolKey,
		ErrorPercent: int(percent), MinRequests: int(cmp.Or(b.MinRequests, 10)), Window: v1alpha1.DurationOr(b.Window, 10*time.Second),
		OpenFor: v1alpha1.DurationOr(b.OpenFor, 5*time.Second), HalfOpenRequests: int(cmp.Or(b.HalfOpenRequests, 3)),
	}
}
