package shared

import (
	"context"
	"sync"
)

// batchSize is how many calls a pipeline holds at most. It bounds how long a server is busy with one.
const batchSize = 256

// batcher sends calls in pipelines: what comes while one is under way is in the next. The zero batcher is ready.
type batcher struct {
	mu      sync.Mutex
	waiting []*queued
	sending bool
}

type queued struct {
	call   *call
	done   chan struct{}
	values []any
	err    error
}

// do runs a call as one of a batch. When ctx ends it returns, while the call goes on within the timeout of the connection;
// its outcome then is unknown.
func (b *batcher) do(ctx context.Context, r *Remote, c *call) ([]any, error) {
	q := &queued{call: c, done: make(chan struct{})}
	b.mu.Lock()
	b.waiting = append(b.waiting, q)
	if !b.sending {
		b.sending = true
		go b.send(r)
	}
	b.mu.Unlock()
	select {
	case <-q.done:
		return q.values, q.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// send sends until nothing waits.
func (b *batcher) send(r *Remote) {
	for {
		b.mu.Lock()
		if len(b.waiting) == 0 {
			b.sending, b.waiting = false, nil
			b.mu.Unlock()
			return
		}
		batch := b.waiting[:min(batchSize, len(b.waiting))]
		b.waiting = b.waiting[len(batch):]
		b.mu.Unlock()

		calls := make([]*call, len(batch))
		for i, q := range batch {
			calls[i] = q.call
		}
		// The callers' contexts bound how long they wait, not the batch: it holds the calls of others too.
		values, errs := r.runAll(context.Background(), calls)
		for i, q := range batch {
			q.values, q.err = values[i], errs[i]
			close(q.done)
		}
	}
}
