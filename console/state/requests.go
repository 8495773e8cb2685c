package state

import (
	"cmp"
	"slices"
	"strconv"
	"sync"
	"time"
)

const (
	// maxRecent of the newest requests are kept, whatever became of them.
	maxRecent = 1000
	// maxFailed of the newest that failed or were interrupted are kept beside them.
	maxFailed = 300
	// maxSlow of the slowest are kept for slowFor.
	maxSlow = 100
	slowFor = time.Hour
)

// Requests are those that are over, as far as they are kept.
type Requests struct {
	mu     sync.Mutex
	seq    uint64
	recent ring
	failed ring
	slow   []*Request
	// slowest of those that would give way to another: nothing faster is kept once all places are taken.
	least  time.Duration
	oldest time.Time // of slow
}

// ring keeps the newest of a number.
type ring struct {
	list []*Request
	next int
}

func (x *ring) add(r *Request) {
	if len(x.list) < cap(x.list) {
		x.list = append(x.list, r)
		return
	}
	x.list[x.next] = r
	x.next = (x.next + 1) % len(x.list)
}

func newRequests() *Requests {
	return &Requests{
		recent: ring{list: make([]*Request, 0, maxRecent)}, failed: ring{list: make([]*Request, 0, maxFailed)}, slow: make([]*Request, 0, maxSlow),
	}
}

func (x *Requests) add(r *Request) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.seq++
	r.Seq = x.seq
	if r.ID == "" {
		r.ID = "#" + strconv.FormatUint(r.Seq, 10)
	}
	x.recent.add(r)
	if r.Outcome == Failed || r.Outcome == Interrupted {
		x.failed.add(r)
	}
	x.addSlow(r)
}

// addSlow keeps it if it is slow, in the place of the fastest or of one that is too old.
func (x *Requests) addSlow(r *Request) {
	d := r.Record.Duration
	if len(x.slow) == maxSlow && d <= x.least && r.Finished.Sub(x.oldest) <= slowFor {
		return
	}
	if len(x.slow) < maxSlow {
		x.slow = append(x.slow, r)
	} else {
		give := 0
		for i, s := range x.slow {
			old, giveOld := r.Finished.Sub(s.Finished) > slowFor, r.Finished.Sub(x.slow[give].Finished) > slowFor
			if old && !giveOld || old == giveOld && s.Record.Duration < x.slow[give].Record.Duration {
				give = i
			}
		}
		x.slow[give] = r
	}
	x.least, x.oldest = x.slow[0].Record.Duration, x.slow[0].Finished
	for _, s := range x.slow {
		x.least = min(x.least, s.Record.Duration)
		if s.Finished.Before(x.oldest) {
			x.oldest = s.Finished
		}
	}
}

// All are those that are kept, the newest first.
func (x *Requests) All() []*Request {
	x.mu.Lock()
	out := slices.Concat(x.recent.list, x.failed.list, x.slow)
	x.mu.Unlock()
	slices.SortFunc(out, func(a, b *Request) int { return cmp.Compare(b.Seq, a.Seq) })
	return slices.Compact(out)
}

// Since are at most n that ended after the one that seq is of, the newest first; skipped are more that did. last is the Seq of the
// newest of all.
func (x *Requests) Since(seq uint64, n int) (list []*Request, skipped int, last uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	last = x.seq
	if seq >= last {
		return nil, 0, last
	}
	ended := last - seq
	take := int(min(ended, uint64(n), uint64(len(x.recent.list))))
	for i := range take {
		at := (x.recent.next - 1 - i + 2*len(x.recent.list)) % len(x.recent.list)
		list = append(list, x.recent.list[at])
	}
	return list, int(ended) - take, last
}

// Find finds one by its ID, or the newest that a caller has given a request ID.
func (x *Requests) Find(id string) *Request {
	var found *Request
	id = own(id)
	for _, r := range x.All() {
		if r.ID == id {
			return r
		}
		if found == nil && r.Record.RequestID == id {
			found = r
		}
	}
	return found
}
