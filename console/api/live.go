package api

import (
	"cmp"
	"maps"
	"slices"
)

const (
	// maxLiveEndpoints and maxLiveEdges are sent at once; what is left out comes with the next.
	maxLiveEndpoints = 150
	maxLiveEdges     = 300
)

// catchUp says what next has that v does not, and brings v to what has been said: it may lag behind next where that is much.
func (v *view) catchUp(next *view) *Live {
	out := &Live{
		At: next.at.UTC(), Edges: []Edge{}, Clients: []Client{}, Backends: []LiveBackend{}, Endpoints: []LiveEndpoint{}, Routes: []LiveRoute{},
		Totals: next.totals,
	}
	v.at, v.totals = next.at, next.totals
	for id, c := range next.clients {
		if _, known := v.clients[id]; !known {
			out.Clients = append(out.Clients, c)
		}
	}
	v.clients = next.clients
	for k, r := range next.edges {
		if v.edges[k] != r {
			out.Edges = append(out.Edges, Edge{k.kind, k.from, k.to, r})
		}
	}
	for k := range v.edges {
		if _, there := next.edges[k]; !there {
			out.Edges = append(out.Edges, Edge{Kind: k.kind, From: k.from, To: k.to})
		}
	}
	slices.SortFunc(out.Edges, func(a, b Edge) int { return cmp.Or(cmp.Compare(b.Requests, a.Requests), compareEdges(a, b)) })
	out.Edges = out.Edges[:min(len(out.Edges), maxLiveEdges)]
	for _, e := range out.Edges {
		k := edgeKey{e.Kind, e.From, e.To}
		if e.Rates == (Rates{}) {
			delete(v.edges, k)
		} else {
			v.edges[k] = e.Rates
		}
	}
	for id, b := range next.backends {
		if old := v.backends[id]; old != b {
			out.Backends = append(out.Backends, LiveBackend{id, b})
		}
	}
	v.backends = next.backends
	v.catchUpEndpoints(next, out)
	for id, w := range next.weights {
		if !slices.EqualFunc(v.weights[id], w, equal[float64]) {
			out.Routes = append(out.Routes, LiveRoute{id, w})
		}
	}
	v.weights = next.weights
	slices.SortFunc(out.Clients, func(a, b Client) int { return cmp.Compare(a.ID, b.ID) })
	slices.SortFunc(out.Backends, func(a, b LiveBackend) int { return cmp.Compare(a.ID, b.ID) })
	slices.SortFunc(out.Routes, func(a, b LiveRoute) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// catchUpEndpoints sends those first that anybody would want to know of.
func (v *view) catchUpEndpoints(next *view, out *Live) {
	type change struct {
		id     string
		urgent bool
	}
	var changes []change
	for id, e := range next.endpoints {
		if old := v.endpoints[id]; !old.like(&e) {
			changes = append(changes, change{id, old.Status != e.Status || old.Weight != e.Weight || old.Breaker != e.Breaker || !equal(old.BlockedUntil, e.BlockedUntil)})
		}
	}
	slices.SortFunc(changes, func(a, b change) int {
		if a.urgent != b.urgent {
			if a.urgent {
				return -1
			}
			return 1
		}
		// Each waits its turn: those that were told least lately go first.
		return cmp.Or(cmp.Compare(v.told[a.id], v.told[b.id]), cmp.Compare(a.id, b.id))
	})
	if v.told == nil {
		v.told = map[string]int64{}
	}
	have := maps.Clone(v.endpoints)
	for _, c := range changes[:min(len(changes), maxLiveEndpoints)] {
		e := next.endpoints[c.id]
		have[c.id], v.told[c.id] = e, next.at.UnixNano()
		e.Reasons = nil
		out.Endpoints = append(out.Endpoints, LiveEndpoint{c.id, e})
	}
	v.endpoints = have
}

// like says whether two states are the same but for the words.
func (e *EndpointState) like(o *EndpointState) bool {
	return e.Status == o.Status && e.Weight == o.Weight && e.BaseWeight == o.BaseWeight && e.PublishedWeight == o.PublishedWeight &&
		e.InFlight == o.InFlight && e.Breaker == o.Breaker && e.SignalError == o.SignalError && equal(e.BlockedUntil, o.BlockedUntil) &&
		equal(e.GPU, o.GPU) && equal(e.GPUMemory, o.GPUMemory) && equal(e.Queue, o.Queue) && equal(e.Running, o.Running) &&
		equal(e.KVCache, o.KVCache) && equal(e.TTFTSeconds, o.TTFTSeconds) && equal(e.ErrorRate, o.ErrorRate)
}

func equal[T comparable](a, b *T) bool {
	return a == b || a != nil && b != nil && *a == *b
}
