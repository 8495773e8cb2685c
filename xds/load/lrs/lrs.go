// Package lrs receives Envoy's own view of the endpoints: how many requests it has at each, how many it sent there since, and how
// many failed. It is the server of Envoy's load reporting service, with the granularity of endpoints.
//
// Wire format: envoy/service/load_stats/v3/lrs.proto and envoy/config/endpoint/v3/load_report.proto of Envoy 1.40.
package lrs

import (
	"errors"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	loadstatsv3 "github.com/envoyproxy/go-control-plane/envoy/service/load_stats/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/weir-dev/weir/extproc/wire"
)

const (
	// DefaultInterval is how often Envoy reports.
	DefaultInterval = time.Second
	// idleInterval is how often an Envoy reports that was asked about clusters, and now is asked about none: it cannot be told
	// to stop.
	idleInterval = time.Hour
)

// Report is what one Envoy says about one endpoint. An endpoint that had requests in the last report, and has none and got none
// since, or whose Envoy is gone, is reported once more with zeros; otherwise an idle endpoint is not reported.
type Report struct {
	Stream   uint64 // tells Envoys apart, and an Envoy from itself after it connected anew
	Node     string // ID of the Envoy
	Cluster  string
	Endpoint string // "ip:port" or "[v6]:port"

	InFlight  uint64 // at the time of the report
	Requests  uint64 // begun since the last report
	Successes uint64 // ended since, with a status below 500
	Errors    uint64 // ended since, with a status from 500 on, or without an answer
	Interval  time.Duration
}

// Options of a Server.
type Options struct {
	// Sink gets every report. It is called from one goroutine for each Envoy, and must not block.
	Sink     func(Report)
	Interval time.Duration // between reports; 0 is DefaultInterval
}

// Server is the load reporting service. It is safe for concurrent use.
type Server struct {
	loadstatsv3.UnimplementedLoadReportingServiceServer

	opts    Options
	streams atomic.Uint64

	mu       sync.Mutex
	clusters []string      // sorted
	changed  chan struct{} // closed when clusters are others
}

// New returns a Server that asks for nothing until Set.
func New(o Options) *Server {
	if o.Interval <= 0 {
		o.Interval = DefaultInterval
	}
	return &Server{opts: o, changed: make(chan struct{})}
}

// Register registers the service.
func (s *Server) Register(g *grpc.Server) {
	loadstatsv3.RegisterLoadReportingServiceServer(g, s)
}

// Set says which clusters are to be reported, by every Envoy, also by those that connect later. They need not exist yet.
func (s *Server) Set(clusters []string) {
	sorted := slices.Compact(slices.Sorted(slices.Values(clusters)))
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.Equal(sorted, s.clusters) {
		return
	}
	s.clusters = sorted
	close(s.changed)
	s.changed = make(chan struct{})
}

// wanted is what was Set, and a channel that closes when it is something else.
func (s *Server) wanted() ([]string, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.clusters, s.changed
}

// StreamLoadStats serves one Envoy until it leaves.
func (s *Server) StreamLoadStats(stream loadstatsv3.LoadReportingService_StreamLoadStatsServer) error {
	// The first message says who it is.
	first, err := stream.Recv()
	if err != nil {
		return ended(err)
	}
	e := &peer{sink: s.opts.Sink, stream: s.streams.Add(1), node: first.GetNode().GetId(), busy: map[place]bool{}}
	defer e.leave()
	var sender sync.WaitGroup
	defer sender.Wait()
	received := make(chan struct{})
	defer close(received)
	sender.Go(func() { s.ask(stream, received) })
	for {
		e.take(first.GetClusterStats())
		if first, err = stream.Recv(); err != nil {
			return ended(err)
		}
	}
}

// ask tells an Envoy which clusters to report, again at each change, until it is gone or over closes.
func (s *Server) ask(stream loadstatsv3.LoadReportingService_StreamLoadStatsServer, over <-chan struct{}) {
	asked := false
	for {
		clusters, changed := s.wanted()
		if asked || len(clusters) > 0 {
			interval := s.opts.Interval
			if len(clusters) == 0 {
				interval = idleInterval
			}
			if err := stream.Send(&loadstatsv3.LoadStatsResponse{
				Clusters:                  clusters,
				LoadReportingInterval:     durationpb.New(interval),
				ReportEndpointGranularity: true,
			}); err != nil {
				return // receiving fails as well, and says why
			}
			asked = true
		}
		select {
		case <-changed:
		case <-over:
			return
		case <-stream.Context().Done():
			return
		}
	}
}

// ended is the error for the end of a stream: none if Envoy closed it.
func ended(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// place is an endpoint of a cluster.
type place struct{ cluster, endpoint string }

// peer is what is known of an Envoy that is connected.
type peer struct {
	sink   func(Report)
	stream uint64
	node   string
	busy   map[place]bool // endpoints that had requests in flight in the last report
}

// take hands on one message of reports: all that this Envoy has to say about this interval.
func (e *peer) take(clusters []*endpointv3.ClusterStats) {
	if len(clusters) == 0 && len(e.busy) == 0 {
		return
	}
	reports := map[place]*Report{}
	for _, c := range clusters {
		for _, locality := range c.GetUpstreamLocalityStats() {
			for _, stats := range locality.GetUpstreamEndpointStats() {
				p := place{c.GetClusterName(), wire.Address(stats.GetAddress().GetSocketAddress())}
				if p.endpoint == "" {
					continue
				}
				r := reports[p]
				if r == nil {
					r = &Report{Stream: e.stream, Node: e.node, Cluster: p.cluster, Endpoint: p.endpoint, Interval: c.GetLoadReportInterval().AsDuration()}
					reports[p] = r
				}
				// An endpoint in two localities or priorities is two hosts of Envoy's.
				r.InFlight += stats.GetTotalRequestsInProgress()
				r.Requests += stats.GetTotalIssuedRequests()
				r.Successes += stats.GetTotalSuccessfulRequests()
				r.Errors += stats.GetTotalErrorRequests()
			}
		}
	}
	for p := range e.busy {
		if reports[p] == nil {
			reports[p] = &Report{Stream: e.stream, Node: e.node, Cluster: p.cluster, Endpoint: p.endpoint}
		}
	}
	clear(e.busy)
	for p, r := range reports {
		if r.InFlight > 0 {
			e.busy[p] = true
		}
		e.sink(*r)
	}
}

// leave says that an Envoy that is gone has nothing in flight.
func (e *peer) leave() {
	for p := range e.busy {
		e.sink(Report{Stream: e.stream, Node: e.node, Cluster: p.cluster, Endpoint: p.endpoint})
	}
}
