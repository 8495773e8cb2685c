package main

import (
	"math"
	"slices"
	"time"
)

// quantiles of durations, in microseconds.
type quantiles struct {
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p999"`
	Max  float64 `json:"max"`
}

// quantilesOf sorts the samples. Of none all quantiles are 0.
func quantilesOf(samples []time.Duration) quantiles {
	slices.Sort(samples)
	at := func(q float64) float64 {
		if len(samples) == 0 {
			return 0
		}
		// the smallest sample that at least the share q does not exceed
		rank := int(math.Ceil(q * float64(len(samples))))
		return float64(samples[max(rank, 1)-1]) / float64(time.Microsecond)
	}
	return quantiles{P50: at(0.50), P90: at(0.90), P99: at(0.99), P999: at(0.999), Max: at(1)}
}

// median of values, which it leaves in their order; 0 of none. Of an even number it is the mean of the two in the middle.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(values))
	m := len(s) / 2
	if len(s)%2 == 1 {
		return s[m]
	}
	return (s[m-1] + s[m]) / 2
}
