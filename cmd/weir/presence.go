package main

import (
	"sync"
	"time"
)

// absence is how long an Envoy whose stream has ended may take to be back before it counts as dead: it tries again after
// 0.2 s, and after twice as long, give or take, each further time.
const absence = 2 * time.Second

// presence follows an Envoy that somebody else runs, by the stream on which it gets its configuration. The zero value with
// gone set is ready.
type presence struct {
	// gone is called when an Envoy has died, and with it its requests; then is when its stream ended.
	gone func(then time.Time)

	mu    sync.Mutex
	seen  bool        // one has connected at some time
	away  *time.Timer // runs while none is connected, and the last may come back
	since time.Time   // of that
	here  bool
	ended bool // nobody is to be told any more
}

// came says that one has connected. A fresh one has no configuration yet: it is not the one that was there before.
func (p *presence) came(fresh bool) {
	p.mu.Lock()
	last, since := p.away, p.since
	p.here, p.seen, p.away = true, true, nil
	p.mu.Unlock()
	if last != nil && last.Stop() && fresh {
		p.gone(since) // now, before it is sent anything and has requests of its own
	}
}

// went says that the one that connected last is not connected any more.
func (p *presence) went() {
	p.mu.Lock()
	defer p.mu.Unlock()
	since := time.Now()
	p.here, p.since = false, since
	if p.ended {
		return
	}
	p.away = time.AfterFunc(absence, func() { p.gone(since) })
}

// stop keeps gone from being called: what it would end is being ended.
func (p *presence) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	if p.away != nil {
		p.away.Stop()
	}
}

// missing says which Envoy is waited for; "" while one is connected.
func (p *presence) missing() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.here:
		return ""
	case p.seen:
		return "Envoy is not connected any more"
	}
	return "no Envoy has connected yet"
}
