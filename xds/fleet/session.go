package fleet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
)

const (
	// maxResponse bounds a response, in bytes before compression: all objects of a large cluster.
	maxResponse = 512 << 20
	// dialTimeout bounds a connection attempt.
	dialTimeout = 5 * time.Second
	// firstResponse is how long a control plane that has taken a connection may need for the first response.
	firstResponse = 30 * time.Second
	// maxAnswers bounds the answers that wait to be sent. When they are more, the oldest says the least.
	maxAnswers = 16
)

// session is one stream to a control plane.
type session struct {
	mu      sync.Mutex
	answers []answer
	news    chan struct{} // there are answers
}

type answer struct {
	nonce, reason string    // without a reason it is an ACK
	refused       []Refused // what is served with the set is all but these
}

// answer sends an ACK, or a NACK with its reason, and with the objects that alone are refused. It does nothing without a session, as for a set of the cache file.
func (s *session) answer(nonce, reason string, refused []Refused) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.answers) == maxAnswers {
		s.answers = s.answers[1:]
	}
	s.answers = append(s.answers, answer{nonce, reason, refused})
	wake(s.news)
}

func (s *session) take() []answer {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.answers
	s.answers = nil
	return out
}

// converse connects to an address and takes what comes, until that ends. worked says whether anything has come.
func (c *Client) converse(ctx context.Context, address string) (worked bool, err error) {
	conn, err := c.conn(address, c.opts.ServerName)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if err != nil {
		return false, words(err)
	}
	c.mu.Lock()
	has := c.latest.versions()
	c.mu.Unlock()
	err = stream.Send(&discoveryv3.DeltaDiscoveryRequest{
		Node: c.opts.Node.message(), TypeUrl: TypeURL, ResourceNamesSubscribe: []string{"*"}, InitialResourceVersions: has,
	})
	if err != nil && !errors.Is(err, io.EOF) { // EOF: Recv tells why
		return false, words(err)
	}

	s := &session{news: make(chan struct{}, 1)}
	responses, ended := make(chan *discoveryv3.DeltaDiscoveryResponse), make(chan error, 1)
	go func() {
		for {
			r, err := stream.Recv()
			if err != nil {
				ended <- err
				return
			}
			select {
			case responses <- r:
			case <-ctx.Done():
				return
			}
		}
	}()
	late := c.opts.Clock.NewTimer(firstResponse)
	defer late.Stop()
	for {
		select {
		case r := <-responses:
			if r.GetTypeUrl() != TypeURL {
				return worked, fmt.Errorf("it sent resources of the type %q: it is no control plane of Weir", r.GetTypeUrl())
			}
			c.received(r, s)
			if !worked {
				c.opts.Log.Info("connected to the control plane", "address", address, "changed", len(r.GetResources()), "removed", len(r.GetRemovedResources()))
			}
			worked = true
			late.Stop()
		case <-s.news:
			for _, a := range s.take() {
				request := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: TypeURL, ResponseNonce: a.nonce}
				if a.reason != "" {
					request.ErrorDetail = &rpcstatus.Status{Code: int32(codes.InvalidArgument), Message: clean(a.reason), Details: encodeRefused(a.refused)}
				}
				if err := stream.Send(request); err != nil && !errors.Is(err, io.EOF) {
					return worked, words(err)
				}
			}
		case err := <-ended:
			return worked, words(err)
		case <-late.C():
			return worked, fmt.Errorf("it has not answered within %s", firstResponse)
		case <-ctx.Done():
			return worked, ctx.Err()
		}
	}
}

// conn is a connection to a control plane, whose certificate must have a name: "" is the host of the address.
func (c *Client) conn(address, name string) (*grpc.ClientConn, error) {
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(newClientCredentials(c.certificates, name)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingAfter, Timeout: pingTimeout}),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: dialTimeout}),
		grpc.WithUserAgent("weir"),
		// The control plane is near; a proxy of the environment is for what is far away.
		grpc.WithNoProxy(),
		// The configuration of a service in DNS is somebody else's.
		grpc.WithDisableServiceConfig(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxResponse), grpc.MaxCallSendMsgSize(maxRequest), grpc.UseCompressor(gzip.Name)),
	}
	target := address
	if c.opts.Dial != nil {
		options = append(options, grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) { return c.opts.Dial(ctx, address) }))
		target = "passthrough:///" + address
	}
	return grpc.NewClient(target, options...)
}

// words are those of an error of gRPC, without its prefix.
func words(err error) error {
	if errors.Is(err, io.EOF) {
		return errors.New("it has ended the connection")
	}
	return errors.New(status.Convert(err).Message())
}
