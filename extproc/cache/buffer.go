package cache

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// ErrSlow ends a reader that fell too far behind the others of an answer that is too large to be kept.
var ErrSlow = errors.New("the caller reads more slowly than the others who read the same answer, which is too large to be held for it")

var (
	errTooLarge = errors.New("the answer is too large to be kept, and nobody reads it")
	errNoAnswer = errors.New("the answer ended before it began")
)

// buffer is an answer while it comes. One goroutine writes, many read, each from the first byte and at its own pace. Up to
// limit bytes everything is held, and becomes the entry. Beyond that, or where all buffers together have reached their budget,
// only a window is held: the writer then goes at the pace of the fastest reader, and who falls out of the window is cut off.
type buffer struct {
	limit  int64
	budget *budget

	mu      sync.Mutex
	changed chan struct{} // closed when something has changed; nil while nobody waits
	begun   bool
	head    Head
	data    []byte // what is held; bytes once written stay where they are
	base    int64  // position of data[0] in the answer
	sliding bool   // only a window is held, of about keep bytes
	keep    int64
	held    int64 // of the budget
	ended   bool
	err     error // with ended: why the answer broke off; nil: it is whole
	readers map[*Reader]struct{}
}

// window that is held of an answer that is not kept, in bytes.
const window = 256 << 10

// budget bounds what all buffers together hold.
type budget struct {
	most int64
	used atomic.Int64
}

func (b *budget) take(n int64) bool {
	if b.used.Add(n) > b.most {
		b.used.Add(-n)
		return false
	}
	return true
}

func newBuffer(limit int64, b *budget) *buffer {
	return &buffer{limit: limit, budget: b, readers: map[*Reader]struct{}{}}
}

// wake tells all who wait that something has changed. It is called with mu held.
func (b *buffer) wake() {
	if b.changed != nil {
		close(b.changed)
		b.changed = nil
	}
}

// change is closed at the next change. It is called with mu held.
func (b *buffer) change() <-chan struct{} {
	if b.changed == nil {
		b.changed = make(chan struct{})
	}
	return b.changed
}

func (b *buffer) begin(h Head) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.begun || b.ended {
		return false
	}
	b.begun, b.head = true, h
	b.wake()
	return true
}

// write adds p. It blocks only when nobody can take what is held of an answer that is too large, until ctx ends.
func (b *buffer) write(ctx context.Context, p []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.sliding {
		switch size := int64(len(b.data) + len(p)); {
		case size > b.limit:
			b.sliding, b.keep = true, max(b.limit, 2*window)
		case !b.reserve(size):
			b.sliding, b.keep = true, 2*window
		default:
			b.data = append(b.data, p...)
			b.wake()
			return nil
		}
	}
	for len(p) > 0 {
		for int64(len(b.data)) >= window && b.fastest() <= b.base+int64(len(b.data))-window {
			if len(b.readers) == 0 {
				return errTooLarge
			}
			if err := b.wait(ctx); err != nil {
				return err
			}
		}
		n := min(len(p), window)
		b.slide(n)
		b.data = append(b.data, p[:n]...)
		p = p[n:]
		b.wake()
	}
	return nil
}

// reserve takes what n bytes need of the budget, by doubling, as the slice grows.
func (b *buffer) reserve(n int64) bool {
	if n <= b.held {
		return true
	}
	more := max(n, 2*b.held, 4<<10) - b.held
	if !b.budget.take(more) {
		return false
	}
	b.held += more
	return true
}

// slide makes room for n bytes, in an array of its own: readers may still copy from the one before. It lets go of what every reader
// has read, and of what is too far back.
func (b *buffer) slide(n int) {
	if len(b.data)+n <= cap(b.data) {
		return
	}
	end := b.base + int64(len(b.data))
	from := max(b.slowest(end), end-b.keep, b.base)
	kept := make([]byte, end-from, end-from+2*window)
	copy(kept, b.data[from-b.base:])
	b.data, b.base = kept, from
}

// fastest is the position of the reader that has read most. It is called with mu held.
func (b *buffer) fastest() (at int64) {
	for r := range b.readers {
		at = max(at, r.at)
	}
	return at
}

func (b *buffer) slowest(end int64) int64 {
	for r := range b.readers {
		end = min(end, r.at)
	}
	return end
}

// wait until something changes. It is called with mu held, and lets go of it meanwhile.
func (b *buffer) wait(ctx context.Context) error {
	changed := b.change()
	b.mu.Unlock()
	defer b.mu.Lock()
	select {
	case <-changed:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// end is the end of the answer: whole, or broken off by err.
func (b *buffer) end(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended {
		return
	}
	b.ended, b.err = true, err
	if b.held > 0 {
		// What readers still have to read is the entry now, or goes with them.
		b.budget.used.Add(-b.held)
		b.held = 0
	}
	b.wake()
}

// body is the answer if all of it is held.
func (b *buffer) body() ([]byte, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.sliding {
		return nil, false
	}
	if len(b.data) < cap(b.data)-cap(b.data)/8 {
		b.data = append(make([]byte, 0, len(b.data)), b.data...)
	}
	return b.data[:len(b.data):len(b.data)], true
}

// fill makes the buffer one of a whole entry.
func (b *buffer) fill(e *Entry) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.begun, b.head, b.data = true, e.Head, e.Body
}

// Reader reads an answer while it comes, from its first byte. It is for one goroutine.
type Reader struct {
	flight *flight
	buf    *buffer
	values context.Context // of this caller
	fill   Fill            // what this caller would do itself
	at     int64           // position in the answer; guarded by the buffer's lock
	closed bool
	age    time.Duration
	// outcome for this caller; guarded by the flight's lock, settled when the answer has begun.
	outcome Outcome
	own     *buffer // an answer for this caller alone; guarded by buf's lock
}

// Head waits for the beginning of the answer. The error says why there is none, or that ctx ended.
func (r *Reader) Head(ctx context.Context) (Head, error) {
	for {
		b := r.lock()
		if b.begun {
			h := b.head
			b.mu.Unlock()
			return h, nil
		}
		if b.ended {
			err := b.err
			b.mu.Unlock()
			if err == nil {
				err = errNoAnswer
			}
			return Head{}, err
		}
		err := b.wait(ctx)
		b.mu.Unlock()
		if err != nil {
			return Head{}, err
		}
	}
}

// lock locks the buffer that this reader reads from.
func (r *Reader) lock() *buffer {
	b := r.buf
	b.mu.Lock()
	if r.own == nil {
		return b
	}
	own := r.own
	b.mu.Unlock()
	own.mu.Lock()
	return own
}

// Read gives what has come, and waits where nothing has. io.EOF is the end of a whole answer; any other error says that it
// broke off, or that ctx ended.
func (r *Reader) Read(ctx context.Context, p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for {
		b := r.lock()
		if r.at < b.base {
			b.mu.Unlock()
			return 0, ErrSlow
		}
		if have := b.data[r.at-b.base:]; len(have) > 0 {
			n := min(len(have), len(p))
			r.at += int64(n)
			if b.sliding {
				b.wake() // the writer may wait for this
			}
			b.mu.Unlock()
			copy(p, have[:n]) // never written again
			return n, nil
		}
		if b.ended {
			err := b.err
			b.mu.Unlock()
			if err == nil {
				err = io.EOF
			}
			return 0, err
		}
		err := b.wait(ctx)
		b.mu.Unlock()
		if err != nil {
			return 0, err
		}
	}
}
