package e2e

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/weir-dev/weir/test/e2e/harness"
	"github.com/weir-dev/weir/test/redistest"
)

const (
	redisPassword = "password-of-redis-0123456789"
	keyPepper     = "pepper-of-all-keys-0123456789-abcdef"
	// redisTimeout is how long one command may take: as long as the API allows, on a machine that has too much to do.
	redisTimeout = 2 * time.Second
	// shortRedisTimeout is for when Redis does not answer. A request that has to ask waits for two of them at most.
	shortRedisTimeout = 200 * time.Millisecond
	// patienceWithRedis is far above that: what takes longer hangs.
	patienceWithRedis = 5 * time.Second
)

// replicas are gateways that share a Redis and serve the same objects.
type replicas struct {
	all      []*limited
	server   *redistest.Server
	client   *redis.Client
	provider *supplier
	issuer   *issuer
	secrets  []string // that must not be seen anywhere
	monitor  *monitor
}

// failureModes are the policies of testFailure: named by what happens to Redis, the mode of sharing and what the policy does then.
func failureModes(visit func(name, loss, mode, onFailure string)) {
	for _, loss := range []string{"stopped", "killed"} {
		for _, mode := range []string{"Lease", "Exact"} {
			for _, f := range []string{"LocalShare", "Allow", "Deny"} {
				visit(strings.ToLower(loss+"-"+mode+"-"+f), loss, mode, f)
			}
		}
	}
}

func startReplicas(t *testing.T, n int) *replicas {
	t.Helper()
	r := &replicas{provider: newSupplier(t), server: redistest.Start(t, "--requirepass", redisPassword)}
	r.client = redis.NewClient(&redis.Options{Addr: r.server.Addr, Password: redisPassword, ContextTimeoutEnabled: true})
	t.Cleanup(func() { _ = r.client.Close() })
	r.secrets = []string{redisPassword, keyPepper, keyA1, keyA2, keyB, keyC, harness.BackendKey("oa"), harness.BackendKey("an")}
	r.monitor = watchRedis(t, r.server.Addr)
	r.issuer = newIssuer(t, 3)
	docs := append(fourKeys(), limitedRoutes()...)
	docs = append(docs, harness.Document("JWTIssuer", "turning", "issuer: https://turning.example\naudiences: [weir]\nkeys: {url: \""+r.issuer.URL+"/jwks\"}"))
	for _, mode := range []string{"Lease", "Exact"} {
		sharing := "\nsharing: {mode: " + mode + "}"
		name := strings.ToLower(mode)
		docs = append(docs,
			limitPolicy(name+"-requests", gatewayTarget, "models: ["+name+"-requests]\nlimits: [{name: most, unit: Requests, limit: 500, window: 1h}]"+sharing),
			limitPolicy(name+"-tokens", gatewayTarget, "models: ["+name+"-tokens]\nlimits: [{name: most, unit: OutputTokens, limit: 5k, window: 1h}]"+sharing),
			budget(name+"-money", "amount: \"0.015\"\nperiod: Month"+sharing),
			budget(name+"-pot", "amount: \"0.0006\"\nperiod: Month\nsharing: {mode: "+mode+", onFailure: Deny}"),
			limitPolicy(name+"-par", gatewayTarget, "models: ["+name+"-par]\nlimits: [{name: most, unit: ConcurrentRequests, limit: 5, maxWait: 20s}]"+sharing))
	}
	failureModes(func(name, _, mode, onFailure string) {
		docs = append(docs, limitPolicy(name, gatewayTarget, "models: ["+name+"]\nlimits: [{name: most, unit: Requests, limit: 30, window: 1h}]\nsharing: {mode: "+mode+", onFailure: "+onFailure+"}"))
	})
	docs = append(docs, limitPolicy("quiet", gatewayTarget, "models: [quiet]\nlimits: [{name: most, unit: Requests, limit: 100k, window: 1h}, {name: tok, unit: TotalTokens, limit: 100M, window: 1h}]\nsharing: {mode: Lease}"))
	for range n {
		g := harness.Start(t, harness.Options{
			Listener: r.listener(redisTimeout),
			Backends: r.provider.backends(t), Documents: docs,
			Files: map[string]string{"redis.password.txt": redisPassword, "pepper.txt": keyPepper},
		})
		if problems := g.Status().Problems; len(problems) > 0 {
			t.Fatalf("problems: %q", problems)
		}
		r.all = append(r.all, &limited{Gateway: g, provider: r.provider})
	}
	r.together(t)
	return r
}

// listener is what the LLMGateway says beside its listener.
func (r *replicas) listener(timeout time.Duration) string {
	return fmt.Sprintf("sharedState: {redis: {addresses: [%q], passwordRef: {file: redis.password.txt}, timeout: %s}}\n"+
		"authentication: {keyPepperRef: {file: pepper.txt}, keyStore: Redis, maxFailedLogins: 0}\naccounting: {ledger: Redis}", r.server.Addr, timeout)
}

// together waits until every replica sees all of them.
func (r *replicas) together(t *testing.T) {
	t.Helper()
	for i, l := range r.all {
		harness.WaitFor(t, fmt.Sprintf("replica %d sees all", i), func() bool {
			s := storeNow(t, l.Gateway)
			return s.Up && s.Replicas == len(r.all)
		})
	}
}

// storeState is the shared state as /api/limits shows it.
type storeState struct {
	Configured, Up bool
	Replicas       int
}

func storeNow(t *testing.T, g *harness.Gateway) storeState {
	t.Helper()
	var body struct{ SharedState storeState }
	adminJSON(t, g, "/api/limits", &body)
	return body.SharedState
}

// crowd sends n requests at once, to the replicas in turn.
func (r *replicas) crowd(t *testing.T, n int, body string, headers ...string) map[int]int {
	t.Helper()
	i := 0
	got := crowd(t, n, func() (string, string) { i++; return r.all[i%len(r.all)].URL, keyA1 }, body, headers...)
	for _, l := range r.all {
		quiet(t, l.Gateway)
	}
	return got
}

// bound is what the replicas together may admit beyond a limit.
func (r *replicas) bound(t *testing.T, name string) (most int64) {
	t.Helper()
	for _, l := range r.all {
		for _, s := range limitsNow(t, l.Gateway, name) {
			most = max(most, s.Bound)
		}
	}
	return most
}

// TestReplicas: three gateways count together, whatever happens to their Redis.
func TestReplicas(t *testing.T) {
	r := startReplicas(t, 3)
	t.Run("together", func(t *testing.T) { testTogether(t, r) })
	t.Run("concurrent", func(t *testing.T) { testConcurrentTogether(t, r) })
	t.Run("lease asks nobody", func(t *testing.T) { testLeaseAsksNobody(t, r) })
	t.Run("keys", func(t *testing.T) { testStoredKeys(t, r) })
	t.Run("budget", func(t *testing.T) { testSharedBudget(t, r) })
	t.Run("lost", func(t *testing.T) {
		for _, l := range r.all { // it connects anew
			l.Change(func() { l.WriteFile("gateway.yaml", harness.Listener(r.listener(shortRedisTimeout))) })
		}
		r.together(t)
		for _, loss := range []string{"stopped", "killed"} {
			t.Run(loss, func(t *testing.T) { testFailure(t, r, loss) })
		}
	})
	t.Run("budget after everything", func(t *testing.T) { testBudgetAfterLoss(t, r) })
	t.Run("secrets", func(t *testing.T) { testSharedSecrets(t, r) })
}

// testTogether: requests, tokens and money, exactly or within the bound that is stated.
func testTogether(t *testing.T, r *replicas) {
	for _, c := range []struct {
		name      string
		n         int // requests
		each, all int // units
		headers   []string
	}{
		{"requests", 2000, 1, 500, nil},
		{"tokens", 700, 50, 5000, nil}, // the supplier writes what max_tokens says
		// It reads less than Weir estimates, so that no request costs more than it has reserved.
		{"money", 700, 65, 15000, []string{"x-in", "15"}},
	} {
		for _, mode := range []string{"exact", "lease"} {
			t.Run(mode+" "+c.name, func(t *testing.T) {
				model := mode + "-" + c.name
				got := r.crowd(t, c.n, limitedBody(model, `"max_tokens":50`), c.headers...)
				passed, refused := got[200], got[429]
				if passed+refused != c.n {
					t.Fatalf("statuses %v of %d requests", got, c.n)
				}
				name := "default/" + model
				unit := int64(c.each)
				if c.name == "money" {
					unit = int64(c.each) * 1000 // a token costs a thousand nano-units
				} else {
					name += "/most"
				}
				bound := r.bound(t, name)
				// A budget's leases end with its period, and none was taken before.
				if mode == "exact" && bound != 0 || mode == "lease" && c.name != "money" && (bound < 1 || bound > int64(c.all)*unit/int64(c.each)/4) {
					t.Errorf("the bound that is stated is %d", bound)
				}
				slack := int((bound + unit - 1) / unit)
				limit := c.all / c.each
				least := limit - limit/8 // as much may lie in a lease of a replica that nobody asks any more
				switch {
				case c.name == "money": // what was reserved too much comes free when everybody has been refused already
					least = limit / 2
				case mode == "exact":
					least = limit
				}
				t.Logf("%d passed of a limit for %d; at most %d more are stated", passed, limit, slack)
				if passed > limit+slack || passed < least {
					t.Errorf("%d passed, want %d to %d", passed, least, limit+slack)
				}
			})
		}
	}
}

// testConcurrentTogether: at no moment more run on all replicas together than the limit says, and nothing is lost.
func testConcurrentTogether(t *testing.T, r *replicas) {
	for _, model := range []string{"lease-par", "exact-par"} {
		t.Run(model, func(t *testing.T) {
			most := 0
			var all []<-chan int
			for i := range 15 {
				l := r.all[i%3]
				all = append(all, begin(l.question(t, keyA1, "one", "openai", limitedBody(model), "x-hold", fmt.Sprint(model, "-", i))))
			}
			// Each that arrives is let go: never may more than five be there.
			for gone := range 15 {
				var held []string
				harness.WaitFor(t, "the next arrives", func() bool {
					held = r.provider.held(model + "-")
					return len(held) > gone
				})
				most = max(most, len(held)-gone)
				r.provider.release(held[gone])
			}
			for _, c := range all {
				must200(t, "one of fifteen", <-c, "")
			}
			if most > 5+1 { // one that was let go may not have ended when the next comes
				t.Errorf("%d at once, and the limit is 5", most)
			}
			for _, l := range r.all {
				quiet(t, l.Gateway)
			}
		})
	}
}

// testLeaseAsksNobody: with leases the work of Redis does not grow with the requests.
func testLeaseAsksNobody(t *testing.T, r *replicas) {
	r.crowd(t, 300, limitedBody("quiet", `"max_tokens":50`)) // so that there are leases
	before := r.monitor.calls()
	const n = 1500
	got := r.crowd(t, n, limitedBody("quiet", `"max_tokens":50`))
	asked := r.monitor.calls() - before
	if got[200] != n {
		t.Errorf("statuses %v", got)
	}
	// Exact limits would take two of each request, and most would tell how it ended. What is asked here goes with the time.
	t.Logf("%d commands for %d requests under two limits", asked, n)
	if asked > n/4 {
		t.Errorf("Redis had %d commands for %d requests", asked, n)
	}
}

// try sends a request that must not hang, and returns its status.
func (r *replicas) try(t *testing.T, replica int, dialect, model string) answer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patienceWithRedis)
	defer cancel()
	req := r.all[replica].question(t, keyA1, "one", dialect, limitedBody(model, `"max_tokens":50`)).WithContext(ctx)
	return do(t, http.DefaultClient, req)
}

// testFailure: what each policy does while Redis does not answer, and that everything is as before afterwards.
func testFailure(t *testing.T, r *replicas, loss string) {
	var models []string
	mode, policy := map[string]string{}, map[string]string{}
	failureModes(func(name, l, m, f string) {
		if l == loss {
			models = append(models, name)
			mode[name], policy[name] = m, f
		}
	})
	for _, m := range models {
		a := r.try(t, 0, "openai", m)
		must200(t, m, a.status, a.body)
	}
	quiet(t, r.all[0].Gateway)
	lose, restore := r.server.Pause, r.server.Resume
	if loss == "killed" {
		lose, restore = r.server.Kill, r.server.Restart
	}
	lose()
	passed := map[string]int{}
	for _, m := range models {
		t.Run(m, func(t *testing.T) {
			for replica := range 2 { // the second has never seen the counter
				statuses := map[int]int{}
				for i := range 36 {
					a := r.try(t, replica, []string{"openai", "anthropic"}[i%2], m)
					statuses[a.status]++
					switch a.status {
					case http.StatusTooManyRequests:
						checkRefused(t, []string{"openai", "anthropic"}[i%2], a, "default/"+m+"/most")
					case http.StatusServiceUnavailable:
						msg := checkError(t, []string{"openai", "anthropic"}[i%2], a, http.StatusServiceUnavailable)
						if !strings.Contains(msg, "default/"+m+"/most") || a.header.Get("retry-after") == "" {
							t.Errorf("retry-after %q: %s", a.header.Get("retry-after"), msg)
						}
					}
				}
				passed[m] += statuses[200]
				// A lease that the replica holds may still be used.
				leased := 0
				if mode[m] == "Lease" && replica == 0 {
					leased = 30 / 8
				}
				switch got := statuses[200]; policy[m] {
				case "Allow":
					if got != 36 {
						t.Errorf("replica %d: %v, want all to pass", replica, statuses)
					}
				case "Deny":
					if got > leased || statuses[503] != 36-got {
						t.Errorf("replica %d: %v, want 503", replica, statuses)
					}
				case "LocalShare":
					if got > 10 || got < 5 || statuses[429] != 36-got {
						t.Errorf("replica %d: %v, want a third of 30 to pass", replica, statuses)
					}
				}
			}
		})
	}
	for i := range 2 {
		if s := storeNow(t, r.all[i].Gateway); s.Up || r.all[i].Metric("weir_shared_state_up") != 0 {
			t.Errorf("replica %d: the shared state is %+v", i, s)
		}
	}
	restore()
	r.together(t)
	for _, m := range models {
		// In a Redis that has kept its data nothing is forgotten that was admitted without asking.
		if loss == "stopped" && policy[m] == "Allow" {
			harness.WaitFor(t, m+" is over its limit on all replicas", func() bool {
				return r.try(t, 2, "openai", m).status == 429 && r.try(t, 1, "openai", m).status == 429
			})
			continue
		}
		if policy[m] == "Deny" {
			harness.WaitFor(t, m+" is served again", func() bool { return r.try(t, 1, "openai", m).status == 200 })
		}
		// Together they admit a limit again, not more.
		more := 0
		for i := range 150 {
			if r.try(t, i%3, "openai", m).status == 200 {
				more++
			}
		}
		most := 30 + 2*int(r.bound(t, "default/"+m+"/most")) + 3
		if loss == "stopped" {
			most -= passed[m]
		}
		if more > most {
			t.Errorf("%s: %d passed afterwards, want at most %d", m, more, most)
		}
	}
}

// pots are budgets for six requests.
var pots = []string{"exact-pot", "lease-pot"}

// testSharedBudget: replicas spend one budget together, also over a restart of one and a Redis that forgets.
func testSharedBudget(t *testing.T, r *replicas) {
	for _, model := range pots {
		for _, i := range []int{0, 0, 1, 2} {
			a := r.all[i].spend(t, keyA1, model, "openai")
			must200(t, model, a.status, a.body)
		}
	}
	if err := r.client.FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	for _, model := range pots {
		r.exhaust(t, model, 2)
	}
	r.all[1].Kill(syscall.SIGTERM)
	r.all[1].Wait()
	r.all[1].Restart()
	r.together(t)
	for _, model := range pots {
		r.exhaust(t, model, 0)
	}
}

// beats waits until every replica has shown twice that it lives, and so has told what it has spent.
func (r *replicas) beats(t *testing.T) {
	t.Helper()
	beat := func() map[any]float64 {
		out := map[any]float64{}
		for _, z := range r.client.ZRangeWithScores(t.Context(), "weir:limit:{replicas}", 0, -1).Val() {
			out[z.Member] = z.Score
		}
		return out
	}
	for range 2 {
		before := beat()
		harness.WaitFor(t, "all replicas show that they live", func() bool {
			now := beat()
			for who, when := range before {
				if now[who] <= when {
					return false
				}
			}
			return len(before) == len(r.all)
		})
	}
}

// exhaust spends a budget on all replicas in turn until all refuse, and fails the test unless so many requests pass. While
// counters are put together again the policy denies.
func (r *replicas) exhaust(t *testing.T, model string, want int) {
	t.Helper()
	passed, refusals := 0, 0
	harness.WaitFor(t, model+" is spent", func() bool {
		for i, l := range r.all {
			a := l.spend(t, keyA1, model, []string{"openai", "anthropic", "openai"}[i])
			switch a.status {
			case http.StatusOK:
				passed++
				refusals = 0
			case http.StatusTooManyRequests:
				refusals++
			case http.StatusServiceUnavailable:
				refusals = 0
			default:
				t.Fatalf("status %d: %s", a.status, a.body)
			}
		}
		return refusals > 3*len(r.all)
	})
	if passed != want {
		t.Errorf("%s: %d more passed, want %d", model, passed, want)
	}
}

// testBudgetAfterLoss: all replicas end, Redis loses everything, and the ledgers still know what was spent. So they do where a
// budget is made later.
func testBudgetAfterLoss(t *testing.T, r *replicas) {
	for _, l := range r.all {
		for range 2 {
			a := l.spend(t, keyA1, "later-pot", "openai")
			must200(t, "without a budget", a.status, a.body)
		}
	}
	for _, l := range r.all {
		l.Change(func() {
			l.WriteFile("later.yaml", budget("later-pot", "amount: \"0.0007\"\nperiod: Month\nsharing: {mode: Exact, onFailure: Deny}"))
		})
	}
	r.beats(t)
	r.exhaust(t, "later-pot", 1)
	for _, l := range r.all {
		l.Kill(syscall.SIGTERM)
		l.Wait()
	}
	if err := r.client.FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	for _, l := range r.all {
		l.Restart()
	}
	r.together(t)
	r.beats(t)
	for _, model := range append(slices.Clone(pots), "later-pot") {
		r.exhaust(t, model, 0)
	}
}
