package usage

import (
	"math"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/extproc/wire"
	"github.com/weir-dev/weir/usage/ledger"
	"github.com/weir-dev/weir/usage/money"
)

// relayRig is a Desk with what it tells of requests that are over.
type relayRig struct {
	*rig
	told []Finished
}

func newRelayRig() *relayRig {
	r := &relayRig{rig: newRig()}
	r.opts.Finished = func(f *Finished) {
		kept := *f
		if f.Record != nil {
			own := *f.Record
			kept.Record = &own
		}
		r.told = append(r.told, kept)
	}
	return r
}

// relayed is a request of a caller that goes to the relay, and fill one of the relay's for it.
func (r *relayRig) relayed(id string) (*Open, *grant) {
	g := &grant{}
	o := &Open{ID: id, RequestID: "req-" + id, Time: t0, Model: "m", Route: "r", Relayed: true, Grant: g, Expires: t0.Add(time.Minute)}
	r.Begin(o)
	o.Confirm()
	return o, g
}

func (r *relayRig) fill(t *testing.T, id, purpose string) (*Open, *grant) {
	g := &grant{}
	o := &Open{
		ID: id, RequestID: "req", Time: t0, Model: "m", Route: "r", Fill: true, Purpose: purpose, Cache: "miss", Grant: g, Expires: t0.Add(time.Minute),
		Candidates: []Candidate{{Backend: "b", UpstreamModel: "m", Prices: prices(t, 1)}}, Unasked: true,
	}
	r.Begin(o)
	o.Confirm()
	return o, g
}

func over(id string, status int) *Record {
	return &Record{Exchange: id, Start: t0, Status: status, Details: "via_upstream", Duration: time.Second, Attempts: 1, Endpoint: "x"}
}

func filled(id string) *Record {
	r := over(id, 200)
	r.Backend, r.Reported, r.ReportedComplete, r.Fill, r.BytesOut = "b", usageOf(10, 0, 0, 2, 0), true, wire.FillAnswer, 20
	r.Endpoint = "10.0.0.1:80"
	return r
}

// A request that is answered from what is kept has an entry of its own, of nothing.
func TestRelayedKept(t *testing.T) {
	r := newRelayRig()
	o, g := r.relayed("out")
	if len(r.book.intents["out"]) > 0 {
		t.Error("it was entered before anybody knew what comes of it")
	}
	saved := SavingOf(usageOf(10, 4, 3, 5, 2), prices(t, 1).At(t0))
	o.Serve(Served{Cache: "hit", Kept: true, Saved: saved})
	r.Close(over("out", 200))
	got := r.book.entries["out"]
	if len(got) != 1 || got[0].Cache != "hit" || !got[0].Cached || got[0].Tokens != (ledger.Tokens{}) || got[0].Cost != 0 || got[0].Status != 200 ||
		got[0].Duration != time.Second || got[0].Attempts != 0 {
		t.Errorf("entries %+v", got)
	}
	if saved.Cost <= 0 || got[0].SavedCost != int64(saved.Cost) || got[0].SavedTokens != (Tokens{Input: 10, Output: 3, Reasoning: 2}) || got[0].PriceVersion == "" {
		t.Errorf("saved %+v, entered %+v", saved, got)
	}
	if n := testutil.CollectAndCount(r.metrics.cost) + testutil.CollectAndCount(r.metrics.tokens); n != 0 {
		t.Errorf("what was saved counts as spent in %d metrics", n)
	}
	if g.settled.Load() != 1 || g.input+g.output+g.cost != 0 || r.book.wrong != 0 {
		t.Errorf("the grant was settled %d times, with %d %d %d; %d wrong", g.settled.Load(), g.input, g.output, g.cost, r.book.wrong)
	}
	if len(r.told) != 1 || r.told[0].Record.Attempts != 0 || r.told[0].Record.Cache != "hit" || r.told[0].Record.Endpoint != "" || r.told[0].Entry == nil || !r.told[0].Own() || !r.told[0].Relayed() {
		t.Errorf("told %+v", r.told)
	}
}

// What an answer would have cost goes by its tokens and by the price, but not by what a provider had in its own cache.
func TestSavingOf(t *testing.T) {
	p := &money.Price{Version: "v", Input: 2_000_000, CacheRead: 1, CacheWrite: 9_000_000, Output: 5_000_000, Reasoning: 7_000_000, Request: 100}
	for name, c := range map[string]struct {
		u    *canon.Usage
		p    *money.Price
		want Saving
	}{
		"all kinds":     {usageOf(10, 4, 3, 5, 2), p, Saving{Tokens{Input: 10, Output: 3, Reasoning: 2}, 2*10 + 5*3 + 7*2 + 100, "v"}},
		"no tokens":     {nil, p, Saving{Cost: 100, PriceVersion: "v"}},
		"no price":      {usageOf(10, 0, 0, 5, 0), nil, Saving{Tokens: Tokens{Input: 10, Output: 5}}},
		"rubbish":       {usageOf(-1, 5, 5, -1, 5), p, Saving{Cost: 100, PriceVersion: "v"}},
		"beyond number": {usageOf(maxTokens, 0, 0, 0, 0), &money.Price{Input: money.Max}, Saving{Tokens: Tokens{Input: maxTokens}, Cost: math.MaxInt64}},
	} {
		if got := SavingOf(c.u, c.p); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

// What was being bought for others may break off.
func TestRelayedBroken(t *testing.T) {
	r := newRelayRig()
	o, _ := r.relayed("out")
	o.Serve(Served{Cache: "shared", Kept: true})
	rec := over("out", 200)
	rec.Details = "upstream_reset_after_response_started{remote_reset}"
	r.Close(rec)
	if got := r.book.entries["out"]; len(got) != 1 || !got[0].Aborted || !got[0].Cached {
		t.Errorf("entries %+v", got)
	}
}

// A request that its fill answers has the fill's entry, whichever of the two ends first.
func TestRelayedFilled(t *testing.T) {
	for name, order := range map[string][2]string{"the caller's record first": {"out", "in"}, "the fill's record first": {"in", "out"}} {
		t.Run(name, func(t *testing.T) {
			r := newRelayRig()
			o, g := r.relayed("out")
			f, fg := r.fill(t, "in", "")
			o.Serve(Served{Cache: "miss", Fill: f, Backend: "b"})
			for _, id := range order {
				if id == "in" {
					r.Close(filled("in"))
				} else {
					r.Close(over("out", 200))
				}
			}
			if got := r.book.entries["in"]; len(got) != 1 || got[0].Cost == 0 || got[0].Cache != "miss" || got[0].Cached || len(r.book.entries["out"]) != 0 {
				t.Errorf("entries %+v", r.book.entries)
			}
			if g.settled.Load() != 1 || g.cost != 0 || fg.settled.Load() != 1 || fg.cost == 0 {
				t.Errorf("grants: %d %d, %d %d", g.settled.Load(), g.cost, fg.settled.Load(), fg.cost)
			}
			own := 0
			for _, f := range r.told {
				if f.Own() {
					own++
					if f.Open != o || f.Entry == nil || f.Entry.ID != "in" || f.Record.FilledBy != "b" || f.Record.Endpoint != "10.0.0.1:80" || f.Record.Attempts != 0 {
						t.Errorf("told %+v", f)
					}
				}
			}
			if own != 1 || len(r.told) != 2 {
				t.Errorf("%d of %d are of the caller", own, len(r.told))
			}
		})
	}
}

// A request that the relay refused has no entry, and gives back what it took; so has one whose relay said nothing.
func TestRelayedRefused(t *testing.T) {
	r := newRelayRig()
	o, g := r.relayed("out")
	o.Serve(Served{Cache: "miss", Refused: true, Refusal: "no", Policy: "p", Kind: "rate_limit"})
	r.Close(over("out", 429))
	_, silent := r.relayed("silent")
	r.Close(over("silent", 0))
	if len(r.book.entries) != 0 || g.cancelled.Load() != 1 || silent.cancelled.Load() != 1 {
		t.Errorf("entries %+v, cancelled %d and %d", r.book.entries, g.cancelled.Load(), silent.cancelled.Load())
	}
	if f := r.told[0]; !f.Record.Immediate || f.Record.Refusal != "no" || f.Record.Policy != "p" || f.Record.Details != "weir_rate_limit" || result(&f) != "refused" {
		t.Errorf("told %+v", f.Record)
	}
}

// A request for something that the relay keeps has no entry, counts as a request, and holds nothing when its record has come, whether or not
// the relay has seen it; nor when Envoy has died.
func TestRelayedResource(t *testing.T) {
	for name, end := range map[string]func(*relayRig){
		"answered":              func(r *relayRig) { r.Close(over("out", 200)) },
		"its caller left early": func(r *relayRig) { r.Close(over("out", 0)) },
		"Envoy died":            func(r *relayRig) { r.Lost(r.now.Add(time.Second)) },
	} {
		r := newRelayRig()
		g := &grant{}
		o := &Open{ID: "out", Time: t0, Relayed: true, Resource: true, Grant: g, Expires: t0.Add(time.Minute)}
		r.Begin(o)
		o.Confirm()
		end(r)
		end(r)
		if g.settled.Load() != 1 || g.cancelled.Load() != 0 || g.input+g.output+g.cost != 0 || len(r.book.entries)+len(r.book.intents) != 0 || r.InFlight() != 0 {
			t.Errorf("%s: settled %d, cancelled %d; entries %v", name, g.settled.Load(), g.cancelled.Load(), r.book.entries)
		}
		if len(r.told) == 0 || r.told[0].Entry != nil || !r.told[0].Own() {
			t.Errorf("%s: told %+v", name, r.told)
		}
	}
}

// A fill whose answer another bought was for nobody: there is no entry of it, and nobody is told.
func TestRelayTaken(t *testing.T) {
	r := newRelayRig()
	m := NewMetrics(prometheus.NewRegistry())
	for _, status := range []int{503, 0} {
		rec := &Record{Start: t0, Status: status, Immediate: status > 0, Aborted: status == 0, Fill: wire.FillTaken, Tenant: "acme", Details: "weir_overloaded_error"}
		r.Close(rec)
		m.Count(rec)
	}
	if len(r.told)+len(r.book.entries)+len(r.book.intents) != 0 || testutil.ToFloat64(r.metrics.unmatched) != 0 || testutil.CollectAndCount(m.requests) != 0 {
		t.Errorf("told %+v, entries %+v", r.told, r.book.entries)
	}
}

// A fill for the gateway itself is told of under its purpose.
func TestRelayPurpose(t *testing.T) {
	r := newRelayRig()
	r.fill(t, "in", "summary")
	rec := filled("in")
	rec.Fill = "summary"
	r.Close(rec)
	if got := r.book.entries["in"]; len(got) != 1 || got[0].Purpose != "summary" || got[0].Cost == 0 {
		t.Errorf("entries %+v", got)
	}
	if len(r.told) != 1 || !r.told[0].Own() || !r.told[0].IsFill() {
		t.Errorf("told %+v", r.told)
	}
}

// Envoy dies: what was kept is entered as interrupted, and a request that waits for its fill is told of once that is settled.
func TestRelayedLost(t *testing.T) {
	r := newRelayRig()
	o, _ := r.relayed("kept")
	o.Serve(Served{Cache: "hit", Kept: true})
	p, _ := r.relayed("out")
	f, _ := r.fill(t, "in", "")
	p.Serve(Served{Cache: "miss", Fill: f})
	r.Lost(r.now.Add(time.Second))
	if got := r.book.entries["kept"]; len(got) != 1 || !got[0].Interrupted || got[0].Cost != 0 {
		t.Errorf("the kept one: %+v", got)
	}
	if got := r.book.entries["in"]; len(got) != 1 || !got[0].Interrupted || len(r.book.entries["out"]) != 0 {
		t.Errorf("entries %+v", r.book.entries)
	}
	if len(r.told) != 3 {
		t.Errorf("%d were told of, want 3", len(r.told))
	}
}

// A fill that Envoy never went on with leaves its caller without an entry, and is told of nevertheless.
func TestRelayedAbandonedFill(t *testing.T) {
	r := newRelayRig()
	o, _ := r.relayed("out")
	f := &Open{ID: "in", Time: t0, Fill: true, Expires: t0.Add(time.Minute)}
	r.Begin(f)
	o.Serve(Served{Cache: "miss", Fill: f})
	r.Close(over("out", 503))
	if len(r.told) != 0 {
		t.Errorf("told %+v before the fill has ended", r.told)
	}
	f.Abandon()
	if len(r.told) != 1 || r.told[0].Entry != nil {
		t.Errorf("told %+v", r.told)
	}
}
