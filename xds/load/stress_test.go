package load

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/extproc/pick"
	"github.com/weir-dev/weir/usage"
	"github.com/weir-dev/weir/xds/compile"
	"github.com/weir-dev/weir/xds/load/lrs"
	"github.com/weir-dev/weir/xds/load/signal"
)

// TestAtOnce does everything at once, and looks at what is left. It is for the race detector, too.
func TestAtOnce(t *testing.T) {
	r := newRig(t)
	// Nobody listens there, which is known at once.
	keys := []string{"127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3", "127.0.0.1:4"}
	versionOf := func(random *rand.Rand) *Steering {
		var pools []*compile.Pool
		routes := map[string]compile.SteeredRoute{}
		for i := range 1 + random.IntN(3) {
			p := poolOf(fmt.Sprintf("default/pool-%d", i), keys[:1+random.IntN(len(keys))]...)
			p.Metrics = [][]v1alpha1.MetricsSource{nil, {vllm}, {dcgm, vllm}, {{Type: v1alpha1.MetricsORCA}}}[random.IntN(4)]
			p.PublishPercent = random.IntN(10)
			switch random.IntN(4) {
			case 0:
				p.Health, p.Breaker = nil, nil
			case 1:
				named(p)
			}
			pools = append(pools, p)
			routes["r"] = routeOf(append(routes["r"].Members, to(p.Backend, uint32(random.IntN(5)), int32(random.IntN(2))))...)
		}
		return steeringOf(routes, pools...)
	}
	r.Use(versionOf(rand.New(rand.NewPCG(0, 0))))
	ctx, cancel := context.WithCancel(t.Context())
	var running, working sync.WaitGroup
	running.Go(func() { r.Run(ctx) })
	const rounds = 300
	work := func(f func(*rand.Rand)) {
		seed := rand.Uint64()
		working.Go(func() {
			random := rand.New(rand.NewPCG(seed, 1))
			for range rounds {
				f(random)
			}
		})
	}
	pool := func(random *rand.Rand) *compile.Pool {
		p := poolOf(fmt.Sprintf("default/pool-%d", random.IntN(3)), keys...)
		p.Metrics = []v1alpha1.MetricsSource{vllm, dcgm}
		return p
	}
	work(func(random *rand.Rand) { r.Use(versionOf(random)) })
	for range 2 {
		work(func(random *rand.Rand) {
			p, i := pool(random), random.IntN(len(keys))
			r.read(r.reading(p, i, random.IntN(2), gpuAt(random.Float64())))
			r.checked(r.check(p, i, random.IntN(3) > 0))
		})
		work(func(random *rand.Rand) {
			p, key := pool(random), keys[random.IntN(len(keys))]
			r.Observe(&usage.Record{Backend: p.Backend, Endpoint: key, Status: 200, FirstToken: ms, Signals: map[string]string{
				p.Backend + " " + key: []string{"429\nretry-after: 1", "200\nx-ratelimit-remaining-tokens: 0"}[random.IntN(2)],
			}})
			r.Report(lrs.Report{Stream: random.Uint64N(3), Cluster: p.Cluster, Endpoint: key, InFlight: random.Uint64N(3), Successes: 1, Errors: 1})
		})
		work(func(random *rand.Rand) {
			p := pool(random)
			r.Share(p.Backend)
			if got, refused := r.picker.TryPick(&pick.Request{Pool: p.Backend, Tokens: 5}, r.now()); refused == nil {
				got.Done(pick.Ending{At: r.now(), Attempts: 1, OK: random.IntN(3) == 0, TTFT: ms})
			}
		})
	}
	work(func(*rand.Rand) { r.elapsed.Add(int64(50 * ms)); r.tick(r.now()) })
	work(func(random *rand.Rand) {
		for _, p := range r.State().Pools {
			for _, e := range p.Endpoints {
				if (e.Why() == "") || e.Base == 0 {
					t.Errorf("half a state: %+v", e)
				}
			}
		}
		if _, err := r.registry.Gather(); err != nil {
			t.Error(err)
		}
	})
	work(func(random *rand.Rand) {
		r.mu.Lock()
		n := len(r.overlays)
		r.mu.Unlock()
		r.Steered(uint64(n), r.now(), []string{"", "no"}[random.IntN(2)])
		r.Wake()
	})
	working.Wait()
	cancel()
	running.Wait()

	last := poolOf("default/pool-1", keys[1], keys[3])
	r.Use(steeringOf(nil, last))
	r.tick(r.now())
	picks := r.picker.Snapshot(r.now())
	if len(picks) != 1 || picks[0].Pool != last.Backend {
		t.Fatalf("the picker has %+v", picks)
	}
	var has []string
	for _, e := range picks[0].Endpoints {
		if !e.Removed {
			has = append(has, e.Key)
		}
	}
	if !slices.Equal(has, []string{keys[1], keys[3]}) {
		t.Errorf("the picker has %v", has)
	}
	if got := r.last().Endpoints; len(got) != 1 || len(got[last.Cluster].GetEndpoints()[0].GetLbEndpoints()) != 2 {
		t.Errorf("Envoy is told %v", got)
	}
	for i, o := range r.overlays {
		if o.Serial != uint64(i+1) {
			t.Fatalf("the overlay %d is the %dth", o.Serial, i+1)
		}
	}
}

// crowd is a pool of n endpoints under load that is as uneven as load is.
type crowd struct {
	*rig
	pool   *compile.Pool
	random *rand.Rand
	turn   int
}

func newCrowd(t testing.TB, n int) *crowd {
	c := &crowd{rig: newRig(t), pool: poolOf("default/pool", keysOf(n)...), random: rand.New(rand.NewPCG(1, 2))}
	c.Use(steeringOf(nil, c.pool))
	c.tick(c.now())
	return c
}

// pass lets a tick go by, in which half of the endpoints are read and each ends some requests, as happens twice a second: queues of 0 to
// 200 ms, caches of 40 to 80 %, GPUs of 50 to 80 %, and times to the first token that vary by half of what they are.
func (c *crowd) pass(requests float64) {
	for i := range c.pool.Endpoints {
		if i%2 == c.turn%2 {
			c.read(c.reading(c.pool, i, 0, func(s *signal.Sample) {
				queueAt(time.Duration(c.random.IntN(200)) * ms)(s)
				gpuAt(0.5 + 0.3*c.random.Float64())(s)
				s.KVCache, s.Has = 0.4+0.4*c.random.Float64(), s.Has.With(signal.KVCache)
			}))
		}
		n := int(requests)
		if c.random.Float64() < requests-float64(n) {
			n++
		}
		for range n {
			took := time.Duration(float64(400*ms) * max(0.1, 1+0.5*c.random.NormFloat64()))
			c.Observe(&usage.Record{Backend: c.pool.Backend, Endpoint: c.pool.Endpoints[i].Key, Status: 200, FirstToken: took})
		}
	}
	c.turn++
	c.elapsed.Store(int64(time.Duration(c.turn) * c.pool.Tick))
	c.tick(c.now())
}

// TestNoise counts what a large pool under steady load tells Envoy. Its metrics vary and cross no line, which is nothing to tell; how soon
// answers come varies too, which is told about once a second.
func TestNoise(t *testing.T) {
	const seconds = 20
	for _, requests := range []float64{0, 0.25, 2} { // per endpoint and tick
		c := newCrowd(t, 1000)
		for range 40 {
			c.pass(requests)
		}
		before := c.sent()
		for range seconds * 4 {
			c.pass(requests)
		}
		sent := c.sent() - before
		t.Logf("%4.0f requests a second at each of 1,000 endpoints: %.2f overlays a second", requests*4, float64(sent)/seconds)
		if requests == 0 && sent > 0 {
			t.Errorf("nothing has crossed a line, and Envoy was told %d times", sent)
		}
		if most := seconds * 6 / 5; sent > most {
			t.Errorf("Envoy was told %d times in %d s of drift, and it may be %d times", sent, seconds, most)
		}
		if requests > 0 && sent < seconds/2 {
			t.Errorf("weights have drifted for %d s, and Envoy was told %d times", seconds, sent)
		}
	}
}

// BenchmarkTick is one tick of a pool of 1,000 endpoints, two of which have been read since the last one.
func BenchmarkTick(b *testing.B) {
	c := newCrowd(b, 1000)
	for range 40 {
		c.pass(1)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		for range 2 {
			c.read(c.reading(c.pool, i%1000, 0, queueAt(time.Duration(i/1000%2)*time.Second)))
		}
		before := computed(c)
		c.step(c.pool.Tick)
		if !computed(c).After(before) {
			b.Fatal("nothing was computed")
		}
	}
}

// computed is when a crowd's weights were computed last.
func computed(c *crowd) time.Time { return (*c.pools.Load())[c.pool.Backend].computed }
