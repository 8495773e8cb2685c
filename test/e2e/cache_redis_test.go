package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/weir-dev/weir/test/e2e/harness"
	"github.com/weir-dev/weir/test/redistest"
)

// press is a provider that never gives the same answer twice: each says for whom it was printed, the x-mark of the request, what was
// asked, and which print it is.
type press struct {
	*httptest.Server

	mu     sync.Mutex
	prints map[string]int // by mark and question
	held   chan struct{}  // what answers wait for; nil: nothing
}

// between stands between the parts of what the press prints.
const between = " | "

func newPress(t *testing.T) *press {
	t.Helper()
	p := &press{prints: map[string]int{}}
	p.Server = httptest.NewServer(p)
	t.Cleanup(p.Close)
	return p
}

func (p *press) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var asked struct {
		Model    string
		Messages []struct{ Content string }
	}
	if err := json.NewDecoder(r.Body).Decode(&asked); err != nil || len(asked.Messages) == 0 {
		http.Error(w, "no question", http.StatusBadRequest)
		return
	}
	what := r.Header.Get("x-mark") + between + asked.Messages[0].Content
	p.mu.Lock()
	p.prints[what]++
	text, held := fmt.Sprint(what, between, p.prints[what]), p.held
	p.mu.Unlock()
	if held != nil {
		select {
		case <-held:
		case <-r.Context().Done():
			return
		}
	}
	w.Header().Set("content-type", plainJSON)
	_ = json.NewEncoder(w).Encode(map[string]any{ // the gateway may have gone
		"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": asked.Model,
		"choices": []any{map[string]any{"index": 0, "finish_reason": "stop", "message": map[string]any{"role": "assistant", "content": text}}},
		"usage":   map[string]any{"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10},
	})
}

// printed is how often an answer was bought for a tenant.
func (p *press) printed(mark, question string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.prints[mark+between+question]
}

// hold keeps answers back until the function that it gives is called.
func (p *press) hold() (release func()) {
	gate := make(chan struct{})
	p.mu.Lock()
	p.held = gate
	p.mu.Unlock()
	return func() {
		p.mu.Lock()
		p.held = nil
		p.mu.Unlock()
		close(gate)
	}
}

// twins are two gateways that keep answers in one Redis. Models are named by how they are cached.
type twins struct {
	both   [2]*harness.Gateway
	press  *press
	server *redistest.Server
	line   *redisLine // between the gateways and the server
	client *redis.Client
	http   *http.Client
	asked  atomic.Int64
}

// twinTenants are who asks; each has a key.
var twinTenants = []string{"app", "blue", "green"}

func twinKey(tenant string) string {
	if tenant == "app" {
		return harness.DefaultKey
	}
	return "twin-key-of-" + tenant + "-0123456789"
}

// cachedModels are the models and how each is cached.
var cachedModels = map[string]string{
	"both":   "redis: {}",
	"alone":  "memory: \"0\"\nredis: {bloom: {keys: 5000}}",
	"behind": "redis: {write: Behind, bloom: {enabled: false}}",
	"aside":  "redis: {write: Aside, bloom: {enabled: false}}",
}

func startTwins(t *testing.T) *twins {
	t.Helper()
	w := &twins{press: newPress(t), server: redistest.Start(t, "--maxmemory-policy", "noeviction")}
	w.line, w.client = newRedisLine(t, w.server.Addr), w.server.Client()
	w.http = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 100}, Timeout: harness.Patience}
	t.Cleanup(w.http.CloseIdleConnections)
	docs := []string{harness.Route("all", "rules: [{backends: [{name: press}]}]")}
	for _, tenant := range twinTenants[1:] {
		docs = append(docs, harness.Consumer(tenant, twinKey(tenant), "tenant: "+tenant))
	}
	for model, how := range cachedModels {
		docs = append(docs, harness.Document("CachePolicy", model, "targetRefs: [{kind: Route, name: all}]\nmodels: ["+model+"]\n"+how))
	}
	for i := range w.both {
		w.both[i] = harness.Start(t, harness.Options{
			Listener:  w.listener(time.Second),
			Backends:  []harness.Backend{{Name: "press", Dialect: "openai", URL: w.press.URL + "/v1", AnyModel: true}},
			Documents: docs,
		})
		if problems := w.both[i].Status().Problems; len(problems) > 0 {
			t.Fatalf("problems: %q", problems)
		}
	}
	w.together(t)
	return w
}

func (w *twins) listener(timeout time.Duration) string {
	return fmt.Sprintf("sharedState: {redis: {addresses: [%q], timeout: %s}}", w.line.addr, timeout)
}

// cacheState is /api/cache.
func cacheState(t *testing.T, g *harness.Gateway) (s struct {
	Redis                   string
	Replicas, Buying, Queue int
}) {
	t.Helper()
	adminJSON(t, g, "/api/cache", &s)
	return s
}

// together waits until both use Redis and know of each other.
func (w *twins) together(t *testing.T) {
	t.Helper()
	for i, g := range w.both {
		harness.WaitFor(t, fmt.Sprintf("replica %d shares what it keeps", i), func() bool {
			s := cacheState(t, g)
			return s.Redis == "up" && s.Replicas == 2
		})
	}
}

// try asks a question, and checks that the answer is one to it, and printed for who asks.
func (w *twins) try(ctx context.Context, replica int, tenant, model, question string, headers ...string) (outcome, text string, _ error) {
	body := fmt.Sprintf(`{"model":%q,"temperature":0,"messages":[{"role":"user","content":%q}]}`, model, question)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.both[replica].URL+"/v1/chat/completions", strings.NewReader(body))
	if err != nil {
		return "", "", err
	}
	req.Header.Set("authorization", "Bearer "+twinKey(tenant))
	req.Header.Set("content-type", plainJSON)
	req.Header.Set("x-mark", tenant)
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	w.asked.Add(1)
	resp, err := w.http.Do(req)
	if err != nil {
		return "", "", err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", "", err
	}
	if resp.StatusCode == http.StatusGatewayTimeout && strings.Contains(string(raw), "only-if-cached") {
		return "none", "", nil
	}
	var answer struct {
		Choices []struct{ Message struct{ Content string } }
	}
	if err := json.Unmarshal(raw, &answer); err != nil || resp.StatusCode != http.StatusOK || len(answer.Choices) != 1 {
		return "", "", fmt.Errorf("status %d, %w: %s", resp.StatusCode, err, raw)
	}
	text = answer.Choices[0].Message.Content
	if !strings.HasPrefix(text, tenant+between+question+between) {
		return "", "", fmt.Errorf("tenant %s asked %q and got %q", tenant, question, text)
	}
	return resp.Header.Get("x-weir-cache"), text, nil
}

// ask is try for what must succeed.
func (w *twins) ask(t *testing.T, replica int, tenant, model, question string, headers ...string) (outcome, text string) {
	t.Helper()
	outcome, text, err := w.try(t.Context(), replica, tenant, model, question, headers...)
	if err != nil {
		t.Fatalf("replica %d: %v", replica, err)
	}
	return outcome, text
}

// has asks whether a replica has an answer, and buys none.
func (w *twins) has(t *testing.T, replica int, model, question string) bool {
	t.Helper()
	outcome, _ := w.ask(t, replica, "app", model, question, "x-weir-cache-control", "only-if-cached")
	return outcome == "hit"
}

// want fails the test unless the outcome is what it should be.
func (w *twins) want(t *testing.T, outcome string, replica int, tenant, model, question string, headers ...string) string {
	t.Helper()
	got, text := w.ask(t, replica, tenant, model, question, headers...)
	if got != outcome {
		t.Fatalf("replica %d, %s, %s, %q: %s, want %s", replica, tenant, model, question, got, outcome)
	}
	return text
}

// TestCacheRedis: two gateways and a Redis, whatever happens to it.
func TestCacheRedis(t *testing.T) {
	w := startTwins(t)
	t.Run("together", func(t *testing.T) { testCacheTogether(t, w) })
	t.Run("stampede", func(t *testing.T) { testCacheStampedeTogether(t, w) })
	t.Run("purge", func(t *testing.T) { testCachePurgeTogether(t, w) })
	t.Run("filter", func(t *testing.T) { testCacheFilter(t, w) })
	t.Run("write modes", func(t *testing.T) { testCacheWriteModes(t, w) })
	for _, g := range w.both { // it connects anew
		g.Change(func() { g.WriteFile("gateway.yaml", harness.Listener(w.listener(shortRedisTimeout))) })
	}
	w.together(t)
	for _, c := range []struct {
		name       string
		begin, end func()
	}{
		{"killed", w.server.Kill, w.server.Restart},
		{"stopped", w.server.Pause, w.server.Resume},
		{"full", func() { w.set(t, "1") }, func() { w.set(t, "0") }},
		{"emptied", func() { w.client.FlushAll(t.Context()) }, func() {}},
		{"slow", func() { w.line.slow(500 * time.Millisecond) }, func() { w.line.slow(0) }},
		{"cut off", func() { w.cutOff(t) }, func() {}},
	} {
		t.Run(c.name, func(t *testing.T) { testCacheTrouble(t, w, c.name, c.begin, c.end) })
	}
}

// set bounds the memory of Redis, in bytes; 0 is no bound.
func (w *twins) set(t *testing.T, bytes string) {
	t.Helper()
	if err := w.client.ConfigSet(t.Context(), "maxmemory", bytes).Err(); err != nil {
		t.Fatal(err)
	}
}

// cutOff ends the connections of all clients, again and again, while they are in use.
func (w *twins) cutOff(t *testing.T) {
	t.Helper()
	for range 20 {
		for _, kind := range []string{"normal", "pubsub"} {
			if err := w.client.ClientKillByFilter(t.Context(), "TYPE", kind, "SKIPME", "yes").Err(); err != nil {
				t.Error(err)
			}
		}
		from := w.asked.Load()
		harness.WaitFor(t, "requests go on", func() bool { return w.asked.Load() >= from+6 || t.Failed() })
	}
}

// testCacheTogether: what one replica has bought the other gives at once, and to nobody else.
func testCacheTogether(t *testing.T, w *twins) {
	for _, model := range []string{"both", "alone"} {
		for i := range 10 {
			question := fmt.Sprint("together ", i)
			for _, tenant := range twinTenants {
				bought := w.want(t, "miss", i%2, tenant, model, question)
				if again := w.want(t, "hit", 1-i%2, tenant, model, question); again != bought {
					t.Errorf("%s: %q, and from the other replica %q", model, bought, again)
				}
			}
		}
	}
}

// testCacheStampedeTogether: equal requests at both replicas make one call to the provider.
func testCacheStampedeTogether(t *testing.T, w *twins) {
	for _, model := range []string{"both", "behind"} {
		question := "everybody asks " + model
		release := w.press.hold()
		const many = 40
		texts, outcomes, errs := make([]string, many), make([]string, many), make([]error, many)
		var wg sync.WaitGroup
		for i := range many {
			wg.Go(func() { outcomes[i], texts[i], errs[i] = w.try(t.Context(), i%2, "app", model, question) })
		}
		harness.WaitFor(t, "both replicas want the answer, and one is buying it", func() bool {
			return cacheState(t, w.both[0]).Buying == 1 && cacheState(t, w.both[1]).Buying == 1 && w.press.printed("app", question) == 1
		})
		release()
		wg.Wait()
		count := map[string]int{}
		for i := range many {
			if errs[i] != nil || texts[i] != texts[0] {
				t.Fatalf("%s, answer %d: %q, %v, want %q", model, i, texts[i], errs[i], texts[0])
			}
			count[outcomes[i]]++
		}
		if n := w.press.printed("app", question); n != 1 || count["miss"] != 1 {
			t.Errorf("%s: %d calls, outcomes %v", model, n, count)
		}
	}
}

// testCachePurgeTogether: a purge by tag at one replica is one at the other, and concerns nothing else.
func testCachePurgeTogether(t *testing.T, w *twins) {
	for i := range 10 {
		tag := []string{"red", "blue"}[i%2]
		question := fmt.Sprint("tagged ", i)
		w.want(t, "miss", 0, "app", "both", question, "x-weir-cache-tags", tag)
		w.want(t, "hit", 1, "app", "both", question)
	}
	if n := purge(t, w.both[0], `{"tag":"red"}`); n != 5 {
		t.Errorf("%d answers were purged, want 5", n)
	}
	for i := range 10 {
		question := fmt.Sprint("tagged ", i)
		if i%2 == 0 {
			harness.WaitFor(t, question+" is purged", func() bool { return !w.has(t, 0, "both", question) && !w.has(t, 1, "both", question) })
			continue
		}
		for replica := range 2 {
			w.want(t, "hit", replica, "app", "both", question)
		}
	}
	w.want(t, "miss", 1, "app", "both", "tagged 0")
	w.want(t, "hit", 0, "app", "both", "tagged 0")
}

// testCacheWriteModes: behind, an answer comes to Redis soon, and with a drain; aside, when it is asked for again.
func testCacheWriteModes(t *testing.T, w *twins) {
	w.want(t, "miss", 0, "app", "behind", "soon")
	harness.WaitFor(t, "the other replica has it", func() bool { return w.has(t, 1, "behind", "soon") })

	w.want(t, "miss", 0, "app", "aside", "once")
	w.want(t, "miss", 0, "app", "aside", "twice")
	w.want(t, "hit", 0, "app", "aside", "twice")
	harness.WaitFor(t, "the other replica has it", func() bool { return w.has(t, 1, "aside", "twice") })
	if w.has(t, 1, "aside", "once") {
		t.Error("what was asked for once is in Redis")
	}

	for i := range 20 {
		w.want(t, "miss", 0, "app", "behind", fmt.Sprint("before the end ", i))
	}
	w.restart(t, 0, syscall.SIGTERM)
	for i := range 20 {
		w.want(t, "hit", 0, "app", "behind", fmt.Sprint("before the end ", i)) // its memory is new
	}
}

// restart ends a replica and starts it again.
func (w *twins) restart(t *testing.T, replica int, by syscall.Signal) {
	t.Helper()
	w.both[replica].Kill(by)
	w.both[replica].Wait()
	w.both[replica].Restart()
	w.together(t)
}

// filterReady tells whether a replica has the filter of the policy "alone".
func filterReady(t *testing.T, g *harness.Gateway) bool {
	t.Helper()
	var state struct {
		Policies []struct {
			ID    string
			Bloom struct{ Ready bool }
		}
	}
	adminJSON(t, g, "/api/cache", &state)
	for _, p := range state.Policies {
		if p.ID == "default/alone" {
			return p.Bloom.Ready
		}
	}
	return false
}

// testCacheFilter: the bloom filter spares Redis questions, and never denies what is there, also after a replica was killed.
func testCacheFilter(t *testing.T, w *twins) {
	const many = 40
	for i := range many {
		w.want(t, "miss", i%2, "app", "alone", fmt.Sprint("filtered ", i))
	}
	check := func(when string) {
		t.Helper()
		for i := range many {
			for replica := range 2 {
				if !w.has(t, replica, "alone", fmt.Sprint("filtered ", i)) {
					t.Errorf("%s: replica %d does not find answer %d", when, replica, i)
				}
			}
		}
	}
	check("at once")
	n := 0
	used := func() {
		t.Helper()
		for replica, g := range w.both {
			harness.WaitFor(t, "the filter is there", func() bool { return filterReady(t, g) })
			for range 20 {
				n++
				if w.has(t, replica, "alone", fmt.Sprint("never asked before ", n)) {
					t.Fatal("an answer to what was never asked")
				}
			}
			// How many depends on how late the machine lets it hear of the other replica.
			t.Logf("replica %d: the filter spared Redis %v questions so far", replica, g.Metric("weir_cache_bloom_answers_total", "policy", "default/alone", "answer", "no"))
		}
	}
	used()
	check("with the filter in use")
	w.restart(t, 1, syscall.SIGKILL)
	check("just after a restart")
	used()
	check("after a restart")
}

// testCacheTrouble: while tenants ask equal questions at both replicas something happens to Redis. Every answer is right, nobody waits for
// Redis again and again, and afterwards the replicas share answers as before.
func testCacheTrouble(t *testing.T, w *twins, name string, begin, end func()) {
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var failure atomic.Pointer[error]
	var slowest atomic.Int64 // nanoseconds
	var wg sync.WaitGroup
	for replica := range 2 {
		for k, tenant := range twinTenants {
			wg.Go(func() {
				for i := k; ctx.Err() == nil; i++ {
					// Some are asked again, of memory and Redis or Redis alone; some are new.
					question := fmt.Sprint(name, " ", i%15)
					if i%5 == 0 {
						question = fmt.Sprint(name, " new ", i)
					}
					began := time.Now()
					_, _, err := w.try(ctx, replica, tenant, []string{"both", "alone"}[i%2], question)
					if err != nil && ctx.Err() == nil {
						err = fmt.Errorf("replica %d: %w", replica, err)
						failure.CompareAndSwap(nil, &err)
						return
					}
					if took := int64(time.Since(began)); took > slowest.Load() {
						slowest.Store(took)
					}
				}
			})
		}
	}
	more := func(n int64) { // so many requests
		from := w.asked.Load()
		harness.WaitFor(t, "requests go on", func() bool { return w.asked.Load() >= from+n || failure.Load() != nil })
	}
	more(40)
	late := [2]float64{}
	for i := range late {
		late[i] = w.late(i)
	}
	began := time.Now()
	begin()
	more(80)
	if name != "emptied" && name != "cut off" { // so long that Redis is asked again in vain
		harness.WaitFor(t, "it lasts", func() bool { return time.Since(began) > 1200*time.Millisecond })
	}
	for i := range late {
		// Those wait who are on their way; each may have two questions to Redis.
		if n := w.late(i) - late[i]; name != "full" && name != "cut off" && n > float64(2*len(twinTenants)) {
			t.Errorf("replica %d waited for Redis %v times", i, n)
		}
	}
	end()
	w.together(t)
	more(40)
	stop()
	wg.Wait()
	if err := failure.Load(); err != nil {
		t.Fatal(*err)
	}
	t.Logf("the slowest answer took %v; a command may take %v", time.Duration(slowest.Load()).Round(time.Millisecond), shortRedisTimeout)
	if d := time.Duration(slowest.Load()); d > patienceWithRedis {
		t.Errorf("an answer took %v", d)
	}
	n := 0
	for _, model := range []string{"both", "alone"} {
		for from := range 2 {
			harness.WaitFor(t, "the replicas share answers again", func() bool {
				n++
				question := fmt.Sprint(name, " is over ", n)
				if outcome, _ := w.ask(t, from, "blue", model, question); outcome != "miss" {
					t.Fatalf("%s of what nobody has asked", outcome)
				}
				outcome, _ := w.ask(t, 1-from, "blue", model, question)
				return outcome == "hit"
			})
		}
	}
	// What Redis did not take meanwhile it has now.
	for i := range w.both {
		harness.WaitFor(t, "nothing waits to be written", func() bool { return cacheState(t, w.both[i]).Queue == 0 })
		for model := range cachedModels {
			if lost := w.both[i].Metric("weir_cache_dropped_total", "policy", "default/"+model, "reason", "redis"); lost != 0 {
				t.Errorf("replica %d, %s: %v answers were not written", i, model, lost)
			}
		}
	}
}

// late is how many commands of requests a replica has waited for in vain.
func (w *twins) late(replica int) (n float64) {
	for _, op := range []string{"get", "set", "announce", "lock"} {
		n += w.both[replica].Metric("weir_cache_errors_total", "operation", op)
	}
	return n
}
