package spans

import (
	"strings"
	"testing"
	"time"

	oteltrace "go.opentelemetry.io/otel/trace"

	"github.com/weir-dev/weir/internal/trace"
	"github.com/weir-dev/weir/usage"
)

// TestTraces has the whole trace of each kind of request in testdata.
func TestTraces(t *testing.T) {
	failed := func(n int, change func(*usage.Failed)) *usage.Failed {
		f := &usage.Failed{
			Span: place(true).Span, N: n, RequestID: "req-1", Backend: "default/main", Endpoint: "10.0.0.7:8000",
			Start: t0.Add(4 * ms), Duration: 10 * ms, Status: 503,
		}
		change(f)
		return f
	}
	for name, run := range map[string]func(*rig){
		"plain": func(r *rig) {
			r.begin(nil)
			r.desk.Close(record(nil))
		},
		"stream": func(r *rig) {
			r.begin(func(o *usage.Open) { o.Stream = true })
			r.desk.Close(record(func(r *usage.Record) { r.Stream, r.FirstToken = true, 70*ms }))
		},
		"fallback": func(r *rig) {
			r.exporter.Use(map[string]string{"default/main": "azure.ai.openai"})
			o := r.begin(nil)
			r.now = t0.Add(4 * ms)
			o.Attempt("default/main", "gpt-4o")
			r.now = t0.Add(15 * ms)
			o.Attempt("default/spare", "claude")
			r.desk.Failed(failed(1, func(f *usage.Failed) {
				f.Status, f.Flags, f.Reason = 0, "UF", "delayed_connect_error:_Connection_refused"
			}))
			r.desk.Close(record(func(r *usage.Record) {
				r.Attempts, r.Backend, r.Endpoint, r.Timing.BackendSent, r.Timing.BackendSentLast = 2, "default/spare", "[2001:db8::1]:443", 16*ms, 17*ms
			}))
		},
		"retry": func(r *rig) {
			r.begin(nil)
			r.desk.Failed(failed(1, func(f *usage.Failed) { f.Status = 429 }))
			r.desk.Failed(failed(2, func(f *usage.Failed) { f.Start = t0.Add(20 * ms) }))
			r.desk.Close(record(func(r *usage.Record) {
				r.Attempts, r.Timing.BackendSent, r.Timing.BackendSentLast = 3, 35*ms, 36*ms
			}))
		},
		"all-attempts-failed": func(r *rig) {
			r.begin(nil)
			r.desk.Failed(failed(1, func(*usage.Failed) {}))
			r.desk.Failed(failed(2, func(f *usage.Failed) { f.Start = t0.Add(20 * ms) }))
			r.desk.Close(record(func(r *usage.Record) {
				r.Attempts, r.Status, r.Flags, r.Reported, r.Timing.BackendSent = 2, 503, "URX", nil, 20*ms
			}))
		},
		"backend-says-no": func(r *rig) {
			r.begin(nil)
			r.desk.Failed(failed(1, func(f *usage.Failed) { f.Status = 404 }))
			r.desk.Close(record(func(r *usage.Record) { r.Status, r.Reported = 404, nil }))
		},
		"failure-untold": func(r *rig) { // the record of the first attempt was lost, and that of the second
			o := r.begin(nil)
			o.Attempt("default/main", "gpt-4o")
			r.now = t0.Add(15 * ms)
			o.Attempt("default/spare", "claude")
			r.desk.Close(record(func(r *usage.Record) {
				r.Attempts, r.Status, r.Details, r.Backend, r.Reported = 2, 503, "upstream_reset_before_response_started{connection_termination}", "", nil
				r.Timing.BackendSent = 16 * ms
			}))
		},
		"other-clocks": func(r *rig) { // Weir's is a minute ahead of Envoy's, and Envoy's was set back while the second attempt ran
			const ahead = time.Minute
			o := r.begin(func(o *usage.Open) { o.Time = o.Time.Add(ahead) })
			r.now = t0.Add(ahead + 4*ms)
			o.Attempt("default/main", "gpt-4o")
			r.now = t0.Add(ahead + 15*ms)
			o.Attempt("default/spare", "claude")
			r.desk.Failed(failed(2, func(f *usage.Failed) { f.Start = t0.Add(time.Second) }))
			r.desk.Close(record(func(r *usage.Record) { r.Attempts, r.Status, r.Reported = 2, 503, nil }))
		},
		"limit": func(r *rig) {
			r.desk.Close(record(func(r *usage.Record) {
				*r = usage.Record{
					RequestID: "req-1", Start: t0, Duration: 4 * ms, FirstByte: 3 * ms, Status: 429, Details: "weir_rate_limit", Immediate: true, Dialect: "openai",
					Operation: "chat", Model: "gpt", Route: "default/chat", Consumer: "default/app", Tenant: "acme", Credential: "key:app", Version: "v7",
					Timing: usage.Timing{Received: 1 * ms}, Trace: place(true), Method: "POST", Path: "/v1/chat/completions/", Scheme: "http",
					Refusal: "More than 5 requests a minute; try again in 12 s.", Policy: "default/team/rpm",
				}
			}))
		},
		"store-down": func(r *rig) {
			r.desk.Close(record(func(r *usage.Record) {
				r.Status, r.Details, r.Immediate, r.Exchange, r.Attempts, r.Backend, r.Endpoint = 503, "weir_overloaded", true, "", 0, "", ""
				r.Timing, r.Refusal, r.Reported = usage.Timing{Received: 1 * ms}, "The limits cannot be asked.", nil
			}))
		},
		"nobody-decided": func(r *rig) { // Envoy refused by itself, and the caller had a trace
			r.desk.Close(&usage.Record{
				RequestID: "req-1", Start: t0, Duration: 2 * ms, FirstByte: 2 * ms, Status: 413, Details: "request_payload_too_large", Method: "POST", Path: "/anything",
				Trace: trace.Place{Trace: place(true).Trace, Span: place(true).Span, Parent: "00f067aa0ba902b7", Sampled: true},
			})
		},
		"failed-open": func(r *rig) {
			r.desk.Close(record(func(r *usage.Record) { r.Exchange, r.FailedOpen, r.Version, r.Reported = "", true, "", nil }))
		},
		"interrupted": func(r *rig) {
			o := r.begin(nil)
			r.now = t0.Add(4 * ms)
			o.Attempt("default/main", "gpt-4o")
			r.now = t0.Add(14 * ms)
			o.Attempt("default/spare", "claude")
			r.now = t0.Add(time.Second)
			r.desk.Lost(r.now)
		},
		"caller-gone": func(r *rig) {
			r.begin(func(o *usage.Open) { o.Stream = true })
			r.desk.Failed(failed(1, func(f *usage.Failed) { f.Status, f.Flags = 200, "DC" }))
			r.desk.Close(record(func(r *usage.Record) {
				r.Aborted, r.Flags, r.Details, r.Stream, r.Reported, r.Timing.BackendLast = true, "DC", "downstream_remote_disconnect", true, nil, 0
			}))
		},
		"broken-off": func(r *rig) {
			r.begin(nil)
			r.desk.Close(record(func(r *usage.Record) {
				r.Details, r.Flags, r.Reported, r.Timing.BackendLast = "upstream_reset_after_response_started{remote_reset}", "UR", nil, 0
			}))
		},
		"waited-and-estimated": func(r *rig) {
			r.begin(func(o *usage.Open) { o.Waited = 1500 * time.Microsecond })
			r.desk.Close(record(func(r *usage.Record) { r.Reported = nil }))
		},
		"remote-parent": func(r *rig) {
			p := place(true)
			p.Parent = "00f067aa0ba902b7"
			r.begin(func(o *usage.Open) { o.Trace = p })
			r.desk.Close(record(func(r *usage.Record) { r.Trace = p }))
		},
		"one-model": func(r *rig) {
			r.desk.Close(record(func(r *usage.Record) {
				r.Operation, r.Model, r.Method, r.Path, r.Immediate, r.Exchange, r.Attempts, r.Backend = "model", "", "GET", "/v1/models/*", true, "", 0, ""
				r.Reported, r.Timing = nil, usage.Timing{}
			}))
		},
		"many-attempts": func(r *rig) {
			r.begin(nil)
			for n := 1; n <= 11; n++ {
				r.desk.Failed(failed(n, func(f *usage.Failed) { f.Start = t0.Add(time.Duration(n) * 10 * ms) }))
			}
			r.desk.Close(record(func(r *usage.Record) { r.Attempts, r.Timing.BackendSent = 12, 130*ms }))
		},
		"content": func(r *rig) {
			o := r.begin(nil)
			o.Capture(content{Input: `[{"role":"user","parts":[{"type":"text","content":"hello"}]}]`, System: `[{"type":"text","content":"be kind"}]`, InputCut: 12, OutputMissing: "it was no text"})
			r.desk.Close(record(nil))
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, Policy{})
			run(r)
			r.golden(name)
		})
	}
}

type content usage.Content

func (c content) Content() usage.Content { return usage.Content(c) }
func (content) Close()                   {}

// TestNowhere: a request that got to nobody who decides about its trace has the one that its record began, which is sampled as others are.
func TestNowhere(t *testing.T) {
	r := newRig(t, Policy{Ratio: 1})
	begun := trace.Begin("", func(string) bool { return false })
	lost := &usage.Record{Start: t0, Status: 400, Details: "http1.codec_error", Trace: begun}
	r.desk.Close(lost)
	got := r.memory.GetSpans()
	if len(got) != 1 || got[0].SpanContext.TraceID().String() != begun.Trace || got[0].SpanContext.SpanID().String() != begun.ID(trace.Request) ||
		got[0].Name != "HTTP" || got[0].Parent.IsValid() {
		t.Errorf("%+v", got)
	}
	lost.Trace.Parent = "00f067aa0ba902b7" // its caller has decided that it is not sampled
	r.desk.Close(lost)
	r.sampler.Apply(Policy{})
	lost.Trace.Parent = ""
	r.desk.Close(lost)
	if n := len(r.memory.GetSpans()); n != 1 {
		t.Errorf("what is not sampled is exported: %d spans", n)
	}
}

// TestLeastWait: what took no time worth the name is no waiting.
func TestLeastWait(t *testing.T) {
	for waited, want := range map[time.Duration]bool{0: false, 999 * time.Microsecond: false, ms: true} {
		r := newRig(t, Policy{})
		r.begin(func(o *usage.Open) { o.Waited = waited })
		r.desk.Close(record(nil))
		got := false
		for _, s := range r.memory.GetSpans() {
			for _, kv := range s.Attributes {
				got = got || kv.Key == keyWaited
			}
		}
		if got != want {
			t.Errorf("%v: weir.waited is %v", waited, got)
		}
	}
}

// TestLastFailureComesLate: an attempt that Envoy tells of before its request, after it, or not at all has the same span.
func TestLastFailureComesLate(t *testing.T) {
	f := &usage.Failed{
		Span: place(true).Span, N: 1, RequestID: "req-1", Backend: "default/main", Endpoint: "10.0.0.7:8000", Start: t0.Add(5 * ms), Duration: 185 * ms, Status: 503,
	}
	var drawn [3]string
	for i := range drawn {
		r := newRig(t, Policy{})
		r.begin(func(o *usage.Open) { o.Stream = true })
		if i == 0 {
			r.desk.Failed(f)
		}
		r.desk.Close(record(func(r *usage.Record) { r.Status, r.Reported, r.Stream, r.FirstToken = 503, nil, true, 70*ms }))
		if i == 1 {
			r.desk.Failed(f)
		}
		drawn[i] = draw(r.memory.GetSpans())
	}
	if drawn[0] != drawn[1] || drawn[1] != drawn[2] || strings.Count(drawn[0], "[client]") != 1 || strings.Contains(drawn[0], "first_token") || strings.Contains(drawn[0], "first_chunk") {
		t.Errorf("got\n%s\n%s\n%s", drawn[0], drawn[1], drawn[2])
	}
}

// TestRouteIsOfNoCaller: what a caller makes up is in no name of a span.
func TestRouteIsOfNoCaller(t *testing.T) {
	r := newRig(t, Policy{})
	for path, want := range map[string]string{
		"/v1/chat/completions":           "POST /v1/chat/completions",
		"/v1/chat/completions/":          "POST /v1/chat/completions",
		"/any/thing/v1/chat/completions": "POST /v1/chat/completions",
		"/v1/no/such/path":               "POST",
	} {
		r.memory.Reset()
		r.desk.Close(record(func(r *usage.Record) { r.Exchange, r.Path = "", path }))
		for _, s := range r.memory.GetSpans() {
			if s.SpanKind != oteltrace.SpanKindServer {
				continue
			}
			if s.Name != want {
				t.Errorf("%s is called %q, want %q", path, s.Name, want)
			}
			for _, kv := range s.Attributes {
				if kv.Key == keyHTTPRoute && "POST "+kv.Value.AsString() != want || kv.Key == keyPath && kv.Value.AsString() != path {
					t.Errorf("%s has %s=%s", path, kv.Key, kv.Value.String())
				}
			}
		}
	}
}

// TestBrokenPlaces: what is no place makes no span, and no trouble.
func TestBrokenPlaces(t *testing.T) {
	r := newRig(t, Policy{Ratio: 1})
	for _, p := range []trace.Place{
		{Trace: "nonsense", Span: "b7ad6b716920333", Sampled: true}, {Trace: place(true).Trace, Span: "nonsense", Sampled: true},
		{Trace: place(true).Trace, Sampled: true}, {Trace: place(true).Trace, Span: "b7ad6b716920333", Parent: "x", Sampled: true},
	} {
		r.desk.Close(record(func(r *usage.Record) { r.Exchange, r.Trace = "", p }))
	}
	if got := r.memory.GetSpans(); len(got) != 0 {
		t.Errorf("%+v", got)
	}
}

// TestKept has the requests that are exported though they were not sampled.
func TestKept(t *testing.T) {
	good := func(r *usage.Record) {}
	for _, c := range []struct {
		name          string
		change        func(*usage.Record)
		failed        *usage.Failed
		failing, slow bool // which of the policies keeps it
	}{
		{"all well", good, nil, false, false},
		{"refused", func(r *usage.Record) { r.Status, r.Immediate = 429, true }, nil, false, false},
		{"a failure", func(r *usage.Record) { r.Status = 500 }, nil, true, false},
		{"rescued by a second attempt", func(r *usage.Record) { r.Attempts = 2 }, &usage.Failed{N: 1, Status: 503}, true, false},
		{"the caller went away", func(r *usage.Record) { r.Aborted = true }, &usage.Failed{N: 1, Flags: "DC"}, false, false},
		{"broken off", func(r *usage.Record) { r.Details = "upstream_reset_after_response_started" }, nil, true, false},
		{"slow to begin", func(r *usage.Record) { r.FirstByte = time.Second }, nil, false, true},
		{"long, but quick to begin", func(r *usage.Record) { r.Duration = time.Hour }, nil, false, false},
		{"slow to be nothing", func(r *usage.Record) { r.FirstByte, r.Duration = 0, time.Second }, nil, false, true},
	} {
		for _, p := range []Policy{{}, {KeepFailed: true}, {KeepSlower: 500 * ms}} {
			r := newRig(t, p)
			r.begin(func(o *usage.Open) { o.Trace = place(false) })
			if c.failed != nil {
				f := *c.failed
				f.Span = place(false).Span
				r.desk.Failed(&f)
			}
			r.desk.Close(record(func(r *usage.Record) {
				r.Trace = place(false)
				c.change(r)
			}))
			want := p.KeepFailed && c.failing || p.KeepSlower > 0 && c.slow
			if got := len(r.memory.GetSpans()) > 0; got != want {
				t.Errorf("%s, %+v: exported is %v", c.name, p, got)
			}
		}
	}
	r := newRig(t, Policy{KeepFailed: true})
	r.begin(func(o *usage.Open) { o.Trace = place(false) }).Confirm()
	r.desk.Lost(t0.Add(time.Hour))
	if len(r.memory.GetSpans()) == 0 {
		t.Error("a request that was lost with Envoy is not kept")
	}
}

// TestOff: without a tracer nothing is made, and nothing is allocated.
func TestOff(t *testing.T) {
	e := New(Options{Sampler: NewSampler(Policy{Ratio: 1, KeepFailed: true})})
	f := &usage.Finished{Record: record(nil)}
	if n := testing.AllocsPerRun(100, func() { e.Finished(f) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	r := newRig(t, Policy{KeepFailed: true, KeepSlower: time.Minute})
	f.Record.Trace = place(false)
	if n := testing.AllocsPerRun(100, func() { r.exporter.Finished(f) }); n != 0 {
		t.Errorf("a request that is not sampled: %v allocations", n)
	}
}

// TestReuse: nothing of one request is in the spans of the next.
func TestReuse(t *testing.T) {
	r := newRig(t, Policy{})
	r.begin(nil)
	r.desk.Close(record(nil))
	r.memory.Reset()
	r.desk.Close(&usage.Record{Start: t0, Status: 404, Trace: place(true), Version: "v7", Immediate: true, Details: "weir_not_found", Method: "GET", Path: "/x"})
	for _, s := range r.memory.GetSpans() {
		for _, kv := range s.Attributes {
			if kv.Key == keyTenant || kv.Key == keyRequestID || kv.Key == keyCost {
				t.Errorf("%s has %s=%s", s.Name, kv.Key, kv.Value.String())
			}
		}
	}
}
