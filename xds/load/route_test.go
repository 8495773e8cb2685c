package load

import (
	"slices"
	"testing"

	"github.com/weir-dev/weir/xds/load/pools"
	"github.com/weir-dev/weir/xds/load/weigh"
)

func TestRouteWeights(t *testing.T) {
	full, half, none := pools.Capacity{Share: 1, Usable: true}, pools.Capacity{Share: 0.5, Usable: true}, pools.Capacity{}
	alone := pools.Capacity{Usable: true} // asks to be left alone
	for _, c := range []struct {
		name    string
		members []uint32 // weights
		levels  []int32
		now     []pools.Capacity
		want    []uint32
	}{
		{"nothing against anybody", []uint32{3, 1}, []int32{0, 0}, []pools.Capacity{full, full}, []uint32{3000, 1000}},
		{"half of one is left", []uint32{1, 1}, []int32{0, 0}, []pools.Capacity{half, full}, []uint32{500, 1000}},
		{"more than its weight", []uint32{1, 1}, []int32{0, 0}, []pools.Capacity{{Share: 1.5, Usable: true}, full}, []uint32{1500, 1000}},
		{"one cannot", []uint32{1, 1}, []int32{0, 0}, []pools.Capacity{none, full}, []uint32{0, 1000}},
		{"a fallback waits", []uint32{1, 1}, []int32{0, 1}, []pools.Capacity{{Share: 0.001, Usable: true}, full}, []uint32{1, 0}},
		{"a fallback serves", []uint32{1, 1, 1}, []int32{0, 1, 2}, []pools.Capacity{none, half, full}, []uint32{0, 500, 0}},
		{"the fallback of lower number serves whatever the order", []uint32{1, 1, 1}, []int32{2, 1, 0}, []pools.Capacity{full, full, none}, []uint32{0, 1000, 0}},
		{"who wants to be left alone is, while there is a fallback", []uint32{1, 1}, []int32{0, 1}, []pools.Capacity{alone, full}, []uint32{0, 1000}},
		{"who wants to be left alone is asked where nobody else can", []uint32{1, 1}, []int32{0, 1}, []pools.Capacity{alone, none}, []uint32{1000, 0}},
		{"all want to be left alone: as the Route says", []uint32{3, 1}, []int32{0, 0}, []pools.Capacity{alone, alone}, []uint32{3000, 1000}},
		{"nobody can: as the Route says", []uint32{3, 1, 5}, []int32{0, 0, 1}, []pools.Capacity{none, none, none}, []uint32{3000, 1000, 0}},
		{"a weight of 0 stays 0", []uint32{0, 1}, []int32{0, 0}, []pools.Capacity{full, full}, []uint32{0, 1000}},
		{"a weight of 0 is no fallback", []uint32{1, 0}, []int32{0, 1}, []pools.Capacity{none, full}, []uint32{1000, 0}},
		{"no weight at all", []uint32{0, 0}, []int32{0, 1}, []pools.Capacity{full, full}, nil},
		{"what is little is not nothing", []uint32{1, 1000}, []int32{0, 0}, []pools.Capacity{{Share: 1e-9, Usable: true}, full}, []uint32{1, 1000000}},
		{"too much for Envoy", []uint32{1_000_000_000, 3_000_000_000}, []int32{0, 0}, []pools.Capacity{full, full}, []uint32{1073741823, 3221225470}},
	} {
		r := routeOf()
		now := map[string]pools.Capacity{}
		for i, w := range c.members {
			id := string(rune('a' + i))
			r.Members = append(r.Members, to(id, w, c.levels[i]))
			now[id] = c.now[i]
		}
		if got := routeWeights(&r, func(id string) pools.Capacity { return now[id] }); !slices.Equal(got, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}

func TestDiffer(t *testing.T) {
	for _, c := range []struct {
		name          string
		before, after []uint32
		percent       int
		want          weigh.Change
	}{
		{"nothing", []uint32{1000, 1000}, []uint32{1000, 1000}, 0, weigh.Same},
		{"others in the same proportion", []uint32{1000, 2000}, []uint32{500, 1000}, 0, weigh.Same},
		{"a trifle, and all is worth it", []uint32{1000, 1000}, []uint32{1000, 1001}, 0, weigh.Drift},
		{"a trifle", []uint32{1000, 1000}, []uint32{1000, 1010}, 5, weigh.Same},
		{"enough", []uint32{1000, 1000}, []uint32{1000, 1120}, 5, weigh.Drift},
		{"enough for the small one", []uint32{1000, 20}, []uint32{1000, 30}, 5, weigh.Drift},
		{"one gets nothing any more", []uint32{1000, 1}, []uint32{1000, 0}, 50, weigh.Event},
		{"one gets something again", []uint32{1000, 0}, []uint32{1000, 1}, 50, weigh.Event},
		{"another number of them", []uint32{1000}, []uint32{1000, 1}, 50, weigh.Event},
		{"only one gets anything", []uint32{1000, 0}, []uint32{5, 0}, 0, weigh.Same},
	} {
		if got := differ(c.before, c.after, c.percent); got != c.want {
			t.Errorf("%s: differ(%v, %v, %d) = %v", c.name, c.before, c.after, c.percent, got)
		}
	}
}
