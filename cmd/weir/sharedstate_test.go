package main

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/extproc/limit"
	"github.com/weir-dev/weir/extproc/table"
	"github.com/weir-dev/weir/internal/redisconn"
	"github.com/weir-dev/weir/test/redistest"
	"github.com/weir-dev/weir/usage/ledger"
	"github.com/weir-dev/weir/xds/compile"
)

// logged is a log that tests read.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func accountingFor(t *testing.T, log io.Writer) *accounting {
	t.Helper()
	a, err := newAccounting(t.TempDir(), &identity.StoredKeys{}, nil, slog.New(slog.NewTextHandler(log, nil)), prometheus.NewRegistry(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.close)
	return a
}

// sharing are settings with a Redis, whose timeout a busy machine does not reach; changes may follow.
func sharing(addr string, changes ...func(*compile.Settings)) compile.Settings {
	set := compile.Settings{
		Retention: time.Hour,
		Shared:    &compile.Shared{Redis: redisconn.Config{Addresses: []string{addr}, Timeout: storeTimeout * 3 / 4}, KeyPrefix: "test"},
	}
	for _, c := range changes {
		c(&set)
	}
	return set
}

// untilIs waits for a condition; only a broken one takes long.
func untilIs(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it never came to this: %s", what)
		}
	}
}

func admit(t *testing.T, a *accounting, r *limit.Rule, est limit.Estimate) *limit.Grant {
	t.Helper()
	g, no := a.limits.Admit(context.Background(), []*limit.Rule{r}, limit.Subject{}, est)
	if no != nil {
		t.Fatalf("refused: %v", no)
	}
	return g
}

// TestRunningRequestsStayCounted over every change of what is shared.
func TestRunningRequestsStayCounted(t *testing.T) {
	here, there := redistest.Start(t), redistest.Start(t)
	retention := func(s *compile.Settings) { s.Retention = 2 * time.Hour }
	ships := func(s *compile.Settings) { s.ShipLedger = true }
	keys := func(s *compile.Settings) { s.StoredKeys = true }
	slower := func(s *compile.Settings) { s.Shared.Redis.Timeout = storeTimeout * 4 / 5 }
	for name, x := range map[string]struct {
		to    compile.Settings
		moves bool // to where other counters are
	}{
		"nothing":         {sharing(here.Addr), false},
		"retention":       {sharing(here.Addr, retention), false},
		"ledger":          {sharing(here.Addr, ships), false},
		"keys":            {sharing(here.Addr, keys, ships), false},
		"another timeout": {sharing(here.Addr, slower, keys), false},
		"another server":  {sharing(there.Addr, keys, ships), true},
	} {
		t.Run(name, func(t *testing.T) {
			a, other := accountingFor(t, io.Discard), accountingFor(t, io.Discard)
			a.apply(sharing(here.Addr))
			other.apply(sharing(here.Addr))
			r := &limit.Rule{ID: name, Name: name, Unit: limit.Concurrent, Limit: 4, Sharing: limit.Exact, OnFailure: limit.Deny}
			var running []*limit.Grant
			for range 3 {
				running = append(running, admit(t, a, r, limit.Estimate{}))
			}
			remote := a.shared.remote.Load()
			a.apply(x.to)
			if a.shared.remote.Load() != remote {
				t.Fatal("who counts is another one, which knows nothing of what runs")
			}
			if x.moves {
				other.apply(x.to)
				// Whether or not the loss of the old data has been noticed, both write theirs.
				untilIs(t, "both have moved", func() bool {
					b := a.shared.remote.Load()
					return b.Ping(context.Background()) == nil && other.shared.remote.Load().Ping(context.Background()) == nil && b.Replicas() == 2
				})
			}
			admit(t, a, r, limit.Estimate{})
			for _, who := range []*accounting{a, other} {
				if g, no := who.limits.Admit(context.Background(), []*limit.Rule{r}, limit.Subject{}, limit.Estimate{}); no == nil || no.Kind != limit.Limited {
					t.Errorf("a fifth of four is admitted: %v, %+v", g, no)
				}
			}
			for _, g := range running {
				g.Settle(limit.Amounts{})
			}
			untilIs(t, "what has ended comes free for the other", func() bool {
				g, no := other.limits.Admit(context.Background(), []*limit.Rule{r}, limit.Subject{}, limit.Estimate{})
				g.Settle(limit.Amounts{})
				return no == nil
			})
			body := a.shared.status()
			if body.Problem != "" || (body.Keys != nil) != x.to.StoredKeys {
				t.Errorf("%+v", body)
			}
		})
	}
}

// TestShipperAndKeysComeAndGo alone: each is started and ended by what the settings say of it.
func TestShipperAndKeysComeAndGo(t *testing.T) {
	srv := redistest.Start(t)
	a := accountingFor(t, io.Discard)
	enter := func(id string) {
		e := ledger.Entry{ID: id, Time: time.Now(), Tenant: "acme", Currency: "USD", Cost: 1}
		a.ledger.Begin(ledger.Intent{ID: id, Time: e.Time, Tenant: "acme"})
		a.ledger.Commit(e)
	}
	shippedIs := func(want int64) {
		t.Helper()
		untilIs(t, "entries are sent", func() bool { return srv.Client().XLen(context.Background(), "{test:ledger}").Val() == want })
	}
	on := sharing(srv.Addr, func(s *compile.Settings) { s.ShipLedger, s.StoredKeys = true, true })
	enter("a")
	for i, set := range []compile.Settings{on, sharing(srv.Addr), on, on} {
		a.apply(set)
		a.shared.mu.Lock()
		c := a.shared.current
		ships, watches := c.ships != nil, c.watches != nil
		a.shared.mu.Unlock()
		if ships != set.ShipLedger || watches != set.StoredKeys {
			t.Fatalf("%d: ships %v, watches %v", i, ships, watches)
		}
		if set.ShipLedger {
			shippedIs(int64(1 + i/2))
		} else {
			enter("b")
		}
	}
}

// TestARedisThatCannotBeUsed: what was in use stays so, the log says that, and it is tried again.
func TestARedisThatCannotBeUsed(t *testing.T) {
	srv := redistest.Start(t)
	var log logged
	a := accountingFor(t, &log)
	a.shared.retryEvery = time.Millisecond
	bad := sharing("no port")
	a.apply(bad)
	if !strings.Contains(log.String(), "limits follow their onFailure") {
		t.Errorf("the log says: %s", log.String())
	}
	r := &limit.Rule{ID: "rpm", Name: "rpm", Limit: 10, Window: time.Hour, Sharing: limit.Exact, OnFailure: limit.Deny}
	if _, no := a.limits.Admit(context.Background(), []*limit.Rule{r}, limit.Subject{}, limit.Estimate{}); no == nil || no.Kind != limit.StoreDown {
		t.Errorf("%+v", no)
	}
	if b := a.shared.status(); b == nil || b.Problem == "" {
		t.Errorf("status says %+v", b)
	}
	a.apply(sharing(srv.Addr))
	a.apply(bad)
	if !strings.Contains(log.String(), "what was in use before stays in use") {
		t.Errorf("the log says: %s", log.String())
	}
	untilIs(t, "the old one is used", func() bool {
		g, _ := a.limits.Admit(context.Background(), []*limit.Rule{r}, limit.Subject{}, limit.Estimate{})
		return g != nil
	})
	// The retry uses what the settings say then: here the address becomes a good one.
	a.shared.mu.Lock()
	bad.Shared.Redis.Addresses[0] = srv.Addr
	a.shared.mu.Unlock()
	untilIs(t, "it is tried again", func() bool { return a.shared.status().Problem == "" })
	if n := strings.Count(log.String(), "level=ERROR"); n != 2 {
		t.Errorf("%d complaints for two problems: %s", n, log.String())
	}
}

// TestNothingSharedAnyMore: limits go on here alone, with nobody looking for what is gone.
func TestNothingSharedAnyMore(t *testing.T) {
	srv := redistest.Start(t)
	var log logged
	a := accountingFor(t, &log)
	a.apply(sharing(srv.Addr))
	r := &limit.Rule{ID: "tpm", Name: "tpm", Unit: limit.TotalTokens, Limit: 1000, Window: time.Hour, Sharing: limit.Lease, OnFailure: limit.Deny}
	g := admit(t, a, r, limit.Estimate{Input: 100, HasMax: true})
	a.apply(compile.Settings{})
	g.Settle(limit.Amounts{Input: 500})
	for range 5 {
		admit(t, a, r, limit.Estimate{Input: 100, HasMax: true})
	}
	if st := a.limits.Store(); st.Down || st.Configured || a.shared.status() != nil || strings.Contains(log.String(), "WARN") {
		t.Errorf("%+v: %s", st, log.String())
	}
}

// TestBudgetsAreRestored from the ledger: once, however often, in shared budgets as well, and whatever is settled meanwhile.
func TestBudgetsAreRestored(t *testing.T) {
	srv := redistest.Start(t)
	for name, mode := range map[string]limit.Mode{"here": limit.Local, "lease": limit.Lease, "exact": limit.Exact} {
		t.Run(name, func(t *testing.T) {
			a := accountingFor(t, io.Discard)
			now := time.Now()
			settled := func(id, tenant, gateway, model, currency string, cost int64) {
				a.ledger.Begin(ledger.Intent{ID: id, Time: now, Tenant: tenant})
				a.ledger.Commit(ledger.Entry{ID: id, Time: now, Tenant: tenant, Namespace: "ns", Consumer: "c", Gateway: gateway, Model: model, Currency: currency, Cost: cost})
			}
			settled("1", "acme", "ns/gw", "a", "USD", 100)
			settled("2", "acme", "ns/gw", "b", "USD", 50)
			settled("3", "acme", "", "a", "USD", 25) // before gateways were noted
			settled("4", "acme", "ns/other", "a", "USD", 1000)
			settled("5", "acme", "ns/gw", "a", "EUR", 1000)
			settled("6", "rich", "ns/gw", "a", "USD", 300)
			made := func(id string, period limit.Period, per limit.Scope) *limit.Rule {
				return &limit.Rule{
					ID: "Budget/" + name + id, Name: id, Unit: limit.Cost, Algorithm: limit.Calendar, Period: period, Limit: 10_000, Per: per, Sharing: mode,
				}
			}
			version := func(r *limit.Rule) *table.Table {
				p := &table.Policy{Limits: []*limit.Rule{r}}
				return &table.Table{Currency: "USD", Policies: table.Policies{Gateways: map[string][]*table.Policy{"ns/gw": {p}}}}
			}
			if mode != limit.Local {
				a.apply(sharing(srv.Addr))
			} else {
				a.apply(compile.Settings{})
			}
			left := func(r *limit.Rule, tenant string) int64 {
				t.Helper()
				s := limit.Subject{Tenant: tenant}
				// What is shared is known by what a request is refused for.
				if _, no := a.limits.Admit(context.Background(), []*limit.Rule{r}, s, limit.Estimate{Cost: r.Limit, HasMax: true}); no != nil {
					return no.Remaining
				}
				return r.Limit
			}
			restore := func(tab *table.Table) {
				t.Helper()
				if err := a.restoreBudgets(context.Background(), tab, now); err != nil {
					t.Fatal(err)
				}
			}
			month := made("b", limit.Month, limit.PerTenant)
			restore(version(month))
			restore(version(month))
			if n := left(month, "acme"); n != 10_000-175 {
				t.Errorf("%d are left to acme, which has spent 175", n)
			}
			if n := left(month, "rich"); n != 10_000-300 {
				t.Errorf("%d are left to rich, which has spent 300", n)
			}
			// Settled and entered between two configurations: both know of it, and it counts once.
			g, no := a.limits.Admit(context.Background(), []*limit.Rule{month}, limit.Subject{Tenant: "acme"}, limit.Estimate{Cost: 20, HasMax: true})
			if no != nil {
				t.Fatal(no)
			}
			restore(version(month))
			g.Settle(limit.Amounts{Cost: 25})
			settled("7", "acme", "ns/gw", "a", "USD", 25)
			restore(version(month))
			if n := left(month, "acme"); n != 10_000-200 {
				t.Errorf("%d are left to acme, which has spent 200", n)
			}
			// The same budget by the day, and for all: other counters, of the same ID.
			day := made("b", limit.Day, limit.PerTarget)
			restore(version(day))
			if n := left(day, ""); n != 10_000-500 {
				t.Errorf("%d are left of the day, in which 500 were spent", n)
			}
			// Gone and made again, after more was spent.
			restore(&table.Table{Currency: "USD"})
			settled("8", "acme", "ns/gw", "a", "USD", 11)
			restore(version(day))
			if n := left(day, ""); n != 10_000-511 {
				t.Errorf("%d are left of the day, in which 511 were spent", n)
			}
		})
	}
}
