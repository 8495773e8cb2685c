package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/weir-dev/weir/console/api"
	"github.com/weir-dev/weir/console/state"
	"github.com/weir-dev/weir/extproc/limit"
	"github.com/weir-dev/weir/extproc/table"
)

// TestLimitsOfTheLiveConfiguration: /api/limits has what is configured, whether or not somebody has used it, each once.
func TestLimitsOfTheLiveConfiguration(t *testing.T) {
	requests := &limit.Rule{ID: "LimitPolicy/default/fair/requests", Name: "default/fair/requests", Limit: 60, Window: time.Minute, Per: limit.PerTenant}
	spend := &limit.Rule{ID: "Budget/default/monthly", Name: "default/monthly", Unit: limit.Cost, Algorithm: limit.Calendar, Period: limit.Month, Limit: 5e9, WarnAt: 4e9}
	shared := &table.Policy{Limits: []*limit.Rule{requests}}
	live := &table.Table{Currency: "EUR"}
	live.Policies.Gateways = map[string][]*table.Policy{"default/a": {shared}, "default/b": {shared}}
	live.Policies.AllTenants = []*table.Policy{{Limits: []*limit.Rule{spend}}}

	if c := configuredLimits(nil); len(c.Rules) != 0 || c.Currency != "" {
		t.Errorf("before a configuration is live: %+v", c)
	}
	engine := limit.New(limit.Options{Log: slog.New(slog.DiscardHandler)})
	defer engine.Close(context.Background())
	engine.Follow(func() limit.Configuration { return configuredLimits(live) })
	mux := http.NewServeMux()
	api.New(api.Sources{
		Now: time.Now, State: state.New(state.Options{Now: time.Now}), Shares: func() bool { return false }, Limits: engine,
	}).Register(mux)
	ask := func() (out api.Limits) {
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/api/limits", nil))
		if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil {
			t.Fatal(err, w.Body)
		}
		return out
	}
	got := ask().Limits
	if len(got) != 2 {
		t.Fatalf("%d limits: %+v", len(got), got)
	}
	if b := got[0]; b.ID != spend.ID || b.Currency != "EUR" || b.WarnAtPercent != 80 || b.Limit != 5e9 || b.Admitted != 0 || b.Subjects == nil {
		t.Errorf("the budget is %+v", b)
	}
	if l := got[1]; l.ID != requests.ID || l.Currency != "" || l.WarnAtPercent != 0 || l.Counters != 0 {
		t.Errorf("the limit is %+v", l)
	}
	grant, refused := engine.Admit(t.Context(), []*limit.Rule{requests, spend}, limit.Subject{Tenant: "acme"}, limit.Estimate{})
	if refused != nil {
		t.Fatal(refused)
	}
	grant.Settle(limit.Amounts{})
	if got = ask().Limits; len(got) != 2 || got[1].Admitted != 1 || got[1].Subjects[0].Subject != "acme" {
		t.Errorf("after a request: %+v", got)
	}
}
