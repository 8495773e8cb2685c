package fleet

import (
	"context"
	"crypto/x509"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	_ "google.golang.org/grpc/encoding/gzip" // makes gzip known to both sides
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
)

// maxUnanswered is how many responses a client may leave unanswered and still answer one by one; of older ones an answer says nothing any more.
const maxUnanswered = 16

// Set names what a client has.
type Set struct {
	Number uint64 // counted up by the server, from 1; 0 is none
	Digest string // source.Objects.Digest of all objects of the server
}

// ClientState describes a client.
type ClientState struct {
	Node      Node
	Address   string
	Identity  string    // names of its certificate
	Connected time.Time // since when
	Sent      Set
	Serving   Set       // what its Envoy serves, as far as it has said on this connection
	Refused   []Refused // what of Serving its Envoy refuses, and it serves otherwise or not at all
	Rejected  Set       // what its Envoy refuses, as a whole or a part of it, unless it serves a later one
	Reason    string    // of Rejected
	Bytes     int64     // sent to it on this connection, as they went over the wire, without TLS
}

// serverClient is what the server knows of a client; what it has of the objects is one number. It belongs to the server's mutex,
// but for what is constant while the client is there.
type serverClient struct {
	node      Node
	address   string
	identity  string
	connected time.Time
	gzip      bool
	bytes     *atomic.Int64

	view     *view
	base     uint64 // number of the set that was sent last
	sent     []sent // unanswered sets, and the one that was answered last; never empty
	answered uint64 // the latest set that there is an answer for
	serving  *generation
	refused  []Refused // of serving
	rejected *generation
	reason   string
}

type sent struct {
	of *generation
	at time.Time
}

// give notes that the client is being sent a response.
func (c *serverClient) give(f *frame, now time.Time) {
	c.base = f.of.number
	c.sent = append(c.sent, sent{f.of, now})
	if len(c.sent) > maxUnanswered {
		c.sent = slices.Delete(c.sent, 0, len(c.sent)-maxUnanswered)
	}
}

func (c *serverClient) state() ClientState {
	name := func(g *generation) Set {
		if g == nil {
			return Set{}
		}
		return Set{Number: g.number, Digest: g.digest}
	}
	return ClientState{
		Node: c.node, Address: c.address, Identity: c.identity, Connected: c.connected,
		Sent: name(c.sent[len(c.sent)-1].of), Serving: name(c.serving), Refused: c.refused, Rejected: name(c.rejected), Reason: c.reason, Bytes: c.bytes.Load(),
	}
}

// answered is what an answer of a client was to.
type answered struct {
	of      *generation // nil: nothing that is remembered
	at      time.Time   // when it was sent
	first   bool        // nothing as late was answered before
	refusal bool        // the client did not refuse it before
}

// answer takes an ACK, or a NACK with its reason; with refused objects, all others are served.
func (c *serverClient) answer(number uint64, nack bool, reason string, refused []Refused) answered {
	i := slices.IndexFunc(c.sent, func(s sent) bool { return s.of.number == number })
	if i < 0 {
		return answered{}
	}
	g := c.sent[i].of
	out := answered{of: g, at: c.sent[i].at, first: number > c.answered, refusal: nack && c.rejected != g}
	c.answered = max(c.answered, number)
	if nack {
		c.rejected, c.reason = g, reason
	}
	if !nack || len(refused) > 0 {
		if c.serving == nil || c.serving.number <= number {
			c.serving, c.refused = g, refused
		}
	}
	if !nack {
		if c.rejected != nil && c.rejected.number <= number {
			c.rejected, c.reason = nil, ""
		}
	}
	c.sent = slices.Delete(c.sent, 0, i)
	return out
}

// DeltaAggregatedResources serves one client.
func (s *Server) DeltaAggregatedResources(stream discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	ctx := stream.Context()
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	if first.GetTypeUrl() != TypeURL {
		return status.Errorf(codes.InvalidArgument, "only %s is served here", TypeURL)
	}
	node, err := nodeOf(first.GetNode())
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	c := &serverClient{node: node, connected: s.opts.Clock.Now(), bytes: bytesOf(ctx)}
	leaf := c.describe(ctx)
	if names, err := grpc.ClientSupportedCompressors(ctx); err == nil && slices.Contains(names, "gzip") {
		if err := grpc.SetSendCompressor(ctx, "gzip"); err != nil {
			return err
		}
		c.gzip = true
	}
	f, err := s.join(c, node.Scope.normal(), first.GetInitialResourceVersions())
	if err != nil {
		return err
	}
	defer s.leave(c)
	log := s.opts.Log.With("node", node.ID, "address", c.address)
	log.Info("a client has come", "version", node.Version, "identity", c.identity)
	err = s.serve(stream, c, f, leaf)
	if cause := ctx.Err(); cause != nil && err == nil {
		err = cause
	}
	log.Info("a client has gone", "reason", status.Convert(err).Message())
	return err
}

// describe notes who is at the other end, and returns his certificate.
func (c *serverClient) describe(ctx context.Context) *x509.Certificate {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil
	}
	c.address = p.Addr.String()
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.PeerCertificates) == 0 {
		return nil
	}
	leaf := info.State.PeerCertificates[0]
	c.identity = names(leaf)
	return leaf
}

// serve sends a client the first response, and then what changes.
func (s *Server) serve(stream discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer, c *serverClient, f *frame, leaf *x509.Certificate) error {
	var expired <-chan time.Time
	if leaf != nil {
		// Who is connected for longer than his certificate is valid has to show another one.
		timer := s.opts.Clock.NewTimer(leaf.NotAfter.Sub(s.opts.Clock.Now()))
		defer timer.Stop()
		expired = timer.C()
	}
	news, gone := make(chan struct{}, 1), make(chan error, 1)
	go func() { gone <- s.receive(stream, c, news) }()
	for {
		var until time.Time
		var changed <-chan struct{}
		var err error
		if f == nil {
			if f, until, changed, err = s.next(c); err != nil {
				return err
			}
		}
		if f != nil {
			message, err := f.prepare(stream)
			if err == nil {
				err = stream.SendMsg(message)
			}
			s.returned(c, f)
			if err != nil {
				return err
			}
			s.metrics.pushes.Inc()
			f = nil
			continue
		}
		if err := s.wait(stream.Context(), until, changed, news, gone, expired); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
	}
}

// wait returns nil when the client may be due another response.
func (s *Server) wait(ctx context.Context, until time.Time, changed, news <-chan struct{}, gone <-chan error, expired <-chan time.Time) error {
	var late <-chan time.Time
	if !until.IsZero() {
		timer := s.opts.Clock.NewTimer(until.Sub(s.opts.Clock.Now()))
		defer timer.Stop()
		late = timer.C()
	}
	select {
	case <-changed:
	case <-news:
	case <-late:
	case err := <-gone:
		return err
	case <-expired:
		return status.Error(codes.Unauthenticated, "the client's certificate has expired on this connection")
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// receive takes a client's answers until the stream ends.
func (s *Server) receive(stream discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer, c *serverClient, news chan<- struct{}) error {
	for {
		request, err := stream.Recv()
		if err != nil {
			return err
		}
		number, err := strconv.ParseUint(request.GetResponseNonce(), 10, 64)
		if err != nil {
			continue // no answer: subscriptions cannot be changed here
		}
		nack, reason := request.GetErrorDetail() != nil, clean(request.GetErrorDetail().GetMessage())
		s.mu.Lock()
		to := c.answer(number, nack, reason, decodeRefused(request.GetErrorDetail().GetDetails()))
		s.mu.Unlock()
		if to.refusal {
			s.metrics.rejects.Inc()
			s.opts.Log.Warn("a client's Envoy has refused a set of objects", "node", c.node.ID, "set", number, "reason", reason)
		}
		if to.first && !nack {
			s.metrics.acks.Observe(s.opts.Clock.Since(to.at).Seconds())
		}
		select {
		case news <- struct{}{}:
		default:
		}
	}
}

// clean is text of the other side, short enough to keep.
func clean(text string) string {
	if len(text) > maxReason {
		text = text[:maxReason]
	}
	return strings.ToValidUTF8(text, "")
}

// counter counts the bytes that go to clients.
type counter struct{ total prometheus.Counter }

type bytesKey struct{}

// bytesOf finds the count of a stream.
func bytesOf(ctx context.Context) *atomic.Int64 {
	n, ok := ctx.Value(bytesKey{}).(*atomic.Int64)
	if !ok {
		return new(atomic.Int64)
	}
	return n
}

// TagRPC implements stats.Handler.
func (counter) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context {
	return context.WithValue(ctx, bytesKey{}, new(atomic.Int64))
}

// HandleRPC implements stats.Handler.
func (c counter) HandleRPC(ctx context.Context, event stats.RPCStats) {
	if out, ok := event.(*stats.OutPayload); ok {
		bytesOf(ctx).Add(int64(out.WireLength))
		c.total.Add(float64(out.WireLength))
	}
}

// TagConn implements stats.Handler.
func (counter) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// HandleConn implements stats.Handler.
func (counter) HandleConn(context.Context, stats.ConnStats) {}

var _ stats.Handler = counter{}
