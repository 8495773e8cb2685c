// Command otlp is the OpenTelemetry Collector's own OTLP receiver, for tests: what it receives it writes to standard output, one JSON
// object a line. It is a module of its own, so that nothing of the Collector is among Weir's dependencies.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"go.opentelemetry.io/collector/client"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/otlpreceiver"
	"go.opentelemetry.io/otel/metric/noop"
	tracenoop "go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/zap"
)

// Line is what is written for each export that came; one of the three signals is there.
type Line struct {
	// Ready is on the first line, which says that both ports are open.
	Ready bool `json:"ready,omitempty"`
	// Team is the header x-team of the export.
	Team    []string        `json:"team,omitempty"`
	Traces  json.RawMessage `json:"traces,omitempty"`
	Logs    json.RawMessage `json:"logs,omitempty"`
	Metrics json.RawMessage `json:"metrics,omitempty"`
}

func main() {
	grpc := flag.String("grpc", "", "address for OTLP/gRPC")
	http := flag.String("http", "", "address for OTLP/HTTP")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *grpc, *http, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "otlp:", err)
		os.Exit(1)
	}
}

// run receives until ctx ends.
func run(ctx context.Context, grpc, http string, out io.Writer) (err error) {
	f := otlpreceiver.NewFactory()
	cfg := f.CreateDefaultConfig().(*otlpreceiver.Config)
	g, h := cfg.Protocols.GRPC.GetOrInsertDefault(), cfg.Protocols.HTTP.GetOrInsertDefault()
	g.NetAddr.Endpoint, h.ServerConfig.NetAddr.Endpoint = grpc, http
	g.IncludeMetadata, h.ServerConfig.IncludeMetadata = true, true
	set := receiver.Settings{
		ID: component.NewID(f.Type()),
		TelemetrySettings: component.TelemetrySettings{
			Logger: zap.NewNop(), TracerProvider: tracenoop.NewTracerProvider(), MeterProvider: noop.NewMeterProvider(), Resource: pcommon.NewResource(),
		},
		BuildInfo: component.NewDefaultBuildInfo(),
	}
	w := &writer{enc: json.NewEncoder(out)}
	if err := start(ctx, f, set, cfg, w); err != nil {
		return err
	}
	if err := w.line(Line{Ready: true}); err != nil {
		return err
	}
	<-ctx.Done()
	return nil // the process ends, and its listeners with it
}

// start opens the ports. The three signals share one receiver.
func start(ctx context.Context, f receiver.Factory, set receiver.Settings, cfg component.Config, w *writer) error {
	traces, err := consumer.NewTraces(func(ctx context.Context, td ptrace.Traces) error {
		body, err := (&ptrace.JSONMarshaler{}).MarshalTraces(td)
		return errors.Join(err, w.line(Line{Team: team(ctx), Traces: body}))
	})
	if err != nil {
		return err
	}
	logs, err := consumer.NewLogs(func(ctx context.Context, ld plog.Logs) error {
		body, err := (&plog.JSONMarshaler{}).MarshalLogs(ld)
		return errors.Join(err, w.line(Line{Team: team(ctx), Logs: body}))
	})
	if err != nil {
		return err
	}
	metrics, err := consumer.NewMetrics(func(ctx context.Context, md pmetric.Metrics) error {
		body, err := (&pmetric.JSONMarshaler{}).MarshalMetrics(md)
		return errors.Join(err, w.line(Line{Team: team(ctx), Metrics: body}))
	})
	if err != nil {
		return err
	}
	t, err := f.CreateTraces(ctx, set, cfg, traces)
	if err != nil {
		return err
	}
	if _, err := f.CreateLogs(ctx, set, cfg, logs); err != nil {
		return err
	}
	if _, err := f.CreateMetrics(ctx, set, cfg, metrics); err != nil {
		return err
	}
	return t.Start(ctx, host{})
}

func team(ctx context.Context) []string { return client.FromContext(ctx).Metadata.Get("x-team") }

// writer writes lines, one at a time.
type writer struct {
	mu  sync.Mutex
	enc *json.Encoder
}

func (w *writer) line(l Line) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.enc.Encode(l)
}

// host is the Collector that a receiver believes to run in.
type host struct{}

func (host) GetExtensions() map[component.ID]component.Component { return nil }

// Report ends the process when the receiver cannot go on.
func (host) Report(e *componentstatus.Event) {
	if e.Status() == componentstatus.StatusFatalError {
		fmt.Fprintln(os.Stderr, "otlp:", e.Err())
		os.Exit(1)
	}
}
