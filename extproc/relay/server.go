// Package relay answers the requests that a CachePolicy or a SessionPolicy covers. Envoy sends them here, when the door has decided that
// they may come in; what is not kept is asked for at Envoy's inner listener, on behalf of the caller, and goes to a backend from there as
// any other request does.
//
//	Envoy, door ──x-weir-flight──> Server ──x-weir-flight──> Envoy, inner listener ──> backend
//	                                 └── cache, session
package relay

import (
	"context"
	"errors"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-dev/weir/adapters"
	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/extproc/cache"
	"github.com/weir-dev/weir/extproc/cache/replay"
	"github.com/weir-dev/weir/extproc/cache/semantic"
	"github.com/weir-dev/weir/extproc/session"
	sessionresponses "github.com/weir-dev/weir/extproc/session/responses"
	"github.com/weir-dev/weir/extproc/wire"
)

// Options of a Server. All fields are required but those that say otherwise.
type Options struct {
	Flights  *Flights
	Dialects *adapters.Set
	// Inner is the path of the socket that Envoy's inner listener listens on. It need not be there yet.
	Inner    string
	Log      *slog.Logger
	Registry prometheus.Registerer // takes the metrics
	// Sessions keep conversations.
	Sessions *session.Manager
	// Cache keeps answers.
	Cache *cache.Cache
	// Meanings finds answers by the meaning of requests.
	Meanings *semantic.Finder
	// Responses keeps what the Responses API keeps.
	Responses *sessionresponses.Keeper
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Server is the relay. It is safe for concurrent use.
type Server struct {
	opts    Options
	http    *http.Server
	inner   *inner
	metrics *metrics
	player  *replay.Player
	// ctx is that of all that goes on when callers have left.
	ctx  context.Context
	stop context.CancelFunc
}

// headerBytes are those of a request or an answer at the most: Envoy has bounded them by LLMGateway.spec.limits already.
const headerBytes = 1 << 20

// New makes a Server that serves nobody yet.
func New(o Options) *Server {
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &Server{opts: o, inner: newInner(o.Inner), metrics: newMetrics(o.Registry), player: replay.New(o.Dialects)}
	s.ctx, s.stop = context.WithCancel(context.Background())
	protocols := &http.Protocols{}
	protocols.SetHTTP1(true) // a caller who does not read holds up a connection of its own, and nobody else's answer
	s.http = &http.Server{
		// There is no idle time-out: Envoy closes connections, and no request of its own can meet one that is being closed here.
		Handler: s, Protocols: protocols, MaxHeaderBytes: headerBytes, ErrorLog: log.New(serverErrors{o.Log}, "", 0),
	}
	return s
}

// serverErrors takes what net/http has to say of connections, which nobody but Envoy makes.
type serverErrors struct{ log *slog.Logger }

// Write implements io.Writer.
func (e serverErrors) Write(text []byte) (int, error) {
	e.log.Debug("the relay: " + string(text))
	return len(text), nil
}

// Serve serves until Close. It closes the listener.
func (s *Server) Serve(l net.Listener) error {
	if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Close ends the server: requests that run get as long as ctx lasts.
func (s *Server) Close(ctx context.Context) {
	if s.http.Shutdown(ctx) != nil {
		s.http.Close()
	}
	s.stop()
	s.inner.close()
}

// ServeHTTP answers one request of Envoy's.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f := s.opts.Flights.Take(r.Header.Get(wire.FlightHeader))
	if f == nil {
		s.metrics.requests.WithLabelValues("unknown").Inc()
		s.unknown(w, r)
		return
	}
	x := &exchange{Server: s, Flight: f, w: w, r: r, began: s.opts.Now()}
	s.metrics.running.Inc()
	defer func() {
		s.metrics.running.Dec()
		p := recover()
		if p != nil && p != http.ErrAbortHandler { //nolint:errorlint // it is compared as net/http does
			s.opts.Log.Error("a request made the relay panic", "panic", p, "stack", string(debug.Stack()))
			x.broken = true
		}
		x.end()
		if x.broken || p != nil {
			panic(http.ErrAbortHandler) // closes the connection: the caller must not take what it has for all
		}
	}()
	ctx, cancel := context.WithDeadline(r.Context(), f.Expires)
	defer cancel()
	x.serve(ctx)
}

// unknown answers a request that nobody has let in, or that came twice: the process was started anew since.
func (s *Server) unknown(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body) // so that the connection lasts
	match := s.opts.Dialects.Classify(r.Method, r.URL.Path, func(name string) string { return r.Header.Get(name) })
	e := &canon.Error{Kind: canon.ErrOverloaded, RetryAfter: time.Second, Message: "The gateway was restarted while it handled this request; send it again."}
	writeError(w, match.Dialect, e, r.Header.Get("x-request-id"))
}

// readBody reads the body of a request, which Envoy has whole.
func readBody(r *http.Request) ([]byte, error) {
	if n := r.ContentLength; n >= 0 {
		body := make([]byte, n)
		_, err := io.ReadFull(r.Body, body)
		return body, err
	}
	return io.ReadAll(r.Body)
}
