package money

import (
	"math"
	"math/big"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weir-dev/weir/api/v1alpha1"
)

// exactly is the cost by arbitrary precision: floor(sum of products / 1e6 + 1/2).
func exactly(p *Price, t Tokens) *big.Int {
	sum := new(big.Int)
	add := func(n int64, price Nano) {
		if n > 0 && price > 0 {
			sum.Add(sum, new(big.Int).Mul(big.NewInt(n), big.NewInt(int64(price))))
		}
	}
	add(t.Input, p.Input)
	add(t.CacheRead, p.CacheRead)
	add(t.CacheWrite, p.CacheWrite)
	add(t.Output, p.Output)
	add(t.Reasoning, p.Reasoning)
	add(perTokens, p.Request)
	return sum.Div(sum.Add(sum, big.NewInt(perTokens/2)), big.NewInt(perTokens))
}

func TestCost(t *testing.T) {
	p := Price{Input: 2_500_000_000, Output: 10 * Unit, CacheRead: 250_000_000, CacheWrite: 3_125_000_000, Reasoning: 12 * Unit}
	withRequest := p
	withRequest.Request = 3
	for _, c := range []struct {
		name   string
		price  Price
		tokens Tokens
		want   Nano
	}{
		{"nothing", p, Tokens{}, 0},
		{"one of each", p, Tokens{1, 1, 1, 1, 1}, 2500 + 250 + 3125 + 10_000 + 12_000},
		{"a million of each", p, Tokens{1e6, 1e6, 1e6, 1e6, 1e6}, 27_875_000_000},
		{"the request alone", withRequest, Tokens{}, 3},
		{"half a nano is rounded up", Price{Input: 1}, Tokens{Input: 500_000}, 1},
		{"less is rounded down", Price{Input: 1}, Tokens{Input: 499_999}, 0},
		{"one rounding, not one per kind", Price{Input: 1, Output: 1}, Tokens{Input: 499_999, Output: 499_999}, 1},
		{"counts below 0", p, Tokens{-5, -5, -5, 1, -5}, 10_000},
		{"a price below 0", Price{Input: -5, Output: 1_000_000}, Tokens{Input: 7, Output: 7}, 7},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got, ok := c.price.Cost(c.tokens); got != c.want || !ok {
				t.Errorf("got %d (%t), want %d", got, ok, c.want)
			}
		})
	}
}

// TestCostNeverWraps compares with arbitrary precision, for counts and prices up to the largest.
func TestCostNeverWraps(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	saturated := 0
	for i := range 50_000 {
		p := Price{Input: some(r), Output: some(r), CacheRead: some(r), CacheWrite: some(r), Reasoning: some(r), Request: some(r)}
		tokens := Tokens{int64(some(r)), int64(some(r)), int64(some(r)), int64(some(r)), int64(some(r))}
		if i == 0 {
			p = Price{Input: Max, Output: Max, CacheRead: Max, CacheWrite: Max, Reasoning: Max, Request: Max}
			tokens = Tokens{math.MaxInt64, math.MaxInt64, math.MaxInt64, math.MaxInt64, math.MaxInt64}
		}
		got, ok := p.Cost(tokens)
		want := exactly(&p, tokens)
		switch {
		case want.IsInt64() && (!ok || int64(got) != want.Int64()):
			t.Fatalf("%+v for %+v: %d (%t), want %s", p, tokens, got, ok, want)
		case !want.IsInt64() && (ok || got != Max):
			t.Fatalf("%+v for %+v: %d (%t), want the largest", p, tokens, got, ok)
		case !want.IsInt64():
			saturated++
		}
	}
	if saturated == 0 {
		t.Error("no cost was too large")
	}
}

// TestRoundingDoesNotDrift: the sum over entries is off the exact sum by at most half a nano for each entry, and the
// average by nearly nothing; the sum itself does not depend on how entries are grouped.
func TestRoundingDoesNotDrift(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	p := Price{Input: 75_123_457, Output: 300_654_321, CacheRead: 7_512_347, CacheWrite: 93_765_431, Reasoning: 300_271_829, Request: 1}
	const entries = 100_000
	var all Tokens
	var total Nano
	var parts [7]Nano
	for range entries {
		e := Tokens{r.Int64N(5000), r.Int64N(5000), r.Int64N(5000), r.Int64N(5000), r.Int64N(5000)}
		cost, _ := p.Cost(e)
		total = total.Add(cost)
		i := r.IntN(len(parts))
		parts[i] = parts[i].Add(cost)
		all.Input += e.Input
		all.CacheRead += e.CacheRead
		all.CacheWrite += e.CacheWrite
		all.Output += e.Output
		all.Reasoning += e.Reasoning
	}
	var grouped Nano
	for _, part := range parts {
		grouped = grouped.Add(part)
	}
	if grouped != total {
		t.Errorf("grouped %d, one by one %d", grouped, total)
	}
	exact, _ := p.Cost(all)
	exact += (entries - 1) * p.Request // the sum of all tokens is no single request
	if diff := total - exact; diff < -entries/100 || diff > entries/100 {
		t.Errorf("off by %d nano over %d entries", diff, entries)
	}
}

func TestTable(t *testing.T) {
	day := func(d int) time.Time { return time.Date(2026, 11, d, 0, 0, 0, 0, time.UTC) }
	table, err := NewTable(Price{From: day(20), Input: 20}, Price{Input: 1}, Price{From: day(10), Input: 10, Version: "autumn"})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		when    time.Time
		input   Nano
		version string
	}{
		{time.Time{}, 1, Undated}, {day(9), 1, Undated}, {day(10).Add(-1), 1, Undated}, {day(10), 10, "autumn"}, {day(10).Add(1), 10, "autumn"},
		{day(20).Add(-1), 10, "autumn"}, {day(20), 20, "2026-11-20T00:00:00Z"}, {day(30), 20, "2026-11-20T00:00:00Z"},
		{day(20).In(time.FixedZone("east", 3600)), 20, "2026-11-20T00:00:00Z"},
	} {
		if p := table.At(c.when); p == nil || p.Input != c.input || p.Version != c.version {
			t.Errorf("%s: %+v, want %d %q", c.when, p, c.input, c.version)
		}
	}
	if got := table.Prices(); len(got) != 3 || got[0].Input != 1 || got[2].Input != 20 {
		t.Errorf("the prices are %+v", got)
	}
	table.Prices()[0].Input = 99
	if table.At(day(1)).Input != 1 {
		t.Error("who lists the prices can change them")
	}
	later, err := NewTable(Price{From: day(10)})
	if err != nil || later.At(day(9)) != nil || later.At(day(10)) == nil {
		t.Errorf("a price that begins later: %v", err)
	}
	var none *Table
	if empty, err := NewTable(); empty != nil || err != nil || none.At(day(1)) != nil || none.Prices() != nil {
		t.Errorf("no prices: %+v, %v", empty, err)
	}
	for name, prices := range map[string][]Price{
		"no day they begin": {{}, {Version: "b"}},
		"two prices begin":  {{From: day(1)}, {From: day(1).In(time.FixedZone("west", -3600))}},
	} {
		if _, err := NewTable(prices...); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("got %v, want an error with %q", err, name)
		}
	}
}

func TestFromAPI(t *testing.T) {
	amount := func(s string) *v1alpha1.PriceAmount { a := v1alpha1.PriceAmount(s); return &a }
	from := metav1.NewTime(time.Date(2026, 11, 1, 0, 0, 0, 0, time.FixedZone("east", 7200)))
	table, err := FromAPI([]v1alpha1.Price{
		{Input: "2.50", Output: "10"},
		{EffectiveFrom: &from, Version: "v2", Input: "2", Output: "8", CacheRead: amount("0.2"), CacheWrite: amount("2.5"), Reasoning: amount("0"), Request: amount("0.01")},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []Price{
		{Version: Undated, Input: 2_500_000_000, CacheRead: 2_500_000_000, CacheWrite: 2_500_000_000, Output: 10 * Unit, Reasoning: 10 * Unit},
		{From: from.Time, Version: "v2", Input: 2 * Unit, CacheRead: 200_000_000, CacheWrite: 2_500_000_000, Output: 8 * Unit, Request: 10_000_000},
	}
	got := table.Prices()
	for i := range want {
		if len(got) != len(want) || got[i] != want[i] {
			t.Fatalf("got  %+v\nwant %+v", got, want)
		}
	}
	if table, err := FromAPI(nil); table != nil || err != nil {
		t.Errorf("no prices: %v, %v", table, err)
	}
	for want, list := range map[string][]v1alpha1.Price{
		`[1].output: "x" is no amount`:                                    {{Input: "1", Output: "1"}, {Input: "1", Output: "x", Request: amount("y")}},
		`[0].input: "" is no amount`:                                      {{Output: "1"}},
		`[0].cacheRead: "-1" is no amount`:                                {{Input: "1", Output: "1", CacheRead: amount("-1")}},
		`[0].request: the amount "0.0000000001" has more than 9 decimals`: {{Input: "1", Output: "1", Request: amount("0.0000000001")}},
		"two prices have no day they begin":                               {{Input: "1", Output: "1"}, {Input: "1", Output: "1"}},
	} {
		if _, err := FromAPI(list); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func BenchmarkCost(b *testing.B) {
	p := Price{Input: 2_500_000_000, Output: 10 * Unit, CacheRead: 250_000_000, CacheWrite: 3_125_000_000, Reasoning: 12 * Unit}
	for b.Loop() {
		_, _ = p.Cost(Tokens{1000, 200, 30, 400, 50})
	}
}
