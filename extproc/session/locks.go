package session

import (
	"context"
	"sync"
)

// locks lets one goroutine of this process at a time change a session: those of one process would else conflict for nothing.
type locks struct {
	mu   sync.Mutex
	held map[Ref]*lock
}

type lock struct {
	turn chan struct{} // has one element while nobody holds it
	want int
}

// take waits for a session, or until ctx ends.
func (l *locks) take(ctx context.Context, at Ref) (release func(), err error) {
	l.mu.Lock()
	if l.held == nil {
		l.held = map[Ref]*lock{}
	}
	k := l.held[at]
	if k == nil {
		k = &lock{turn: make(chan struct{}, 1)}
		k.turn <- struct{}{}
		l.held[at] = k
	}
	k.want++
	l.mu.Unlock()
	leave := func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if k.want--; k.want == 0 {
			delete(l.held, at)
		}
	}
	select {
	case <-k.turn:
		return func() { k.turn <- struct{}{}; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, context.Cause(ctx)
	}
}
