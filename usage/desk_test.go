package usage

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/extproc/wire"
	"github.com/weir-dev/weir/usage/ledger"
	"github.com/weir-dev/weir/usage/money"
)

// grant counts how it was ended.
type grant struct {
	settled, cancelled, voided atomic.Int32
	input, output, cost        int64
}

func (g *grant) Settle(input, output, cost int64) {
	g.input, g.output, g.cost = input, output, cost
	g.settled.Add(1)
}
func (g *grant) Cancel() { g.cancelled.Add(1) }

func (g *grant) Void() { g.voided.Add(1) }

// outcome counts what a breaker was told.
type outcome struct{ good, bad, dropped atomic.Int32 }

func (o *outcome) Done(ok bool, _ time.Time) {
	if ok {
		o.good.Add(1)
	} else {
		o.bad.Add(1)
	}
}
func (o *outcome) Drop() { o.dropped.Add(1) }

func (o *outcome) String() string {
	return strings.Repeat("good", int(o.good.Load())) + strings.Repeat("bad", int(o.bad.Load())) + strings.Repeat("neutral", int(o.dropped.Load()))
}

// book is a ledger in memory.
type book struct {
	mu      sync.Mutex
	intents map[string][]ledger.Intent
	entries map[string][]ledger.Entry
	wrong   int // intents that came after their entry, and entries that came before their intent
}

func newBook() *book {
	return &book{intents: map[string][]ledger.Intent{}, entries: map[string][]ledger.Entry{}}
}

func (b *book) Begin(i ledger.Intent) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.entries[i.ID]) > 0 {
		b.wrong++
	}
	b.intents[i.ID] = append(b.intents[i.ID], i)
	return true
}

func (b *book) Commit(e ledger.Entry) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.intents[e.ID]) == 0 {
		b.wrong++
	}
	b.entries[e.ID] = append(b.entries[e.ID], e)
	return true
}

// rig is a Desk with fakes around it.
type rig struct {
	*Desk
	book *book
	reg  *prometheus.Registry
	now  time.Time
	est  *Estimator
}

func newRig() *rig {
	r := &rig{book: newBook(), reg: prometheus.NewRegistry(), now: t0.Add(time.Millisecond), est: NewEstimator()}
	r.Desk = NewDesk(DeskOptions{Ledger: r.book, Estimator: r.est, Registry: r.reg, Now: func() time.Time { return r.now }})
	return r
}

func usageOf(input, read, write, output, reasoning int64) *canon.Usage {
	return &canon.Usage{Input: input, CacheRead: read, CacheWrite: write, Output: output, Reasoning: reasoning}
}

// prices of so many nano for an input token, and ten times as many for one of output.
func prices(t testing.TB, perToken money.Nano) *money.Table {
	t.Helper()
	in, out := perToken*1_000_000, perToken*10_000_000
	table, err := money.NewTable(money.Price{Version: fmt.Sprint("p", int64(perToken)), Input: in, CacheRead: in, CacheWrite: in, Output: out, Reasoning: out})
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// opened is a request with four candidates, two of which are of one backend.
func opened(t testing.TB, id string) (*Open, *grant, *outcome) {
	g, out := &grant{}, &outcome{}
	return &Open{
		ID: id, RequestID: "req-" + id, Time: t0, Gateway: "default/gw", Tenant: "acme", Namespace: "default", Consumer: "demo", Credential: "key:demo",
		Route: "default/all", Model: "gpt", Operation: "chat", Dialect: "openai", Stream: true, Currency: "USD",
		Candidates: []Candidate{
			{Backend: "ns/a", UpstreamModel: "big", Prices: prices(t, 1)},
			{Backend: "ns/b", UpstreamModel: "big", Prices: prices(t, 2), Translated: true},
			{Backend: "ns/a", UpstreamModel: "small", Prices: prices(t, 3)},
			{Backend: "ns/free", UpstreamModel: "gpt"},
		},
		EstimatedInput: 100, TextBytes: 400, Grant: g, Outcomes: []Outcome{out}, Expires: t0.Add(time.Minute),
	}, g, out
}

// ended is the record of a request that went well.
func ended(id string) *Record {
	return &Record{
		Exchange: id, Status: 200, Details: "via_upstream", Backend: "ns/a", Attempts: 1, BytesIn: 400, BytesOut: 300 + 277*20,
		FirstByte: time.Second, Duration: 3 * time.Second,
	}
}

func TestClose(t *testing.T) {
	type result struct {
		tokens  Tokens
		cost    int64
		backend string // and model and version of the price
		flags   ledger.Flags
		grant   string
		outcome string
	}
	for _, c := range []struct {
		name string
		open func(*Open)
		rec  func(*Record)
		want result
	}{
		{"Envoy read the report", func(o *Open) { o.Attempt("ns/a", "big") },
			func(r *Record) { r.Reported, r.ReportedComplete = usageOf(50, 20, 10, 30, 5), true },
			result{Tokens{Input: 20, CacheRead: 20, CacheWrite: 10, Output: 25, Reasoning: 5}, 350, "ns/a big p1", ledger.Flags{}, "settled 50 30 350", "good"}},
		{"the translation read the report", func(o *Open) {
			o.Attempt("ns/b", "big")
			o.Report(canon.Usage{Input: 50}, false)
			o.Report(canon.Usage{Input: 50, Output: 7}, true)
			o.Report(canon.Usage{Input: 99, Output: 99}, false) // too late
		}, func(r *Record) { r.Backend, r.Reported, r.ReportedComplete = "ns/b", usageOf(1, 0, 0, 1, 0), true },
			result{Tokens{Input: 50, Output: 7}, 240, "ns/b big p2", ledger.Flags{Translated: true}, "settled 50 7 240", "good"}},
		{"Envoy read the end of what the translation did not", func(o *Open) {
			o.Attempt("ns/b", "big")
			o.Report(canon.Usage{Input: 50}, false)
		}, func(r *Record) { r.Backend, r.Reported, r.ReportedComplete = "ns/b", usageOf(60, 0, 0, 1, 0), true },
			result{Tokens{Input: 60, Output: 1}, 140, "ns/b big p2", ledger.Flags{Translated: true}, "settled 60 1 140", "good"}},
		{"a fallback is billed, not what failed before", func(o *Open) { o.Attempt("ns/b", "big"); o.Attempt("ns/a", "big") },
			func(r *Record) {
				r.Attempts, r.Reported, r.ReportedComplete = 2, usageOf(10, 0, 0, 1, 0), true
			},
			result{Tokens{Input: 10, Output: 1}, 20, "ns/a big p1", ledger.Flags{}, "settled 10 1 20", "good"}},
		{"the same backend again with another model", func(o *Open) { o.Attempt("ns/a", "big"); o.Attempt("ns/a", "small") },
			func(r *Record) {
				r.Attempts, r.Reported, r.ReportedComplete = 2, usageOf(10, 0, 0, 1, 0), true
			},
			result{Tokens{Input: 10, Output: 1}, 60, "ns/a small p3", ledger.Flags{}, "settled 10 1 60", "good"}},
		{"no report", func(o *Open) { o.Confirm() }, func(*Record) {},
			result{Tokens{Input: 100, Output: 20}, 300, "ns/a big p1", ledger.Flags{Estimated: true}, "settled 100 20 300", "good"}},
		{"no report, and the body was not measured", func(o *Open) { o.TextBytes, o.EstimatedInput = 0, 70; o.Confirm() }, func(*Record) {},
			result{Tokens{Input: 70, Output: 20}, 270, "ns/a big p1", ledger.Flags{Estimated: true}, "settled 70 20 270", "good"}},
		{"aborted, with a picture of a megabyte", func(o *Open) { o.MediaTokens = 1500; o.Attempt("ns/a", "big") }, func(r *Record) {
			r.Aborted, r.Status, r.Backend, r.BytesIn, r.BytesOut = true, 0, "", 1<<20, 0
		}, result{Tokens{Input: 1600}, 1600, "ns/a big p1", ledger.Flags{Estimated: true, Aborted: true}, "settled 1600 0 1600", "neutral"}},
		{"aborted before the report", func(o *Open) { o.Confirm() }, func(r *Record) { r.Aborted, r.Details, r.BytesOut = true, "downstream_remote_disconnect", 300+277*3 },
			result{Tokens{Input: 100, Output: 3}, 130, "ns/a big p1", ledger.Flags{Estimated: true, Aborted: true}, "settled 100 3 130", "neutral"}},
		{"aborted after a report of the input", func(o *Open) { o.Confirm() }, func(r *Record) {
			r.Aborted, r.BytesOut, r.Reported = true, 300+277*3, usageOf(70, 30, 0, 1, 0)
		}, result{Tokens{Input: 40, CacheRead: 30, Output: 3}, 100, "ns/a big p1", ledger.Flags{Estimated: true, Aborted: true}, "settled 70 3 100", "neutral"}},
		{"aborted after the report", func(o *Open) { o.Confirm() }, func(r *Record) { r.Aborted, r.Reported, r.ReportedComplete = true, usageOf(70, 0, 0, 9, 0), true },
			result{Tokens{Input: 70, Output: 9}, 160, "ns/a big p1", ledger.Flags{Aborted: true}, "settled 70 9 160", "neutral"}},
		{"aborted, and translated", func(o *Open) {
			o.Attempt("ns/b", "big")
			o.Report(canon.Usage{Input: 60, Reasoning: 2, Output: 2}, false)
			o.Delivered(30)
			o.Delivered(11)
		}, func(r *Record) { r.Aborted, r.Backend = true, "ns/b" },
			result{Tokens{Input: 60, Output: 9, Reasoning: 2}, 340, "ns/b big p2", ledger.Flags{Estimated: true, Aborted: true, Translated: true}, "settled 60 11 340", "neutral"}},
		{"aborted before an answer", func(o *Open) { o.Attempt("ns/b", "big") }, func(r *Record) { r.Aborted, r.Status, r.Backend, r.BytesOut = true, 0, "", 0 },
			result{Tokens{Input: 100}, 200, "ns/b big p2", ledger.Flags{Estimated: true, Aborted: true, Translated: true}, "settled 100 0 200", "neutral"}},
		{"aborted before any backend was asked", func(*Open) {}, func(r *Record) { r.Aborted, r.Status, r.Backend, r.Attempts, r.BytesOut = true, 0, "", 0, 0 },
			result{flags: ledger.Flags{Aborted: true}, backend: "  ", grant: "cancelled", outcome: "neutral"}},
		{"the backend broke off", func(o *Open) { o.Confirm() }, func(r *Record) { r.Details = "upstream_reset_after_response_started{connection_termination}" },
			result{Tokens{Input: 100, Output: 20}, 300, "ns/a big p1", ledger.Flags{Estimated: true, Aborted: true}, "settled 100 20 300", "bad"}},
		{"the backend broke off while the answer was held for its translation", func(o *Open) { o.Attempt("ns/b", "big") }, func(r *Record) {
			r.Status, r.Backend, r.Details = 502, "ns/b", "upstream_reset_after_response_started{protocol_error}"
		}, result{backend: "ns/b big ", flags: ledger.Flags{Aborted: true, Translated: true}, grant: "settled 0 0 0", outcome: "bad"}},
		{"the answer was too large to hold", func(o *Open) { o.Attempt("ns/b", "big") }, func(r *Record) { r.Status, r.Backend, r.Details = 500, "ns/b", "response_payload_too_large" },
			result{backend: "ns/b big ", flags: ledger.Flags{Aborted: true, Translated: true}, grant: "settled 0 0 0", outcome: "bad"}},
		{"the backend's answer made no sense", func(o *Open) { o.Attempt("ns/b", "big"); o.Fail() }, func(r *Record) { r.Status, r.Backend, r.Details = 502, "ns/b", wire.ViaUpstream },
			result{backend: "ns/b big ", flags: ledger.Flags{Aborted: true, Translated: true}, grant: "settled 0 0 0", outcome: "bad"}},
		{"the backend's stream ended with an error", func(o *Open) { o.Attempt("ns/b", "big"); o.Delivered(8); o.Fail() }, func(r *Record) { r.Backend = "ns/b" },
			result{Tokens{Input: 100, Output: 2}, 240, "ns/b big p2", ledger.Flags{Estimated: true, Aborted: true, Translated: true}, "settled 100 2 240", "bad"}},
		{"the backend's stream was an error and no more", func(o *Open) { o.Attempt("ns/b", "big"); o.Fail() }, func(r *Record) { r.Backend = "ns/b" },
			result{backend: "ns/b big ", flags: ledger.Flags{Aborted: true, Translated: true}, grant: "settled 0 0 0", outcome: "bad"}},
		{"the same, and the caller left after it", func(o *Open) { o.Attempt("ns/b", "big"); o.Fail() }, func(r *Record) { r.Backend, r.Aborted = "ns/b", true },
			result{backend: "ns/b big ", flags: ledger.Flags{Aborted: true, Translated: true}, grant: "settled 0 0 0", outcome: "neutral"}},
		{"the backend reported its input, and failed", func(o *Open) { o.Attempt("ns/b", "big"); o.Report(canon.Usage{Input: 60}, false); o.Fail() },
			func(r *Record) { r.Backend, r.BytesOut = "ns/b", 0 },
			result{Tokens{Input: 60}, 120, "ns/b big p2", ledger.Flags{Estimated: true, Aborted: true, Translated: true}, "settled 60 0 120", "bad"}},
		{"the backend broke off before the first byte", func(o *Open) { o.Confirm() }, func(r *Record) {
			r.Details, r.BytesOut = "upstream_reset_after_response_started{connection_termination}", 0
		},
			result{backend: "ns/a big ", flags: ledger.Flags{Aborted: true}, grant: "settled 0 0 0", outcome: "bad"}},
		{"cut at a budget", func(o *Open) { o.Attempt("ns/b", "big"); o.Delivered(40); o.Cut() }, func(r *Record) { r.Backend, r.Details = "ns/b", "cut" },
			result{Tokens{Input: 100, Output: 10}, 400, "ns/b big p2", ledger.Flags{Estimated: true, Aborted: true, Translated: true, Cut: true}, "settled 100 10 400", "good"}},
		{"no price", func(o *Open) { o.Attempt("ns/free", "gpt") }, func(r *Record) { r.Backend, r.Reported, r.ReportedComplete = "ns/free", usageOf(5, 0, 0, 5, 0), true },
			result{Tokens{Input: 5, Output: 5}, 0, "ns/free gpt ", ledger.Flags{Unpriced: true}, "settled 5 5 0", "good"}},
		{"a backend that nobody expected", func(o *Open) { o.Confirm() }, func(r *Record) { r.Backend, r.Reported, r.ReportedComplete = "ns/x", usageOf(5, 0, 0, 5, 0), true },
			result{Tokens{Input: 5, Output: 5}, 0, "ns/x  ", ledger.Flags{Unpriced: true}, "settled 5 5 0", "good"}},
		{"500 of the backend", func(o *Open) { o.Attempt("ns/a", "big") }, func(r *Record) { r.Status, r.Reported, r.ReportedComplete = 500, usageOf(5, 0, 0, 5, 0), true },
			result{backend: "ns/a big ", grant: "settled 0 0 0", outcome: "bad"}},
		{"504 of Envoy", func(o *Open) { o.Attempt("ns/a", "big") }, func(r *Record) { r.Status, r.Details, r.Backend = 504, "response_timeout", "" },
			result{backend: "ns/a big ", grant: "settled 0 0 0", outcome: "bad"}},
		{"400 of the backend", func(o *Open) { o.Attempt("ns/a", "big") }, func(r *Record) { r.Status = 400 },
			result{backend: "ns/a big ", grant: "settled 0 0 0", outcome: "neutral"}},
		{"429 of the backend", func(o *Open) { o.Attempt("ns/a", "big") }, func(r *Record) { r.Status = 429 },
			result{backend: "ns/a big ", grant: "settled 0 0 0", outcome: "neutral"}},
		{"503, and no backend asked", func(*Open) {}, func(r *Record) { r.Status, r.Backend, r.Attempts = 503, "", 0 },
			result{backend: "  ", grant: "cancelled", outcome: "bad"}},
		{"Weir refused the body", func(*Open) {}, func(r *Record) { r.Status, r.Backend, r.Attempts, r.Immediate = 400, "", 0, true },
			result{backend: "  ", grant: "cancelled", outcome: "neutral"}},
		{"Weir refused an attempt", func(o *Open) { o.Attempt("ns/a", "big") }, func(r *Record) { r.Status, r.Immediate = 503, true },
			result{backend: "ns/a big ", grant: "settled 0 0 0", outcome: "neutral"}},
		{"tokens are counted, not generated", func(o *Open) { o.Operation = "count_tokens"; o.Confirm() }, func(*Record) {},
			result{backend: "ns/a big ", grant: "settled 0 0 0", outcome: "good"}},
		{"embeddings have no output", func(o *Open) { o.Operation = "embeddings"; o.Confirm() }, func(*Record) {},
			result{Tokens{Input: 100}, 100, "ns/a big p1", ledger.Flags{Estimated: true}, "settled 100 0 100", "good"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig()
			o, g, out := opened(t, "x-1")
			r.Begin(o)
			c.open(o)
			rec := ended("x-1")
			c.rec(rec)
			r.Close(rec)
			entries := r.book.entries["x-1"]
			if len(entries) != 1 || len(r.book.intents["x-1"]) != 1 || r.book.wrong > 0 {
				t.Fatalf("%d entries, %d intents, %d calls out of order", len(entries), len(r.book.intents["x-1"]), r.book.wrong)
			}
			e := entries[0]
			got := result{e.Tokens, e.Cost, e.Backend + " " + e.UpstreamModel + " " + e.PriceVersion, e.Flags, "", out.String()}
			if g.settled.Load() == 1 {
				got.grant = fmt.Sprintf("settled %d %d %d", g.input, g.output, g.cost)
			}
			if g.cancelled.Load() == 1 {
				got.grant += "cancelled"
			}
			if got != c.want {
				t.Errorf("got  %+v\nwant %+v", got, c.want)
			}
			if e.Time != o.Time || e.Tenant != "acme" || e.Status != rec.Status || e.Attempts != rec.Attempts || e.Currency != "USD" ||
				e.TTFT != rec.FirstByte || e.Duration != rec.Duration || e.RequestID != o.RequestID || e.Gateway != "default/gw" || !e.Stream {
				t.Errorf("the entry is %+v", e)
			}
			if r.InFlight() != 0 {
				t.Errorf("%d are open", r.InFlight())
			}
		})
	}
}

// TestAnIntentIsWhatALossIsCharged: a request whose Weir died is charged what one is charged whose Envoy died.
func TestAnIntentIsWhatALossIsCharged(t *testing.T) {
	for name, ask := range map[string]func(*Open){
		"an attempt":          func(o *Open) { o.Attempt("ns/b", "big") },
		"one candidate":       func(o *Open) { o.Candidates = o.Candidates[:1]; o.Confirm() },
		"no price":            func(o *Open) { o.Attempt("ns/free", "gpt") },
		"nobody was asked":    func(o *Open) { o.Confirm() },
		"tokens were counted": func(o *Open) { o.Operation = "count_tokens"; o.Attempt("ns/b", "big") },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig()
			o, _, out := opened(t, "x-1")
			r.Begin(o)
			if len(r.book.intents) > 0 {
				t.Error("a request was noted that Envoy may never go on with")
			}
			ask(o)
			if n := r.Lost(r.now); n != 1 {
				t.Errorf("%d were lost", n)
			}
			intents, entries := r.book.intents["x-1"], r.book.entries["x-1"]
			if len(intents) != 1 || len(entries) != 1 {
				t.Fatalf("%d intents and %d entries", len(intents), len(entries))
			}
			want := intents[0].Interrupted()
			want.Attempts, want.Translated = entries[0].Attempts, entries[0].Translated
			if entries[0] != want {
				t.Errorf("got  %+v\nwant %+v", entries[0], want)
			}
			if name == "an attempt" && (want.Tokens != Tokens{Input: 100} || want.Cost != 200 || want.PriceVersion != "p2") {
				t.Errorf("an attempt is charged %+v", want)
			}
			if out.String() != "neutral" {
				t.Errorf("the breaker was told %s", out)
			}
		})
	}
}

func TestLost(t *testing.T) {
	r := newRig()
	reported, g1, _ := opened(t, "reported")
	streaming, g2, _ := opened(t, "streaming")
	unconfirmed, g3, out3 := opened(t, "unconfirmed")
	failed, g5, _ := opened(t, "failed")
	for _, o := range []*Open{reported, streaming, unconfirmed, failed} {
		r.Begin(o)
	}
	failed.Attempt("ns/b", "big")
	failed.Fail()
	reported.Attempt("ns/b", "big")
	reported.Report(canon.Usage{Input: 40, Output: 4}, true)
	streaming.Attempt("ns/b", "big")
	streaming.Report(canon.Usage{Input: 40}, false)
	streaming.Delivered(9)
	died := r.now
	r.now = r.now.Add(time.Millisecond)
	next, g4, _ := opened(t, "next")
	r.Begin(next)
	next.Confirm()
	if n := r.Lost(died); n != 3 {
		t.Errorf("%d were lost", n)
	}
	if e := r.book.entries["reported"][0]; e.Tokens != (Tokens{Input: 40, Output: 4}) || e.Flags != (ledger.Flags{Interrupted: true, Translated: true}) || g1.cost != 160 {
		t.Errorf("what was reported: %+v, %d", e, g1.cost)
	}
	if e := r.book.entries["streaming"][0]; e.Tokens != (Tokens{Input: 40, Output: 3}) || e.Flags != (ledger.Flags{Interrupted: true, Translated: true, Estimated: true}) || g2.cost != 140 {
		t.Errorf("what was streaming: %+v, %d", e, g2.cost)
	}
	if e := r.book.entries["failed"][0]; e.Tokens != (Tokens{}) || e.Cost != 0 || g5.settled.Load() != 1 {
		t.Errorf("what had failed: %+v, %d", e, g5.cost)
	}
	if len(r.book.entries["unconfirmed"]) > 0 || g3.cancelled.Load() != 1 || out3.String() != "neutral" {
		t.Error("what Envoy had not gone on with was not given up")
	}
	if len(r.book.entries["next"]) > 0 || g4.settled.Load()+g4.cancelled.Load() > 0 || r.InFlight() != 1 {
		t.Error("a request of the next Envoy was settled")
	}
	if reported.Confirm() || reported.Attempt("ns/a", "big") || unconfirmed.Confirm() {
		t.Error("a request that is settled was confirmed")
	}
	r.Close(ended("reported"))
	if got := testutil.ToFloat64(r.metrics.unmatched); got != 1 || len(r.book.entries["reported"]) != 1 {
		t.Errorf("a late record: %v unmatched, %d entries", got, len(r.book.entries["reported"]))
	}
}

func TestSweep(t *testing.T) {
	r := newRig()
	waiting, g1, _ := opened(t, "waiting")
	running, g2, _ := opened(t, "running")
	r.Begin(waiting)
	r.Begin(running)
	running.Attempt("ns/a", "big")
	at := func(after time.Duration, want string) {
		t.Helper()
		n := r.Sweep(r.now.Add(after))
		got := fmt.Sprint(n, " waiting ", g1.cancelled.Load(), g1.settled.Load(), " running ", g2.cancelled.Load(), g2.settled.Load())
		if got != want {
			t.Errorf("after %s: %s, want %s", after, got, want)
		}
	}
	at(confirmWithin, "0 waiting 0 0 running 0 0")
	at(confirmWithin+1, "0 waiting 1 0 running 0 0")
	at(time.Minute+recordMargin-time.Millisecond, "0 waiting 1 0 running 0 0")
	at(time.Minute+recordMargin, "1 waiting 1 0 running 0 1")
	at(time.Hour, "0 waiting 1 0 running 0 1")
	if e := r.book.entries["running"]; len(e) != 1 || !e[0].Interrupted || len(r.book.entries["waiting"])+len(r.book.intents["waiting"]) > 0 {
		t.Errorf("entries %+v, intents %+v", r.book.entries, r.book.intents)
	}
}

func TestAbandon(t *testing.T) {
	r := newRig()
	gone, g1, out := opened(t, "gone")
	on, g2, _ := opened(t, "on")
	r.Begin(gone)
	r.Begin(on)
	on.Confirm()
	if !gone.Abandon() || gone.Abandon() || on.Abandon() {
		t.Error("a request can be given up once, and not after it was confirmed")
	}
	if g1.cancelled.Load() != 1 || g1.settled.Load() != 0 || out.String() != "neutral" || g2.cancelled.Load() != 0 || r.InFlight() != 1 {
		t.Errorf("%d cancelled, %s, %d in flight", g1.cancelled.Load(), out, r.InFlight())
	}
	r.Close(ended("gone"))
	if len(r.book.entries) > 0 {
		t.Errorf("entries %+v", r.book.entries)
	}
}

// TestWhoComesSecond: between giving a request up and forgetting it others may find it, and must leave it alone.
// TestLateRecord: the caller left before Envoy had the decision, so that its record has no ID but that of the peek filter.
func TestLateRecord(t *testing.T) {
	for _, confirmed := range []bool{false, true} {
		r := newRig()
		o, g, out := opened(t, "x-1")
		o.PeekID = "peek-1"
		r.Begin(o)
		if confirmed { // the decision was sent, and nobody read it
			o.Confirm()
		}
		r.Close(&Record{PeekID: "peek-2"})
		if r.InFlight() != 1 {
			t.Fatal("the record of another request settled it")
		}
		rec := &Record{PeekID: "peek-1", Aborted: true}
		r.Close(rec)
		r.Close(rec)
		if r.InFlight() != 0 || g.cancelled.Load() != 1 || g.settled.Load() != 0 || out.String() != "neutral" {
			t.Errorf("confirmed %v: %d in flight, settled %d times, cancelled %d times, breaker told %q", confirmed, r.InFlight(), g.settled.Load(), g.cancelled.Load(), out)
		}
		want := 0
		if confirmed {
			want = 1 // its intent must have an end
		}
		if e := r.book.entries["x-1"]; len(e) != want || want == 1 && e[0].Tokens != (Tokens{}) {
			t.Errorf("confirmed %v: entries %+v", confirmed, e)
		}
		if o := r.late("peek-1"); o != nil {
			t.Errorf("confirmed %v: the peek ID is kept", confirmed)
		}
	}
}

func TestWhoComesSecond(t *testing.T) {
	r := newRig()
	o, g, _ := opened(t, "x")
	for name, second := range map[string]func(){
		"Close": func() { r.Close(ended("x")) },
		"Lost":  func() { r.Lost(r.now) },
		"Sweep": func() { r.Sweep(r.now.Add(time.Hour)) },
	} {
		*o = Open{ID: "x", Candidates: o.Candidates, Grant: g}
		r.Begin(o)
		if !o.abandon() {
			t.Fatal("not given up")
		}
		second()
		if o.Attempt("ns/a", "big") || o.Confirm() || o.Abandon() || g.settled.Load()+g.cancelled.Load() > 0 || len(r.book.entries)+len(r.book.intents) > 0 {
			t.Errorf("%s settled it as well", name)
		}
	}
}

// TestACostBeyondAllNumbers is the largest there is, and is no exact one.
func TestACostBeyondAllNumbers(t *testing.T) {
	table, err := money.NewTable(money.Price{Input: money.Max})
	if err != nil {
		t.Fatal(err)
	}
	r := newRig()
	o, g, _ := opened(t, "x")
	o.Candidates = []Candidate{{Backend: "ns/a", Prices: table}}
	r.Begin(o)
	rec := ended("x")
	rec.Reported, rec.ReportedComplete = usageOf(1<<62, 0, 0, 0, 0), true
	r.Close(rec)
	if e := r.book.entries["x"][0]; g.cost != int64(money.Max) || e.Cost != g.cost || !e.Estimated {
		t.Errorf("%+v, settled %d", e, g.cost)
	}
}

// TestThePriceIsThatOfTheTime: a request is charged what it cost when it began.
func TestThePriceIsThatOfTheTime(t *testing.T) {
	table, err := money.NewTable(money.Price{Input: money.Unit}, money.Price{From: t0.Add(time.Second), Input: 2 * money.Unit})
	if err != nil {
		t.Fatal(err)
	}
	r := newRig()
	o, g, _ := opened(t, "x")
	o.Candidates = []Candidate{{Backend: "ns/a", Prices: table}}
	r.Begin(o)
	r.now = t0.Add(time.Minute)
	rec := ended("x")
	rec.Reported, rec.ReportedComplete = usageOf(3, 0, 0, 0, 0), true
	r.Close(rec)
	if g.cost != 3000 {
		t.Errorf("the cost is %d", g.cost)
	}
}

// TestNoLimits: a request that nothing limits is entered all the same, and one that was never let in is not.
func TestNoLimits(t *testing.T) {
	r := newRig()
	o, _, _ := opened(t, "x")
	o.Grant, o.Outcomes = nil, nil
	r.Begin(o)
	r.Close(ended(""))
	r.Close(ended("x"))
	o, _, _ = opened(t, "y")
	o.Grant, o.Outcomes = nil, nil
	r.Begin(o)
	if !o.Abandon() || len(r.book.entries) != 1 || len(r.book.entries["x"]) != 1 {
		t.Errorf("entries %+v", r.book.entries)
	}
	if got := testutil.ToFloat64(r.metrics.unmatched); got != 0 {
		t.Errorf("%v unmatched", got)
	}
}

// TestDeskTeaches: what is whole and reported teaches the estimator, for the backend and for the caller's name of the
// model; nothing else does.
func TestDeskTeaches(t *testing.T) {
	r := newRig()
	known := Kind{Backend: "ns/a", Model: "big", Dialect: "openai", Operation: "chat", Stream: true}
	before := Kind{Model: "gpt", Dialect: "openai", Operation: "chat"}
	finish := func(change func(*Open, *Record)) {
		o, _, _ := opened(t, "x")
		r.Begin(o)
		o.Attempt("ns/a", "big")
		rec := ended("x")
		rec.Reported, rec.ReportedComplete = usageOf(60, 0, 0, 200, 0), true
		rec.BytesIn = 1 << 20 // what counts is the text
		change(o, rec)
		r.Close(rec)
	}
	for range 100 {
		finish(func(_ *Open, rec *Record) { rec.Aborted = true })
		finish(func(_ *Open, rec *Record) { rec.Reported = nil })
		finish(func(_ *Open, rec *Record) { rec.ReportedComplete = false })
		finish(func(_ *Open, rec *Record) { rec.Status = 500 })
		finish(func(o *Open, _ *Record) { o.Cut() })
		finish(func(o *Open, _ *Record) { o.Fail() })
	}
	if in, out := r.est.Input(before, 400), r.est.Output(known, 300+277*20); in != 100 || out != 20 {
		t.Errorf("learned of what teaches nothing: %d, %d", in, out)
	}
	for range 100 {
		finish(func(*Open, *Record) {})
	}
	in, out := r.est.Input(before, 400), r.est.Output(known, 300+277*20)
	if in > 65 || out < 190 {
		t.Errorf("not learned: %d, %d", in, out)
	}
	for range 100 {
		finish(func(o *Open, rec *Record) {
			o.MediaTokens = 1500
			rec.Reported = usageOf(1500, 0, 0, 100, 0)
		})
	}
	if now := r.est.Input(before, 400); now != in {
		t.Errorf("pictures have changed what text takes from %d to %d", in, now)
	}
	if now := r.est.Output(known, 300+277*20); now > 120 {
		t.Errorf("the answers to pictures teach nothing: %d", now)
	}
	if got := r.est.Input(Kind{Model: "else", Dialect: "anthropic"}, 400); got != 100 {
		t.Errorf("learned of others: %d", got)
	}
}

func TestDeskMetrics(t *testing.T) {
	r := newRig()
	for i, change := range []func(*Open, *Record){
		func(_ *Open, rec *Record) { rec.Reported, rec.ReportedComplete = usageOf(100, 20, 30, 60, 10), true },
		func(o *Open, rec *Record) { rec.Aborted, rec.BytesOut = true, 0 },
		func(o *Open, rec *Record) { rec.Backend, rec.Status = "ns/b", 500 },
	} {
		id := fmt.Sprint("x", i)
		o, _, _ := opened(t, id)
		r.Begin(o)
		rec := ended(id)
		change(o, rec)
		r.Close(rec)
		r.Close(rec)
	}
	gone, _, _ := opened(t, "gone")
	r.Begin(gone)
	gone.Abandon()
	open, _, _ := opened(t, "open")
	r.Begin(open)
	want := `
# HELP weir_cost_total Cost of settled requests, in units of the currency. The ledger has it to the billionth.
# TYPE weir_cost_total counter
weir_cost_total{backend="ns/a",currency="USD",route="default/all"} 8e-07
# HELP weir_settlement_abandoned_total Requests that were let in and that Envoy never went on with.
# TYPE weir_settlement_abandoned_total counter
weir_settlement_abandoned_total 1
# HELP weir_settlement_entries_total Entries given to the ledger, once for each of their flags; those without any are under none.
# TYPE weir_settlement_entries_total counter
weir_settlement_entries_total{flag="aborted"} 1
weir_settlement_entries_total{flag="estimated"} 1
weir_settlement_entries_total{flag="none"} 1
weir_settlement_entries_total{flag="translated"} 1
# HELP weir_settlement_open_requests Requests that were let in and are not settled.
# TYPE weir_settlement_open_requests gauge
weir_settlement_open_requests 1
# HELP weir_settlement_records_unmatched_total Records of requests that had been settled, or that another process had let in.
# TYPE weir_settlement_records_unmatched_total counter
weir_settlement_records_unmatched_total 3
# HELP weir_tokens_total Tokens of settled requests, in disjoint kinds.
# TYPE weir_tokens_total counter
weir_tokens_total{backend="ns/a",estimated="false",kind="cache_read",route="default/all"} 20
weir_tokens_total{backend="ns/a",estimated="false",kind="cache_write",route="default/all"} 30
weir_tokens_total{backend="ns/a",estimated="false",kind="input",route="default/all"} 50
weir_tokens_total{backend="ns/a",estimated="false",kind="output",route="default/all"} 50
weir_tokens_total{backend="ns/a",estimated="false",kind="reasoning",route="default/all"} 10
weir_tokens_total{backend="ns/a",estimated="true",kind="input",route="default/all"} 100
`
	if err := testutil.GatherAndCompare(r.reg, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
	if problems, err := testutil.GatherAndLint(r.reg); err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
}

// hold counts how often a place is given back, and what was told of attempts.
type hold struct {
	ended, free atomic.Int64
	last        Ending
	asked       []string
}

func (h *hold) Asked(n int, backend string) { h.asked = append(h.asked, fmt.Sprint(n, " ", backend)) }
func (h *hold) Ended(e Ending)              { h.ended.Add(1); h.last = e }
func (h *hold) Free()                       { h.free.Add(1) }

func TestHold(t *testing.T) {
	begun := func() (*rig, *Open, *hold) {
		r, h := newRig(), &hold{}
		o, _, _ := opened(t, "x")
		o.Hold = h
		r.Begin(o)
		return r, o, h
	}
	t.Run("a record", func(t *testing.T) {
		r, _, h := begun()
		rec := ended("x")
		rec.Endpoint, rec.FirstToken, rec.Attempts = "10.0.0.1:80", time.Second, 2
		rec.Reported, rec.ReportedComplete = usageOf(10, 4, 0, 3, 0), true
		r.Close(rec)
		want := Ending{
			At: r.now, Backend: "ns/a", Endpoint: "10.0.0.1:80", Attempts: 2, Good: true, TTFT: time.Second,
			Tokens: TokensOf(rec.Reported),
		}
		if h.ended.Load() != 1 || h.free.Load() != 0 || !reflect.DeepEqual(h.last, want) {
			t.Errorf("%d, %d: %+v", h.ended.Load(), h.free.Load(), h.last)
		}
	})
	for name, end := range map[string]func(*rig, *Open){
		"given up":   func(_ *rig, o *Open) { o.Abandon() },
		"Envoy died": func(r *rig, o *Open) { o.Confirm(); r.Lost(r.now) },
		"time over":  func(r *rig, o *Open) { o.Confirm(); r.Sweep(r.now.Add(time.Hour)) },
	} {
		t.Run(name, func(t *testing.T) {
			r, o, h := begun()
			end(r, o)
			if h.ended.Load() != 0 || h.free.Load() != 1 {
				t.Errorf("ended %d times, given back %d times", h.ended.Load(), h.free.Load())
			}
			if o.Attempt("ns/a", "big") || len(h.asked) > 0 {
				t.Errorf("an attempt after the end: %q", h.asked)
			}
		})
	}
	t.Run("attempts", func(t *testing.T) {
		_, o, h := begun()
		for _, b := range []string{"ns/a", "ns/b", "ns/a"} {
			o.Attempt(b, "big")
		}
		if want := []string{"1 ns/a", "2 ns/b", "3 ns/a"}; !slices.Equal(h.asked, want) {
			t.Errorf("the hold was told %q, want %q", h.asked, want)
		}
	})
}

// TestExactlyOnce: whatever comes together, in whatever order, each request ends once: one end of its grant, one word to
// its breaker, and one entry unless it was given up.
func TestExactlyOnce(t *testing.T) {
	const requests, rounds = 400, 5
	all := 0
	for round := range rounds {
		r := newRig()
		var opens []*Open
		var grants []*grant
		var outs []*outcome
		holds := make([]hold, requests)
		for i := range requests {
			o, g, out := opened(t, fmt.Sprint("x-", i))
			o.Hold = &holds[i]
			opens, grants, outs = append(opens, o), append(grants, g), append(outs, out)
		}
		start := make(chan struct{})
		var wg sync.WaitGroup
		var began atomic.Int64
		var interrupted atomic.Int64
		together := func(seed uint64, f func(r *rand.Rand, i int)) {
			rnd := rand.New(rand.NewPCG(seed, uint64(round)))
			order := rnd.Perm(requests)
			wg.Go(func() {
				<-start
				for _, i := range order {
					f(rnd, i)
				}
			})
		}
		for i := range requests / 2 { // the others begin while all else goes on
			r.Begin(opens[i])
			began.Add(1)
		}
		wg.Go(func() {
			<-start
			for i := requests / 2; i < requests; i++ {
				r.Begin(opens[i])
				began.Add(1)
			}
		})
		ask := func(f func(*Open)) func(*rand.Rand, int) {
			return func(_ *rand.Rand, i int) {
				if int64(i) < began.Load() { // a request is known to others once it has begun
					f(opens[i])
				}
			}
		}
		together(1, ask(func(o *Open) { o.Confirm() }))
		together(2, ask(func(o *Open) { o.Attempt("ns/a", "big") }))
		together(3, ask(func(o *Open) { o.Abandon() }))
		together(4, ask(func(o *Open) { o.Report(canon.Usage{Input: 1, Output: 1}, true); o.Delivered(3) }))
		for seed := range uint64(3) { // records come twice and more
			together(10+seed, func(rnd *rand.Rand, i int) {
				rec := ended(opens[i].ID)
				rec.Status = []int{200, 200, 0, 400, 500}[rnd.IntN(5)]
				r.Close(rec)
			})
		}
		together(20, func(rnd *rand.Rand, i int) {
			if i%40 == 0 {
				interrupted.Add(int64(r.Sweep(r.now.Add(confirmWithin + 1))))
				interrupted.Add(int64(r.Sweep(r.now.Add(time.Hour))))
			}
		})
		together(21, func(rnd *rand.Rand, i int) {
			if i%40 == 0 {
				interrupted.Add(int64(r.Lost(r.now)))
			}
			_ = r.InFlight()
		})
		close(start)
		wg.Wait()
		interrupted.Add(int64(r.Lost(r.now)))
		if r.InFlight() != 0 || r.book.wrong != 0 {
			t.Fatalf("%d are in flight, %d calls of the ledger were out of order", r.InFlight(), r.book.wrong)
		}
		entered, flagged := 0, int64(0)
		for i, g := range grants {
			settled, cancelled := g.settled.Load(), g.cancelled.Load()
			entries, intents := r.book.entries[opens[i].ID], r.book.intents[opens[i].ID]
			if settled+cancelled != 1 {
				t.Fatalf("request %d: settled %d times, cancelled %d times", i, settled, cancelled)
			}
			if n := holds[i].ended.Load() + holds[i].free.Load(); n != 1 {
				t.Fatalf("request %d: its place was given back %d times", i, n)
			}
			if n := outs[i].good.Load() + outs[i].bad.Load() + outs[i].dropped.Load(); n != 1 {
				t.Fatalf("request %d: the breaker was told %d times", i, n)
			}
			if len(entries) > 1 || len(intents) != len(entries) || len(entries) < int(settled) {
				t.Fatalf("request %d: %d entries, %d intents, settled %d times", i, len(entries), len(intents), settled)
			}
			entered += len(entries)
			if len(entries) == 1 && entries[0].Interrupted {
				flagged++
			}
		}
		if gone := testutil.ToFloat64(r.metrics.abandoned); entered+int(gone) != requests || flagged != interrupted.Load() {
			t.Fatalf("%d entries and %v given up of %d; %d flagged, %d counted", entered, gone, requests, flagged, interrupted.Load())
		}
		all += entered
	}
	if all == 0 || all == rounds*requests {
		t.Errorf("%d of %d entries: the test does not try what it should", all, rounds*requests)
	}
}

// nowhere keeps nothing.
type nowhere struct{}

func (nowhere) Begin(ledger.Intent) bool { return true }
func (nowhere) Commit(ledger.Entry) bool { return true }

func BenchmarkDesk(b *testing.B) {
	d := NewDesk(DeskOptions{Ledger: nowhere{}, Estimator: NewEstimator(), Registry: prometheus.NewRegistry(), Now: time.Now})
	ids := make([]string, 1<<16)
	for i := range ids {
		ids[i] = fmt.Sprint("replica-1-", i)
	}
	o, _, _ := opened(b, "")
	template := Open{Time: o.Time, Route: o.Route, Model: o.Model, Operation: o.Operation, Dialect: o.Dialect, Stream: true, Candidates: o.Candidates, EstimatedInput: 100, Expires: time.Now().Add(time.Hour)}
	begin := func(id string) *Open {
		o := &Open{ID: id, Time: template.Time, Route: template.Route, Model: template.Model, Operation: template.Operation, Dialect: template.Dialect,
			Stream: true, Candidates: template.Candidates, EstimatedInput: 100, Expires: template.Expires}
		d.Begin(o)
		return o
	}
	// As many are in flight as there are IDs.
	for _, id := range ids {
		begin(id)
	}
	b.Run("Begin", func(b *testing.B) {
		b.ReportAllocs()
		i := 0
		for b.Loop() {
			begin(ids[i%len(ids)])
			i++
		}
	})
	d.Lost(time.Now())
	b.Run("Begin, Attempt, Close", func(b *testing.B) {
		b.ReportAllocs()
		rec := ended("")
		rec.Reported, rec.ReportedComplete = usageOf(100, 20, 30, 60, 10), true
		i := 0
		for b.Loop() {
			id := ids[i%len(ids)]
			begin(id).Attempt("ns/a", "big")
			rec.Exchange = id
			d.Close(rec)
			i++
		}
	})
}
