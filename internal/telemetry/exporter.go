package telemetry

import (
	"context"

	"go.opentelemetry.io/otel/exporters/otlp/otlplog/otlploggrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlplog/otlploghttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetricgrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/exporters/stdout/stdoutlog"
	"go.opentelemetry.io/otel/exporters/stdout/stdoutmetric"
	"go.opentelemetry.io/otel/exporters/stdout/stdouttrace"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

func newSpanExporter(ctx context.Context, how string) (sdktrace.SpanExporter, error) {
	switch how {
	case grpc:
		return otlptracegrpc.New(ctx)
	case http:
		return otlptracehttp.New(ctx)
	}
	return stdouttrace.New()
}

func newLogExporter(ctx context.Context, how string) (sdklog.Exporter, error) {
	switch how {
	case grpc:
		return otlploggrpc.New(ctx)
	case http:
		return otlploghttp.New(ctx)
	}
	return stdoutlog.New()
}

func newMetricExporter(ctx context.Context, how string) (sdkmetric.Exporter, error) {
	switch how {
	case grpc:
		return otlpmetricgrpc.New(ctx)
	case http:
		return otlpmetrichttp.New(ctx)
	}
	return stdoutmetric.New()
}

// logExporter tells its trouble of what goes wrong, and nobody else.
type logExporter struct {
	sdklog.Exporter
	trouble *trouble
}

func (e logExporter) Export(ctx context.Context, records []sdklog.Record) error {
	e.trouble.note(e.Exporter.Export(ctx, records))
	return nil
}

// metricExporter tells its trouble of what goes wrong, and nobody else.
type metricExporter struct {
	sdkmetric.Exporter
	trouble *trouble
}

func (e metricExporter) Export(ctx context.Context, m *metricdata.ResourceMetrics) error {
	e.trouble.note(e.Exporter.Export(ctx, m))
	return nil
}
