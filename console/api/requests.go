package api

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weir-dev/weir/console/state"
	"github.com/weir-dev/weir/extproc/wire"
	"github.com/weir-dev/weir/usage"
	"github.com/weir-dev/weir/usage/money"
)

const (
	// defaultRequests are listed, and maxRequests at most.
	defaultRequests, maxRequests = 100, 1000
	// maxQuery is the longest text that is looked for.
	maxQuery = 256
	// running is the outcome of requests that go on.
	running = "running"
)

// filter is which requests are listed.
type filter struct {
	limit                  int
	route, backend, tenant string
	cache                  string // what came of the cache
	status                 string // a status, a class as "5xx", or an outcome
	text                   string // in lower case
	oldest                 bool   // of those that run, the oldest first
}

// parseFilter reads a query.
func parseFilter(q url.Values) (filter, error) {
	f := filter{limit: defaultRequests, route: q.Get("route"), backend: q.Get("backend"), tenant: q.Get("tenant"), cache: q.Get("cache"), status: q.Get("status"), text: strings.ToLower(q.Get("q"))}
	if s := q.Get("limit"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > maxRequests {
			return f, fmt.Errorf("limit must be a number from 1 to %d, not %q", maxRequests, s)
		}
		f.limit = n
	}
	switch v := q.Get("running"); v {
	case "", "newest":
	case "oldest":
		f.oldest = true
	default:
		return f, fmt.Errorf("running must be newest or oldest, not %q", v)
	}
	if len(f.text) > maxQuery {
		return f, fmt.Errorf("q is longer than %d bytes", maxQuery)
	}
	switch f.status {
	case "", running, state.OK, state.Refused, state.Failed, state.Aborted, state.Interrupted:
		return f, nil
	}
	if len(f.status) == 3 && f.status[0] >= '1' && f.status[0] <= '5' {
		if f.status[1:] == "xx" {
			return f, nil
		}
		if _, err := strconv.ParseUint(f.status, 10, 16); err == nil {
			return f, nil
		}
	}
	return f, fmt.Errorf("status must be one such as 429, a class such as 5xx, or running, ok, refused, failed, aborted or interrupted, not %q", f.status)
}

// match says whether a request is listed. Of a backend it is enough that it was tried.
func (f *filter) match(s *RequestSummary, tried func(backend string) bool) bool {
	if f.route != "" && s.Route != f.route || f.tenant != "" && s.Tenant != f.tenant || f.cache != "" && s.Cache != f.cache {
		return false
	}
	if f.backend != "" && s.Backend != f.backend && !tried(f.backend) {
		return false
	}
	if f.status != "" && f.status != s.Outcome {
		status := strconv.Itoa(s.Status)
		if class, ok := strings.CutSuffix(f.status, "xx"); status != f.status && !(ok && len(status) == 3 && status[:1] == class) {
			return false
		}
	}
	if f.text == "" {
		return true
	}
	for _, t := range [...]string{s.ID, s.RequestID, s.TraceID, s.Model, s.Tenant, s.Consumer, s.Route, s.Backend, s.Endpoint, s.Reason} {
		if strings.Contains(strings.ToLower(t), f.text) {
			return true
		}
	}
	return false
}

func (a *API) listRequests(w http.ResponseWriter, r *http.Request) {
	f, err := parseFilter(r.URL.Query())
	if err != nil {
		Fail(w, http.StatusBadRequest, err.Error())
		return
	}
	now := a.Now()
	body := Requests{Running: []RequestSummary{}, Recent: []RequestSummary{}}
	open := a.newestOpen(-1)
	if f.oldest {
		slices.Reverse(open)
	}
	for _, o := range open {
		s := a.runningSummary(o, now)
		if !f.match(&s, func(b string) bool {
			return slices.ContainsFunc(o.Attempts(), func(x usage.Attempt) bool { return x.Backend == b }) ||
				slices.ContainsFunc(a.Desk.Tried(o), func(x usage.Failed) bool { return x.Backend == b })
		}) {
			continue
		}
		if len(body.Running) == f.limit {
			body.More = true
			break
		}
		body.Running = append(body.Running, s)
	}
	all := a.State.Requests.All()
	body.Total = len(all)
	for _, x := range all {
		s := summaryOf(x)
		if !f.match(&s, func(b string) bool {
			return slices.ContainsFunc(x.Tries, func(t usage.Failed) bool { return t.Backend == b })
		}) {
			continue
		}
		if len(body.Recent) == f.limit {
			body.More = true
			break
		}
		body.Recent = append(body.Recent, s)
	}
	write(w, body)
}

func (a *API) oneRequest(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	var open *usage.Open
	a.Desk.Each(func(o *usage.Open) bool {
		if o.ID == id || o.RequestID == id {
			open = o
		}
		return open == nil
	})
	if open != nil {
		write(w, a.runningDetail(open, a.Now()))
		return
	}
	if x := a.State.Requests.Find(id); x != nil {
		write(w, a.detail(x))
		return
	}
	Fail(w, http.StatusNotFound, "this request is not known, or not any more: the newest 1,000 are kept, and some that failed or were slow; the ledger has all that were let in")
}

func summaryOf(r *state.Request) RequestSummary {
	c, e := &r.Record, &r.Entry
	s := RequestSummary{
		ID: r.ID, RequestID: c.RequestID, At: r.Began.UTC(), Outcome: r.Outcome, Status: c.Status, Reason: r.Reason,
		Tenant: c.Tenant, Consumer: c.Consumer, Route: c.Route, Backend: r.Backend(), Endpoint: c.Endpoint,
		Model: c.Model, Operation: c.Operation, Dialect: c.Dialect, Stream: c.Stream, Attempts: max(c.Attempts, e.Attempts),
		DurationSeconds: c.Duration.Seconds(), TTFTSeconds: r.TTFT().Seconds(), TraceID: c.Trace.Trace, Cache: cmp.Or(c.Cache, e.Cache), Purpose: purposeOf(r),
	}
	if !r.Recorded {
		s.DurationSeconds = max(0, r.Finished.Sub(r.Began).Seconds())
	}
	if r.Entered {
		s.InputTokens, s.OutputTokens, s.Estimated, s.Currency = e.Tokens.InputTotal(), e.Tokens.OutputTotal(), e.Estimated, e.Currency
		if !e.Unpriced {
			s.Cost = money.Nano(e.Cost).String()
		}
		s.SavedCost = saved(e.SavedCost)
	}
	return s
}

// saved is an amount that a cache has saved; "" for none.
func saved(nano int64) string {
	if nano == 0 {
		return ""
	}
	return money.Nano(nano).String()
}

func (a *API) runningSummary(o *usage.Open, now time.Time) RequestSummary {
	return RequestSummary{
		ID: o.ID, RequestID: o.RequestID, At: o.Time.UTC(), Outcome: running, Tenant: o.Tenant, Consumer: o.Consumer, Route: o.Route,
		Backend: a.Desk.At(o), Model: o.Model, Operation: o.Operation, Dialect: o.Dialect, Stream: o.Stream, Attempts: o.Progress().Attempts,
		DurationSeconds: max(0, now.Sub(o.Time).Seconds()), InputTokens: o.EstimatedInput, Estimated: true, TraceID: o.Trace.Trace, Currency: o.Currency, Purpose: o.Purpose,
	}
}

// purposeOf is what Weir asked for by itself; "" where a caller asked.
func purposeOf(r *state.Request) string {
	if r.Entry.Purpose != "" || r.Record.Fill == wire.FillAnswer {
		return r.Entry.Purpose
	}
	return r.Record.Fill
}

func sortOpen(list []*usage.Open) {
	slices.SortFunc(list, func(a, b *usage.Open) int { return cmp.Or(b.Time.Compare(a.Time), cmp.Compare(a.ID, b.ID)) })
}
