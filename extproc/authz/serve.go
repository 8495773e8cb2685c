package authz

import (
	"context"
	"crypto/tls"
	"fmt"
	"math"
	"net"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
)

const (
	// maxMessage bounds one check. Headers are far smaller; some Envoys are set up to send bodies too.
	maxMessage = 16 << 20
	// handshakeTimeout bounds the beginning of a connection. Ending waits for it.
	handshakeTimeout = 5 * time.Second
	// stopTimeout is how long checks may run on after the end. They take milliseconds.
	stopTimeout = 5 * time.Second
	// idleConnection is after how long without a word a connection is asked whether it lives.
	idleConnection = time.Minute
)

// Serve answers checks, and the gRPC health service, on l until ctx ends; then it lets checks under way finish and closes l. A nil
// conf is plain text. The error is nil when ctx ended it.
func (s *Server) Serve(ctx context.Context, l net.Listener, conf *tls.Config) error {
	opts := []grpc.ServerOption{
		grpc.MaxRecvMsgSize(maxMessage), grpc.ConnectionTimeout(handshakeTimeout), grpc.MaxConcurrentStreams(math.MaxUint32),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: idleConnection}),
		// Envoys that ask more often whether the server lives must not be hung up on.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
	}
	if conf != nil {
		opts = append(opts, grpc.Creds(credentials.NewTLS(conf)))
	}
	g := grpc.NewServer(opts...)
	s.Register(g)
	alive := health.NewServer()
	alive.SetServingStatus(authv3.Authorization_ServiceDesc.ServiceName, healthv1.HealthCheckResponse_SERVING)
	healthv1.RegisterHealthServer(g, alive)

	ended := make(chan error, 1)
	go func() { ended <- g.Serve(l) }()
	select {
	case err := <-ended:
		g.Stop()
		return fmt.Errorf("external authorization at %s ended: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	alive.Shutdown()
	gentle := make(chan struct{})
	go func() {
		defer close(gentle)
		g.GracefulStop()
	}()
	patience := time.NewTimer(stopTimeout)
	defer patience.Stop()
	select {
	case <-gentle:
	case <-patience.C:
		g.Stop()
		<-gentle
	}
	<-ended
	return nil
}
