package pick

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"github.com/weir-dev/weir/extproc/breaker"
)

// TestPreviewEqualsTryPick picks from pools of every kind. Before each pick it looks: that changes nothing, and gives what is then picked.
func TestPreviewEqualsTryPick(t *testing.T) {
	reasons, refusals := map[string]int{}, map[RefusalReason]int{}
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 5))
		n := 1 + rnd.IntN(40)
		policy := &Policy{Choices: rnd.IntN(4), KVLimit: 0.9}
		if rnd.IntN(2) == 0 {
			policy.Prefix = &Prefix{BlockTokens: 16, MaxBlocks: 1000, MaxGapTokens: 10_000}
		}
		if rnd.IntN(2) == 0 {
			policy.Session = &Session{Header: "x-session-id", IdleTimeout: time.Minute, MaxGapTokens: 10_000}
		}
		if rnd.IntN(2) == 0 {
			policy.Admission = &Admission{MaxRequests: 1 + rnd.IntN(4), MaxTokens: int64(rnd.IntN(2)) * 2000}
		}
		if rnd.IntN(2) == 0 {
			policy.Breaker = &breaker.Rule{ID: "b", Name: "b", ErrorPercent: 30, MinRequests: 1, Window: 10 * time.Second, OpenFor: time.Second, HalfOpenRequests: 1}
		}
		if rnd.IntN(6) == 0 {
			policy.Mode = Weights
		}
		list := make([]Endpoint, n)
		for i := range list {
			list[i] = Endpoint{Key: fmt.Sprint("e", i), Base: 1, Factor: 0.2 + rnd.Float64(), KV: rnd.Float64(), Isolated: rnd.IntN(8) == 0, Panic: rnd.IntN(20) == 0}
		}
		r := newRig(t, policy, list)
		var open []*Pick
		for i := range 80 {
			r.now = r.now.Add(time.Duration(rnd.Int64N(int64(200 * time.Millisecond))))
			q := Request{Pool: testPool, Tokens: 1 + rnd.Int64N(1000), Session: fmt.Sprint(rnd.IntN(5)), Tenant: "t"}
			for b := range rnd.IntN(10) {
				q.Blocks = append(q.Blocks, uint64(rnd.IntN(3)*100+b+1))
			}
			state, breakers := r.Snapshot(r.now), r.breakers.States(r.now)
			k, no, seen := r.Preview(&q, r.now)
			if after := r.Snapshot(r.now); !reflect.DeepEqual(state, after) {
				t.Fatalf("seed %d, request %d: looking changed\n%+v\nto\n%+v", seed, i, state, after)
			}
			if after := r.breakers.States(r.now); !reflect.DeepEqual(breakers, after) {
				t.Fatalf("seed %d, request %d: looking changed the breakers\n%+v\nto\n%+v", seed, i, breakers, after)
			}
			if len(seen.Endpoints) != n || seen.Mode != policy.Mode {
				t.Fatalf("seed %d: %d of %d endpoints were seen, mode %s", seed, len(seen.Endpoints), n, seen.Mode)
			}
			got, refusal := r.TryPick(&q, r.now)
			if !reflect.DeepEqual(refusal, no) {
				t.Fatalf("seed %d, request %d: told %+v, foreseen %+v", seed, i, refusal, no)
			}
			if refusal != nil {
				refusals[refusal.Reason]++
				continue
			}
			if !reflect.DeepEqual(got.Endpoints, k.Endpoints) || got.Reason != k.Reason || got.Cached != k.Cached {
				t.Fatalf("seed %d, request %d: picked %v by %s with %d cached, foreseen %v by %s with %d", seed, i,
					got.Endpoints, got.Reason, got.Cached, k.Endpoints, k.Reason, k.Cached)
			}
			k.Drop() // does nothing
			reasons[got.Reason]++
			open = append(open, got)
			for len(open) > rnd.IntN(12) {
				bad := rnd.IntN(4) == 0
				open[0].Done(Ending{At: r.now, OK: !bad, Failed: bad, TTFT: time.Duration(1+rnd.IntN(500)) * time.Millisecond})
				open = open[1:]
			}
		}
	}
	for _, want := range []string{ByLoad, BySession, ByPrefix, ByEnvoy} {
		if reasons[want] < 100 {
			t.Errorf("%d picks by %s: the test says little", reasons[want], want)
		}
	}
	if refusals[Full] < 100 || refusals[Unavailable] < 20 {
		t.Errorf("refusals %v: the test says little", refusals)
	}
}

// TestPreviewOfNoPool: what is not there is said to be not there.
func TestPreviewOfNoPool(t *testing.T) {
	r := newRig(t, &Policy{}, endpoints(1, nil))
	if k, no, seen := r.Preview(&Request{Pool: "another"}, r.now); k != nil || no == nil || no.Reason != NoPool || seen.Endpoints != nil {
		t.Errorf("%+v, %+v, %+v", k, no, seen)
	}
}
