package pick

import (
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
)

// prompt gives the chained hashes of a prompt that goes through a tree: at each block it takes one of a few branches.
func prompt(rnd *rand.Rand, branches, blocks int) []uint64 {
	out := make([]uint64, blocks)
	h := uint64(1)
	for i := range out {
		h = mix(h*31 + rnd.Uint64N(uint64(branches)))
		out[i] = h
	}
	return out
}

// model does what the index does, while nothing is forgotten: the last holders of each block.
type model map[uint64][]uint16

func (m model) add(blocks []uint64, id uint16) {
	for _, h := range blocks {
		next := append([]uint16{id}, slices.DeleteFunc(slices.Clone(m[h]), func(o uint16) bool { return o == id })...)
		m[h] = next[:min(len(next), holders)]
	}
}

func (m model) find(blocks []uint64) map[uint16]int {
	out, misses := map[uint16]int{}, 0
	for i, h := range blocks {
		if m[h] == nil {
			if misses++; misses == missesLeft {
				break
			}
			continue
		}
		misses = 0
		for _, id := range m[h] {
			out[id] = i + 1
		}
	}
	return out
}

func asMap(all []match) map[uint16]int {
	out := map[uint16]int{}
	for _, m := range all {
		out[m.id] = m.blocks
	}
	return out
}

func compareWithModel(t *testing.T, seed uint64, branches, steps int) {
	rnd := rand.New(rand.NewPCG(seed, 1))
	x, m := newIndex(1<<16), model{}
	for i := range steps {
		p := prompt(rnd, branches, rnd.IntN(12))
		got, _ := x.find(p, 1000, nil)
		want := m.find(p)
		if len(want) <= maxMatches {
			if !maps.Equal(asMap(got), want) {
				t.Fatalf("seed %d, step %d: %v, want %v", seed, i, asMap(got), want)
			}
		} else {
			// Only the longest are kept.
			lengths := slices.Sorted(maps.Values(want))
			least := lengths[len(lengths)-maxMatches]
			for id, n := range asMap(got) {
				if want[id] != n || n < least {
					t.Fatalf("seed %d, step %d: %d has %d blocks; of %v only the longest should be there", seed, i, id, n, want)
				}
			}
		}
		if len(got) != len(asMap(got)) || len(got) > maxMatches {
			t.Fatalf("seed %d, step %d: %v", seed, i, got)
		}
		id := uint16(rnd.IntN(12) + 1)
		x.add(p, id, uint32(i), 1000)
		m.add(p, id)
	}
	if got := x.size(); got != len(m) {
		t.Errorf("seed %d: %d blocks, want %d", seed, got, len(m))
	}
}

func TestIndexAgainstModel(t *testing.T) {
	for seed := range uint64(20) {
		compareWithModel(t, seed, 2, 600)
		compareWithModel(t, seed, 4, 600)
	}
}

func FuzzIndex(f *testing.F) {
	f.Add(uint64(1), uint8(2))
	f.Fuzz(func(t *testing.T, seed uint64, branches uint8) { compareWithModel(t, seed, int(branches%6)+1, 200) })
}

// TestIndexIsBounded: whatever comes, no more blocks are kept, no more memory is taken, and what was just added is found.
func TestIndexIsBounded(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	const most = 1000
	x := newIndex(most)
	if len(x.entries) > most {
		t.Fatalf("%d entries", len(x.entries))
	}
	for i := range 2000 {
		p := prompt(rnd, 1<<30, 100)
		x.add(p, 3, uint32(i), 8)
		got, _ := x.find(p, 8, nil)
		if m := asMap(got); len(m) != 1 || m[3] < 90 {
			t.Fatalf("prompt %d: %v", i, m)
		}
	}
	if n := x.size(); n > most || n < most/2 {
		t.Errorf("%d blocks, want close to %d", n, most)
	}
	if n := testing.AllocsPerRun(100, func() { x.add(prompt(rnd, 2, 0), 1, 1, 8) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	// A prompt longer than the index keeps its beginning, which serves more prompts.
	p := prompt(rnd, 1<<30, 5*most)
	x.add(p, 9, 1<<20, 8)
	got, _ := x.find(p, 8, nil)
	if m := asMap(got); m[9] < most/8 {
		t.Errorf("of a prompt that is too long %d blocks are found", m[9])
	}
}

// TestIndexForgetsTheOldest: what is used stays, what is not goes.
func TestIndexForgetsTheOldest(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	x := newIndex(2000)
	kept, idle := prompt(rnd, 1<<30, 100), prompt(rnd, 1<<30, 100)
	x.add(idle, 2, ^uint32(0)-20, 8) // the count of picks wraps on the way
	for i := range uint32(100) {
		tick := ^uint32(0) - 19 + i
		x.add(kept, 1, tick, 8)
		x.add(prompt(rnd, 1<<30, 100), 3, tick, 8)
	}
	got, _ := x.find(kept, 8, nil)
	if m := asMap(got); m[1] != 100 {
		t.Errorf("what is used: %v", m)
	}
	got, _ = x.find(idle, 8, nil)
	if m := asMap(got); m[2] > 50 {
		t.Errorf("what is not used: %v", m)
	}
}

// TestCommonBlocks: what comes in more than one of as many prompts as there are endpoints is common, after a while; a few in
// quick succession do not make it so, and it ends.
func TestCommonBlocks(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	const width = 8
	system := prompt(rnd, 1<<30, 4)
	for name, c := range map[string]struct {
		every, uses int
		want        bool
	}{
		"five at once":           {1, 5, false},
		"a hundred at once":      {1, 100, true},
		"each fourth":            {4, 200, true},
		"each sixteenth":         {16, 200, false},
		"each sixteenth, longer": {16, 2000, false},
	} {
		t.Run(name, func(t *testing.T) {
			x, tick := newIndex(10_000), uint32(0)
			for range c.uses {
				tick += uint32(c.every)
				x.add(append(slices.Clone(system), rnd.Uint64()), uint16(rnd.IntN(width)+1), tick, width)
			}
			_, common := x.find(append(slices.Clone(system), rnd.Uint64()), width, nil)
			if (common == 4) != c.want || common != 4 && common != 0 {
				t.Errorf("%d blocks are common", common)
			}
			for range 60 {
				tick += 300
				x.add(system, 1, tick, width)
			}
			if _, common := x.find(system, width, nil); common != 0 {
				t.Errorf("%d blocks stay common", common)
			}
		})
	}
}

func TestIndexConcurrently(t *testing.T) {
	x := newIndex(4000)
	var wg sync.WaitGroup
	for g := range uint64(4) {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(g, 1))
			for i := range 300 {
				p := prompt(rnd, 3, 60)
				x.add(p, uint16(g+1), uint32(i), 8)
				got, _ := x.find(p, 8, nil)
				for _, m := range got {
					if m.id < 1 || m.id > 4 || m.blocks < 1 || m.blocks > len(p) {
						t.Errorf("%v", m)
					}
				}
				x.size()
			}
		})
	}
	wg.Wait()
}

// size counts the blocks. It looks at all entries.
func (x *index) size() int {
	n := 0
	for s := range x.sets {
		mu := &x.locks[s%lockCount].Mutex
		mu.Lock()
		for i := range x.entries[s*ways : s*ways+ways] {
			if x.entries[s*ways:][i].hash != 0 {
				n++
			}
		}
		mu.Unlock()
	}
	return n
}

// TestLongPrompt: a prompt that is longer than any model's context pushes out little of what others come back to.
func TestLongPrompt(t *testing.T) {
	const most = 200_000
	r := newRig(t, &Policy{Prefix: &Prefix{BlockTokens: 64, MaxBlocks: most, MaxGapTokens: 1 << 40}}, endpoints(2, nil))
	rnd := rand.New(rand.NewPCG(1, 1))
	hot := make([][]uint64, 100)
	for i := range hot {
		hot[i] = prompt(rnd, 1<<30, 100)
		r.pick(Request{Tokens: 6500, Blocks: hot[i]}).Done(Ending{At: r.now, OK: true})
	}
	for range 10 {
		r.pick(Request{Tokens: 10_000_000, Blocks: prompt(rnd, 1<<30, 100_000)}).Done(Ending{At: r.now, OK: true})
	}
	if n := r.pool(testPool).index.Load().size(); n > 100*100+10*mostBlocks {
		t.Errorf("%d blocks are remembered", n)
	}
	for i := range hot {
		k := r.pick(Request{Tokens: 6500, Blocks: hot[i]})
		if k.Cached < 6000 {
			t.Errorf("of prompt %d %d tokens are found", i, k.Cached)
		}
		k.Done(Ending{At: r.now, OK: true})
	}
	small := newIndex(160)
	if n := len(small.cut(make([]uint64, 100))); n != 10 {
		t.Errorf("%d blocks of one prompt count in an index of 160", n)
	}
	if n := len(newIndex(1).cut(make([]uint64, 100))); n != 1 {
		t.Errorf("%d blocks of one prompt count in the smallest index", n)
	}
}

// TestSnapshotLeavesTheIndexAlone: it is taken for every reading of metrics, and the index is large.
func TestSnapshotLeavesTheIndexAlone(t *testing.T) {
	r := newRig(t, &Policy{Prefix: &Prefix{BlockTokens: 64, MaxBlocks: 1000}}, endpoints(2, nil))
	x := r.pool(testPool).index.Load()
	for i := range x.locks {
		if !x.locks[i].TryLock() {
			t.Fatal("nobody has asked for anything, and the index is in use")
		}
		defer x.locks[i].Unlock()
	}
	if s := r.state(); len(s.Endpoints) != 2 { // waits for ever if it looks at a block
		t.Errorf("got %+v", s)
	}
}
