package semantic

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/weir-dev/weir/adapters/jsonx"
	"github.com/weir-dev/weir/extproc/cache"
	"github.com/weir-dev/weir/test/redistest"
)

// words embeds a text as how often each of some words is in it: enough of a meaning.
type words struct {
	mu     sync.Mutex
	asked  int
	status int
	err    error
}

var vocabulary = []string{"capital", "france", "germany", "weather", "oslo", "what", "the", "is", "of", "please"}

func (w *words) Embeddings(_ context.Context, body []byte) (int, []byte, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked++
	if w.err != nil || w.status != 200 {
		return w.status, []byte(`{}`), w.err
	}
	if err := jsonx.Check(body); err != nil {
		return 0, nil, err
	}
	text := strings.ToLower(jsonx.Root(body).Get("input").Str())
	var counts []string
	for i, word := range vocabulary {
		weight := 5
		if i >= 5 {
			weight = 1 // words that mean little
		}
		counts = append(counts, fmt.Sprint(weight*strings.Count(text, word)))
	}
	return 200, []byte(`{"data":[{"embedding":[` + strings.Join(counts, ",") + `]}]}`), nil
}

type rig struct {
	*Finder
	clock  *clock
	words  *words
	policy cache.Policy
}

func newRig(t *testing.T, o Options) *rig {
	t.Helper()
	r := &rig{clock: newClock(), words: &words{status: 200}, policy: cache.Policy{
		ID: "default/p", TTL: time.Hour, StaleWhileRevalidate: time.Minute, Redis: true,
		Semantic: &cache.Semantic{Model: "e", Threshold: 0.9, MaxEntries: 100},
	}}
	o.Now = r.clock.now
	r.Finder = New(o)
	r.Use([]*cache.Policy{&r.policy})
	return r
}

func (r *rig) query(n int, guard byte, text string) *Query {
	return &Query{Policy: &r.policy, Key: keyOf(n), Guard: cache.Key{guard}, Text: text, Tenant: "t", Model: "m", Embedder: r.words}
}

func (r *rig) find(t *testing.T, n int, guard byte, text string) *Probe {
	t.Helper()
	p, err := r.Find(t.Context(), r.query(n, guard, text))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestFinder(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	r := newRig(t, Options{Registry: reg})
	first := r.find(t, 1, 1, "What is the capital of France?")
	if len(first.Matches) != 0 {
		t.Fatalf("%v in an empty index", first.Matches)
	}
	if err := r.Learn(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	near := r.find(t, 2, 1, "The capital of France, please")
	if len(near.Matches) != 1 || near.Matches[0].Key != keyOf(1) || near.Matches[0].Similarity < 0.9 || near.Matches[0].Similarity >= 1 {
		t.Fatalf("%v", near.Matches)
	}
	for text, guard := range map[string]byte{"What is the capital of Germany?": 1, "What is the capital of France? ": 2} {
		if p := r.find(t, 3, guard, text); len(p.Matches) != 0 {
			t.Errorf("%q under guard %d: %v", text, guard, p.Matches)
		}
	}
	r.policy.Semantic.Model = "f"
	if p := r.find(t, 4, 1, "What is the capital of France?"); len(p.Matches) != 0 {
		t.Errorf("vectors of two models were compared: %v", p.Matches)
	}
	r.policy.Semantic.Model = "e"

	// Asked again, a request that was answered costs no embedding, until its answer is gone or the policy wants more.
	r.Served(near, near.Matches[0])
	before := r.words.asked
	again := r.find(t, 2, 1, "The capital of France, please")
	if r.words.asked != before || len(again.Matches) != 1 || again.Matches[0] != near.Matches[0] {
		t.Errorf("%v, %d embeddings", again.Matches, r.words.asked-before)
	}
	if err := r.Learn(t.Context(), again); err != nil {
		t.Error(err)
	}
	r.policy.Semantic.Threshold = 0.9999
	if p := r.find(t, 2, 1, "The capital of France, please"); len(p.Matches) != 0 || r.words.asked != before+1 {
		t.Errorf("a higher threshold: %v", p.Matches)
	}
	r.policy.Semantic.Threshold = 0.9
	if err := r.Forget(t.Context(), again, again.Matches[0]); err != nil {
		t.Fatal(err)
	}
	if p := r.find(t, 2, 1, "The capital of France, please"); r.words.asked != before+2 || len(p.Matches) != 1 {
		t.Errorf("it was not looked for anew: %v", p.Matches)
	} else if err := r.Forget(t.Context(), p, p.Matches[0]); err != nil {
		t.Fatal(err)
	}
	if p := r.find(t, 2, 1, "The capital of France, please"); len(p.Matches) != 0 {
		t.Errorf("an answer that is gone: %v", p.Matches)
	}
	if n := testutil.ToFloat64(r.count.lookups.WithLabelValues("default/p", "near")); n != 3 {
		t.Errorf("%v lookups found something", n)
	}
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
}

func TestTimesAndPurges(t *testing.T) {
	r := newRig(t, Options{})
	ask := func() int { return len(r.find(t, 9, 1, "What is the weather of Oslo?").Matches) }
	learn := func() {
		t.Helper()
		if err := r.Learn(t.Context(), r.find(t, 1, 1, "The weather of Oslo please")); err != nil {
			t.Fatal(err)
		}
		if ask() != 1 {
			t.Fatal("what was learnt is not known")
		}
	}
	learn()
	if r.clock.add(time.Hour + time.Minute); ask() != 1 {
		t.Error("gone before its time")
	}
	if r.clock.add(1); ask() != 0 {
		t.Error("found after its time")
	}
	for _, sel := range []cache.Selector{{Policy: "default/p"}, {Tenant: "t"}, {Model: "m"}} {
		learn()
		if n, err := r.Purge(t.Context(), sel); err != nil || n != 1 || ask() != 0 {
			t.Errorf("%s: %d, %v", sel.String(), n, err)
		}
	}
	learn()
	for _, sel := range []cache.Selector{{}, {Tag: "x"}, {Tenant: "u"}, {Policy: "default/q"}} {
		if n, err := r.Purge(t.Context(), sel); err != nil || n != 0 || ask() != 1 {
			t.Errorf("%s: %d, %v", sel.String(), n, err)
		}
	}
	if r.Use(nil); ask() != 0 {
		t.Error("the policy is gone, and what it had is there")
	}
}

func TestFailures(t *testing.T) {
	r := newRig(t, Options{})
	find := func() error {
		_, err := r.Find(t.Context(), r.query(1, 1, "weather"))
		return err
	}
	r.words.status = 429
	if err := find(); err == nil || !strings.Contains(err.Error(), "429") {
		t.Error(err)
	}
	r.words.status = 500
	if err := find(); err == nil || !strings.Contains(err.Error(), "500") {
		t.Errorf("after a refusal of one request: %v", err)
	}
	asked := r.words.asked
	if err := find(); !errors.Is(err, ErrResting) || r.words.asked != asked {
		t.Errorf("after a failure: %v", err)
	}
	r.clock.add(rest)
	r.words.status = 200
	if err := find(); err != nil {
		t.Error(err)
	}
	if _, err := r.Find(t.Context(), r.query(1, 1, "nothing known")); !errors.Is(err, errNoDirection) {
		t.Error(err)
	}
	r.clock.add(rest)
	r.words.err = errors.New("no connection")
	if err := find(); !errors.Is(err, r.words.err) {
		t.Error(err)
	}
	r.clock.add(rest)
	if _, err := r.Find(t.Context(), r.query(1, 1, strings.Repeat("x", maxText+1))); !errors.Is(err, ErrTooLong) {
		t.Error(err)
	}
}

// TestWhichIndex: where vectors are, by the policy and by what Redis can do.
func TestWhichIndex(t *testing.T) {
	server := redistest.Start(t)
	conn := connect(t, server)
	with := newRig(t, Options{Conn: conn, Prefix: "weir:test"})
	able, err := with.redis.Load().supported(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	without := newRig(t, Options{})
	check := func(name string, r *rig, want cache.SemanticIndex, redis bool, memory bool, wrong bool) {
		t.Helper()
		p := r.policy
		semantic := *p.Semantic
		semantic.Index, p.Redis, p.Semantic = want, redis, &semantic
		ix, err := r.index(t.Context(), &p)
		if (err != nil) != wrong || !wrong && (ix == index(r.memory)) != memory {
			t.Errorf("%s: %T, %v", name, ix, err)
		}
	}
	check("memory", with, cache.SemanticMemory, true, true, false)
	check("auto, not in Redis", with, cache.SemanticAuto, false, true, false)
	check("auto", with, cache.SemanticAuto, true, !able, false)
	check("redis", with, cache.SemanticRedis, true, false, !able)
	check("auto, no Redis", without, cache.SemanticAuto, true, true, false)
	check("redis, no Redis", without, cache.SemanticRedis, true, false, true)
	conn.AddHook(&emulation{sets: map[string]map[string][]float64{}})
	with.clock.add(askAgain)
	check("auto, Redis 8", with, cache.SemanticAuto, true, false, false)
	check("redis, Redis 8", with, cache.SemanticRedis, true, false, false)

	with.policy.Semantic.Index = cache.SemanticRedis
	if err := with.Learn(t.Context(), with.find(t, 1, 1, "weather of Oslo")); err != nil {
		t.Fatal(err)
	}
	if p := with.find(t, 2, 1, "the weather of Oslo"); len(p.Matches) != 1 {
		t.Errorf("%v", p.Matches)
	}
	if n, err := with.Purge(t.Context(), cache.Selector{Tenant: "t"}); err != nil || n != 1 {
		t.Errorf("%d purged, %v", n, err)
	}
	if p := with.find(t, 2, 1, "the weather of Oslo"); len(p.Matches) != 0 {
		t.Errorf("after a purge: %v", p.Matches)
	}

	server.Kill()
	if conn.Ping(t.Context()).Err() == nil {
		t.Fatal("the server is dead and answers")
	}
	with.redis.Load().tried = with.clock.now() // asked a moment ago
	check("auto, Redis is dead", with, cache.SemanticAuto, true, true, false)
	check("redis, Redis is dead", with, cache.SemanticRedis, true, false, true)
}

func TestSimilarityHeader(t *testing.T) {
	for s, want := range map[float64]string{1: "1.0000", 0.95: "0.9500", 0.94999: "0.9499", 0.999999: "0.9999", 0: "0.0000"} {
		if got := Similarity(s); got != want {
			t.Errorf("%v is told as %s, want %s", s, got, want)
		}
	}
}

// TestKnownIsBounded: what it remembers does not grow without end.
func TestKnownIsBounded(t *testing.T) {
	var k known
	c := newClock()
	for i := range maxKnown + 10 {
		k.put(keyOf(i), Match{Key: keyOf(i)}, c.now().Add(time.Hour))
	}
	if _, ok := k.get(keyOf(9), 0, c.now()); ok || len(k.by) != maxKnown || len(k.order) != maxKnown {
		t.Errorf("%d known", len(k.by))
	}
	if _, ok := k.get(keyOf(10), 0, c.now()); !ok {
		t.Error("too much was forgotten")
	}
	if _, ok := k.get(keyOf(10), 0, c.now().Add(2*time.Hour)); ok {
		t.Error("known after its time")
	}
}
