package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/test/e2e/harness"
	"github.com/weir-dev/weir/test/sim/gpu"
	"github.com/weir-dev/weir/test/sim/gpu/engine"
	"github.com/weir-dev/weir/usage/ledger"
)

// Callers of a gateway whose Weir dies, beside the one with harness.DefaultKey.
const (
	keyOfNobody   = "nobody-gave-this-key-out"
	keyOneNetwork = "key-for-one-network-0123"
	keyYesterday  = "key-of-yesterday-0123456"
	keyNoMore     = "key-that-is-no-more-0123"
	keyOneModel   = "key-for-one-model-012345"
	keyOfGold     = "key-of-a-gold-team-01234"
	keyOfSecret   = "key-in-a-secret-file-012"
)

// orphan is a gateway of a `weir serve`, its Envoy, and pools that fail open and closed.
type orphan struct {
	*harness.Gateway
	open, closed *gpu.Pool
}

// weights of the endpoints of the pool that fails open. The last one is isolated before Weir dies.
var openWeights = []int{1, 1, 3, 1}

func startOrphan(t *testing.T) *orphan {
	t.Helper()
	profile := engine.Profiles()[0].Scaled(4)
	o := &orphan{
		open:   harness.NewGPUs(t, len(openWeights), gpu.Options{Profile: profile}),
		closed: harness.NewGPUs(t, 1, gpu.Options{Profile: profile}),
	}
	weighted := strings.Builder{}
	for i, s := range o.open.Servers {
		host, port, _ := net.SplitHostPort(s.Addr())
		fmt.Fprintf(&weighted, "  - {address: %s, port: %s, weight: %d}\n", host, port, openWeights[i])
	}
	models := "models: [{name: m}, {name: labelled}, {name: header}, {name: scoped}, {name: other}, {name: both}, {name: chained}, {name: alias, upstreamName: m}]\n"
	docs := []string{
		harness.Document("Backend", "gpus", "dialect: openai\nbasePath: /v1\n"+models+"healthCheck: {interval: 100ms}\nendpoints:\n"+weighted.String()),
		harness.Document("LoadPolicy", "gpus", "targetRefs: [{kind: Backend, name: gpus}]\nfailureMode: Open\n"),
		harness.Document("Backend", "strict", "dialect: openai\nbasePath: /v1\nmodels: [{name: strict}, {name: both}, {name: chained}]\n"+harness.Endpoints(o.closed)),
		harness.Document("LoadPolicy", "strict", "targetRefs: [{kind: Backend, name: strict}]\n"),
		harness.Route("gpus", `rules:
  - {name: plain, matches: [{models: [m, alias, other]}], backends: [{name: gpus}]}
  - {name: gold, matches: [{models: [labelled], consumerLabels: {tier: gold}}], backends: [{name: gpus}]}
  - {name: header, matches: [{models: [header], headers: [{name: x-beta, value: "yes"}]}], backends: [{name: gpus}]}
  - {name: headless, matches: [{models: [header]}], backends: [{name: gpus}]}
  - {name: scoped, matches: [{models: [scoped]}], backends: [{name: gpus}], requiredScopes: [deep]}
  - {name: strict, matches: [{models: [strict]}], backends: [{name: strict}]}
  - {name: both, matches: [{models: [both]}], backends: [{name: strict}, {name: gpus, priority: 1}]}
  - {name: chained, matches: [{models: [chained]}], backends: [{name: gpus}, {name: strict, priority: 1}]}
`),
		harness.APIKey("network", "app", keyOneNetwork, "allowedCIDRs: [127.0.0.0/8]"),
		harness.APIKey("expired", "app", keyYesterday, "expiresAt: 2020-01-01T00:00:00Z"),
		harness.APIKey("disabled", "app", keyNoMore, "disabled: true"),
		harness.APIKey("narrow", "app", keyOneModel, `allowedModels: ["oth*"]`),
		harness.Consumer("gold", keyOfGold, "labels: {tier: gold}\nscopes: [deep, wide]"),
		harness.Document("APIKey", "secret", "consumer: app\nsecretRef: {file: caller.txt}\n"),
	}
	o.Gateway = harness.Start(t, harness.Options{Beside: true, Documents: docs, Files: map[string]string{"caller.txt": keyOfSecret + "\n"}})
	return o
}

// ask sends a chat with a key.
func (o *orphan) ask(t *testing.T, model, key string, headers ...string) answer {
	t.Helper()
	headers = append([]string{"authorization", "Bearer " + key}, headers...)
	return do(t, http.DefaultClient, request(t, o.Gateway, "POST", "/v1/chat/completions", "openai", question(model, "Hello", 4, false), headers...))
}

// pressure is what 16 clients do, half of them with streams.
type pressure struct {
	done   atomic.Int64
	mu     sync.Mutex
	failed []string
	worst  time.Duration
	stop   context.CancelFunc
	wg     sync.WaitGroup
}

func (o *orphan) load(t *testing.T, model string) *pressure {
	t.Helper()
	l := &pressure{}
	ctx, stop := context.WithCancel(context.Background())
	l.stop = stop
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}}
	for i := range 16 {
		stream := i%2 == 0
		l.wg.Go(func() {
			for ctx.Err() == nil {
				start := time.Now()
				problem := chatOnce(client, o.URL, question(model, fmt.Sprintf("Question of client %d", i), 8, stream), stream)
				took := time.Since(start)
				l.mu.Lock()
				l.worst = max(l.worst, took)
				if problem != "" {
					l.failed = append(l.failed, problem)
				}
				l.mu.Unlock()
				l.done.Add(1)
			}
		})
	}
	t.Cleanup(l.end)
	return l
}

// chatOnce says what is wrong with one chat; "" where it is whole.
func chatOnce(client *http.Client, url, body string, stream bool) string {
	req, err := http.NewRequest("POST", url+"/v1/chat/completions", strings.NewReader(body))
	if err != nil {
		return err.Error()
	}
	req.Header.Set("content-type", "application/json")
	req.Header.Set("authorization", "Bearer "+harness.DefaultKey)
	resp, err := client.Do(req)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return err.Error()
	case resp.StatusCode != http.StatusOK:
		return fmt.Sprintf("status %d: %s", resp.StatusCode, got)
	case stream && !strings.HasSuffix(string(got), "data: [DONE]\n\n"):
		return fmt.Sprintf("a stream without its end: %s", got)
	case !stream && !json.Valid(got):
		return fmt.Sprintf("no JSON: %s", got)
	}
	return ""
}

func (l *pressure) end() {
	l.stop()
	l.wg.Wait()
}

// more waits until so many more requests have ended, and so much time has passed.
func (l *pressure) more(t *testing.T, n int64, d time.Duration) (requests int64) {
	t.Helper()
	start, before := time.Now(), l.done.Load()
	harness.WaitFor(t, "requests to end", func() bool { return l.done.Load() >= before+n && time.Since(start) >= d })
	return l.done.Load() - before
}

// problems are what went wrong since the last call, and how long the slowest request took.
func (l *pressure) problems() ([]string, time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f, w := l.failed, l.worst
	l.failed, l.worst = nil, 0
	return f, w
}

func poolCounts(p *gpu.Pool) (out []int) {
	for _, s := range p.Servers {
		out = append(out, int(s.Stats().Requests))
	}
	return out
}

func countsSince(a, b []int) []int {
	for i := range a {
		a[i] -= b[i]
	}
	return a
}

// TestFailOpen kills Weir under load.
func TestFailOpen(t *testing.T) {
	o := startOrphan(t)
	t.Run("no key is in Envoy's configuration", func(t *testing.T) {
		dump := string(o.Envoy("/config_dump?include_eds"))
		for _, key := range []string{harness.DefaultKey, keyOneModel, keyOfGold, keyOfSecret} {
			if strings.Contains(dump, key) {
				t.Errorf("the key %s is in it", key)
			}
			if hash := strings.TrimPrefix(identity.HashKey(key), "sha256:"); !strings.Contains(dump, hash) {
				t.Errorf("the hash of %s is not in it", key)
			}
		}
		for _, key := range []string{keyOneNetwork, keyNoMore} {
			if strings.Contains(dump, strings.TrimPrefix(identity.HashKey(key), "sha256:")) {
				t.Errorf("the hash of %s, which Envoy cannot judge, is in it", key)
			}
		}
	})
	if t.Failed() {
		t.FailNow()
	}
	t.Run("killed and started again", func(t *testing.T) { testKilled(t, o) })
	t.Run("with backends to fall back on", func(t *testing.T) { testChain(t, o) })
	t.Run("who is let through", func(t *testing.T) { testWhoIsLetThrough(t, o) })
	t.Run("answers that need Weir", func(t *testing.T) { testAnswersThatNeedWeir(t, o) })
	t.Run("an endpoint dies as well", func(t *testing.T) { testEndpointDies(t, o) })
	t.Run("hung", func(t *testing.T) { testHung(t, o) })
}

func testKilled(t *testing.T, o *orphan) {
	sick := len(o.open.Servers) - 1
	must(t, o.open.Servers[sick].Set(gpu.Fault{Health: http.StatusServiceUnavailable}))
	o.WaitFor("an endpoint is isolated in Envoy", func() bool {
		return strings.Contains(string(o.Envoy("/clusters")), o.open.Servers[sick].Addr()+"::health_flags::/failed_eds_health")
	})
	l := o.load(t, "m")
	before := poolCounts(o.open)
	n := l.more(t, 200, time.Second)
	failed, worst := l.problems()
	t.Logf("with Weir: %d requests, %d failed, slowest %v, by endpoint %v", n, len(failed), worst, countsSince(poolCounts(o.open), before))
	if len(failed) > 0 {
		t.Fatalf("requests fail with Weir: %s", failed[0])
	}

	before = poolCounts(o.open)
	o.Kill(syscall.SIGKILL)
	o.Wait()
	n = l.more(t, 300, 3*time.Second)
	failed, worst = l.problems()
	got := countsSince(poolCounts(o.open), before)
	t.Logf("Weir killed, over 3 s: %d requests, %d failed, slowest %v, by endpoint %v of weights %v and the last isolated", n, len(failed), worst, got, openWeights)
	if len(failed) > 0 {
		t.Errorf("%d requests failed, the first with %s", len(failed), failed[0])
	}
	sum := 0
	for _, n := range got {
		sum += n
	}
	if share := float64(got[2]) / float64(sum); share < 0.4 || share > 0.8 || got[0] == 0 || got[1] == 0 {
		t.Errorf("the endpoints of the weights 1, 1 and 3 have got %v", got)
	}
	if got[sick] != 0 {
		t.Errorf("the endpoint that was isolated has got %d", got[sick])
	}
	stats := o.EnvoyStats(`(ext_proc.failure_mode_allowed|route.weir_open.upstream_rq_completed|route.weir_open.upstream_rq_2xx)$`)
	t.Logf("Envoy counts %v", stats)
	if through := stats["vhost.weir.route.weir_open.upstream_rq_completed"]; through < n-16 {
		t.Errorf("Envoy counts %d requests that were let through, of %d of which Weir had decided 16 at most", through, n)
	}

	entries := len(o.Ledger())
	before = poolCounts(o.open)
	o.Restart()
	restarted := l.done.Load()
	n = l.more(t, 200, time.Second)
	failed, worst = l.problems()
	t.Logf("Weir started again: %d requests, %d failed, slowest %v, by endpoint %v", n, len(failed), worst, countsSince(poolCounts(o.open), before))
	if len(failed) > 0 {
		t.Errorf("%d requests failed, the first with %s", len(failed), failed[0])
	}
	through := o.EnvoyStats(`route.weir_open.upstream_rq_completed$`)["vhost.weir.route.weir_open.upstream_rq_completed"]
	l.more(t, 100, 0)
	if now := o.EnvoyStats(`route.weir_open.upstream_rq_completed$`)["vhost.weir.route.weir_open.upstream_rq_completed"]; now != through {
		t.Errorf("%d requests went past Weir after it was ready", now-through)
	}
	l.end()
	total := l.done.Load()
	var all []ledger.Entry
	o.WaitFor("entries in the ledger", func() bool { all = o.Ledger(); return int64(len(all)-entries) >= total-restarted })
	seen := map[string]bool{}
	interrupted := 0
	for _, e := range all {
		if seen[e.ID] {
			t.Errorf("the ledger has %s twice", e.ID)
		}
		seen[e.ID] = true
		if e.Interrupted {
			interrupted++
		}
	}
	t.Logf("the ledger has %d entries of %d requests; %d of them are of requests that Weir died with", len(all), total, interrupted)
	if interrupted > 64 { // 16 at once, and those whose records were on their way
		t.Errorf("%d requests of 16 clients were interrupted", interrupted)
	}
	if a := o.ask(t, "m", harness.DefaultKey); a.status != http.StatusOK || a.header.Get("x-weir-backend") != "default/gpus" || a.header.Get("x-weir-route") != "default/gpus/plain" {
		t.Errorf("status %d, headers %v", a.status, a.header)
	}
	// Steering goes on.
	must(t, o.open.Servers[sick].Set(gpu.Fault{}))
	o.WaitFor("the endpoint to be used again", func() bool {
		return strings.Contains(string(o.Envoy("/clusters")), o.open.Servers[sick].Addr()+"::health_flags::healthy")
	})
}

// testChain: each attempt of such a request asks Weir, and is on its way while Weir dies.
func testChain(t *testing.T, o *orphan) {
	for range 4 {
		l := o.load(t, "chained")
		l.more(t, 100, 0)
		o.Kill(syscall.SIGKILL)
		o.Wait()
		n := l.more(t, 200, 0)
		o.Restart()
		n += l.more(t, 100, 0)
		l.end()
		failed, worst := l.problems()
		t.Logf("killed and started again: %d requests, %d failed, slowest %v", n, len(failed), worst)
		if len(failed) > 0 {
			t.Errorf("%d requests failed, the first with %s", len(failed), failed[0])
		}
	}
}

func testWhoIsLetThrough(t *testing.T, o *orphan) {
	through := func() int64 {
		return o.EnvoyStats(`route.weir_open.upstream_rq_completed$`)["vhost.weir.route.weir_open.upstream_rq_completed"]
	}
	cases := []struct {
		name, model, key string
		headers          []string
		weir, alone      int // status with Weir and without
	}{
		{"a key by its hash", "m", harness.DefaultKey, nil, 200, 200},
		{"a key in a secret", "m", keyOfSecret, nil, 200, 200},
		{"x-api-key", "m", "", []string{"authorization", "", "x-api-key", keyOfSecret}, 200, 200},
		{"api-key", "m", "", []string{"authorization", "", "api-key", keyOfSecret}, 200, 200},
		{"x-goog-api-key", "m", "", []string{"authorization", "", "x-goog-api-key", keyOfSecret}, 200, 200},
		{"ApiKey", "m", "", []string{"authorization", "aPiKeY   " + keyOfSecret}, 200, 200},
		{"the same key twice", "m", keyOfSecret, []string{"x-api-key", keyOfSecret}, 200, 200},
		{"two keys", "m", keyOfSecret, []string{"x-api-key", harness.DefaultKey}, 401, 503},
		{"an unknown key", "m", keyOfNobody, nil, 401, 503},
		{"no key", "m", "", []string{"authorization", ""}, 401, 503},
		{"a forged decision", "m", keyOfNobody, []string{"x-weir-rule", "default/gpus/plain", "x-weir-path", "/chat/completions"}, 401, 503},
		{"an expired key", "m", keyYesterday, nil, 401, 503},
		{"a disabled key", "m", keyNoMore, nil, 401, 503},
		{"a key for a network", "m", keyOneNetwork, nil, 200, 503},
		{"a model of the key", "other", keyOneModel, nil, 200, 200},
		{"another model", "m", keyOneModel, nil, 403, 503},
		{"a model that is renamed", "alias", harness.DefaultKey, nil, 200, 503},
		{"an unknown model", "unknown", harness.DefaultKey, nil, 404, 503},
		{"a rule for other callers", "labelled", harness.DefaultKey, nil, 404, 503},
		{"a rule for such callers", "labelled", keyOfGold, nil, 200, 200},
		{"a scope that is lacking", "scoped", harness.DefaultKey, nil, 403, 503},
		{"a scope", "scoped", keyOfGold, nil, 200, 200},
		{"a rule with a header", "header", harness.DefaultKey, []string{"x-beta", "yes"}, 200, 503},
		{"a rule without the header of another", "header", harness.DefaultKey, nil, 200, 200},
		{"a pool that fails closed", "strict", harness.DefaultKey, nil, 200, 503},
		{"a second pool that fails open", "both", harness.DefaultKey, nil, 200, 200},
		{"a body that is no JSON by its type", "m", harness.DefaultKey, []string{"content-type", "text/plain"}, 415, 503},
	}
	check := func(t *testing.T, want func(i int) int, alone bool) {
		for i, c := range cases {
			before := through()
			a := o.ask(t, c.model, c.key, c.headers...)
			if a.status != want(i) {
				t.Errorf("%s: status %d, want %d: %s", c.name, a.status, want(i), a.body)
				continue
			}
			opened := through() - before
			if (opened > 0) != (alone && a.status == 200) {
				t.Errorf("%s: %d requests were let through", c.name, opened)
			}
			if a.status != 503 {
				continue
			}
			var e struct {
				Error struct{ Type, Message string }
			}
			if err := json.Unmarshal([]byte(a.body), &e); err != nil || e.Error.Type == "" || a.header.Get("retry-after") != "1" {
				t.Errorf("%s: no error of OpenAI that says when to come back: %v %s", c.name, a.header, a.body)
			}
		}
	}
	check(t, func(i int) int { return cases[i].weir }, false)
	o.Kill(syscall.SIGKILL)
	o.Wait()
	defer o.Restart()
	check(t, func(i int) int { return cases[i].alone }, true)
	a := do(t, http.DefaultClient, request(t, o.Gateway, "POST", "/v1/messages", "anthropic", chatBody("m", "Hello", false)))
	if a.status != 503 || !strings.Contains(a.body, `"overloaded_error"`) || a.header.Get("retry-after") == "" {
		t.Errorf("a request that must be translated: status %d: %s", a.status, a.body)
	}
	a = o.ask(t, "m", harness.DefaultKey)
	if a.header.Get("x-weir-backend") != "default/gpus" || a.header.Get("x-weir-route") != "default/gpus/plain" {
		t.Errorf("headers %v", a.header)
	}
}

// begun is a stream whose first bytes have come.
type begun struct {
	resp *http.Response
	r    *bufio.Reader
	head string
}

func (o *orphan) begin(t *testing.T, dialect, model string, tokens int) *begun {
	t.Helper()
	body := question(model, "Tell me everything", tokens, true)
	if dialect == "anthropic" {
		body = strings.Replace(body, `"ignore_eos":true,`, "", 1)
		body = strings.Replace(body, `,"stream_options":{"include_usage":true}`, "", 1)
	}
	resp, err := http.DefaultClient.Do(request(t, o.Gateway, "POST", chatPath(dialect), dialect, body))
	must(t, err)
	t.Cleanup(func() { resp.Body.Close() })
	b := &begun{resp: resp, r: bufio.NewReader(resp.Body)}
	for range 12 {
		line, err := b.r.ReadString('\n')
		if err != nil {
			t.Fatalf("status %d: %v after %s", resp.StatusCode, err, b.head)
		}
		b.head += line
	}
	return b
}

// rest is what still comes.
func (b *begun) rest() (string, error) {
	rest, err := io.ReadAll(b.r)
	return string(rest), err
}

func testAnswersThatNeedWeir(t *testing.T, o *orphan) {
	for _, s := range o.open.Servers {
		must(t, s.Set(gpu.Fault{Speed: 0.5}))
	}
	direct := o.begin(t, "openai", "m", 400)
	translated := o.begin(t, "anthropic", "m", 400)
	whole := make(chan answer, 1)
	arrived := slices.Clone(poolCounts(o.open))
	go func() {
		whole <- do(t, http.DefaultClient, request(t, o.Gateway, "POST", "/v1/messages", "anthropic", chatBody("m", strings.Repeat("A long question. ", 2000), false)))
	}()
	o.WaitFor("the request is at a backend", func() bool { return slices.Max(countsSince(poolCounts(o.open), arrived)) > 0 })
	o.Kill(syscall.SIGKILL)
	o.Wait()
	defer o.Restart()
	for _, s := range o.open.Servers {
		must(t, s.Set(gpu.Fault{}))
	}
	if rest, err := direct.rest(); err != nil || !strings.HasSuffix(rest, "data: [DONE]\n\n") {
		t.Errorf("a stream that Weir does not see ends with %v: %.300s", err, rest)
	}
	rest, err := translated.rest()
	t.Logf("a translated stream ends with %v: %q", err, rest)
	if strings.Contains(rest, "chat.completion") || strings.Contains(rest, "[DONE]") || !strings.HasSuffix(rest, "\n\n") || !strings.Contains(rest, "event: error\n") {
		t.Errorf("a translated stream goes on with %.600s", rest)
	}
	a := <-whole
	t.Logf("a translated answer: %d %s", a.status, a.body)
	if a.status != http.StatusServiceUnavailable || !strings.Contains(a.body, `"overloaded_error"`) || a.header.Get("retry-after") != "1" || !json.Valid([]byte(a.body)) {
		t.Errorf("a translated answer: %d %v %s", a.status, a.header, a.body)
	}
}

func testEndpointDies(t *testing.T, o *orphan) {
	l := o.load(t, "m")
	l.more(t, 50, 0)
	l.problems()
	o.Kill(syscall.SIGKILL)
	o.Wait()
	l.more(t, 50, 0)
	o.open.Servers[0].Kill()
	// What the server was working on is lost; what comes after must not be.
	l.more(t, 100, 1500*time.Millisecond)
	lost, _ := l.problems()
	if len(lost) > 16 {
		t.Errorf("%d requests of 16 clients were lost", len(lost))
	}
	n := l.more(t, 200, time.Second)
	failed, worst := l.problems()
	t.Logf("Weir and an endpoint are gone: %d requests were lost with the endpoint; then %d requests, %d failed, slowest %v", len(lost), n, len(failed), worst)
	if len(failed) > 0 {
		t.Errorf("%d requests failed, the first with %s", len(failed), failed[0])
	}
	must(t, o.open.Servers[0].Revive())
	o.Restart()
	l.more(t, 50, 0)
	if failed, _ := l.problems(); len(failed) > 0 {
		t.Errorf("%d requests failed, the first with %s", len(failed), failed[0])
	}
	l.end()
}

func testHung(t *testing.T, o *orphan) {
	before := len(o.Ledger())
	o.Kill(syscall.SIGSTOP)
	start := time.Now()
	a := o.ask(t, "m", harness.DefaultKey)
	t.Logf("Weir hangs: status %d after %v", a.status, time.Since(start).Round(time.Millisecond))
	if a.status != http.StatusOK {
		t.Errorf("status %d: %s", a.status, a.body)
	}
	if a := o.ask(t, "m", keyOfNobody); a.status != http.StatusServiceUnavailable {
		t.Errorf("an unknown key: status %d: %s", a.status, a.body)
	}
	o.Kill(syscall.SIGCONT)
	o.WaitFor("requests are decided again", func() bool {
		a := o.ask(t, "m", harness.DefaultKey)
		return a.status == http.StatusOK && len(o.Ledger()) > before
	})
	harness.WaitFor(t, "every request is settled", func() bool { return openRequests(t, o.Gateway) == 0 })
	for _, e := range o.Ledger() {
		if e.Interrupted && e.Time.After(start) {
			t.Errorf("a request that Weir did not decide is in the ledger: %+v", e)
		}
	}
}

// TestFailClosed: nobody gets past a Weir that is not there, unless a LoadPolicy says so.
func TestFailClosed(t *testing.T) {
	t.Parallel()
	servers := harness.NewGPUs(t, 2, gpu.Options{Profile: engine.Profiles()[0].Scaled(20)})
	g := harness.Start(t, harness.Options{Beside: true, Documents: []string{
		harness.Document("Backend", "gpus", "dialect: openai\nbasePath: /v1\nmodels: [{name: m}]\n"+harness.Endpoints(servers)),
		harness.Document("LoadPolicy", "gpus", "targetRefs: [{kind: Backend, name: gpus}]"),
		harness.Route("all", "rules: [{backends: [{name: gpus}]}]"),
	}})
	ask := func() answer {
		return do(t, http.DefaultClient, request(t, g, "POST", "/v1/chat/completions", "openai", question("m", "Hello", 1, false)))
	}
	if a := ask(); a.status != http.StatusOK {
		t.Fatalf("status %d: %s", a.status, a.body)
	}
	if dump := string(g.Envoy("/config_dump")); strings.Contains(dump, "weir.open") || strings.Contains(dump, strings.TrimPrefix(identity.HashKey(harness.DefaultKey), "sha256:")) {
		t.Error("Envoy has what it does not need")
	}
	g.Kill(syscall.SIGKILL)
	g.Wait()
	a := ask()
	if a.status != http.StatusServiceUnavailable || a.header.Get("retry-after") != "1" || !json.Valid([]byte(a.body)) {
		t.Errorf("status %d, headers %v: %s", a.status, a.header, a.body)
	}
	g.Restart()
	if a := ask(); a.status != http.StatusOK {
		t.Errorf("status %d: %s", a.status, a.body)
	}
}
