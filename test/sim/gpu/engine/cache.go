package engine

// cache is the paged cache of keys and values. A block is either free, private to a sequence, or known by the hash of all
// tokens up to its end; known ones are shared, and kept when nobody uses them until their room is needed.
type cache struct {
	capacity int // blocks
	used     int // private ones, and known ones in use
	kept     int // known ones that nobody uses
	byHash   map[uint64]*block
	oldest   block // ends of the list of kept ones; next is the first to go
}

type block struct {
	hash       uint64
	refs       int
	prev, next *block // in the list of kept ones, while refs is 0
}

// holding is a sequence's part of the cache.
type holding struct {
	known   []*block
	private int
	whole   int // blocks from the beginning that are complete and were looked at by know
}

func (h *holding) len() int { return len(h.known) + h.private }

func (c *cache) reset(capacity int) {
	*c = cache{capacity: capacity, byHash: map[uint64]*block{}}
}

// match appends the known blocks that the hashes begin with.
func (c *cache) match(into []*block, hashes []uint64) []*block {
	for _, h := range hashes {
		b := c.byHash[h]
		if b == nil {
			break
		}
		into = append(into, b)
	}
	return into
}

// admit lets an empty holding begin with known blocks and n private ones. It changes nothing when there is no room.
func (c *cache) admit(h *holding, known []*block, n int) bool {
	room := c.capacity - c.used - n
	for _, b := range known {
		if b.refs == 0 {
			room--
		}
	}
	if room < 0 {
		return false
	}
	for _, b := range known {
		if b.refs == 0 {
			c.unlist(b)
			c.used++
		}
		b.refs++
	}
	h.known = append(h.known[:0], known...)
	h.whole = len(known)
	return c.grow(h, n)
}

// grow gives a holding n more private blocks, and makes room for them by forgetting who was used longest ago.
func (c *cache) grow(h *holding, n int) bool {
	if n <= 0 {
		return true
	}
	if c.capacity-c.used < n {
		return false
	}
	for c.capacity-c.used-c.kept < n {
		b := c.oldest.next
		c.unlist(b)
		delete(c.byHash, b.hash)
	}
	c.used += n
	h.private += n
	return true
}

// know makes the holding's blocks up to index n known, as far as there are hashes. A block that is known already stays private.
func (c *cache) know(h *holding, hashes []uint64, n int) {
	for n = min(n, len(hashes)); h.whole < n; h.whole++ {
		hash := hashes[h.whole]
		if c.byHash[hash] != nil {
			continue
		}
		b := &block{hash: hash, refs: 1}
		c.byHash[hash] = b
		h.known = append(h.known, b)
		h.private--
	}
}

// release gives everything back. Of a chain the end goes first, because without its beginning it is of no use.
func (c *cache) release(h *holding) {
	c.used -= h.private
	for i := len(h.known) - 1; i >= 0; i-- {
		b := h.known[i]
		if b.refs--; b.refs == 0 {
			c.used--
			c.list(b)
		}
	}
	*h = holding{known: h.known[:0]}
}

func (c *cache) list(b *block) {
	if c.oldest.next == nil {
		c.oldest.next, c.oldest.prev = &c.oldest, &c.oldest
	}
	last := c.oldest.prev
	b.prev, b.next = last, &c.oldest
	last.next, c.oldest.prev = b, b
	c.kept++
}

func (c *cache) unlist(b *block) {
	b.prev.next, b.next.prev = b.next, b.prev
	b.prev, b.next = nil, nil
	c.kept--
}
