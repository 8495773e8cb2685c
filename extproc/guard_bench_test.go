package extproc

import (
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/types/known/structpb"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/extproc/breaker"
	"github.com/weir-dev/weir/extproc/limit"
	"github.com/weir-dev/weir/extproc/table"
	"github.com/weir-dev/weir/extproc/wire"
	"github.com/weir-dev/weir/usage"
	"github.com/weir-dev/weir/usage/ledger"
	"github.com/weir-dev/weir/usage/money"
)

// BenchmarkDecision is the life of a direct request with everything that guards it: identity, limits and a budget, the
// desk and a ledger on disk; the messages are read and written as gRPC does, without gRPC. Its record comes at once.
func BenchmarkDecision(b *testing.B) {
	perTenant := func(name string, u limit.Unit, most int64) *limit.Rule {
		return &limit.Rule{ID: "LimitPolicy/default/p/" + name, Name: "p/" + name, Unit: u, Limit: most, Window: time.Minute, Per: limit.PerTenant}
	}
	limits := []*table.Policy{
		{Limits: []*limit.Rule{
			perTenant("requests", limit.Requests, 1e15), perTenant("tokens", limit.TotalTokens, 1e15), perTenant("parallel", limit.Concurrent, 1e6),
		}},
		{Limits: []*limit.Rule{{
			ID: "Budget/default/month", Name: "month", Unit: limit.Cost, Algorithm: limit.Calendar, Limit: 1e18, Period: limit.Month,
			WarnAt: 8e17, Per: limit.PerTenant,
		}}},
	}
	b.Run("identity and accounting", func(b *testing.B) { benchDecision(b, nil) })
	b.Run("three limits and a budget", func(b *testing.B) { benchDecision(b, limits) })
}

func benchDecision(b *testing.B, policies []*table.Policy) {
	book, err := ledger.Open(b.TempDir(), ledger.Options{Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	defer book.Close()
	engine := limit.New(limit.Options{Now: time.Now})
	defer engine.Close(b.Context())
	registry, estimator := prometheus.NewRegistry(), usage.NewEstimator()
	desk := usage.NewDesk(usage.DeskOptions{Ledger: book, Estimator: estimator, Registry: registry, Now: time.Now})
	metrics := usage.NewMetrics(registry)
	s := New(Options{
		Dialects: dialects(b), Log: slog.New(slog.DiscardHandler), Metrics: metrics, Limits: engine,
		Breakers: breaker.New(breaker.Options{}), Estimator: estimator, Desk: desk,
	})
	r := newRules(b)
	r.add("direct", models("gpt-4o"), choice{"openai", ""})
	prices, err := money.NewTable(money.Price{Input: 2_500_000_000, Output: 10_000_000_000})
	if err != nil {
		b.Fatal(err)
	}
	r.backends["openai"].DefaultPrice = prices
	t := r.build()
	t.Policies.AllTenants, t.Currency = policies, "USD"
	s.Use(t)

	request := encoded(b, requestHeaders(benchHeaders().with("x-request-id", "8f1c6e0e-4a32-4dd0-9d0c-2f5b6f0c7a11"), peekOfBench()))
	record := usage.Record{
		Start: time.Now(), Duration: 40 * time.Millisecond, FirstByte: 30 * time.Millisecond, Status: 200, Details: wire.ViaUpstream,
		Backend: "default/openai", BytesIn: 512, BytesOut: 700, Attempts: 1,
		Reported: &canon.Usage{Input: 110, Output: 48}, ReportedComplete: true,
	}
	b.ReportAllocs()
	for b.Loop() {
		sc := wireScript{raw: request, sent: make([][]byte, 0, 1)}
		if err := s.Process(&sc); err != nil {
			b.Fatal(err)
		}
		ended := record
		if ended.Exchange = exchangeOf(sc.sent[0]); ended.Exchange == "" {
			b.Fatalf("refused: %v", sc.first(b))
		}
		metrics.Count(&ended)
		desk.Close(&ended)
	}
	if n := desk.InFlight(); n > 0 {
		b.Fatalf("%d requests are still open", n)
	}
}

// peekOfBench is what the peek filter says of a small request.
func peekOfBench() *corev3.Metadata {
	fields, _ := structpb.NewStruct(map[string]any{ // of strings, numbers and a bool: cannot fail
		wire.PeekRead: true, wire.PeekID: "4be2c0ffee-17", wire.PeekModel: `"gpt-4o"`, wire.PeekMaxTokens: "64",
		wire.PeekSize: 512, wire.PeekMedia: 0, wire.PeekMediaCount: 0, wire.PeekSource: "127.0.0.1:50000",
	})
	return &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{wire.PeekNamespace: fields}}
}
