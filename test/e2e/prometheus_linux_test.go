package e2e

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"golang.org/x/sys/unix"

	"github.com/weir-dev/weir/extproc/cache"
	"github.com/weir-dev/weir/extproc/cache/semantic"
	"github.com/weir-dev/weir/extproc/session"
	"github.com/weir-dev/weir/test/e2e/harness"
	"github.com/weir-dev/weir/test/redistest"
	"github.com/weir-dev/weir/test/sim"
	"github.com/weir-dev/weir/test/sim/gpu"
)

// observed is a gateway with some of everything, and a Prometheus that watches it.
type observed struct {
	*steered
	prom   *promServer
	redis  *redistest.Server
	signer signer
	broken *harness.Sim
	keys   *atomic.Bool // the issuer publishes its keys
	spans  *atomic.Bool // the collector takes spans

	work   sync.WaitGroup
	ending chan struct{}
	pause  sync.RWMutex // held by who wants no usual traffic
	mu     sync.Mutex
	bad    []string // usual requests that were not answered well
}

// connections that Envoy takes from callers.
const fewConnections = 120

func startObserved(t *testing.T) *observed {
	t.Helper()
	o := &observed{redis: redistest.Start(t), signer: newSigner(t, "https://id.example", "ES256"), keys: &atomic.Bool{}, ending: make(chan struct{})}
	o.spans = &atomic.Bool{}
	o.keys.Store(true)
	o.spans.Store(true)
	collector := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if !o.spans.Load() {
			http.Error(w, "no spans today", http.StatusBadRequest)
		}
	}))
	t.Cleanup(collector.Close)
	issuer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if !o.keys.Load() {
			http.Error(w, "no keys today", http.StatusInternalServerError)
			return
		}
		_, _ = io.WriteString(w, jwks(t, o.signer)) // weir tries again
	}))
	t.Cleanup(issuer.Close)

	oa := harness.NewSim(t, sim.Options{Dialect: sim.OpenAI, Models: []string{"plain", "limited", "budget", "rescue", "kept", "talk"}})
	an := harness.NewSim(t, sim.Options{Dialect: sim.Anthropic, Models: []string{"claude"}})
	free := harness.NewSim(t, sim.Options{Dialect: sim.OpenAI, Models: []string{"free"}})
	late := harness.NewSim(t, sim.Options{Dialect: sim.OpenAI, Models: []string{"late"}, Faults: sim.Faults{TTFT: sim.Duration(5500 * time.Millisecond)}})
	wait := harness.NewSim(t, sim.Options{Dialect: sim.OpenAI, Models: []string{"wait"}, Faults: sim.Faults{TTFT: sim.Duration(400 * time.Millisecond)}})
	o.broken = harness.NewSim(t, sim.Options{Dialect: sim.OpenAI, Models: []string{"broken", "route"}})
	o.steered = &steered{pools: map[string]*gpu.Pool{"pool": quickGPUs(t, 3, gpu.Options{}), "small": quickGPUs(t, 1, gpu.Options{}), "full": harness.NewGPUs(t, 1, gpu.Options{})}}

	const prices = "prices: [{input: \"1\", output: \"1\"}]"
	docs := []string{
		harness.Route("all", `
rules:
  - {name: plain, matches: [{models: [plain, limited, budget]}], backends: [{name: oa}]}
  - {name: kept, matches: [{models: [kept]}], backends: [{name: oa}]}
  - {name: talk, matches: [{models: [talk]}], backends: [{name: oa}]}
  - {name: translated, matches: [{models: [claude]}], backends: [{name: an}]}
  - {name: free, matches: [{models: [free]}], backends: [{name: free}]}
  - {name: late, matches: [{models: [late]}], backends: [{name: late}]}
  - {name: wait, matches: [{models: [wait]}], backends: [{name: wait}]}
  - {name: broken, matches: [{models: [broken, route]}], backends: [{name: broken}], retry: {attempts: 1}}
  - {name: rescue, matches: [{models: [rescue]}], backends: [{name: dead, priority: 0}, {name: oa, priority: 1}], retry: {attempts: 2}}
  - {name: pool, matches: [{models: [pool]}], backends: [{name: pool}], retry: {attempts: 1}}
  - {name: small, matches: [{models: [small]}], backends: [{name: small}], retry: {attempts: 1}}
  - {name: full, matches: [{models: [full]}], backends: [{name: full}], retry: {attempts: 1}}
`),
		harness.Document("JWTIssuer", "id", "issuer: https://id.example\naudiences: [weir]\nkeys: {url: \""+issuer.URL+"/jwks\"}\nclaims: {tenant: team}"),
		limitPolicy("limited", gatewayTarget, "models: [limited]\nlimits: [{name: most, unit: Requests, limit: 80, window: 1h}]\nsharing: {mode: Lease}"),
		limitPolicy("exact", gatewayTarget, "models: [plain]\nlimits: [{name: most, unit: Requests, limit: 100k, window: 1h}]\nsharing: {mode: Exact}"),
		limitPolicy("wait", gatewayTarget, "models: [wait]\nlimits: [{name: one, unit: ConcurrentRequests, limit: 1, maxWait: 30s}]"),
		limitPolicy("guard", gatewayTarget, "models: [broken]\ncircuitBreaker: {minRequests: 3, errorPercent: 50, window: 1m, openFor: 1h}"),
		limitPolicy("shadow", gatewayTarget, "models: [route]\nmode: Shadow\ncircuitBreaker: {minRequests: 3, errorPercent: 50, window: 1m, openFor: 1h}"),
		budget("budget", "amount: \"0.002\"\nperiod: Month"),
		harness.Document("CachePolicy", "kept", "targetRefs: [{kind: Route, name: all, sectionName: kept}]\neligible: All\nttl: 1s\njitterPercent: 0\nredis: {}"),
		harness.Document("SessionPolicy", "talk", "targetRefs: [{kind: Route, name: all, sectionName: talk}]\nstateMachine: {initial: a, states: [{name: a}, {name: b}], transitions: [{from: [a], event: user_message, to: b}, {from: [b], event: user_message, to: a}]}"),
	}
	for name, policy := range map[string]string{
		"pool":  "health: {warmUp: 1s}\npicking: {prefixAffinity: {}}\ncircuitBreaker: {minRequests: 3, window: 10s, openFor: 1h}\n",
		"small": "health: {warmUp: 1s}\n",
		"full":  "admission: {maxRequestsPerEndpoint: 1, maxWaiting: 0}\n",
	} {
		p := steeredPool{name: name, servers: o.pools[name], backend: prices + "\nhealthCheck: {interval: 200ms}\nmetrics: [{type: VLLM}]\n"}
		docs = append(docs, p.document(), harness.Document("LoadPolicy", name, "targetRefs: [{kind: Backend, name: "+name+"}]\n"+policy))
	}
	priced := func(name string, s *harness.Sim) harness.Backend {
		return harness.Backend{Name: name, Sim: s, Spec: prices}
	}
	o.Gateway = harness.Start(t, harness.Options{
		Beside: true, BootstrapArgs: []string{"--max-connections", fmt.Sprint(fewConnections)},
		Listener: fmt.Sprintf("sharedState: {redis: {addresses: [%q], timeout: %s}}\nauthentication: {maxFailedLogins: 0, keyPepperRef: {file: pepper.txt}, keyStore: Redis}\naccounting: {ledger: Redis}", o.redis.Addr, redisTimeout),
		Backends: []harness.Backend{
			priced("oa", oa), priced("an", an), {Name: "free", Sim: free}, priced("late", late), priced("wait", wait), priced("broken", o.broken),
			{Name: "dead", Dialect: "openai", URL: fmt.Sprintf("http://127.0.0.1:%d/v1", harness.FreePort(t)), Models: []string{"rescue"}, Spec: prices},
		},
		Env:       []string{"OTEL_TRACES_EXPORTER=otlp", "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf", "OTEL_EXPORTER_OTLP_ENDPOINT=" + collector.URL, "OTEL_BSP_SCHEDULE_DELAY=200"},
		Documents: docs, Files: map[string]string{"pepper.txt": keyPepper},
	})
	rules, _ := readAlerts(t)
	o.prom = startPrometheus(t, strings.TrimPrefix(o.AdminURL, "http://"), quicker(t, rules))
	return o
}

// send sends a chat and gives the status of the answer, 0 for none, once all of it was read.
func (o *observed) send(t *testing.T, model string, stream bool, headers ...string) int {
	body := fmt.Sprintf(`{"model":%q,"max_tokens":6,"messages":[{"role":"user","content":"Hello, who are you?"}]}`, model)
	if stream {
		body = strings.Replace(body, `"max_tokens"`, `"stream":true,"stream_options":{"include_usage":true},"max_tokens"`, 1)
	}
	req := request(t, o.Gateway, "POST", "/v1/chat/completions", "openai", body, headers...)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return 0
	}
	return resp.StatusCode
}

// token is a JWT of a team.
func (o *observed) token(t *testing.T, team string) string {
	return "Bearer " + o.signer.token(t, claims{"team": team})
}

// usual sends requests that all go well, one after the other, until it is to end. Who holds pause has none meanwhile.
func (o *observed) usual(t *testing.T) {
	token := o.token(t, "blue")
	for i := 0; ; i++ {
		for _, model := range []string{"plain", "claude", "kept", "kept", "talk", "pool", "small", "broken", "route", "limited", "budget"} {
			if i%8 > 0 && (model == "limited" || model == "budget") {
				continue // they have not got much
			}
			select {
			case <-o.ending:
				return
			case <-time.After(30 * time.Millisecond):
			}
			o.pause.RLock()
			headers := []string{}
			if i%2 == 0 {
				headers = []string{"authorization", token}
			}
			if model == "talk" {
				headers = append(headers, "x-weir-session", "usual")
			}
			status := o.send(t, model, i%2 == 1, headers...)
			o.pause.RUnlock()
			if status != http.StatusOK {
				o.mu.Lock()
				o.bad = append(o.bad, fmt.Sprint(model, ": ", status))
				o.mu.Unlock()
			}
		}
	}
}

// provoke does what must make alerts fire, again and again, each by itself, until they all have. Alerts that fire without further ado
// have nil.
func (o *observed) provoke(t *testing.T, seen map[string]bool, faults map[string]func()) {
	t.Helper()
	var work sync.WaitGroup
	stop := make(chan struct{})
	for _, fault := range faults {
		if fault == nil {
			continue
		}
		work.Go(func() {
			for {
				fault()
				select {
				case <-stop:
					return
				case <-time.After(100 * time.Millisecond):
				}
			}
		})
	}
	defer work.Wait()
	defer close(stop)
	deadline := time.Now().Add(2 * harness.Patience)
	for {
		maps.Copy(seen, o.prom.firing())
		var missing []string
		for name := range faults {
			if !seen[name] {
				missing = append(missing, name)
			}
		}
		if len(missing) == 0 {
			return
		}
		if time.Now().After(deadline) {
			slices.Sort(missing)
			t.Errorf("these alerts do not fire: %q", missing)
			return
		}
		time.Sleep(200 * time.Millisecond) // between two looks
	}
}

// times does something at once, so many times.
func times(n int, f func()) {
	var work sync.WaitGroup
	for range n {
		work.Go(f)
	}
	work.Wait()
}

// healthyScrapes is how many times a healthy gateway is scraped: more than any alert takes, with the times of this test.
const healthyScrapes = 18

// TestPrometheus: a real Prometheus watches a gateway, first while all is well, then while everything fails that can. While all is well no
// alert fires; each alert fires by the fault that it is for; every panel of every dashboard has data; and docs/metrics.md lists what
// there is.
func TestPrometheus(t *testing.T) {
	_, alerts := readAlerts(t)
	o := startObserved(t)
	o.work.Go(func() { o.usual(t) })
	stopUsual := sync.OnceFunc(func() { close(o.ending); o.work.Wait() })
	t.Cleanup(stopUsual)

	harness.WaitFor(t, "Prometheus has seen a healthy gateway", func() bool { return o.prom.scrapes() >= healthyScrapes })
	if fired, err := o.prom.over(`ALERTS{alertstate="firing"}`); err != nil || len(fired) > 0 {
		t.Errorf("while all was well these fired: %v (%v)", fired, err)
	}
	o.mu.Lock()
	bad := o.bad
	o.mu.Unlock()
	if len(bad) > 0 {
		t.Fatalf("while all was well requests failed: %q", bad)
	}
	if errs := o.prom.ruleErrors(); len(errs) > 0 {
		t.Errorf("rules: %q", errs)
	}

	seen := map[string]bool{}
	o.slow(t, seen)
	o.faults(t, seen)
	o.ofEnvoy(t, seen)
	o.panels(t)
	o.documented(t)
	stopUsual()
	o.KillEnvoy()
	o.Kill(syscall.SIGKILL)
	o.provoke(t, seen, map[string]func(){"WeirDown": nil})
	for _, name := range alerts {
		if !seen[name] {
			t.Errorf("nothing has made %s fire", name)
		}
	}
}

// slow: the gateway adds much to requests, and a model takes long for its first token. The usual requests would hide it.
func (o *observed) slow(t *testing.T, seen map[string]bool) {
	must(t, o.pools["pool"].Servers[0].Set(gpu.Fault{MetricsOff: true})) // the age of what it said last must grow
	o.pause.Lock()
	defer o.pause.Unlock()
	o.provoke(t, seen, map[string]func(){
		"WeirOverheadHigh":   func() { times(12, func() { o.send(t, "wait", false) }) },
		"WeirSlowFirstToken": func() { times(4, func() { o.send(t, "late", true) }) },
	})
}

// faults: all at once, beside the usual requests.
func (o *observed) faults(t *testing.T, seen map[string]bool) {
	o.broken.Configure(sim.Faults{Rules: []sim.Rule{{Kind: sim.Status, Status: 500}}})
	waiting := 40.0
	must(t, o.pools["pool"].Servers[0].Set(gpu.Fault{MetricsOff: true, Fail: 500}))
	must(t, o.pools["pool"].Servers[1].Set(gpu.Fault{Override: gpu.Override{Waiting: &waiting}}))
	must(t, o.pools["pool"].Servers[2].Set(gpu.Fault{Health: 500}))
	must(t, o.pools["small"].Servers[0].Set(gpu.Fault{Health: 500}))
	o.keys.Store(false)
	o.spans.Store(false)
	stranger := newSigner(t, "https://id.example", "ES256")
	stranger.kid = "nobody-has-seen-it"
	o.WriteFile("wrong.yaml", harness.Route("wrong", "rules: [{backends: [{name: nobody}]}]"))
	team := atomic.Int64{}
	full := diskFull(t, o.PID())
	defer full()
	o.redis.Kill()
	o.provoke(t, seen, map[string]func(){
		"WeirRouteErrors":      func() { o.send(t, "route", false) },
		"WeirBackendErrors":    func() { times(4, func() { o.send(t, "rescue", false) }) },
		"WeirBreakerOpen":      func() { o.send(t, "broken", false) },
		"WeirEndpointIsolated": nil, "WeirNoEndpointLeft": nil, "WeirSignalsStale": nil,
		"WeirTelemetryDropped": func() {
			o.send(t, "plain", false, "traceparent", fmt.Sprintf("00-%032x-%016x-01", time.Now().UnixNano(), 1))
		},
		"WeirBackendFull":          func() { times(4, func() { o.send(t, "full", false) }) },
		"WeirConfigurationRefused": nil, "WeirRedisDown": nil, "WeirSessionsLost": func() { o.send(t, "talk", false, "x-weir-session", "lost") }, "WeirLedgerNotShipped": nil, "WeirLedgerNotWritten": nil,
		"WeirSigningKeysStale": func() { o.send(t, "plain", false, "authorization", "Bearer "+stranger.token(t, nil)) },
		"WeirLoginsRefused": func() {
			times(5, func() { o.send(t, "plain", false, "authorization", "Bearer nobodys-key-0123456789") })
		},
		"WeirLimitRefusals":     func() { times(8, func() { o.send(t, "limited", false) }) },
		"WeirBudgetNearlySpent": func() { times(8, func() { o.send(t, "budget", false) }) },
		"WeirUnpricedRequests":  func() { o.send(t, "free", false) },
		"WeirMetricsLabelOverflow": func() {
			times(4, func() { o.send(t, "plain", false, "authorization", o.token(t, fmt.Sprint("team-", team.Add(1)))) })
		},
		"WeirConnectionsRefused": func() { o.crowdConnections() },
	})
}

// crowdConnections makes more connections than Envoy takes, and lets them go.
func (o *observed) crowdConnections() {
	var all []net.Conn
	for range fewConnections + 20 {
		c, err := net.Dial("tcp", strings.TrimPrefix(o.URL, "http://"))
		if err != nil {
			break
		}
		all = append(all, c)
	}
	for _, c := range all {
		c.Close()
	}
}

// diskFull lets a process write to no file any more, as on a disk that is full, until it is undone.
func diskFull(t *testing.T, pid int) (undo func()) {
	t.Helper()
	var before unix.Rlimit
	must(t, unix.Prlimit(pid, unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 0, Max: unix.RLIM_INFINITY}, &before))
	return func() { _ = unix.Prlimit(pid, unix.RLIMIT_FSIZE, &before, nil) } // it may have ended
}

// ofEnvoy: Envoy is gone, and comes and goes.
func (o *observed) ofEnvoy(t *testing.T, seen map[string]bool) {
	o.KillEnvoy()
	o.provoke(t, seen, map[string]func(){"WeirEnvoyDisconnected": nil, "WeirEnvoyStatsMissing": nil})
	o.StartEnvoy()
	o.WaitFor("Envoy serves again", o.Ready)
	o.provoke(t, seen, map[string]func(){"WeirEnvoyRestarting": func() {
		exits := o.Metric("weir_envoy_exits_total")
		o.KillEnvoy()
		o.StartEnvoy()
		harness.WaitFor(t, "weir has noticed", func() bool { return o.Metric("weir_envoy_exits_total") > exits })
		o.WaitFor("the next Envoy serves", o.Ready)
	}})
	scrapes := o.prom.scrapes()
	harness.WaitFor(t, "Prometheus has seen the last Envoy", func() bool { return o.prom.scrapes() > scrapes+1 })
}

// panels: each query of each dashboard has data, and each of its notes is valid.
func (o *observed) panels(t *testing.T) {
	panels, notes := queries(t, time.Since(o.prom.started))
	for _, q := range panels {
		eval := o.prom.over
		if q.Instant {
			eval = o.prom.query
		}
		switch got, err := eval(q.Expr); {
		case err != nil:
			t.Errorf("%s: %v: %s", q.Where, err, q.Expr)
		case len(got) == 0:
			t.Errorf("%s has no data: %s", q.Where, q.Expr)
		}
	}
	for _, q := range notes {
		if _, err := o.prom.over(q.Expr); err != nil {
			t.Errorf("%s: %v: %s", q.Where, err, q.Expr)
		}
	}
	t.Logf("%d queries of panels", len(panels))
}

// described are the families of caches and sessions, with those that only what is rare would show.
func described(t *testing.T) registered {
	t.Helper()
	names := registered{}
	answers := cache.New(cache.Options{Registry: names})
	must(t, answers.Close(context.Background()))
	sessions, err := session.New(session.Options{Now: time.Now, Metrics: names})
	must(t, err)
	sessions.Close()
	semantic.New(semantic.Options{Now: time.Now, Registry: names})
	if len(names) < 30 {
		t.Fatalf("only %d families are described", len(names))
	}
	return names
}

// registered are the names of families. It is a prometheus.Registerer that keeps nothing else.
type registered map[string]bool

// Register implements prometheus.Registerer.
func (r registered) Register(c prometheus.Collector) error {
	descs := make(chan *prometheus.Desc)
	go func() {
		c.Describe(descs)
		close(descs)
	}()
	for d := range descs {
		_, name, _ := strings.Cut(d.String(), `fqName: "`)
		name, _, _ = strings.Cut(name, `"`)
		r[name] = true
	}
	return nil
}

// MustRegister implements prometheus.Registerer.
func (r registered) MustRegister(all ...prometheus.Collector) {
	for _, c := range all {
		_ = r.Register(c) // it does not fail
	}
}

// Unregister implements prometheus.Registerer.
func (registered) Unregister(prometheus.Collector) bool { return false }

// documented: docs/metrics.md lists all that Weir exports, and nothing else; and the page is valid by Prometheus's own tool.
func (o *observed) documented(t *testing.T) {
	resp, err := http.Get(o.AdminURL + "/metrics")
	must(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	must(t, err)
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(string(text)))
	if err != nil {
		t.Fatalf("the page is not valid: %v", err)
	}
	check := exec.Command("promtool", "check", "metrics")
	check.Stdin = strings.NewReader(string(text))
	if out, _ := check.CombinedOutput(); regexp.MustCompile(`(?m)^(weir|gen_ai)_|error while|text format`).Match(out) { // it has an opinion on Envoy's names, too
		t.Errorf("promtool: %s", out)
	}
	page, err := os.ReadFile(metricsPage)
	must(t, err)
	listed := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `((?:weir|gen_ai)_\\w+)` \\|").FindAllStringSubmatch(string(page), -1) {
		listed[m[1]] = true
	}
	envoys := 0
	for name, f := range families {
		switch {
		case strings.HasPrefix(name, "envoy_"):
			envoys++
		case strings.HasPrefix(name, "weir_") || strings.HasPrefix(name, "gen_ai_"):
			if !listed[name] {
				t.Errorf("docs/metrics.md does not list %s", name)
			}
			row := regexp.MustCompile("(?m)^\\| `" + name + "` \\|([^|]*)\\|").FindStringSubmatch(string(page))
			for _, l := range f.GetMetric()[0].GetLabel() {
				if row != nil && !strings.Contains(row[1], "`"+l.GetName()+"`") {
					t.Errorf("docs/metrics.md does not say that %s has the label %s", name, l.GetName())
				}
			}
		}
	}
	// A gateway whose objects are in a folder has nothing to say of clusters and fleets.
	elsewhere := ""
	for _, section := range strings.Split(string(page), "\n## ") {
		if title, _, _ := strings.Cut(section, "\n"); title == "Fleet" || title == "Kubernetes" {
			elsewhere += section
		}
	}
	rare := described(t)
	for name := range rare {
		if !listed[name] {
			t.Errorf("docs/metrics.md does not list %s", name)
		}
	}
	for name := range listed {
		if strings.Contains(elsewhere, "`"+name+"`") {
			continue
		}
		if families[name] == nil && !rare[name] && name != "weir_external_authorization_duration_seconds" { // nobody asks for it here
			t.Errorf("docs/metrics.md lists %s, which there is not", name)
		}
	}
	if envoys < 50 {
		t.Errorf("the page has only %d families of Envoy's", envoys)
	}
}
