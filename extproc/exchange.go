package extproc

import (
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/extproc/table"
	"github.com/weir-dev/weir/usage"
)

// exchange is what a decision keeps for the attempts of its request. All above mu is immutable.
type exchange struct {
	id       string
	open     *usage.Open
	table    *table.Table
	dialect  *canon.Dialect
	endpoint *canon.Endpoint
	model    string      // the caller's
	path     string      // the dialect's path and the caller's query, relative to a backend's base path
	headers  [][2]string // the caller's headers of its dialect
	stream   bool
	body     []byte         // nil when no candidate needs it
	request  *canon.Request // the body, parsed; nil unless some candidate needs a translation
	unsaid   *canon.Error   // why the body cannot be said in another dialect; request is nil then
	created  time.Time
	expires  time.Time

	mu     sync.Mutex
	wanted bool           // an attempt has asked for it
	tried  map[string]int // by backend ID
	// answers read what a backend answers, by its ID; none where that needs no translation. Attempts are prepared on
	// streams of their own, so that the one prepared last need not be the one that answers.
	answers map[string]*answer
}

func (e *exchange) setAnswer(backend string, a *answer) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.answers == nil {
		e.answers = map[string]*answer{}
	}
	e.answers[backend] = a
}

func (e *exchange) answerOf(backend string) *answer {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.answers[backend]
}

func (e *exchange) isWanted() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.wanted
}

// nth counts the tries of a backend: 0 for the first.
func (e *exchange) nth(backend string) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.tried == nil {
		e.tried = map[string]int{}
	}
	e.wanted = true
	n := e.tried[backend]
	e.tried[backend] = n + 1
	return n
}

// unwantedLife is how long something is kept for a request that no attempt has asked for. The first attempt
// follows the decision at once; none does when the caller went away while Envoy waited for the decision, and then
// Envoy's record of the request does not name what was kept either.
const unwantedLife = 15 * time.Second

const exchangeShards = 64 // a power of two; so that requests share no lock

// exchanges finds exchanges by ID.
type exchanges struct {
	prefix string // tells the IDs of one process from those of another
	serial atomic.Uint64
	shards [exchangeShards]exchangeShard
}

type exchangeShard struct {
	mu sync.Mutex
	m  map[string]*exchange
	_  [40]byte // keep neighbours off one cache line
}

func newExchanges(prefix string) *exchanges {
	x := &exchanges{prefix: prefix}
	for i := range x.shards {
		x.shards[i].m = map[string]*exchange{}
	}
	return x
}

func (x *exchanges) newID() string {
	var buf [32]byte
	b := append(buf[:0], x.prefix...)
	b = append(b, '-')
	return string(strconv.AppendUint(b, x.serial.Add(1), 36))
}

// shard is chosen by the last character, which counts up.
func (x *exchanges) shard(id string) *exchangeShard {
	return &x.shards[id[len(id)-1]%exchangeShards]
}

func (x *exchanges) put(e *exchange) {
	s := x.shard(e.id)
	s.mu.Lock()
	s.m[e.id] = e
	s.mu.Unlock()
}

func (x *exchanges) get(id string) *exchange {
	if id == "" {
		return nil
	}
	s := x.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.m[id]
}

func (x *exchanges) drop(id string) {
	if id == "" {
		return
	}
	s := x.shard(id)
	s.mu.Lock()
	delete(s.m, id)
	s.mu.Unlock()
}

// clear drops everything.
func (x *exchanges) clear() {
	for i := range x.shards {
		s := &x.shards[i]
		s.mu.Lock()
		clear(s.m)
		s.mu.Unlock()
	}
}

// sweep drops what has expired, and says how many.
func (x *exchanges) sweep(now time.Time) (dropped int) {
	for i := range x.shards {
		s := &x.shards[i]
		s.mu.Lock()
		for id, e := range s.m {
			if now.After(e.expires) || now.After(e.created.Add(unwantedLife)) && !e.isWanted() {
				delete(s.m, id)
				dropped++
			}
		}
		s.mu.Unlock()
	}
	return dropped
}

func (x *exchanges) size() (n int, bytes int64) {
	for i := range x.shards {
		s := &x.shards[i]
		s.mu.Lock()
		n += len(s.m)
		for _, e := range s.m {
			bytes += int64(len(e.body))
		}
		s.mu.Unlock()
	}
	return n, bytes
}
