package main

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/weir-dev/weir/console/api"
)

// aGateway answers under /api as a gateway does that has been up for an hour; not ready where reason is not empty.
func aGateway(t *testing.T, reason string) *httptest.Server {
	t.Helper()
	since := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	f := func(v float64) *float64 { return &v }
	answers := map[string]any{
		"/api/status": api.Status{
			Version: "v1.2.3",
			Configuration: api.Configuration{
				Serving: "4b203a5f1740", Since: since, Pending: "5c203a5f1740", Rejected: "3a203a5f1740", Reason: "unknown cluster", EnvoyConnected: reason == "", Retained: 2,
			},
			Origin:   api.Origin{Name: "Kubernetes", Connected: reason == "", Since: since, Reason: reason},
			Problems: []string{"r.yaml:8: Route default/r: there is no Backend default/nowhere"},
			Objects:  map[string]int{"Backend": 2, "Route": 1, "Budget": 0},
			KeySets:  []api.KeySet{{URL: "https://id.example/keys", Err: "connection refused"}},
			SharedState: &api.SharedState{
				Replicas: 3, Restoring: true, Error: "timeout",
			},
			Ledger: api.LedgerState{Folder: "/var/lib/weir/ledger/0", Open: 7},
		},
		"/api/topology": api.Topology{
			At: since.Add(time.Hour), Version: "4b203a5f1740",
			Routes: []api.Route{
				{ID: "default/chat", Targets: []api.RouteBackend{{Backend: "default/gpu", Weight: 3, LiveWeight: f(1.5)}, {Backend: "default/api", Weight: 1, Priority: 1}}},
				{ID: "default/quiet", Targets: []api.RouteBackend{{Backend: "default/api", Weight: 1}}},
			},
			Backends: []api.Backend{
				{ID: "default/gpu", BackendState: api.BackendState{Health: "degraded", Why: "1 of 2 endpoints is isolated", Share: 0.5, InFlight: 9, Waiting: 2}, Endpoints: []api.Endpoint{
					{ID: "default/gpu|10.0.0.1:8000", Address: "10.0.0.1:8000", EndpointState: api.EndpointState{Status: "Active", Weight: 500, Why: "queue 12 > 8: x0.5", GPU: f(0.93), KVCache: f(0.4), Queue: f(12), TTFTSeconds: f(0.84), InFlight: 9}},
					{ID: "default/gpu|10.0.0.2:8000", Address: "10.0.0.2:8000", EndpointState: api.EndpointState{Status: "Isolated", Why: "health check failed", SignalError: "connection refused"}},
				}},
				{ID: "default/api", BackendState: api.BackendState{Health: "ok", Share: 1}, Endpoints: []api.Endpoint{
					{ID: "default/api|api.example:443", Address: "api.example:443", EndpointState: api.EndpointState{Status: "ok", Weight: 1}},
				}},
			},
			Edges: []api.Edge{
				{Kind: "client", From: "acme/shop", To: "default/chat", Rates: api.Rates{Requests: 12.34, Errors: 0.2, Tokens: 1800, InFlight: 6}},
				{Kind: "client", From: "acme/test", To: "default/chat", Rates: api.Rates{Requests: 1, Tokens: 10, InFlight: 3}},
				{Kind: "client", From: "-/-", To: "-", Rates: api.Rates{Requests: 2, Errors: 2}},
				{Kind: "route", From: "default/chat", To: "default/gpu", Rates: api.Rates{Requests: 13.34, Errors: 0.2, Tokens: 1810, InFlight: 9}},
				{Kind: "backend", From: "default/gpu", To: "default/gpu|10.0.0.1:8000", Rates: api.Rates{Requests: 13.34, Errors: 0.2, Tokens: 1810, InFlight: 9}},
				{Kind: "other", From: "x", To: "y", Rates: api.Rates{Requests: 1000}},
			},
			Totals: api.Totals{Rates: api.Rates{Requests: 15.34, Errors: 2.2, Tokens: 1810, InFlight: 9}, TTFTSeconds: 0.84, CostPerHour: "12.5", Currency: "USD"},
		},
		"/api/requests": api.Requests{Running: []api.RequestSummary{
			{ID: "1", RequestID: "req-1", DurationSeconds: 3, Tenant: "acme", Model: "gpt\x1b[31m-4o", Route: "default/chat", Backend: "default/gpu", Attempts: 1, InputTokens: 40},
			{ID: "2", DurationSeconds: 75, Tenant: "acme", Model: "gpt-4o", Route: "default/chat", Backend: "default/gpu", Attempts: 2, InputTokens: 9},
		}},
		"/api/breakers": api.Breakers{Breakers: []api.Breaker{
			{Policy: "default/fair", State: "Closed"}, {Policy: "default/fair", Subject: "acme", State: "Open", Requests: 10, Failures: 9, RetryAfterSeconds: 3},
		}},
		"/api/limits": api.Limits{Limits: []api.Limit{
			{Name: "default/fair/requests", Unit: "requests", Subjects: []api.LimitSubject{{Subject: "acme", Limit: 60, Remaining: 3, ResetSeconds: 12}, {Subject: "other", Limit: 60, Remaining: 13}}},
			{Name: "default/acme", Unit: moneyUnit, Subjects: []api.LimitSubject{{Limit: 1e12, Remaining: -5e8, ResetSeconds: 700_000}}},
		}},
		"/api/history": api.History{Since: since, Dependencies: []api.Dependency{
			{Kind: "redis", Name: "redis", State: "down", Why: "timeout"}, {Kind: "backend", Name: "default/gpu", State: "degraded"}, {Kind: "envoy", Name: "envoy", State: "ok"},
		}},
	}
	mux := http.NewServeMux()
	for path, answer := range answers {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) {
			if path == "/api/requests" && r.FormValue("running") != "oldest" {
				t.Errorf("%s: the slowest may be left out", r.URL)
			}
			_ = json.NewEncoder(w).Encode(answer)
		})
	}
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if reason != "" {
			http.Error(w, reason, http.StatusServiceUnavailable)
		}
	})
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s
}

func TestStatus(t *testing.T) {
	now := time.Date(2026, 11, 1, 13, 0, 0, 0, time.UTC)
	for name, reason := range map[string]string{"ready": "", "not-ready": "Envoy is gone"} {
		admin := adminClient{at: aGateway(t, reason).URL}
		if err := admin.open(); err != nil {
			t.Fatal(err)
		}
		s, err := fetchStatus(t.Context(), &admin, now)
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		if err := s.print(&b); err != nil {
			t.Fatal(err)
		}
		golden(t, "status/"+name+".txt", b.String())
	}
}

func TestStatusCommand(t *testing.T) {
	if out, err := weir("", "status", "--admin", aGateway(t, "").URL); err != nil || !strings.Contains(out, "serving") {
		t.Errorf("%v\n%s", err, out)
	}
	out, err := weir("", "status", "--admin", aGateway(t, "stopping").URL, "-o", "json")
	var quiet quietError
	var s gatewayStatus
	if !errors.As(err, &quiet) || quiet.code != 0 || json.Unmarshal([]byte(out), &s) != nil || s.Ready || s.Reason != "stopping" || len(s.Backends) != 2 {
		t.Errorf("%v\n%s", err, out)
	}
	if _, err := weir("", "status", "-o", "xml"); err == nil || !strings.Contains(err.Error(), "text or json") {
		t.Error(err)
	}
	nobody := httptest.NewServer(nil)
	nobody.Close()
	for _, command := range []string{"status", "top"} {
		if _, err := weir("", command, "--admin", nobody.URL); err == nil || !strings.Contains(err.Error(), "no gateway answers at "+nobody.URL) {
			t.Errorf("%s: %v", command, err)
		}
	}
}
