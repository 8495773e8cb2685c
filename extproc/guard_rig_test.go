package extproc

import (
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-dev/weir/extproc/breaker"
	"github.com/weir-dev/weir/extproc/limit"
	"github.com/weir-dev/weir/usage"
	"github.com/weir-dev/weir/usage/ledger"
)

// memoryLedger is a ledger in memory.
type memoryLedger struct {
	intents chan ledger.Intent
	entries chan ledger.Entry
}

func newMemoryLedger() *memoryLedger {
	return &memoryLedger{make(chan ledger.Intent, 10_000), make(chan ledger.Entry, 10_000)}
}

func (b *memoryLedger) Begin(i ledger.Intent) bool {
	select {
	case b.intents <- i:
	default: // a benchmark, which reads none
	}
	return true
}

func (b *memoryLedger) Commit(e ledger.Entry) bool {
	select {
	case b.entries <- e:
	default:
	}
	return true
}

// testOptions are those of a server with a guard that counts in memory.
func testOptions(t testing.TB, now func() time.Time, b *memoryLedger) Options {
	t.Helper()
	limits := limit.New(limit.Options{Now: now})
	t.Cleanup(func() { limits.Close(t.Context()) })
	estimator := usage.NewEstimator()
	return Options{
		Dialects: dialects(t), Log: slog.New(slog.DiscardHandler), Now: now,
		Limits: limits, Breakers: breaker.New(breaker.Options{Now: now}), Estimator: estimator,
		Desk: usage.NewDesk(usage.DeskOptions{Ledger: b, Estimator: estimator, Registry: prometheus.NewRegistry(), Now: now}),
	}
}
