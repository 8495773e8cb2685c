package extproc

import (
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weir-dev/weir/extproc/breaker"
	"github.com/weir-dev/weir/extproc/limit"
	"github.com/weir-dev/weir/extproc/pick"
	"github.com/weir-dev/weir/extproc/table"
	"github.com/weir-dev/weir/extproc/wire"
	"github.com/weir-dev/weir/usage"
)

// share is what a test's Steering says of a backend.
type share struct {
	share  float64
	usable bool
}

// steeredRig is a rig whose backends are steered, and that sees what requests hold.
type steeredRig struct {
	*rig
	rules     *rules
	picker    *pick.Set
	endpoints *breaker.Set // their breakers
	desk      *usage.Desk

	sharesMu sync.Mutex
	shares   map[string]share // by backend ID
	panics   func(where string)
}

// Share makes it a Steering.
func (r *steeredRig) Share(backend string) (float64, bool) {
	r.panics("steering")
	r.sharesMu.Lock()
	defer r.sharesMu.Unlock()
	if s, ok := r.shares[backend]; ok {
		return s.share, s.usable
	}
	return 1, true
}

// The rules that every request of a steeredRig passes: room for many requests at once, and a circuit breaker.
var (
	atOnce  = &limit.Rule{ID: "LimitPolicy/default/p/at-once", Name: "p/at-once", Unit: limit.Concurrent, Limit: 1000, Per: limit.PerTenant}
	circuit = &breaker.Rule{ID: "LimitPolicy/default/p", Name: "p", ErrorPercent: 100, MinRequests: 1, Window: 10 * time.Second, OpenFor: time.Second, HalfOpenRequests: 1}
)

// endpointRule is the breaker of a pool's endpoints.
func endpointRule(pool string) *breaker.Rule {
	return &breaker.Rule{ID: "Backend/default/" + pool, Name: "default/" + pool, ErrorPercent: 50, MinRequests: 100, Window: time.Minute, OpenFor: 5 * time.Second, HalfOpenRequests: 1}
}

// addresses are n endpoints of a pool.
func addresses(net byte, n int) (out []string) {
	for i := range n {
		out = append(out, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, net, 0, byte(i + 1)}), 8000).String())
	}
	return out
}

// newSteeredRig has the pools gpu (three endpoints), far (two) and named (one, by a name), and what build adds.
func newSteeredRig(t testing.TB, build func(*rules)) *steeredRig {
	t.Helper()
	r := &steeredRig{rules: newRules(t), shares: map[string]share{}, panics: func(string) {}}
	r.rules.table.Waits = true
	d, _ := dialects(t).Get("openai")
	for _, p := range []struct {
		name      string
		endpoints []string
	}{{"gpu", addresses(1, 3)}, {"far", addresses(2, 2)}, {"named", []string{"api.example:443"}}} {
		r.rules.backends[p.name] = &table.Backend{
			ID: "default/" + p.name, Dialect: &d, BasePath: "/v1", Host: p.name + ".test",
			Pick: &pick.Policy{Breaker: endpointRule(p.name)}, Steered: true, Named: p.name != "named", Endpoints: p.endpoints,
		}
	}
	r.rules.table.Policies.AllTenants = []*table.Policy{{Limits: []*limit.Rule{atOnce}, Breaker: circuit}}
	build(r.rules)
	tbl := r.rules.build()
	r.rig = newRigWith(t, tbl, func(base *rig, o *Options) {
		r.endpoints = breaker.New(breaker.Options{Now: base.clock})
		r.picker = pick.NewSet(pick.Options{Now: base.clock, Breakers: r.endpoints, Seed: 1})
		o.Picker, o.Steering = r.picker, r
		o.Desk = usage.NewDesk(usage.DeskOptions{Ledger: base.book, Estimator: o.Estimator, Registry: prometheus.NewRegistry(), Now: func() time.Time {
			r.panics("desk")
			return base.clock()
		}})
		r.desk = o.Desk
	})
	for _, b := range r.rules.backends {
		r.update(b)
	}
	return r
}

// update tells the picker of a backend as its controller does. The endpoints that are isolated are given by their places.
func (r *steeredRig) update(b *table.Backend, isolated ...int) {
	if b.Pick == nil {
		return
	}
	var list []pick.Endpoint
	for i, key := range b.Endpoints {
		list = append(list, pick.Endpoint{Key: key, Base: 1, Factor: 1, KV: -1, Isolated: slices.Contains(isolated, i)})
	}
	r.picker.Update(b.ID, b.Pick, list)
}

func (r *steeredRig) set(backend string, weight float64, usable bool) {
	r.sharesMu.Lock()
	defer r.sharesMu.Unlock()
	r.shares["default/"+backend] = share{weight, usable}
}

// pool is how a pool stands.
func (r *steeredRig) pool(name string) pick.PoolState {
	r.t.Helper()
	for _, p := range r.picker.Snapshot(r.clock()) {
		if p.Pool == "default/"+name {
			return p
		}
	}
	r.t.Fatalf("there is no pool %s", name)
	return pick.PoolState{}
}

// inFlight is how many requests the picker counts at each endpoint of a pool.
func (r *steeredRig) inFlight(name string) (out []int64) {
	for _, e := range r.pool(name).Endpoints {
		out = append(out, e.Requests)
	}
	return out
}

// results are what the breaker of an endpoint knows: requests, and failures among them.
func (r *steeredRig) results(endpoint string) (requests, failures int64) {
	for _, s := range r.endpoints.States(r.clock()) {
		if s.Key == endpoint {
			return s.Requests, s.Failures
		}
	}
	return 0, 0
}

// settled fails the test unless everything that requests took has been given back.
func (r *steeredRig) settled() {
	r.t.Helper()
	for _, p := range r.picker.Snapshot(r.clock()) {
		if p.Requests != 0 || p.Tokens != 0 || p.Waiting != 0 {
			r.t.Errorf("pool %s has %d requests with %d tokens in flight, and %d wait", p.Pool, p.Requests, p.Tokens, p.Waiting)
		}
		for _, e := range p.Endpoints {
			if e.Requests != 0 || e.Tokens != 0 {
				r.t.Errorf("%s of pool %s has %d requests with %d tokens in flight", e.Key, p.Pool, e.Requests, e.Tokens)
			}
		}
	}
	for _, rule := range r.server.opts.Limits.States(10) {
		for _, s := range rule.Subjects {
			if s.Reserved != 0 || s.Remaining != s.Limit {
				r.t.Errorf("limit %s has %d of %d left, and %d reserved", rule.Rule.Name, s.Remaining, s.Limit, s.Reserved)
			}
		}
	}
	if n := r.desk.InFlight(); n != 0 {
		r.t.Errorf("%d requests are on the desk", n)
	}
	if n, _ := r.server.InFlight(); n != 0 {
		r.t.Errorf("%d exchanges are kept", n)
	}
}

// trip opens the circuit breaker and waits until it wants to be tried: by one request.
func (r *steeredRig) trip() {
	r.t.Helper()
	pass, refused := r.server.opts.Breakers.Allow(circuit, "", r.clock())
	if refused != nil {
		r.t.Fatal("the circuit breaker is open already")
	}
	pass.Done(false, r.clock())
	r.advance(circuit.OpenFor)
}

// passFree fails the test if the place of the one request that may try is taken.
func (r *steeredRig) passFree() {
	r.t.Helper()
	pass, refused := r.server.opts.Breakers.Allow(circuit, "", r.clock())
	if refused != nil && refused.State == breaker.HalfOpen {
		r.t.Error("the place to try the circuit breaker is still taken")
	}
	pass.Drop()
}

// record is Envoy's of the request of a door, which has been answered well by the first endpoint that was named.
func (r *steeredRig) record(decided *extprocv3.ProcessingResponse, change func(*usage.Record)) {
	rec := usage.Record{
		Exchange: said(decided, wire.KeyExchange), Status: 200, Details: wire.ViaUpstream, Attempts: 1, BytesOut: 100,
		FirstToken: 100 * time.Millisecond, Duration: time.Second,
	}
	change(&rec)
	r.desk.Close(&rec)
	r.server.Release(rec.Exchange)
}

// numbered is the metadata of a body that asks for a model, with the number of the request.
func numbered(model, id string) *corev3.Metadata {
	m := asks(model, true)
	fields := m.GetFilterMetadata()[wire.PeekNamespace].GetFields()
	fields[wire.PeekID], fields[wire.PeekSize] = structpb.NewStringValue(id), structpb.NewNumberValue(4000)
	return m
}

// until waits for a condition.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatal("waited in vain for " + what)
		}
	}
}

// prompt is a body of OpenAI's dialect.
func prompt(model string) string {
	return fmt.Sprintf(`{"model":%q,"stream":true,"messages":[{"role":"user","content":"Which of these is true?"}]}`, model)
}

// span is that of a request, as records of its attempts have it.
func (r *steeredRig) span(first *extprocv3.ProcessingResponse) string {
	header := said(first, wire.KeyTrace)
	return header[strings.LastIndexByte(header, '-')+1:]
}
