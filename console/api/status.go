package api

import (
	"net/http"

	"github.com/weir-dev/weir/extproc/limit"
	"github.com/weir-dev/weir/usage/ledger"
	"github.com/weir-dev/weir/usage/money"
	"github.com/weir-dev/weir/xds/serve"
)

func configurationOf(s serve.State) Configuration {
	return Configuration{
		Serving: s.Serving, Since: s.Since, Pending: s.Pending, Rejected: s.Rejected, Reason: s.Reason,
		EnvoyConnected: s.Connected, Retained: s.Retained,
	}
}

func (a *API) status(w http.ResponseWriter, _ *http.Request) {
	body := Status{
		Version: a.Build, Configuration: configurationOf(a.Publisher()), Origin: a.Origin(), Problems: []string{}, KeySets: a.KeySets(), SharedState: a.SharedState(),
	}
	for _, p := range a.Problems() {
		body.Problems = append(body.Problems, p.String())
	}
	if o := a.Objects(); o != nil {
		body.Objects = map[string]int{
			"LLMGateway": len(o.Gateways), "Backend": len(o.Backends), "Route": len(o.Routes),
			"Consumer": len(o.Consumers), "APIKey": len(o.APIKeys), "JWTIssuer": len(o.JWTIssuers),
			"LimitPolicy": len(o.LimitPolicies), "Budget": len(o.Budgets), "LoadPolicy": len(o.LoadPolicies),
			"CachePolicy": len(o.CachePolicies), "SessionPolicy": len(o.SessionPolicies),
			"ReferenceGrant": len(o.ReferenceGrants),
		}
	}
	body.Ledger.Folder, _ = a.Ledger.Slot()
	body.Ledger.Open = a.Desk.InFlight()
	if err := a.Ledger.Health(); err != nil {
		body.Ledger.Error = err.Error()
	}
	if s := a.Authz(); s.Address != "" || s.Err != nil {
		body.ExternalAuthorization = &Authz{Address: s.Address, TLS: s.TLS, ClientCertificates: s.ClientCertificates}
		if s.Err != nil {
			body.ExternalAuthorization.Error = s.Err.Error()
		}
	}
	write(w, body)
}

// shownSubjects is how many counters of a limit are shown: those that have used most.
const shownSubjects = 50

func (a *API) limits(w http.ResponseWriter, _ *http.Request) {
	store := a.Limits.Store()
	body := Limits{Store: Store{Configured: a.Shares(), Replicas: store.Replicas}, Limits: []Limit{}}
	if body.Store.Configured {
		body.Store.Up = !store.Down
		if !store.Since.IsZero() {
			body.Store.DownSince = &store.Since
		}
	}
	for _, r := range a.Limits.States(shownSubjects) {
		b := Limit{
			ID: r.Rule.ID, Name: r.Rule.Name, Unit: r.Rule.Unit.String(), Limit: r.Rule.Limit, Shadow: r.Rule.Shadow,
			Sharing:  [...]string{limit.Local: "Local", limit.Lease: "Lease", limit.Exact: "Exact"}[r.Mode],
			Admitted: r.Admitted, Refused: r.Refused, ShadowRefused: r.ShadowRefused, Waiting: r.Waiting,
			Currency: r.Currency, WarnAtPercent: r.Rule.WarnAtPercent(), Leased: r.Leased, Bound: r.Bound, Counters: r.Counters, Subjects: []LimitSubject{},
		}
		if r.Rule.Window > 0 {
			b.Window = r.Rule.Window.String()
		}
		for _, s := range r.Subjects {
			b.Subjects = append(b.Subjects, LimitSubject{
				Subject: s.Subject, Limit: s.Limit, Remaining: s.Remaining, Reserved: s.Reserved, ResetSeconds: s.Reset.Seconds(),
				Waiting: s.Waiting, Admitted: s.Admitted, Refused: s.Refused,
			})
		}
		body.Limits = append(body.Limits, b)
	}
	write(w, body)
}

func (a *API) breakers(w http.ResponseWriter, _ *http.Request) {
	body := Breakers{Breakers: []Breaker{}}
	for _, s := range a.Breakers.States(a.Now()) {
		body.Breakers = append(body.Breakers, Breaker{
			Policy: s.Rule.Name, Subject: s.Key, State: s.State.String(), Since: s.Since, Requests: s.Requests, Failures: s.Failures,
			RetryAfterSeconds: s.RetryAfter.Seconds(), Refused: s.Refused,
		})
	}
	write(w, body)
}

// usage answers sums of the ledger: ?from=2026-11-01&to=2026-11-30&by=tenant,model. Bounds are those of the command: without
// from, the report begins with this month, and a day that it ends with is part of it.
func (a *API) usage(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	from, to, err := ledger.ParsePeriod(q.Get("from"), q.Get("to"), a.Now())
	if err != nil {
		Fail(w, http.StatusBadRequest, err.Error())
		return
	}
	by := q.Get("by")
	if by == "" {
		by = "tenant"
	}
	dimensions, err := ledger.ParseDimensions(by)
	if err != nil {
		Fail(w, http.StatusBadRequest, "by: "+err.Error())
		return
	}
	if err := a.Ledger.Flush(); err != nil {
		Fail(w, http.StatusServiceUnavailable, "the ledger cannot be written: "+err.Error())
		return
	}
	rows, err := a.Ledger.Sum(r.Context(), from, to, dimensions...)
	if err != nil {
		Fail(w, http.StatusInternalServerError, "the ledger cannot be read: "+err.Error())
		return
	}
	body := Usage{From: from, Rows: make([]UsageRow, len(rows))}
	for i, row := range rows {
		body.Rows[i] = UsageRow{row, money.Nano(row.Cost).String(), saved(row.SavedCost)}
	}
	write(w, body)
}
