package pick

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/extproc/breaker"
)

// BenchmarkPick is one Pick and its Done, with breakers, while 4 requests an endpoint are in flight. With prefixes the
// prompt has 12,000 tokens in 187 blocks, half of which other prompts share.
func BenchmarkPick(b *testing.B) {
	for _, n := range []int{8, 100, 1000} {
		for _, prefixes := range []bool{false, true} {
			b.Run(fmt.Sprintf("endpoints=%d/prefixes=%v", n, prefixes), func(b *testing.B) {
				policy := &Policy{KVLimit: 0.98, Breaker: tight()}
				if prefixes {
					policy.Prefix = &Prefix{BlockTokens: 64, MaxBlocks: 200_000, MaxGapTokens: 16384}
				}
				now := start
				s := NewSet(Options{Now: func() time.Time { return now }, Breakers: breaker.New(breaker.Options{})})
				s.Update(testPool, policy, endpoints(n, nil))
				rnd := rand.New(rand.NewPCG(1, 1))
				requests := make([]Request, 512)
				for i := range requests {
					requests[i] = Request{Pool: testPool, Tokens: 12_000}
					if prefixes {
						requests[i].Blocks = append(prompt(rand.New(rand.NewPCG(uint64(i%64), 1)), 1<<30, 93), prompt(rnd, 1<<30, 94)...)
					}
				}
				ring := make([]*Pick, 4*n)
				b.ReportAllocs()
				i := 0
				for b.Loop() {
					now = now.Add(time.Millisecond)
					p, refusal := s.TryPick(&requests[i%len(requests)], now)
					if refusal != nil {
						b.Fatalf("%+v", *refusal)
					}
					if old := ring[i%len(ring)]; old != nil {
						old.Done(Ending{At: now, OK: true, TTFT: 20 * time.Millisecond})
					}
					ring[i%len(ring)] = p
					i++
				}
			})
		}
	}
}

// BenchmarkPickParallel is many requests of one pool at once.
func BenchmarkPickParallel(b *testing.B) {
	s := NewSet(Options{Breakers: breaker.New(breaker.Options{})})
	s.Update(testPool, &Policy{Breaker: tight()}, endpoints(8, nil))
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		r := Request{Pool: testPool, Tokens: 700}
		for pb.Next() {
			p, _ := s.TryPick(&r, start)
			p.Done(Ending{At: start, OK: true, TTFT: 20 * time.Millisecond})
		}
	})
}

// BenchmarkAppendBlocks is a prompt of 48 kB.
func BenchmarkAppendBlocks(b *testing.B) {
	r := &canon.Request{Messages: []canon.Message{text(canon.RoleUser, string(make([]byte, 48_000)))}}
	b.SetBytes(48_000)
	b.ReportAllocs()
	var out []uint64
	for b.Loop() {
		out = AppendBlocks(out[:0], "m", r, 64)
	}
}

// BenchmarkUpdate is what the controller does on every tick.
func BenchmarkUpdate(b *testing.B) {
	s := NewSet(Options{})
	list, policy := endpoints(1000, nil), &Policy{}
	b.ReportAllocs()
	for b.Loop() {
		s.Update(testPool, policy, list)
	}
}

// TestAllocations: a pick is one allocation, whatever it is made of.
func TestAllocations(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	r := newRig(t, &Policy{Breaker: tight(), KVLimit: 0.98, Prefix: &Prefix{BlockTokens: 64, MaxBlocks: 10_000, MaxGapTokens: 1000},
		Session: &Session{IdleTimeout: time.Minute, MaxGapTokens: 1000}}, endpoints(100, nil))
	q := Request{Pool: testPool, Tokens: 5000, Session: "s", Blocks: prompt(rnd, 1<<30, 70)}
	if n := testing.AllocsPerRun(500, func() {
		p, _ := r.TryPick(&q, r.now)
		p.Done(Ending{At: r.now, OK: true, TTFT: time.Millisecond})
	}); n > 1 {
		t.Errorf("%v allocations", n)
	}
}
