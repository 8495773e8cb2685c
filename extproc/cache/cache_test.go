package cache

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/weir-dev/weir/adapters/canon"
)

func TestHit(t *testing.T) {
	c := newCache(t, Options{})
	a := ask(policy(func(p *Policy) { p.Tags = []string{"x"} }), "q")
	a.Tags = []string{"y", "x"}
	get(t, c, a, Miss, "")
	buy(t, c, a, "answer")
	l := get(t, c, a, Hit, "answer")
	e := l.Entry
	if e.Tokens != (canon.Usage{Input: 3, Output: 5}) || e.Model != "m" || e.Tenant != "acme" || !slices.Equal(e.Tags, []string{"x", "y"}) || e.Get("content-type") != "application/json" {
		t.Errorf("the entry is %+v", e)
	}
	if l.Tier != Memory || l.Refresh {
		t.Errorf("the lookup is %+v", l)
	}
	// Who missed before the answer was whole finds it all the same.
	r := c.Do(context.Background(), a, func(context.Context, *Writer) error { t.Error("bought again"); return nil })
	defer r.Close()
	if got, err := readAll(r); got != "answer" || err != nil || r.Outcome() != Hit {
		t.Errorf("%q, %v, %s", got, err, r.Outcome())
	}
}

func TestTimes(t *testing.T) {
	var now clock
	c := newCache(t, Options{Now: now.now})
	a := ask(policy(func(p *Policy) {
		p.TTL, p.StaleWhileRevalidate, p.Jitter, p.RefreshAhead = time.Hour, time.Hour, 0.1, true
	}), "q")
	buy(t, c, a, "one")
	now.advance(53 * time.Minute) // the jitter took 10 % of the TTL, almost
	get(t, c, a, Hit, "one")
	young := a
	young.MaxAge = 52 * time.Minute
	get(t, c, young, Miss, "")
	now.advance(2 * time.Minute)
	if l := get(t, c, a, Stale, "one"); !l.Refresh || l.Age < 54*time.Minute {
		t.Errorf("the first who finds it stale is not to buy it again: %+v", l)
	}
	if l := get(t, c, a, Stale, "one"); l.Refresh {
		t.Error("the second is to buy it again as well")
	}
	now.advance(2 * refreshPause)
	if l := get(t, c, a, Stale, "one"); !l.Refresh {
		t.Error("nobody tries again")
	}
	c.Refresh(context.Background(), a, answers("two"))
	until(t, "it is bought again", func() bool { return c.Get(context.Background(), a).Outcome == Hit })
	get(t, c, a, Hit, "two")
	now.advance(2*time.Hour - time.Second)
	get(t, c, a, Miss, "")
}

func TestShorterPolicyAppliesToWhatIsKept(t *testing.T) {
	var now clock
	c := newCache(t, Options{Now: now.now})
	buy(t, c, ask(policy(nil), "q"), "one")
	now.advance(time.Minute)
	get(t, c, ask(policy(nil), "q"), Hit, "one")
	get(t, c, ask(policy(func(p *Policy) { p.TTL = time.Second }), "q"), Miss, "")
}

func TestRefreshAhead(t *testing.T) {
	var now clock
	random := 0.5
	c := newCache(t, Options{Now: now.now, Random: func() float64 { return random }})
	a := ask(policy(func(p *Policy) { p.RefreshAhead = true }), "q")
	r := c.Do(context.Background(), a, func(ctx context.Context, w *Writer) error {
		now.advance(10 * time.Second) // what it takes to buy
		return answers("one")(ctx, w)
	})
	if _, err := readAll(r); err != nil {
		t.Fatal(err)
	}
	r.Close()
	now.advance(time.Hour - 15*time.Second) // 15 s before the end
	if l := get(t, c, a, Hit, "one"); l.Refresh {
		t.Error("it is bought again although -ln(0.5)*10 s is 7 s")
	}
	random = 0.1
	if l := get(t, c, a, Hit, "one"); !l.Refresh {
		t.Error("it is not bought again although -ln(0.1)*10 s is 23 s")
	}
}

// TestRefreshKeepsTags: what is bought again in the background is still found by the tags of who bought it first, whoever asked for it
// then.
func TestRefreshKeepsTags(t *testing.T) {
	var now clock
	c := newCache(t, Options{Now: now.now})
	p := policy(func(p *Policy) { p.StaleWhileRevalidate, p.Tags = time.Hour, []string{"policy"} })
	first := ask(p, "q")
	first.Tags = []string{"catalogue"}
	buy(t, c, first, "one")
	now.advance(p.TTL + time.Second)
	other := ask(p, "q")
	other.Tags = []string{"other", "catalogue"}
	l := get(t, c, other, Stale, "one")
	c.Refresh(context.Background(), l.Again(other), answers("two"))
	until(t, "it is bought again", func() bool { return c.Get(context.Background(), other).Outcome == Hit })
	l = get(t, c, other, Hit, "two")
	if got, want := strings.Join(l.Entry.Tags, " "), "policy catalogue other"; got != want {
		t.Errorf("tags %q, want %q", got, want)
	}
	if n, err := c.Purge(context.Background(), Selector{Tag: "catalogue"}); n != 1 || err != nil {
		t.Errorf("%d purged, %v; want 1", n, err)
	}
	get(t, c, other, Miss, "")

	many := ask(p, "q")
	for i := range 2 * maxTags {
		many.Tags = append(many.Tags, strconv.Itoa(i))
	}
	if got := l.Again(many).Tags; !slices.Equal(got, l.Entry.Tags) {
		t.Errorf("%d tags are taken over, want at most %d", len(got), maxTags)
	}
}

func TestNegative(t *testing.T) {
	var now clock
	c := newCache(t, Options{Now: now.now})
	refusal := func(_ context.Context, w *Writer) error {
		h := okHead
		h.Status = 400
		if err := w.Begin(h); err != nil {
			return err
		}
		_, err := w.Write([]byte("no such model"))
		return err
	}
	for name, c2 := range map[string]struct {
		statuses []int
		want     Outcome
	}{"kept": {[]int{400}, Negative}, "not kept": {nil, Miss}} {
		a := ask(policy(func(p *Policy) { p.ID, p.Negative, p.StaleWhileRevalidate = "ns/"+name, c2.statuses, time.Hour }), name)
		r := c.Do(context.Background(), a, refusal)
		if got, err := readAll(r); got != "no such model" || err != nil {
			t.Fatalf("%q, %v", got, err)
		}
		r.Close()
		get(t, c, a, c2.want, "no such model")
		now.advance(time.Minute)
		get(t, c, a, Miss, "")
	}
}

func TestWhatIsNotKept(t *testing.T) {
	c := newCache(t, Options{FlightBytes: 64 << 10})
	for name, fill := range map[string]Fill{
		"no-store": func(ctx context.Context, w *Writer) error { w.NoStore(); return answers("x")(ctx, w) },
		"broken": func(ctx context.Context, w *Writer) error {
			_ = answers("x")(ctx, w)
			return fmt.Errorf("it broke off")
		},
		"panic": func(ctx context.Context, w *Writer) error { _ = answers("x")(ctx, w); panic("oh") },
		"large": func(ctx context.Context, w *Writer) error { return answers(strings.Repeat("x", 5000))(ctx, w) },
		"empty": func(context.Context, *Writer) error { return nil },
	} {
		a := ask(policy(func(p *Policy) { p.MaxEntryBytes = 4096 }), name)
		r := c.Do(context.Background(), a, fill)
		_, err := readAll(r)
		r.Close()
		if broken := name != "no-store" && name != "large"; (err != nil) != broken {
			t.Errorf("%s: the error is %v", name, err)
		}
		get(t, c, a, Miss, "")
	}
}

func TestMemoryIsBounded(t *testing.T) {
	reg := prometheus.NewRegistry()
	c := newCache(t, Options{Registry: reg})
	p := policy(func(p *Policy) { p.MemoryBytes = 1 << 20 })
	text := strings.Repeat("x", 10<<10)
	hot := ask(p, "hot")
	buy(t, c, hot, text)
	for i := range 1000 {
		for range 3 {
			if c.Get(context.Background(), hot).Outcome == Miss {
				buy(t, c, hot, text)
			}
		}
		buy(t, c, ask(p, i), text)
	}
	m := c.tier(p)
	until(t, "the memory is within its bound", func() bool {
		m.records.CleanUp()
		bytes, _ := m.usage()
		return bytes <= 1<<20
	})
	if bytes, n := m.usage(); bytes < 1<<19 || n < 50 {
		t.Errorf("only %d bytes, %d entries are kept", bytes, n)
	}
	get(t, c, hot, Hit, text) // a flood of what is asked for once does not drive it out
	if n := testutil.ToFloat64(c.metrics.evictions.WithLabelValues(p.ID)); n < 800 {
		t.Errorf("%v evictions", n)
	}
	c.Use(nil)
	get(t, c, hot, Miss, "")
}

func TestPurgeHere(t *testing.T) {
	other := policy(func(p *Policy) { p.ID = "ns/other" })
	k := key("a")
	for name, c2 := range map[string]struct {
		s    Selector
		want []string // what stays
	}{
		"tenant":           {Selector{Tenant: "acme"}, []string{"b", "d"}},
		"model":            {Selector{Model: "m"}, []string{"c", "d"}},
		"tag":              {Selector{Tag: "red"}, []string{"a", "d"}},
		"policy":           {Selector{Policy: "ns/p"}, []string{"d"}},
		"key":              {Selector{Key: &k}, []string{"b", "c", "d"}},
		"tenant and model": {Selector{Tenant: "acme", Model: "other"}, []string{"a", "b", "d"}},
		"nothing of both":  {Selector{Tenant: "zeta", Tag: "blue"}, []string{"a", "b", "c", "d"}},
	} {
		c := newCache(t, Options{})
		asks := map[string]Ask{}
		for _, x := range []struct {
			key, tenant, model, tag string
			p                       *Policy
		}{{"a", "acme", "m", "", policy(nil)}, {"b", "zeta", "m", "red", policy(nil)}, {"c", "acme", "other", "red", policy(nil)}, {"d", "zeta", "other", "", other}} {
			a := Ask{Key: key(x.key), Policy: x.p, Tenant: x.tenant, Model: x.model}
			if x.tag != "" {
				a.Tags = []string{x.tag}
			}
			r := c.Do(context.Background(), a, func(_ context.Context, w *Writer) error { return w.Begin(okHead) })
			if _, err := readAll(r); err != nil {
				t.Fatal(err)
			}
			r.Close()
			asks[x.key] = a
		}
		n, err := c.Purge(context.Background(), c2.s)
		if err != nil || n != 4-len(c2.want) {
			t.Errorf("%s: %d purged, %v", name, n, err)
		}
		for k, a := range asks {
			if hit := c.Get(context.Background(), a).Outcome == Hit; hit != slices.Contains(c2.want, k) {
				t.Errorf("%s: %s is there: %v", name, k, hit)
			}
		}
	}
	if _, err := newCache(t, Options{}).Purge(context.Background(), Selector{}); err == nil {
		t.Error("everything was purged by an empty selector")
	}
}

// TestPurgeReachesWhatIsBeingBought: an answer that was asked for before the purge is not kept after it.
func TestPurgeReachesWhatIsBeingBought(t *testing.T) {
	c := newCache(t, Options{})
	a := ask(policy(nil), "q")
	began, purged := make(chan struct{}), make(chan struct{})
	r := c.Do(context.Background(), a, func(ctx context.Context, w *Writer) error {
		close(began)
		<-purged
		return answers("old")(ctx, w)
	})
	defer r.Close()
	<-began
	if _, err := c.Purge(context.Background(), Selector{Tenant: "acme"}); err != nil {
		t.Fatal(err)
	}
	close(purged)
	if got, err := readAll(r); got != "old" || err != nil {
		t.Fatal(got, err)
	}
	get(t, c, a, Miss, "")
}

// TestPurgesAreRemembered compares the memory of purges with a list of all of them.
func TestPurgesAreRemembered(t *testing.T) {
	var p purges
	rnd := rand.New(rand.NewPCG(1, 2))
	var all []Selector
	r := func(tenant string) *record { return &record{entry: &Entry{Tenant: tenant}} }
	for range 3 * recentPurges {
		seq := uint64(rnd.IntN(len(all) + 1))
		tenant := fmt.Sprint(rnd.IntN(2000))
		want := uint64(len(all))-seq > recentPurges || slices.ContainsFunc(all[seq:], func(s Selector) bool { return s.Tenant == tenant })
		if got := p.since(seq, r(tenant)); got != want {
			t.Fatalf("after %d purges since %d: %v", len(all), seq, got)
		}
		s := Selector{Tenant: fmt.Sprint(rnd.IntN(2000))}
		all = append(all, s)
		p.add(s, 0)
	}
}

// TestNobodyGetsAnothersAnswer: whatever the keys are, an answer goes only to those who share it. The keys are few, so that
// tenants and policies collide all the time, as if package key were broken.
func TestNobodyGetsAnothersAnswer(t *testing.T) {
	c := newCache(t, Options{})
	rnd := rand.New(rand.NewPCG(3, 4))
	scopes := []Scope{ScopeTenant, ScopeConsumer, ScopeShared}
	hits := 0
	for range 20_000 {
		scope := scopes[rnd.IntN(3)]
		p := policy(func(p *Policy) { p.ID, p.Scope = fmt.Sprint("ns/", rnd.IntN(2)), scope })
		tenant := fmt.Sprint("t", rnd.IntN(3))
		a := Ask{Key: key(rnd.IntN(5)), Policy: p, Tenant: tenant, Consumer: fmt.Sprint(tenant, "/c", rnd.IntN(2)), Model: "m"}
		mine := fmt.Sprintf("%s %s %s", p.ID, scope, a.owner())
		l := c.Get(context.Background(), a)
		if l.Outcome == Miss {
			buy(t, c, a, mine)
			continue
		}
		hits++
		if got := string(l.Entry.Body); got != mine {
			t.Fatalf("%q got what belongs to %q", mine, got)
		}
	}
	if hits < 1000 {
		t.Errorf("only %d hits: nothing is tested", hits)
	}
}
