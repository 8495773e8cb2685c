package telemetry

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	nethttp "net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	collogs "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	colmetrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	coltrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"
	googlegrpc "google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
)

// lines is a log that tests read.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func options(t *testing.T, log io.Writer) Options {
	t.Helper()
	if log == nil {
		log = io.Discard
	}
	reg := prometheus.NewRegistry()
	return Options{Log: slog.New(slog.NewTextHandler(log, nil)), Registry: reg, Gatherer: reg, Version: "1.2.3"}
}

// received is what a collector got.
type received struct {
	mu      sync.Mutex
	headers []string
	traces  []*coltrace.ExportTraceServiceRequest
	logs    []*collogs.ExportLogsServiceRequest
	metrics []*colmetrics.ExportMetricsServiceRequest
}

func (r *received) take(header string, m proto.Message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.headers = append(r.headers, header)
	switch m := m.(type) {
	case *coltrace.ExportTraceServiceRequest:
		r.traces = append(r.traces, m)
	case *collogs.ExportLogsServiceRequest:
		r.logs = append(r.logs, m)
	case *colmetrics.ExportMetricsServiceRequest:
		r.metrics = append(r.metrics, m)
	}
}

// ServeHTTP takes OTLP/HTTP.
func (r *received) ServeHTTP(w nethttp.ResponseWriter, req *nethttp.Request) {
	var in io.Reader = req.Body
	if req.Header.Get("Content-Encoding") == "gzip" {
		in, _ = gzip.NewReader(req.Body)
	}
	body, _ := io.ReadAll(in)
	m := map[string]proto.Message{
		"/v1/traces": &coltrace.ExportTraceServiceRequest{}, "/v1/logs": &collogs.ExportLogsServiceRequest{}, "/v1/metrics": &colmetrics.ExportMetricsServiceRequest{},
	}[req.URL.Path]
	if m == nil || proto.Unmarshal(body, m) != nil {
		w.WriteHeader(400)
		return
	}
	r.take(req.Header.Get("x-team"), m)
	w.Header().Set("Content-Type", "application/x-protobuf")
}

type grpcTraces struct {
	coltrace.UnimplementedTraceServiceServer
	*received
}

func (s grpcTraces) Export(ctx context.Context, m *coltrace.ExportTraceServiceRequest) (*coltrace.ExportTraceServiceResponse, error) {
	s.take(header(ctx), m)
	return &coltrace.ExportTraceServiceResponse{}, nil
}

type grpcLogs struct {
	collogs.UnimplementedLogsServiceServer
	*received
}

func (s grpcLogs) Export(ctx context.Context, m *collogs.ExportLogsServiceRequest) (*collogs.ExportLogsServiceResponse, error) {
	s.take(header(ctx), m)
	return &collogs.ExportLogsServiceResponse{}, nil
}

type grpcMetrics struct {
	colmetrics.UnimplementedMetricsServiceServer
	*received
}

func (s grpcMetrics) Export(ctx context.Context, m *colmetrics.ExportMetricsServiceRequest) (*colmetrics.ExportMetricsServiceResponse, error) {
	s.take(header(ctx), m)
	return &colmetrics.ExportMetricsServiceResponse{}, nil
}

func header(ctx context.Context) string {
	md, _ := metadata.FromIncomingContext(ctx)
	return strings.Join(md.Get("x-team"), ",")
}

// TestSignals sends a span, a log line and a metric over each protocol, by nothing but the variables.
func TestSignals(t *testing.T) {
	for _, protocol := range []string{"grpc", "http/protobuf", ""} {
		t.Run("protocol "+protocol, func(t *testing.T) {
			r := &received{}
			endpoint := ""
			if protocol == "grpc" {
				l, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				s := googlegrpc.NewServer()
				coltrace.RegisterTraceServiceServer(s, grpcTraces{received: r})
				collogs.RegisterLogsServiceServer(s, grpcLogs{received: r})
				colmetrics.RegisterMetricsServiceServer(s, grpcMetrics{received: r})
				go func() { _ = s.Serve(l) }()
				t.Cleanup(s.Stop)
				endpoint = "http://" + l.Addr().String()
			} else {
				s := httptest.NewServer(r)
				t.Cleanup(s.Close)
				endpoint = s.URL
			}
			clean(t, vars{
				"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol, "OTEL_EXPORTER_OTLP_HEADERS": "x-team=blue%20one",
				"OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test,service.version=9",
			})
			log := &lines{}
			o := options(t, log)
			tel, err := Start(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			_, span := tel.Tracer().Start(t.Context(), "one")
			span.End()
			local := &lines{}
			slog.New(tel.Handler(slog.NewTextHandler(local, nil))).With("a", 1).WithGroup("g").Info("hello", "b", 2)
			o.Registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "weir_answer"}, func() float64 { return 42 }))
			if err := tel.Shutdown(t.Context()); err != nil {
				t.Fatal(err)
			}
			if len(r.traces) != 1 || len(r.logs) != 1 || len(r.metrics) != 1 {
				t.Fatalf("%d exports of traces, %d of logs, %d of metrics\n%s", len(r.traces), len(r.logs), len(r.metrics), log)
			}
			for _, h := range r.headers {
				if h != "blue one" {
					t.Errorf("x-team is %q", h)
				}
			}
			checkResource(t, r.traces[0].ResourceSpans[0].Resource)
			checkResource(t, r.logs[0].ResourceLogs[0].Resource)
			checkResource(t, r.metrics[0].ResourceMetrics[0].Resource)
			if got := r.traces[0].ResourceSpans[0].ScopeSpans[0].Spans[0].Name; got != "one" {
				t.Errorf("the span is %q", got)
			}
			if got := r.logs[0].ResourceLogs[0].ScopeLogs[0].LogRecords[0].Body.GetStringValue(); got != "hello" || !strings.Contains(local.String(), "hello a=1 g.b=2") {
				t.Errorf("the line is %q here and %q there", local, got)
			}
			if !strings.Contains(r.metrics[0].String(), "weir_answer") {
				t.Errorf("the metrics are %s", r.metrics[0])
			}
			if n := testutil.ToFloat64(counter(t, o, "weir_telemetry_exported_spans_total")); n != 1 {
				t.Errorf("%v spans are counted", n)
			}
			if strings.Contains(log.String(), "blue") || !strings.Contains(log.String(), "Traces are exported") {
				t.Errorf("the log says %s", log)
			}
		})
	}
}

func checkResource(t *testing.T, r *resourcepb.Resource) {
	t.Helper()
	want := map[string]string{"service.name": "weir", "service.version": "9", "deployment.environment.name": "test", "telemetry.sdk.language": "go"}
	for _, kv := range r.Attributes {
		if w, ok := want[kv.Key]; ok && kv.Value.GetStringValue() != w {
			t.Errorf("%s is %q", kv.Key, kv.Value.GetStringValue())
		}
		delete(want, kv.Key)
	}
	if len(want) > 0 {
		t.Errorf("the resource lacks %v", want)
	}
}

// counter finds a counter without labels, or one of a family by its label.
func counter(t *testing.T, o Options, name string, label ...string) prometheus.Collector {
	t.Helper()
	families, err := o.Gatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			if len(label) > 0 && m.GetLabel()[0].GetValue() != label[0] {
				continue
			}
			c := prometheus.NewCounter(prometheus.CounterOpts{Name: name})
			c.Add(m.GetCounter().GetValue())
			return c
		}
	}
	t.Fatalf("there is no %s %v", name, label)
	return nil
}

// TestOff: a laptop without a collector exports nothing, and says nothing.
func TestOff(t *testing.T) {
	for _, env := range []vars{nil, {"OTEL_SDK_DISABLED": "TRUE", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, {"OTEL_TRACES_EXPORTER": "none"}} {
		clean(t, env)
		log := &lines{}
		tel, err := Start(t.Context(), options(t, log))
		if err != nil {
			t.Fatal(err)
		}
		h := slog.NewTextHandler(io.Discard, nil)
		if tel.Tracer() != nil || tel.Handler(h) != slog.Handler(h) || log.String() != "" {
			t.Errorf("%v: a tracer %v, the log says %q", env, tel.Tracer(), log)
		}
		if err := tel.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// TestRefused: a collector that takes nothing is told of once, without the secret that it repeats.
func TestRefused(t *testing.T) {
	s := httptest.NewServer(nethttp.HandlerFunc(func(w nethttp.ResponseWriter, r *nethttp.Request) {
		nethttp.Error(w, "who is "+r.Header.Get("x-key")+"?", 401)
	}))
	defer s.Close()
	clean(t, vars{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": s.URL + "/v1/traces", "OTEL_EXPORTER_OTLP_HEADERS": "x-key=s3cr3t-value"})
	log := &lines{}
	o := options(t, log)
	tel, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		_, span := tel.Tracer().Start(t.Context(), "one")
		span.End()
		if err := tel.spans.ForceFlush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	_ = tel.Shutdown(t.Context())
	if n := testutil.ToFloat64(counter(t, o, "weir_telemetry_dropped_spans_total", "export_failed")); n != 3 {
		t.Errorf("%v spans are counted", n)
	}
	if got := log.String(); strings.Count(got, "cannot be exported") != 1 || strings.Contains(got, "s3cr3t") || !strings.Contains(got, "401") {
		t.Errorf("the log says %s", got)
	}
}

// TestHanging: the end does not wait for a collector that never answers.
func TestHanging(t *testing.T) {
	release, asked := make(chan struct{}), make(chan struct{}, 16)
	s := httptest.NewServer(nethttp.HandlerFunc(func(nethttp.ResponseWriter, *nethttp.Request) {
		asked <- struct{}{}
		<-release
	}))
	defer s.Close()
	defer close(release)
	clean(t, vars{"OTEL_EXPORTER_OTLP_ENDPOINT": s.URL})
	tel, err := Start(t.Context(), options(t, nil))
	if err != nil {
		t.Fatal(err)
	}
	_, span := tel.Tracer().Start(t.Context(), "one")
	span.End()
	slog.New(tel.Handler(slog.NewTextHandler(io.Discard, nil))).Error("x")
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-asked
		cancel()
	}()
	if err := tel.Shutdown(ctx); err == nil {
		t.Error("everything was exported to nobody")
	}
}

// blocked is an exporter that takes its time.
type blocked struct{ began, release chan struct{} }

func (blocked) Shutdown(context.Context) error { return nil }

func (b blocked) ExportSpans(context.Context, []sdktrace.ReadOnlySpan) error {
	b.began <- struct{}{}
	<-b.release
	return nil
}

// TestQueueFull: spans that are too many are dropped and counted, and nobody waits.
func TestQueueFull(t *testing.T) {
	const room = 10
	clean(t, vars{"OTEL_BSP_SCHEDULE_DELAY": "1"})
	o := options(t, nil)
	e := blocked{began: make(chan struct{}, 100), release: make(chan struct{})}
	q := newQueue(e, room, &trouble{what: "Traces", log: o.Log, now: time.Now, secrets: secrets()}, o.Registry)
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(q))
	tracer := provider.Tracer("t")
	for i := range room + 7 {
		_, span := tracer.Start(t.Context(), "s")
		span.End()
		if i == 0 {
			<-e.began // it is on its way, and has a place as long as it is
		}
	}
	if n := testutil.ToFloat64(q.full); n != 7 {
		t.Errorf("%v spans are dropped", n)
	}
	close(e.release)
	if err := provider.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := testutil.ToFloat64(q.exported); n != room || q.waiting.Load() != 0 {
		t.Errorf("%v spans are exported, %d wait", n, q.waiting.Load())
	}
}

// TestQueueBytes: spans that hold texts wait as long as there is memory for them, not as long as there are few.
func TestQueueBytes(t *testing.T) {
	const text, spans = 1 << 20, 100
	clean(t, vars{"OTEL_BSP_SCHEDULE_DELAY": "1"})
	o := options(t, nil)
	e := blocked{began: make(chan struct{}, 2*spans), release: make(chan struct{})}
	q := newQueue(e, 2*spans, &trouble{what: "Traces", log: o.Log, now: time.Now, secrets: secrets()}, o.Registry)
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(q))
	tracer := provider.Tracer("t")
	for range spans {
		_, span := tracer.Start(t.Context(), "s")
		span.SetAttributes(attribute.String("gen_ai.input.messages", strings.Repeat("x", text)))
		span.End()
	}
	if n := q.bytes.Load(); n > maxWaiting || n < maxWaiting-2*text {
		t.Errorf("%d bytes wait", n)
	}
	if n := testutil.ToFloat64(q.full); n != spans-(maxWaiting-1)/text {
		t.Errorf("%v spans are dropped", n)
	}
	close(e.release)
	if err := provider.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n, b := q.waiting.Load(), q.bytes.Load(); n != 0 || b != 0 {
		t.Errorf("%d spans of %d bytes wait for nothing", n, b)
	}
}

// TestLargeBatch: a collector with gRPC's own limit takes a batch whose texts together are beyond it.
func TestLargeBatch(t *testing.T) {
	const spans = 300
	r := &received{}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := googlegrpc.NewServer()
	coltrace.RegisterTraceServiceServer(s, grpcTraces{received: r})
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	clean(t, vars{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://" + l.Addr().String(), "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_BSP_SCHEDULE_DELAY": "600000"})
	log := &lines{}
	tel, err := Start(t.Context(), options(t, log))
	if err != nil {
		t.Fatal(err)
	}
	for range spans {
		_, span := tel.Tracer().Start(t.Context(), "s")
		span.SetAttributes(attribute.String("gen_ai.input.messages", strings.Repeat("x", 32<<10)))
		span.End()
	}
	if err := tel.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := 0
	for _, m := range r.traces {
		for _, rs := range m.ResourceSpans {
			for _, ss := range rs.ScopeSpans {
				got += len(ss.Spans)
			}
		}
	}
	if got != spans {
		t.Errorf("%d of %d spans came: %s", got, spans, log)
	}
}

func TestTrouble(t *testing.T) {
	log := &lines{}
	now := time.Unix(0, 0)
	tr := &trouble{what: "Traces", log: slog.New(slog.NewTextHandler(log, nil)), now: func() time.Time { return now }, secrets: strings.NewReplacer("key", "***")}
	tr.note(nil)
	bad := errors.New("no key")
	for range 61 { // one second apart
		tr.note(bad)
		now = now.Add(time.Second)
	}
	tr.note(nil)
	tr.note(nil)
	tr.note(bad)
	got := log.String()
	if strings.Count(got, "cannot be exported") != 2 || strings.Count(got, "exported again") != 1 || !strings.Contains(got, "failures_since_the_last_line=59") ||
		strings.Contains(got, "key") {
		t.Error(got)
	}
	log.b.Reset()
	for range 120 { // every other export fails
		now = now.Add(time.Second)
		tr.note(bad)
		tr.note(nil)
	}
	if got := log.String(); strings.Count(got, "cannot be exported") != 2 || strings.Count(got, "exported again") != 2 {
		t.Errorf("in two minutes: %s", got)
	}
}
