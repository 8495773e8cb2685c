//go:build linux || darwin

package lane

import (
	"fmt"
	"testing"
	"time"
)

// idle is a Maker that costs nothing.
type idle struct{}

func (idle) Admit() (Claim, bool) { return Claim{}, true }
func (idle) Begin(string, Claim)  {}
func (idle) Cancel(Claim)         {}
func (idle) Limits() Limits       { return Limits{Requests: 1000, Tokens: 1000, Each: 1} }

func offers(b *testing.B, r *rig, n int) (out []*lua, keys []string) {
	b.Helper()
	for i := range n {
		key := fmt.Sprintf("listener/worker-%d POST /v1/chat/completions Bearer sk-0123456789abcdef gpt-5-mini", i)
		ticket, ok := r.set.Offer(key, func() Maker { return idle{} }, time.Time{})
		if !ok {
			b.Fatal("no lane")
		}
		out, keys = append(out, newLua(b, r.mem, ticket)), append(keys, key)
	}
	return out, keys
}

// BenchmarkOffer is the ticket of a lane that lives.
func BenchmarkOffer(b *testing.B) {
	r := newRig(b)
	_, keys := offers(b, r, 100)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			d := newDeskFor(i)
			if _, ok := r.set.Offer(keys[i%len(keys)], func() Maker { return d }, time.Time{}); !ok {
				b.Error("no lane")
			}
		}
	})
}

// newDeskFor is a Maker that the function of an Offer refers to.
func newDeskFor(int) idle { return idle{} }

// BenchmarkLook is one look of Run at 100 lanes of which each 10th, or all, have 4 uses.
func BenchmarkLook(b *testing.B) {
	for name, each := range map[string]int{"idle": 1000, "a tenth": 10, "all": 1} {
		b.Run(name, func(b *testing.B) {
			r := newRig(b)
			lanes, _ := offers(b, r, 100)
			b.ReportAllocs()
			var list []*lane
			for b.Loop() {
				for i := each - 1; i < len(lanes); i += each {
					r.mem.used(lanes[i].slot).Add(4)
				}
				list = r.set.step(r.now(), list)
			}
		})
	}
}

// BenchmarkBegun is what each record costs.
func BenchmarkBegun(b *testing.B) {
	for name, id := range map[string]string{"of a lane": "w-L0.11.1", "of others": "w-0123456789ab"} {
		b.Run(name, func(b *testing.B) {
			r := newRig(b)
			lanes, _ := offers(b, r, 1)
			lanes[0].use()
			r.look()
			b.ReportAllocs()
			for b.Loop() {
				r.set.Begun(id)
			}
		})
	}
}

// BenchmarkOpen is a lane from its first claims to its end, without the wait for it.
func BenchmarkOpen(b *testing.B) {
	r := newRig(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := r.set.Offer("key", func() Maker { return idle{} }, time.Time{}); !ok {
			b.Fatal("no lane")
		}
		l := r.set.lanes[0]
		l.mu.Lock()
		l.stop(reasonVersion)
		l.finish()
		l.mu.Unlock()
		r.add(slotRest)
	}
}
