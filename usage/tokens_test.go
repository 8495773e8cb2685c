package usage

import (
	"math"
	"testing"

	"github.com/weir-dev/weir/adapters/canon"
)

func TestTokensOf(t *testing.T) {
	for _, c := range []struct {
		name string
		in   *canon.Usage
		want Tokens
	}{
		{"none", nil, Tokens{}},
		{"plain", &canon.Usage{Input: 10, Output: 5}, Tokens{Input: 10, Output: 5}},
		{"every kind", &canon.Usage{Input: 100, CacheRead: 60, CacheWrite: 30, Output: 50, Reasoning: 20}, Tokens{Input: 10, CacheRead: 60, CacheWrite: 30, Output: 30, Reasoning: 20}},
		{"all of it cached", &canon.Usage{Input: 7, CacheRead: 7, Output: 3, Reasoning: 3}, Tokens{CacheRead: 7, Reasoning: 3}},
		{"parts larger than the whole", &canon.Usage{Input: 10, CacheRead: 8, CacheWrite: 8, Output: 1, Reasoning: 9}, Tokens{CacheRead: 8, CacheWrite: 2, Reasoning: 1}},
		{"below 0", &canon.Usage{Input: -10, CacheRead: -1, CacheWrite: 5, Output: -3, Reasoning: -4}, Tokens{}},
		{"a part below 0", &canon.Usage{Input: 10, CacheRead: -5, Output: 4, Reasoning: -2}, Tokens{Input: 10, Output: 4}},
		{"more than any model", &canon.Usage{Input: math.MaxInt64, CacheRead: math.MaxInt64, Output: math.MaxInt64}, Tokens{CacheRead: maxTokens, Output: maxTokens}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := TokensOf(c.in); got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

// FuzzTokensOf: whatever a provider reports, no bucket is below 0, and the buckets make up the whole.
func FuzzTokensOf(f *testing.F) {
	f.Add(int64(10), int64(5), int64(3), int64(8), int64(2))
	f.Add(int64(-1), int64(math.MaxInt64), int64(math.MinInt64), int64(math.MaxInt64), int64(math.MaxInt64))
	f.Fuzz(func(t *testing.T, input, read, write, output, reasoning int64) {
		got := TokensOf(&canon.Usage{Input: input, CacheRead: read, CacheWrite: write, Output: output, Reasoning: reasoning})
		for _, n := range []int64{got.Input, got.CacheRead, got.CacheWrite, got.Output, got.Reasoning} {
			if n < 0 {
				t.Fatalf("%+v", got)
			}
		}
		if got.InputTotal() != min(max(input, 0), maxTokens) || got.OutputTotal() != min(max(output, 0), maxTokens) {
			t.Fatalf("%+v is not %d and %d", got, input, output)
		}
	})
}
