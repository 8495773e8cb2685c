package usage

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/extproc/breaker"
	"github.com/weir-dev/weir/usage/ledger"
)

// What a Desk works with outside of tests.
var (
	_ Ledger  = (*ledger.Ledger)(nil)
	_ Outcome = breaker.Pass{}
)

// TestDeskAndLedger enters requests of every end in a real ledger, some of which end only by the next start.
func TestDeskAndLedger(t *testing.T) {
	dir, now := t.TempDir(), t0
	open := func() *ledger.Ledger {
		l, err := ledger.Open(dir, ledger.Options{Now: func() time.Time { return now }, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	l, reg := open(), prometheus.NewRegistry()
	reg.MustRegister(l.Collector()) // as cmd does: the names must not meet
	d := NewDesk(DeskOptions{Ledger: l, Estimator: NewEstimator(), Registry: reg, Now: func() time.Time { return now }})
	want := Tokens{}
	var cost int64
	const each = 50
	for i := range each {
		begin := func(kind string) *Open {
			o, _, _ := opened(t, fmt.Sprint(kind, i))
			d.Begin(o)
			return o
		}
		begin("reported").Attempt("ns/a", "big") // 10 in, 5 out, of 1 and 10 nano
		rec := ended(fmt.Sprint("reported", i))
		rec.Reported, rec.ReportedComplete = usageOf(10, 4, 0, 5, 2), true
		d.Close(rec)
		d.Close(rec)
		o := begin("lost") // 7 in, 1 out, of 2 and 20 nano
		o.Attempt("ns/b", "big")
		o.Report(canon.Usage{Input: 7, Output: 1}, true)
		begin("refused")
		rec = ended(fmt.Sprint("refused", i))
		rec.Status, rec.Immediate, rec.Backend, rec.Attempts = 400, true, "", 0
		d.Close(rec)
		begin("gone").Abandon()
		want = want.Plus(Tokens{Input: 6 + 7, CacheRead: 4, Output: 3 + 1, Reasoning: 2})
		cost += 10*1 + 5*10 + 7*2 + 1*20
	}
	d.Lost(now)
	for i := range each { // as they were let in, and nothing more: 100 in, of 2 nano
		o, _, _ := opened(t, fmt.Sprint("left", i))
		d.Begin(o)
		o.Attempt("ns/b", "big")
		want = want.Plus(Tokens{Input: 100})
		cost += 100 * 2
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = open()
	defer l.Close()
	rows, err := l.Sum(context.Background(), t0.Add(-time.Hour), t0.Add(time.Hour), ledger.ByTenant)
	if err != nil || len(rows) != 1 {
		t.Fatalf("%d rows, %v", len(rows), err)
	}
	if r := rows[0]; r.Tokens != want || r.Cost != cost || r.Requests != 4*each {
		t.Errorf("got %+v, want %+v for %d in %d requests", r, want, cost, 4*each)
	}
}
