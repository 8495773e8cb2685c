package main

import (
	"encoding/json"
	"io"
	"runtime"
	"time"
)

// report is the JSON file.
type report struct {
	Time       time.Time         `json:"time"`
	Machine    machine           `json:"machine"`
	Envoy      string            `json:"envoyVersion"`
	Rounds     int               `json:"rounds,omitempty"`
	Seconds    float64           `json:"secondsPerTurn,omitempty"`
	Variants   map[string]string `json:"variants"` // name to description
	Outcomes   []*outcome        `json:"scenarios,omitempty"`
	Footprints []footprint       `json:"footprints,omitempty"`
	Soak       *soak             `json:"streams,omitempty"`
}

type machine struct {
	Cores int    `json:"cores"`
	OS    string `json:"os"`
	Arch  string `json:"arch"`
	Go    string `json:"go"`
}

func cores() int { return runtime.NumCPU() }

func newReport(f *fleet) *report {
	r := &report{Time: time.Now(), Machine: machine{cores(), runtime.GOOS, runtime.GOARCH, runtime.Version()}, Envoy: f.envoyBin.Version.String(),
		Variants: map[string]string{}}
	for _, v := range variants {
		r.Variants[v.name] = v.what
	}
	return r
}

// write writes the report as JSON.
func (r *report) write(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}

// figure is one of a sample.
type figure func(*sample) float64

// medianOf is the median of a figure over the rounds.
func (c *cell) medianOf(f figure) float64 {
	values := make([]float64, len(c.Samples))
	for i := range c.Samples {
		values[i] = f(&c.Samples[i])
	}
	return median(values)
}

// against is the median of how a figure compares with another cell's, round by round.
func (c *cell) against(other *cell, f figure, compare func(a, b float64) float64) float64 {
	values := make([]float64, len(c.Samples))
	for i := range c.Samples {
		values[i] = compare(f(&c.Samples[i]), f(&other.Samples[i]))
	}
	return median(values)
}

func ratio(a, b float64) float64 { return a / b }
func minus(a, b float64) float64 { return a - b }
