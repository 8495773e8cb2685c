package extproc

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"

	"github.com/weir-dev/weir/extproc/cache"
	"github.com/weir-dev/weir/extproc/limit"
	"github.com/weir-dev/weir/extproc/relay"
	"github.com/weir-dev/weir/extproc/table"
	"github.com/weir-dev/weir/extproc/wire"
)

// relayRig is a server whose requests for gpt-4o go to the relay, with a limit of requests and one of tokens for each tenant.
func relayRig(t *testing.T, requests, tokens int64) (*rig, *relay.Flights) {
	t.Helper()
	r := newRules(t)
	rule := r.add("kept", models("gpt-4o"), choice{"openai", ""})
	r.add("plain", models("claude"), choice{"anthropic", ""})
	of := func(name string, u limit.Unit, most int64) *limit.Rule {
		return &limit.Rule{ID: "LimitPolicy/default/p/" + name, Name: "p/" + name, Unit: u, Limit: most, Window: time.Minute, Per: limit.PerTenant, AssumedOutput: 10}
	}
	r.table.Policies.AllTenants = []*table.Policy{{Limits: []*limit.Rule{of("requests", limit.Requests, requests), of("tokens", limit.TotalTokens, tokens)}}}
	r.table.Caches.Rules = map[string][]table.Kept[table.CachePolicy]{
		rule.Name: {{Name: "default/cache", Policy: &cache.Policy{ID: "default/cache", TTL: time.Minute}}},
	}
	flights := relay.NewFlights(func() time.Time { return t0 })
	return newRigWith(t, r.build(), func(_ *rig, o *Options) { o.Flights = flights }), flights
}

// used is what a limit has counted.
func (r *rig) used(rule string) (n int64) {
	for _, l := range r.server.opts.Limits.States(10) {
		if l.Rule.Name == rule {
			for _, s := range l.Subjects {
				n += s.Limit - s.Remaining
			}
		}
	}
	return n
}

// innerly sends a request to the inner listener.
func (r *rig) innerly(h headerMap) *extprocv3.ProcessingResponse {
	r.t.Helper()
	ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(context.Background(), wire.InnerMetadata, "true"))
	r.t.Cleanup(cancel)
	s, err := r.client.Process(ctx)
	if err != nil {
		r.t.Fatal(err)
	}
	d := &door{t: r.t, stream: s}
	return d.send(requestHeaders(h, peekedAt(`"gpt-4o"`, "", "")))
}

// A request that a policy covers goes to the relay, and counts as a request; what it costs is the fill's, which comes as its caller without a
// credential, once.
func TestRelayedRequest(t *testing.T) {
	r, flights := relayRig(t, 10, 1_000_000)
	d := r.open(chatHeaders(), peekedAt(`"gpt-4o"`, "", ""))
	id := setHeader(d.first, wire.FlightHeader)
	if len(id) != 32 || setHeader(d.first, wire.RuleHeader) != wire.RelayKey || setHeader(d.first, wire.TimeoutHeader) != "602000" || said(d.first, wire.KeyRelayed) != "true" {
		t.Fatalf("the decision: %v", d.first)
	}
	if r.used("p/requests") != 1 || r.used("p/tokens") != 0 {
		t.Errorf("%d requests and %d tokens are counted, want 1 and 0", r.used("p/requests"), r.used("p/tokens"))
	}
	f := flights.Take(id)
	if f == nil || f.Identity.Tenant != "acme" || f.Model != "gpt-4o" || f.Cache == nil || f.Session != nil || !f.Open.Relayed || flights.Take(id) != nil {
		t.Fatalf("the flight: %+v", f)
	}

	fill := &relay.Fill{Flight: f, ID: relay.NewID(), Cache: "miss"}
	flights.PutFill(fill)
	bare := chatHeaders().with("authorization", "Bearer fill").with(wire.FlightHeader, fill.ID)
	resp := r.innerly(bare)
	if setHeader(resp, wire.RuleHeader) != "direct-of-kept" || said(resp, wire.KeyFill) != wire.FillAnswer || said(resp, wire.KeyConsumer) != "demo" ||
		said(resp, wire.KeyTenant) != "acme" {
		t.Errorf("the fill: %v", resp)
	}
	if r.used("p/requests") != 1 || r.used("p/tokens") == 0 {
		t.Errorf("%d requests and %d tokens are counted, want 1 and some", r.used("p/requests"), r.used("p/tokens"))
	}
	if again := r.innerly(bare); again.GetImmediateResponse().GetStatus().GetCode() != 503 {
		t.Errorf("the fill, once more: %v", again)
	}
}

// A fill whose answer another buys is told so, and is nowhere: no decision that refused, nothing that limits have counted, no record that
// anybody hears of.
func TestTakenFill(t *testing.T) {
	r, flights := relayRig(t, 10, 1_000_000)
	d := r.open(chatHeaders(), peekedAt(`"gpt-4o"`, "", ""))
	f := flights.Take(setHeader(d.first, wire.FlightHeader))
	fill := &relay.Fill{Flight: f, ID: relay.NewID(), Cache: "miss", Claim: func() bool { return false }}
	flights.PutFill(fill)
	r.mu.Lock()
	before := len(r.statuses)
	r.mu.Unlock()
	resp := r.innerly(chatHeaders().with("authorization", "Bearer fill").with(wire.FlightHeader, fill.ID))
	if code := resp.GetImmediateResponse().GetStatus().GetCode(); code != 503 || said(resp, wire.KeyFill) != wire.FillTaken || said(resp, wire.KeyExchange) != "" {
		t.Fatalf("the fill: %v", resp)
	}
	r.mu.Lock()
	if told := r.statuses[before:]; len(told) != 0 {
		t.Errorf("metrics were told %v", told)
	}
	r.mu.Unlock()
	for _, l := range r.server.opts.Limits.States(10) {
		if l.Rule.Name == "p/tokens" && (l.Admitted != 0 || l.Refused != 0) || l.Rule.Name == "p/requests" && l.Admitted != 1 {
			t.Errorf("%s: %d admitted, %d refused", l.Rule.Name, l.Admitted, l.Refused)
		}
	}
	if r.used("p/tokens") != 0 || fill.Refused() != nil || r.server.opts.Desk.InFlight() != 1 {
		t.Errorf("%d tokens are counted, refused %v, %d requests are open", r.used("p/tokens"), fill.Refused(), r.server.opts.Desk.InFlight())
	}
}

// Nobody is a fill who does not come by the inner listener, and nothing comes by the inner listener that is none.
func TestOnlyFillsAtTheInnerListener(t *testing.T) {
	r, flights := relayRig(t, 10, 1_000_000)
	d := r.open(chatHeaders(), peekedAt(`"gpt-4o"`, "", ""))
	fill := &relay.Fill{Flight: flights.Take(setHeader(d.first, wire.FlightHeader)), ID: relay.NewID()}
	flights.PutFill(fill)
	outside := r.open(chatHeaders(wire.FlightHeader, fill.ID), peekedAt(`"gpt-4o"`, "", ""))
	if got := outside.first.GetImmediateResponse().GetStatus().GetCode(); got != 503 {
		t.Errorf("a fill at the door: %d", got)
	}
	for name, h := range map[string]headerMap{"no fill": chatHeaders(), "an unknown one": chatHeaders(wire.FlightHeader, relay.NewID())} {
		if got := r.innerly(h).GetImmediateResponse().GetStatus().GetCode(); got != 503 {
			t.Errorf("%s: %d", name, got)
		}
	}
}

// What the caller wants nothing kept of, and what no policy covers, goes straight to a backend, and by no lane where a policy covers it.
func TestNotRelayed(t *testing.T) {
	r, _ := relayRig(t, 10, 1_000_000)
	d := r.open(chatHeaders(wire.CacheControlHeader, "no-cache, no-store"), peekedAt(`"gpt-4o"`, "", ""))
	if setHeader(d.first, wire.RuleHeader) != "direct-of-kept" || said(d.first, wire.KeyLane) != "" {
		t.Errorf("no-store: %v", d.first)
	}
	if r.used("p/tokens") == 0 || r.used("p/requests") != 1 {
		t.Error("a request that is not relayed passes all limits at once")
	}
	x, err := r.server.Explain(t.Context(), ExplainRequest{
		Path: "/v1/chat/completions", Headers: [][2]string{{"authorization", "Bearer " + demoKey}, {"content-type", "application/json"}},
		Body: []byte(`{"model":"gpt-4o","messages":[{"role":"user","content":"Hello"}]}`),
	})
	if err != nil || x.Relay == nil || !x.Relay.Relayed || x.Relay.CachePolicy != "default/cache" || !x.Outcome.Served || len(x.Limits) != 2 ||
		x.Lane == nil || x.Lane.Native || !strings.Contains(x.Lane.Why, "CachePolicy default/cache") {
		t.Errorf("explained: %v %+v %+v %+v", err, x.Relay, x.Lane, x.Outcome)
	}
}

// A fill that is refused says why to the relay, whose request is no more than refused then.
func TestFillRefused(t *testing.T) {
	r, flights := relayRig(t, 10, 1)
	for i, want := range []int{0, 429} { // the first takes all that there is
		d := r.open(chatHeaders(), peekedAt(`"gpt-4o"`, "", ""))
		f := flights.Take(setHeader(d.first, wire.FlightHeader))
		if f == nil {
			t.Fatalf("the door counts tokens: %v", d.first)
		}
		fill := &relay.Fill{Flight: f, ID: relay.NewID()}
		flights.PutFill(fill)
		resp := r.innerly(chatHeaders(wire.FlightHeader, fill.ID))
		if got := int(resp.GetImmediateResponse().GetStatus().GetCode()); got != want {
			t.Fatalf("fill %d: status %d, want %d: %v", i, got, want, resp)
		}
		if e := fill.Refused(); (e != nil) != (want == 429) || e != nil && e.Policy != "p/tokens" {
			t.Errorf("fill %d: the relay knows of %+v", i, e)
		}
	}
}

// What never landed is forgotten.
func TestFlightsAreSwept(t *testing.T) {
	now := t0
	flights := relay.NewFlights(func() time.Time { return now })
	flights.Put(&relay.Flight{ID: "a"})
	flights.PutFill(&relay.Fill{ID: "b"})
	if n := flights.Sweep(); n != 0 {
		t.Errorf("%d were forgotten at once", n)
	}
	now = now.Add(time.Minute)
	if n := flights.Sweep(); n != 2 || flights.Take("a") != nil || flights.TakeFill("b") != nil {
		t.Errorf("%d were forgotten, want 2", n)
	}
}
