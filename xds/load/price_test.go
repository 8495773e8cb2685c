package load

import (
	"maps"
	"testing"
	"time"

	"github.com/weir-dev/weir/usage/money"
	"github.com/weir-dev/weir/xds/compile"
)

func priced(t *testing.T, prices ...money.Price) *money.Table {
	t.Helper()
	table, err := money.NewTable(prices...)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func TestPriceRatios(t *testing.T) {
	later := t0.Add(24 * time.Hour)
	both := func(n money.Nano) money.Price { return money.Price{Input: n, Output: n} }
	dated := both(1000)
	dated.From = later
	pools := map[string]*compile.Pool{
		"cheap":   {Prices: []*money.Table{priced(t, both(1000))}},
		"dear":    {Prices: []*money.Table{priced(t, both(4000), dated)}},
		"mixed":   {Prices: []*money.Table{priced(t, money.Price{Input: 1000, Output: 5000}), priced(t, both(2000))}}, // 2000 and 2000
		"free":    {Prices: []*money.Table{priced(t, both(0))}},
		"unknown": {},
		"future":  {Prices: []*money.Table{priced(t, dated)}},
	}
	for _, c := range []struct {
		name   string
		routes []compile.SteeredRoute
		at     time.Time
		want   map[string]float64
	}{
		{"two", []compile.SteeredRoute{routeOf(to("cheap", 1, 0), to("dear", 1, 0))}, t0, map[string]float64{"cheap": 1, "dear": 0.25}},
		{"the day after", []compile.SteeredRoute{routeOf(to("cheap", 1, 0), to("dear", 1, 0))}, later, map[string]float64{"cheap": 1, "dear": 1}},
		{"several models", []compile.SteeredRoute{routeOf(to("cheap", 1, 0), to("mixed", 1, 0))}, t0, map[string]float64{"cheap": 1, "mixed": 0.5}},
		{"nobody has told", []compile.SteeredRoute{routeOf(to("cheap", 1, 0), to("unknown", 1, 0), to("future", 1, 0))}, t0, map[string]float64{"cheap": 1}},
		{"the least of several rules", []compile.SteeredRoute{
			routeOf(to("mixed", 1, 0), to("dear", 1, 0)), routeOf(to("cheap", 1, 0), to("dear", 1, 0)), routeOf(to("dear", 1, 0), to("unknown", 1, 0)),
		}, t0, map[string]float64{"cheap": 1, "mixed": 1, "dear": 0.25}},
		{"one that gets nothing is no measure", []compile.SteeredRoute{routeOf(to("cheap", 0, 0), to("dear", 1, 0))}, t0, map[string]float64{"dear": 1}},
		{"a fallback is no measure", []compile.SteeredRoute{routeOf(to("cheap", 1, 1), to("mixed", 1, 0), to("dear", 1, 0))}, t0,
			map[string]float64{"cheap": 1, "mixed": 1, "dear": 0.5}},
		{"against what costs nothing", []compile.SteeredRoute{routeOf(to("cheap", 1, 0), to("free", 1, 0))}, t0, map[string]float64{"free": 1, "cheap": leastRatio}},
	} {
		routes := map[string]compile.SteeredRoute{}
		for i, r := range c.routes {
			routes[string(rune('a'+i))] = r
		}
		if got := priceRatios(pools, routes, c.at); !maps.Equal(got, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}

// TestPricesChange has a price that falls while nothing else happens.
func TestPricesChange(t *testing.T) {
	r := newRig(t)
	cheaper := money.Price{Input: 1000, Output: 1000, From: t0.Add(time.Hour)}
	one := with(poolOf("default/one", "10.0.0.1:80"), func(p *compile.Pool) {
		p.Prices, p.Weigh.PreferCheap = []*money.Table{priced(t, money.Price{Input: 2000, Output: 2000}, cheaper)}, 1
	})
	two := with(poolOf("default/two", "10.0.0.2:80"), func(p *compile.Pool) {
		p.Prices, p.Weigh.PreferCheap = []*money.Table{priced(t, money.Price{Input: 1000, Output: 1000})}, 1
	})
	r.Use(steeringOf(map[string]compile.SteeredRoute{"r": routeOf(to(one.Backend, 1, 0), to(two.Backend, 1, 0))}, one, two))
	r.step(time.Minute)
	r.wantWeights(one.Backend, map[string]uint32{"10.0.0.1:80": 500})
	r.wantWeights(two.Backend, map[string]uint32{"10.0.0.2:80": 1000})
	if share, usable := r.Share(one.Backend); share != 0.5 || !usable {
		t.Errorf("its share is %v, %v", share, usable)
	}
	r.step(time.Hour)
	r.step(time.Second)
	r.wantWeights(one.Backend, map[string]uint32{"10.0.0.1:80": 1000})
}
