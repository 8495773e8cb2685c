package usage

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	alsv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/weir-dev/weir/extproc/wire"
	"github.com/weir-dev/weir/internal/trace"
)

const span = "b7ad6b716920333"

// attempt is the record of an attempt that could not connect.
func attempt(n int) *accesslogv3.HTTPAccessLogEntry {
	return &accesslogv3.HTTPAccessLogEntry{
		CommonProperties: &accesslogv3.AccessLogCommon{
			AccessLogType: accesslogv3.AccessLogType_UpstreamEnd,
			StartTime:     timestamppb.New(t0), Duration: durationpb.New(time.Second), CustomTags: map[string]string{wire.BackendTag: "ns/a"},
			ResponseFlags: &accesslogv3.ResponseFlags{UpstreamConnectionFailure: true}, UpstreamTransportFailureReason: "connection refused",
			UpstreamRemoteAddress: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
				Address: "10.0.0.1", PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: 80},
			}}},
		},
		Request: &accesslogv3.HTTPRequestProperties{
			RequestId: "req-1", RequestHeaders: map[string]string{wire.TraceHeader: fmt.Sprintf("00-0af7651916cd43dd8448eb211c80319c-%s%d-01", span, n)},
		},
	}
}

func TestFailedRecord(t *testing.T) {
	want := Failed{
		Span: span, N: 2, RequestID: "req-1", Backend: "ns/a", Endpoint: "10.0.0.1:80", Start: t0, Duration: time.Second, Flags: "UF", Reason: "connection refused",
	}
	if got, ok := failed(attempt(2)); !ok || got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	e := attempt(2)
	e.Request.RequestHeaders = nil
	if _, ok := failed(e); ok {
		t.Error("an attempt of nobody is taken")
	}
}

// TestReceiverTellsRecordsApart: those of attempts and of requests come by one stream, and go on in the order in which they came.
func TestReceiverTellsRecordsApart(t *testing.T) {
	got := make(chan string, 10)
	receiver := NewReceiver(func(r *Record) { got <- "request " + r.RequestID })
	receiver.Failed(func(f *Failed) { got <- fmt.Sprint("attempt ", f.N) })
	lis := bufconn.Listen(1 << 16)
	g := grpc.NewServer(grpc.ForceServerCodecV2(Codec()))
	receiver.Register(g)
	served := make(chan struct{})
	go func() { defer close(served); _ = g.Serve(lis) }() // Stop ends it
	defer func() { g.Stop(); <-served }()
	conn, err := grpc.NewClient("passthrough:///als", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	send := func(entries ...*accesslogv3.HTTPAccessLogEntry) {
		stream, err := alsv3.NewAccessLogServiceClient(conn).StreamAccessLogs(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for i, e := range entries {
			m := &alsv3.StreamAccessLogsMessage{LogEntries: &alsv3.StreamAccessLogsMessage_HttpLogs{
				HttpLogs: &alsv3.StreamAccessLogsMessage_HTTPAccessLogEntries{LogEntry: []*accesslogv3.HTTPAccessLogEntry{e}},
			}}
			if i == 0 {
				m.Identifier = &alsv3.StreamAccessLogsMessage_Identifier{LogName: wire.AccessLog}
			}
			if err := stream.Send(m); err != nil {
				t.Fatal(err)
			}
		}
	}
	expect := func(want ...string) {
		t.Helper()
		for _, w := range want {
			if g := <-got; g != w {
				t.Errorf("got %q, want %q", g, w)
			}
		}
	}
	send(attempt(1), finished(t), attempt(2), attempt(3), finished(t))
	expect("attempt 1", "request req-1", "attempt 2", "attempt 3", "request req-1")
}

func TestFinished(t *testing.T) {
	var got []Finished
	r := newRig()
	r.opts.Finished = func(f *Finished) { got = append(got, *f) }
	place := trace.Place{Trace: "0af7651916cd43dd8448eb211c80319c", Span: span}
	last := func() *Finished {
		t.Helper()
		if len(got) == 0 {
			t.Fatal("nothing was told")
		}
		f := got[len(got)-1]
		got = nil
		if f.At != r.now {
			t.Errorf("it ended at %v", f.At)
		}
		return &f
	}

	// A request that was let in; its failed attempts came in another order, and those of another request with them.
	o, _, _ := opened(t, "1")
	o.Trace, o.Path = place, "/v1/chat/completions"
	r.Begin(o)
	o.Confirm()
	o.Attempt("ns/a", "big")
	o.Attempt("ns/b", "big")
	if a := o.Attempts(); len(a) != 2 || a[0] != (Attempt{At: r.now, Backend: "ns/a", UpstreamModel: "big"}) || a[1].Backend != "ns/b" {
		t.Errorf("attempts: %+v", a)
	}
	if p := o.Progress(); p.Attempts != 2 || !p.Confirmed {
		t.Errorf("progress: %+v", p)
	}
	seen := 0
	r.Each(func(x *Open) bool { seen++; return x == o })
	if seen != 1 {
		t.Errorf("%d requests are open", seen)
	}
	r.Desk.Failed(&Failed{Span: span, N: 2})
	r.Desk.Failed(&Failed{Span: "another", N: 1})
	r.Desk.Failed(&Failed{Span: span, N: 1})
	rec := ended("1")
	rec.Trace, rec.Attempts, rec.Path = place, 3, "/v1/messages"
	r.Close(rec)
	f := last()
	if f.Record != rec || f.Record.Path != "/v1/chat/completions" || f.Open != o || f.Entry == nil || f.Entry.ID != "1" || len(f.Failed) != 2 || f.Failed[0].N != 1 || f.Failed[1].N != 2 {
		t.Errorf("got %+v", f)
	}

	// The same record again, of what has been settled.
	r.Close(rec)
	if f := last(); f.Record != rec || f.Open != nil || f.Entry != nil || len(f.Failed) != 0 {
		t.Errorf("a second record: %+v", f)
	}

	// A request that was refused.
	refused := &Record{Status: 429, Immediate: true}
	r.Close(refused)
	if f := last(); f.Record != refused || f.Open != nil || f.Entry != nil {
		t.Errorf("a refusal: %+v", f)
	}

	// One that Envoy died with.
	o, _, _ = opened(t, "2")
	o.Trace = trace.Place{Span: "another"}
	r.Begin(o)
	o.Confirm()
	r.Lost(r.now)
	if f := last(); f.Record != nil || f.Open != o || f.Entry == nil || !f.Entry.Interrupted || len(f.Failed) != 1 {
		t.Errorf("a lost request: %+v", f)
	}

	// One that never was one is told to nobody.
	o, _, _ = opened(t, "3")
	r.Begin(o)
	o.Abandon()
	if len(got) != 0 {
		t.Errorf("an abandoned request is told: %+v", got)
	}
}

// TestFailedAttemptsAreBounded: whose request is never heard of is forgotten, and so is what is too much.
func TestFailedAttemptsAreBounded(t *testing.T) {
	r := newRig()
	for i := range maxFailing + 10 {
		for n := range maxFailedAttempts + 3 {
			r.Desk.Failed(&Failed{Span: fmt.Sprint(i), N: n + 1})
		}
	}
	if n := len(r.failed.m); n != maxFailing {
		t.Errorf("%d requests are kept", n)
	}
	// Those that nobody has asked for must not keep out those of the requests that run.
	if n := len(r.failed.take("9")); n != 0 {
		t.Errorf("%d attempts of one of the oldest requests are kept", n)
	}
	if n := len(r.failed.take(fmt.Sprint(maxFailing + 9))); n != maxFailedAttempts {
		t.Errorf("%d attempts of the latest request are kept", n)
	}
	r.Sweep(r.now.Add(failingLife))
	if n := len(r.failed.m); n != maxFailing-1 {
		t.Errorf("%d requests are kept for as long as they may run", n)
	}
	r.Sweep(r.now.Add(failingLife + time.Second))
	if n := len(r.failed.m); n != 0 || r.failed.n.Load() != 0 || r.failed.order.Len() != 0 {
		t.Errorf("%d requests are kept for ever", n)
	}
}
