package fleet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"k8s.io/utils/clock"

	"github.com/weir-dev/weir/xds/source"
)

const (
	// maxRequest bounds a message of a client, in bytes: names and versions of everything that it has, about 80 bytes each.
	maxRequest = 32 << 20
	// pingAfter and pingTimeout are how a side that is gone is noticed: after 20 s at most.
	pingAfter   = 10 * time.Second
	pingTimeout = 10 * time.Second
	// patience is how long a client has to answer before it is sent a newer set nonetheless. Without an end to it, a set that an Envoy
	// neither takes nor refuses would keep away the set that mends it.
	patience = 2 * time.Second
	// maxReason bounds what is kept of a client's reason for a refusal, in bytes.
	maxReason = 2048
)

// ServerOptions of a Server.
type ServerOptions struct {
	TLS Files
	// Allow lists the clients that are let in: DNS names, "*." and the end of such names, or SPIFFE IDs, which stand for all IDs below
	// them as well. None: every client whose certificate is signed by the CA.
	Allow    []string
	Log      *slog.Logger
	Registry prometheus.Registerer // takes the metrics; nil for none
	Clock    clock.Clock           // nil is the system's
}

// Server hands the objects of a control plane to its clients. It is safe for concurrent use.
type Server struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer

	opts         ServerOptions
	certificates *certificates
	allow        allowList
	metrics      *serverMetrics
	signals      *Signals

	mu      sync.Mutex
	encoded *encoded
	number  uint64 // of the last set; 0 before the first
	views   map[string]*view
	clients map[*serverClient]bool
}

// NewServer makes a server. It fails where the TLS files cannot be used.
func NewServer(opts ServerOptions) (*Server, error) {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Clock == nil {
		opts.Clock = clock.RealClock{}
	}
	allow, err := newAllowList(opts.Allow)
	if err != nil {
		return nil, err
	}
	certificates, err := newCertificates(opts.TLS, opts.Log)
	if err != nil {
		return nil, fmt.Errorf("TLS of the control plane: %w", err)
	}
	s := &Server{
		opts: opts, certificates: certificates, allow: allow, encoded: newEncoded(),
		views: map[string]*view{}, clients: map[*serverClient]bool{},
	}
	s.metrics = newServerMetrics(opts.Registry, s.count)
	s.signals = newSignals(opts.Clock, s.metrics.signals)
	return s, nil
}

// Serve serves clients on the listener until ctx is done, and closes it. Clients that are connected then go elsewhere.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	server := grpc.NewServer(
		grpc.Creds(newServerCredentials(s.certificates, s.allow)),
		grpc.MaxRecvMsgSize(maxRequest),
		grpc.MaxConcurrentStreams(4),
		grpc.ConnectionTimeout(pingTimeout),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: pingAfter, Timeout: pingTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: pingAfter / 2, PermitWithoutStream: true}),
		grpc.WaitForHandlers(true),
		grpc.StatsHandler(counter{s.metrics.bytes}),
	)
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(server, s)
	server.RegisterService(&signalsDesc, s)
	ctx, cancel := context.WithCancel(ctx)
	var sending sync.WaitGroup
	defer sending.Wait()
	sending.Go(func() { s.signals.run(ctx) })
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.look(ctx)
		server.Stop()
	}()
	err := server.Serve(listener)
	stopped := ctx.Err() != nil
	cancel()
	<-done
	if stopped {
		return nil
	}
	return err
}

// look reads renewed certificates until ctx is done, whether or not a client comes meanwhile.
func (s *Server) look(ctx context.Context) {
	for ctx.Err() == nil {
		s.certificates.get()
		timer := s.opts.Clock.NewTimer(cacheEvery)
		select {
		case <-timer.C():
		case <-ctx.Done():
			timer.Stop()
		}
	}
}

// Set makes objects what the clients are to have. What it is given must not be changed.
func (s *Server) Set(objs *source.Objects, problems []source.Problem) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.encoded.update(objs, problems, s.opts.Log)
	s.number++
	for _, v := range s.views {
		v.follow(s.encoded, s.number)
	}
}

// join takes a client in, which has resources of the versions in has, and returns its first response.
func (s *Server) join(c *serverClient, scope Scope, has map[string]string) (*frame, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.number == 0 {
		return nil, status.Error(codes.Unavailable, "the control plane has not read its objects yet")
	}
	key := scope.key()
	v := s.views[key]
	if v == nil {
		v = newView(scope)
		v.update(scope.of(s.encoded), s.number, s.encoded.digest)
		s.views[key] = v
	}
	c.view = v
	s.clients[c] = true
	v.clients[c] = true
	var f *frame
	if len(has) == 0 {
		f = v.since(0, c.gzip)
	} else {
		f = v.against(has)
	}
	c.give(f, s.opts.Clock.Now())
	return f, nil
}

// leave forgets a client.
func (s *Server) leave(c *serverClient) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.clients, c)
	delete(c.view.clients, c)
	if len(c.view.clients) == 0 {
		delete(s.views, c.view.scope.key())
	}
}

// next returns the response that is due, or else until when to wait for an answer (zero: for as long as it takes) and what is closed when there is
// another set.
func (s *Server) next(c *serverClient) (f *frame, until time.Time, changed <-chan struct{}, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := c.view
	if c.base == v.current.number {
		return nil, time.Time{}, v.changed, nil
	}
	now := s.opts.Clock.Now()
	if last := c.sent[len(c.sent)-1]; c.answered < last.of.number {
		if until = last.at.Add(patience); now.Before(until) {
			return nil, until, nil, nil
		}
	}
	if c.base < v.forgotten {
		return nil, time.Time{}, nil, status.Error(codes.OutOfRange, "the client is too far behind: it has to say again what it has")
	}
	f = v.since(c.base, c.gzip)
	c.give(f, now)
	return f, time.Time{}, nil, nil
}

// returned is called when a response has been sent, or could not be.
func (s *Server) returned(c *serverClient, f *frame) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.view.sent(f)
}

// Clients describes the clients that are connected, sorted by node.
func (s *Server) Clients() []ClientState {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]ClientState, 0, len(s.clients))
	for c := range s.clients {
		out = append(out, c.state())
	}
	slices.SortFunc(out, func(a, b ClientState) int {
		return cmp.Or(strings.Compare(a.Node.ID, b.Node.ID), a.Connected.Compare(b.Connected))
	})
	return out
}

// Report says what the clients serve and refuse, by the digest of all objects of the server, also where a client has a part of them only.
type Report struct {
	// Serving counts the clients whose Envoy serves a digest. "" counts those of which nothing is known yet.
	Serving map[string]int
	// Rejected are the digests that an Envoy refuses at the moment.
	Rejected map[string]Refusal
}

// Refusal is what is known of a digest that is refused.
type Refusal struct {
	Replicas int    // that refuse it
	Reason   string // of one of them, as its Envoy put it
}

// Report sums up Clients.
func (s *Server) Report() Report {
	r := Report{Serving: map[string]int{}, Rejected: map[string]Refusal{}}
	for _, c := range s.Clients() {
		r.Serving[c.Serving.Digest]++
		if c.Rejected.Number != 0 {
			refusal := r.Rejected[c.Rejected.Digest]
			r.Rejected[c.Rejected.Digest] = Refusal{refusal.Replicas + 1, cmp.Or(refusal.Reason, c.Reason)}
		}
	}
	return r
}

func (s *Server) count() float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return float64(len(s.clients))
}

func formatNumber(n uint64) string { return strconv.FormatUint(n, 10) }

var errNoNode = errors.New("the first message of a client must have a node.id: the name of the replica")
