package relay

import (
	"context"
	"errors"
	"net"
	"net/http"
	"syscall"
	"time"
)

// inner asks Envoy's inner listener, over HTTP/1.1: each fill has a connection to itself while it runs. On a shared one of HTTP/2, callers who
// leave would end the fills of others, because Envoy closes a connection most of whose streams are reset early.
type inner struct {
	transport *http.Transport
	socket    string
}

const (
	// innerIdle is how long a connection is kept without a request: shorter than Envoy's inner listener keeps it (compile.innerIdle), so that
	// no fill goes out on a connection that is being closed.
	innerIdle = time.Minute
	// innerConnect is how long a connection may take, which succeeds or fails at once unless Envoy has more to accept than it has room for;
	// innerAgain is when to try again then.
	innerConnect = 5 * time.Second
	innerAgain   = time.Millisecond
	// innerIdleConnections are kept for further fills. Each costs a file descriptor here and in Envoy.
	innerIdleConnections = 4096
)

func newInner(socket string) *inner {
	in := &inner{socket: socket}
	protocols := &http.Protocols{}
	protocols.SetHTTP1(true)
	in.transport = &http.Transport{
		DialContext: in.dial, Protocols: protocols, DisableCompression: true, IdleConnTimeout: innerIdle, MaxIdleConnsPerHost: innerIdleConnections,
		MaxResponseHeaderBytes: headerBytes, WriteBufferSize: copyBuffer, ReadBufferSize: copyBuffer,
	}
	return in
}

// dial connects. A unix socket whose queue is full refuses at once (EAGAIN), where one of TCP would let it wait.
func (in *inner) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, innerConnect)
	defer cancel()
	var d net.Dialer
	for {
		conn, err := d.DialContext(ctx, "unix", in.socket)
		if !errors.Is(err, syscall.EAGAIN) {
			return conn, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(innerAgain):
		}
	}
}

// RoundTrip implements http.RoundTripper. It sends a request once: one that Envoy may have read is never sent again.
func (in *inner) RoundTrip(r *http.Request) (*http.Response, error) {
	r.GetBody = nil
	return in.transport.RoundTrip(r)
}

func (in *inner) close() { in.transport.CloseIdleConnections() }
