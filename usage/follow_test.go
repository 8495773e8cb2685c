package usage

import (
	"fmt"
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/weir-dev/weir/internal/trace"
	"github.com/weir-dev/weir/usage/ledger"
)

// unasked is a request whose attempts ask ns/a, ns/free and ns/a again, without Weir.
func unasked(t testing.TB, id string) *Open {
	o, _, _ := opened(t, id)
	o.Unasked, o.Order, o.Trace = true, []uint8{0, 3, 0}, trace.Place{Trace: "0af7651916cd43dd8448eb211c80319c", Span: "b7ad6b71692033" + fmt.Sprint(len(id))}
	return o
}

// TestFollow: a failed attempt tells of the next, as long as the request runs and there is one.
func TestFollow(t *testing.T) {
	fails := func(o *Open, n int, flags string) *Failed {
		return &Failed{Span: o.Trace.Span, N: n, Backend: "ns/a", Flags: flags}
	}
	for _, c := range []struct {
		name   string
		change func(*Open)
		failed func(o *Open) []*Failed
		want   []string
		at     string
	}{
		{"no failure", nil, func(o *Open) []*Failed { return nil }, nil, "ns/a"},
		{"the first", nil, func(o *Open) []*Failed { return []*Failed{fails(o, 1, "UF")} }, []string{"2 ns/free"}, "ns/free"},
		{"two", nil, func(o *Open) []*Failed { return []*Failed{fails(o, 1, "UF"), fails(o, 2, "UT")} }, []string{"2 ns/free", "3 ns/a"}, "ns/a"},
		{"all", nil, func(o *Open) []*Failed { return []*Failed{fails(o, 3, "UF")} }, nil, "ns/a"},
		{"the caller left", nil, func(o *Open) []*Failed { return []*Failed{fails(o, 1, "DC")} }, nil, "ns/free"},
		{"of another request", nil, func(o *Open) []*Failed { f := fails(o, 1, "UF"); f.Span = "other"; return []*Failed{f} }, nil, "ns/a"},
		{"Weir is asked", func(o *Open) { o.Unasked, o.Order = false, nil }, func(o *Open) []*Failed { return []*Failed{fails(o, 1, "UF")} }, nil, ""},
		{"Envoy chooses", func(o *Open) { o.Order = nil }, func(o *Open) []*Failed { return []*Failed{fails(o, 1, "UF")} }, nil, ""},
		{"one backend", func(o *Open) { o.Order, o.Candidates = nil, o.Candidates[3:] }, func(o *Open) []*Failed { return nil }, nil, "ns/free"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, h, o := newRig(), &hold{}, unasked(t, "x")
			o.Hold = h
			if c.change != nil {
				c.change(o)
			}
			r.Begin(o)
			o.Confirm()
			list := c.failed(o)
			for _, f := range list {
				r.Failed(f)
			}
			if !slices.Equal(h.asked, c.want) {
				t.Errorf("the hold was told %q, want %q", h.asked, c.want)
			}
			if at := r.At(o); at != c.at {
				t.Errorf("it is at %q, want %q", at, c.at)
			}
			r.Close(ended("x"))
			h.asked = nil
			for _, f := range list {
				r.Failed(f)
			}
			if len(h.asked) > 0 || len(r.follows.m) > 0 {
				t.Errorf("after its end the hold was told %q, and %d requests are followed", h.asked, len(r.follows.m))
			}
		})
	}
	for name, end := range map[string]func(*rig, *Open){
		"given up":   func(_ *rig, o *Open) { o.Abandon() },
		"Envoy died": func(r *rig, o *Open) { o.Confirm(); r.Lost(r.now) },
	} {
		r, o := newRig(), unasked(t, "x")
		o.Hold = &hold{}
		r.Begin(o)
		if end(r, o); len(r.follows.m) > 0 {
			t.Errorf("%s: %d requests are followed", name, len(r.follows.m))
		}
	}
}

// TestUnaskedCharges: where no record says who was asked, it is who was to be asked, or most likely was.
func TestUnaskedCharges(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Open)
		failed int
		want   ledger.Entry
	}{
		{"the first of the order", nil, 0, ledger.Entry{Backend: "ns/a", UpstreamModel: "big", Cost: 100}},
		{"the next of the order", nil, 1, ledger.Entry{Backend: "ns/free", UpstreamModel: "gpt", Attempts: 1, Flags: ledger.Flags{Unpriced: true}}},
		{"the last of the order", nil, 3, ledger.Entry{Backend: "ns/a", UpstreamModel: "big", Cost: 100, Attempts: 3}},
		{"the likeliest", func(o *Open) { o.Order, o.Likely = nil, 1 }, 0, ledger.Entry{Backend: "ns/b", UpstreamModel: "big", Cost: 200, Flags: ledger.Flags{Translated: true}}},
		{"somebody after the likeliest", func(o *Open) { o.Order, o.Likely = nil, 1 }, 1, ledger.Entry{Attempts: 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, o := newRig(), unasked(t, "x")
			if c.change != nil {
				c.change(o)
			}
			r.Begin(o)
			o.Confirm()
			for n := range c.failed {
				r.Failed(&Failed{Span: o.Trace.Span, N: n + 1, Backend: "ns/a", Flags: "UF"})
			}
			r.Lost(r.now)
			e := r.book.entries["x"][0]
			got := ledger.Entry{Backend: e.Backend, UpstreamModel: e.UpstreamModel, Cost: e.Cost, Attempts: e.Attempts, Flags: ledger.Flags{Unpriced: e.Unpriced, Translated: e.Translated}}
			if got != c.want || !e.Interrupted || !e.Estimated {
				t.Errorf("got  %+v\nwant %+v", e, c.want)
			}
		})
	}
	// A record that names nobody, of the second attempt.
	r, o := newRig(), unasked(t, "x")
	r.Begin(o)
	o.Confirm()
	rec := ended("x")
	rec.Status, rec.Backend, rec.Attempts, rec.BytesOut, rec.Aborted = 0, "", 2, 0, true
	r.Close(rec)
	if e := r.book.entries["x"][0]; e.Backend != "ns/free" || e.Tokens.Input == 0 {
		t.Errorf("%+v", e)
	}
}

// TestCountUnasked: attempts that Weir has not prepared are counted by what Envoy tells of them.
func TestCountUnasked(t *testing.T) {
	m := NewMetrics(prometheus.NewRegistry())
	o := unasked(t, "x")
	rec := ended("x")
	rec.Backend, rec.Attempts = "ns/free", 3
	failed := []Failed{{N: 1, Backend: "ns/a"}, {N: 2}, {N: 3, Backend: "ns/free", Status: 500}}
	m.Finished(&Finished{Record: rec, Open: o, Failed: failed})
	m.Finished(&Finished{Record: rec, Failed: failed[:1]}) // nobody decided
	asked := unasked(t, "y")
	asked.Unasked = false
	for _, f := range []Finished{
		{Record: rec, Open: asked, Failed: failed}, {Open: o}, {Record: &Record{Status: 404}},
		{Record: &Record{Status: 503, Immediate: true, Attempts: 1, Backend: "ns/a"}, Open: o}, {Record: &Record{Status: 503, Attempts: 1}, Open: o},
	} {
		m.Finished(&f)
	}
	for backend, want := range map[string]float64{"ns/a": 2, "ns/free": 2} {
		if got := testutil.ToFloat64(m.attempts.WithLabelValues(backend, "false")); got != want {
			t.Errorf("%v attempts at %s, want %v", got, backend, want)
		}
	}
	if n := testutil.CollectAndCount(m.attempts); n != 2 {
		t.Errorf("%d series", n)
	}
}
