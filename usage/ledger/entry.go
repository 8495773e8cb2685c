package ledger

import (
	"math"
	"time"
)

// Tokens are counts in disjoint buckets: their sum is everything that the model read and wrote.
type Tokens struct {
	// Input is fresh input: what was neither read from a cache nor written to one.
	Input int64 `json:"input,omitempty"`
	// CacheRead is input that the provider took from its prompt cache.
	CacheRead int64 `json:"cacheRead,omitempty"`
	// CacheWrite is input that the provider put into its prompt cache.
	CacheWrite int64 `json:"cacheWrite,omitempty"`
	// Output is what was written for the caller, without reasoning.
	Output int64 `json:"output,omitempty"`
	// Reasoning is output that the model wrote for itself.
	Reasoning int64 `json:"reasoning,omitempty"`
}

// InputTotal is everything that the model read.
func (t Tokens) InputTotal() int64 { return addClamped(addClamped(t.Input, t.CacheRead), t.CacheWrite) }

// OutputTotal is everything that the model wrote.
func (t Tokens) OutputTotal() int64 { return addClamped(t.Output, t.Reasoning) }

// Total is everything that the model read and wrote.
func (t Tokens) Total() int64 { return addClamped(t.InputTotal(), t.OutputTotal()) }

// Plus adds bucket by bucket.
func (t Tokens) Plus(u Tokens) Tokens {
	return Tokens{
		Input: addClamped(t.Input, u.Input), CacheRead: addClamped(t.CacheRead, u.CacheRead),
		CacheWrite: addClamped(t.CacheWrite, u.CacheWrite),
		Output:     addClamped(t.Output, u.Output), Reasoning: addClamped(t.Reasoning, u.Reasoning),
	}
}

func (t Tokens) negative() bool {
	return t.Input < 0 || t.CacheRead < 0 || t.CacheWrite < 0 || t.Output < 0 || t.Reasoning < 0
}

// addClamped adds and stays at the end of the range rather than wrap around: a sum that is too small by a known
// bound is better than one with the wrong sign.
func addClamped(a, b int64) int64 {
	switch {
	case b > 0 && a > math.MaxInt64-b:
		return math.MaxInt64
	case b < 0 && a < math.MinInt64-b:
		return math.MinInt64
	}
	return a + b
}

// Flags say how far an entry can be trusted, and what happened to its request.
type Flags struct {
	// Estimated: the provider reported no usage, or nobody saw the report; tokens and cost are Weir's own estimate.
	Estimated bool `json:"estimated,omitempty"`
	// Aborted: the answer ended early; what had been delivered is counted.
	Aborted bool `json:"aborted,omitempty"`
	// Interrupted: no record of the end came, because Envoy or Weir died. Such entries are estimated too.
	Interrupted bool `json:"interrupted,omitempty"`
	// Unpriced: no price applied; the cost is zero because it is not known.
	Unpriced bool `json:"unpriced,omitempty"`
	// Translated: the backend speaks another dialect than the caller.
	Translated bool `json:"translated,omitempty"`
	// Cached: the answer came from a cache of the gateway; no backend was asked.
	Cached bool `json:"cached,omitempty"`
	// Cut: the answer was ended because a budget was spent.
	Cut bool `json:"cut,omitempty"`
}

// Names are the flags that are set, as they are called in the ledger.
func (f Flags) Names() []string {
	var names []string
	for _, p := range [...]struct {
		set  bool
		name string
	}{
		{f.Estimated, "estimated"}, {f.Aborted, "aborted"}, {f.Interrupted, "interrupted"}, {f.Unpriced, "unpriced"},
		{f.Translated, "translated"}, {f.Cached, "cached"}, {f.Cut, "cut"},
	} {
		if p.set {
			names = append(names, p.name)
		}
	}
	return names
}

// Entry is one request in the ledger: who, what, how much. Entries are never changed.
type Entry struct {
	// ID is unique for ever: two entries with one ID are the same entry.
	ID string `json:"id"`
	// Time the request began. The day of an entry is this time's day in UTC.
	Time time.Time `json:"time"`
	// RequestID is what the caller knows the request by.
	RequestID string `json:"requestId,omitempty"`
	Tenant    string `json:"tenant,omitempty"`
	Namespace string `json:"namespace,omitempty"`
	Consumer  string `json:"consumer,omitempty"`
	// Credential names the key or issuer; never a secret.
	Credential string `json:"credential,omitempty"`
	// Gateway is the LLMGateway that the request came in by, "namespace/name". Entries of before it was kept have none.
	Gateway string `json:"gateway,omitempty"`
	Route   string `json:"route,omitempty"`
	// Backend that answered, or was asked last.
	Backend string `json:"backend,omitempty"`
	// Model as the caller named it.
	Model string `json:"model,omitempty"`
	// UpstreamModel as the backend was asked for it.
	UpstreamModel string `json:"upstreamModel,omitempty"`
	Operation     string `json:"operation,omitempty"`
	Dialect       string `json:"dialect,omitempty"`
	Stream        bool   `json:"stream,omitempty"`
	// Status is the HTTP status the caller got; 0 when none is known.
	Status int `json:"status,omitempty"`
	// Attempts made upstream.
	Attempts int    `json:"attempts,omitempty"`
	Tokens   Tokens `json:"tokens,omitzero"`
	// Cost in nano-units of Currency: 1e9 is one unit.
	Cost     int64  `json:"costNanos,omitempty"`
	Currency string `json:"currency,omitempty"`
	// PriceVersion names the price that Cost, or SavedCost, was worked out with.
	PriceVersion string `json:"priceVersion,omitempty"`
	// SavedTokens and SavedCost are what an answer from a cache of the gateway would have taken and cost, in nano-units of Currency, had it
	// been bought for this request. They are no part of Tokens and Cost, and nobody has spent them.
	SavedTokens Tokens `json:"savedTokens,omitzero"`
	SavedCost   int64  `json:"savedCostNanos,omitempty"`
	// TTFT is the time to the first token; 0 when not known.
	TTFT time.Duration `json:"ttftNanos,omitempty"`
	// Duration of the whole request.
	Duration time.Duration `json:"durationNanos,omitempty"`
	// Cache is what came of the gateway's cache: hit, stale, negative, shared (the answer was being bought for somebody else), miss or bypass;
	// empty where no CachePolicy covered the request.
	Cache string `json:"cache,omitempty"`
	// Purpose is what the gateway asked for by itself, such as summary or refresh; empty where a caller asked.
	Purpose string `json:"purpose,omitempty"`
	// Void: there was no such request. It had been noted as begun, and was asked for once more, under another ID. Nobody sees such entries:
	// they are for the journals alone.
	Void bool `json:"void,omitempty"`
	Flags
}

// ITL is the mean time between two tokens of the output after the first; 0 when that is not known.
func (e *Entry) ITL() time.Duration {
	n := e.Tokens.OutputTotal() - 1
	if !e.Stream || e.TTFT <= 0 || e.Duration <= e.TTFT || n <= 0 {
		return 0
	}
	return (e.Duration - e.TTFT) / time.Duration(n)
}

// Intent is what is known of a request when it is let in, before it is served. If the process dies, the entry of
// the request is made of it.
type Intent struct {
	ID            string    `json:"id"`
	Time          time.Time `json:"time"`
	RequestID     string    `json:"requestId,omitempty"`
	Tenant        string    `json:"tenant,omitempty"`
	Namespace     string    `json:"namespace,omitempty"`
	Consumer      string    `json:"consumer,omitempty"`
	Credential    string    `json:"credential,omitempty"`
	Gateway       string    `json:"gateway,omitempty"`
	Route         string    `json:"route,omitempty"`
	Backend       string    `json:"backend,omitempty"`
	Model         string    `json:"model,omitempty"`
	UpstreamModel string    `json:"upstreamModel,omitempty"`
	Operation     string    `json:"operation,omitempty"`
	Dialect       string    `json:"dialect,omitempty"`
	Stream        bool      `json:"stream,omitempty"`
	// Tokens that the request is expected to take.
	Tokens Tokens `json:"tokens,omitzero"`
	// Cost of those, in nano-units of Currency.
	Cost         int64  `json:"costNanos,omitempty"`
	Currency     string `json:"currency,omitempty"`
	PriceVersion string `json:"priceVersion,omitempty"`
	// Cache and Purpose as in Entry.
	Cache   string `json:"cache,omitempty"`
	Purpose string `json:"purpose,omitempty"`
	// Unpriced: no price applied.
	Unpriced bool `json:"unpriced,omitempty"`
}

// Interrupted is the entry of a request of which nothing is known but that it was let in.
func (i *Intent) Interrupted() Entry {
	return Entry{
		ID: i.ID, Time: i.Time, RequestID: i.RequestID,
		Tenant: i.Tenant, Namespace: i.Namespace, Consumer: i.Consumer, Credential: i.Credential,
		Gateway: i.Gateway, Route: i.Route, Backend: i.Backend, Model: i.Model, UpstreamModel: i.UpstreamModel,
		Operation: i.Operation, Dialect: i.Dialect, Stream: i.Stream,
		Tokens: i.Tokens, Cost: i.Cost, Currency: i.Currency, PriceVersion: i.PriceVersion,
		Cache: i.Cache, Purpose: i.Purpose,
		Flags: Flags{Estimated: true, Interrupted: true, Unpriced: i.Unpriced},
	}
}
