// Package telemetry sets up OpenTelemetry by the standard OTEL_* variables: where traces, logs and metrics go. A signal is exported where
// its exporter is named (OTEL_TRACES_EXPORTER, OTEL_LOGS_EXPORTER, OTEL_METRICS_EXPORTER), or where there is an endpoint for it
// (OTEL_EXPORTER_OTLP_ENDPOINT or that of the signal). Nothing waits for an export, and none that fails stops anything.
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/contrib/bridges/otelslog"
	prombridge "go.opentelemetry.io/contrib/bridges/prometheus"
	"go.opentelemetry.io/otel/attribute"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// serviceName is what Weir is called where OTEL_SERVICE_NAME says nothing else, and the scope of what it exports.
const serviceName = "weir"

// Options are what Start needs.
type Options struct {
	// Log takes what goes wrong with exports. It must not lead to Telemetry.Handler: trouble would feed itself.
	Log *slog.Logger
	// Registry takes the counters of spans.
	Registry prometheus.Registerer
	// Gatherer is exported as metrics.
	Gatherer prometheus.Gatherer
	// Version of Weir.
	Version string
	// IDs gives spans their IDs; nil for random ones.
	IDs sdktrace.IDGenerator
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Telemetry is what is exported. It is safe for concurrent use.
type Telemetry struct {
	secrets *strings.Replacer
	spans   *sdktrace.TracerProvider // nil where traces are not exported
	logs    *sdklog.LoggerProvider   // nil where logs are not
	metrics *sdkmetric.MeterProvider // nil where metrics are not
}

// Start begins to export what the environment asks for, which may be nothing. A variable that holds what it cannot is an error.
func Start(ctx context.Context, o Options) (*Telemetry, error) {
	t := &Telemetry{}
	off, err := disabled()
	if err != nil || off {
		return t, err
	}
	how := map[signal]string{}
	for _, s := range signals {
		e, err := s.exporter()
		if err != nil {
			return t, err
		}
		if e != none {
			how[s] = e
		}
	}
	if len(how) == 0 {
		return t, nil
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	t.secrets = secrets()
	if err := t.start(ctx, o, how); err != nil {
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = t.Shutdown(stop) // it has nothing to send
		return &Telemetry{}, errors.New("OpenTelemetry cannot be set up: " + t.secrets.Replace(err.Error()))
	}
	return t, nil
}

// start makes a provider for each signal that is exported.
func (t *Telemetry) start(ctx context.Context, o Options, how map[signal]string) error {
	if err := errors.Join(checkNumbers(), checkAttributes()); err != nil {
		return err
	}
	heard := listen(o.Log, t.secrets)
	res, err := describe(ctx, o.Version)
	if err != nil {
		return err
	}
	for _, s := range signals {
		e, on := how[s]
		if !on {
			continue
		}
		if err := errors.Join(checkEndpoint(s), checkHeaders(s)); err != nil {
			return err
		}
		if e != console {
			if err := checkFiles(s); err != nil {
				return err
			}
		}
		said := strings.ToUpper(s.String()[:1]) + s.String()[1:]
		tr := &trouble{what: said, log: o.Log, now: o.Now, secrets: t.secrets}
		switch s {
		case traces:
			err = t.startTraces(ctx, o, e, tr, res)
		case logs:
			err = t.startLogs(ctx, e, tr, res)
		case metrics:
			err = t.startMetrics(ctx, o, e, tr, res)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
		o.Log.Info(said+" are exported", "by", e, "to", host(s, e))
		if looksLikeGRPC(s, e) {
			o.Log.Warn(said + " go by HTTP to port " + grpcPort + ", where collectors expect gRPC; set OTEL_EXPORTER_OTLP_PROTOCOL=grpc, or use port 4318")
		}
	}
	return heard.heard()
}

// host is where a signal goes, for people; "" where that is no host, or the SDK's own default.
func host(s signal, exporter string) string {
	if exporter == console {
		return ""
	}
	_, v := s.otlp(otlpEndpoint)
	u, err := url.Parse(v)
	if err != nil {
		return ""
	}
	return u.Host
}

func (t *Telemetry) startTraces(ctx context.Context, o Options, how string, tr *trouble, res *resource.Resource) error {
	e, err := newSpanExporter(ctx, how)
	if err != nil {
		return err
	}
	size := sdktrace.DefaultMaxQueueSize
	if n, err := strconv.Atoi(os.Getenv(varQueue)); err == nil {
		size = n
	}
	opts := []sdktrace.TracerProviderOption{
		sdktrace.WithSpanProcessor(newQueue(e, size, tr, o.Registry)), sdktrace.WithResource(res),
		sdktrace.WithSampler(sdktrace.AlwaysSample()), // who makes spans has decided
	}
	if o.IDs != nil {
		opts = append(opts, sdktrace.WithIDGenerator(o.IDs))
	}
	t.spans = sdktrace.NewTracerProvider(opts...)
	return nil
}

func (t *Telemetry) startLogs(ctx context.Context, how string, tr *trouble, res *resource.Resource) error {
	e, err := newLogExporter(ctx, how)
	if err != nil {
		return err
	}
	t.logs = sdklog.NewLoggerProvider(sdklog.WithProcessor(sdklog.NewBatchProcessor(logExporter{e, tr})), sdklog.WithResource(res))
	return nil
}

func (t *Telemetry) startMetrics(ctx context.Context, o Options, how string, tr *trouble, res *resource.Resource) error {
	e, err := newMetricExporter(ctx, how)
	if err != nil {
		return err
	}
	reader := sdkmetric.NewPeriodicReader(metricExporter{e, tr}, sdkmetric.WithProducer(prombridge.NewMetricProducer(prombridge.WithGatherer(o.Gatherer))))
	t.metrics = sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader), sdkmetric.WithResource(res))
	return nil
}

// describe says who exports. What the variables say counts for more than what is known here.
func describe(ctx context.Context, version string) (*resource.Resource, error) {
	return resource.New(ctx, resource.WithTelemetrySDK(), resource.WithHost(), resource.WithService(),
		resource.WithAttributes(attribute.String("service.name", serviceName), attribute.String("service.version", version)), resource.WithFromEnv())
}

// Tracer makes spans; nil where traces are not exported.
func (t *Telemetry) Tracer() trace.Tracer {
	if t.spans == nil {
		return nil
	}
	return t.spans.Tracer(serviceName)
}

// Handler has what h takes exported, too. It is h where logs are not exported.
func (t *Telemetry) Handler(h slog.Handler) slog.Handler {
	if t.logs == nil {
		return h
	}
	return both{h, otelslog.NewHandler(serviceName, otelslog.WithLoggerProvider(t.logs))}
}

// Shutdown exports what is left, and ends. It takes no longer than ctx; what is not sent by then is lost.
func (t *Telemetry) Shutdown(ctx context.Context) error {
	var ends []func(context.Context) error
	if t.spans != nil {
		ends = append(ends, t.spans.Shutdown)
	}
	if t.logs != nil {
		ends = append(ends, t.logs.Shutdown)
	}
	if t.metrics != nil {
		ends = append(ends, t.metrics.Shutdown)
	}
	errs := make([]error, len(ends))
	var all sync.WaitGroup
	for i, end := range ends {
		all.Go(func() { errs[i] = end(ctx) })
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		return errors.New("the last telemetry was not exported: " + t.secrets.Replace(err.Error()))
	}
	return nil
}
