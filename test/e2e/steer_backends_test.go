package e2e

import (
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/weir-dev/weir/test/e2e/harness"
	"github.com/weir-dev/weir/test/sim/gpu"
)

// TestLoadReports: what servers say of their load in the headers of their answers changes their weights, and is nothing that
// callers see.
func TestLoadReports(t *testing.T) {
	s := startSteered(t, []steeredPool{{
		name: "orca", servers: quickGPUs(t, 3, gpu.Options{}), backend: "metrics: [{type: ORCA}]\n",
		policy: "weights: {latency: {minPercent: 100, maxPercent: 100}}\npicking: {mode: Weights}\n",
	}})
	kv := 0.97
	s.fault(t, "orca", 2, gpu.Fault{Override: gpu.Override{KVCache: &kv}})
	s.WaitFor("the weight follows the reports", func() bool {
		a := s.ask(t, "orca")
		for h := range a.header {
			if strings.HasPrefix(strings.ToLower(h), "endpoint-load-metrics") {
				t.Errorf("the caller sees %s: %s", h, a.header.Get(h))
			}
		}
		return s.endpoint(t, "orca", 2).Weight == 500
	})
	if e := s.awaitWeight(t, "orca", 2, 500); e.Why != "KV cache 97 % > 95 % x0.5 -> 500" {
		t.Errorf("the server says %q", e.Why)
	}
	if got := s.assigned(t, "orca"); !slices.Equal(got, []uint32{1000, 1000, 500}) {
		t.Errorf("Envoy's weights are %v", got)
	}
}

// publicAPI is a provider that says how much is left of its limits, and refuses when it is told to.
type publicAPI struct {
	*httptest.Server
	left     atomic.Int64 // of 100 requests
	wait     atomic.Int64 // seconds; above 0 it answers 429
	requests atomic.Int64
}

func newPublicAPI(t *testing.T) *publicAPI {
	t.Helper()
	p := &publicAPI{}
	p.left.Store(90)
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.requests.Add(1)
		_, _ = io.Copy(io.Discard, r.Body)
		h := w.Header()
		h.Set("content-type", "application/json")
		h.Set("x-ratelimit-limit-requests", "100")
		h.Set("x-ratelimit-remaining-requests", fmt.Sprint(p.left.Load()))
		if wait := p.wait.Load(); wait > 0 {
			h.Set("retry-after", fmt.Sprint(wait))
			w.WriteHeader(http.StatusTooManyRequests)
			_, _ = io.WriteString(w, `{"error":{"message":"slow down","type":"rate_limit_error","code":"rate_limit_exceeded"}}`)
			return
		}
		_, _ = io.WriteString(w, completion)
	}))
	t.Cleanup(p.Close)
	return p
}

// url has a name and no address, as those of public APIs.
func (p *publicAPI) url() string {
	return "http://localhost:" + p.URL[strings.LastIndexByte(p.URL, ':')+1:] + "/v1"
}

// routed is what weir has told Envoy of the one route that all Backends are on.
func (s *steered) routed(t *testing.T, backends ...string) []uint32 {
	t.Helper()
	for _, r := range s.steering(t).Routes {
		if slices.Equal(r.Backends, backends) {
			return r.Weights
		}
	}
	t.Fatalf("no route to %v: %+v", backends, s.steering(t).Routes)
	return nil
}

// TestHeadroom: of two public APIs the one that has little left of its limits gets less, and the one that asks to be left alone
// nothing.
func TestHeadroom(t *testing.T) {
	one, two := newPublicAPI(t), newPublicAPI(t)
	s := &steered{Gateway: harness.Start(t, harness.Options{
		Backends: []harness.Backend{{Name: "one", Dialect: "openai", URL: one.url(), AnyModel: true}, {Name: "two", Dialect: "openai", URL: two.url(), AnyModel: true}},
		Documents: []string{
			harness.Document("LoadPolicy", "load", "targetRefs: [{kind: LLMGateway, name: e2e}]\nweights: {latency: {minPercent: 100, maxPercent: 100}}\n"),
			harness.Route("all", "rules: [{backends: [{name: one}, {name: two}], retry: {attempts: 2, conditions: [RateLimited]}}]\n"),
		},
	})}
	if problems := s.Status().Problems; len(problems) > 0 {
		t.Fatalf("problems: %q", problems)
	}
	ask := func() {
		t.Helper()
		if a := chat(t, s.Gateway, "openai", "m"); a.status != http.StatusOK || a.header.Get("x-ratelimit-remaining-requests") != "" {
			t.Fatalf("status %d, headers %v: %s", a.status, a.header, a.body)
		}
	}
	one.left.Store(5)
	s.WaitFor("the headroom is known", func() bool { ask(); return s.backend(t, "one").Share == 0.5 })
	e := s.backend(t, "one").Endpoints[0]
	if v, _ := e.signal("Answers", "headroom"); v != 0.05 || e.Why != "rate limit headroom 5 % < 10 % x0.5 -> 500" {
		t.Errorf("headroom %v: %q", v, e.Why)
	}
	s.WaitFor("the route's weights say so", func() bool { return slices.Equal(s.routed(t, "default/one", "default/two"), []uint32{500, 1000}) })
	const n = 600
	before := one.requests.Load()
	spend(n, 8, ask)
	// A third, by lot; five standard deviations.
	if got, want, slack := float64(one.requests.Load()-before), n/3.0, 5*math.Sqrt(n*2/9.0); math.Abs(got-want) > slack {
		t.Errorf("the API with little headroom got %.0f of %d requests, want %.0f, give or take %.0f", got, n, want, slack)
	}
	// What asks to be left alone is left alone.
	one.wait.Store(60)
	s.WaitFor("the API has refused", func() bool { ask(); return s.backend(t, "one").Share == 0 })
	s.WaitFor("the route's weights say so", func() bool { got := s.routed(t, "default/one", "default/two"); return got[0] == 0 && got[1] > 0 })
	before = one.requests.Load()
	spend(50, 4, ask)
	if got := one.requests.Load() - before; got != 0 {
		t.Errorf("the API that asked to be left alone got %d of 50 requests", got)
	}
}

// spend does something n times, with some at the same time.
func spend(n, workers int, do func()) {
	var wg sync.WaitGroup
	var begun atomic.Int64
	for range workers {
		wg.Go(func() {
			for begun.Add(1) <= int64(n) {
				do()
			}
		})
	}
	wg.Wait()
}

// TestIsolatedBackend: when all servers of a Backend are isolated, the rule's next one serves, and only until they are back.
func TestIsolatedBackend(t *testing.T) {
	t.Parallel()
	const model = "both"
	s := startSteered(t, []steeredPool{
		{name: "main", models: ", {name: both}", servers: quickGPUs(t, 2, gpu.Options{}), backend: "healthCheck: {interval: 200ms}\n", policy: "health: {warmUp: 0s}\n"},
		{name: "spare", models: ", {name: both}", servers: quickGPUs(t, 2, gpu.Options{}), policy: "-"},
	}, harness.Route("both", "rules: [{matches: [{models: [both]}], backends: [{name: main}, {name: spare, priority: 1}]}]\n"))
	sum := func(pool string) (n int) {
		for _, got := range s.got(pool) {
			n += got
		}
		return n
	}
	serves := func(pool, other string) {
		t.Helper()
		if got := s.routed(t, "default/main", "default/spare"); (got[0] > 0) != (pool == "main") || (got[1] > 0) != (pool == "spare") {
			t.Errorf("the route's weights are %v; %s should serve", got, pool)
		}
		before, beforeOther := sum(pool), sum(other)
		if got := <-s.atOnce(t, 30, question(model, "Hello", 1, false)); got[http.StatusOK] != 30 {
			t.Errorf("the callers' statuses: %v", got)
		}
		if got, others := sum(pool)-before, sum(other)-beforeOther; got != 30 || others != 0 {
			t.Errorf("%s got %d of 30 requests, and %s %d", pool, got, other, others)
		}
	}
	serves("main", "spare")
	s.fault(t, "main", 0, gpu.Fault{Health: 503})
	s.awaitWeight(t, "main", 0, 0)
	serves("main", "spare")
	s.fault(t, "main", 1, gpu.Fault{Health: 503})
	s.awaitWeight(t, "main", 1, 0)
	if b := s.backend(t, "main"); b.Usable {
		t.Errorf("a Backend without a healthy server: %+v", b)
	}
	serves("spare", "main")
	s.fault(t, "main", 1, gpu.Fault{})
	s.awaitWeight(t, "main", 1, 1000)
	serves("main", "spare")
}
