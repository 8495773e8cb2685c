package lrs

import (
	"cmp"
	"context"
	"math"
	"net"
	"reflect"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	loadstatsv3 "github.com/envoyproxy/go-control-plane/envoy/service/load_stats/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/weir-dev/weir/test/bubble"
)

func socket(host string, port uint32) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: host, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
	}}}
}

// stats are those of an endpoint: in flight, begun, succeeded, failed.
func stats(a *corev3.Address, inFlight, begun, succeeded, failed uint64) *endpointv3.UpstreamEndpointStats {
	return &endpointv3.UpstreamEndpointStats{
		Address: a, TotalRequestsInProgress: inFlight, TotalIssuedRequests: begun, TotalSuccessfulRequests: succeeded, TotalErrorRequests: failed,
	}
}

// cluster has one locality for each list.
func cluster(name string, localities ...[]*endpointv3.UpstreamEndpointStats) *endpointv3.ClusterStats {
	c := &endpointv3.ClusterStats{ClusterName: name, LoadReportInterval: durationpb.New(time.Second)}
	for _, l := range localities {
		c.UpstreamLocalityStats = append(c.UpstreamLocalityStats, &endpointv3.UpstreamLocalityStats{UpstreamEndpointStats: l})
	}
	return c
}

func sorted(reports []Report) []Report {
	slices.SortFunc(reports, func(a, b Report) int {
		return cmp.Or(cmp.Compare(a.Cluster, b.Cluster), cmp.Compare(a.Endpoint, b.Endpoint))
	})
	return reports
}

func TestTake(t *testing.T) {
	type list = []*endpointv3.UpstreamEndpointStats
	a, b, six := socket("10.0.0.1", 8000), socket("10.0.0.2", 8000), socket("fd00::1", 8000)
	pipe := &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: "/run/x.sock"}}}
	for _, tt := range []struct {
		name     string
		messages [][]*endpointv3.ClusterStats
		want     []Report // of the last message
	}{
		{"nothing", [][]*endpointv3.ClusterStats{nil}, nil},
		{"a cluster without localities", [][]*endpointv3.ClusterStats{{cluster("x")}}, nil},
		{"all fields", [][]*endpointv3.ClusterStats{{cluster("x", list{stats(a, 1, 2, 3, 4)})}},
			[]Report{{Stream: 7, Node: "n", Cluster: "x", Endpoint: "10.0.0.1:8000", InFlight: 1, Requests: 2, Successes: 3, Errors: 4, Interval: time.Second}}},
		{"IPv6, and an address that is none of IP", [][]*endpointv3.ClusterStats{{cluster("x", list{stats(six, 1, 0, 0, 0), stats(pipe, 1, 0, 0, 0), stats(nil, 1, 0, 0, 0)})}},
			[]Report{{Stream: 7, Node: "n", Cluster: "x", Endpoint: "[fd00::1]:8000", InFlight: 1, Interval: time.Second}}},
		{"an endpoint in two localities", [][]*endpointv3.ClusterStats{{cluster("x", list{stats(a, 1, 2, 3, 4)}, list{stats(a, 10, 20, 30, 40)})}},
			[]Report{{Stream: 7, Node: "n", Cluster: "x", Endpoint: "10.0.0.1:8000", InFlight: 11, Requests: 22, Successes: 33, Errors: 44, Interval: time.Second}}},
		{"the same endpoint in two clusters", [][]*endpointv3.ClusterStats{{cluster("x", list{stats(a, 1, 0, 0, 0)}), cluster("y", list{stats(a, 2, 0, 0, 0)})}},
			[]Report{
				{Stream: 7, Node: "n", Cluster: "x", Endpoint: "10.0.0.1:8000", InFlight: 1, Interval: time.Second},
				{Stream: 7, Node: "n", Cluster: "y", Endpoint: "10.0.0.1:8000", InFlight: 2, Interval: time.Second},
			}},
		{"missing after it was busy", [][]*endpointv3.ClusterStats{{cluster("x", list{stats(a, 5, 5, 0, 0), stats(b, 0, 1, 1, 0)})}, nil},
			[]Report{{Stream: 7, Node: "n", Cluster: "x", Endpoint: "10.0.0.1:8000"}}},
		{"missing after it was idle", [][]*endpointv3.ClusterStats{{cluster("x", list{stats(a, 5, 5, 0, 0)})}, {cluster("x", list{stats(a, 0, 0, 5, 0)})}, nil}, nil},
		{"missing twice", [][]*endpointv3.ClusterStats{{cluster("x", list{stats(a, 5, 5, 0, 0)})}, nil, nil}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got []Report
			p := &peer{sink: func(r Report) { got = append(got, r) }, stream: 7, node: "n", busy: map[place]bool{}}
			for _, m := range tt.messages {
				got = nil
				p.take(m)
			}
			if sorted(got); !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got  %+v\nwant %+v", got, tt.want)
			}
		})
	}
}

// FuzzTake takes two messages of outside bytes and checks what every report must be.
func FuzzTake(f *testing.F) {
	type list = []*endpointv3.UpstreamEndpointStats
	seed := func(clusters ...*endpointv3.ClusterStats) []byte {
		b, err := proto.Marshal(&loadstatsv3.LoadStatsRequest{ClusterStats: clusters})
		if err != nil {
			f.Fatal(err)
		}
		return b
	}
	a, six := socket("10.0.0.1", 8000), socket("fd00::1", 8000)
	f.Add(seed(), seed(cluster("x", list{stats(nil, 1, 1, 1, 1)})))
	f.Add(seed(cluster("x", list{stats(a, 1, 2, 3, 4)}, list{stats(six, 0, 0, 0, 1)})), seed(cluster("y", list{stats(a, math.MaxUint64, 1, 1, 1)})))
	f.Add(seed(cluster("x", list{stats(a, 1, 2, 3, 4)}), cluster("x", list{stats(a, 1, 2, 3, 4)})), seed())
	f.Fuzz(func(t *testing.T, first, second []byte) {
		last := map[place]uint64{} // in flight
		p := &peer{stream: 7, node: "n", busy: map[place]bool{}}
		for _, raw := range [][]byte{first, second} {
			var m loadstatsv3.LoadStatsRequest
			if proto.Unmarshal(raw, &m) != nil {
				return
			}
			seen := map[place]bool{}
			p.sink = func(r Report) {
				k := place{r.Cluster, r.Endpoint}
				if _, _, err := net.SplitHostPort(r.Endpoint); err != nil || r.Stream != 7 || r.Node != "n" || seen[k] {
					t.Errorf("%+v (reported before: %v)", r, seen[k])
				}
				seen[k], last[k] = true, r.InFlight
			}
			p.take(m.GetClusterStats())
			for k, n := range last {
				if n > 0 && !seen[k] {
					t.Errorf("%v has %d in flight, and the next message is silent on it", k, n)
				}
			}
		}
		p.sink = func(r Report) { last[place{r.Cluster, r.Endpoint}] = r.InFlight }
		p.leave()
		for k, n := range last {
			if n != 0 {
				t.Errorf("%v has %d in flight at an Envoy that left", k, n)
			}
		}
	})
}

// rig is a Server behind a connection in memory, for use in a synctest bubble.
type rig struct {
	t      *testing.T
	server *Server
	client loadstatsv3.LoadReportingServiceClient

	mu      sync.Mutex
	reports []Report
}

func newRig(t *testing.T) *rig {
	r := &rig{t: t}
	r.server = New(Options{Sink: func(report Report) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.reports = append(r.reports, report)
	}})
	g := grpc.NewServer()
	r.server.Register(g)
	l := bufconn.Listen(1 << 16)
	go func() { _ = g.Serve(l) }()
	conn, err := grpc.NewClient("passthrough:///rig", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return l.Dial() }))
	must(t, err)
	r.client = loadstatsv3.NewLoadReportingServiceClient(conn)
	t.Cleanup(func() { _ = conn.Close(); g.Stop(); _ = l.Close() })
	return r
}

// connect is an Envoy that connects; what it is told comes from the channel.
func (r *rig) connect(node string) (loadstatsv3.LoadReportingService_StreamLoadStatsClient, <-chan *loadstatsv3.LoadStatsResponse) {
	r.t.Helper()
	stream, err := r.client.StreamLoadStats(r.t.Context())
	must(r.t, err)
	must(r.t, stream.Send(&loadstatsv3.LoadStatsRequest{Node: &corev3.Node{Id: node}}))
	told := make(chan *loadstatsv3.LoadStatsResponse, 100)
	go func() {
		defer close(told)
		for {
			m, err := stream.Recv()
			if err != nil {
				return
			}
			told <- m
		}
	}()
	synctest.Wait()
	return stream, told
}

func (r *rig) taken() []Report {
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	got := r.reports
	r.reports = nil
	return sorted(got)
}

func TestAsk(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := newRig(t)
		_, told := r.connect("a")
		if len(told) != 0 {
			t.Fatalf("told %v before anything was Set", <-told)
		}
		expect := func(interval time.Duration, clusters ...string) {
			t.Helper()
			synctest.Wait()
			if len(told) != 1 {
				t.Fatalf("told %d times", len(told))
			}
			m := <-told
			if !slices.Equal(m.GetClusters(), clusters) || m.GetLoadReportingInterval().AsDuration() != interval || !m.GetReportEndpointGranularity() || m.GetSendAllClusters() {
				t.Errorf("told %v", m)
			}
		}
		r.server.Set([]string{"y", "x", "y"})
		expect(time.Second, "x", "y")
		r.server.Set([]string{"x", "y"})
		if synctest.Wait(); len(told) != 0 {
			t.Errorf("told the same again: %v", <-told)
		}
		r.server.Set([]string{"z"})
		expect(time.Second, "z")
		r.server.Set(nil)
		expect(idleInterval)
		r.server.Set([]string{"x"})
		expect(time.Second, "x")
		// Another Envoy is told what holds now.
		_, told = r.connect("b")
		expect(time.Second, "x")
	})
}

func TestStreams(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.server.Set([]string{"x"})
		one, _ := r.connect("same")
		two, _ := r.connect("same")
		say := func(s loadstatsv3.LoadReportingService_StreamLoadStatsClient, inFlight uint64) {
			must(t, s.Send(&loadstatsv3.LoadStatsRequest{ClusterStats: []*endpointv3.ClusterStats{
				cluster("x", []*endpointv3.UpstreamEndpointStats{stats(socket("10.0.0.1", 1), inFlight, 0, 0, 0)}),
			}}))
		}
		say(one, 3)
		first := r.taken()
		say(two, 4)
		second := r.taken()
		if len(first) != 1 || len(second) != 1 || first[0].InFlight != 3 || second[0].InFlight != 4 ||
			first[0].Node != "same" || second[0].Node != "same" || first[0].Stream == second[0].Stream {
			t.Fatalf("%+v, %+v", first, second)
		}
		must(t, one.CloseSend())
		if got := r.taken(); len(got) != 1 || got[0].InFlight != 0 || got[0].Stream != first[0].Stream || got[0].Endpoint != "10.0.0.1:1" {
			t.Errorf("an Envoy left, and the reports are %+v", got)
		}
		must(t, two.CloseSend())
		if got := r.taken(); len(got) != 1 || got[0].Stream != second[0].Stream {
			t.Errorf("the other left, and the reports are %+v", got)
		}
	})
}

// TestBrokenStream shows that an Envoy that dies leaves nothing in flight either.
func TestBrokenStream(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.server.Set([]string{"x"})
		ctx, cancel := context.WithCancel(t.Context())
		stream, err := r.client.StreamLoadStats(ctx)
		must(t, err)
		// Reports in the first message count as well.
		must(t, stream.Send(&loadstatsv3.LoadStatsRequest{Node: &corev3.Node{Id: "a"}, ClusterStats: []*endpointv3.ClusterStats{
			cluster("x", []*endpointv3.UpstreamEndpointStats{stats(socket("10.0.0.1", 1), 9, 0, 0, 0)}),
		}}))
		if got := r.taken(); len(got) != 1 || got[0].InFlight != 9 {
			t.Fatalf("%+v", got)
		}
		cancel()
		if got := r.taken(); len(got) != 1 || got[0].InFlight != 0 {
			t.Errorf("%+v", got)
		}
	})
}
