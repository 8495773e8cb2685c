package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/stats"

	"github.com/weir-dev/weir/xds/fleet"
)

// clients are those of a control plane. They take everything at once and keep nothing.
type clients struct {
	meter *meter
	first int64 // bytes of the first response to each, as they came over the wire
	stop  context.CancelFunc
	wait  sync.WaitGroup

	mu  sync.Mutex
	err error // of the first that ended
}

// joining is how many clients may be reading their first response at once: it is all there is, and they share a machine.
const joining = 8

func connect(ctx context.Context, n int, address string, p *pki) (*clients, error) {
	ctx, cancel := context.WithCancel(ctx)
	c := &clients{meter: newMeter(true), stop: cancel}
	turns, joined := make(chan struct{}, joining), make(chan error, n)
	for i := range n {
		turns <- struct{}{}
		c.wait.Go(func() {
			told := false
			done := func(err error) {
				if !told {
					told = true
					joined <- err
					<-turns
				}
			}
			err := c.one(ctx, i, address, p, func() { done(nil) })
			if ctx.Err() == nil {
				err = fmt.Errorf("client %d of the control plane has ended: %w", i, err)
				c.mu.Lock()
				c.err = errors.Join(c.err, err)
				c.mu.Unlock()
			}
			done(err)
		})
	}
	for range n {
		if err := <-joined; err != nil {
			c.close()
			return nil, err
		}
	}
	if n > 0 {
		c.first = c.meter.read().Bytes / int64(n)
	}
	return c, nil
}

// one is a client, until it ends. ready is called when it has everything.
func (c *clients) one(ctx context.Context, i int, address string, p *pki, ready func()) error {
	size := &lastSize{}
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(credentials.NewTLS(p.tls)), grpc.WithStatsHandler(size), grpc.WithNoProxy(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32), grpc.UseCompressor(gzip.Name)))
	if err != nil {
		return err
	}
	defer conn.Close()
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if err != nil {
		return err
	}
	err = stream.Send(&discoveryv3.DeltaDiscoveryRequest{
		Node: &corev3.Node{Id: fmt.Sprintf("%s/client-%d", system, i)}, TypeUrl: fleet.TypeURL, ResourceNamesSubscribe: []string{"*"},
	})
	if err != nil && !errors.Is(err, io.EOF) { // EOF: Recv tells why
		return err
	}
	for {
		r, err := stream.Recv()
		if err != nil {
			return err
		}
		c.meter.response(i, r, size.take())
		answer := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: fleet.TypeURL, ResponseNonce: r.GetNonce()}
		if err := stream.Send(answer); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		c.meter.request(i, answer)
		ready()
	}
}

// failed is why a client has ended.
func (c *clients) failed() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

func (c *clients) close() {
	c.stop()
	c.wait.Wait()
}

// lastSize has the size of the message that came last, as it came over the wire. A client has one stream, which is read by one goroutine.
type lastSize struct {
	mu sync.Mutex
	n  int
}

func (s *lastSize) take() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.n
	s.n = 0
	return n
}

// TagRPC implements stats.Handler.
func (*lastSize) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

// HandleRPC implements stats.Handler.
func (s *lastSize) HandleRPC(_ context.Context, event stats.RPCStats) {
	if in, ok := event.(*stats.InPayload); ok {
		s.mu.Lock()
		s.n += in.WireLength
		s.mu.Unlock()
	}
}

// TagConn implements stats.Handler.
func (*lastSize) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// HandleConn implements stats.Handler.
func (*lastSize) HandleConn(context.Context, stats.ConnStats) {}
