package ledger

import (
	"hash/maphash"
	"sync"
)

// shardCount is a power of two: requests of different shards never wait for each other.
const shardCount = 32

// mark says where the intent of an open request is.
type mark struct {
	// journal that it stands in; 0 while it stands in begun, or in no journal because there was no room.
	journal uint64
	// at is its place in begun, counted from 1.
	at int
}

type begun struct {
	Intent
	// done is set when the request ended before the intent was written; then it need not be.
	done bool
}

type ended struct {
	Entry
	// journal that the intent stands in.
	journal uint64
}

// shard buffers what happened to a part of all requests.
type shard struct {
	mu    sync.Mutex
	open  map[string]mark
	begun []begun
	ended []ended
	// bytes is about how much memory begun and ended take.
	bytes int64
	// Counts of what was refused.
	droppedEntries, droppedIntents, doubles int64

	// spare slices, which the writer has emptied.
	spareBegun []begun
	spareEnded []ended

	_ [64]byte // keeps the next shard's mutex out of this one's cache line
}

// buffers hold everything between Begin or Commit and the writer.
type buffers struct {
	seed   maphash.Seed
	shards [shardCount]shard
	// limit is the most bytes of one shard.
	limit int64
}

func newBuffers(limit int64) *buffers {
	b := &buffers{seed: maphash.MakeSeed(), limit: max(limit/shardCount, 4096)}
	for i := range b.shards {
		b.shards[i].open = map[string]mark{}
	}
	return b
}

func (b *buffers) shard(id string) *shard {
	return &b.shards[maphash.String(b.seed, id)&(shardCount-1)]
}

// begin notes an intent. It reports whether the ID is a new one.
func (b *buffers) begin(in *Intent) bool {
	s := b.shard(in.ID)
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, open := s.open[in.ID]; open {
		s.doubles++
		return false
	}
	size := in.size()
	if s.bytes+size > b.limit/2 { // the other half is for entries
		// The entry can still be made; only if the process dies nothing will be known of the request.
		s.droppedIntents++
		s.open[in.ID] = mark{}
		return true
	}
	s.bytes += size
	s.begun = append(s.begun, begun{Intent: *in})
	s.open[in.ID] = mark{at: len(s.begun)}
	return true
}

// commit notes an entry. It reports whether its request was open. A void one whose intent stands in no journal yet is forgotten.
func (b *buffers) commit(e *Entry) bool {
	s := b.shard(e.ID)
	s.mu.Lock()
	defer s.mu.Unlock()
	m, open := s.open[e.ID]
	if !open {
		s.doubles++
		return false
	}
	if e.Void && m.journal == 0 {
		delete(s.open, e.ID)
		if m.at > 0 {
			s.begun[m.at-1].done = true
		}
		return true
	}
	size := e.size()
	if s.bytes+size > b.limit {
		// The intent stays in its journal, if it got there: the next start enters the request as interrupted.
		s.droppedEntries++
		delete(s.open, e.ID)
		return true
	}
	delete(s.open, e.ID)
	if m.at > 0 {
		s.begun[m.at-1].done = true
	}
	s.bytes += size
	s.ended = append(s.ended, ended{Entry: *e, journal: m.journal})
	return true
}

// take empties a shard. Its intents stand in the journal from then on, except those for which keep says no.
func (s *shard) take(journal uint64, keep bool) (bs []begun, es []ended) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.begun {
		in := &s.begun[i]
		if in.done {
			continue
		}
		if keep {
			s.open[in.ID] = mark{journal: journal}
			continue
		}
		in.done = true
		s.droppedIntents++
		s.open[in.ID] = mark{}
	}
	bs, es = s.begun, s.ended
	s.begun, s.ended = s.spareBegun, s.spareEnded
	s.spareBegun, s.spareEnded = nil, nil
	s.bytes = 0
	return bs, es
}

// giveBack returns emptied slices for use, unless a burst has made them so big that they would only take memory.
func (s *shard) giveBack(bs []begun, es []ended) {
	const most = 4096
	clear(bs)
	clear(es)
	s.mu.Lock()
	defer s.mu.Unlock()
	if cap(bs) <= most {
		s.spareBegun = bs[:0]
	}
	if cap(es) <= most {
		s.spareEnded = es[:0]
	}
}

// move puts an open request's intent from one journal into another. It reports whether it stood there.
func (b *buffers) move(id string, from, to uint64) bool {
	s := b.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	m, open := s.open[id]
	if !open || m.journal != from {
		return false
	}
	s.open[id] = mark{journal: to}
	return true
}

// dropped counts what there was no room for.
func (b *buffers) dropped() (entries, intents int64) {
	for i := range b.shards {
		s := &b.shards[i]
		s.mu.Lock()
		entries += s.droppedEntries
		intents += s.droppedIntents
		s.mu.Unlock()
	}
	return entries, intents
}

// size is about how much memory an intent takes with its texts.
func (i *Intent) size() int64 {
	return 384 + int64(len(i.ID)+len(i.RequestID)+len(i.Tenant)+len(i.Namespace)+len(i.Consumer)+len(i.Credential)+
		len(i.Route)+len(i.Backend)+len(i.Model)+len(i.UpstreamModel)+len(i.PriceVersion))
}

// size is about how much memory an entry takes with its texts.
func (e *Entry) size() int64 {
	return 512 + int64(len(e.ID)+len(e.RequestID)+len(e.Tenant)+len(e.Namespace)+len(e.Consumer)+len(e.Credential)+
		len(e.Route)+len(e.Backend)+len(e.Model)+len(e.UpstreamModel)+len(e.PriceVersion))
}
