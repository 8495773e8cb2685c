package state

import (
	"hash/maphash"
	"sync"
	"time"
)

const (
	// Window that rates are of.
	Window = 10 * time.Second
	// seenFor is how long a client is known after its last request.
	seenFor = 5 * time.Minute
	// maxClients that are told apart, and maxPlaces: everything beyond is Others. Consumers can be as many as the tokens of an issuer name.
	maxClients = 2000
	maxPlaces  = 20000
	// trafficShards is a power of two.
	trafficShards = 16
	// slots of a second each: those of the window, the present one, and one to spare.
	slots = int64(Window/time.Second) + 2
)

// Others stands for the tenant, the consumer and the route of what is not told apart.
const Others = "*"

// Counts are what happened in a time.
type Counts struct {
	Requests, Errors, Tokens int64
}

func (c *Counts) add(d Counts) {
	c.Requests += d.Requests
	c.Errors += d.Errors
	c.Tokens += d.Tokens
}

// Kind is what an Edge leads from.
type Kind uint8

// The kinds.
const (
	FromClient  Kind = iota // a tenant's consumer, to a route
	FromRoute               // to a backend
	FromBackend             // to an endpoint
)

// Edge is a way that requests take. Consumer is that of a client, else "".
type Edge struct {
	Kind           Kind
	From, Consumer string
	To             string
}

// Sums are those of everything.
type Sums struct {
	Counts
	Cost    int64 // nano-units
	TTFT    time.Duration
	Streams int64 // that TTFT is the sum of
}

// ClientSeen is a client, and when it was seen last.
type ClientSeen struct {
	Tenant, Consumer string
	Last             time.Time
}

// Traffic counts what passes on each edge, second by second.
type Traffic struct {
	seed   maphash.Seed
	shards [trafficShards]trafficShard

	mu     sync.Mutex
	totals [slots]struct {
		second int64
		Sums
	}
}

type trafficShard struct {
	mu      sync.Mutex
	edges   map[Edge]*passage
	clients int // how many edges are of FromClient
}

// passage is what passed on an edge lately.
type passage struct {
	last  int64 // second in which it was used
	slots [slots]struct {
		second int64
		Counts
	}
}

func newTraffic() *Traffic {
	t := &Traffic{seed: maphash.MakeSeed()}
	for i := range t.shards {
		t.shards[i].edges = map[Edge]*passage{}
	}
	return t
}

// add counts a request that is over.
func (t *Traffic) add(r *Request, ends []end, own bool) {
	second := r.Finished.Unix()
	c := &r.Record
	tokens := r.Entry.Tokens.Total()
	all := Counts{Requests: 1, Tokens: tokens}
	if r.Outcome != OK && r.Outcome != Aborted {
		all.Errors = 1
	}
	if own {
		t.count(Edge{FromClient, c.Tenant, c.Consumer, c.Route}, second, all)
	}
	for i := range ends {
		e := &ends[i]
		d := Counts{Requests: 1}
		if e.kind != "" {
			d.Errors = 1
		}
		if e.last {
			d.Tokens = tokens
		}
		t.count(Edge{Kind: FromRoute, From: c.Route, To: e.backend}, second, d)
		if e.endpoint != "" {
			t.count(Edge{Kind: FromBackend, From: e.backend, To: e.endpoint}, second, d)
		}
	}
	if !own {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	s := &t.totals[second%slots]
	if s.second != second {
		s.second, s.Sums = second, Sums{}
	}
	s.add(all)
	s.Cost += r.Entry.Cost
	if ttft := r.TTFT(); ttft > 0 && c.Status < 400 {
		s.TTFT += ttft
		s.Streams++
	}
}

func (t *Traffic) shard(e Edge) *trafficShard {
	h := maphash.String(t.seed, e.From) + 3*maphash.String(t.seed, e.Consumer) + 5*maphash.String(t.seed, e.To)
	return &t.shards[h%trafficShards]
}

func (t *Traffic) count(e Edge, second int64, d Counts) {
	if !t.shard(e).count(e, second, d) && e.Kind == FromClient {
		others := Edge{FromClient, Others, Others, Others}
		t.shard(others).count(others, second, d)
	}
}

// count says whether there was a place for the edge.
func (s *trafficShard) count(e Edge, second int64, d Counts) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.edges[e]
	if p == nil {
		full := func() bool {
			return len(s.edges) >= maxPlaces/trafficShards || e.Kind == FromClient && e.From != Others && s.clients >= maxClients/trafficShards
		}
		if full() {
			s.sweep(second)
			if full() {
				return false
			}
		}
		p = &passage{}
		s.edges[e] = p
		if e.Kind == FromClient {
			s.clients++
		}
	}
	p.last = max(p.last, second)
	at := &p.slots[second%slots]
	if at.second != second {
		at.second, at.Counts = second, Counts{}
	}
	at.add(d)
	return true
}

// sweep forgets what nobody has used for long.
func (s *trafficShard) sweep(second int64) {
	for e, p := range s.edges {
		if second-p.last > int64(seenFor/time.Second) {
			delete(s.edges, e)
			if e.Kind == FromClient {
				s.clients--
			}
		}
	}
}

// Now gives what passed in the Window before now, by edge, of those on which something did; and the clients that are known.
func (t *Traffic) Now(now time.Time) (edges map[Edge]Counts, clients []ClientSeen, totals Sums) {
	second := now.Unix()
	first := second - int64(Window/time.Second) // the present second counts for nothing until it is over
	edges = map[Edge]Counts{}
	seen := map[[2]string]int64{}
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		s.sweep(second)
		for e, p := range s.edges {
			var c Counts
			for j := range p.slots {
				if at := &p.slots[j]; at.second >= first && at.second < second {
					c.add(at.Counts)
				}
			}
			if c != (Counts{}) {
				edges[e] = c
			}
			if e.Kind == FromClient {
				k := [2]string{e.From, e.Consumer}
				seen[k] = max(seen[k], p.last)
			}
		}
		s.mu.Unlock()
	}
	for k, last := range seen {
		clients = append(clients, ClientSeen{k[0], k[1], time.Unix(last, 0).UTC()})
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range t.totals {
		if at := &t.totals[i]; at.second >= first && at.second < second {
			totals.add(at.Counts)
			totals.Cost += at.Cost
			totals.TTFT += at.TTFT
			totals.Streams += at.Streams
		}
	}
	return edges, clients, totals
}
