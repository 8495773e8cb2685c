package sim

import (
	"context"
	"math/rand/v2"
	"net/http"
	"time"
	"unicode/utf8"
)

// pacer waits like a model that is generating.
type pacer struct {
	sleep  func(context.Context, time.Duration) error
	ttft   time.Duration
	lo, hi time.Duration
	rnd    *rand.Rand
}

// first waits for the first token.
func (p *pacer) first(ctx context.Context) error { return p.wait(ctx, p.ttft) }

// tokens waits for n more tokens.
func (p *pacer) tokens(ctx context.Context, n int) error {
	var d time.Duration
	for range n {
		d += p.lo
		if p.hi > p.lo {
			d += time.Duration(p.rnd.Int64N(int64(p.hi-p.lo) + 1))
		}
	}
	return p.wait(ctx, d)
}

func (p *pacer) wait(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	return p.sleep(ctx, d)
}

// writer cuts replies into writes.
type writer struct {
	w    http.ResponseWriter
	flow *http.ResponseController
	how  Chunking
	rnd  *rand.Rand

	held  []byte // events of a batch that is not yet full
	count int
	size  int
}

// event writes one event, or holds it for the batch.
func (w *writer) event(b []byte) error {
	switch w.how {
	case Split:
		return w.split(b)
	case Batch:
		w.held = append(w.held, b...)
		w.count++
		if w.size == 0 {
			w.size = 2 + w.rnd.IntN(4)
		}
		if w.count < w.size {
			return nil
		}
		return w.flush()
	}
	return w.put(b)
}

// flush sends what is held.
func (w *writer) flush() error {
	if len(w.held) == 0 {
		return nil
	}
	b := w.held
	w.held, w.count, w.size = nil, 0, 0
	return w.put(b)
}

// put makes one write on the connection.
func (w *writer) put(b []byte) error {
	if _, err := w.w.Write(b); err != nil {
		return err
	}
	return w.flow.Flush()
}

func (w *writer) split(b []byte) error {
	from := 0
	for _, cut := range cuts(b, w.rnd) {
		if err := w.put(b[from:cut]); err != nil {
			return err
		}
		from = cut
	}
	return w.put(b[from:])
}

// cuts chooses where to split, in rising order: within a multi-byte rune when there is one, before the
// last line end (an event ends with two), and somewhere by chance.
func cuts(b []byte, rnd *rand.Rand) []int {
	if len(b) < 2 {
		return nil
	}
	marks := map[int]bool{1 + rnd.IntN(len(b)-1): true, len(b) - 1: true}
	for i := 0; i < len(b); i++ {
		if b[i] >= utf8.RuneSelf && !utf8.RuneStart(b[i]) {
			marks[i] = true
			break
		}
	}
	out := make([]int, 0, len(marks))
	for i := 1; i < len(b); i++ {
		if marks[i] {
			out = append(out, i)
		}
	}
	return out
}
