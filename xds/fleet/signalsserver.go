package fleet

import (
	"context"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const (
	signalsService = "weir.dev.v1alpha1.Signals"
	signalsMethod  = "Stream"
)

// signalsDesc describes the service that signals travel by: messages of a gateway say what it wants, and those to it are what there is. Both are
// a google.protobuf.BytesValue; signalswire.go says of what.
var signalsDesc = grpc.ServiceDesc{
	ServiceName: signalsService,
	HandlerType: (*signalsHandler)(nil),
	Streams: []grpc.StreamDesc{{
		StreamName: signalsMethod, ServerStreams: true, ClientStreams: true,
		Handler: func(server any, stream grpc.ServerStream) error { return server.(signalsHandler).streamSignals(stream) },
	}},
}

type signalsHandler interface {
	streamSignals(grpc.ServerStream) error
}

// Signals takes what is read of endpoints, for gateways.
func (s *Server) Signals() *Signals { return s.signals }

// streamSignals serves one gateway.
func (s *Server) streamSignals(stream grpc.ServerStream) error {
	ctx := stream.Context()
	var who serverClient
	leaf := who.describe(ctx)
	var expired <-chan time.Time
	if leaf != nil {
		timer := s.opts.Clock.NewTimer(leaf.NotAfter.Sub(s.opts.Clock.Now()))
		defer timer.Stop()
		expired = timer.C()
	}
	s.metrics.subscribers.Inc()
	defer s.metrics.subscribers.Dec()
	wants, gone := make(chan []string), make(chan error, 1)
	go func() { gone <- receiveWanted(ctx, stream, wants) }()

	var c signalClient
	var changed <-chan struct{} // nil until it has said what it wants
	for {
		select {
		case <-changed:
		case wanted := <-wants:
			c.want(wanted)
		case err := <-gone:
			if err == io.EOF {
				return nil
			}
			return err
		case <-expired:
			return status.Error(codes.Unauthenticated, "the client's certificate has expired on this connection")
		case <-ctx.Done():
			return ctx.Err()
		}
		for {
			var m *signalMessage
			if m, changed = s.signals.next(&c); m == nil {
				break
			}
			if err := stream.SendMsg(&wrapperspb.BytesValue{Value: m.encoded()}); err != nil {
				return err
			}
			s.signals.sent.Add(float64(len(m.frame.readings)))
		}
	}
}

// receiveWanted takes what a gateway wants until the stream ends.
func receiveWanted(ctx context.Context, stream grpc.ServerStream, wants chan<- []string) error {
	for {
		var m wrapperspb.BytesValue
		if err := stream.RecvMsg(&m); err != nil {
			return err
		}
		wanted, err := decodeWanted(m.GetValue())
		if err != nil {
			return status.Error(codes.InvalidArgument, "the list of Backends cannot be read")
		}
		select {
		case wants <- wanted:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
