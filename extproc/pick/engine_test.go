package pick

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/weir-dev/weir/test/sim/gpu/engine"
)

// arrival is a request of a simulation.
type arrival struct {
	at      time.Duration
	in, out int
	server  int
	first   time.Duration
	pick    *Pick
}

// simulate sends requests to eight engines, of which the first two work at a speed until they recover, and gives the 99th
// percentile of the time to the first token. choose is told what is in flight by requests; nil is this package, which is told
// nothing but how requests end: no metrics, no first tokens when they come.
func simulate(t *testing.T, requests []arrival, speed float64, recover time.Duration, choose func(inFlight []int) int) time.Duration {
	profile, err := engine.ProfileByName("qwen3-14b-h100")
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, &Policy{}, endpoints(8, nil))
	inFlight := make([]int, 8)
	engines := make([]*engine.Engine, 8)
	for i := range engines {
		engines[i], err = engine.New(profile, engine.Options{Emit: func(e engine.Event) {
			a := &requests[e.ID]
			switch e.Kind {
			case engine.FirstToken:
				a.first = e.At - a.at
			case engine.Finished:
				inFlight[a.server]--
				if a.pick != nil {
					a.pick.Done(Ending{At: start.Add(e.At), OK: true, TTFT: a.first})
				}
			}
		}})
		if err != nil {
			t.Fatal(err)
		}
		if i < 2 {
			engines[i].SetFault(engine.Fault{Speed: speed})
		}
	}
	until := func(at time.Duration) {
		for _, e := range engines {
			e.Advance(at)
		}
		r.now = start.Add(at)
	}
	slow := true
	for i := range requests {
		a := &requests[i]
		until(a.at)
		if slow && a.at >= recover {
			slow = false
			engines[0].SetFault(engine.Fault{})
			engines[1].SetFault(engine.Fault{})
		}
		if choose != nil {
			a.server = choose(inFlight)
		} else {
			a.pick = r.pick(Request{Tokens: int64(a.in)})
			a.server = int(a.pick.Endpoints[0][0] - 'a')
		}
		inFlight[a.server]++
		if err := engines[a.server].Submit(engine.Request{ID: uint64(i), PromptTokens: a.in, OutputTokens: a.out, ArriveAt: a.at}); err != nil {
			t.Fatal(err)
		}
	}
	until(requests[len(requests)-1].at + 5*time.Minute)
	var all []time.Duration
	for i := range requests[len(requests)/5:] {
		all = append(all, requests[len(requests)/5+i].first)
	}
	if n := slices.Index(all, 0); n >= 0 {
		t.Fatalf("request %d got no token", n)
	}
	slices.Sort(all)
	r.empty()
	return all[len(all)*99/100]
}

const never = time.Duration(math.MaxInt64)

// chats are so many requests, in bursts, at a rate a second.
func chats(rnd *rand.Rand, n int, rate float64, burst int) (out []arrival) {
	draw := func(median, sigma float64, most int) int {
		return min(most, max(8, int(median*math.Exp(sigma*rnd.NormFloat64()))))
	}
	for at := time.Duration(0); len(out) < n; at += time.Duration(rnd.ExpFloat64() * float64(burst) * float64(time.Second) / rate) {
		for range burst {
			out = append(out, arrival{at: at, in: draw(1200, 0.9, 8000), out: draw(150, 0.7, 1000)})
		}
	}
	return out
}

// TestRecovery: endpoints that were slow and are quick again have their share again soon, though what was measured before says
// otherwise and they get little to show it by. While they are slow they get less.
func TestRecovery(t *testing.T) {
	const recover = 30 * time.Second
	for name, c := range map[string]struct {
		speed, rate float64
		after       time.Duration // the share is that of the 20 seconds that begin then
	}{
		"slow":                    {0.4, 40, 15 * time.Second},
		"a little slow":           {0.6, 40, 15 * time.Second},
		"nearly stopped":          {0.1, 40, 15 * time.Second},
		"few requests":            {0.4, 10, 45 * time.Second},
		"few, and nearly stopped": {0.1, 10, 45 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			share := func(all []arrival, from, to time.Duration) float64 {
				n, of := 0, 0
				for i := range all {
					if a := &all[i]; a.at >= from && a.at < to {
						of++
						if a.server < 2 {
							n++
						}
					}
				}
				return float64(n) / float64(of) / (2.0 / 8)
			}
			var slow, again float64
			const seeds = 3
			for seed := range uint64(seeds) {
				all := chats(rand.New(rand.NewPCG(seed, 2)), int(c.rate*(recover+c.after+25*time.Second).Seconds()), c.rate, 1)
				simulate(t, all, c.speed, recover, nil)
				slow += share(all, 15*time.Second, recover) / seeds
				again += share(all, recover+c.after, recover+c.after+20*time.Second) / seeds
			}
			t.Logf("%.2f of a fair share while slow, %.2f afterwards", slow, again)
			if slow > 0.9 {
				t.Errorf("while they are slow they have %.2f of a fair share", slow)
			}
			if again < 0.8 {
				t.Errorf("%s after they are quick again they have %.2f of a fair share", c.after, again)
			}
		})
	}
}

// TestTimeToFirstToken: against the least number of requests in flight, which knows as much, both where two of eight servers are
// slow and where equal ones get bursts.
func TestTimeToFirstToken(t *testing.T) {
	for name, c := range map[string]struct {
		speed float64
		burst int
		most  float64 // of what the least in flight has
	}{
		"two slow servers":        {0.4, 1, 1},
		"bursts on equal servers": {1, 40, 1},
		"equal servers":           {1, 1, 1.1},
	} {
		t.Run(name, func(t *testing.T) {
			var ours, theirs float64
			for seed := range uint64(3) {
				rnd := rand.New(rand.NewPCG(seed, 1))
				requests := chats(rnd, 2000, 40, c.burst)
				ours += simulate(t, slices.Clone(requests), c.speed, never, nil).Seconds()
				theirs += simulate(t, requests, c.speed, never, func(inFlight []int) int {
					least := slices.Min(inFlight)
					for {
						if i := rnd.IntN(8); inFlight[i] == least {
							return i
						}
					}
				}).Seconds()
			}
			t.Logf("p99 is %.3f s, with the least in flight %.3f s", ours/3, theirs/3)
			if ours > c.most*theirs {
				t.Errorf("p99 is %.3f s, more than %v x %.3f s", ours/3, c.most, theirs/3)
			}
		})
	}
}
