package main

import (
	"context"
	"errors"
	"math"
	"net"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// tap stands between Weir and Envoy, hands on what they say, and has a meter look at it.
type tap struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer

	meter  *meter
	conn   *grpc.ClientConn
	server *grpc.Server
}

// newTap listens on one unix socket and speaks to another.
func newTap(from, to string, m *meter) (*tap, error) {
	l, err := net.Listen("unix", from)
	if err != nil {
		return nil, err
	}
	t := &tap{meter: m, server: grpc.NewServer(grpc.MaxRecvMsgSize(math.MaxInt32))}
	t.conn, err = grpc.NewClient("unix:"+to, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32)))
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(t.server, t)
	go func() { _ = t.server.Serve(l) }() // it ends by Stop
	return t, nil
}

func (t *tap) close() {
	t.server.Stop()
	_ = t.conn.Close() // nobody uses it
}

// DeltaAggregatedResources hands on one stream.
func (t *tap) DeltaAggregatedResources(envoy discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	ctx, cancel := context.WithCancel(envoy.Context())
	defer cancel()
	weir, err := discoveryv3.NewAggregatedDiscoveryServiceClient(t.conn).DeltaAggregatedResources(ctx)
	if err != nil {
		return err
	}
	go func() { // it ends with the stream to Envoy, which ends when this function does
		for {
			r, err := envoy.Recv()
			if err != nil {
				cancel()
				return
			}
			t.meter.request(0, r)
			if weir.Send(r) != nil { // Recv tells why
				return
			}
		}
	}()
	for {
		r, err := weir.Recv()
		if err != nil {
			return err
		}
		t.meter.response(0, r, 0)
		if err := envoy.Send(r); err != nil {
			return err
		}
	}
}
