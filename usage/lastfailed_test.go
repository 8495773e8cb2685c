package usage

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/weir-dev/weir/extproc/wire"
	"github.com/weir-dev/weir/internal/trace"
)

// TestLastFailed has the records whose last attempt failed, and those where it did not.
func TestLastFailed(t *testing.T) {
	const ms = time.Millisecond
	for _, c := range []struct {
		name   string
		change func(*Record)
		fail   bool // Open.Fail
		want   Failed
	}{
		{"all well", func(*Record) {}, false, Failed{}},
		{"an error", func(r *Record) { r.Status = 503 }, false, Failed{Backend: "ns/a", Start: t0.Add(5 * ms), Duration: 85 * ms, Status: 503}},
		{"the caller's mistake", func(r *Record) { r.Status = 404 }, false, Failed{Backend: "ns/a", Start: t0.Add(5 * ms), Duration: 85 * ms, Status: 404}},
		{"no connection", func(r *Record) {
			r.Status, r.Flags, r.Timing, r.Endpoint = 503, "UF,URX", Timing{Received: ms}, "10.0.0.1:80"
			r.Details = "upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused}"
		}, false, Failed{Backend: "ns/a", Endpoint: "10.0.0.1:80", Start: t0.Add(ms), Duration: 99 * ms, Flags: "UF,URX", Reason: "delayed_connect_error:_Connection_refused"}},
		{"too late", func(r *Record) { r.Status, r.Flags, r.Details, r.Timing.BackendLast = 504, "UT", "response_timeout", 0 }, false,
			Failed{Backend: "ns/a", Start: t0.Add(5 * ms), Duration: 95 * ms, Flags: "UT"}},
		{"the record does not name the backend", func(r *Record) { r.Status, r.Flags, r.Details, r.Backend = 503, "UO", "overflow", "" }, false,
			Failed{Backend: "ns/b", Start: t0.Add(5 * ms), Duration: 85 * ms, Flags: "UO"}},
		{"broken off", func(r *Record) {
			r.Flags, r.Details, r.Timing.BackendLast = "UR", "upstream_reset_after_response_started{remote_reset}", 0
		}, false, Failed{Backend: "ns/a", Start: t0.Add(5 * ms), Duration: 95 * ms, Status: 200, Flags: "UR"}},
		{"broken off while it was held", func(r *Record) {
			r.Status, r.Flags, r.Details = 502, "UPE", "upstream_reset_after_response_started{protocol_error}"
		}, false, Failed{Backend: "ns/a", Start: t0.Add(5 * ms), Duration: 85 * ms, Flags: "UPE"}},
		{"nobody to ask", func(r *Record) { r.Status, r.Flags, r.Details = 503, "UH", "no_healthy_upstream" }, false, Failed{}},
		{"an answer without sense", func(r *Record) { r.Status = 502 }, true, Failed{}},
		{"the caller went away", func(r *Record) { r.Aborted, r.Flags, r.Status = true, "DC", 0 }, false, Failed{}},
		{"Weir refused", func(r *Record) { r.Immediate, r.Status, r.Details = true, 503, "weir_overloaded" }, false, Failed{}},
		{"no attempt", func(r *Record) { r.Attempts, r.Backend, r.Status, r.Flags = 0, "", 503, "UF" }, false, Failed{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []Failed
			r := newRig()
			r.opts.Finished = func(f *Finished) { got = f.Failed }
			o, _, _ := opened(t, "1")
			o.Trace = trace.Place{Trace: "0af7651916cd43dd8448eb211c80319c", Span: span}
			r.Begin(o)
			o.Attempt("ns/b", "big")
			if c.fail {
				o.Fail()
			}
			rec := ended("1")
			rec.Start, rec.Duration, rec.Details, rec.RequestID = t0, 100*ms, wire.ViaUpstream, "req-1"
			rec.Timing = Timing{Received: ms, BackendSent: 5 * ms, BackendFirst: 50 * ms, BackendLast: 90 * ms}
			c.change(rec)
			r.Close(rec)
			var want []Failed
			if c.want != (Failed{}) {
				c.want.Span, c.want.N, c.want.RequestID = span, rec.Attempts, "req-1"
				want = []Failed{c.want}
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
		})
	}
}

// TestLateAttempts: whether Envoy tells of the last attempt before its request, after it or not at all, it counts once and nothing stays.
func TestLateAttempts(t *testing.T) {
	for _, when := range []string{"before", "after", "never", "twice"} {
		reg := prometheus.NewRegistry()
		m := NewRequestMetrics(RequestMetricsOptions{Registry: reg})
		r := newRig()
		var got []Failed
		r.opts.Finished = func(f *Finished) { got = f.Failed; m.Finished(f) }
		o, _, _ := opened(t, "1")
		o.Trace = trace.Place{Trace: "0af7651916cd43dd8448eb211c80319c", Span: span}
		r.Begin(o)
		o.Attempt("ns/a", "big")
		first := Failed{Span: span, N: 1, Backend: "ns/b", Start: t0.Add(time.Millisecond), Duration: 10 * time.Millisecond, Flags: "UF"}
		last := Failed{Span: span, N: 2, Backend: "ns/a", Start: t0, Duration: time.Second, Flags: "UF"}
		r.Desk.Failed(&first)
		if when == "before" || when == "twice" {
			r.Desk.Failed(&last)
		}
		rec := ended("1")
		rec.Start, rec.Attempts, rec.Status, rec.Flags, rec.Details = t0, 2, 503, "UF,URX", "upstream_reset_before_response_started{remote_connection_failure}"
		r.Close(rec)
		if when == "after" {
			r.Desk.Failed(&last)
			r.Desk.Failed(&first)
		}
		if len(got) != 2 || got[0] != first || got[1].N != 2 || got[1].Backend != "ns/a" {
			t.Errorf("%s: %+v", when, got)
		}
		if when == "after" && (!got[1].Start.Equal(t0.Add(11*time.Millisecond)) || !got[1].Start.Add(got[1].Duration).Equal(t0.Add(rec.Duration))) {
			t.Errorf("it began while the one before it went on: %+v", got[1])
		}
		for _, backend := range []string{"ns/a", "ns/b"} {
			if n := testutil.ToFloat64(m.failed.WithLabelValues(backend, "connect")); n != 1 {
				t.Errorf("%s: %v attempts at %s are counted", when, n, backend)
			}
		}
		if n := len(r.failed.m); n != 0 {
			t.Errorf("%s: %d requests are kept", when, n)
		}
		r.Close(rec) // once more
		if len(got) != 0 {
			t.Errorf("%s: a second record has %+v", when, got)
		}
	}
}

// TestLateAttemptsAreBounded: what is remembered of requests that are over does not grow.
func TestLateAttemptsAreBounded(t *testing.T) {
	r := newRig()
	rec := ended("")
	rec.Status = 503
	const more = 10
	for i := range maxOver + more {
		rec.Trace.Span = fmt.Sprint(i)
		r.Close(rec)
	}
	if s := &r.failed.over; len(s.m) != maxOver || len(s.ring) != maxOver || s.has(fmt.Sprint(more-1)) || !s.has(fmt.Sprint(more)) || !s.has(fmt.Sprint(maxOver+more-1)) {
		t.Errorf("%d and %d are kept", len(s.m), len(s.ring))
	}
}

// TestPlaceIsTheRequests: where Envoy did not take the decision, its record has no place, or the caller's.
func TestPlaceIsTheRequests(t *testing.T) {
	var got trace.Place
	r := newRig()
	r.opts.Finished = func(f *Finished) { got = f.Record.Trace }
	o, _, _ := opened(t, "1")
	o.PeekID, o.Trace = "peek-1", trace.Place{Trace: "0af7651916cd43dd8448eb211c80319c", Span: span}
	r.Begin(o)
	o.Confirm()
	rec := ended("")
	rec.PeekID, rec.Trace = "peek-1", trace.Place{Trace: "11111111111111111111111111111111", Span: "222222222222222"}
	r.Close(rec)
	if got != o.Trace {
		t.Errorf("it is at %+v", got)
	}
}
