// Package signal is what is known about the load of one endpoint: the form that every source of signals is brought to.
package signal

import "time"

// Metric is one thing that a source may say.
type Metric uint8

// The metrics.
const (
	Waiting        Metric = iota // requests that the endpoint has not begun to work on
	Running                      // requests that it works on
	KVCache                      // used part of the cache of keys and values, 0..1
	QueueDelay                   // how long requests waited lately before it worked on them
	GPUUtilization               // of the busiest GPU, 0..1
	GPUMemory                    // used part of the fullest GPU, 0..1
	Headroom                     // least part that is left of a public API's rate limits, 0..1
	KVTokens                     // size of the cache of keys and values, in tokens
	metrics
)

// String is the metric as traces and metrics spell it.
func (m Metric) String() string {
	if m >= metrics {
		return "unknown"
	}
	return [metrics]string{"waiting", "running", "kvCache", "queueDelay", "gpuUtilization", "gpuMemory", "headroom", "kvTokens"}[m]
}

// Set is a set of Metrics.
type Set uint16

// Has says whether m is in the set.
func (s Set) Has(m Metric) bool { return s&(1<<m) != 0 }

// With is the set and m.
func (s Set) With(m Metric) Set { return s | 1<<m }

// Sample is what one reading of one source says about one endpoint. A field counts only where Has says so.
type Sample struct {
	At  time.Time // when it was read; never the same for two readings of a source
	Has Set

	Waiting, Running          float64
	KVCache                   float64
	QueueDelay                time.Duration
	GPUUtilization, GPUMemory float64
	Headroom                  float64
	KVTokens                  float64
}
