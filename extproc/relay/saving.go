package relay

import (
	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/extproc/cache"
	"github.com/weir-dev/weir/usage"
	"github.com/weir-dev/weir/usage/money"
)

// purchase is how a fill's answer was bought, with the tokens that it tells of; nil for none.
func (x *exchange) purchase(l *landed, tokens *canon.Usage) cache.Purchase {
	p := cache.Purchase{Model: x.Model, Backend: l.backend()}
	if o, _ := l.fill.outcome(); o != nil {
		p.UpstreamModel = o.UpstreamModel(p.Backend)
	}
	if tokens != nil {
		p.Tokens = *tokens
	}
	return p
}

// saves notes that the caller is given an answer that was bought so, by another or before, and what that saves: what the request would cost
// had that backend answered it now.
func (x *exchange) saves(p *cache.Purchase) {
	s := usage.Served{Cache: x.outcome, Kept: true}
	if p.Backend != "" { // else nothing was paid
		s.Saved = usage.SavingOf(&p.Tokens, x.price(p))
		x.opts.Cache.Saved(x.Cache.Policy, cache.Saving{
			Input: s.Saved.Tokens.InputTotal(), Output: s.Saved.Tokens.OutputTotal(), Cost: s.Saved.Cost, Currency: x.Open.Currency,
		})
	}
	x.Open.Serve(s)
}

// price is what the backend of a purchase takes today for the model that it was asked for, by the rule that the request goes by; nil where that
// has no price for it, or does not ask that backend for it any more.
func (x *exchange) price(p *cache.Purchase) *money.Price {
	for _, c := range x.Rule.Candidates {
		if c.Backend.ID == p.Backend && (p.UpstreamModel == "" || c.UpstreamModel(p.Model) == p.UpstreamModel) {
			return c.Price(p.Model).At(x.Begun)
		}
	}
	return nil
}
