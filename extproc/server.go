// Package extproc is the ext_proc server. One exchange for each request says who calls, whether they may,
// and what serves it, and translates the answer where that is needed; one more for each attempt prepares it,
// where there is a choice of backends or dialects.
package extproc

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/weir-dev/weir/adapters"
	"github.com/weir-dev/weir/extproc/breaker"
	"github.com/weir-dev/weir/extproc/content"
	"github.com/weir-dev/weir/extproc/lane"
	"github.com/weir-dev/weir/extproc/limit"
	"github.com/weir-dev/weir/extproc/message"
	"github.com/weir-dev/weir/extproc/pick"
	"github.com/weir-dev/weir/extproc/relay"
	"github.com/weir-dev/weir/extproc/table"
	"github.com/weir-dev/weir/usage"
)

// Options of a Server.
type Options struct {
	Dialects *adapters.Set
	Log      *slog.Logger
	// Now is the clock; nil is time.Now.
	Now func() time.Time
	// Metrics is told what was decided; nil counts nothing.
	Metrics Metrics
	// Sampled decides by its ID, in hex, whether a trace that begins here is to be exported; nil for none.
	Sampled func(traceID string) bool

	// Limits, Breakers, Desk and Estimator are the guard's; all are required.
	Limits    *limit.Engine
	Breakers  *breaker.Set
	Desk      *usage.Desk
	Estimator *usage.Estimator

	// Picker picks endpoints, and Steering says what backends can take. Without them Envoy chooses.
	Picker   *pick.Set
	Steering Steering

	// Lanes let requests in ahead of their coming; nil lets none in. SampleShare is the share of the traces that begin here which Sampled
	// takes.
	Lanes       *lane.Set
	SampleShare func() float64

	// Flights are the requests that go to the relay, and its fills; nil where there is no relay: then CachePolicies and SessionPolicies change
	// nothing.
	Flights *relay.Flights

	// Capturing says whether traces are exported at all, so that no text is captured for nobody; nil for never.
	Capturing func() bool
}

// Metrics is told what the server does. Its methods are called on requests' paths.
type Metrics interface {
	// Decided is called once for each request, with the status of Weir's own answer or 0 when the request goes on.
	Decided(status int, took time.Duration)
	// Attempted is called once for each attempt that Weir prepared.
	Attempted(backend string, translated bool)
	// BreakerShadowed is called for each request that a circuit breaker in shadow mode would have refused.
	BreakerShadowed(policy string)
}

type noMetrics struct{}

func (noMetrics) Decided(int, time.Duration) {}
func (noMetrics) Attempted(string, bool)     {}
func (noMetrics) BreakerShadowed(string)     {}

// Server answers Envoy. It is safe for concurrent use.
type Server struct {
	opts      Options
	table     atomic.Pointer[table.Table]
	exchanges *exchanges
	keyRules  sync.Map // of *limit.Rule, by Identity.KeyID
	captured  *content.Memory
	// budgetEvents holds the starts of the periods that events were logged in, by budgetEventKey.
	budgetEvents sync.Map
}

// New makes a Server. It fails until it is given a table, so that Envoy does what it does without it.
func New(opts Options) *Server {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Metrics == nil {
		opts.Metrics = noMetrics{}
	}
	if opts.Sampled == nil {
		opts.Sampled = func(string) bool { return false }
	}
	if opts.SampleShare == nil {
		opts.SampleShare = func() float64 { return 0 }
	}
	if opts.Capturing == nil {
		opts.Capturing = func() bool { return false }
	}
	if opts.Steering == nil {
		opts.Steering = noSteering{}
	}
	if opts.Picker == nil {
		opts.Picker = pick.NewSet(pick.Options{Now: opts.Now})
	}
	return &Server{opts: opts, exchanges: newExchanges(fmt.Sprintf("%016x", rand.Uint64())), captured: content.NewMemory(captureMemory)}
}

// Use makes new requests be decided from t; requests under way keep the table they began with.
func (s *Server) Use(t *table.Table) {
	s.table.Store(t)
	s.opts.Lanes.Renew()
	s.keyRules.Clear() // keys come and go; a counter is known by the ID of its rule
}

// Table returns the table in use; nil before the first.
func (s *Server) Table() *table.Table { return s.table.Load() }

// Release forgets what was kept for the attempts of a request. Call it when the request has ended;
// unknown and empty IDs are ignored.
func (s *Server) Release(exchange string) { s.exchanges.drop(exchange) }

// ReleaseAll forgets what was kept for every request. Call it when Envoy has died, and with it every request.
func (s *Server) ReleaseAll() {
	s.exchanges.clear()
	if s.opts.Flights != nil {
		s.opts.Flights.Clear()
	}
}

// Sweep forgets what requests left behind that ended without a record. Call it every few seconds.
func (s *Server) Sweep() int {
	n := s.exchanges.sweep(s.opts.Now())
	if s.opts.Flights != nil {
		n += s.opts.Flights.Sweep()
	}
	return n
}

// InFlight is the number of requests that something is kept for, and the bytes of their bodies.
func (s *Server) InFlight() (requests int, bytes int64) { return s.exchanges.size() }

// Register adds the service to g, whose codec must know messages that decode and encode themselves, as usage.Codec does.
func (s *Server) Register(g *grpc.Server) {
	own := extprocv3.ExternalProcessor_ServiceDesc.Streams[0]
	own.Handler = func(srv any, stream grpc.ServerStream) error { return srv.(*Server).Process(stream) }
	g.RegisterService(&grpc.ServiceDesc{
		ServiceName: extprocv3.ExternalProcessor_ServiceDesc.ServiceName,
		HandlerType: (*any)(nil),
		Streams:     []grpc.StreamDesc{own},
		Metadata:    extprocv3.ExternalProcessor_ServiceDesc.Metadata,
	}, s)
}

// exchangeStream is the stream of one exchange behind its first message.
type exchangeStream struct{ grpc.ServerStream }

func (s exchangeStream) send(m *response) error { return s.SendMsg(m) }

func (s exchangeStream) receive() (*extprocv3.ProcessingRequest, error) {
	m := new(extprocv3.ProcessingRequest)
	return m, s.RecvMsg(m)
}

// Process handles one ext_proc stream. Only the calls of attempts carry attributes.
// A panic ends the one request that made it: Envoy answers that one 503.
func (s *Server) Process(stream grpc.ServerStream) (err error) {
	defer func() {
		if p := recover(); p != nil {
			s.opts.Log.Error("a request made Weir panic", "panic", p, "stack", string(debug.Stack()))
			err = status.Error(codes.Internal, "internal error")
		} else if err != nil && !errors.Is(err, errStarting) && stream.Context().Err() == nil {
			s.opts.Log.Error("an exchange with Envoy went wrong", "error", err)
		}
	}()
	first := new(message.Request)
	switch err := stream.RecvMsg(first); {
	case errors.Is(err, io.EOF), err != nil && stream.Context().Err() != nil:
		return nil // Envoy went away; nothing was asked
	case err != nil:
		return err
	}
	if first.Attributed {
		return s.attempt(exchangeStream{stream}, first)
	}
	return s.decide(exchangeStream{stream}, first)
}
