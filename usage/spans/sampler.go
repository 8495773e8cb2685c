package spans

import (
	"fmt"
	"math"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/weir-dev/weir/usage"
)

// Policy says which traces are exported.
type Policy struct {
	// Ratio of the traces that begin here, 0 to 1.
	Ratio float64
	// KeepFailed exports those of requests that failed, too: an answer of 500 or more, an attempt that failed, an answer that broke off,
	// a request that was lost.
	KeepFailed bool
	// KeepSlower exports those of requests whose first byte took longer, too; 0 for none.
	KeepSlower time.Duration
}

// RatioOf is the ratio that OTEL_TRACES_SAMPLER and OTEL_TRACES_SAMPLER_ARG say; all, where they say nothing. A caller's traceparent
// decides for the caller's trace in any case, so that a sampler and the one based on the parent are the same here.
// Source: https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/#general-sdk-configuration
func RatioOf(getenv func(string) string) (float64, error) {
	const sampler, argument = "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG"
	switch name := getenv(sampler); name {
	case "", "always_on", "parentbased_always_on":
		return 1, nil
	case "always_off", "parentbased_always_off":
		return 0, nil
	case "traceidratio", "parentbased_traceidratio":
		arg := getenv(argument)
		if arg == "" {
			return 1, nil
		}
		ratio, err := strconv.ParseFloat(arg, 64)
		if err != nil || !(ratio >= 0 && ratio <= 1) {
			return 0, fmt.Errorf("%s=%q: use a number from 0 to 1", argument, arg)
		}
		return ratio, nil
	default:
		return 0, fmt.Errorf("%s=%q: use always_on, always_off or traceidratio, or one of them with parentbased_ before it", sampler, name)
	}
}

// Sampler decides which traces are exported. It is safe for concurrent use.
type Sampler struct{ policy atomic.Pointer[Policy] }

// NewSampler makes a Sampler with a policy.
func NewSampler(p Policy) *Sampler {
	s := &Sampler{}
	s.Apply(p)
	return s
}

// Apply replaces the policy, for requests that begin or end from now on.
func (s *Sampler) Apply(p Policy) { s.policy.Store(&p) }

// Share is the share of the traces that Sampled takes.
func (s *Sampler) Share() float64 { return s.policy.Load().Ratio }

// Sampled decides for a trace that begins here, by its ID in hex. It is the decision that every OpenTelemetry SDK makes for the ID and the
// ratio (TraceIDRatioBased).
func (s *Sampler) Sampled(traceID string) bool {
	ratio := s.policy.Load().Ratio
	if ratio >= 1 {
		return true
	}
	if len(traceID) != 32 {
		return false
	}
	n, err := strconv.ParseUint(traceID[16:], 16, 64)
	return err == nil && n>>1 < uint64(ratio*(1<<63))
}

// keeps says whether the trace of a request is exported, though it was not sampled.
func (s *Sampler) keeps(f *usage.Finished) bool {
	p := s.policy.Load()
	return p.KeepFailed && hasFailed(f) || p.KeepSlower > 0 && waited(f) > p.KeepSlower
}

// hasFailed says whether anything that Weir or a backend is to blame for went wrong with a request. A caller that goes away is no failure.
func hasFailed(f *usage.Finished) bool {
	if f.Record == nil || f.Record.Status >= 500 || brokeOff(f) {
		return true
	}
	for i := range f.Failed {
		if !canceled(&f.Failed[i]) {
			return true
		}
	}
	return false
}

// brokeOff says whether the backend's answer ended before its end.
func brokeOff(f *usage.Finished) bool {
	return f.Record != nil && f.Entry != nil && f.Entry.Aborted && !f.Record.Aborted
}

// canceled says whether an attempt ended because the caller went away.
func canceled(a *usage.Failed) bool { return usage.FailureReason(a) == "canceled" }

// waited is how long the caller waited for the first byte of the answer, or for nothing.
func waited(f *usage.Finished) time.Duration {
	switch r := f.Record; {
	case r == nil:
		return time.Duration(math.MaxInt64)
	case r.FirstByte > 0:
		return r.FirstByte
	default:
		return r.Duration
	}
}
