package fleet

import (
	"context"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/protobuf/proto"
	"k8s.io/utils/clock"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/xds/load/signal"
	"github.com/weir-dev/weir/xds/source"
)

// large is 10,000 Routes and 1,000 Backends with a credential each.
func large(b testing.TB) *source.Objects {
	var objects []source.Object
	values := map[string]string{}
	for i := range 1000 {
		objects = append(objects, backend("a", fmt.Sprint("backend-", i), 1))
		values[fmt.Sprintf("a backend-%d", i)] = fmt.Sprintf("sk-%048d", i)
	}
	for i := range 10000 {
		r := route("a", fmt.Sprint("route-", i), 1, v1alpha1.RouteBackend{Name: v1alpha1.ObjectName(fmt.Sprint("backend-", i%1000)), Weight: new(int32(9))}, v1alpha1.RouteBackend{Name: v1alpha1.ObjectName(fmt.Sprint("backend-", (i+1)%1000)), Weight: new(int32(1))})
		r.Labels = map[string]string{"team": fmt.Sprint("team-", i%100)}
		objects = append(objects, r)
	}
	return world(b, objects, values)
}

// after is the set with one Route in another generation.
func after(objs *source.Objects, generation int64) *source.Objects {
	next := *objs
	next.Routes = append([]*v1alpha1.Route(nil), objs.Routes...)
	changed := next.Routes[5000].DeepCopy()
	changed.Generation = generation
	changed.Labels = map[string]string{"generation": fmt.Sprint(generation)}
	next.Routes[5000] = changed
	return &next
}

// BenchmarkSet is what one change of 11,000 objects costs the server before it has anything to send.
func BenchmarkSet(b *testing.B) {
	ca := newAuthority(b)
	server, err := NewServer(ServerOptions{TLS: ca.issue(b, b.TempDir(), controlName, time.Hour)})
	if err != nil {
		b.Fatal(err)
	}
	objs := large(b)
	server.views[""] = newView(Scope{})
	server.Set(objs, nil)
	generation := int64(1)
	for b.Loop() {
		generation++
		objs = after(objs, generation)
		server.Set(objs, nil)
	}
}

// BenchmarkApply is what one change of 11,000 objects costs a client, until it is handed on.
func BenchmarkApply(b *testing.B) {
	objs := large(b)
	s := (*set)(nil).with(response(b, objs, nil))
	var changes [2]*discoveryv3.DeltaDiscoveryResponse
	for i := range changes {
		ref := source.RefOf(objs.Routes[5000])
		res, err := encodeObject(ref, after(objs, int64(i+2)).Routes[5000])
		if err != nil {
			b.Fatal(err)
		}
		changes[i] = &discoveryv3.DeltaDiscoveryResponse{Resources: []*discoveryv3.Resource{res.message()}}
	}
	for n := 0; b.Loop(); n++ {
		s = s.with(changes[n%2])
	}
}

// BenchmarkFleet has 200 clients on real connections (TCP, mTLS) that acknowledge at once. It reports what one change of one Route costs: time until
// every client has acknowledged it, CPU of both sides together, bytes for each client; and before that, memory of the server for each client and what a first set is.
func BenchmarkFleet(b *testing.B) {
	const clients = 200
	ca := newAuthority(b)
	server, err := NewServer(ServerOptions{TLS: ca.issue(b, b.TempDir(), "localhost", time.Hour)})
	if err != nil {
		b.Fatal(err)
	}
	objs := large(b)
	server.Set(objs, nil)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	running.Go(func() {
		if err := server.Serve(ctx, listener); err != nil {
			b.Error(err)
		}
	})
	certs, err := newCertificates(ca.issue(b, b.TempDir(), "gateway", time.Hour), nil)
	if err != nil {
		b.Fatal(err)
	}
	whole := response(b, objs, nil)
	has := map[string]string{}
	for _, r := range whole.Resources {
		has[r.Name] = r.Version
	}

	before := heapInUse()
	acked := make(chan struct{}, clients)
	var resources atomic.Int64
	for i := range clients {
		conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(newClientCredentials(certs, "localhost")))
		if err != nil {
			b.Fatal(err)
		}
		defer conn.Close()
		stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx, grpc.UseCompressor(gzip.Name))
		if err != nil {
			b.Fatal(err)
		}
		node := Node{ID: fmt.Sprint("replica-", i)}
		if err := stream.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: TypeURL, Node: node.message(), InitialResourceVersions: has}); err != nil {
			b.Fatal(err)
		}
		running.Go(func() {
			for {
				r, err := stream.Recv()
				if err != nil {
					return
				}
				resources.Add(int64(len(r.GetResources())))
				if err := stream.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: TypeURL, ResponseNonce: r.GetNonce()}); err != nil && err != io.EOF {
					return
				}
				acked <- struct{}{}
			}
		})
		<-acked
	}
	memory := float64(heapInUse()-before) / clients
	sent := func() (n int64) {
		for _, c := range server.Clients() {
			n += c.Bytes
		}
		return n
	}
	already, cpu, generation := sent(), processTime(b), int64(1)
	resources.Store(0)
	for b.Loop() {
		generation++
		objs = after(objs, generation)
		server.Set(objs, nil)
		for range clients {
			<-acked
		}
	}
	b.ReportMetric(float64(proto.Size(whole)), "B/first-set")
	b.ReportMetric(memory, "B/client")
	rounds := float64(generation - 1)
	b.ReportMetric(float64(processTime(b)-cpu)/rounds/1e6, "cpu-ms/op")
	b.ReportMetric(float64(sent()-already)/rounds/clients, "B/change")
	if got := resources.Load(); got != int64(rounds)*clients {
		b.Errorf("%d resources in %v rounds", got, rounds)
	}
}

func heapInUse() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// BenchmarkSignals is a batch of the readings of 200 sources, as 1,000 endpoints that are read twice a second make them in 100 ms: posted and encoded once for
// all gateways, and read by one.
func BenchmarkSignals(b *testing.B) {
	now := time.Now()
	shared := make([]signal.Shared, 200)
	for i := range shared {
		shared[i] = signal.Shared{
			Backend: "a/x", Endpoint: fmt.Sprintf("10.0.0.%d:8000", i), Of: 7, At: now, Reading: 1 << 60,
			Sample: signal.Sample{Waiting: 1, Running: 7, KVCache: 0.375, KVTokens: 1e6, Has: 0b10000111},
		}
	}
	s := newSignals(clock.RealClock{}, prometheus.NewCounter(prometheus.CounterOpts{Name: "x"}))
	var c signalClient
	c.want([]string{"a/x"})
	batch := func() []byte {
		for i := range shared {
			s.Post(shared[i], false)
		}
		s.flush()
		m, _ := s.next(&c)
		return m.encoded()
	}
	first := batch()
	later := batch()
	b.Run("send", func(b *testing.B) {
		for b.Loop() {
			batch()
		}
		b.ReportMetric(float64(len(later)), "bytes")
	})
	b.Run("read", func(b *testing.B) {
		k := signalSources{epoch: now, now: time.Now}
		for _, m := range [][]byte{first, later} {
			f, err := decodeFrame(m)
			if err != nil {
				b.Fatal(err)
			}
			k.take(f)
		}
		for b.Loop() {
			f, err := decodeFrame(later)
			if err != nil || len(k.take(f)) != len(shared) {
				b.Fatal(err)
			}
		}
	})
}
