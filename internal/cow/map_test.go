package cow

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestRandomEdits: a Map is what a map would be, no Edit changes a Map that was handed out, and Diff finds all that differs.
func TestRandomEdits(t *testing.T) {
	for seed := range uint64(30) {
		rng := rand.New(rand.NewPCG(seed, 1))
		type version struct {
			is   Map[int]
			want map[string]int
		}
		versions := []version{{}}
		var e Edit[int]
		now := map[string]int{}
		for range 300 {
			name := fmt.Sprint("name-", rng.IntN(40+int(seed)*40))
			switch rng.IntN(5) {
			case 0:
				e.Delete(name)
				delete(now, name)
			case 1:
				if rng.IntN(2) == 0 {
					versions = append(versions, version{e.Map(), maps.Clone(now)})
				}
			case 2:
				if rng.IntN(20) == 0 { // another line of them
					from := versions[rng.IntN(len(versions))]
					e, now = from.is.Edit(), maps.Clone(from.want)
					if now == nil {
						now = map[string]int{}
					}
				}
			default:
				v := rng.IntN(3)
				e.Set(name, v)
				now[name] = v
			}
			if got, ok := e.Lookup(name); got != now[name] || ok != has(now, name) || e.Len() != len(now) || e.Get(name) != got {
				t.Fatalf("seed %d: %s is %d (%v) of %d, want %d of %d", seed, name, got, ok, e.Len(), now[name], len(now))
			}
		}
		versions = append(versions, version{Of(now), now})
		for i, v := range versions {
			if got := maps.Collect(v.is.All()); !maps.Equal(got, v.want) || v.is.Len() != len(v.want) {
				t.Fatalf("seed %d: version %d has %v, want %v", seed, i, got, v.want)
			}
			if got := slices.Sorted(v.is.Names()); !slices.Equal(got, slices.Sorted(maps.Keys(v.want))) {
				t.Fatalf("seed %d: version %d has the names %v", seed, i, got)
			}
			other := versions[rng.IntN(len(versions))]
			if got, want := slices.Sorted(Diff(v.is, other.is)), differing(v.want, other.want); !slices.Equal(got, want) {
				t.Fatalf("seed %d: these differ: %v, want %v", seed, got, want)
			}
		}
	}
}

func has(m map[string]int, name string) bool {
	_, ok := m[name]
	return ok
}

func differing(a, b map[string]int) []string {
	names := map[string]bool{}
	for name, v := range a {
		if w, ok := b[name]; !ok || v != w {
			names[name] = true
		}
	}
	for name := range b {
		if !has(a, name) {
			names[name] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// TestIs: a Map of which nothing has changed is the same one, also where it went through an Edit.
func TestIs(t *testing.T) {
	var none Map[int]
	a := Of(map[string]int{"x": 1})
	e := a.Edit()
	e.Delete("nothing")
	same := e.Map()
	e.Set("y", 2)
	other := e.Map()
	if !none.Is(Map[int]{}) || !a.Is(same) || a.Is(other) || a.Is(none) || other.Is(e.Map()) == false {
		t.Error("which Maps are one is told wrongly")
	}
	for range none.All() {
		t.Error("the empty Map has something")
	}
	if none.Has("x") || !a.Has("x") || a.Has("y") {
		t.Error("what is there is told wrongly")
	}
}

// TestShared: of many entries, a change copies few, and to compare two takes no memory.
func TestShared(t *testing.T) {
	of := func(n int) (bytes float64) {
		var e Edit[int]
		for i := range n {
			e.Set(fmt.Sprint("name-", i), i)
		}
		before := e.Map()
		n++
		changed := before.Edit()
		changed.Set("name-7", n)
		after := changed.Map()
		shared := 0
		for i := range parts {
			if one(before.parts[i], after.parts[i]) {
				shared++
			}
		}
		if shared != parts-1 {
			t.Errorf("%d parts of %d are shared", shared, parts)
		}
		return testing.AllocsPerRun(10, func() {
			for name := range Diff(before, after) {
				if name != "name-7" {
					t.Errorf("%s has changed", name)
				}
			}
		})
	}
	if few, many := of(1_000), of(20_000); many > few+1 {
		t.Errorf("comparing takes %v allocations with 1,000 entries and %v with 20,000", few, many)
	}
}

// TestParts: no part has many more names than others, of names as they are here.
func TestParts(t *testing.T) {
	const names = 10_000
	for _, format := range []string{"m%d", "model-%d", "team/backend-%d", "default/route-%05d/rule/0", "direct/%016x", "%d/of-the-same-long-ending", "%x"} {
		var counts [parts]int
		for i := range names {
			counts[partOf(fmt.Sprintf(format, i))]++
		}
		if most := slices.Max(counts[:]); most > 3*names/parts {
			t.Errorf("%s: a part has %d names of %d", format, most, names)
		}
	}
}

// BenchmarkGet looks a name up among 10,000, and does the same in a map.
func BenchmarkGet(b *testing.B) {
	for _, format := range []string{"model-%d", "default/route-%05d/rule/0/with/a/long/name"} {
		plain, names := map[string]int{}, make([]string, 10_000)
		for i := range names {
			names[i] = fmt.Sprintf(format, i)
			plain[names[i]] = i
		}
		m, n := Of(plain), 0
		b.Run(fmt.Sprintf("%s of a map", names[0]), func(b *testing.B) {
			for b.Loop() {
				n += plain[names[n%len(names)]]%2 + 1
			}
		})
		b.Run(fmt.Sprintf("%s of a Map", names[0]), func(b *testing.B) {
			for b.Loop() {
				n += m.Get(names[n%len(names)])%2 + 1
			}
		})
	}
}
