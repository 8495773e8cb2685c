package semantic

import (
	"sync"
	"time"

	"github.com/weir-dev/weir/extproc/cache"
)

// maxKnown requests are remembered that were answered by another's answer, at about 150 bytes each.
const maxKnown = 1 << 16

// known remembers which answer a request was given by its meaning, so that the same request, asked again, costs no embedding.
type known struct {
	mu    sync.Mutex
	by    map[cache.Key]answered
	order []cache.Key // a ring of the keys of by, and of some that are gone
	next  int
}

type answered struct {
	match   Match
	expires time.Time
}

func (k *known) get(request cache.Key, least float64, now time.Time) (Match, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	a, ok := k.by[request]
	if !ok || now.After(a.expires) || a.match.Similarity < least-slack {
		return Match{}, false
	}
	return a.match, true
}

func (k *known) put(request cache.Key, m Match, expires time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.by == nil {
		k.by = map[cache.Key]answered{}
	}
	if _, there := k.by[request]; !there {
		if len(k.order) < maxKnown {
			k.order = append(k.order, request)
		} else {
			delete(k.by, k.order[k.next])
			k.order[k.next] = request
			k.next = (k.next + 1) % maxKnown
		}
	}
	k.by[request] = answered{m, expires}
}

// remove forgets what a request was given. Its place in the ring is used up later; until then it may stand there twice, and leave
// with the first.
func (k *known) remove(request cache.Key) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.by, request)
}

func (k *known) clear() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.by, k.order, k.next = nil, nil, 0
}
