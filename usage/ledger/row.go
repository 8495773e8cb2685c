package ledger

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Dimension is what rows are grouped by.
type Dimension string

// The dimensions.
const (
	ByDay        Dimension = "day"
	ByTenant     Dimension = "tenant"
	ByNamespace  Dimension = "namespace"
	ByConsumer   Dimension = "consumer"
	ByCredential Dimension = "credential"
	ByGateway    Dimension = "gateway"
	ByRoute      Dimension = "route"
	ByBackend    Dimension = "backend"
	ByModel      Dimension = "model"
)

// Dimensions are all of them, in the order in which rows are sorted.
func Dimensions() []Dimension {
	return []Dimension{ByDay, ByTenant, ByNamespace, ByConsumer, ByCredential, ByGateway, ByRoute, ByBackend, ByModel}
}

// ParseDimensions reads names separated by commas. "key" is another name of the credential.
func ParseDimensions(list string) ([]Dimension, error) {
	var ds []Dimension
	for name := range strings.SplitSeq(list, ",") {
		d := Dimension(strings.ToLower(strings.TrimSpace(name)))
		switch {
		case d == "":
			continue
		case d == "key":
			d = ByCredential
		}
		if !slices.Contains(Dimensions(), d) {
			return nil, fmt.Errorf("%q is nothing to group by; use day, tenant, namespace, consumer, key, gateway, route, backend or model", name)
		}
		if !slices.Contains(ds, d) {
			ds = append(ds, d)
		}
	}
	return ds, nil
}

// Key is what a row is about. What was not grouped by is empty, except Currency: money of two currencies is never
// added.
type Key struct {
	// Day in UTC as 2006-01-02.
	Day        string `json:"day,omitempty"`
	Tenant     string `json:"tenant,omitempty"`
	Namespace  string `json:"namespace,omitempty"`
	Consumer   string `json:"consumer,omitempty"`
	Credential string `json:"credential,omitempty"`
	Gateway    string `json:"gateway,omitempty"`
	Route      string `json:"route,omitempty"`
	Backend    string `json:"backend,omitempty"`
	Model      string `json:"model,omitempty"`
	Currency   string `json:"currency,omitempty"`
}

// Get returns the value of a dimension.
func (k *Key) Get(d Dimension) string {
	if p := k.at(d); p != nil {
		return *p
	}
	return ""
}

func (k *Key) at(d Dimension) *string {
	switch d {
	case ByDay:
		return &k.Day
	case ByTenant:
		return &k.Tenant
	case ByNamespace:
		return &k.Namespace
	case ByConsumer:
		return &k.Consumer
	case ByCredential:
		return &k.Credential
	case ByGateway:
		return &k.Gateway
	case ByRoute:
		return &k.Route
	case ByBackend:
		return &k.Backend
	case ByModel:
		return &k.Model
	}
	return nil
}

// only keeps the dimensions that are grouped by.
func (k *Key) only(by []Dimension) Key {
	out := Key{Currency: k.Currency}
	for _, d := range by {
		if to := out.at(d); to != nil {
			*to = *k.at(d)
		}
	}
	return out
}

func compareKeys(a, b *Key) int {
	for _, d := range Dimensions() {
		if c := cmp.Compare(*a.at(d), *b.at(d)); c != 0 {
			return c
		}
	}
	return cmp.Compare(a.Currency, b.Currency)
}

// Sums are what a row adds up. The counts per flag are numbers of requests; a request may have several flags.
type Sums struct {
	Requests int64  `json:"requests"`
	Tokens   Tokens `json:"tokens,omitzero"`
	// Cost in nano-units.
	Cost int64 `json:"costNanos"`
	// EstimatedTokens and EstimatedCost are the part of the above that is an estimate.
	EstimatedTokens int64 `json:"estimatedTokens,omitempty"`
	EstimatedCost   int64 `json:"estimatedCostNanos,omitempty"`
	// SavedTokens and SavedCost are what answers from a cache of the gateway would have taken and cost. They are no part of the above.
	SavedTokens Tokens `json:"savedTokens,omitzero"`
	SavedCost   int64  `json:"savedCostNanos,omitempty"`
	// Failed requests had a status of 400 or more.
	Failed      int64 `json:"failed,omitempty"`
	Estimated   int64 `json:"estimated,omitempty"`
	Aborted     int64 `json:"aborted,omitempty"`
	Interrupted int64 `json:"interrupted,omitempty"`
	Unpriced    int64 `json:"unpriced,omitempty"`
	Translated  int64 `json:"translated,omitempty"`
	Cached      int64 `json:"cached,omitempty"`
	Cut         int64 `json:"cut,omitempty"`
}

// Row is one line of a report.
type Row struct {
	Key
	Sums
}

func keyOf(e *Entry) Key {
	return Key{
		Day: e.Time.UTC().Format(time.DateOnly), Tenant: e.Tenant, Namespace: e.Namespace, Consumer: e.Consumer,
		Credential: e.Credential, Gateway: e.Gateway, Route: e.Route, Backend: e.Backend, Model: e.Model, Currency: e.Currency,
	}
}

// add adds an entry.
func (s *Sums) add(e *Entry) {
	one := Sums{
		Requests: 1, Tokens: e.Tokens, Cost: e.Cost, SavedTokens: e.SavedTokens, SavedCost: e.SavedCost,
		Estimated: count(e.Estimated), Aborted: count(e.Aborted), Interrupted: count(e.Interrupted),
		Unpriced: count(e.Unpriced), Translated: count(e.Translated), Cached: count(e.Cached), Cut: count(e.Cut),
		Failed: count(e.Status >= 400),
	}
	if e.Estimated || e.Interrupted {
		one.EstimatedTokens, one.EstimatedCost = e.Tokens.Total(), e.Cost
	}
	s.plus(&one)
}

func (s *Sums) plus(o *Sums) {
	s.Tokens, s.SavedTokens = s.Tokens.Plus(o.Tokens), s.SavedTokens.Plus(o.SavedTokens)
	for _, p := range [...]struct{ to, from *int64 }{
		{&s.Requests, &o.Requests}, {&s.Cost, &o.Cost},
		{&s.EstimatedTokens, &o.EstimatedTokens}, {&s.EstimatedCost, &o.EstimatedCost}, {&s.SavedCost, &o.SavedCost},
		{&s.Failed, &o.Failed}, {&s.Estimated, &o.Estimated}, {&s.Aborted, &o.Aborted},
		{&s.Interrupted, &o.Interrupted}, {&s.Unpriced, &o.Unpriced}, {&s.Translated, &o.Translated},
		{&s.Cached, &o.Cached}, {&s.Cut, &o.Cut},
	} {
		*p.to = addClamped(*p.to, *p.from)
	}
}

func count(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// Filter keeps what matches every text that is not empty.
type Filter struct {
	Tenant, Namespace, Consumer, Credential, Gateway, Route, Backend, Model string
}

func (f *Filter) match(k *Key) bool {
	for _, p := range [...]struct{ want, is string }{
		{f.Tenant, k.Tenant}, {f.Namespace, k.Namespace}, {f.Consumer, k.Consumer},
		{f.Credential, k.Credential}, {f.Gateway, k.Gateway}, {f.Route, k.Route}, {f.Backend, k.Backend}, {f.Model, k.Model},
	} {
		if p.want != "" && p.want != p.is {
			return false
		}
	}
	return true
}

// Query says what a report is about.
type Query struct {
	// From and To bound the time an entry's request began: From <= time < To. Zero: no bound.
	From, To time.Time
	Filter   Filter
	// GroupBy may be empty: one row per currency.
	GroupBy []Dimension
}

func (q *Query) inTime(t time.Time) bool {
	return (q.From.IsZero() || !t.Before(q.From)) && (q.To.IsZero() || t.Before(q.To))
}

// Matches reports whether an entry is one that the query is about.
func (q *Query) Matches(e *Entry) bool {
	if e.Void || !q.inTime(e.Time) {
		return false
	}
	k := keyOf(e)
	return q.Filter.match(&k)
}

// Report is the answer to a query.
type Report struct {
	// Rows, sorted by their keys.
	Rows []Row
	// Damaged lines could not be read; they are in no row.
	Damaged int64
	// Doubles are entries that were met again; they are in the rows once.
	Doubles int64
}

// Summer adds entries up to a report.
type Summer struct {
	query Query
	rows  map[Key]*Sums
	// Damaged and Doubles are for the caller to count up.
	Damaged, Doubles int64
}

// NewSummer returns one for a query.
func NewSummer(q Query) *Summer { return &Summer{query: q, rows: map[Key]*Sums{}} }

// Add adds an entry if the query is about it.
func (s *Summer) Add(e *Entry) {
	if e.Void || !s.query.inTime(e.Time) {
		return
	}
	k := keyOf(e)
	if s.query.Filter.match(&k) {
		s.at(k.only(s.query.GroupBy)).add(e)
	}
}

// addRow adds a row of a roll-up, whose entries are all within the query's time.
func (s *Summer) addRow(r *Row) {
	if s.query.Filter.match(&r.Key) {
		s.at(r.Key.only(s.query.GroupBy)).plus(&r.Sums)
	}
}

func (s *Summer) at(k Key) *Sums {
	sums := s.rows[k]
	if sums == nil {
		sums = &Sums{}
		s.rows[k] = sums
	}
	return sums
}

// Report returns what has been added so far.
func (s *Summer) Report() *Report {
	r := &Report{Rows: make([]Row, 0, len(s.rows)), Damaged: s.Damaged, Doubles: s.Doubles}
	for k, sums := range s.rows {
		r.Rows = append(r.Rows, Row{Key: k, Sums: *sums})
	}
	slices.SortFunc(r.Rows, func(a, b Row) int { return compareKeys(&a.Key, &b.Key) })
	return r
}
