package money

import (
	"cmp"
	"fmt"
	"math/bits"
	"slices"
	"time"
)

// perTokens is how many tokens the prices of tokens are for.
const perTokens = 1_000_000

// Undated is the version of a price that has neither a name nor a day it begins.
const Undated = "undated"

// Price is what one request costs. All but Request are for a million tokens.
type Price struct {
	From       time.Time // when it begins to hold; zero: always
	Version    string    // names the price in ledger entries
	Input      Nano      // that is fresh
	CacheRead  Nano
	CacheWrite Nano
	Output     Nano // without reasoning
	Reasoning  Nano
	Request    Nano // for the request itself
}

// Tokens are counts in disjoint buckets. The fields are those of a ledger entry's tokens, which convert to it.
type Tokens struct{ Input, CacheRead, CacheWrite, Output, Reasoning int64 }

// Cost is what a request with these tokens costs, rounded once, half up. Products are taken in 128 bits, so
// that nothing wraps: a cost beyond Max is Max, and exact is false. Negative counts and prices count as 0.
func (p *Price) Cost(t Tokens) (cost Nano, exact bool) {
	var s sum
	s.add(t.Input, p.Input)
	s.add(t.CacheRead, p.CacheRead)
	s.add(t.CacheWrite, p.CacheWrite)
	s.add(t.Output, p.Output)
	s.add(t.Reasoning, p.Reasoning)
	s.add(perTokens, p.Request)
	return s.perMillion()
}

// sum of products, an unsigned number of 128 bits.
type sum struct {
	hi, lo uint64
	over   bool
}

func (s *sum) add(count int64, price Nano) {
	if count <= 0 || price <= 0 {
		return
	}
	hi, lo := bits.Mul64(uint64(count), uint64(price))
	s.addWide(hi, lo)
}

func (s *sum) addWide(hi, lo uint64) {
	var carry uint64
	s.lo, carry = bits.Add64(s.lo, lo, 0)
	s.hi, carry = bits.Add64(s.hi, hi, carry)
	s.over = s.over || carry > 0
}

func (s *sum) perMillion() (Nano, bool) {
	s.addWide(0, perTokens/2)
	if s.over || s.hi >= perTokens { // the quotient would need more than 64 bits
		return Max, false
	}
	q, _ := bits.Div64(s.hi, s.lo, perTokens)
	if q > uint64(Max) {
		return Max, false
	}
	return Nano(q), true
}

// Table is the prices of one model of one backend over time. It is immutable; nil is a table without prices.
type Table struct {
	prices []Price // by From, ascending
}

// NewTable makes a Table. Two prices must not begin at the same time: which one holds could not be told. It returns
// nil for no prices.
func NewTable(prices ...Price) (*Table, error) {
	if len(prices) == 0 {
		return nil, nil
	}
	t := &Table{prices: slices.Clone(prices)}
	slices.SortFunc(t.prices, func(a, b Price) int { return a.From.Compare(b.From) })
	for i := range t.prices {
		p := &t.prices[i]
		if i > 0 && p.From.Equal(t.prices[i-1].From) {
			if p.From.IsZero() {
				return nil, fmt.Errorf("two prices have no day they begin; give one of them effectiveFrom")
			}
			return nil, fmt.Errorf("two prices begin at %s; a price ends where the next one begins", p.From.Format(time.RFC3339Nano))
		}
		version := Undated
		if !p.From.IsZero() {
			version = p.From.UTC().Format(time.RFC3339Nano)
		}
		p.Version = cmp.Or(p.Version, version)
	}
	return t, nil
}

// At is the price of a request that began at that time; nil where none holds yet.
func (t *Table) At(when time.Time) *Price {
	if t == nil {
		return nil
	}
	for i := len(t.prices) - 1; i >= 0; i-- { // nearly always the last one
		if p := &t.prices[i]; !when.Before(p.From) {
			return p
		}
	}
	return nil
}

// Prices are all of them, in the order in which they begin to hold.
func (t *Table) Prices() []Price {
	if t == nil {
		return nil
	}
	return slices.Clone(t.prices)
}
