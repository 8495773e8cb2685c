package api

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-dev/weir/adapters"
	"github.com/weir-dev/weir/console/state"
	"github.com/weir-dev/weir/extproc/authz"
	"github.com/weir-dev/weir/extproc/breaker"
	"github.com/weir-dev/weir/extproc/cache"
	"github.com/weir-dev/weir/extproc/limit"
	"github.com/weir-dev/weir/extproc/pick"
	"github.com/weir-dev/weir/internal/trace"
	"github.com/weir-dev/weir/usage"
	"github.com/weir-dev/weir/usage/ledger"
	"github.com/weir-dev/weir/usage/money"
	"github.com/weir-dev/weir/xds/compile"
	"github.com/weir-dev/weir/xds/load"
	"github.com/weir-dev/weir/xds/serve"
	"github.com/weir-dev/weir/xds/source"
	"github.com/weir-dev/weir/xds/source/files"
)

var update = flag.Bool("update", false, "rewrite the golden files")

var t0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

const (
	upstreamKey = "upstream-secret-of-openai"
	gatewayYAML = `apiVersion: weir.dev/v1alpha1
kind: LLMGateway
metadata: {name: gw}
spec: {listeners: [{name: http, port: 8000}], accounting: {currency: USD}}
`
	policyYAML = `---
apiVersion: weir.dev/v1alpha1
kind: LoadPolicy
metadata: {name: load}
spec: {targetRefs: [{kind: Backend, name: pool}]}
`
)

// objects are a provider, a pool of n endpoints that is steered, and two routes.
func objectsYAML(n int) string {
	var b strings.Builder
	b.WriteString(gatewayYAML + policyYAML + `---
apiVersion: weir.dev/v1alpha1
kind: Backend
metadata: {name: openai}
spec:
  dialect: openai
  url: https://api.openai.example/v1
  credential: {secretRef: {file: key.txt}}
  models: [{name: gpt-4o}]
---
apiVersion: weir.dev/v1alpha1
kind: Route
metadata: {name: all}
spec:
  rules:
    - matches: [{models: [gpt-4o, "o1-*"], path: {value: /v1}, headers: [{name: X-Team, value: a}]}, {method: POST, consumerLabels: {team: lab}}]
      backends: [{name: openai, weight: 3}, {name: pool, priority: 1}]
---
apiVersion: weir.dev/v1alpha1
kind: Route
metadata: {name: two}
spec:
  rules:
    - {name: first, backends: [{name: pool, weight: 80}, {name: pool, weight: 20, model: llama}], matches: [{models: [llama]}]}
    - {backends: [{name: pool}], requiredScopes: [research]}
---
apiVersion: weir.dev/v1alpha1
kind: Consumer
metadata: {name: ci}
spec: {tenant: acme}
---
apiVersion: weir.dev/v1alpha1
kind: APIKey
metadata: {name: ci}
spec: {consumer: ci, hash: "sha256:37a721706adc5240e60def713f9817d6800983f74ab6c89c32f41c244b29e03f"}
---
apiVersion: weir.dev/v1alpha1
kind: Backend
metadata: {name: pool}
spec:
  dialect: openai
  endpoints:
`)
	for i := range n {
		fmt.Fprintf(&b, "    - {address: 10.0.%d.%d, port: 8000}\n", i/250, 1+i%250)
	}
	return b.String()
}

// rig is an API with everything that it asks.
type rig struct {
	*API
	t         testing.TB
	now       time.Time
	mux       *http.ServeMux
	dir       string
	desk      *usage.Desk
	steering  *load.Controller
	publisher atomic.Pointer[serve.State]
	problems  []source.Problem
	objs      *source.Objects
	shared    *SharedState
	origin    Origin
	keys      []KeySet
	cached    cache.Stats
	purged    []cache.Selector
	purge     error
}

// newRig makes one with a pool of n endpoints, that is live.
func newRig(t testing.TB, n int) *rig {
	t.Helper()
	r := &rig{t: t, now: t0, mux: http.NewServeMux(), dir: t.TempDir(), keys: []KeySet{}}
	clock := func() time.Time { return r.now }
	log := slog.New(slog.DiscardHandler)
	book, err := ledger.Open(r.dir, ledger.Options{Now: func() time.Time { return t0 }, Log: log}) // it looks at its clock in the background
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = book.Close() })
	r.desk = usage.NewDesk(usage.DeskOptions{Ledger: book, Estimator: usage.NewEstimator(), Registry: prometheus.NewRegistry(), Now: clock})
	breakers := breaker.New(breaker.Options{Now: clock})
	r.steering = load.New(load.Options{
		Picker: pick.NewSet(pick.Options{Now: clock, Breakers: breakers}), Breakers: breakers, Steer: func(*serve.Overlay) {},
		Registry: prometheus.NewRegistry(), Log: log, Now: clock,
	})
	limits := limit.New(limit.Options{Log: log})
	since := state.New(state.Options{Now: clock})
	since.Started = t0.Add(-time.Minute) // rates are of the whole window
	r.publisher.Store(&serve.State{Connected: true})
	r.origin = Origin{Name: "folder objects", Connected: true, Since: t0}
	r.API = New(Sources{
		Now: clock, Build: "v1.2.3", State: since,
		Publisher: func() serve.State { return *r.publisher.Load() }, Problems: func() []source.Problem { return r.problems },
		Origin:  func() Origin { return r.origin },
		Objects: func() *source.Objects { return r.objs }, KeySets: func() []KeySet { return r.keys }, SharedState: func() *SharedState { return r.shared },
		Shares: func() bool { return r.shared != nil }, Authz: func() authz.State { return authz.State{} }, Ledger: book, Desk: r.desk, Limits: limits,
		Breakers: breakers, Steering: r.steering.State,
		CacheStats: func() cache.Stats { return r.cached },
		PurgeCache: func(_ context.Context, s cache.Selector) (int, error) {
			r.purged = append(r.purged, s)
			return 7, r.purge
		},
	})
	r.Register(r.mux)
	r.serve(objectsYAML(n))
	return r
}

// serve makes objects live, and gives their version.
func (r *rig) serve(text string) *compile.Version {
	r.t.Helper()
	dir := r.t.TempDir()
	for name, content := range map[string]string{"all.yaml": text, "key.txt": upstreamKey + "\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			r.t.Fatal(err)
		}
	}
	objs, problems := files.Load(dir, func(string) (string, bool) { return "", false })
	dialects, err := adapters.NewSet(adapters.Catalog()...)
	if err != nil {
		r.t.Fatal(err)
	}
	v, more := compile.Compile(objs, compile.Options{Dialects: dialects, ExtProcCluster: "weir", SystemCAs: "/etc/ssl/certs/ca-certificates.crt"})
	if v == nil {
		r.t.Fatalf("%v %v", problems, more)
	}
	// The folder of a test has another name each time, and so has its version.
	for _, b := range objs.Backends {
		if b.Spec.Credential != nil {
			b.Spec.Credential.SecretRef.File = "key.txt"
		}
	}
	r.objs = objs
	r.Compiled(v, objs, nil)
	r.steering.Use(load.SteeringOf(v))
	r.WentLive(v.ID)
	r.publisher.Store(&serve.State{Serving: v.ID, Since: r.now, Connected: true, Versions: 1, Retained: 1})
	return v
}

func (r *rig) get(path string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	r.mux.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
	return w
}

// read decodes the answer of a path, which must be 200.
func read[T any](r *rig, path string) T {
	r.t.Helper()
	var out T
	w := r.get(path)
	if w.Code != 200 || w.Header().Get("content-type") != "application/json" {
		r.t.Fatalf("%s: %d %s", path, w.Code, w.Body)
	}
	if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil {
		r.t.Fatalf("%s: %v", path, err)
	}
	return out
}

// golden compares the answer of a path with a file.
func (r *rig) golden(name, path string) {
	r.t.Helper()
	w := r.get(path)
	got := strings.ReplaceAll(fmt.Sprintf("%d\n%s", w.Code, w.Body), r.dir, "STATE")
	got = strings.ReplaceAll(got, r.layouts.now().version, "VERSION")
	file := filepath.Join("testdata", name+".json")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			r.t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			r.t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		r.t.Fatal(err)
	}
	if got != string(want) {
		r.t.Errorf("%s differs from %s (-update rewrites it):\n%s", path, file, got)
	}
}

// grant tells of limits as one of the engine's does.
type grant struct{ headers limit.Headers }

func (g grant) Headers() limit.Headers { return g.headers }
func (grant) Settle(_, _, _ int64)     {}
func (grant) Cancel()                  {}
func (grant) Void()                    {}

// open is a request of acme/ci for gpt-4o that was let in.
func open(id string, at time.Time) *usage.Open {
	rule := &limit.Rule{ID: "LimitPolicy/default/fair", Name: "default/fair", Unit: limit.Requests, Limit: 100, Window: time.Minute}
	return &usage.Open{
		ID: id, RequestID: "req-" + id, Time: at, Gateway: "default/gw", Tenant: "acme", Namespace: "default", Consumer: "ci", Credential: "key:ci", Route: "default/all",
		Model: "gpt-4o", Operation: "chat", Dialect: "openai", Stream: true, Currency: "USD", EstimatedInput: 9,
		Trace:      trace.Place{Trace: "0af7651916cd43dd8448eb211c80319c", Span: "b7ad6b716920333"},
		Candidates: []usage.Candidate{{Backend: "default/openai", UpstreamModel: "gpt-4o"}, {Backend: "default/pool", UpstreamModel: "gpt-4o"}},
		Grant:      grant{limit.Headers{Requests: limit.State{Rule: rule, Limit: 100, Remaining: 41, Reset: 30 * time.Second}}}, Expires: at.Add(time.Hour),
	}
}

// record is Envoy's of such a request, that default/openai has answered.
func record(o *usage.Open, version string) *usage.Record {
	return &usage.Record{
		RequestID: o.RequestID, Start: o.Time, Duration: 900 * time.Millisecond, FirstByte: 210 * time.Millisecond, Status: 200, Details: "via_upstream", Stream: true,
		Dialect: "openai", Operation: "chat", Model: "gpt-4o", Route: o.Route, Backend: "default/openai", Consumer: "ci", Tenant: "acme", Credential: "key:ci",
		Version: version, Exchange: o.ID, BytesIn: 100, BytesOut: 2000, Attempts: 1, Endpoint: "192.0.2.7:443", FirstToken: 190 * time.Millisecond, Trace: o.Trace,
		Caller: "203.0.113.9:4711", Method: "POST", Path: "/v1/chat/completions",
		Timing: usage.Timing{Received: time.Millisecond, BackendSent: 20 * time.Millisecond, BackendSentLast: 21 * time.Millisecond, BackendFirst: 200 * time.Millisecond, BackendLast: 899 * time.Millisecond},
	}
}

// finish tells of a request that is over, changed by edits.
func (r *rig) finish(id string, edits ...func(*usage.Finished)) {
	o := open(id, r.now.Add(-time.Second))
	f := &usage.Finished{
		At: r.now, Open: o, Record: record(o, r.layouts.now().version),
		Entry: &ledger.Entry{
			ID: id, Time: o.Time, RequestID: o.RequestID, Gateway: o.Gateway, Backend: "default/openai", UpstreamModel: "gpt-4o", Status: 200, Attempts: 1,
			Tokens: ledger.Tokens{Input: 10, CacheRead: 3, Output: 20, Reasoning: 2}, Cost: int64(money.Nano(1234567)), Currency: "USD",
		},
	}
	for _, e := range edits {
		e(f)
	}
	r.State.Finished(f)
}

// fellBack has failed at openai first, and was answered by the pool.
func fellBack(f *usage.Finished) {
	c := f.Record
	c.Attempts, c.Backend, c.Endpoint, c.Endpoints = 2, "default/pool", "10.0.0.2:8000", "10.0.0.2:8000,10.0.0.1:8000"
	f.Entry.Backend, f.Entry.Attempts, f.Entry.Estimated = "default/pool", 2, true
	f.Failed = []usage.Failed{{
		N: 1, RequestID: c.RequestID, Backend: "default/openai", Endpoint: "192.0.2.7:443", Start: c.Start.Add(20 * time.Millisecond), Duration: 30 * time.Millisecond,
		Status: 503, Flags: "UF", Reason: "delayed connect error: Connection refused",
	}}
}

func limited(f *usage.Finished) {
	f.Open, f.Entry = nil, nil
	c := f.Record
	c.Status, c.Immediate, c.Refusal, c.Details = 429, true, "The limit default/fair (100 requests per minute) is reached; try again in 7 s.", "weir_rate_limit"
	c.Backend, c.Endpoint, c.Attempts, c.Timing, c.FirstToken, c.Duration, c.BytesOut = "", "", 0, usage.Timing{}, 0, 2*time.Millisecond, 120
}

func failing(status int) func(*usage.Finished) {
	return func(f *usage.Finished) {
		f.Record.Status, f.Record.FirstToken = status, 0
		f.Entry.Status, f.Entry.Tokens, f.Entry.Cost = status, ledger.Tokens{}, 0
	}
}
