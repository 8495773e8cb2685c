package replay

import (
	"context"
	"errors"
	"io"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/extproc/cache"
)

// Source is an answer that is still coming; *cache.Reader is one.
type Source interface {
	// Head waits until something is known of the answer.
	Head(ctx context.Context) (cache.Head, error)
	// Read waits for bytes. io.EOF means that the answer is whole, any other error that it is not.
	Read(ctx context.Context, p []byte) (int, error)
}

// Sink is a caller.
type Sink interface {
	// Begin comes before the first Write, once.
	Begin(status int, header [][2]string) error
	// Write sends bytes to the caller at once; it keeps nothing of them.
	Write(p []byte) (int, error)
}

// Broken is the error of an answer that did not come to its end.
type Broken struct {
	// Told says that the caller was told in the stream: it is to be ended as if it were whole. Otherwise the connection is to be
	// reset, if Begin was called, so that half an answer does not look like a whole one.
	Told bool
	Err  error
}

// Error makes *Broken a Go error.
func (b *Broken) Error() string { return "the answer broke off: " + b.Err.Error() }

// Unwrap gives the source's error.
func (b *Broken) Unwrap() error { return b.Err }

// pieceSize is how much is read of an answer at a time, in bytes.
const pieceSize = 16 << 10

// Live tells an answer as it comes. Its errors are those of the source's Head and of the sink as they are, ErrUnplayable before the first
// byte, *Broken where the source breaks, and ErrUnreadable where an answer that must be whole to be told makes no sense; in that
// last case, and where the source breaks before Begin was called, nothing was sent.
func (p *Player) Live(ctx context.Context, src Source, to To, sink Sink) error {
	head, err := src.Head(ctx)
	if err != nil {
		return err
	}
	t, err := p.teller(&head, to)
	if err != nil {
		return err
	}
	buf := make([]byte, pieceSize)
	begun := false
	send := func() error {
		if !t.ready {
			return nil
		}
		if !begun {
			begun = true
			if err := sink.Begin(t.status, t.header); err != nil {
				return err
			}
		}
		if len(t.out) == 0 {
			return nil
		}
		_, err := sink.Write(t.out)
		t.out = t.out[:0]
		return err
	}
	for {
		if err := send(); err != nil {
			return err
		}
		n, readErr := src.Read(ctx, buf)
		t.feed(buf[:n])
		switch {
		case readErr == nil:
			continue
		case errors.Is(readErr, io.EOF):
			if err := t.end(); err != nil {
				return err
			}
			return send()
		}
		broken := &Broken{Err: readErr}
		broken.Told = t.broke(&canon.Error{Kind: canon.ErrBadGateway, Message: "The answer broke off: what was making it failed."})
		if err := send(); err != nil {
			return err
		}
		return broken
	}
}
