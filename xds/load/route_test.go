package load

import (
	"slices"
	"testing"
)

func TestRouteWeights(t *testing.T) {
	full, half, none := capacity{1, true}, capacity{0.5, true}, capacity{0, false}
	alone := capacity{0, true} // asks to be left alone
	for _, c := range []struct {
		name    string
		members []uint32 // weights
		levels  []int32
		now     []capacity
		want    []uint32
	}{
		{"nothing against anybody", []uint32{3, 1}, []int32{0, 0}, []capacity{full, full}, []uint32{3000, 1000}},
		{"half of one is left", []uint32{1, 1}, []int32{0, 0}, []capacity{half, full}, []uint32{500, 1000}},
		{"more than its weight", []uint32{1, 1}, []int32{0, 0}, []capacity{{1.5, true}, full}, []uint32{1500, 1000}},
		{"one cannot", []uint32{1, 1}, []int32{0, 0}, []capacity{none, full}, []uint32{0, 1000}},
		{"a fallback waits", []uint32{1, 1}, []int32{0, 1}, []capacity{{0.001, true}, full}, []uint32{1, 0}},
		{"a fallback serves", []uint32{1, 1, 1}, []int32{0, 1, 2}, []capacity{none, half, full}, []uint32{0, 500, 0}},
		{"the fallback of lower number serves whatever the order", []uint32{1, 1, 1}, []int32{2, 1, 0}, []capacity{full, full, none}, []uint32{0, 1000, 0}},
		{"who wants to be left alone is, while there is a fallback", []uint32{1, 1}, []int32{0, 1}, []capacity{alone, full}, []uint32{0, 1000}},
		{"who wants to be left alone is asked where nobody else can", []uint32{1, 1}, []int32{0, 1}, []capacity{alone, none}, []uint32{1000, 0}},
		{"all want to be left alone: as the Route says", []uint32{3, 1}, []int32{0, 0}, []capacity{alone, alone}, []uint32{3000, 1000}},
		{"nobody can: as the Route says", []uint32{3, 1, 5}, []int32{0, 0, 1}, []capacity{none, none, none}, []uint32{3000, 1000, 0}},
		{"a weight of 0 stays 0", []uint32{0, 1}, []int32{0, 0}, []capacity{full, full}, []uint32{0, 1000}},
		{"a weight of 0 is no fallback", []uint32{1, 0}, []int32{0, 1}, []capacity{none, full}, []uint32{1000, 0}},
		{"no weight at all", []uint32{0, 0}, []int32{0, 1}, []capacity{full, full}, nil},
		{"what is little is not nothing", []uint32{1, 1000}, []int32{0, 0}, []capacity{{1e-9, true}, full}, []uint32{1, 1000000}},
		{"too much for Envoy", []uint32{1_000_000_000, 3_000_000_000}, []int32{0, 0}, []capacity{full, full}, []uint32{1073741823, 3221225470}},
	} {
		r := routeOf()
		now := map[string]capacity{}
		for i, w := range c.members {
			id := string(rune('a' + i))
			r.Members = append(r.Members, to(id, w, c.levels[i]))
			now[id] = c.now[i]
		}
		if got := routeWeights(&r, func(id string) capacity { return now[id] }); !slices.Equal(got, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}

func TestWorth(t *testing.T) {
	for _, c := range []struct {
		name          string
		before, after []uint32
		percent       int
		want          bool
	}{
		{"nothing", []uint32{1000, 1000}, []uint32{1000, 1000}, 0, false},
		{"others in the same proportion", []uint32{1000, 2000}, []uint32{500, 1000}, 0, false},
		{"a trifle, and all is worth it", []uint32{1000, 1000}, []uint32{1000, 1001}, 0, true},
		{"a trifle", []uint32{1000, 1000}, []uint32{1000, 1010}, 5, false},
		{"enough", []uint32{1000, 1000}, []uint32{1000, 1120}, 5, true},
		{"enough for the small one", []uint32{1000, 20}, []uint32{1000, 30}, 5, true},
		{"one gets nothing any more", []uint32{1000, 1}, []uint32{1000, 0}, 50, true},
		{"one gets something again", []uint32{1000, 0}, []uint32{1000, 1}, 50, true},
		{"another number of them", []uint32{1000}, []uint32{1000, 1}, 50, true},
		{"only one gets anything", []uint32{1000, 0}, []uint32{5, 0}, 0, false},
	} {
		if got := worth(c.before, c.after, c.percent); got != c.want {
			t.Errorf("%s: worth(%v, %v, %d) = %v", c.name, c.before, c.after, c.percent, got)
		}
	}
}
