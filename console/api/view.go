package api

import (
	"cmp"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/weir-dev/weir/console/state"
	"github.com/weir-dev/weir/usage"
	"github.com/weir-dev/weir/usage/money"
	"github.com/weir-dev/weir/xds/load"
	"github.com/weir-dev/weir/xds/load/signal"
	"github.com/weir-dev/weir/xds/load/weigh"
)

// view is how everything is at one moment.
type view struct {
	at        time.Time
	layout    *layout
	edges     map[edgeKey]Rates
	clients   map[string]Client // by ID
	backends  map[string]BackendState
	endpoints map[string]EndpointState // by ID
	weights   map[string][]*float64    // by Route.ID; empty where no backend is steered
	totals    Totals
	told      map[string]int64 // when streams were told of an endpoint last, nanoseconds
}

// edgeKey is what an Edge is known by.
type edgeKey struct{ kind, from, to string }

// The kinds of edges.
const (
	edgeClient  = "client"
	edgeRoute   = "route"
	edgeBackend = "backend"
)

// maxClients are shown one by one; the rest is one client.
const maxClients = 200

// others is the client that stands for the rest.
const others = state.Others + "/" + state.Others

// nobody stands for a tenant, a consumer or a route that is not known.
const nobody = "-"

func orNobody(s string) string {
	if s == "" {
		return nobody
	}
	return s
}

func clientID(tenant, consumer string) string { return orNobody(tenant) + "/" + orNobody(consumer) }

// look finds out how everything is.
func (a *API) look(now time.Time) view {
	v := view{
		at: now, layout: a.layouts.now(), edges: map[edgeKey]Rates{}, clients: map[string]Client{}, backends: map[string]BackendState{},
		endpoints: map[string]EndpointState{}, weights: map[string][]*float64{},
	}
	edges, seen, sums := a.State.Traffic.Now(now)
	counted := a.counted(now)
	rate := func(n int64) float64 { return round(float64(n)/counted.Seconds(), 10) }
	shown := busiest(edges, seen)
	for _, c := range shown {
		id := clientID(c.Tenant, c.Consumer)
		v.clients[id] = Client{ID: id, Tenant: orNobody(c.Tenant), Consumer: orNobody(c.Consumer), LastSeen: c.Last}
	}
	for e, c := range edges {
		v.add(v.key(e), Rates{Requests: rate(c.Requests), Errors: rate(c.Errors), Tokens: rate(c.Tokens)})
	}
	if v.layout.steered {
		for _, r := range v.layout.routes().list {
			v.weights[r.ID] = make([]*float64, len(r.Targets))
		}
	}
	running := map[string]int64{} // by backend
	n := 0
	a.Desk.Each(func(o *usage.Open) bool {
		n++
		v.run(v.key(state.Edge{Kind: state.FromClient, From: o.Tenant, Consumer: o.Consumer, To: o.Route}))
		if b := a.Desk.At(o); b != "" {
			v.run(edgeKey{edgeRoute, orNobody(o.Route), b})
			running[b]++
		}
		return true
	})
	v.steered(a.Steering(), now)
	v.plain(a.State.History, running, now)
	v.totals = Totals{
		Rates:    Rates{Requests: rate(sums.Requests), Errors: rate(sums.Errors), Tokens: rate(sums.Tokens), InFlight: n},
		Currency: v.layout.currency, CostPerHour: money.Nano(perHour(sums.Cost, counted)).String(),
	}
	if sums.Streams > 0 {
		v.totals.TTFTSeconds = digits((sums.TTFT / time.Duration(sums.Streams)).Seconds())
	}
	return v
}

// counted is how much of the window has passed since the start, in which something could be counted: at least a second.
func (a *API) counted(now time.Time) time.Duration {
	return min(state.Window, max(time.Second, now.Truncate(time.Second).Sub(a.State.Started)))
}

// perHour is what an amount in such a time makes in an hour.
func perHour(nano int64, in time.Duration) int64 {
	v := math.Round(float64(nano) * (float64(time.Hour) / float64(in)))
	if v >= math.MaxInt64 {
		return math.MaxInt64
	}
	return int64(v)
}

// round keeps so many parts of one.
func round(v float64, parts float64) float64 { return math.Round(v*parts) / parts }

// digits keeps two digits that count, so that noise is no change.
func digits(v float64) float64 {
	if v <= 0 || math.IsInf(v, 0) || math.IsNaN(v) {
		return 0
	}
	scale := math.Pow(10, 1-math.Floor(math.Log10(v)))
	return math.Round(v*scale) / scale
}

// busiest are the clients that are shown, those with most requests in the window first. The last stands for all others where there are
// too many.
func busiest(edges map[state.Edge]state.Counts, seen []state.ClientSeen) []state.ClientSeen {
	requests := map[[2]string]int64{}
	for e, c := range edges {
		if e.Kind == state.FromClient {
			requests[[2]string{e.From, e.Consumer}] += c.Requests
		}
	}
	slices.SortFunc(seen, func(a, b state.ClientSeen) int {
		return cmp.Or(
			cmp.Compare(requests[[2]string{b.Tenant, b.Consumer}], requests[[2]string{a.Tenant, a.Consumer}]),
			b.Last.Compare(a.Last), cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Consumer, b.Consumer),
		)
	})
	if len(seen) <= maxClients {
		return seen
	}
	last := seen[maxClients-1].Last
	for _, c := range seen[maxClients-1:] {
		if c.Last.After(last) {
			last = c.Last
		}
	}
	return append(seen[:maxClients-1:maxClients-1], state.ClientSeen{Tenant: state.Others, Consumer: state.Others, Last: last})
}

// key is the edge as it is shown: clients that are not shown are others.
func (v *view) key(e state.Edge) edgeKey {
	switch e.Kind {
	case state.FromRoute:
		return edgeKey{edgeRoute, orNobody(e.From), e.To}
	case state.FromBackend:
		return edgeKey{edgeBackend, e.From, endpointID(e.From, e.To)}
	}
	id := clientID(e.From, e.Consumer)
	if _, shown := v.clients[id]; !shown {
		if _, full := v.clients[others]; full {
			return edgeKey{edgeClient, others, orNobody(e.To)}
		}
		// It has a request in flight and none that has ended.
		v.clients[id] = Client{ID: id, Tenant: orNobody(e.From), Consumer: orNobody(e.Consumer), LastSeen: v.at.UTC().Truncate(time.Second)}
	}
	return edgeKey{edgeClient, id, orNobody(e.To)}
}

func (v *view) add(k edgeKey, r Rates) {
	have := v.edges[k]
	have.Requests, have.Errors, have.Tokens = round(have.Requests+r.Requests, 10), round(have.Errors+r.Errors, 10), round(have.Tokens+r.Tokens, 10)
	v.edges[k] = have
}

func (v *view) run(k edgeKey) {
	have := v.edges[k]
	have.InFlight++
	v.edges[k] = have
}

// steered takes what steering knows.
func (v *view) steered(s load.State, now time.Time) {
	share := map[string]float64{}
	for i := range s.Pools {
		p := &s.Pools[i]
		share[p.Backend] = p.Share
		b := BackendState{Health: state.StateOK, Share: round(p.Share, 1000), InFlight: p.Picks.Requests, Waiting: p.Picks.Waiting}
		out, why, byEnvoy := 0, "", int64(0)
		for j := range p.Endpoints {
			e := &p.Endpoints[j]
			made := endpointOf(e, now)
			if !p.Picked {
				made.InFlight = int64(e.InFlight)
			}
			byEnvoy += int64(e.InFlight)
			v.endpoints[endpointID(p.Backend, e.Key)] = made
			if made.InFlight > 0 {
				k := edgeKey{edgeBackend, p.Backend, endpointID(p.Backend, e.Key)}
				have := v.edges[k]
				have.InFlight = int(made.InFlight)
				v.edges[k] = have
			}
			if e.Status == weigh.Isolated {
				if out++; why == "" {
					why = made.Why
				}
			}
		}
		if !p.Picked {
			b.InFlight = byEnvoy
		}
		switch {
		case !p.Usable:
			b.Health, b.Why = state.StateDown, "no endpoint can take requests"
		case out > 0:
			b.Health, b.Why = state.StateDegraded, fmt.Sprintf("%d of %d endpoints cannot take requests", out, len(p.Endpoints))
		}
		if why != "" {
			b.Why += ": " + why
		}
		v.backends[p.Backend] = b
	}
	if !v.layout.steered {
		return
	}
	for _, r := range v.layout.routes().list {
		for i, t := range r.Targets {
			if part, ok := share[t.Backend]; ok {
				w := round(float64(t.Weight)*part, 1000)
				v.weights[r.ID][i] = &w
			}
		}
	}
}

// whyOf is why an endpoint has its weight, without the weight, which stands beside it.
func whyOf(e *load.EndpointState) string {
	why := e.Why()
	if at := strings.LastIndex(why, " -> "); at >= 0 {
		return why[:at]
	}
	return why
}

func endpointOf(e *load.EndpointState, now time.Time) EndpointState {
	out := EndpointState{
		Status: e.Status.String(), Weight: e.Weight, BaseWeight: e.Base, PublishedWeight: e.Published, Why: whyOf(e), Reasons: reasons(e),
		InFlight: e.Picks.Requests, Breaker: e.Picks.Breaker.String(), SignalError: e.CheckErr,
	}
	for i := range e.Sources {
		s := &e.Sources[i]
		if s.Err != "" && out.SignalError == "" {
			out.SignalError = s.Kind + ": " + s.Err
		}
		take := func(to **float64, m signal.Metric, value float64) {
			if s.Sample.Has.Has(m) && !math.IsNaN(value) && !math.IsInf(value, 0) {
				v := round(value, 100)
				*to = &v
			}
		}
		take(&out.GPU, signal.GPUUtilization, s.Sample.GPUUtilization)
		take(&out.GPUMemory, signal.GPUMemory, s.Sample.GPUMemory)
		take(&out.KVCache, signal.KVCache, s.Sample.KVCache)
		take(&out.Queue, signal.Waiting, s.Sample.Waiting)
		take(&out.Running, signal.Running, s.Sample.Running)
	}
	if e.TTFTCount > 0 {
		v := digits(e.TTFT.Seconds())
		out.TTFTSeconds = &v
	}
	if e.ErrorRate >= 0 {
		v := round(e.ErrorRate, 100)
		out.ErrorRate = &v
	}
	if e.BlockedUntil.After(now) {
		out.BlockedUntil = utc(e.BlockedUntil.Truncate(time.Second))
	}
	return out
}

// plain judges by requests what nothing steers; and what is steered, where requests tell worse of it.
func (v *view) plain(h *state.History, running map[string]int64, now time.Time) {
	for i := range v.layout.backends {
		l := &v.layout.backends[i]
		health, why := h.Judge(now, state.Subject{Kind: state.KindBackend, Name: l.ID})
		b, steered := v.backends[l.ID]
		if !steered {
			b = BackendState{Health: health, Why: why, Share: 1, InFlight: running[l.ID]}
		} else if b.Health == state.StateOK && (health == state.StateDegraded || health == state.StateDown) {
			b.Health, b.Why = state.StateDegraded, why
		}
		v.backends[l.ID] = b
		if steered {
			continue
		}
		for _, e := range l.Endpoints {
			s := EndpointState{Weight: e.Weight, BaseWeight: e.BaseWeight, PublishedWeight: e.Weight}
			if s.Status, s.Why = h.Judge(now, state.Subject{Kind: state.KindEndpoint, Name: e.ID}); len(l.Endpoints) == 1 {
				s.InFlight = b.InFlight
			}
			v.endpoints[e.ID] = s
		}
	}
}

func (a *API) topology(w http.ResponseWriter, _ *http.Request) {
	v := a.look(a.Now())
	write(w, v.topology())
}

// topology writes it all.
func (v *view) topology() *Topology {
	l, rules := v.layout, v.layout.routes().list
	out := &Topology{
		At: v.at.UTC(), Version: l.version, Gateways: l.gateways, Clients: []Client{}, Routes: make([]Route, len(rules)),
		Backends: make([]Backend, len(l.backends)), Edges: []Edge{}, Totals: v.totals,
	}
	if out.Gateways == nil {
		out.Gateways = []Gateway{}
	}
	requests := map[string]float64{}
	for k, r := range v.edges {
		out.Edges = append(out.Edges, Edge{k.kind, k.from, k.to, r})
		if k.kind == edgeClient {
			requests[k.from] += r.Requests
		}
	}
	slices.SortFunc(out.Edges, compareEdges)
	for _, c := range v.clients {
		out.Clients = append(out.Clients, c)
	}
	slices.SortFunc(out.Clients, func(a, b Client) int {
		return cmp.Or(cmp.Compare(requests[b.ID], requests[a.ID]), b.LastSeen.Compare(a.LastSeen), cmp.Compare(a.ID, b.ID))
	})
	for i, r := range rules {
		r.Targets = slices.Clone(r.Targets)
		for j, w := range v.weights[r.ID] {
			r.Targets[j].LiveWeight = w
		}
		out.Routes[i] = r
	}
	for i, b := range l.backends {
		b.BackendState = v.backends[b.ID]
		b.Endpoints = slices.Clone(b.Endpoints)
		for j := range b.Endpoints {
			b.Endpoints[j].EndpointState = v.endpoints[b.Endpoints[j].ID]
		}
		out.Backends[i] = b
	}
	return out
}

func compareEdges(a, b Edge) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To))
}
