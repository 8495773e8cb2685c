package e2e

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	datav3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	alsv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weir-dev/weir/adapters"
	"github.com/weir-dev/weir/envoy"
	"github.com/weir-dev/weir/extproc/table"
	"github.com/weir-dev/weir/extproc/wire"
	"github.com/weir-dev/weir/test/e2e/harness"
	"github.com/weir-dev/weir/xds/compile"
	"github.com/weir-dev/weir/xds/serve"
	"github.com/weir-dev/weir/xds/source"
	"github.com/weir-dev/weir/xds/source/files"
)

// What a request of these tests says to the processor, and what to the servers.
const (
	askRoute     = "test-route"     // the key of the Envoy route
	askEndpoints = "test-endpoints" // the list that Envoy gets
	askFailure   = "test-failure"   // the servers that answer 503, "a,b"
	askLost      = "test-lost"      // the calls of attempts are lost
	askFacts     = "test-facts"     // further facts of the decision, "key=value,key=value"
	answeredBy   = "test-server"
)

// directed is a processor that decides what a request says, so that a test sees what Envoy makes of a decision. It notes Envoy's
// records as they come.
type directed struct {
	extprocv3.UnimplementedExternalProcessorServer
	alsv3.UnimplementedAccessLogServiceServer

	mu      sync.Mutex
	records map[string]*datav3.HTTPAccessLogEntry // by request ID
}

func (s *directed) Process(stream extprocv3.ExternalProcessor_ProcessServer) error {
	m, err := stream.Recv()
	if err != nil {
		return nil
	}
	said := map[string]string{}
	for _, h := range m.GetRequestHeaders().GetHeaders().GetHeaders() {
		said[h.GetKey()] = string(h.GetRawValue())
	}
	var set [][2]string
	resp := &extprocv3.ProcessingResponse{}
	if len(m.GetAttributes()) > 0 { // an attempt
		if said[askLost] != "" {
			return status.Error(codes.Unavailable, "as if weir had died")
		}
		set = [][2]string{{":path", "/v1/chat/completions"}, {wire.LoadFormat, wire.LoadFormatText}, {wire.PreparedHeader, "1"}}
	} else {
		set = [][2]string{{wire.RuleHeader, said[askRoute]}, {wire.PathHeader, "/chat/completions"}}
		facts := map[string]*structpb.Value{}
		if list := said[askEndpoints]; list != "" {
			facts[wire.KeyEndpoints] = structpb.NewStringValue(list)
		}
		for _, fact := range strings.Split(said[askFacts], ",") {
			if key, value, ok := strings.Cut(fact, "="); ok {
				facts[key] = structpb.NewStringValue(value)
			}
		}
		if len(facts) > 0 {
			resp.DynamicMetadata = &structpb.Struct{Fields: map[string]*structpb.Value{
				wire.DecisionNamespace: structpb.NewStructValue(&structpb.Struct{Fields: facts}),
			}}
		}
	}
	common := &extprocv3.CommonResponse{ClearRouteCache: true, HeaderMutation: &extprocv3.HeaderMutation{}}
	for _, kv := range set {
		common.HeaderMutation.SetHeaders = append(common.HeaderMutation.SetHeaders, &corev3.HeaderValueOption{
			Header:       &corev3.HeaderValue{Key: kv[0], RawValue: []byte(kv[1])},
			AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
		})
	}
	resp.Response = &extprocv3.ProcessingResponse_RequestHeaders{RequestHeaders: &extprocv3.HeadersResponse{Response: common}}
	if err := stream.Send(resp); err != nil {
		return nil
	}
	_, _ = stream.Recv() // until Envoy needs the stream no more
	return nil
}

func (s *directed) StreamAccessLogs(stream alsv3.AccessLogService_StreamAccessLogsServer) error {
	for {
		m, err := stream.Recv()
		if err != nil {
			return nil
		}
		s.mu.Lock()
		for _, e := range m.GetHttpLogs().GetLogEntry() {
			if e.GetCommonProperties().GetAccessLogType() != datav3.AccessLogType_UpstreamEnd { // an attempt
				s.records[e.GetRequest().GetRequestId()] = e
			}
		}
		s.mu.Unlock()
	}
}

// record waits for Envoy's record of a request.
func (s *directed) record(t *testing.T, id string) (found *datav3.HTTPAccessLogEntry) {
	t.Helper()
	harness.WaitFor(t, "the record of "+id, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		found = s.records[id]
		return found != nil
	})
	return found
}

// tellingServers starts one server for each name and gives their addresses. Each says how it is, as servers and public APIs do.
func tellingServers(t *testing.T, names ...string) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, name := range names {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			h := w.Header()
			h.Set(answeredBy, name)
			h.Set("content-type", "application/json")
			h.Set("x-ratelimit-remaining-requests", "42")
			h.Set("x-weir-from", "forged 1.2.3.4:5")
			if r.Header.Get(wire.LoadFormat) == wire.LoadFormatText {
				h.Set(wire.LoadReport, "TEXT named_metrics.kv_cache_usage_perc=0.5")
			}
			if slices.Contains(strings.Split(r.Header.Get(askFailure), ","), name) {
				h.Set("retry-after", "7")
				w.WriteHeader(http.StatusServiceUnavailable)
			}
			_, _ = io.WriteString(w, `{}`)
		}))
		t.Cleanup(s.Close)
		out[name] = strings.TrimPrefix(s.URL, "http://")
	}
	return out
}

// newDirected runs Envoy with a directed processor, and gives its URL. Envoy is told that the unhealthy addresses are isolated.
func newDirected(t *testing.T, documents []string, unhealthy ...string) (*directed, string, *compile.Version) {
	t.Helper()
	dialects, err := adapters.NewSet(adapters.Catalog()...)
	must(t, err)
	objs, problems := files.Load(planeOptions{documents: documents}.write(t), os.LookupEnv)
	if source.HasErrors(problems) {
		t.Fatal(problems)
	}
	listen := net.JoinHostPort("127.0.0.1", strconv.Itoa(harness.FreePort(t)))
	version, problems := compile.Compile(objs, compile.Options{Dialects: dialects, ExtProcCluster: envoy.ExtProcCluster, Listen: listen})
	if version == nil || len(problems) > 0 {
		t.Fatal(problems)
	}
	for _, a := range version.Endpoints {
		for _, e := range a.GetEndpoints()[0].GetLbEndpoints() {
			at := e.GetEndpoint().GetAddress().GetSocketAddress()
			if slices.Contains(unhealthy, fmt.Sprintf("%s:%d", at.GetAddress(), at.GetPortValue())) {
				e.HealthStatus = corev3.HealthStatus_UNHEALTHY
			}
		}
	}
	base, err := os.MkdirTemp("", "weir-e2e-") // its names are short, as the path of a unix socket must be
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(base) })
	dir, err := envoy.NewRuntimeDir(envoy.RuntimeDirOptions{Base: base})
	must(t, err)
	t.Cleanup(func() { _ = dir.Close() })
	socket, err := dir.Socket(envoy.ExtProcSocketName)
	must(t, err)
	admin, err := dir.Socket(envoy.AdminSocketName)
	must(t, err)

	quiet := slog.New(slog.DiscardHandler)
	s := &directed{records: map[string]*datav3.HTTPAccessLogEntry{}}
	live := make(chan struct{})
	publisher := serve.NewPublisher(serve.Options{NodeID: "weir", Log: quiet, Activate: func(*compile.Version) { close(live) }})
	server := grpc.NewServer(grpc.MaxRecvMsgSize(math.MaxInt32), grpc.MaxSendMsgSize(math.MaxInt32), grpc.MaxConcurrentStreams(math.MaxUint32))
	extprocv3.RegisterExternalProcessorServer(server, s)
	alsv3.RegisterAccessLogServiceServer(server, s)
	publisher.Register(server)
	lis, err := net.Listen("unix", socket)
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = server.Serve(lis) })
	wg.Go(func() { publisher.Run(ctx) })
	t.Cleanup(func() { cancel(); server.Stop(); wg.Wait() })
	publisher.Publish(version)

	boot, err := envoy.Bootstrap(envoy.BootstrapOptions{AdminSocket: admin, XDSSocket: socket})
	must(t, err)
	sup, err := envoy.NewSupervisor(envoy.SupervisorOptions{
		Binary: harness.EnvoyBinary(t), Bootstrap: boot, RuntimeDir: dir.Path(), AdminSocket: admin,
		LogLevel: slog.LevelWarn, Logger: quiet, Listen: []string{listen}, FlushGrace: compile.AccessLogFlush,
	})
	must(t, err)
	must(t, sup.Start(ctx))
	t.Cleanup(func() {
		stop, cancel := context.WithTimeout(context.Background(), harness.Patience)
		defer cancel()
		if err := sup.Stop(stop); err != nil {
			t.Error(err)
		}
	})
	must(t, sup.WaitReady(ctx))
	<-live
	return s, "http://" + listen, version
}

// firstKeys are the routes of a rule that begin with a backend, for requests that any of its backends can serve.
func firstKeys(t *testing.T, v *compile.Version, rule, backend string) table.Keys {
	t.Helper()
	for _, r := range v.Table.All() {
		if r.Name != rule {
			continue
		}
		variant := r.Variant(r.Capable("m", ""))
		for c, keys := range variant.First {
			if c.Backend.ID == backend {
				return keys
			}
		}
	}
	t.Fatalf("rule %s has no route from %s", rule, backend)
	return table.Keys{}
}

// TestOverrideHost: Envoy's attempts go where a decision says, in its order.
func TestOverrideHost(t *testing.T) {
	t.Parallel()
	at := tellingServers(t, "a", "b", "sick", "far1", "far2")
	dead := net.JoinHostPort("127.0.0.1", strconv.Itoa(harness.FreePort(t)))
	pool := func(name, rest string, addresses ...string) string {
		var list []string
		for _, a := range addresses {
			host, port, _ := net.SplitHostPort(a)
			list = append(list, fmt.Sprintf("{address: %s, port: %s}", host, port))
		}
		return harness.Document("Backend", name, "dialect: openai\nbasePath: /v1\nendpoints: ["+strings.Join(list, ", ")+"]\n"+rest)
	}
	route := func(name, backends string, attempts int) string {
		return harness.Route(name, fmt.Sprintf("rules: [{matches: [{path: {type: Exact, value: /%s}}], backends: [%s], retry: {attempts: %d}}]\n", name, backends, attempts))
	}
	s, url, v := newDirected(t, []string{
		pool("near", "metrics: [{type: ORCA}]\n", at["a"], at["b"], at["sick"], dead),
		pool("far", "", at["far1"], at["far2"]),
		pool("lost", "", at["sick"]), pool("alone", "", at["far1"]),
		harness.Document("LoadPolicy", "load", "targetRefs: [{kind: LLMGateway, name: e2e}]\n"),
		route("once", "{name: near}", 1), route("again", "{name: near}", 3),
		route("chain", "{name: near}, {name: far, priority: 1}", 3),
		route("lost", "{name: lost}", 1), route("rescued", "{name: lost}, {name: alone, priority: 1}", 2),
	}, at["sick"])

	for i, c := range []struct {
		name      string
		rule      string
		from      string // default: near
		chain     bool
		endpoints []string // names of servers, or addresses
		failing   string
		want      string // the server that answers; "" where none does
		status    int    // default: 200
		attempts  uint32
	}{
		{name: "the first", rule: "once", endpoints: []string{"b", "a"}, want: "b", attempts: 1},
		{name: "the other", rule: "once", endpoints: []string{"a", "b"}, want: "a", attempts: 1},
		{name: "an isolated one, which is to be tried", rule: "once", endpoints: []string{"sick"}, want: "sick", attempts: 1},
		{name: "one that is gone is skipped", rule: "once", endpoints: []string{"10.255.255.1:1", "b"}, want: "b", attempts: 1},
		{name: "nonsense is skipped", rule: "once", endpoints: []string{"nonsense", "b"}, want: "b", attempts: 1},
		{name: "through a chain", rule: "once", chain: true, endpoints: []string{"b"}, want: "b", attempts: 1},
		{name: "the second is asked next", rule: "again", endpoints: []string{"b", "a"}, failing: "b", want: "a", attempts: 2},
		{name: "even if it is isolated", rule: "again", endpoints: []string{"b", "sick"}, failing: "b", want: "sick", attempts: 2},
		{name: "and then the third", rule: "again", endpoints: []string{"b", "sick", "a"}, failing: "b,sick", want: "a", attempts: 3},
		{name: "after one that is down", rule: "again", endpoints: []string{dead, "b"}, want: "b", attempts: 2},
		{name: "the next of a chain of one pool", rule: "again", chain: true, endpoints: []string{"b", "a"}, failing: "b", want: "a", attempts: 2},
		{name: "in a chain the next backend is asked, by its own", rule: "chain", chain: true, endpoints: []string{"b", "far2"}, failing: "b", want: "far2", attempts: 2},
		{name: "what is meant for the backend before it is skipped", rule: "chain", chain: true, endpoints: []string{"b", "a", "far1"}, failing: "b", want: "far1", attempts: 2},
		{name: "a chain from the backend of lower priority", rule: "chain", from: "default/far", chain: true, endpoints: []string{"far1", "b"}, failing: "far1", want: "b", attempts: 2},
		{name: "nothing but isolated endpoints, and none is named", rule: "lost", from: "default/lost", status: 503},
		{name: "nothing but isolated endpoints, and one is named", rule: "lost", from: "default/lost", endpoints: []string{"sick"}, want: "sick", attempts: 1},
		{name: "a chain passes a backend without healthy endpoints", rule: "rescued", from: "default/lost", chain: true, want: "far1", attempts: 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.from == "" {
				c.from = "default/near"
			}
			keys := firstKeys(t, v, "default/"+c.rule, c.from)
			key := keys.Direct
			if c.chain {
				key = keys.Chain
			}
			if key == "" {
				t.Fatal("there is no such route")
			}
			var list []string
			for _, e := range c.endpoints {
				if a := at[e]; a != "" {
					e = a
				}
				list = append(list, e)
			}
			id := fmt.Sprintf("override-%d", i)
			req, err := http.NewRequest(http.MethodPost, url+"/v1/chat/completions", strings.NewReader(`{"model":"m"}`))
			must(t, err)
			for k, v := range map[string]string{askRoute: key, askEndpoints: strings.Join(list, ","), askFailure: c.failing, "content-type": "application/json", "x-request-id": id} {
				req.Header.Set(k, v)
			}
			resp, err := http.DefaultClient.Do(req)
			must(t, err)
			_, _ = io.Copy(io.Discard, resp.Body)
			must(t, resp.Body.Close())
			if c.status == 0 {
				c.status = 200
			}
			if resp.StatusCode != c.status || resp.Header.Get(answeredBy) != c.want {
				t.Errorf("answered %d by %q, want %d by %q", resp.StatusCode, resp.Header.Get(answeredBy), c.status, c.want)
			}
			for _, h := range []string{wire.LoadReport, "x-ratelimit-remaining-requests", "x-weir-from"} {
				if got := resp.Header.Get(h); got != "" {
					t.Errorf("the caller sees %s: %s", h, got)
				}
			}
			entry := s.record(t, id)
			if got := entry.GetCommonProperties().GetUpstreamRequestAttemptCount(); c.want != "" && got != c.attempts {
				t.Errorf("%d attempts, want %d", got, c.attempts)
			}
			checkNoted(t, entry, at, c.want, c.failing)
		})
	}
}

// checkNoted: the record has what each server said of its load that answered, and nothing of others.
func checkNoted(t *testing.T, entry *datav3.HTTPAccessLogEntry, at map[string]string, answered, failing string) {
	t.Helper()
	want := map[string]string{} // status by address
	for name := range strings.SplitSeq(failing, ",") {
		if name != "" {
			want[at[name]] = "503"
		}
	}
	if answered != "" {
		want[at[answered]] = "200"
	}
	got := map[string]wire.Load{}
	for key, text := range entry.GetCommonProperties().GetMetadata().GetFilterMetadata()[wire.LoadNamespace].GetFields() {
		l, ok := wire.ParseLoad(key, text.GetStringValue())
		if !ok {
			t.Errorf("%q: %q is not what signals look like", key, text)
		}
		got[l.Endpoint] = l
	}
	for address, status := range want {
		l, ok := got[address]
		delete(got, address)
		wait := ""
		if status == "503" {
			wait = "7"
		}
		if !ok || l.Status != status || l.Header("x-ratelimit-remaining-requests") != "42" || l.Header(wire.RetryAfter) != wait {
			t.Errorf("of %s the record has %+v, want status %s", address, l, status)
		}
		if near := l.Backend == "default/near"; near && l.Header(wire.LoadReport) == "" {
			t.Errorf("%s was not asked for a report: %+v", address, l)
		}
		if !strings.HasPrefix(l.Backend, "default/") {
			t.Errorf("%s is of the backend %q", address, l.Backend)
		}
	}
	if len(got) > 0 {
		t.Errorf("the record has also %+v", got)
	}
}
