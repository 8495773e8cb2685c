package cache

import (
	"math"
	"strings"
	"sync/atomic"
	"time"
)

// Ask says who asks for what.
type Ask struct {
	Key      Key
	Policy   *Policy
	Tenant   string // of who asks
	Consumer string // of who asks, as Identity.ConsumerID
	Model    string // by the caller's name
	Tags     []string
	MaxAge   time.Duration // of an answer that may be given; 0: any
}

// owner is whose entries may be given to who asks.
func (a *Ask) owner() string {
	switch a.Policy.Scope {
	case ScopeShared:
		return ""
	case ScopeConsumer:
		// Neither has a NUL: they are names.
		return a.Tenant + "\x00" + a.Consumer
	}
	return a.Tenant
}

// record is an entry with all that decides who may read it, and how long. It does not change.
type record struct {
	key      Key
	policy   string // Policy.ID
	scope    Scope
	owner    string // Ask.owner of who bought it
	negative bool
	ttl      time.Duration
	took     time.Duration // to buy it
	epoch    int64         // of the purge journal, as the replica that bought it knew it when it began
	seq      uint64        // purges that this process had done when it began to buy it; 0: another bought it
	stale    time.Duration // how long after its ttl it may be given
	entry    *Entry

	inRedis   atomic.Bool  // it is there, or on its way
	refreshAt atomic.Int64 // before which nobody is asked to buy it again, in Unix nanoseconds
}

// refreshPause is how long after one was asked to buy a record again the next is: it may fail.
const refreshPause = time.Second

// claimRefresh tells one of many callers to buy the record again.
func (r *record) claimRefresh(now time.Time) bool {
	at := r.refreshAt.Load()
	return now.UnixNano() >= at && r.refreshAt.CompareAndSwap(at, now.Add(refreshPause).UnixNano())
}

// keepFor is how long the record is of use from when it was stored.
func (r *record) keepFor() time.Duration { return r.ttl + r.stale }

// overhead of a record in memory beside its texts, in bytes: the structs, the node of the tier, the key twice.
const overhead = 512

// size in memory, in bytes.
func (r *record) size() int64 {
	n := int64(overhead + len(r.entry.Body) + len(r.owner) + len(r.entry.Model) + len(r.entry.Dialect) + len(r.entry.Tenant))
	for _, h := range r.entry.Header {
		n += int64(len(h[0]) + len(h[1]) + 32)
	}
	for _, t := range r.entry.Tags {
		n += int64(len(t) + 16)
	}
	return n
}

// fits tells whether the record answers the ask, whatever its age. A record that was found under the key and does not is
// a mistake, or somebody's doing.
func (r *record) fits(a *Ask) bool {
	return r.key == a.Key && r.policy == a.Policy.ID && r.scope == a.Policy.Scope && r.owner == a.owner()
}

// freshness of a record for who asks.
type freshness uint8

const (
	gone  freshness = iota // too old
	stale                  // to be given while it is bought again
	fresh
)

// judge tells how fresh the record is. A policy whose times have become shorter applies to what was kept before. ahead says that
// it should be bought again although it is fresh; random is from 0 to 1.
func (r *record) judge(a *Ask, now time.Time, random float64) (f freshness, age time.Duration, ahead bool) {
	age = max(0, now.Sub(r.entry.Stored)) // the clock of who stored it may be ahead
	p := a.Policy
	ttl := min(r.ttl, p.TTL)
	if r.negative {
		ttl = min(r.ttl, p.NegativeTTL)
	}
	if kept, _ := p.keeps(r.entry.Status); !kept || a.MaxAge > 0 && age > a.MaxAge {
		return gone, age, false
	}
	switch {
	case age < ttl:
		// The earlier, the longer it takes to buy and the more chance has it: of many requests about one asks before the end.
		early := time.Duration(float64(r.took) * -math.Log(max(random, 1e-9)))
		return fresh, age, p.RefreshAhead && !r.negative && age+early >= ttl
	case age < ttl+p.stale(r.negative):
		return stale, age, true
	}
	return gone, age, false
}

// Selector says which entries to purge: those for which all that is given is true. An empty one selects none.
type Selector struct {
	Tenant string // who bought the answer
	Model  string // by the name of the caller who bought it
	Tag    string
	Policy string // namespace/name
	Key    *Key
}

// Empty tells that nothing is selected.
func (s *Selector) Empty() bool {
	return s.Tenant == "" && s.Model == "" && s.Tag == "" && s.Policy == "" && s.Key == nil
}

// String names what is selected.
func (s *Selector) String() string {
	var parts []string
	for _, p := range [][2]string{{"tenant", s.Tenant}, {"model", s.Model}, {"tag", s.Tag}, {"policy", s.Policy}} {
		if p[1] != "" {
			parts = append(parts, p[0]+" "+p[1])
		}
	}
	if s.Key != nil {
		parts = append(parts, "key "+s.Key.String())
	}
	return strings.Join(parts, ", ")
}

// selects tells whether the record is one of those.
func (s *Selector) selects(r *record) bool {
	if s.Empty() || s.Tenant != "" && s.Tenant != r.entry.Tenant || s.Model != "" && s.Model != r.entry.Model ||
		s.Policy != "" && s.Policy != r.policy || s.Key != nil && *s.Key != r.key {
		return false
	}
	if s.Tag == "" {
		return true
	}
	for _, t := range r.entry.Tags {
		if t == s.Tag {
			return true
		}
	}
	return false
}

// Outcome of a lookup, or of what a reader reads.
type Outcome uint8

// The outcomes.
const (
	Miss     Outcome = iota // it has to be bought; of a reader: its own fill buys it
	Hit                     // kept, and fresh
	Stale                   // kept, and past its TTL
	Negative                // a refusal that is kept
	Shared                  // somebody else is buying it
)

// String is the word that metrics and headers have.
func (o Outcome) String() string {
	return [...]string{"miss", "hit", "stale", "negative", "shared"}[o]
}

// Tier is where an entry was found.
type Tier uint8

// The tiers.
const (
	Memory Tier = iota
	Redis
)

// String is the word that metrics have.
func (t Tier) String() string {
	return [...]string{"memory", "redis"}[t]
}

// Lookup is what became of a question.
type Lookup struct {
	Outcome Outcome // Miss, Hit, Stale or Negative
	Entry   *Entry  // nil with Miss
	Age     time.Duration
	Tier    Tier // where Entry was
	// Refresh asks for the answer to be bought again in the background, by Cache.Refresh with Again.
	Refresh bool
}

// maxTags that an answer takes over from the one in whose place it comes.
const maxTags = 64

// Again is what the found answer is bought again with, for who asks by a: with the tags that it has, so that who gave them finds by them what
// comes in its place too.
func (l *Lookup) Again(a Ask) Ask {
	if all := tags(l.Entry.Tags, a.Tags); len(all) <= maxTags {
		a.Tags = all
	} else {
		a.Tags = l.Entry.Tags
	}
	return a
}
