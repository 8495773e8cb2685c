package usage

import (
	"context"
	"net"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	aiv3 "github.com/envoyproxy/go-control-plane/envoy/data/ai/v3"
	alsv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/extproc/wire"
	"github.com/weir-dev/weir/internal/trace"
)

var t0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// decided is metadata as ext_proc leaves it.
func decided(t testing.TB, pairs ...string) *corev3.Metadata {
	t.Helper()
	fields := map[string]any{}
	for i := 0; i < len(pairs); i += 2 {
		fields[pairs[i]] = pairs[i+1]
	}
	s, err := structpb.NewStruct(fields)
	if err != nil {
		t.Fatal(err)
	}
	return &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{wire.DecisionNamespace: s}}
}

// finished is the entry of a request that went well.
func finished(t testing.TB) *accesslogv3.HTTPAccessLogEntry {
	e := &accesslogv3.HTTPAccessLogEntry{
		CommonProperties: &accesslogv3.AccessLogCommon{
			StartTime: timestamppb.New(t0), TimeToLastDownstreamTxByte: durationpb.New(3 * time.Second),
			TimeToFirstDownstreamTxByte: durationpb.New(500 * time.Millisecond), Duration: durationpb.New(4 * time.Second),
			CustomTags: map[string]string{wire.BackendTag: "default/openai", wire.FirstTokenTag: "250000"},
			UpstreamRemoteAddress: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
				Address: "::1", PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: 8000},
			}}},
			Metadata: decided(t, wire.KeyRoute, "default/all", wire.KeyDialect, "anthropic", wire.KeyModel, "gpt-4o", wire.KeyOperation, "chat",
				wire.KeyConsumer, "demo", wire.KeyTenant, "acme", wire.KeyCredential, "key:demo", wire.KeyVersion, "v1",
				wire.KeyExchange, "x-1", wire.KeyStream, "true",
				wire.KeyTrace, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333", wire.KeyTraceFlags, "-01", wire.KeyTraceParent, "00f067aa0ba902b7",
				wire.KeyEndpoints, "10.0.0.1:8000,10.0.0.2:8000", wire.KeyRefusal, "No route serves the model.", wire.KeyPolicy, "default/team/rpm", wire.KeyOpen, "true", wire.KeyNative, "true"),
			TimeToLastRxByte: durationpb.New(time.Millisecond), TimeToFirstUpstreamTxByte: durationpb.New(2 * time.Millisecond),
			TimeToLastUpstreamTxByte: durationpb.New(3 * time.Millisecond), TimeToFirstUpstreamRxByte: durationpb.New(4 * time.Millisecond),
			TimeToLastUpstreamRxByte: durationpb.New(5 * time.Millisecond),
			ResponseFlags:            &accesslogv3.ResponseFlags{UpstreamConnectionFailure: true, UpstreamRetryLimitExceeded: true},
			DownstreamRemoteAddress: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
				Address: "192.0.2.1", PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: 4711},
			}}},
			UpstreamRequestAttemptCount: 2,
		},
		Request: &accesslogv3.HTTPRequestProperties{
			RequestId: "req-1", RequestBodyBytes: 11, RequestMethod: corev3.RequestMethod_POST, Scheme: "https", UserAgent: "OpenAI/Go", Path: "/api/generate", OriginalPath: "/v1/messages?beta=true",
		},
		Response: &accesslogv3.HTTPResponseProperties{ResponseCode: wrapperspb.UInt32(200), ResponseCodeDetails: "via_upstream", ResponseBodyBytes: 22},
	}
	m := e.CommonProperties.Metadata
	m.FilterMetadata[wire.PeekNamespace] = &structpb.Struct{Fields: map[string]*structpb.Value{wire.PeekID: structpb.NewStringValue("peek-1")}}
	m.FilterMetadata[wire.LoadNamespace] = &structpb.Struct{Fields: map[string]*structpb.Value{"retry-after": structpb.NewStringValue("3")}}
	m.TypedFilterMetadata = map[string]*anypb.Any{wire.TokenUsageNamespace: packed(t, &aiv3.TokenUsage{
		InputTokens: wrapperspb.UInt64(7), OutputTokens: wrapperspb.UInt64(5), ExtractionStatus: aiv3.TokenUsage_COMPLETE,
	})}
	return e
}

func packed(t testing.TB, m proto.Message) *anypb.Any {
	t.Helper()
	out, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestRecord(t *testing.T) {
	want := Record{
		RequestID: "req-1", Start: t0, Duration: 3 * time.Second, FirstByte: 500 * time.Millisecond, Status: 200, Details: "via_upstream",
		Stream: true, Dialect: "anthropic", Operation: "chat", Model: "gpt-4o", Route: "default/all", Backend: "default/openai",
		Consumer: "demo", Tenant: "acme", Credential: "key:demo", Version: "v1", Exchange: "x-1", BytesIn: 11, BytesOut: 22,
		PeekID: "peek-1", Attempts: 2, Reported: &canon.Usage{Input: 7, Output: 5}, ReportedComplete: true,
		Timing: Timing{
			Received: time.Millisecond, BackendSent: 2 * time.Millisecond, BackendSentLast: 3 * time.Millisecond,
			BackendFirst: 4 * time.Millisecond, BackendLast: 5 * time.Millisecond,
		},
		Trace:     trace.Place{Trace: "0af7651916cd43dd8448eb211c80319c", Span: "b7ad6b716920333", Parent: "00f067aa0ba902b7", Sampled: true},
		Endpoints: "10.0.0.1:8000,10.0.0.2:8000", Refusal: "No route serves the model.",
		Policy: "default/team/rpm", FailedOpen: true, Native: true, Relayed: true, Fill: "summary", Scheme: "https", UserAgent: "OpenAI/Go",
		Flags: "UF,URX", Caller: "192.0.2.1:4711", Method: "POST", Path: "/v1/messages",
		Endpoint: "[::1]:8000", FirstToken: 250 * time.Millisecond, Signals: map[string]string{"retry-after": "3"},
	}
	e := finished(t)
	facts := e.CommonProperties.Metadata.FilterMetadata[wire.DecisionNamespace].Fields
	facts[wire.KeyRelayed], facts[wire.KeyFill] = structpb.NewStringValue("true"), structpb.NewStringValue("summary")
	if got := record(e, nil); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	// A field that is added must be filled from an entry, and tested here.
	v := reflect.ValueOf(want)
	for i := range v.NumField() {
		switch name := v.Type().Field(i).Name; name {
		case "Aborted", "Immediate": // TestRecordsOfOtherEnds
		case "Cache", "FilledBy": // the Desk's to say
		default:
			if v.Field(i).IsZero() {
				t.Errorf("the test says nothing of %s", name)
			}
		}
	}
}

func TestRecordsOfOtherEnds(t *testing.T) {
	for _, c := range []struct {
		name  string
		entry func(*accesslogv3.HTTPAccessLogEntry)
		check func(*Record) bool
	}{
		{"nothing in it", func(e *accesslogv3.HTTPAccessLogEntry) { e.Reset() }, func(r *Record) bool {
			return r.Status == 0 && r.Duration == 0 && r.FirstByte == 0 && r.Route == "" && r.Backend == "" && !r.Aborted && !r.Immediate
		}},
		{"no stream", func(e *accesslogv3.HTTPAccessLogEntry) {
			delete(e.CommonProperties.Metadata.FilterMetadata[wire.DecisionNamespace].Fields, wire.KeyStream)
		}, func(r *Record) bool { return r.FirstToken == 0 && !r.Stream }},
		{"Weir answered itself", func(e *accesslogv3.HTTPAccessLogEntry) {
			e.CommonProperties.Metadata = decided(t, wire.KeyImmediate, "true", wire.KeyDialect, "openai")
			e.CommonProperties.CustomTags = nil
			e.Response.ResponseCode = wrapperspb.UInt32(401)
		}, func(r *Record) bool {
			return r.Immediate && r.Status == 401 && r.Backend == "" && r.Dialect == "openai"
		}},
		{"the caller hung up", func(e *accesslogv3.HTTPAccessLogEntry) {
			e.CommonProperties.ResponseFlags = &accesslogv3.ResponseFlags{DownstreamConnectionTermination: true}
			e.CommonProperties.TimeToLastDownstreamTxByte = nil
			e.CommonProperties.TimeToFirstDownstreamTxByte = nil
			e.Response.ResponseCode = nil
		}, func(r *Record) bool {
			return r.Aborted && r.Duration == 4*time.Second && r.FirstByte == 0 && r.Status == 0
		}},
		{"the caller reset the stream", func(e *accesslogv3.HTTPAccessLogEntry) {
			e.Response.ResponseCodeDetails = "downstream_remote_disconnect"
		}, func(r *Record) bool { return r.Aborted }},
		{"the caller was gone before the decision", func(e *accesslogv3.HTTPAccessLogEntry) {
			delete(e.CommonProperties.Metadata.FilterMetadata, wire.DecisionNamespace)
		}, func(r *Record) bool { return r.Exchange == "" && r.PeekID == "peek-1" }},
		{"nobody decided", func(e *accesslogv3.HTTPAccessLogEntry) {
			e.CommonProperties.Metadata = nil
			e.Request.RequestHeaders = map[string]string{wire.TraceHeader: "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01"}
		}, func(r *Record) bool {
			return r.Trace.Trace == "0af7651916cd43dd8448eb211c80319c" && r.Trace.Parent == "00f067aa0ba902b7" && r.Trace.Span != "" && r.Trace.Sampled
		}},
		{"nobody decided, and the caller has no trace", func(e *accesslogv3.HTTPAccessLogEntry) {
			e.CommonProperties.Metadata = nil
		}, func(r *Record) bool {
			return len(r.Trace.Trace) == 32 && len(r.Trace.Span) == 15 && r.Trace.Parent == "" && !r.Trace.Sampled
		}},
		{"an error", func(e *accesslogv3.HTTPAccessLogEntry) {
			e.Response.ResponseCode = wrapperspb.UInt32(400)
		}, func(r *Record) bool { return r.FirstToken == 0 && r.Stream }},
		{"no status", func(e *accesslogv3.HTTPAccessLogEntry) { e.Response.ResponseCode = nil }, func(r *Record) bool { return r.FirstToken == 0 }},
		{"a good status that is not 200", func(e *accesslogv3.HTTPAccessLogEntry) {
			e.Response.ResponseCode = wrapperspb.UInt32(201)
		}, func(r *Record) bool { return r.FirstToken == 250*time.Millisecond }},
		{"other namespaces", func(e *accesslogv3.HTTPAccessLogEntry) {
			e.CommonProperties.Metadata.FilterMetadata = map[string]*structpb.Struct{"other": e.CommonProperties.Metadata.FilterMetadata[wire.DecisionNamespace]}
		}, func(r *Record) bool { return r.Route == "" && r.Exchange == "" }},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := finished(t)
			c.entry(e)
			if r := record(e, nil); !c.check(&r) {
				t.Errorf("got %+v", r)
			}
		})
	}
}

// TestWhoDecidesAboutTraces: the head's decision is asked for traces that begin with a record, and for no others.
func TestWhoDecidesAboutTraces(t *testing.T) {
	asked := ""
	sampled := func(id string) bool { asked = id; return true }
	if r := record(finished(t), sampled); asked != "" {
		t.Errorf("asked about %s of %+v", asked, r.Trace)
	}
	e := finished(t)
	e.CommonProperties.Metadata = nil
	if r := record(e, sampled); asked == "" || r.Trace.Trace != asked || !r.Trace.Sampled {
		t.Errorf("asked about %q, and it is %+v", asked, r.Trace)
	}
}

// serve serves a receiver until stop is called, which waits until it has read what came.
func serve(t *testing.T, r *Receiver) (client alsv3.AccessLogServiceClient, stop func()) {
	t.Helper()
	lis := bufconn.Listen(1 << 16)
	g := grpc.NewServer(grpc.ForceServerCodecV2(Codec()))
	r.Register(g)
	served := make(chan struct{})
	go func() { defer close(served); _ = g.Serve(lis) }()
	stop = func() {
		g.Stop()
		<-served
	}
	conn, err := grpc.NewClient("passthrough:///als", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		stop()
	})
	return alsv3.NewAccessLogServiceClient(conn), stop
}

// TestReceiver streams entries as Envoy's workers do: the first message of a stream names the log, later ones do not.
func TestReceiver(t *testing.T) {
	var mu sync.Mutex
	var order []string
	sink := func(name string) Sink {
		return func(r *Record) {
			mu.Lock()
			defer mu.Unlock()
			order = append(order, name+" "+r.RequestID)
		}
	}
	client, stop := serve(t, NewReceiver(sink("first"), sink("second")))
	var wg sync.WaitGroup
	for range 4 { // workers
		wg.Go(func() {
			stream, err := client.StreamAccessLogs(context.Background())
			if err != nil {
				t.Error(err)
				return
			}
			for i := range 50 {
				m := &alsv3.StreamAccessLogsMessage{}
				if i == 0 {
					m.Identifier = &alsv3.StreamAccessLogsMessage_Identifier{LogName: "weir"}
				}
				if i%10 != 9 { // an empty message is nothing to fall over
					m.LogEntries = &alsv3.StreamAccessLogsMessage_HttpLogs{HttpLogs: &alsv3.StreamAccessLogsMessage_HTTPAccessLogEntries{
						LogEntry: []*accesslogv3.HTTPAccessLogEntry{finished(t), finished(t)},
					}}
				}
				if err := stream.Send(m); err != nil {
					t.Error(err)
				}
			}
			_, _ = stream.CloseAndRecv() // the server has nothing to say; this waits until it has read all
		})
	}
	wg.Wait()
	stop()
	if want := 4 * 45 * 2 * 2; len(order) != want {
		t.Errorf("the sinks were called %d times, want %d", len(order), want)
	}
	if got := strings.Join(order[:1], ""); got != "first req-1" {
		t.Errorf("the first call was %q", got)
	}
}

// TestReceiverEndsBrokenStreams: what came before is counted.
func TestReceiverEndsBrokenStreams(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(*alsv3.StreamAccessLogsMessage)
		want  int
	}{
		"the message": {func(m *alsv3.StreamAccessLogsMessage) { m.ProtoReflect().SetUnknown([]byte{0xff}) }, 1},
		"the list":    {func(m *alsv3.StreamAccessLogsMessage) { m.GetHttpLogs().ProtoReflect().SetUnknown([]byte{0xff}) }, 3},
		"a record": {func(m *alsv3.StreamAccessLogsMessage) {
			m.GetHttpLogs().GetLogEntry()[1].ProtoReflect().SetUnknown([]byte{0xff})
		}, 2},
		"in a record": {func(m *alsv3.StreamAccessLogsMessage) {
			m.GetHttpLogs().GetLogEntry()[1].GetCommonProperties().GetMetadata().ProtoReflect().SetUnknown([]byte{0xff})
		}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			counted := 0
			receiver := NewReceiver(func(*Record) { counted++ })
			client, stop := serve(t, receiver)
			stream, err := client.StreamAccessLogs(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			message := func(n int) *alsv3.StreamAccessLogsMessage {
				list := &alsv3.StreamAccessLogsMessage_HTTPAccessLogEntries{}
				for range n {
					list.LogEntry = append(list.LogEntry, finished(t))
				}
				return &alsv3.StreamAccessLogsMessage{LogEntries: &alsv3.StreamAccessLogsMessage_HttpLogs{HttpLogs: list}}
			}
			if err := stream.Send(message(1)); err != nil {
				t.Fatal(err)
			}
			broken := message(2)
			c.spoil(broken)
			if err := stream.Send(broken); err != nil {
				t.Fatal(err)
			}
			_, err = stream.CloseAndRecv()
			if status.Code(err) != codes.Internal {
				t.Errorf("the stream ended with %v", err)
			}
			stop()
			if counted != c.want {
				t.Errorf("%d records were counted, want %d", counted, c.want)
			}
		})
	}
}
