package main

import (
	"context"
	"log/slog"
	"os"
	"time"

	"github.com/weir-dev/weir/internal/telemetry"
	"github.com/weir-dev/weir/usage/spans"
	"github.com/weir-dev/weir/xds/compile"
)

// lastExports is how long what has not been exported at the end may take.
const lastExports = 5 * time.Second

// exports is what OpenTelemetry gets of a gateway.
type exports struct {
	*telemetry.Telemetry
	spans   *spans.Exporter
	sampler *spans.Sampler
	ratio   float64 // that the environment says
}

// export begins to export what the environment asks for. It comes before all else that may have something to say, and ends after it.
func (g *gateway) export() error {
	var x exports
	var err error
	if x.ratio, err = spans.RatioOf(os.Getenv); err != nil {
		return err
	}
	local := g.log // trouble with exports must not be exported
	if x.Telemetry, err = telemetry.Start(context.Background(), telemetry.Options{
		Log: local, Registry: g.registry, Gatherer: g.registry, Version: buildVersion(), IDs: spans.IDs{},
	}); err != nil {
		return err
	}
	g.onClose(func() {
		ctx, cancel := context.WithTimeout(context.Background(), lastExports)
		defer cancel()
		if err := x.Shutdown(ctx); err != nil {
			local.Warn(err.Error())
		}
	})
	g.log = slog.New(x.Handler(local.Handler()))
	x.sampler = spans.NewSampler(spans.Policy{Ratio: x.ratio, KeepFailed: true})
	x.spans = spans.New(spans.Options{Tracer: x.Tracer(), Sampler: x.sampler, Dialects: g.dialects})
	g.finished = append(g.finished, x.spans.Finished)
	g.exports = &x
	return nil
}

// sampled decides about traces that begin here; nil where none is exported.
func (x *exports) sampled() func(traceID string) bool {
	if x.Tracer() == nil {
		return nil
	}
	return x.sampler.Sampled
}

// sampleShare is the share of the traces that begin here which are exported.
func (x *exports) sampleShare() float64 {
	if x.Tracer() == nil {
		return 0
	}
	return x.sampler.Share()
}

// capturing says whether text that is captured would go anywhere.
func (x *exports) capturing() bool { return x.Tracer() != nil }

// apply takes what a configuration that goes live says of traces, and the providers of its backends.
func (x *exports) apply(t compile.Telemetry, providers map[string]string) {
	p := spans.Policy{Ratio: t.Sampling, KeepFailed: t.KeepFailed, KeepSlower: t.KeepSlower}
	if t.Sampling < 0 {
		p.Ratio = x.ratio
	}
	x.sampler.Apply(p)
	x.spans.Use(providers)
}
