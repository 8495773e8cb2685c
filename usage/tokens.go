package usage

import (
	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/usage/ledger"
)

// Tokens are counts in disjoint buckets: their sum is everything that the model read and wrote.
type Tokens = ledger.Tokens

// maxTokens of one request, in and out each, that are believed. A report of more is a mistake of the provider's, and must
// neither wrap around a sum nor turn into all the money there is.
const maxTokens = 1 << 30

// TokensOf takes a report apart. Where a provider's parts are more than the whole, the whole counts.
func TokensOf(u *canon.Usage) Tokens {
	if u == nil {
		return Tokens{}
	}
	var t Tokens
	rest := within(u.Input, maxTokens)
	t.CacheRead = within(u.CacheRead, rest)
	rest -= t.CacheRead
	t.CacheWrite = within(u.CacheWrite, rest)
	t.Input = rest - t.CacheWrite
	rest = within(u.Output, maxTokens)
	t.Reasoning = within(u.Reasoning, rest)
	t.Output = rest - t.Reasoning
	return t
}

// within is n, but at least 0 and at most most.
func within(n, most int64) int64 { return min(max(n, 0), most) }
