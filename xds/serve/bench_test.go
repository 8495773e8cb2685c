package serve

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"testing"
	"time"

	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/weir-dev/weir/extproc/table"
	"github.com/weir-dev/weir/xds/compile"
)

// BenchmarkSteer measures an overlay from Steer to Steered, the client's part of it included: a client that takes all it is
// sent, in this process.
func BenchmarkSteer(b *testing.B) {
	for _, c := range []struct {
		name                string
		clusters, endpoints int
		change              int // how many clusters each overlay says something new of
		routes              int // how many there are, of which one gets other weights
	}{
		{"1 cluster of 1000, all weights", 1, 1000, 1, 0},
		{"1000 clusters of 10, one changed", 1000, 10, 1, 0},
		{"1000 clusters of 10, all weights", 1000, 10, 1000, 0},
		{"1000 clusters of 1, all weights", 1000, 1, 1000, 0},
		{"1000 routes, one changed", 1, 1, 0, 1000},
	} {
		b.Run(c.name, func(b *testing.B) { benchmarkSteer(b, c.clusters, c.endpoints, c.change, c.routes) })
	}
}

func benchmarkSteer(b *testing.B, clusters, size, change, routes int) {
	addresses := make([]string, size)
	for i := range addresses {
		addresses[i] = fmt.Sprintf("10.0.%d.%d:80", i/256, i%256)
	}
	names, keys := make([]string, clusters), make([]string, routes)
	for i := range names {
		names[i] = fmt.Sprintf("cluster-%d", i)
	}
	for i := range keys {
		keys[i] = fmt.Sprintf("route-%d", i)
	}
	v := version("v", content{clusters: names, pool: addresses, routes: keys, shares: []uint32{1, 1}, door: "d"})
	steered, live := make(chan uint64, 1), make(chan struct{})
	p := NewPublisher(Options{
		NodeID: "weir", Log: slog.New(slog.DiscardHandler), Activate: func(*compile.Version) { close(live) },
		Steered: func(serial uint64, _ time.Time, nack string) {
			if nack != "" {
				b.Error(nack)
			}
			steered <- serial
		},
	})
	connectTaker(b, p, names)
	p.Publish(v)
	<-live

	said := map[string]*endpointv3.ClusterLoadAssignment{}
	say := func(weight int) map[string]*endpointv3.ClusterLoadAssignment {
		out := make(map[string]*endpointv3.ClusterLoadAssignment, clusters)
		for i, name := range names {
			if i < change || said[name] == nil {
				said[name] = says()
				for _, a := range addresses {
					said[name].Endpoints[0].LbEndpoints = append(said[name].Endpoints[0].LbEndpoints, saidOf(a, weight))
				}
			}
			out[name] = said[name]
		}
		return out
	}
	b.ReportAllocs()
	for i := range b.N {
		b.StopTimer()
		o := &Overlay{Serial: uint64(i), Endpoints: say(1000 + i%500)}
		if routes > 0 {
			o.Weights = map[string][]uint32{keys[i%routes]: {uint32(i%500 + 2), 100}}
		}
		b.StartTimer()
		p.Steer(o)
		for <-steered != o.Serial {
		}
	}
}

func saidOf(address string, weight int) *endpointv3.LbEndpoint { return said(address, weight, healthy) }

// connectTaker connects a client that asks for these clusters' endpoints and takes everything, without looking at it.
func connectTaker(b *testing.B, p *Publisher, clusters []string, opts ...grpc.ServerOption) {
	b.Helper()
	lis := bufconn.Listen(16 << 20)
	server := grpc.NewServer(append(opts, grpc.MaxSendMsgSize(1<<30))...)
	p.Register(server)
	go func() { _ = server.Serve(lis) }() // Stop ends it
	conn, err := grpc.NewClient("passthrough:///weir", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1<<30)),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }))
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	go p.Run(ctx)
	b.Cleanup(func() {
		conn.Close()
		server.Stop()
		cancel()
	})
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if err != nil {
		b.Fatal(err)
	}
	send := func(r *discoveryv3.DeltaDiscoveryRequest) {
		_ = stream.Send(r) // a lost stream ends the benchmark in other ways
	}
	for _, r := range []*discoveryv3.DeltaDiscoveryRequest{
		{TypeUrl: resourcev3.ClusterType}, {TypeUrl: resourcev3.ListenerType},
		{TypeUrl: resourcev3.EndpointType, ResourceNamesSubscribe: clusters},
	} {
		send(r)
	}
	go func() {
		scoped := false
		for {
			r, err := stream.Recv()
			if err != nil {
				return
			}
			if r.GetTypeUrl() == resourcev3.ListenerType && !scoped { // now it needs them
				scoped = true
				send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: resourcev3.ScopedRouteType})
			}
			send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: r.GetTypeUrl(), ResponseNonce: r.GetNonce()})
		}
	}()
}

// BenchmarkPublish is from a version in which one of many rules has changed until it is served: with a client in the same process
// that takes everything.
func BenchmarkPublish(b *testing.B) {
	for _, n := range []int{100, 1_000, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var clusters, routes []string
			for i := range n {
				routes = append(routes, fmt.Sprintf("default/r%d#1", i), fmt.Sprintf("default/r%d#2", i))
				clusters = append(clusters, fmt.Sprintf("backend/default/b%d", i))
			}
			v := version("0", content{clusters: clusters, pool: []string{one1}, routes: routes, shares: []uint32{1, 1}, door: "d"})
			live, sent := make(chan string, 1), &traffic{types: map[string]amount{}}
			p := NewPublisher(Options{NodeID: "weir", Log: slog.New(slog.DiscardHandler), Activate: func(v *compile.Version) { live <- v.ID }})
			connectTaker(b, p, clusters, grpc.StreamInterceptor(sent.intercept))
			p.Publish(v)
			<-live
			sent.take()
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				b.StopTimer()
				w := *v
				w.ID = fmt.Sprint(i + 1)
				w.Table = &table.Table{Version: w.ID}
				key := routes[i%len(routes)]
				changed := v.Routes.Edit()
				changed.Set(key, route(key, []uint32{uint32(i) + 2, 1}))
				w.Routes = changed.Map()
				v = &w
				b.StartTimer()
				p.Publish(v)
				for <-live != v.ID {
				}
			}
			b.StopTimer()
			bytes := 0
			for _, a := range sent.take() {
				bytes += a.bytes
			}
			b.ReportMetric(float64(bytes)/float64(b.N), "sentB/op")
		})
	}
}
