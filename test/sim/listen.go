package sim

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/weir-dev/weir/test/sim/internal/loopback"
)

// grace is how long streams may go on after the context of ListenAndServe ends.
const grace = 2 * time.Second

// maxStreams is the limit of concurrent HTTP/2 streams per connection. A gateway may put all its load on one connection.
const maxStreams = 10000

// ListenAndServe serves HTTP/1.1 and HTTP/2 without TLS (h2c, prior knowledge) on one port, until
// the context ends; then it returns nil. The address must be a loopback one, and a missing host
// means 127.0.0.1: ":0" is any free port. When it accepts connections it calls ready (unless nil)
// with the bound address.
func (s *Server) ListenAndServe(ctx context.Context, addr string, ready func(net.Addr)) error {
	l, err := loopback.Listen(ctx, addr)
	if err != nil {
		return fmt.Errorf("sim: %w", err)
	}
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	base, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	srv := &http.Server{
		Handler:           s,
		Protocols:         &protocols,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: maxStreams},
		ReadHeaderTimeout: 30 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return base },
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	if ready != nil {
		ready(l.Addr())
	}
	select {
	case err := <-served:
		return fmt.Errorf("sim: serving on %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	late, cancel := context.WithTimeout(base, grace)
	defer cancel()
	if err := srv.Shutdown(late); err != nil {
		stop() // requests that hang on purpose, and streams that are too long
		err = srv.Close()
		if err != nil {
			return fmt.Errorf("sim: closing %s: %w", l.Addr(), err)
		}
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("sim: serving on %s: %w", l.Addr(), err)
	}
	return nil
}
