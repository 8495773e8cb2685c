//go:build !linux

package loopback

import "context"

// Held is an address. Only on Linux is it also held: elsewhere others may take the port while nobody listens.
type Held struct{ addr string }

// Hold chooses a port that is free now.
func Hold(ctx context.Context, addr string) (*Held, error) {
	l, err := Listen(ctx, addr)
	if err != nil {
		return nil, err
	}
	return &Held{l.Addr().String()}, l.Close()
}

// Addr is host:port, with the port that it got.
func (h *Held) Addr() string { return h.addr }

// Release gives the port up.
func (h *Held) Release() {}
