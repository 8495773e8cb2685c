package pick

import (
	"math/bits"
	"sync"
)

const (
	ways      = 8  // entries of a set
	holders   = 4  // endpoints that an entry remembers
	lockCount = 64 // locks that the sets share
	// missesLeft is how many unknown blocks in a row end a search: what was forgotten leaves holes.
	missesLeft = 8
)

// index remembers which endpoints have seen which blocks of prompts. It is built like a processor's cache: a block may stand
// in one set of a few entries, of which the least recently used one makes room. So its memory is fixed when it is made (24
// bytes a block), nothing is allocated later, and no lock covers more than some of the sets.
//
// Hashes are chained: who has a block has all that comes before it. A wrong answer costs time and nothing else.
//
// A beginning that many prompts share, such as one system prompt for all, is no reason to keep them together: it would draw
// everybody to the few endpoints that have seen it first, while any endpoint has it after one request. So blocks know how often
// they come. One that comes oftener than once in as many picks as the pool has endpoints is common, and counts as cached
// everywhere.
type index struct {
	entries []entry
	sets    uint64
	locks   [lockCount]struct {
		sync.Mutex
		_ [56]byte // each on a cache line of its own
	}
}

// entry is one block. Its holders are endpoint ids, the latest first; 0 is none.
type entry struct {
	hash    uint64 // 0: free
	holders [holders]uint16
	used    uint32 // count of picks when it was last used; it wraps
	period  uint32 // picks from one use to the next, an average, times periodUnit
}

const (
	periodUnit = 16
	// A block is taken for rare at first: its period is so many times the number of endpoints. About twenty uses in quick
	// succession make it common, which a few questions about one document are not.
	periodFirst = 16
	periodMost  = 64
	// periodPart of the average is old.
	periodPart = 8
)

func newIndex(maxBlocks int) *index {
	sets := max(1, maxBlocks/ways)
	return &index{entries: make([]entry, sets*ways), sets: uint64(sets)}
}

// mostBlocks of one prompt that are looked up and remembered, and no more than one in promptPart of all: a long prompt that nobody
// repeats must not push out the others. 4096 blocks of the usual 64 tokens are a context of 262,144.
const (
	mostBlocks = 4096
	promptPart = 16
)

// cut is the part of a prompt's blocks that counts.
func (x *index) cut(blocks []uint64) []uint64 {
	return blocks[:min(len(blocks), mostBlocks, max(1, len(x.entries)/promptPart))]
}

// set is the place of a block, locked.
func (x *index) set(hash uint64) ([]entry, *sync.Mutex) {
	n, _ := bits.Mul64(hash*0x9e3779b97f4a7c15, x.sets)
	mu := &x.locks[n%lockCount].Mutex
	mu.Lock()
	return x.entries[n*ways : n*ways+ways], mu
}

// filled makes 0, which marks a free entry, another hash.
func filled(hash uint64) uint64 {
	if hash == 0 {
		return 1
	}
	return hash
}

// add notes that an endpoint has, or will soon have, the prompt of these blocks. tick counts the picks, and width is how many
// endpoints the pool has.
func (x *index) add(blocks []uint64, id uint16, tick, width uint32) {
	for _, h := range blocks {
		h = filled(h)
		set, mu := x.set(h)
		victim, age := -1, uint32(0)
		for i := range set {
			e := &set[i]
			if e.hash == h {
				e.hold(id)
				e.period += min(tick-e.used, periodMost*width)*periodUnit/periodPart - e.period/periodPart
				e.used = tick
				victim = -1
				break
			}
			a := tick - e.used
			if e.hash == 0 {
				a = ^uint32(0)
			}
			if a > age { // what this prompt itself has put here stays: the earlier block serves more prompts
				victim, age = i, a
			}
		}
		if victim >= 0 {
			set[victim] = entry{hash: h, holders: [holders]uint16{id}, used: tick, period: periodFirst * periodUnit * width}
		}
		mu.Unlock()
	}
}

// hold puts id first, and forgets the one that was used longest ago.
func (e *entry) hold(id uint16) {
	at := holders - 1
	for i, h := range e.holders {
		if h == id {
			at = i
			break
		}
	}
	copy(e.holders[1:at+1], e.holders[:at])
	e.holders[0] = id
}

// match is how many blocks of a prompt an endpoint has.
type match struct {
	id     uint16
	blocks int
}

// maxMatches that one search remembers; the shortest go first.
const maxMatches = 8

// find gives the endpoints that have the beginning of a prompt, in no order, at most maxMatches of them in dst's array, and how
// many blocks are common in a pool of so many endpoints.
func (x *index) find(blocks []uint64, width uint32, dst []match) (_ []match, common int) {
	var last [holders]uint16
	start, misses := 0, 0 // the blocks up to start have the same holders, last
	flush := func(end int) {
		for _, id := range last {
			if id != 0 {
				dst = note(dst, id, end)
			}
		}
	}
	for i, h := range blocks {
		h = filled(h)
		var got [holders]uint16
		set, mu := x.set(h)
		for k := range set {
			if set[k].hash == h {
				got = set[k].holders
				if set[k].period < periodUnit*width {
					common = i + 1
				}
				break
			}
		}
		mu.Unlock()
		if got == ([holders]uint16{}) {
			if misses++; misses == missesLeft {
				break
			}
			continue
		}
		if got != last {
			flush(start)
			last = got
		}
		misses, start = 0, i+1
	}
	flush(start)
	return dst, common
}

func note(dst []match, id uint16, blocks int) []match {
	least := 0
	for i := range dst {
		if dst[i].id == id {
			dst[i].blocks = max(dst[i].blocks, blocks)
			return dst
		}
		if dst[i].blocks < dst[least].blocks {
			least = i
		}
	}
	if len(dst) < maxMatches {
		return append(dst, match{id, blocks})
	}
	if dst[least].blocks < blocks {
		dst[least] = match{id, blocks}
	}
	return dst
}
