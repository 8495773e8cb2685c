package main

import (
	"context"
	"errors"
	"time"

	"github.com/weir-dev/weir/test/bench/proc"
)

// footprint is what a gateway takes that no request asks for.
type footprint struct {
	Variant string `json:"variant"`
	// From its start until Envoy has its configuration, and until Weir says that it is ready, in milliseconds.
	LiveMillis  float64 `json:"envoyLiveMillis"`
	ReadyMillis float64 `json:"weirReadyMillis,omitempty"`
	// Before the first request, and after the last.
	Idle   memory `json:"idle"`
	Loaded memory `json:"afterLoad"`
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func (f *footprint) live(d time.Duration)  { f.LiveMillis = millis(d) }
func (f *footprint) ready(d time.Duration) { f.ReadyMillis = millis(d) }

// memory of a gateway.
type memory struct {
	Envoy      int64 `json:"envoyResidentBytes"`
	Other      int64 `json:"otherResidentBytes,omitempty"` // of weir, or of the floor's processor
	Goroutines int   `json:"goroutines,omitempty"`         // of weir
}

func (g *gateway) memory(ctx context.Context) (m memory, err error) {
	var err1, err2, err3 error
	m.Envoy, err1 = proc.ResidentBytes(g.envoyPID)
	if g.otherPID != 0 {
		m.Other, err2 = proc.ResidentBytes(g.otherPID)
	}
	m.Goroutines, err3 = g.goroutines(ctx)
	return m, errors.Join(err1, err2, err3)
}

// footprints reads the memory of all gateways into what read points to.
func (f *fleet) footprints(ctx context.Context, into func(*footprint) *memory) error {
	for _, g := range f.gateways {
		m, err := g.memory(ctx)
		if err != nil {
			return errors.Join(err, f.ended())
		}
		*into(&g.foot) = m
	}
	return nil
}
