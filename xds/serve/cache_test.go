package serve

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	cachev3 "github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/stream/v3"

	"github.com/weir-dev/weir/internal/cow"
)

// asking is one stream of a client for one type, as the server of the library has it, and what the client has.
type asking struct {
	t     *testing.T
	c     *cache
	sub   stream.Subscription
	to    chan cachev3.DeltaResponse
	stop  func()
	nonce int

	has      map[string]string
	asks     map[string]bool
	wildcard bool
}

// connect opens a stream with what a client has.
func connect(t *testing.T, c *cache, has map[string]string, wildcard bool, names []string) *asking {
	a := &asking{t: t, c: c, to: make(chan cachev3.DeltaResponse, 8), has: map[string]string{}, asks: map[string]bool{}, wildcard: wildcard}
	maps.Copy(a.has, has)
	subscribe := slices.Clone(names)
	if wildcard && len(names) > 0 {
		subscribe = append(subscribe, "*")
	}
	for _, name := range names {
		a.asks[name] = true
	}
	a.sub = stream.NewDeltaSubscription(subscribe, nil, maps.Clone(has), wildcard)
	a.watch(&discoveryv3.DeltaDiscoveryRequest{ResourceNamesSubscribe: subscribe, InitialResourceVersions: maps.Clone(a.has)})
	return a
}

// ask is a further request: an answer to a response, where it asks for nothing else.
func (a *asking) ask(more, less []string) {
	for len(a.to) > 1 { // the server takes what is there first; one more may cross
		a.take()
	}
	a.stop()
	for _, name := range more {
		if name == "*" {
			a.wildcard = true
		} else {
			a.asks[name] = true
		}
	}
	for _, name := range less {
		if name == "*" {
			a.wildcard = false
		} else {
			delete(a.asks, name)
			if !a.wildcard {
				delete(a.has, name) // it drops it by itself
			}
		}
	}
	if !a.wildcard {
		maps.DeleteFunc(a.has, func(name, _ string) bool { return !a.asks[name] })
	}
	a.sub.UpdateResourceSubscriptions(more, less)
	a.watch(&discoveryv3.DeltaDiscoveryRequest{ResourceNamesSubscribe: more, ResourceNamesUnsubscribe: less, ResponseNonce: fmt.Sprint(a.nonce)})
}

func (a *asking) watch(r *discoveryv3.DeltaDiscoveryRequest) {
	r.TypeUrl = resourcev3.ClusterType
	var err error
	if a.stop, err = a.c.CreateDeltaWatch(r, a.sub, a.to); err != nil {
		if r.GetInitialResourceVersions() != nil {
			a.t.Fatal(err)
		}
		a.again()
	}
}

// again opens another stream where this one has been forgotten.
func (a *asking) again() {
	*a = *connect(a.t, a.c, a.has, a.wildcard, slices.Collect(maps.Keys(a.asks)))
}

// lacks is what the client has to be sent, and told to be gone, so that it has what is served.
func (a *asking) lacks(served map[string]string) (changed, removed []string) {
	for name, version := range served {
		if (a.wildcard || a.asks[name]) && a.has[name] != version {
			changed = append(changed, name)
		}
	}
	for name := range a.has {
		if _, there := served[name]; !there {
			removed = append(removed, name)
		}
	}
	slices.Sort(changed)
	slices.Sort(removed)
	return changed, removed
}

// take takes the next response, and returns it; nil where there is none.
func (a *asking) take() *response {
	select {
	case got := <-a.to:
		r := got.(*response)
		for _, name := range r.changed {
			if a.wildcard || a.asks[name] { // it has been asked for when this was made, and is no more
				a.has[name] = r.offer.marked[resourcev3.ClusterType].Get(name)
			}
		}
		for _, name := range r.removed {
			delete(a.has, name)
		}
		a.sub.SetReturnedResources(r.GetReturnedResources())
		a.nonce++
		return r
	default:
		return nil
	}
}

// TestCacheRandom: whatever is served one after the other, and whatever clients ask for and have when they come, each is sent what it lacks and nothing else,
// also where it looks away for several versions, and where responses cross requests.
func TestCacheRandom(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 7))
		names := make([]string, 12)
		for i := range names {
			names[i] = fmt.Sprint("n", i)
		}
		some := func(most int) (out []string) {
			for range rng.IntN(most + 1) {
				out = append(out, names[rng.IntN(len(names))])
			}
			slices.Sort(out)
			return slices.Compact(out)
		}
		c := newCache()
		var edit cow.Edit[string]
		served, serving, number := map[string]string{}, false, 0
		publish := func() {
			for range 1 + rng.IntN(3) {
				name := names[rng.IntN(len(names))]
				if rng.IntN(3) == 0 {
					edit.Delete(name)
				} else {
					edit.Set(name, fmt.Sprint("v", rng.IntN(3)))
				}
			}
			m := edit.Map()
			if rng.IntN(8) == 0 { // it shares nothing with those before
				m = cow.Of(maps.Collect(m.All()))
				edit = m.Edit()
			}
			number++
			served, serving = maps.Collect(m.All()), true
			c.set(&offer{marked: map[string]cow.Map[string]{resourcev3.ClusterType: m}, labels: map[string]label{}})
		}
		orderly := seed%2 == 0 // nothing crosses: what is sent is the least
		came := func(has map[string]string) *asking {
			wildcard := rng.IntN(2) == 0
			if wildcard {
				return connect(t, c, has, true, nil)
			}
			asks := append(some(5), names[0])
			maps.DeleteFunc(has, func(name, _ string) bool { return !slices.Contains(asks, name) }) // what it does not ask for it drops
			return connect(t, c, has, false, asks)
		}
		clients := []*asking{came(nil), came(nil)}
		var changed, removed []string // that a client has to be sent
		expect := func(a *asking, step int) {
			r := a.take()
			var gotChanged, gotRemoved []string
			if r != nil {
				gotChanged, gotRemoved = slices.Sorted(slices.Values(r.changed)), slices.Sorted(slices.Values(r.removed))
			}
			if !slices.Equal(gotChanged, changed) || !slices.Equal(gotRemoved, removed) {
				t.Fatalf("seed %d, step %d: it was sent %q, and that %q are gone; want %q and %q (of everything: %v, has %v, asks %v)", seed, step, gotChanged, gotRemoved, changed, removed, a.wildcard, a.has, a.asks)
			}
			if r != nil {
				a.ask(nil, nil)
			}
			if more := a.take(); more != nil {
				t.Fatalf("seed %d, step %d: after that it was sent %q, and that %q are gone", seed, step, more.changed, more.removed)
			}
		}
		for step := range 150 {
			i := rng.IntN(len(clients))
			a := clients[i]
			switch rng.IntN(6) {
			case 0, 1:
				publish()
				for _, a := range clients {
					if orderly {
						changed, removed = a.lacks(served)
						expect(a, step)
					}
				}
			case 2: // it connects anew, and has what it had, or something else
				a.stop()
				has := maps.Clone(a.has)
				switch rng.IntN(3) {
				case 0:
					has = nil
				case 1:
					for _, name := range some(3) {
						if has == nil {
							has = map[string]string{}
						}
						has[name] = fmt.Sprint("v", rng.IntN(4))
					}
				}
				a = came(has)
				clients[i] = a
				if orderly && serving {
					changed, removed = a.lacks(served)
					expect(a, step)
				}
			case 3: // it asks for more or less
				more, less := some(3), some(2)
				if a.wildcard {
					less = nil // what is sent then is more than what it lacks
				}
				more = slices.DeleteFunc(more, func(name string) bool { return slices.Contains(less, name) })
				if rng.IntN(4) == 0 && (len(a.asks) > 0 || len(more) > 0) {
					if a.wildcard {
						less = append(less, "*")
					} else {
						more, less = append(more, "*"), nil
					}
				}
				if len(more)+len(less) == 0 {
					continue
				}
				if a.wildcard && len(more) == 0 {
					more = append(more, names[1]) // otherwise the library does not take it for a request to ask for less
				}
				a.ask(more, less)
				if orderly && serving {
					changed, removed = a.lacks(served)
					expect(a, step)
				}
			case 4:
				if !orderly && a.take() != nil {
					a.ask(nil, nil)
				}
			case 5:
				if !orderly {
					a.ask(nil, nil)
				}
			}
		}
		publish()
		for _, a := range clients {
			for a.take() != nil {
				a.ask(nil, nil)
			}
			if changed, removed := a.lacks(served); len(changed)+len(removed) > 0 {
				t.Fatalf("seed %d: at last a client has %v, and lacks %q; %q are gone", seed, a.has, changed, removed)
			}
		}
	}
}

// TestCacheSaysAgain: who asks for everything and for a name no longer is told what becomes of that name.
func TestCacheSaysAgain(t *testing.T) {
	c := newCache()
	c.set(&offer{marked: map[string]cow.Map[string]{resourcev3.ClusterType: cow.Of(map[string]string{"a": "1", "b": "1"})}, labels: map[string]label{}})
	a := connect(t, c, nil, true, []string{"a", "none"})
	if r := a.take(); r == nil || len(r.changed) != 2 {
		t.Fatalf("answered %v", r)
	}
	a.ask(nil, []string{"a", "none"})
	if r := a.take(); r == nil || !slices.Equal(r.changed, []string{"a"}) || !slices.Equal(r.removed, []string{"none"}) {
		t.Errorf("answered %v", r)
	}
}

// TestCacheForgets: who has not been answered for long has to connect again, and what the server keeps is a mark.
func TestCacheForgets(t *testing.T) {
	c := newCache()
	offers := func(version string) {
		c.set(&offer{marked: map[string]cow.Map[string]{resourcev3.ClusterType: cow.Of(map[string]string{"a": version})}, labels: map[string]label{}})
	}
	offers("1")
	first := connect(t, c, nil, true, nil)
	if r := first.take(); r == nil || len(r.GetReturnedResources()) != 1 {
		t.Fatalf("answered %v", r)
	}
	waits := connect(t, c, nil, true, nil)
	waits.take()
	waits.ask(nil, nil)
	for range maxClients {
		connect(t, c, nil, true, nil).take()
	}
	if _, err := c.CreateDeltaWatch(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: resourcev3.ClusterType, ResponseNonce: "1"}, first.sub, first.to); err == nil {
		t.Error("it is known still what the first client has")
	}
	offers("2")
	if r := waits.take(); r == nil || len(r.changed) != 1 {
		t.Errorf("one that waits is answered %v", r)
	}
	waits.ask(nil, nil)
	again := connect(t, c, map[string]string{"a": "2"}, true, nil)
	if r := again.take(); r == nil || len(r.changed) > 0 {
		t.Errorf("a client that has everything is answered %v", r)
	}
}
