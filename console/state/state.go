// Package state remembers what the console shows and nobody else keeps: the newest requests, the rates of the last seconds, how
// what Weir depends on has failed, and how the configuration has changed. All of it is bounded, in memory, and gone after a restart; the
// ledger and the metrics are what lasts.
package state

import (
	"sync/atomic"
	"time"

	"github.com/weir-dev/weir/usage"
)

// Options are what a State needs.
type Options struct {
	// Now is the clock.
	Now func() time.Time
}

// State is everything that is remembered. It is safe for concurrent use.
type State struct {
	Requests *Requests
	Traffic  *Traffic
	History  *History
	Changes  *Changes
	// Started is when it began to remember.
	Started time.Time

	places atomic.Pointer[Places]
}

// Places tells which endpoint of a backend an address is that Envoy has asked: itself where the configuration names it, the one
// endpoint that there is where a name stands for it, and "" where that cannot be told.
type Places func(backend, address string) string

// New makes a State.
func New(o Options) *State {
	now := o.Now()
	return &State{
		Requests: newRequests(), Traffic: newTraffic(), History: newHistory(now), Changes: newChanges(), Started: now,
	}
}

// Use makes p judge addresses from now on. Without it, they are what they are.
func (s *State) Use(p Places) { s.places.Store(&p) }

// Finished remembers a request that is over. It is a usage.FinishedSink: it copies what it keeps and waits for nothing but memory.
func (s *State) Finished(f *usage.Finished) {
	r := newRequest(f)
	if f.Own() {
		s.Requests.add(r)
	}
	var room [maxEnds]end
	ends := r.ends(room[:0])
	if p := s.places.Load(); p != nil {
		for i := range ends {
			if e := &ends[i]; e.endpoint != "" {
				e.endpoint = (*p)(e.backend, e.endpoint)
			}
		}
	}
	s.Traffic.add(r, ends, f.Own())
	s.History.ended(r.Finished, ends)
}
