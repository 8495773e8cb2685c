package limit

import (
	"context"
	"fmt"
	"testing"
	"time"
)

// threeRules are what a request usually has: requests and tokens of its tenant, and a budget for all.
func threeRules(mode Mode) []*Rule {
	per := func(r *Rule) { r.Per, r.Sharing = PerTenant, mode }
	return []*Rule{
		rule("rpm", Requests, 1e15, per), rule("tpm", TotalTokens, 1e15, per, func(r *Rule) { r.Algorithm = TokenBucket }),
		budget("b", 1e17, func(r *Rule) { r.Sharing = mode }),
	}
}

var benchEstimate = Estimate{Input: 700, Output: 300, HasMax: true, Cost: 12_000}

func admitAndSettle(e *Engine, rules []*Rule, s Subject) {
	g, no := e.Admit(context.Background(), rules, s, benchEstimate)
	if no != nil {
		panic(no.Error())
	}
	g.Settle(Amounts{Input: 690, Output: 120, Cost: 9000})
}

func BenchmarkAdmit(b *testing.B) {
	e := New(Options{})
	defer e.Close(context.Background())
	rules := threeRules(Local)
	b.ReportAllocs()
	for b.Loop() {
		admitAndSettle(e, rules, Subject{Tenant: "acme"})
	}
}

func BenchmarkAdmitParallel(b *testing.B) {
	e := New(Options{})
	defer e.Close(context.Background())
	rules := threeRules(Local)
	var tenants [64]Subject
	for i := range tenants {
		tenants[i].Tenant = fmt.Sprintf("tenant-%d", i)
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			admitAndSettle(e, rules, tenants[i%len(tenants)])
		}
	})
}

func BenchmarkRefuse(b *testing.B) {
	e, _ := local(b)
	rules := append(threeRules(Local), rule("one", Requests, 1))
	e.Admit(context.Background(), rules, Subject{}, benchEstimate)
	b.ReportAllocs()
	for b.Loop() {
		if _, no := e.Admit(context.Background(), rules, Subject{}, benchEstimate); no == nil {
			b.Fatal("admitted")
		}
	}
}

// BenchmarkLease admits from pools of a store that answers at once.
func BenchmarkLease(b *testing.B) {
	e := New(Options{Remote: endless{}})
	defer e.Close(context.Background())
	rules := threeRules(Lease)
	b.ReportAllocs()
	for b.Loop() {
		admitAndSettle(e, rules, Subject{Tenant: "acme"})
	}
}

// endless is a store that grants everything.
type endless struct{}

func (endless) Acquire(_ context.Context, _ Counter, _, want int64) (Acquired, error) {
	return Acquired{Granted: want, Remaining: 1e17, At: time.Now()}, nil
}
func (endless) Adjust(context.Context, Counter, int64, time.Time) error { return nil }
func (endless) Ping(context.Context) error                              { return nil }
func (endless) Restore(Counter, int64)                                  {}
func (endless) Replicas() int                                           { return 1 }

// TestAdmitAllocatesTheGrantAlone: it is on every request's path.
func TestAdmitAllocatesTheGrantAlone(t *testing.T) {
	e, _ := local(t)
	rules := threeRules(Local)
	s := Subject{Tenant: "acme"}
	if n := testing.AllocsPerRun(200, func() { admitAndSettle(e, rules, s) }); n > 1 {
		t.Errorf("%v allocations", n)
	}
}
