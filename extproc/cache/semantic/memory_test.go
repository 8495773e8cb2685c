package semantic

import (
	"context"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/weir-dev/weir/extproc/cache"
)

// clock is put forward by tests.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Unix(1_700_000_000, 0)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

func keyOf(n int) (k cache.Key) {
	copy(k[:], strconv.Itoa(n))
	return k
}

func vectorOf(t testing.TB, list []float32) *vector {
	t.Helper()
	v, err := newVector(list)
	if err != nil {
		t.Fatal(err)
	}
	return &v
}

func spaceNamed(policy string, id byte, most int) *space {
	return &space{id: [16]byte{id}, policy: policy, tenant: "t" + strconv.Itoa(int(id)), model: "m", most: most}
}

// TestMemoryIsExact compares the index with a look at everything in float64.
func TestMemoryIsExact(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	c := newClock()
	m := newMemory(c.now, 1<<30)
	s := spaceNamed("p", 1, 1000)
	const dims, count = 300, 400
	all := make([][]float32, count)
	for i := range all {
		if all[i] = random(rnd, dims); i%3 > 0 {
			all[i] = beside(rnd, all[rnd.IntN(i)], 0.8+0.2*rnd.Float64())
		}
		if err := m.add(t.Context(), s, vectorOf(t, all[i]), keyOf(i), c.now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	found := 0
	for range 300 {
		q := beside(rnd, all[rnd.IntN(count)], 0.85+0.15*rnd.Float64())
		least, n := 0.5+0.45*rnd.Float64(), 1+rnd.IntN(5)
		got, err := m.nearest(t.Context(), s, vectorOf(t, q), least, n)
		if err != nil {
			t.Fatal(err)
		}
		var want []Match
		for i, v := range all {
			if sim := cosine(q, v); sim >= least {
				want = append(want, Match{keyOf(i), sim})
			}
		}
		slices.SortFunc(want, func(a, b Match) int {
			if a.Similarity > b.Similarity {
				return -1
			}
			return 1
		})
		want = want[:min(n, len(want))]
		if len(got) != len(want) {
			t.Fatalf("%d found from %v on, there are %d", len(got), least, len(want))
		}
		for i := range got {
			if got[i].Key != want[i].Key || got[i].Similarity-want[i].Similarity > slack || want[i].Similarity-got[i].Similarity > slack {
				t.Fatalf("number %d is %v, want %v", i, got[i], want[i])
			}
			found++
		}
	}
	if found < 100 {
		t.Errorf("only %d found: the test shows nothing", found)
	}
}

func has(t *testing.T, ix index, s *space, v *vector) bool {
	t.Helper()
	m, err := ix.nearest(t.Context(), s, v, 0.999, 1)
	if err != nil {
		t.Fatal(err)
	}
	return len(m) == 1
}

func TestMemoryIsBounded(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 6))
	c := newClock()
	size := vectorOf(t, random(rnd, 64)).bytes() + overhead
	m := newMemory(c.now, 10*size)
	add := func(s *space, n int) *vector {
		v := vectorOf(t, random(rnd, 64))
		if err := m.add(t.Context(), s, v, keyOf(n), c.now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		return v
	}
	// By number: of a policy, over its spaces. What was found last stays.
	one, other := spaceNamed("p", 1, 3), spaceNamed("p", 2, 3)
	first, second := add(one, 1), add(one, 2)
	third := add(other, 3)
	if !has(t, m, one, first) {
		t.Fatal("the first is gone")
	}
	fourth := add(other, 4)
	if !has(t, m, one, first) || has(t, m, one, second) || !has(t, m, other, third) || !has(t, m, other, fourth) {
		t.Error("it is not the one that was not asked for longest that left")
	}
	// By bytes: of all policies; the one that has most gives.
	big := spaceNamed("q", 1, 1000)
	for i := range 20 {
		add(big, 100+i)
	}
	if counts := m.count(); counts["p"] != 3 || counts["q"] != 7 || m.used.Load() != 10*size {
		t.Errorf("%v, %d bytes of %d", counts, m.used.Load(), 10*size)
	}
	if add(spaceNamed("r", 1, 10), 1); m.count()["r"] != 1 || m.count()["p"] != 3 {
		t.Errorf("a small policy has no room: %v", m.count())
	}
	// A vector that alone is too large.
	if err := m.add(t.Context(), big, vectorOf(t, random(rnd, 64*64)), keyOf(7), c.now().Add(time.Hour)); err != nil || m.used.Load() > 10*size {
		t.Errorf("%v, %d bytes", err, m.used.Load())
	}
	m.keep(map[string]bool{"p": true})
	if counts := m.count(); len(counts) != 1 || counts["p"] != 3 || m.used.Load() != 3*size {
		t.Errorf("after policies have gone: %v, %d bytes", counts, m.used.Load())
	}
}

func TestMemoryForgets(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 8))
	c := newClock()
	m := newMemory(c.now, 1<<20)
	s := spaceNamed("p", 1, 100)
	v, w := vectorOf(t, random(rnd, 64)), vectorOf(t, random(rnd, 64))
	for key, it := range map[int]*vector{1: v, 2: w} {
		if err := m.add(t.Context(), s, it, keyOf(key), c.now().Add(time.Duration(key)*time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	c.add(time.Minute + 1)
	if has(t, m, s, v) || !has(t, m, s, w) || m.count()["p"] != 1 {
		t.Errorf("after its time: %v", m.count())
	}
	// The same answer with another vector.
	if err := m.add(t.Context(), s, v, keyOf(2), c.now().Add(time.Minute)); err != nil || has(t, m, s, w) || !has(t, m, s, v) || m.count()["p"] != 1 {
		t.Errorf("%v, %v", err, m.count())
	}
	if err := m.remove(t.Context(), s, keyOf(2)); err != nil || has(t, m, s, v) || m.used.Load() != 0 {
		t.Errorf("%v, %d bytes", err, m.used.Load())
	}
}

func TestMemoryConcurrently(t *testing.T) {
	c := newClock()
	m := newMemory(c.now, 200*700)
	var wg sync.WaitGroup
	for g := range 6 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(g), 1))
			for i := range 300 {
				s := spaceNamed("p"+strconv.Itoa(rnd.IntN(3)), byte(rnd.IntN(3)), 40)
				v, _ := newVector(random(rnd, 64))
				switch rnd.IntN(8) {
				case 0:
					_ = m.remove(context.Background(), s, keyOf(rnd.IntN(50)))
				case 1:
					_, _ = m.purge(context.Background(), &cache.Selector{Tenant: s.tenant})
				case 2:
					m.keep(map[string]bool{"p0": true, "p1": i%2 == 0})
				case 3, 4:
					_, _ = m.nearest(context.Background(), s, &v, 0.1, 3)
				default:
					_ = m.add(context.Background(), s, &v, keyOf(rnd.IntN(50)), c.now().Add(time.Duration(rnd.IntN(3)-1)))
				}
			}
		})
	}
	wg.Wait()
	var bytes int64
	for _, s := range m.shelves {
		items := 0
		for _, r := range s.spaces {
			items += len(r.items)
			for i, it := range r.items {
				if it.at != i || r.byKey[it.key] != it || it.gone {
					t.Fatal("a room is in disorder")
				}
			}
		}
		if items != s.recent.Len() || items > 40 {
			t.Errorf("%d items, %d in the list", items, s.recent.Len())
		}
		bytes += s.bytes
	}
	if bytes != m.used.Load() || bytes > m.most {
		t.Errorf("%d bytes in shelves, %d counted, at most %d", bytes, m.used.Load(), m.most)
	}
}

// BenchmarkNearest is what docs/semantic-cache.md tells: 10,000 vectors of 1,536 numbers in one space. Random ones are far from
// each other; those of a topic share most of their direction, as texts of one kind do.
func BenchmarkNearest(b *testing.B) {
	const dims, count = 1536, 10_000
	for name, topic := range map[string]float64{"random": 0, "topic 0.5": 0.7071, "topic 0.8": 0.8944} {
		rnd := rand.New(rand.NewPCG(9, 10))
		c := newClock()
		m := newMemory(c.now, 1<<30)
		s := spaceNamed("p", 1, count)
		center := random(rnd, dims)
		for i := range count {
			if err := m.add(b.Context(), s, vectorOf(b, beside(rnd, center, topic)), keyOf(i), c.now().Add(time.Hour)); err != nil {
				b.Fatal(err)
			}
		}
		q := vectorOf(b, beside(rnd, center, topic))
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := m.nearest(b.Context(), s, q, 0.95, candidates); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
