package usage

import (
	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/extproc/wire"
	"github.com/weir-dev/weir/usage/ledger"
	"github.com/weir-dev/weir/usage/money"
)

// The relay answers some requests from what it keeps, and gets the answers of others by fills: requests of its own, each on behalf of
// a caller, that pass the limits of tokens and money and go to backends. Each request of a caller has one entry, whatever the relay did:
//
//	answered from what is kept   its own, without tokens and cost
//	its fill answered            the fill's
//	refused                      none
//	for something that is kept   none: nothing is bought for it
//
// A fill that answers no caller (an embedding, a summary, a refresh) has an entry that says its purpose.

// Served is what the relay did with a request.
type Served struct {
	// Cache says what came of the cache, as the answer's header does: hit, stale, negative, shared, miss or bypass; "" where none was asked.
	Cache string
	// Kept says that the answer was bought by others, or before: the request cost nothing. Saved is what it would have cost.
	Kept  bool
	Saved Saving
	// Backend that the answer came from, as far as it is known, for metrics.
	Backend string
	// Fill is the fill that answered; nil where none did.
	Fill *Open
	// Refused says that the relay answered with an error of its own, or of a limit. Refusal and Policy say why.
	Refused         bool
	Refusal, Policy string
	// Kind of that error, "" where it has none.
	Kind string
}

// Saving is what an answer that was not bought would have cost.
type Saving struct {
	Tokens Tokens
	// Cost in billionths of the gateway's currency, by the price of that version; 0 and "" where no price applied.
	Cost         money.Nano
	PriceVersion string
}

// SavingOf is what an answer for which that many tokens were paid would cost by a price; nil where none applies. What a provider has in its
// cache at one time or another is no property of the answer, so that all input is fresh.
func SavingOf(u *canon.Usage, p *money.Price) Saving {
	t := TokensOf(u)
	s := Saving{Tokens: Tokens{Input: t.InputTotal(), Output: t.Output, Reasoning: t.Reasoning}}
	if p != nil {
		s.Cost, _ = p.Cost(money.Tokens(s.Tokens)) // one that is too much for a number is the greatest there is
		s.PriceVersion = p.Version
	}
	return s
}

// Serve notes what the relay did with the request. The last call before the request's record counts.
func (o *Open) Serve(s Served) {
	o.mu.Lock()
	o.served = s
	o.mu.Unlock()
}

// relayedEnd settles a request that went to the relay, by its record; nil where there is none.
func (d *Desk) relayedEnd(o *Open, r *Record) {
	o.mu.Lock()
	s := o.served
	o.mu.Unlock()
	f := Finished{Record: r, Open: o}
	d.failed.take(o.Trace.Span) // that the relay refused is no failure of a backend
	if r != nil {
		// What Envoy asked was the relay, and no backend.
		r.Attempts, r.Endpoint, r.Cache, r.FilledBy = 0, "", s.Cache, s.Backend
		if s.Refused {
			r.Immediate, r.Refusal, r.Policy = true, s.Refusal, s.Policy
			if s.Kind != "" {
				r.Details = "weir_" + s.Kind
			}
		}
	}
	switch {
	case o.Resource:
		if o.Grant != nil {
			o.Grant.Settle(0, 0, 0) // it was a request
		}
	case s.Kept:
		e := o.keptEntry(&s, r)
		d.settle(o, &verdict{entry: e, asked: true})
		f.Entry = &e
	case s.Fill != nil:
		if o.Grant != nil {
			o.Grant.Settle(0, 0, 0) // it was a request, and the tokens are the fill's
		}
		if r != nil {
			own := *r // the record is not to be kept
			f.Record = &own
		}
		s.Fill.whenSettled(func(e *ledger.Entry, endpoint string) {
			f.Entry = e
			if f.Record != nil {
				f.Record.Endpoint = endpoint
			}
			d.finished(f)
		})
		return
	default:
		if o.Grant != nil {
			o.Grant.Cancel()
		}
	}
	d.finished(f)
}

// keptEntry is the entry of a request that was answered from what is kept.
func (o *Open) keptEntry(s *Served, r *Record) ledger.Entry {
	e := o.entry(nil)
	e.Cache, e.Cached = s.Cache, true
	e.SavedTokens, e.SavedCost, e.PriceVersion = s.Saved.Tokens, int64(s.Saved.Cost), s.Saved.PriceVersion
	if r == nil {
		e.Interrupted = true
		return e
	}
	e.Status, e.TTFT, e.Duration, e.Aborted = r.Status, r.FirstByte, r.Duration, r.Aborted || lost(r.Details)
	return e
}

// whenSettled calls f with the entry of a fill, nil where it has none, and with the endpoint that was asked last, "" where nobody knows: at
// once where it is settled, else when it is. The entry is not to be changed.
func (o *Open) whenSettled(f func(e *ledger.Entry, endpoint string)) {
	o.mu.Lock()
	if !o.settled {
		o.waiting = append(o.waiting, f)
		o.mu.Unlock()
		return
	}
	o.mu.Unlock()
	f(o.own, o.endpoint)
}

// isSettled tells who waits for the end of a fill, of which e is the entry, nil for none, and endpoint what was asked last.
func (o *Open) isSettled(e *ledger.Entry, endpoint string) {
	if !o.Fill {
		return
	}
	if e != nil {
		own := *e
		e = &own
	}
	o.mu.Lock()
	o.settled, o.own, o.endpoint = true, e, endpoint
	waiting := o.waiting
	o.waiting = nil
	o.mu.Unlock()
	for _, f := range waiting {
		f(e, endpoint)
	}
}

// Own says whether the request is one of a caller: not a fill, of which the caller's own request tells, unless the fill has a purpose of its
// own.
func (f *Finished) Own() bool {
	if f.Open != nil {
		return !f.Open.Fill || f.Open.Purpose != ""
	}
	return f.Record == nil || f.Record.Fill != wire.FillAnswer
}

// IsFill says whether the relay asked, and not a caller.
func (f *Finished) IsFill() bool {
	return f.Open != nil && f.Open.Fill || f.Record != nil && f.Record.Fill != ""
}

// Relayed says whether the request is a caller's that went to the relay: what backends did for it, its fill tells.
func (f *Finished) Relayed() bool { return f.Open != nil && f.Open.Relayed }
