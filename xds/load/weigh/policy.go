package weigh

import (
	"time"

	"github.com/weir-dev/weir/api/v1alpha1"
)

// FromAPI is the Policy of spec. A rule that is nil is off; a number or a duration that is missing is the default of the
// schema, which a spec that was read through it has already.
func FromAPI(spec *v1alpha1.LoadPolicySpec) Policy {
	w, h := &spec.Weights, &spec.Health
	p := Policy{
		Smoothing:      percent(w.SmoothingPercent, 30),
		GPUUtilization: percentRule(w.GPUUtilization),
		GPUMemory:      percentRule(w.GPUMemory),
		KVCache:        percentRule(w.KVCache),
		PreferCheap:    float64(w.PreferCheapPercent) / 100,
		Floor:          percent(w.FloorPercent, 5),
		MaxStep:        percent(w.MaxStepPercent, 50),
		StaleAfter:     v1alpha1.DurationOr(w.StaleAfter, 5*time.Second),
		Decay:          v1alpha1.DurationOr(w.Decay, 30*time.Second),
		FailedChecks:   or(int(h.FailedChecks), 2),
		PassedChecks:   or(int(h.PassedChecks), 2),
		WarmUp:         v1alpha1.DurationOr(h.WarmUp, 20*time.Second),
		WarmUpFrom:     percent(h.WarmUpFromPercent, 10),
		Panic:          float64(h.PanicPercent) / 100,
		TryHalfOpen:    spec.Picking.Mode == v1alpha1.PickWeights,
	}
	if r := w.QueueDelay; r != nil {
		p.QueueDelay = Rule{Enter: r.Enter.Seconds(), Leave: r.Leave.Seconds(), Factor: float64(r.FactorPercent) / 100, Samples: or(int(r.Samples), 2)}
	}
	if r := w.Headroom; r != nil {
		p.Headroom = Rule{Enter: float64(r.Enter) / 100, Leave: float64(r.Leave) / 100, Factor: float64(r.FactorPercent) / 100, Samples: 1}
	}
	if r := w.Latency; r != nil {
		p.LatencyMin, p.LatencyMax = percent(r.MinPercent, 25), percent(r.MaxPercent, 150)
		p.AcrossBackends = r.AcrossBackends
	}
	return p
}

func percentRule(r *v1alpha1.PercentRule) Rule {
	if r == nil {
		return Rule{}
	}
	return Rule{Enter: float64(r.Enter) / 100, Leave: float64(r.Leave) / 100, Factor: float64(r.FactorPercent) / 100, Samples: or(int(r.Samples), 2)}
}

// percent is v in 0..1, or def where v is missing.
func percent(v, def int32) float64 { return float64(or(int(v), int(def))) / 100 }

func or(v, def int) int {
	if v <= 0 {
		return def
	}
	return v
}
