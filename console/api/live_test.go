package api

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/weir-dev/weir/usage"
)

// bytes is what a stream sends of a body.
func bytes(t *testing.T, body any) int {
	t.Helper()
	return len(event("18ea85f5fc1994d6-100000-1000", StreamLive, body))
}

// TestAThousandEndpoints: what a page loads at its beginning, and what it is sent each second.
func TestAThousandEndpoints(t *testing.T) {
	r := newRig(t, 1000)
	v := r.look(r.now)
	first := bytes(t, v.topology())
	if first > 400_000 {
		t.Errorf("the topology has %d bytes", first)
	}
	idle := bytes(t, (&view{layout: v.layout, edges: v.edges, clients: v.clients, backends: v.backends, endpoints: v.endpoints, weights: v.weights}).catchUp(&v))
	if idle > 400 {
		t.Errorf("a second without a change has %d bytes", idle)
	}
	for i := range 1000 { // each endpoint has a request, of one of two hundred clients
		r.State.Finished(&usage.Finished{At: r.now, Record: &usage.Record{
			Status: 200, Attempts: 1, Route: "default/all", Backend: "default/pool", Endpoint: v.layout.backends[1].Endpoints[i].Address,
			Tenant: fmt.Sprint("tenant-", i%200), Consumer: "consumer",
		}})
	}
	r.now = r.now.Add(time.Second)
	next := r.look(r.now)
	busy := everything(&next, 0.5)
	live := v.catchUp(&busy)
	worst := bytes(t, live)
	t.Logf("bytes: topology %d, a second without a change %d, a second in which everything changes %d", first, idle, worst)
	if worst > 100_000 {
		t.Errorf("a second in which everything changes has %d bytes", worst)
	}
	if len(live.Endpoints) != maxLiveEndpoints || len(live.Edges) != maxLiveEdges {
		t.Errorf("%d endpoints and %d edges at once", len(live.Endpoints), len(live.Edges))
	}
	// What comes later is told all the same, each in its turn, though all go on changing.
	told := map[string]bool{}
	note := func(l *Live) {
		for _, e := range l.Endpoints {
			told[e.ID] = true
			if e.Reasons != nil {
				t.Errorf("%s comes with its reasons", e.ID)
			}
		}
	}
	note(live)
	for i := range 6 {
		x := everything(&next, 0.6+float64(i)/100)
		x.at = next.at.Add(time.Duration(i+1) * time.Second)
		note(v.catchUp(&x))
	}
	if len(told) != 1000 {
		t.Errorf("after seven seconds %d endpoints are known", len(told))
	}
	// What matters waits for nobody.
	x := everything(&next, 0.9)
	id := endpointID("default/pool", "10.0.3.250:8000")
	e := x.endpoints[id]
	e.Status, e.Weight = "Isolated", 0
	x.endpoints[id] = e
	if l := v.catchUp(&x); l.Endpoints[0].ID != id {
		t.Errorf("an isolated endpoint comes after %s", l.Endpoints[0].ID)
	}
}

// everything is a view in which every endpoint says this of its GPU.
func everything(of *view, gpu float64) view {
	v := *of
	v.endpoints = map[string]EndpointState{}
	for id, e := range of.endpoints {
		if e.Status == "Active" {
			e.GPU, e.KVCache, e.InFlight = &gpu, &gpu, 3
		}
		v.endpoints[id] = e
	}
	return v
}

// TestWordsAreNoChange: a reason is told in other words each second.
func TestWordsAreNoChange(t *testing.T) {
	r := newRig(t, 1)
	v, next := r.look(r.now), r.look(r.now)
	id := endpointID("default/pool", "10.0.0.1:8000")
	e := next.endpoints[id]
	e.Why, e.Reasons = "GPU 0.912 -> 500", []Reason{{Rule: "gpu"}}
	next.endpoints[id] = e
	if l := v.catchUp(&next); len(l.Endpoints) != 0 {
		t.Errorf("%+v", l.Endpoints)
	}
	e.Weight = 500
	next.endpoints[id] = e
	if l := v.catchUp(&next); len(l.Endpoints) != 1 || l.Endpoints[0].Why != "GPU 0.912 -> 500" {
		t.Errorf("%+v", l.Endpoints)
	}
}

// TestManyClients: beyond those that are shown, all are one.
func TestManyClients(t *testing.T) {
	r := newRig(t, 1)
	for i := range maxClients + 50 {
		for range 1 + btoi(i < 5) {
			r.State.Finished(&usage.Finished{At: r.now, Record: &usage.Record{Status: 200, Attempts: 1, Backend: "default/openai", Route: "default/all", Tenant: "t", Consumer: fmt.Sprint("c", i)}})
		}
	}
	r.now = r.now.Add(time.Second)
	v := r.look(r.now)
	top := v.topology()
	if len(top.Clients) != maxClients || top.Clients[0].ID != others && top.Clients[1].ID != others {
		t.Errorf("%d clients, the busiest %+v", len(top.Clients), top.Clients[:2])
	}
	sum := 0.0
	for _, e := range top.Edges {
		if e.Kind == edgeClient {
			sum += e.Requests
		}
	}
	if want := float64(maxClients+55) / 10; sum < want-0.01 || sum > want+0.01 {
		t.Errorf("the edges have %v requests a second, want %v", sum, want)
	}
	if v.edges[edgeKey{edgeClient, others, "default/all"}].Requests != 5.1 {
		t.Errorf("others: %+v", v.edges[edgeKey{edgeClient, others, "default/all"}])
	}
	if _, err := json.Marshal(top); err != nil {
		t.Error(err)
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func BenchmarkTick(b *testing.B) {
	r := newRig(b, 1000)
	b.ReportAllocs()
	for b.Loop() {
		r.tick(r.now, false)
	}
}

// TestRatesAfterTheStart are of the time since then.
func TestRatesAfterTheStart(t *testing.T) {
	r := newRig(t, 1)
	for range 4 {
		r.finish("ok")
	}
	for after, want := range map[time.Duration]float64{0: 4, 2 * time.Second: 2, 10 * time.Second: 0.4, time.Hour: 0.4} {
		at := r.now.Add(time.Second)
		r.State.Started = at.Truncate(time.Second).Add(-after)
		if v := r.look(at); v.totals.Requests != want {
			t.Errorf("%s after the start: %v requests a second, want %v", after, v.totals.Requests, want)
		}
	}
}
