package extproc

import (
	"testing"
	"time"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/extproc/limit"
	"github.com/weir-dev/weir/extproc/relay"
	"github.com/weir-dev/weir/extproc/session"
	"github.com/weir-dev/weir/extproc/table"
	"github.com/weir-dev/weir/extproc/wire"
	"github.com/weir-dev/weir/usage"
)

// Requests for what is kept pass the limits of requests and of requests at once, whether or not anything is kept for the caller; the latter
// ends with the request.
func TestKeptPassesLimits(t *testing.T) {
	for _, tenant := range []string{"acme", "somebody-else"} {
		for name, unit := range map[string]limit.Unit{"requests": limit.Requests, "at once": limit.Concurrent} {
			t.Run(tenant+" "+name, func(t *testing.T) {
				r := newRules(t)
				r.add("kept", models("gpt-4o"), choice{"openai", ""})
				r.table.Policies.AllTenants = []*table.Policy{{Limits: []*limit.Rule{
					{ID: "LimitPolicy/default/p/l", Name: "p/l", Unit: unit, Limit: 1, Window: time.Minute, Per: limit.PerTenant},
					{ID: "LimitPolicy/default/p/t", Name: "p/t", Unit: limit.TotalTokens, Limit: 1, Window: time.Minute, Per: limit.PerTenant},
				}}}
				r.table.Sessions.Tenants = map[string][]table.Kept[table.SessionPolicy]{
					tenant: {{Name: "default/talk", Policy: &session.Policy{ID: "default/talk"}}},
				}
				flights := relay.NewFlights(func() time.Time { return t0 })
				rig := newRigWith(t, r.build(), func(_ *rig, o *Options) { o.Flights = flights })
				ask := func() (*relay.Flight, int) {
					h := chatHeaders().with(":method", "GET").with(":path", "/v1/responses/resp_x")
					resp := rig.open(h, nil).first
					if code := int(resp.GetImmediateResponse().GetStatus().GetCode()); code != 0 {
						return nil, code
					}
					return flights.Take(setHeader(resp, wire.FlightHeader)), 0
				}
				f, code := ask()
				if f == nil || !f.Resource || (len(f.Keepers) == 1) != (tenant == "acme") {
					t.Fatalf("status %d, flight %+v", code, f)
				}
				if _, code := ask(); code != 429 {
					t.Errorf("one more: status %d, want 429", code)
				}
				rig.server.opts.Desk.Close(&usage.Record{Exchange: f.Open.ID, Aborted: true}) // its caller left before the relay had it
				want := 0
				if unit == limit.Requests {
					want = 429
				}
				if _, code := ask(); code != want {
					t.Errorf("after the end of the first: status %d, want %d", code, want)
				}
			})
		}
	}
}

// A refresh needs the rights of its caller; what a policy has Weir ask for besides does not.
func TestRightsOfFills(t *testing.T) {
	r := newRules(t)
	r.add("kept", models("gpt-4o"), choice{"openai", ""}).RequiredScopes = []string{"chat"}
	flights := relay.NewFlights(func() time.Time { return t0 })
	rig := newRigWith(t, r.build(), func(_ *rig, o *Options) { o.Flights = flights })
	d, _ := rig.server.opts.Dialects.Get("openai")
	for purpose, want := range map[string]int{"": 403, "refresh": 403, "summary": 0} {
		fill := &relay.Fill{ID: relay.NewID(), Purpose: purpose, Flight: &relay.Flight{
			Identity: &identity.Identity{Tenant: "acme"}, Dialect: &d, Endpoint: &canon.Endpoint{Op: canon.OpChat}, Open: &usage.Open{},
		}}
		flights.PutFill(fill)
		resp := rig.innerly(chatHeaders().with("authorization", "Bearer fill").with(wire.FlightHeader, fill.ID))
		if got := int(resp.GetImmediateResponse().GetStatus().GetCode()); got != want {
			t.Errorf("%q: status %d, want %d", purpose, got, want)
		}
	}
}
