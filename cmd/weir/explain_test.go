package main

import (
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/console/api"
	"github.com/weir-dev/weir/extproc/breaker"
	"github.com/weir-dev/weir/extproc/pick"
	"github.com/weir-dev/weir/usage"
	"github.com/weir-dev/weir/xds/compile"
	"github.com/weir-dev/weir/xds/load"
	"github.com/weir-dev/weir/xds/load/weigh"
	"github.com/weir-dev/weir/xds/serve"
)

// TestBlockedBackend: who wants to be left alone shows until when, in the API and where weights are explained.
func TestBlockedBackend(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	clock := func() time.Time { return now }
	breakers := breaker.New(breaker.Options{Now: clock})
	steered := load.New(load.Options{
		Picker: pick.NewSet(pick.Options{Now: clock, Breakers: breakers}), Breakers: breakers, Steer: func(*serve.Overlay) {},
		Registry: prometheus.NewRegistry(), Log: slog.New(slog.DiscardHandler), Now: clock,
	})
	pool := &compile.Pool{
		Backend: "default/api", Policy: "default/load", Cluster: "api", Weigh: weigh.FromAPI(&v1alpha1.LoadPolicySpec{}), Tick: 250 * time.Millisecond,
		Endpoints: []compile.PoolEndpoint{{Key: "api.example:443", Host: "api.example", Port: 443, Weight: 1}},
	}
	version := &load.Steering{Pools: map[string]*compile.Pool{pool.Backend: pool}}
	steered.Use(version)
	steered.Observe(&usage.Record{Backend: pool.Backend, Endpoint: "192.0.2.1:443", Status: 429, Signals: map[string]string{
		"default/api 192.0.2.1:443": "429\nretry-after: 7",
	}})
	steered.Use(version) // which computes at once

	body := (*steeringBody)(api.SteeringOf(steered.State(), now))
	text, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	if want := `"blockedUntil":"2026-03-01T12:00:07Z"`; !strings.Contains(string(text), want) {
		t.Errorf("%s is not in %s", want, text)
	}
	var b strings.Builder
	if err := body.print(&b); err != nil {
		t.Fatal(err)
	}
	if want := "answered 429, to be tried again in 7 s; asked nevertheless, there is no other -> 1000"; !strings.Contains(b.String(), want) {
		t.Errorf("%q is not in\n%s", want, b.String())
	}
	if e := api.SteeringOf(steered.State(), now.Add(7*time.Second)).Pools[0].Endpoints[0]; e.Blocked != nil {
		t.Errorf("the time is over, and it says %v", e.Blocked)
	}
}
