package api

import (
	"slices"
	"time"

	"github.com/weir-dev/weir/console/state"
	"github.com/weir-dev/weir/xds/source"
)

// What there is one of.
var (
	configuration = state.Subject{Kind: state.KindConfiguration, Name: "configuration"}
	envoy         = state.Subject{Kind: state.KindEnvoy, Name: "envoy"}
	redis         = state.Subject{Kind: state.KindRedis, Name: "redis"}
	ledgerOf      = state.Subject{Kind: state.KindLedger, Name: "ledger"}
)

// tick looks at how everything is, and tells the streams what has changed.
func (a *API) tick(now time.Time, watched bool) {
	v := a.look(now)
	a.sample(&v, now)
	if watched {
		a.tell(&v)
	}
}

// sample tells the history how everything is.
func (a *API) sample(v *view, now time.Time) {
	h := a.State.History
	a.samplePlaces(v, now)

	p := a.Publisher()
	switch why := a.envoy.Load(); {
	case why != nil: // Envoy's stream may seem open for a moment longer
		h.Set(now, envoy, state.StateDown, *why, "envoy")
	case !p.Connected:
		h.Set(now, envoy, state.StateDown, "Envoy is not connected", "envoy")
	default:
		h.Set(now, envoy, state.StateOK, "", "envoy")
	}
	if p.Rejected != "" {
		a.State.Changes.WasRejected(p.Rejected, p.Reason)
	}
	from := a.Origin()
	switch {
	case p.Rejected != "":
		h.Set(now, configuration, state.StateDegraded, "Envoy refused version "+p.Rejected+": "+p.Reason, "configuration")
	case source.HasErrors(a.Problems()):
		h.Set(now, configuration, state.StateDegraded, "what is written now has errors; the last good configuration keeps serving", "configuration")
	case p.Serving == "":
		h.Set(now, configuration, state.StateDown, "no configuration is live yet", "configuration")
	case !from.Connected:
		h.Set(now, configuration, state.StateDegraded, "what is served may be old: "+from.Reason, "configuration")
	default:
		h.Set(now, configuration, state.StateOK, "", "configuration")
	}

	if s := a.SharedState(); s == nil {
		h.Drop(state.KindRedis, func(string) bool { return false })
	} else {
		switch {
		case s.Error != "":
			h.Set(now, redis, state.StateDown, s.Error, "redis")
		case s.Problem != "":
			h.Set(now, redis, state.StateDegraded, s.Problem, "redis")
		case s.Shipping != "":
			h.Set(now, redis, state.StateDegraded, "ledger entries are not sent: "+s.Shipping, "redis")
		case s.Restoring:
			h.Set(now, redis, state.StateDegraded, "lost counters are being put together again", "redis")
		default:
			h.Set(now, redis, state.StateOK, "", "redis")
		}
	}

	if err := a.Ledger.Health(); err != nil {
		h.Set(now, ledgerOf, state.StateDown, err.Error(), "ledger")
	} else {
		h.Set(now, ledgerOf, state.StateOK, "", "ledger")
	}

	sets := a.KeySets()
	for _, k := range sets {
		s := state.Subject{Kind: state.KindIssuer, Name: k.URL}
		switch {
		case k.Err != "" && !now.Before(k.UsableTo):
			h.Set(now, s, state.StateDown, k.Err, "keys")
		case k.Err != "":
			h.Set(now, s, state.StateDegraded, "the keys that are held are used until "+k.UsableTo.UTC().Format(time.RFC3339)+": "+k.Err, "keys")
		case k.Fetched.IsZero():
			h.Set(now, s, state.StateIdle, "", "keys")
		default:
			h.Set(now, s, state.StateOK, "", "keys")
		}
	}
	h.Drop(state.KindIssuer, func(name string) bool {
		return slices.ContainsFunc(sets, func(k KeySet) bool { return k.URL == name })
	})
}

// samplePlaces tells how backends and endpoints are.
func (a *API) samplePlaces(v *view, now time.Time) {
	h := a.State.History
	known := map[string]bool{}
	for i := range v.layout.backends {
		b := &v.layout.backends[i]
		known[b.ID] = true
		kind := "failure"
		if b.Steered {
			kind = "steering"
		}
		s := v.backends[b.ID]
		h.Set(now, state.Subject{Kind: state.KindBackend, Name: b.ID}, s.Health, s.Why, kind)
		for j := range b.Endpoints {
			id := b.Endpoints[j].ID
			known[id] = true
			e := v.endpoints[id]
			health, why := e.Status, e.Why
			switch e.Status {
			case "Active":
				health, why = state.StateOK, ""
			case "WarmingUp":
				health = state.StateDegraded
			case "Isolated":
				health = state.StateDown
			case "": // steering has just been told of it
				health = state.StateIdle
			}
			h.Set(now, state.Subject{Kind: state.KindEndpoint, Name: id}, health, why, kind)
		}
	}
	h.Drop(state.KindBackend, func(name string) bool { return known[name] })
	h.Drop(state.KindEndpoint, func(name string) bool { return known[name] })
}
