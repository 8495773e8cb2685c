// Package money counts money in integers: what an amount is, what tokens cost, and which price holds when.
//
// Amounts are nano-units: 1,000,000,000 of them are one unit of the gateway's currency. Nothing is converted
// between currencies, and no amount passes through a float.
package money

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Nano is an amount of money in billionths of one unit of a currency.
type Nano int64

// Unit is one unit of the currency: one dollar, one euro.
const Unit Nano = 1_000_000_000

// Max is the largest amount. Sums and costs that would be larger stay at it.
const Max Nano = math.MaxInt64

// decimals of an amount: more than these cannot be told apart.
const decimals = 9

// ParseAmount reads a decimal number that is not negative, with at most nine decimals: "2.50", "0.075", "12".
func ParseAmount(s string) (Nano, error) {
	whole, fraction, point := strings.Cut(s, ".")
	if !digits(whole) || point && !digits(fraction) {
		return 0, fmt.Errorf("%q is no amount; write it like 12 or 2.50", shorten(s))
	}
	if len(fraction) > decimals {
		return 0, fmt.Errorf("the amount %q has more than %d decimals", shorten(s), decimals)
	}
	nanos, err := strconv.ParseInt(whole+fraction+strings.Repeat("0", decimals-len(fraction)), 10, 64)
	if errors.Is(err, strconv.ErrRange) {
		return 0, fmt.Errorf("the amount %q is larger than %s", shorten(s), Max)
	}
	if err != nil {
		return 0, fmt.Errorf("%q is no amount: %w", shorten(s), err)
	}
	return Nano(nanos), nil
}

func digits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

func shorten(s string) string {
	if len(s) > 32 {
		return s[:32] + "..."
	}
	return s
}

// String writes the amount in units, with the decimals it has: "12.345", "7", "-0.5".
func (n Nano) String() string { return string(n.Append(make([]byte, 0, 24))) }

// Append appends what String writes.
func (n Nano) Append(b []byte) []byte {
	nanos := uint64(n)
	if n < 0 {
		b, nanos = append(b, '-'), -nanos
	}
	b = strconv.AppendUint(b, nanos/uint64(Unit), 10)
	if nanos %= uint64(Unit); nanos == 0 {
		return b
	}
	b = append(b, '.')
	for unit := uint64(Unit) / 10; nanos > 0; unit /= 10 {
		b = append(b, byte('0'+nanos/unit))
		nanos %= unit
	}
	return b
}

// Add is the sum of two amounts. One that is out of range stays at the end of the range.
func (n Nano) Add(m Nano) Nano {
	sum := n + m
	switch {
	case n > 0 && m > 0 && sum < 0:
		return Max
	case n < 0 && m < 0 && sum >= 0:
		return math.MinInt64
	}
	return sum
}
