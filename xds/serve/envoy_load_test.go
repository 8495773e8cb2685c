package serve

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/weir-dev/weir/extproc/table"
	"github.com/weir-dev/weir/extproc/wire"
	"github.com/weir-dev/weir/xds/compile"
	"github.com/weir-dev/weir/xds/source"
)

// decider stands for Weir: it sends each request on by some rule of the table that was activated last.
type decider struct {
	extprocv3.UnimplementedExternalProcessorServer
	now atomic.Pointer[decided]
}

type decided struct {
	table *table.Table
	over  chan struct{} // closed when there is a later one
}

// holdHeader is on requests whose decisions arrive when another version is served already.
const holdHeader = "hold"

// activate decides from a table from now on.
func (d *decider) activate(t *table.Table) {
	if old := d.now.Swap(&decided{t, make(chan struct{})}); old != nil {
		close(old.over)
	}
}

// Process decides one request.
func (d *decider) Process(stream extprocv3.ExternalProcessor_ProcessServer) error {
	m, err := stream.Recv()
	if err != nil {
		return nil // Envoy needs it no more
	}
	var keys []string
	now := d.now.Load()
	for _, rule := range now.table.All() {
		v := rule.Variant(rule.Capable("m", ""))
		keys = append(keys, v.DirectKey)
	}
	if slices.ContainsFunc(m.GetRequestHeaders().GetHeaders().GetHeaders(), func(h *corev3.HeaderValue) bool { return h.GetKey() == holdHeader }) {
		select {
		case <-now.over:
		case <-stream.Context().Done():
			return nil
		}
	}
	common := &extprocv3.CommonResponse{ClearRouteCache: true, HeaderMutation: &extprocv3.HeaderMutation{}}
	for name, value := range map[string]string{wire.RuleHeader: keys[rand.IntN(len(keys))], wire.PathHeader: "/chat/completions"} {
		common.HeaderMutation.SetHeaders = append(common.HeaderMutation.SetHeaders, &corev3.HeaderValueOption{
			Header:       &corev3.HeaderValue{Key: name, RawValue: []byte(value)},
			AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
		})
	}
	err = stream.Send(&extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_RequestHeaders{
		RequestHeaders: &extprocv3.HeadersResponse{Response: common},
	}})
	if err == nil {
		_, _ = stream.Recv() // Envoy ends it
	}
	return nil
}

// traffic counts what is sent of each type.
type traffic struct {
	mu    sync.Mutex
	types map[string]amount
}

type amount struct{ changed, removed, bytes int }

// intercept has the responses of all streams counted.
func (c *traffic) intercept(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	return handler(srv, &countedStream{stream, c})
}

type countedStream struct {
	grpc.ServerStream
	traffic *traffic
}

// SendMsg counts a response.
func (s *countedStream) SendMsg(m any) error {
	if r, ok := m.(*discoveryv3.DeltaDiscoveryResponse); ok {
		s.traffic.mu.Lock()
		a := s.traffic.types[r.GetTypeUrl()]
		a.changed += len(r.GetResources())
		a.removed += len(r.GetRemovedResources())
		a.bytes += proto.Size(r)
		s.traffic.types[r.GetTypeUrl()] = a
		s.traffic.mu.Unlock()
	}
	return s.ServerStream.SendMsg(m)
}

// take returns what was sent since the last call.
func (c *traffic) take() map[string]amount {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := c.types
	c.types = map[string]amount{}
	return out
}

// rules are the documents of a gateway with rules, each with the seconds that its requests may take and its weights.
type rules struct {
	port    int
	backend string
	of      map[string]rule
}

type rule struct{ seconds, first, second int }

func (r *rules) compile(t testing.TB) *compile.Version { return compileText(t, r.text()) }

func (r *rules) load(t testing.TB) (*source.Objects, compile.Options) { return loadText(t, r.text()) }

func (r *rules) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: weir.dev/v1alpha1\nkind: LLMGateway\nmetadata: {name: g}\nspec: {listeners: [{name: http, address: 127.0.0.1, port: %d}]}\n", r.port)
	document := func(kind, name, spec string) {
		fmt.Fprintf(&b, "---\napiVersion: weir.dev/v1alpha1\nkind: %s\nmetadata: {name: %s}\nspec: %s\n", kind, name, spec)
	}
	document("Consumer", "c", "{}")
	document("APIKey", "k", "{consumer: c, hash: 'sha256:37a721706adc5240e60def713f9817d6800983f74ab6c89c32f41c244b29e03f'}")
	document("Backend", "a", "{dialect: openai, url: 'http://"+r.backend+"/v1'}")
	document("Backend", "b", "{dialect: openai, url: 'http://"+r.backend+"/v1'}")
	for _, name := range keys(r.of) {
		is := r.of[name]
		document("Route", name, fmt.Sprintf("{rules: [{timeouts: {request: %ds}, backends: [{name: a, weight: %d}, {name: b, weight: %d}]}]}", is.seconds, is.first, is.second))
	}
	return b.String()
}

// step is a version in which one rule is not as in the one before.
type step struct {
	what    string
	version *compile.Version
}

// changes changes one rule after the other.
func (r *rules) changes(t testing.TB, n int) (out []step) {
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range n {
		names := keys(r.of)
		name := names[rng.IntN(len(names))]
		what := []string{"added", "changed", "removed", "weighed"}[i%4]
		switch what {
		case "added":
			r.of["n"+strconv.Itoa(i)] = rule{60, 1, 1}
		case "changed":
			r.of[name] = rule{61 + i, 1, 1}
		case "removed":
			delete(r.of, name)
		default:
			r.of[name] = rule{r.of[name].seconds, 2 + i, 1}
		}
		out = append(out, step{what, r.compile(t)})
	}
	return out
}

// ask sends a request, and returns what is wrong with its answer.
func ask(ctx context.Context, port int, hold bool) string {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, fmt.Sprintf("http://127.0.0.1:%d/v1/chat/completions", port), strings.NewReader(`{"model":"m"}`))
	if err != nil {
		return err.Error()
	}
	req.Header.Set("content-type", "application/json")
	if hold {
		req.Header.Set(holdHeader, "1")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Sprintf("a request fails: %v", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return fmt.Sprintf("a request is answered %d: %s %v", resp.StatusCode, body, err)
	}
	return ""
}

// TestRulesChangeUnderLoad: while rules come, go, and are changed and weighed otherwise, no request fails, and Envoy is sent no more
// than what has changed, however many others there are.
func TestRulesChangeUnderLoad(t *testing.T) {
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, "{}")
	}))
	defer upstream.Close()
	const others, steps, clients = 100, 32, 8
	is := &rules{port: freePort(t), backend: upstream.Listener.Addr().String(), of: map[string]rule{}}
	for i := range others {
		is.of["r"+strconv.Itoa(i)] = rule{60, 1, 1}
	}
	start, changes := is.compile(t), is.changes(t, steps)
	weir, sent := &decider{}, &traffic{types: map[string]amount{}}
	server := grpc.NewServer(grpc.StreamInterceptor(sent.intercept), grpc.MaxConcurrentStreams(1<<20))
	extprocv3.RegisterExternalProcessorServer(server, weir)
	r := &realEnvoy{version: start}
	r.start(t, server, weir.activate)
	whole := sent.take()[resourcev3.ScopedRouteType]
	if whole.changed != others+1 { // and that of the undecided
		t.Errorf("Envoy was sent %d rules at first", whole.changed)
	}

	var wg sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	defer wg.Wait()
	defer stop()
	answers := make(chan string) // "" for one that is right
	for i := range clients {
		wg.Go(func() {
			for ctx.Err() == nil {
				answer := ask(ctx, is.port, i < 2)
				select {
				case answers <- answer:
				case <-ctx.Done():
				}
			}
		})
	}
	asked := 0
	expect := func(n int) {
		for range n {
			if answer := <-answers; answer != "" {
				t.Fatal(answer)
			}
			asked++
		}
	}

	for i, c := range changes {
		r.Publish(c.version)
		expect(2 * clients) // while it is on its way
		r.goesLive(t, c.version)
		expect(4 * clients)
		got := sent.take()
		// A rule that is gone stays as long as its requests may take.
		if scopes := got[resourcev3.ScopedRouteType]; scopes.changed > 1 || scopes.removed > 0 || scopes.bytes > 8<<10 || len(got) > 1 {
			t.Errorf("change %d, one rule %s: Envoy was sent %+v", i, c.what, got)
		}
	}

	var key string
	for k, route := range r.version.Routes.All() {
		if len(route.GetRoute().GetWeightedClusters().GetClusters()) == 2 {
			key = k
		}
	}
	for i := range uint32(20) {
		r.Steer(&Overlay{Serial: uint64(i), Weights: map[string][]uint32{key: {i + 2, 100}}})
		if told := r.told(t); told != strconv.Itoa(int(i)) {
			t.Fatalf("told %q", told)
		}
		if got := sent.take(); got[resourcev3.ScopedRouteType].changed != 1 || got[resourcev3.ScopedRouteType].bytes > 8<<10 || len(got) > 1 {
			t.Errorf("one route weighed otherwise: Envoy was sent %+v", got)
		}
	}
	if s := r.State(); s.Rejects != 0 {
		t.Errorf("Envoy has refused something: %+v", s)
	}
	t.Logf("%d requests; all rules are %d bytes", asked, whole.bytes)
}
