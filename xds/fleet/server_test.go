package fleet

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/weir-dev/weir/xds/source"
)

type rawStream = discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesClient

// raw opens a stream as any client of delta xDS does.
func (r *rig) raw(ctx context.Context, address string, options ...grpc.CallOption) (rawStream, func()) {
	r.t.Helper()
	certs, err := newCertificates(r.ca.issue(r.t, r.t.TempDir(), "raw.svc", 1000*time.Hour), r.log)
	if err != nil {
		r.t.Fatal(err)
	}
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(newClientCredentials(certs, controlName)),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) { return r.dial(ctx, address) }))
	if err != nil {
		r.t.Fatal(err)
	}
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx, options...)
	if err != nil {
		r.t.Fatal(err)
	}
	return stream, func() { conn.Close() }
}

func send(t *testing.T, stream rawStream, request *discoveryv3.DeltaDiscoveryRequest) {
	t.Helper()
	if err := stream.Send(request); err != nil {
		t.Fatal(err)
	}
}

func receive(t *testing.T, stream rawStream) *discoveryv3.DeltaDiscoveryResponse {
	t.Helper()
	response, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	return response
}

func hello(has map[string]string) *discoveryv3.DeltaDiscoveryRequest {
	return &discoveryv3.DeltaDiscoveryRequest{TypeUrl: TypeURL, Node: &corev3.Node{Id: "raw"}, InitialResourceVersions: has}
}

func TestFirstMessages(t *testing.T) {
	bad := Node{ID: "raw", Scope: Scope{Gateways: gateways("a/")}}.message()
	many := Node{ID: "raw"}
	for i := range maxScope + 1 {
		many.Scope.Namespaces = append(many.Scope.Namespaces, fmt.Sprint(i))
	}
	for name, tc := range map[string]struct {
		request *discoveryv3.DeltaDiscoveryRequest
		text    string
	}{
		"another type":    {&discoveryv3.DeltaDiscoveryRequest{TypeUrl: "type.googleapis.com/envoy.config.cluster.v3.Cluster", Node: &corev3.Node{Id: "raw"}}, "only " + TypeURL},
		"no node":         {&discoveryv3.DeltaDiscoveryRequest{TypeUrl: TypeURL}, "must have a node.id"},
		"a long name":     {&discoveryv3.DeltaDiscoveryRequest{TypeUrl: TypeURL, Node: &corev3.Node{Id: strings.Repeat("x", maxNodeID+1)}}, "must have a node.id"},
		"a bad gateway":   {&discoveryv3.DeltaDiscoveryRequest{TypeUrl: TypeURL, Node: bad}, "NAMESPACE/NAME"},
		"many namespaces": {&discoveryv3.DeltaDiscoveryRequest{TypeUrl: TypeURL, Node: many.message()}, "more than"},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				server := r.control("control:1", nil)
				defer server.stop()
				server.Set(world(t, nil, nil), nil)
				stream, hangUp := r.raw(t.Context(), "control:1")
				defer hangUp()
				send(t, stream, tc.request)
				if _, err := stream.Recv(); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), tc.text) {
					t.Errorf("got %v", err)
				}
				if len(server.Clients()) != 0 {
					t.Error("it is a client")
				}
			})
		})
	}
}

// A client of plain delta xDS that neither compresses nor knows gzip is served too, and answers to nothing that was sent do no harm.
func TestPlainClient(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		server := r.control("control:1", nil)
		defer server.stop()
		server.Set(world(t, []source.Object{backend("a", "x", 1), backend("a", "y", 1)}, nil), nil)
		stream, hangUp := r.raw(t.Context(), "control:1")
		defer hangUp()
		send(t, stream, hello(map[string]string{"Backend/a/gone": "1", "Backend/a/x": "old"}))
		first := receive(t, stream)
		if first.GetNonce() != "1" || !slices.Equal(first.GetRemovedResources(), []string{"Backend/a/gone"}) || len(first.GetResources()) != 2 || first.GetSystemVersionInfo() == "" {
			t.Errorf("got %v", first)
		}
		for _, nonce := range []string{"", "x", "0", "7", "-1", "18446744073709551616"} {
			send(t, stream, &discoveryv3.DeltaDiscoveryRequest{TypeUrl: TypeURL, ResponseNonce: nonce})
		}
		settle()
		if state := server.Clients()[0]; state.Serving != (Set{}) {
			t.Errorf("the client is %+v", state)
		}
		send(t, stream, &discoveryv3.DeltaDiscoveryRequest{TypeUrl: TypeURL, ResponseNonce: "1"})
		settle()
		if state := server.Clients()[0]; state.Serving.Number != 1 {
			t.Errorf("the client is %+v", state)
		}
		if err := stream.CloseSend(); err != nil {
			t.Fatal(err)
		}
		settle()
		if len(server.Clients()) != 0 {
			t.Error("the client is still there")
		}
	})
}

// A client that does not read costs the server two responses, however much changes, and is told the sum when it reads again.
func TestClientThatDoesNotRead(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		server := r.control("control:1", nil)
		defer server.stop()
		large := func(name string, generation int64) source.Object {
			b := backend("a", name, generation)
			junk := make([]byte, 40<<10) // does not compress
			rnd := rand.New(rand.NewPCG(uint64(generation), 1))
			for i := range junk {
				junk[i] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"[rnd.IntN(64)]
			}
			b.Annotations = map[string]string{"junk": string(junk)}
			return b
		}
		objects := []source.Object{large("a", 1), large("b", 2), large("c", 3), large("d", 4), large("e", 5), large("f", 6)}
		server.Set(world(t, objects, nil), nil)
		stream, hangUp := r.raw(t.Context(), "control:1")
		defer hangUp()
		send(t, stream, hello(nil))
		settle()
		for i := range 50 {
			objects[0] = large("a", int64(10+i))
			if i == 20 {
				objects = objects[:5]
			}
			server.Set(world(t, objects, nil), nil)
			time.Sleep(patience + time.Second)
		}
		// One response is with gRPC, and another waits for it.
		if state := server.Clients()[0]; state.Sent.Number > 2 {
			t.Errorf("the client is %+v", state)
		}
		first, second := receive(t, stream), receive(t, stream)
		settle()
		third := receive(t, stream)
		if len(first.GetResources()) != 6 || len(second.GetResources()) != 1 || len(third.GetResources()) != 1 || third.GetNonce() != "51" || !slices.Equal(third.GetRemovedResources(), []string{"Backend/a/f"}) {
			t.Errorf("%d resources, %d, then %d, without %v", len(first.GetResources()), len(second.GetResources()), len(third.GetResources()), third.GetRemovedResources())
		}
	})
}

// Names of deleted resources are remembered as long as somebody has not heard of them, but not without an end.
func TestDeletions(t *testing.T) {
	v := newView(Scope{})
	number := uint64(0)
	set := func(names ...string) {
		var resources []*resource
		for _, n := range names {
			resources = append(resources, &resource{name: n, version: "1"})
		}
		number++
		v.update(resources, number, "d")
	}
	set("a", "b")
	behind := &serverClient{base: 1}
	v.clients[behind] = true
	set("a")
	set("a", "c")
	set("a")
	f := v.since(1, false)
	slices.Sort(f.removed)
	if !slices.Equal(f.removed, []string{"b", "c"}) || len(f.resources) != 0 {
		t.Errorf("%v is removed", f.removed)
	}
	set("a", "b") // is back
	if f := v.since(1, false); !slices.Equal(f.removed, []string{"c"}) || len(f.resources) != 1 {
		t.Errorf("%v is removed, %d resources", f.removed, len(f.resources))
	}
	behind.base = number
	set("a")
	if v.deleted.Len() != 1 {
		t.Errorf("%d deletions are remembered", v.deleted.Len())
	}
	behind.base = number
	set("a", "d")
	if v.deleted.Len() != 0 || len(v.entries) != 2 || v.forgotten != number-1 {
		t.Errorf("%d deletions are remembered, %d entries", v.deleted.Len(), len(v.entries))
	}
	many := []string{"a"}
	for i := range maxDeletions + 10 {
		many = append(many, fmt.Sprint("many-", i))
	}
	set(many...)
	behind.base = number
	set("a")
	if v.deleted.Len() != maxDeletions || v.forgotten != number || len(v.entries) != maxDeletions+1 {
		t.Errorf("%d deletions are remembered, forgotten until %d of %d", v.deleted.Len(), v.forgotten, number)
	}
}

// A client that missed more deletions than are remembered comes back by itself, and has what is right.
func TestClientTooFarBehind(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		server := r.control("control:1", nil)
		defer server.stop()
		var objects []source.Object
		for i := range maxDeletions + 10 {
			objects = append(objects, gateway("a", fmt.Sprint("g", i)))
		}
		server.Set(world(t, objects, nil), nil)
		client := r.sidecar(nil, func(*source.Objects) string { return "silent" })
		defer client.stop()
		settle()
		last := world(t, objects[:1], nil)
		server.Set(last, nil)
		time.Sleep(time.Minute)
		settle()
		got, _, _ := client.got()
		requireEqual(t, got, last)
		if !strings.Contains(r.logs.String(), "too far behind") {
			t.Errorf("the client was not sent away:\n%s", r.logs)
		}
	})
}
