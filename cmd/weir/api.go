package main

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/weir-dev/weir/extproc/limit"
	"github.com/weir-dev/weir/usage/ledger"
	"github.com/weir-dev/weir/usage/money"
)

// shownSubjects is how many counters of a limit are shown: those that have used most.
const shownSubjects = 50

// limitBody is one limit or budget in the answer of /api/limits. Amounts are units: counts, or nano-units of money.
type limitBody struct {
	ID            string        `json:"id"`
	Name          string        `json:"name"`
	Unit          string        `json:"unit"`
	Limit         int64         `json:"limit"`
	Window        string        `json:"window,omitempty"`
	Shadow        bool          `json:"shadow,omitempty"`
	Sharing       string        `json:"sharing"`
	Admitted      uint64        `json:"admitted"`
	Refused       uint64        `json:"refused"`
	ShadowRefused uint64        `json:"shadowRefused"`
	Waiting       int           `json:"waiting"`
	Leased        int64         `json:"leased"`
	Bound         int64         `json:"overspendBound"`
	Counters      int           `json:"counters"`
	Subjects      []subjectBody `json:"subjects"`
}

type subjectBody struct {
	Subject      string  `json:"subject"`
	Limit        int64   `json:"limit"`
	Remaining    int64   `json:"remaining"`
	Reserved     int64   `json:"reserved"`
	ResetSeconds float64 `json:"resetSeconds"`
	Waiting      int     `json:"waiting"`
	Admitted     uint64  `json:"admitted"`
	Refused      uint64  `json:"refused"`
}

type storeBody struct {
	Configured bool       `json:"configured"`
	Up         bool       `json:"up"`
	DownSince  *time.Time `json:"downSince,omitempty"`
	Replicas   int        `json:"replicas"`
}

func (g *gateway) limits(w http.ResponseWriter, _ *http.Request) {
	body := struct {
		Store  storeBody   `json:"sharedState"`
		Limits []limitBody `json:"limits"`
	}{Limits: []limitBody{}}
	store := g.acct.limits.Store()
	body.Store = storeBody{Configured: g.acct.shared.remote.Load() != nil, Replicas: store.Replicas}
	if body.Store.Configured {
		body.Store.Up = !store.Down
		if !store.Since.IsZero() {
			body.Store.DownSince = &store.Since
		}
	}
	for _, r := range g.acct.limits.States(shownSubjects) {
		b := limitBody{
			ID: r.Rule.ID, Name: r.Rule.Name, Unit: r.Rule.Unit.String(), Limit: r.Rule.Limit, Shadow: r.Rule.Shadow,
			Sharing:  [...]string{limit.Local: "Local", limit.Lease: "Lease", limit.Exact: "Exact"}[r.Mode],
			Admitted: r.Admitted, Refused: r.Refused, ShadowRefused: r.ShadowRefused, Waiting: r.Waiting,
			Leased: r.Leased, Bound: r.Bound, Counters: r.Counters, Subjects: []subjectBody{},
		}
		if r.Rule.Window > 0 {
			b.Window = r.Rule.Window.String()
		}
		for _, s := range r.Subjects {
			b.Subjects = append(b.Subjects, subjectBody{
				Subject: s.Subject, Limit: s.Limit, Remaining: s.Remaining, Reserved: s.Reserved, ResetSeconds: s.Reset.Seconds(),
				Waiting: s.Waiting, Admitted: s.Admitted, Refused: s.Refused,
			})
		}
		body.Limits = append(body.Limits, b)
	}
	writeJSON(w, body)
}

type breakerBody struct {
	Policy            string    `json:"policy"`
	Subject           string    `json:"subject"`
	State             string    `json:"state"`
	Since             time.Time `json:"since"`
	Requests          int64     `json:"requests"`
	Failures          int64     `json:"failures"`
	RetryAfterSeconds float64   `json:"retryAfterSeconds"`
	Refused           uint64    `json:"refused"`
}

func (g *gateway) breakers(w http.ResponseWriter, _ *http.Request) {
	out := []breakerBody{}
	for _, s := range g.acct.breakers.States(time.Now()) {
		out = append(out, breakerBody{
			Policy: s.Rule.Name, Subject: s.Key, State: s.State.String(), Since: s.Since, Requests: s.Requests, Failures: s.Failures,
			RetryAfterSeconds: s.RetryAfter.Seconds(), Refused: s.Refused,
		})
	}
	writeJSON(w, map[string]any{"breakers": out})
}

// usageRow is a row of the answer of /api/usage. Cost is written as the amount of money, exactly.
type usageRow struct {
	ledger.Row
	Cost string `json:"cost"`
}

// usage answers sums of the ledger: ?from=2026-11-01&to=2026-11-30&by=tenant,model. Bounds are those of the command: without
// from, the report begins with this month, and a day that it ends with is part of it.
func (g *gateway) usage(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	from, to, err := parsePeriod(q.Get("from"), q.Get("to"), time.Now())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	by := q.Get("by")
	if by == "" {
		by = "tenant"
	}
	dimensions, err := ledger.ParseDimensions(by)
	if err != nil {
		http.Error(w, "by: "+err.Error(), http.StatusBadRequest)
		return
	}
	if err := g.acct.ledger.Flush(); err != nil {
		http.Error(w, "the ledger cannot be written: "+err.Error(), http.StatusServiceUnavailable)
		return
	}
	rows, err := g.acct.ledger.Sum(r.Context(), from, to, dimensions...)
	if err != nil {
		http.Error(w, "the ledger cannot be read: "+err.Error(), http.StatusInternalServerError)
		return
	}
	out := make([]usageRow, len(rows))
	for i, row := range rows {
		out[i] = usageRow{row, money.Nano(row.Cost).String()}
	}
	writeJSON(w, map[string]any{"from": from, "rows": out})
}

func writeJSON(w http.ResponseWriter, body any) {
	w.Header().Set("content-type", "application/json")
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(body) // the client went away
}
