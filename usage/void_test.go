package usage

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// TestVoid: a request that was let in ahead and is asked for anew counts once, as what it is asked for as then.
func TestVoid(t *testing.T) {
	r := newRig()
	o, g, out := opened(t, "ahead")
	h := &hold{}
	o.Native, o.Hold = true, h
	r.Begin(o)
	o.Confirm()
	r.Void("ahead")
	r.Void("ahead")
	r.Close(ended("ahead")) // it names what Envoy did not go on with
	if g.voided.Load() != 1 || g.settled.Load()+g.cancelled.Load() != 0 || h.free.Load() != 1 || h.ended.Load() != 0 || out.String() != "neutral" {
		t.Errorf("voided %d, settled %d, cancelled %d; the hold: %d, %d; the breaker: %s", g.voided.Load(), g.settled.Load(), g.cancelled.Load(), h.free.Load(), h.ended.Load(), out)
	}
	if got := r.book.entries["ahead"]; len(got) != 1 || !got[0].Void || r.book.wrong != 0 {
		t.Errorf("entries %+v, %d wrong", got, r.book.wrong)
	}
	anew, _, _ := opened(t, "anew")
	r.Begin(anew)
	anew.Confirm()
	rec := ended("anew")
	rec.Reported, rec.ReportedComplete = usageOf(100, 0, 0, 60, 0), true
	r.Close(rec)
	want := `
# HELP weir_settlement_entries_total Entries given to the ledger, once for each of their flags; those without any are under none.
# TYPE weir_settlement_entries_total counter
weir_settlement_entries_total{flag="none"} 1
# HELP weir_settlement_open_requests Requests that were let in and are not settled.
# TYPE weir_settlement_open_requests gauge
weir_settlement_open_requests 0
`
	if err := testutil.GatherAndCompare(r.reg, strings.NewReader(want), "weir_settlement_entries_total", "weir_settlement_open_requests"); err != nil {
		t.Error(err)
	}
}
