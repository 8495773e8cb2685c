package gpu

import (
	"fmt"
	"time"

	"github.com/weir-dev/weir/test/sim/gpu/engine"
)

// Fault is how a server misbehaves. The zero value is a healthy one.
type Fault struct {
	Speed     float64 `json:"speed"`     // of its GPUs, relative to the profile; 0 means 1
	Stall     bool    `json:"stall"`     // it takes requests and computes nothing
	Fail      int     `json:"fail"`      // status that every chat request gets at once; 0: none
	ErrorRate float64 `json:"errorRate"` // 0..1: part of the chat requests that get 500 at once

	Health       int      `json:"health"`       // status of /health; 0 means 200
	MetricsOff   bool     `json:"metricsOff"`   // both pages of metrics answer 503
	MetricsDelay Duration `json:"metricsDelay"` // before each of them
	ORCAStreams  bool     `json:"orcaStreams"`  // streams carry ORCA headers too; vLLM's do not

	Override Override `json:"override"`
}

// Override is what the metrics say instead of the truth. Nil: the truth.
type Override struct {
	Waiting        *float64  `json:"waiting,omitempty"`
	Running        *float64  `json:"running,omitempty"`
	KVCache        *float64  `json:"kvCache,omitempty"`        // 0..1
	QueueDelay     *Duration `json:"queueDelay,omitempty"`     // each reading of the page finds one more request that waited so long, and no others
	GPUUtilization *float64  `json:"gpuUtilization,omitempty"` // 0..1
	GPUMemory      *float64  `json:"gpuMemory,omitempty"`      // 0..1
}

// Duration is a time.Duration that JSON spells as Go does: "1.5s".
type Duration time.Duration

// MarshalText spells it.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText reads it.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	*d = Duration(v)
	return err
}

// clone shares nothing with f.
func (f Fault) clone() Fault {
	o := &f.Override
	o.Waiting, o.Running, o.KVCache = clone(o.Waiting), clone(o.Running), clone(o.KVCache)
	o.QueueDelay, o.GPUUtilization, o.GPUMemory = clone(o.QueueDelay), clone(o.GPUUtilization), clone(o.GPUMemory)
	return f
}

func clone[T any](p *T) *T {
	if p == nil {
		return nil
	}
	v := *p
	return &v
}

// check says what is wrong with a fault.
func (f Fault) check() error {
	status := func(name string, v int) error {
		if v != 0 && (v < 200 || v > 599) {
			return fmt.Errorf("%s is %d: give a status from 200 to 599, or 0", name, v)
		}
		return nil
	}
	part := func(name string, v *float64) error {
		if v != nil && !(*v >= 0 && *v <= 1) {
			return fmt.Errorf("%s is %v: give a part from 0 to 1", name, *v)
		}
		return nil
	}
	count := func(name string, v *float64) error {
		if v != nil && !(*v >= 0) {
			return fmt.Errorf("%s is %v: it cannot be less than 0", name, *v)
		}
		return nil
	}
	o := f.Override
	delay := float64(f.MetricsDelay)
	errs := []error{
		count("speed", &f.Speed), part("errorRate", &f.ErrorRate), status("fail", f.Fail), status("health", f.Health),
		count("metricsDelay", &delay), count("override.waiting", o.Waiting), count("override.running", o.Running),
		part("override.kvCache", o.KVCache), part("override.gpuUtilization", o.GPUUtilization), part("override.gpuMemory", o.GPUMemory),
	}
	if o.QueueDelay != nil {
		delay := float64(*o.QueueDelay)
		errs = append(errs, count("override.queueDelay", &delay))
	}
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func (f Fault) engine() engine.Fault {
	return engine.Fault{Speed: f.Speed, Stalled: f.Stall, ErrorRate: f.ErrorRate}
}
