package spans

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/weir-dev/weir/adapters"
	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/internal/trace"
	"github.com/weir-dev/weir/usage"
	"github.com/weir-dev/weir/usage/ledger"
	"github.com/weir-dev/weir/usage/money"
)

var update = flag.Bool("update", false, "rewrite testdata")

// t0 is when every request of these tests begins.
var t0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

const ms = time.Millisecond

func place(sampled bool) trace.Place {
	return trace.Place{Trace: "0af7651916cd43dd8448eb211c80319c", Span: "b7ad6b716920333", Sampled: sampled}
}

func dialects(t testing.TB) *adapters.Set {
	t.Helper()
	set, err := adapters.NewSet(adapters.Catalog()...)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

type noLedger struct{}

func (noLedger) Begin(ledger.Intent) bool { return true }
func (noLedger) Commit(ledger.Entry) bool { return true }

// rig has a desk whose finished requests become spans.
type rig struct {
	t        testing.TB
	desk     *usage.Desk
	exporter *Exporter
	sampler  *Sampler
	memory   *tracetest.InMemoryExporter
	now      time.Time
}

func newRig(t testing.TB, p Policy) *rig {
	r := &rig{t: t, sampler: NewSampler(p), memory: tracetest.NewInMemoryExporter(), now: t0}
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(r.memory), sdktrace.WithIDGenerator(IDs{}), sdktrace.WithSampler(sdktrace.AlwaysSample()))
	t.Cleanup(func() { _ = provider.Shutdown(context.Background()) })
	r.exporter = New(Options{Tracer: provider.Tracer("weir"), Sampler: r.sampler, Dialects: dialects(t)})
	r.desk = usage.NewDesk(usage.DeskOptions{
		Ledger: noLedger{}, Estimator: usage.NewEstimator(), Registry: prometheus.NewRegistry(),
		Now: func() time.Time { return r.now }, Finished: r.exporter.Finished,
	})
	return r
}

// begin lets a request in, 2 ms after it came; the decision takes 1 ms.
func (r *rig) begin(change func(*usage.Open)) *usage.Open {
	o := &usage.Open{
		ID: "x-1", RequestID: "req-1", Trace: place(true), Time: t0.Add(2 * ms), Gateway: "default/edge", Tenant: "acme", Namespace: "default",
		Consumer: "default/app", Credential: "key:app", Route: "default/chat", Model: "gpt", Operation: "chat", Dialect: "openai", Currency: "USD",
		Candidates: []usage.Candidate{
			{Backend: "default/main", UpstreamModel: "gpt-4o", Dialect: "openai", Prices: prices(r.t)},
			{Backend: "default/spare", UpstreamModel: "claude", Dialect: "anthropic", Translated: true},
		},
		EstimatedInput: 40, Expires: t0.Add(time.Hour),
	}
	if change != nil {
		change(o)
	}
	r.now = o.Time.Add(ms)
	r.desk.Begin(o)
	return o
}

func prices(t testing.TB) *money.Table {
	t.Helper()
	p, err := money.NewTable(money.Price{Version: "v1", Input: 2_500_000_000, CacheRead: 1_250_000_000, Output: 10_000_000_000, Reasoning: 10_000_000_000})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// record is Envoy's of a request that the main backend has answered.
func record(change func(*usage.Record)) *usage.Record {
	r := &usage.Record{
		RequestID: "req-1", Start: t0, Duration: 200 * ms, FirstByte: 60 * ms, Status: 200, Details: "via_upstream", Dialect: "openai",
		Operation: "chat", Model: "gpt", Route: "default/chat", Backend: "default/main", Consumer: "default/app", Tenant: "acme",
		Credential: "key:app", Version: "v7", Exchange: "x-1", BytesIn: 120, BytesOut: 900, Attempts: 1, Endpoint: "10.0.0.7:8000",
		Timing: usage.Timing{Received: 1 * ms, BackendSent: 5 * ms, BackendSentLast: 6 * ms, BackendFirst: 50 * ms, BackendLast: 190 * ms},
		Trace:  place(true), Caller: "192.0.2.1:4711", Method: "POST", Path: "/v1/chat/completions", Scheme: "https", UserAgent: "OpenAI/Go",
		Reported: &canon.Usage{Input: 30, Output: 50, CacheRead: 10, Reasoning: 20}, ReportedComplete: true,
	}
	if change != nil {
		change(r)
	}
	return r
}

// golden compares the spans that were made with a file.
func (r *rig) golden(name string) {
	r.t.Helper()
	got := draw(r.memory.GetSpans())
	path := filepath.Join("testdata", name+".txt")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			r.t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		r.t.Fatal(err)
	}
	if got != string(want) {
		r.t.Errorf("%s is another one now:\n%s", path, got)
	}
}

// draw writes spans as a tree, with times since t0.
func draw(spans tracetest.SpanStubs) string {
	slices.SortStableFunc(spans, func(a, b tracetest.SpanStub) int {
		return strings.Compare(a.SpanContext.SpanID().String(), b.SpanContext.SpanID().String())
	})
	var b strings.Builder
	var level func(parent string, depth int)
	level = func(parent string, depth int) {
		for _, s := range spans {
			if s.Parent.SpanID().String() != parent {
				continue
			}
			in := strings.Repeat("  ", depth)
			fmt.Fprintf(&b, "%s%s [%s] %s..%s\n", in, s.Name, s.SpanKind, s.StartTime.Sub(t0), s.EndTime.Sub(t0))
			fmt.Fprintf(&b, "%s  = %s-%s", in, s.SpanContext.TraceID(), s.SpanContext.SpanID())
			if s.Parent.IsValid() {
				fmt.Fprintf(&b, " of %s", s.Parent.SpanID())
			}
			if s.Parent.IsRemote() {
				b.WriteString(" (remote)")
			}
			b.WriteString("\n")
			if s.Status.Code != 0 {
				fmt.Fprintf(&b, "%s  ! %s %s\n", in, s.Status.Code, s.Status.Description)
			}
			var attrs []string
			for _, kv := range s.Attributes {
				attrs = append(attrs, fmt.Sprintf("%s  %s: %s\n", in, kv.Key, kv.Value.String()))
			}
			slices.Sort(attrs)
			b.WriteString(strings.Join(attrs, ""))
			for _, e := range s.Events {
				fmt.Fprintf(&b, "%s  * %s %s\n", in, e.Time.Sub(t0), e.Name)
			}
			level(s.SpanContext.SpanID().String(), depth+1)
		}
	}
	known := map[string]bool{}
	for _, s := range spans {
		known[s.SpanContext.SpanID().String()] = true
	}
	roots := map[string]bool{}
	for _, s := range spans {
		if p := s.Parent.SpanID().String(); !known[p] && !roots[p] {
			roots[p] = true
			level(p, 0)
		}
	}
	return b.String()
}
