package e2e

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/weir-dev/weir/test/e2e/harness"
	"github.com/weir-dev/weir/test/redistest"
	"github.com/weir-dev/weir/test/sim"
	"github.com/weir-dev/weir/usage/ledger"
	"github.com/weir-dev/weir/usage/ledger/ship"
	"github.com/weir-dev/weir/xds/compile"
)

// requestsVariable is how many requests TestLedger sends instead of ledgerRequests.
const requestsVariable = "WEIR_E2E_REQUESTS"

const (
	ledgerRequests    = 20_000
	ledgerConnections = 48
	// drainedRequests are what is left when weir is told to end.
	drainedRequests = 200
)

// lateness is how much later than it should something may happen on a machine that has more to do than it can.
const lateness = 300 * time.Millisecond

// served is what providers say they served, by request ID.
type served struct {
	mu   sync.Mutex
	byID map[string][]sim.Record
}

func (s *served) ended(r sim.Record) {
	if r.Status == 0 || r.Status >= 400 || r.Summary.Model == "" {
		return // costs nothing
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	id := r.Header.Get("x-request-id")
	s.byID[id] = append(s.byID[id], r)
}

// billed are the tokens of an answer, as far as it was sent, in the ledger's buckets.
func billed(r *sim.Record) ledger.Tokens {
	return ledger.Tokens{
		Input: int64(r.Usage.Input - r.Usage.Cached - r.Usage.CacheWritten), CacheRead: int64(r.Usage.Cached), CacheWrite: int64(r.Usage.CacheWritten),
		Output: int64(r.Tokens - r.Reasoning), Reasoning: int64(r.Reasoning),
	}
}

func counted(c sim.Count) ledger.Tokens {
	return ledger.Tokens{
		Input: int64(c.Input - c.Cached - c.CacheWritten), CacheRead: int64(c.Cached), CacheWrite: int64(c.CacheWritten),
		Output: int64(c.Output - c.Reasoning), Reasoning: int64(c.Reasoning),
	}
}

func minus(a, b ledger.Tokens) ledger.Tokens {
	return ledger.Tokens{Input: a.Input - b.Input, CacheRead: a.CacheRead - b.CacheRead, CacheWrite: a.CacheWrite - b.CacheWrite,
		Output: a.Output - b.Output, Reasoning: a.Reasoning - b.Reasoning}
}

// priceOf is what a backend's tokens cost for a million, in order of the buckets, and a request itself, in nano-units.
type priceOf struct{ input, cacheRead, cacheWrite, output, reasoning, request int64 }

var ledgerPrices = map[string]priceOf{
	"default/oa":  {2_500_000_000, 1_250_000_000, 2_500_000_000, 10_000_000_000, 10_000_000_000, 0},
	"default/emb": {20_000_001, 20_000_001, 20_000_001, 0, 0, 300},
	"default/an":  {3_000_000_000, 300_000_000, 3_750_000_000, 15_000_000_000, 15_000_000_000, 0},
	"default/ds":  {400_000_000, 160_000_000, 400_000_000, 1_200_000_000, 4_000_000_007, 0},
	"default/fl":  {150_000_003, 75_000_000, 150_000_003, 600_000_001, 600_000_001, 0},
}

// yaml renders the prices as those of now, between others of before and after.
func (p priceOf) yaml() string {
	amount := func(n int64) string { return fmt.Sprintf("%d.%09d", n/1e9, n%1e9) }
	return fmt.Sprintf(`prices:
- {version: before, input: "1000", output: "1000"}
- {version: now, effectiveFrom: "2026-01-01T00:00:00Z", input: %q, cacheRead: %q, cacheWrite: %q, output: %q, reasoning: %q, request: %q}
- {version: after, effectiveFrom: "2099-01-01T00:00:00Z", input: "1000", output: "1000"}
`, amount(p.input), amount(p.cacheRead), amount(p.cacheWrite), amount(p.output), amount(p.reasoning), amount(p.request))
}

// cost of tokens, in numbers without bounds, rounded half up.
func (p priceOf) cost(t ledger.Tokens) int64 {
	sum := new(big.Int)
	for _, x := range [][2]int64{{t.Input, p.input}, {t.CacheRead, p.cacheRead}, {t.CacheWrite, p.cacheWrite}, {t.Output, p.output}, {t.Reasoning, p.reasoning}, {1e6, p.request}} {
		sum.Add(sum, new(big.Int).Mul(big.NewInt(x[0]), big.NewInt(x[1])))
	}
	return sum.Add(sum, big.NewInt(500_000)).Div(sum, big.NewInt(1e6)).Int64()
}

// books is the gateway of TestLedger with everything around it.
type books struct {
	g      *harness.Gateway
	redis  *redistest.Server
	sims   []*harness.Sim
	served *served
}

func openBooks(t *testing.T) *books {
	b := &books{redis: redistest.Start(t), served: &served{byID: map[string][]sim.Record{}}}
	of := func(prefixes ...string) (models []string) {
		for _, p := range prefixes {
			for _, tenant := range tenants {
				if name, upstream, renamed := strings.Cut(p, "="); renamed {
					models = append(models, name+"-"+tenant+"="+upstream+"-"+tenant)
				} else {
					models = append(models, p+"-"+tenant)
				}
			}
		}
		return models
	}
	provider := func(d sim.Dialect, seed uint64, models []string, rules ...sim.Rule) *harness.Sim {
		s := harness.NewSim(t, sim.Options{Dialect: d, Models: models, Seed: seed, Ended: b.served.ended, Faults: sim.Faults{
			IntervalMin: sim.None, IntervalMax: sim.Duration(time.Millisecond), Rules: rules, // something to leave in the middle of
		}})
		b.sims = append(b.sims, s)
		return s
	}
	oa := provider(sim.OpenAI, 1, of("gpt-4o", "gpt-5", "text-embedding-3-small"), sim.Rule{Kind: sim.Disconnect, AfterEvents: 3, Rate: .015},
		sim.Rule{Kind: sim.StreamError, AfterEvents: 2, Rate: .01}, sim.Rule{Kind: sim.Status, Status: 429, Rate: .01}, sim.Rule{Kind: sim.Close, Rate: .005})
	an := provider(sim.Anthropic, 2, of("claude-sonnet-4-5"), sim.Rule{Kind: sim.Disconnect, AfterEvents: 5, Rate: .015},
		sim.Rule{Kind: sim.StreamError, AfterEvents: 4, Rate: .01}, sim.Rule{Kind: sim.Status, Status: 529, Rate: .01})
	ds := provider(sim.DashScope, 3, of("qwen-plus"), sim.Rule{Kind: sim.Disconnect, AfterEvents: 3, Rate: .015},
		sim.Rule{Kind: sim.StreamError, AfterEvents: 2, Rate: .01}, sim.Rule{Kind: sim.OKError, Rate: .01})
	fl := provider(sim.OpenAI, 4, of("mini"), sim.Rule{Kind: sim.Status, Status: 500, Rate: .15}, sim.Rule{Kind: sim.Status, Status: 429, Rate: .1},
		sim.Rule{Kind: sim.Close, Rate: .05}, sim.Rule{Kind: sim.Hang, Rate: .01}, sim.Rule{Kind: sim.Disconnect, AfterEvents: 1, Rate: .03})
	garbling := httptest.NewServer(http.HandlerFunc(garble))
	t.Cleanup(garbling.Close)

	backend := func(name string, s *harness.Sim, models []string) harness.Backend {
		return harness.Backend{Name: name, Sim: s, Models: models, Spec: ledgerPrices["default/"+name].yaml()}
	}
	o := harness.Options{
		Listener: fmt.Sprintf("sharedState: {redis: {addresses: [%q]}}\naccounting: {ledger: Redis}", b.redis.Addr),
		Backends: []harness.Backend{
			backend("oa", oa, of("gpt-4o", "gpt-5", "alias=gpt-4o", "tight=gpt-4o")), backend("emb", oa, of("text-embedding-3-small")),
			backend("an", an, of("claude-sonnet-4-5")), backend("ds", ds, of("qwen-plus")), backend("fl", fl, of("mini")),
			{Name: "garbling", Dialect: "openai", URL: garbling.URL + "/v1", Models: of("garbled")},
		},
		Documents: []string{
			harness.Route("straight", `
rules:
  - matches: [{models: ["gpt-*", "claude-*", "qwen-*", "alias-*", "tight-*", "text-*", "garbled-*"]}]
    backends: [{name: oa}, {name: emb}, {name: an}, {name: ds}, {name: garbling}]`),
			harness.Route("again", `
rules:
  - matches: [{models: ["mini-*"]}]
    backends: [{name: fl}]
    retry: {attempts: 3}
    timeouts: {firstByte: 2s}`),
			harness.Document("LimitPolicy", "generous", `
targetRefs: [{kind: LLMGateway, name: e2e}]
per: Tenant
limits:
  - {name: requests, unit: Requests, limit: 1M, window: 1m}
  - {name: tokens, unit: TotalTokens, limit: 500M, window: 1m}
  - {name: cost, unit: Cost, limit: 1M, window: 1m, algorithm: TokenBucket}
  - {name: at-once, unit: ConcurrentRequests, limit: 100k}`),
			harness.Document("LimitPolicy", "tight", `
targetRefs: [{kind: LLMGateway, name: e2e}]
models: ["tight-*"]
per: Tenant
limits: [{name: few, unit: Requests, limit: 5, window: 10s}]`),
			harness.Document("Budget", "monthly", `
targetRefs: [{kind: Tenant, name: "*"}]
per: Tenant
amount: 1M
period: Month`),
		},
	}
	for _, tenant := range tenants {
		o.Documents = append(o.Documents, harness.Consumer(tenant, tenantKey(tenant), ""), harness.Route("fallback-"+tenant, fmt.Sprintf(`
rules:
  - matches: [{models: [fallback-%s]}]
    backends: [{name: fl, model: mini-%[1]s}, {name: an, model: claude-sonnet-4-5-%[1]s, priority: 1}]
    timeouts: {firstByte: 2s}`, tenant)))
	}
	b.g = harness.Start(t, o)
	return b
}

// garble answers with what is no answer, under a status and a type that promise one.
func garble(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	if strings.Contains(string(body), `"stream":true`) {
		w.Header().Set("content-type", "text/event-stream")
		_, _ = io.WriteString(w, "data: {\"choices\":[{\"delta\":{\"conte\n\ndata: ]\n\n") // the gateway may have gone
		return
	}
	w.Header().Set("content-type", "application/json")
	_, _ = io.WriteString(w, `{"id":"x","object":"chat.completion","choices":[{"message":{"content":"ab`)
}

// kills are the moments at which something was killed, and at which weir was told to end.
type kills struct{ envoy, weir, drain time.Time }

// TestLedger sends requests that end in every way there is, while Envoy, weir and Redis are killed once each. Then the
// ledger has what the providers say they served: to the token, but for what is flagged; and what is missing was let in within
// the time that is stated as lost.
func TestLedger(t *testing.T) {
	n := ledgerRequests
	if v := os.Getenv(requestsVariable); v != "" {
		var err error
		if n, err = strconv.Atoi(v); err != nil || n < 1000 {
			t.Fatalf("%s is %q: give a number of at least 1000", requestsVariable, v)
		}
	}
	b := openBooks(t)
	kinds := shotKinds()
	shots := make([]*shot, n)
	for i := range shots {
		shots[i] = makeShot(kinds, i)
	}
	start := time.Now()
	killed := b.bombard(t, shots)
	t.Logf("%d requests in %v", n, time.Since(start).Round(time.Second))

	endings := map[string]int{}
	for _, s := range shots {
		endings[s.outcome]++
	}
	t.Logf("endings: %v", endings)
	for _, want := range []string{"200", "400", "404", "429", "502", "no answer", "answer broke off", "left before the answer", "left in the answer", "200 with an error in the stream"} {
		if endings[want] == 0 {
			t.Errorf("no request has ended as %q, so the test shows less than it should", want)
		}
	}
	entries := b.g.Ledger()
	newAudit(t, b, shots, entries, killed).run()

	// What weir had not sent when it was told to end, the next one sends.
	b.g.Restart()
	b.g.WaitFor("Redis has as many entries", func() bool { return b.shipped(t) == len(entries) })
	b.checkShipped(t, entries)
	if again := b.g.Ledger(); !slices.Equal(again, entries) {
		t.Errorf("%d entries before the last start and %d after", len(entries), len(again))
	}
	if strings.Contains(b.g.Logs(), "DATA RACE") {
		t.Error("the race detector has found something, see the log")
	}
}

// bombard sends the shots, kills meanwhile, and ends weir while the last ones are under way. When it returns, no provider
// serves anything any more.
func (b *books) bombard(t *testing.T, shots []*shot) (k kills) {
	t.Helper()
	n := len(shots)
	fire := startBarrage(t, b.g, shots, ledgerConnections)
	fire.reach(n * 20 / 100)
	pid := b.g.EnvoyPID()
	k.envoy = time.Now()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	fire.reach(n * 35 / 100)
	b.redis.Kill()
	fire.reach(n * 50 / 100)
	b.redis.Restart() // without anything of what it had
	fire.reach(n * 65 / 100)
	k.weir = time.Now()
	b.g.Kill(syscall.SIGKILL)
	b.g.Wait()
	b.g.WaitFor("no process is left", func() bool { return len(b.g.Leftovers()) == 0 })
	b.g.Restart()
	fire.reach(n - drainedRequests)
	k.drain = time.Now()
	b.g.Kill(syscall.SIGTERM)
	close(fire.closing)
	if code := b.g.Wait(); code != 0 {
		t.Errorf("weir ended with status %d", code)
	}
	fire.workers.Wait()
	if !slices.ContainsFunc(shots, func(s *shot) bool { return s.outcome == "200" && s.sent.Before(k.drain) && s.ended.After(k.drain) }) {
		t.Error("no request was under way when weir was told to end, so the test shows less than it should")
	}
	for _, s := range b.sims {
		b.g.WaitFor("the providers have nothing to do", func() bool { return s.Stats().Running == 0 })
	}
	return k
}

// audit compares the ledger with what was sent and what was served.
type audit struct {
	*testing.T
	books   *books
	entries map[string]*ledger.Entry // by request ID
	shots   map[string]*shot
	killed  kills
	// The sums of the entries by the provider's name of the model: of those that claim to be exact, and of those that do not.
	exact, doubtful map[string]ledger.Tokens
	// What was served to the latter, to failed requests, which cost nothing, and to requests that have no entry.
	doubted, failed, missing map[string]ledger.Tokens
	problems                 map[string]int
	ended                    time.Duration // before a kill, at most, of what is interrupted
}

func newAudit(t *testing.T, b *books, shots []*shot, entries []ledger.Entry, killed kills) *audit {
	a := &audit{T: t, books: b, entries: map[string]*ledger.Entry{}, shots: map[string]*shot{}, killed: killed, problems: map[string]int{},
		exact: map[string]ledger.Tokens{}, doubtful: map[string]ledger.Tokens{},
		doubted: map[string]ledger.Tokens{}, failed: map[string]ledger.Tokens{}, missing: map[string]ledger.Tokens{}}
	for _, s := range shots {
		a.shots[s.id] = s
	}
	ids := map[string]bool{}
	var nameless []*ledger.Entry
	for i := range entries {
		e := &entries[i]
		if e.RequestID == "" && e.Interrupted && !ids[e.ID] {
			nameless, ids[e.ID] = append(nameless, e), true
			continue
		}
		if ids[e.ID] || a.entries[e.RequestID] != nil {
			a.problem("twice in the ledger", "%s is there twice", e.RequestID)
		}
		ids[e.ID], a.entries[e.RequestID] = true, e
	}
	a.name(nameless)
	return a
}

// name finds the requests that entries without a name are of. What a request in a lane is called, its record says, and that is gone with
// Envoy or Weir; each such entry must be of a request of its own all the same. One entry makes room for another where it can.
func (a *audit) name(nameless []*ledger.Entry) {
	a.Helper()
	given := map[*shot]int{} // entries by their places
	var place func(i int, asked map[*shot]bool) bool
	place = func(i int, asked map[*shot]bool) bool {
		for _, s := range a.candidates(nameless[i]) {
			if asked[s] {
				continue
			}
			asked[s] = true
			if other, taken := given[s]; !taken || place(other, asked) {
				given[s] = i
				return true
			}
		}
		return false
	}
	for i, e := range nameless {
		if !place(i, map[*shot]bool{}) {
			a.problem("strange entry", "nobody has sent what is interrupted and has no name: %+v", e)
		}
	}
	for s, i := range given {
		a.entries[s.id] = nameless[i]
	}
}

// candidates are the requests without an entry that an entry may be of: they ran at a kill, asked for its model or were served by it, and are
// like it in all else that it says. Those that were served come first, and of these what was sent closest to its time.
func (a *audit) candidates(e *ledger.Entry) (found []*shot) {
	since := compile.AccessLogFlush + lateness
	served := func(s *shot) int {
		if slices.ContainsFunc(a.books.served.byID[s.id], func(r sim.Record) bool { return r.Summary.Model == e.UpstreamModel }) {
			return 0
		}
		return 1
	}
	for _, s := range a.shots {
		if a.entries[s.id] != nil || s.tenant != e.Tenant || s.dialect != e.Dialect || s.stream != e.Stream ||
			!s.during(a.killed.envoy, since) && !s.during(a.killed.weir, since) {
			continue
		}
		if served(s) == 0 || strings.Contains(s.body, strconv.Quote(e.Model)) { // the second may have died with Envoy on its way
			found = append(found, s)
		}
	}
	apart := func(s *shot) time.Duration { return e.Time.Sub(s.sent).Abs() }
	slices.SortFunc(found, func(x, y *shot) int {
		return cmp.Or(cmp.Compare(served(x), served(y)), cmp.Compare(apart(x), apart(y)), strings.Compare(x.id, y.id))
	})
	return found
}

// shownProblems of each sort are told in full.
const shownProblems = 5

// problem reports what is wrong.
func (a *audit) problem(sort, format string, args ...any) {
	a.Helper()
	a.problems[sort]++
	if a.problems[sort] <= shownProblems {
		a.Errorf(sort+": "+format, args...)
	}
}

func (a *audit) run() {
	a.Helper()
	flags := map[string]int{}
	for id, e := range a.entries {
		s := a.shots[id]
		if s == nil {
			a.problem("strange entry", "nobody has sent %q", id)
			continue
		}
		for _, f := range e.Names() {
			flags[f]++
		}
		a.checkEntry(s, e)
		a.checkCost(e)
	}
	a.Logf("%d entries; flags: %v; of the interrupted the first had ended %v before a kill", len(a.entries), flags, a.ended)
	for _, want := range []string{"estimated", "aborted", "interrupted", "translated", "unpriced"} {
		if flags[want] == 0 {
			a.Errorf("no entry is %s, so the test shows less than it should", want)
		}
	}
	a.checkMissing()
	a.checkSums()
	for sort, n := range a.problems {
		a.Logf("%s: %d", sort, n)
	}
}

// doubtfulEntry says whether an entry claims less than to be exact.
func doubtfulEntry(e *ledger.Entry) bool { return e.Estimated || e.Aborted || e.Interrupted || e.Cut }

func (a *audit) checkEntry(s *shot, e *ledger.Entry) {
	a.Helper()
	if e.Tenant != s.tenant || e.UpstreamModel != "" && !strings.HasSuffix(e.UpstreamModel, "-"+s.tenant) || e.Dialect != s.dialect || e.Stream != s.stream {
		a.problem("wrong entry", "%+v is of %s's %s", e, s.tenant, s.kind)
	}
	into := a.doubted
	switch {
	case !doubtfulEntry(e):
		into = map[string]ledger.Tokens{} // compared here
	case !e.Interrupted && e.Status >= 400:
		into = a.failed
		if e.Tokens != (ledger.Tokens{}) {
			a.problem("failed and charged", "%+v", e)
		}
	}
	var sum ledger.Tokens
	var how []string
	for _, r := range a.books.served.byID[s.id] {
		model, used := r.Summary.Model, billed(&r)
		sum = sum.Plus(used)
		into[model] = into[model].Plus(used)
		how = append(how, fmt.Sprintf("%s %s %d %s %s %+v", model, r.Path, r.Status, r.End, r.Fault, used))
		if model != e.UpstreamModel && !e.Interrupted { // of those the newest attempt may not be known
			a.problem("wrong model", "%s (%s) is entered for %q and was served by %q", s.id, s.kind, e.UpstreamModel, model)
		}
	}
	if doubtfulEntry(e) {
		a.doubtful[e.UpstreamModel] = a.doubtful[e.UpstreamModel].Plus(e.Tokens)
	} else {
		a.exact[e.UpstreamModel] = a.exact[e.UpstreamModel].Plus(e.Tokens)
		if e.Tokens != sum {
			a.problem("not what was served", "%s (%s, stream %v, %s) is entered without a flag with %+v, status %d, %d attempts; served were %+v: %q",
				s.id, s.kind, s.stream, s.outcome, e.Tokens, e.Status, e.Attempts, sum, how)
		}
		if strings.HasPrefix(s.kind, "malformed") {
			a.problem("malformed and not flagged", "%s ended with %s: %+v", s.id, s.outcome, e)
		}
	}
	if e.Interrupted {
		// Envoy tells the ends of requests in batches, and those that it has not told die with it.
		since := compile.AccessLogFlush + lateness
		if !s.during(a.killed.envoy, since) && !s.during(a.killed.weir, since) {
			a.problem("interrupted by nobody", "%s (%s, %s) ran from %v to %v; Envoy was killed at %v, weir at %v",
				s.id, s.kind, s.outcome, s.sent, s.ended, a.killed.envoy, a.killed.weir)
		}
		before := a.killed.weir.Sub(s.ended)
		if s.sent.Before(a.killed.envoy.Add(lateness)) {
			before = a.killed.envoy.Sub(s.ended)
		}
		a.ended = max(a.ended, before)
	}
}

// during says whether a request was under way at a moment, or ended no longer than since before it.
func (s *shot) during(moment time.Time, since time.Duration) bool {
	return !s.sent.After(moment.Add(lateness)) && moment.Sub(s.ended) <= since
}

func (a *audit) checkCost(e *ledger.Entry) {
	a.Helper()
	price, priced := ledgerPrices[e.Backend]
	switch {
	case e.PriceVersion == "":
		if e.Cost != 0 || e.Tokens != (ledger.Tokens{}) && (priced || !e.Unpriced) {
			a.problem("wrong cost", "%+v has no price", e)
		}
	case !priced || e.PriceVersion != "now" || e.Unpriced || e.Currency != "USD":
		a.problem("wrong price", "%+v", e)
	case e.Cost != price.cost(e.Tokens):
		a.problem("wrong cost", "%+v costs %d", e, price.cost(e.Tokens))
	}
}

// checkMissing looks for what was served to requests that are not in the ledger: only those may be missing that were let in
// just before weir was killed.
func (a *audit) checkMissing() {
	a.Helper()
	n, oldest := 0, time.Duration(0)
	for id, records := range a.books.served.byID {
		if a.entries[id] != nil {
			continue
		}
		n++
		for _, r := range records {
			a.missing[r.Summary.Model] = a.missing[r.Summary.Model].Plus(billed(&r))
			before := a.killed.weir.Sub(r.At)
			oldest = max(oldest, before)
			if before > ledger.DefaultFlushEvery+lateness || before < -lateness {
				a.problem("missing in the ledger", "%s (%s, %s) was served %v before weir was killed, by %s: %+v",
					id, a.shots[id].kind, a.shots[id].outcome, before, r.Summary.Model, billed(&r))
			}
		}
	}
	a.Logf("%d requests that were served have no entry; the first was served %v before weir was killed", n, oldest)
}

// checkSums compares by tenant and model, because of the names by tenant as well.
func (a *audit) checkSums() {
	a.Helper()
	all := map[string]ledger.Tokens{}
	for _, s := range a.books.sims {
		for model, tally := range s.Stats().Models {
			all[model] = all[model].Plus(counted(tally.Count))
		}
	}
	var entered, doubtful, unpaid, total ledger.Tokens
	for _, model := range slices.Sorted(maps.Keys(all)) {
		exact := minus(minus(minus(all[model], a.doubted[model]), a.failed[model]), a.missing[model])
		if a.exact[model] != exact {
			a.problem("wrong sum", "%s: entries without a flag have %+v, served were %+v", model, a.exact[model], exact)
		}
		entered, doubtful = entered.Plus(a.exact[model]).Plus(a.doubtful[model]), doubtful.Plus(a.doubtful[model])
		unpaid, total = unpaid.Plus(a.failed[model]).Plus(a.missing[model]), total.Plus(all[model])
		a.Logf("%-28s %6d tokens served; %5d were flagged and entered as %5d, %4d failed, %4d missing", model, all[model].Total(),
			a.doubted[model].Total(), a.doubtful[model].Total(), a.failed[model].Total(), a.missing[model].Total())
	}
	off := entered.Total() + unpaid.Total() - total.Total()
	a.Logf("%d tokens served and %d entered, %d of them flagged; %d failed or are missing", total.Total(), entered.Total(), doubtful.Total(), unpaid.Total())
	if max(off, -off) > doubtful.Total() {
		a.problem("wrong sum", "%d tokens were served and %d entered, so the flags on %d are too few", total.Total(), entered.Total(), doubtful.Total())
	}
}

// shipped is how many items the stream has.
func (b *books) shipped(t *testing.T) int {
	stream, _ := ship.Keys("weir")
	n, err := b.redis.Client().XLen(t.Context(), stream).Result()
	if err != nil {
		t.Fatal(err)
	}
	return int(n)
}

// checkShipped: the stream has every entry of the ledger as it is, once.
func (b *books) checkShipped(t *testing.T, entries []ledger.Entry) {
	t.Helper()
	stream, _ := ship.Keys("weir")
	items, err := b.redis.Client().XRange(t.Context(), stream, "-", "+").Result()
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]*ledger.Entry{}
	for i := range entries {
		want[entries[i].ID] = &entries[i]
	}
	for _, item := range items {
		text, _ := item.Values["entry"].(string)
		var e ledger.Entry
		if err := ledger.ParseEntry([]byte(text), &e); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		local := want[e.ID]
		if local == nil || *local != e {
			t.Fatalf("Redis has %+v, for a second time or unlike the ledger's %+v", e, local)
		}
		delete(want, e.ID)
	}
	if len(want) > 0 {
		t.Errorf("Redis lacks %d of %d entries", len(want), len(entries))
	}
}
