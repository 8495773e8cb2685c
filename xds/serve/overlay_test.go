package serve

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weir-dev/weir/xds/compile"
)

// ownWeight is the weight of every endpoint in a version of these tests.
const ownWeight = 100

// endpoints are those of a cluster in a version: addresses like "10.0.0.1:80", with metadata as it comes from compile.
func endpoints(cluster string, addresses ...string) *endpointv3.ClusterLoadAssignment {
	out := &endpointv3.ClusterLoadAssignment{ClusterName: cluster}
	if len(addresses) == 0 {
		return out
	}
	group := &endpointv3.LocalityLbEndpoints{}
	for _, a := range addresses {
		e := said(a, ownWeight, corev3.HealthStatus_UNKNOWN)
		e.Metadata = &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{"weir.backend": {Fields: map[string]*structpb.Value{"of": structpb.NewStringValue(cluster)}}}}
		group.LbEndpoints = append(group.LbEndpoints, e)
	}
	out.Endpoints = append(out.Endpoints, group)
	return out
}

// said is an endpoint with a weight and a health; without a weight where it is negative.
func said(address string, weight int, health corev3.HealthStatus) *endpointv3.LbEndpoint {
	host, port, _ := strings.Cut(address, ":")
	n, err := strconv.ParseUint(port, 10, 32)
	if err != nil {
		panic(err) // of an address in a test
	}
	e := &endpointv3.LbEndpoint{
		HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{
			Address: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
				Address: host, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(n)},
			}}},
		}},
		HealthStatus: health,
	}
	if weight >= 0 {
		e.LoadBalancingWeight = wrapperspb.UInt32(uint32(weight))
	}
	return e
}

// says are endpoints of an overlay.
func says(list ...*endpointv3.LbEndpoint) *endpointv3.ClusterLoadAssignment {
	return &endpointv3.ClusterLoadAssignment{Endpoints: []*endpointv3.LocalityLbEndpoints{{LbEndpoints: list}}}
}

// route divides requests among the clusters x0, x1 and so on.
func route(key string, shares []uint32) *routev3.Route {
	r := &routev3.Route{Name: key}
	if len(shares) == 0 {
		return r
	}
	w := &routev3.WeightedCluster{}
	for i, share := range shares {
		w.Clusters = append(w.Clusters, &routev3.WeightedCluster_ClusterWeight{Name: fmt.Sprintf("x%d", i), Weight: wrapperspb.UInt32(share)})
	}
	r.Action = &routev3.Route_Route{Route: &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_WeightedClusters{WeightedClusters: w}}}
	return r
}

// brief is "10.0.0.1:80=100 10.0.0.2:80=50/UNHEALTHY", groups apart by "|".
func brief(a *endpointv3.ClusterLoadAssignment) string {
	var groups []string
	for _, g := range a.GetEndpoints() {
		var list []string
		for _, e := range g.GetLbEndpoints() {
			s := fmt.Sprintf("%s=%d", addressOf(e), e.GetLoadBalancingWeight().GetValue())
			if h := e.GetHealthStatus(); h != corev3.HealthStatus_UNKNOWN {
				s += "/" + h.String()
			}
			list = append(list, s)
		}
		groups = append(groups, strings.Join(list, " "))
	}
	return strings.Join(groups, "|")
}

const (
	one1, two2, three3 = "10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"
	healthy            = corev3.HealthStatus_HEALTHY
	unhealthy          = corev3.HealthStatus_UNHEALTHY
)

func TestMerge(t *testing.T) {
	for _, c := range []struct {
		name string
		own  []string
		say  *endpointv3.ClusterLoadAssignment
		want string
	}{
		{"the same addresses", []string{one1, two2}, says(said(one1, 7, healthy), said(two2, 9, unhealthy)), one1 + "=7/HEALTHY " + two2 + "=9/UNHEALTHY"},
		{"in another order", []string{one1, two2}, says(said(two2, 9, healthy), said(one1, 7, healthy)), two2 + "=9/HEALTHY " + one1 + "=7/HEALTHY"},
		{"an endpoint that the overlay does not know", []string{one1, two2}, says(said(two2, 9, healthy)), one1 + "=100 " + two2 + "=9/HEALTHY"},
		{"an endpoint that the version does not have", []string{one1}, says(said(three3, 9, healthy), said(one1, 7, healthy)), one1 + "=7/HEALTHY"},
		{"one come, one gone", []string{one1, two2}, says(said(three3, 9, healthy), said(two2, 7, healthy)), one1 + "=100 " + two2 + "=7/HEALTHY"},
		{"weight 0", []string{one1, two2}, says(said(one1, 0, healthy), said(two2, 1, healthy)), one1 + "=1/UNHEALTHY " + two2 + "=1/HEALTHY"},
		{"no weight", []string{one1}, says(said(one1, -1, unhealthy)), one1 + "=100/UNHEALTHY"},
		{"nothing said", []string{one1}, &endpointv3.ClusterLoadAssignment{}, one1 + "=100"},
		{"nothing there", nil, says(said(one1, 5, healthy)), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			own := endpoints("c", c.own...)
			before := proto.CloneOf(own)
			said := proto.CloneOf(c.say)
			got := merge(own, c.say)
			if brief(got) != c.want {
				t.Errorf("got %s, want %s", brief(got), c.want)
			}
			if got.GetClusterName() != "c" {
				t.Errorf("it is of cluster %q", got.GetClusterName())
			}
			for _, g := range got.GetEndpoints() {
				for _, e := range g.GetLbEndpoints() {
					if e.GetMetadata().GetFilterMetadata()["weir.backend"] == nil {
						t.Errorf("%s has lost its metadata", addressOf(e))
					}
				}
			}
			if !proto.Equal(own, before) || !proto.Equal(c.say, said) {
				t.Error("a message that others read was changed")
			}
		})
	}
}

func TestMergeTakesTheArrangement(t *testing.T) {
	own := endpoints("c", one1, two2)
	own.Policy = &endpointv3.ClusterLoadAssignment_Policy{OverprovisioningFactor: wrapperspb.UInt32(200)}
	say := &endpointv3.ClusterLoadAssignment{
		Endpoints: []*endpointv3.LocalityLbEndpoints{
			{LbEndpoints: []*endpointv3.LbEndpoint{said(two2, 5, healthy)}, Locality: &corev3.Locality{Zone: "a"}},
			{LbEndpoints: []*endpointv3.LbEndpoint{said(one1, 6, healthy)}, Priority: 1},
		},
		Policy: &endpointv3.ClusterLoadAssignment_Policy{OverprovisioningFactor: wrapperspb.UInt32(140)},
	}
	got := merge(own, say)
	if want := two2 + "=5/HEALTHY|" + one1 + "=6/HEALTHY"; brief(got) != want || got.GetEndpoints()[1].GetPriority() != 1 || got.GetEndpoints()[0].GetLocality().GetZone() != "a" ||
		got.GetPolicy().GetOverprovisioningFactor().GetValue() != 140 {
		t.Errorf("got %v", got)
	}
	// What was arranged for other endpoints does not fit these.
	got = merge(endpoints("c", one1, two2, three3), say)
	if want := one1 + "=6/HEALTHY " + two2 + "=5/HEALTHY " + three3 + "=100"; brief(got) != want || got.GetPolicy() != nil {
		t.Errorf("got %v", got)
	}
}

// TestMergeKnowsEveryField: a field that a newer API adds would be lost.
func TestMergeKnowsEveryField(t *testing.T) {
	for _, c := range []struct {
		m    proto.Message
		want string
	}{
		{&endpointv3.ClusterLoadAssignment{}, "cluster_name endpoints named_endpoints policy"},
		{&endpointv3.LocalityLbEndpoints{}, "lb_endpoints leds_cluster_locality_config load_balancer_endpoints load_balancing_weight locality metadata priority proximity"},
		{&endpointv3.LbEndpoint{}, "endpoint endpoint_name health_status load_balancing_weight metadata"},
	} {
		var got []string
		fields := c.m.ProtoReflect().Descriptor().Fields()
		for i := range fields.Len() {
			got = append(got, string(protoreflect.Name(fields.Get(i).Name())))
		}
		slices.Sort(got)
		if strings.Join(got, " ") != c.want {
			t.Errorf("%T has the fields %q, and merge knows %q", c.m, got, c.want)
		}
	}
}

func TestUnusableWeights(t *testing.T) {
	for _, c := range []struct {
		weights []uint32
		want    string
	}{
		{[]uint32{1, 2}, ""},
		{[]uint32{0, 1}, ""},
		{[]uint32{math.MaxUint32, 0}, ""},
		{nil, "there are 0 weights for 2 backends"},
		{[]uint32{1, 2, 3}, "there are 3 weights for 2 backends"},
		{[]uint32{0, 0}, "all weights are 0"},
		{[]uint32{math.MaxUint32, 1}, "the weights have the sum 4294967296, and Envoy takes 4294967295 at most"},
	} {
		if got := unusable(c.weights, 2); got != c.want {
			t.Errorf("%v: %q, want %q", c.weights, got, c.want)
		}
	}
}

func mustAssemble(t testing.TB, versions ...*compile.Version) *union {
	t.Helper()
	u := nothing()
	for _, v := range versions {
		var err error
		if u, err = u.with(v, max(u.maxBody, v.MaxBody)); err != nil {
			t.Fatal(err)
		}
	}
	return u
}

func mustCompose(t testing.TB, u *union, o *Overlay, before *served, serial uint64) *served {
	t.Helper()
	s, err := compose(u, o, before, label{serial: serial, turn: serial})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestComposeTouchesOnlyWhatChanges: everything else is the very message, with the version that it had.
func TestComposeTouchesOnlyWhatChanges(t *testing.T) {
	u := mustAssemble(t, version("v", content{clusters: []string{"a", "b", "c"}, pool: []string{one1, two2}, routes: []string{"r", "s"}, shares: []uint32{1, 1}, door: "d"}))
	first := mustCompose(t, u, &Overlay{Endpoints: map[string]*endpointv3.ClusterLoadAssignment{
		"a": says(said(one1, 5, healthy)), "b": says(said(one1, 6, healthy)),
	}}, nil, 1)
	second := mustCompose(t, u, &Overlay{Endpoints: map[string]*endpointv3.ClusterLoadAssignment{
		"a": says(said(one1, 5, healthy)), "b": says(said(one1, 7, healthy)),
	}}, first, 2)
	var changed []string
	for typeURL := range second.resources {
		for name, r := range second.resources[typeURL].All() {
			if first.resources[typeURL].Get(name) != r {
				changed = append(changed, name)
			}
		}
	}
	if !slices.Equal(changed, []string{"b"}) {
		t.Errorf("changed %q", changed)
	}
	if l := second.labels[resourcev3.EndpointType].String(); l != "2/2" {
		t.Errorf("endpoints are labelled %q", l)
	}
	for _, typeURL := range []string{resourcev3.ClusterType, resourcev3.ListenerType, resourcev3.ScopedRouteType, resourcev3.SecretType} {
		if second.labels[typeURL] != first.labels[typeURL] {
			t.Errorf("%s is labelled %q", typeURL, second.labels[typeURL])
		}
	}

	third := mustCompose(t, u, &Overlay{Weights: map[string][]uint32{"r": {3, 4}}}, second, 3)
	changed = nil
	for name, version := range third.hashes[resourcev3.ScopedRouteType].All() {
		if u.hashes[resourcev3.ScopedRouteType].Get(name) != version {
			changed = append(changed, name)
		}
	}
	if l := third.labels[resourcev3.ScopedRouteType].String(); l != "3/3" || !slices.Equal(changed, []string{"r"}) {
		t.Errorf("weights of r have changed %q, labelled %q", changed, l)
	}
	if !equal(third.hashes[resourcev3.EndpointType], u.hashes[resourcev3.EndpointType]) {
		t.Error("what no overlay speaks of any more is not the version's own")
	}
	fourth := mustCompose(t, u, nil, third, 4)
	for typeURL, hashes := range u.hashes {
		if !equal(fourth.hashes[typeURL], hashes) {
			t.Errorf("%s: without an overlay it is not the version", typeURL)
		}
	}
	for name, scope := range u.resources[resourcev3.ScopedRouteType].All() {
		if fourth.resources[resourcev3.ScopedRouteType].Get(name) != scope {
			t.Errorf("the scope %s was made again", name)
		}
	}
}

// TestReweighedRoutesAreWhole: a scope with other weights is what compile makes of routes that have them.
func TestReweighedRoutesAreWhole(t *testing.T) {
	v := version("v", content{routes: []string{"r#1", "r#2", "r#3", "s#1"}, shares: []uint32{1, 1}, door: "d"})
	set := func(key, cluster string, weights ...uint32) {
		routes := v.Routes.Edit()
		routes.Set(key, route(cluster, weights))
		v.Routes = routes.Map()
	}
	set(compile.UndecidedKey, "of requests without a decision", 1)
	s := mustCompose(t, mustAssemble(t, v), &Overlay{Weights: map[string][]uint32{"r#2": {30, 70}, "r#3": {1, 1}, "gone": {1}}}, nil, 1)
	set("r#2", "r#2", 30, 70)
	want := compile.Scopes(v.Routes, v.MaxBody)
	got := s.resources[resourcev3.ScopedRouteType]
	if !slices.Equal(slices.Sorted(got.Names()), []string{"r", "s", compile.UndecidedKey}) {
		t.Errorf("there are the scopes %q", slices.Sorted(got.Names()))
	}
	for name := range want {
		if !proto.Equal(got.Get(name), want[name]) {
			t.Errorf("%s: got %v\nwant %v", name, got.Get(name), want[name])
		}
	}
}

// TestComposeStepByStep: what random overlays lead to one after the other is what each makes of the versions by itself.
func TestComposeStepByStep(t *testing.T) {
	for seed := range uint64(30) {
		rng := rand.New(rand.NewPCG(seed, 7))
		clusters := []string{"a", "b", "c", "d"}
		v := version("v", content{clusters: clusters, pool: []string{one1, two2, three3}, routes: []string{"r", "s"}, shares: []uint32{1, 1}, door: "d"})
		u := mustAssemble(t, v, one("w"))
		var before *served
		messages := map[string]*endpointv3.ClusterLoadAssignment{}
		for serial := range uint64(25) {
			o := &Overlay{Endpoints: map[string]*endpointv3.ClusterLoadAssignment{}, Weights: map[string][]uint32{}}
			for _, c := range append(clusters, "unknown") {
				switch rng.IntN(3) {
				case 0:
					messages[c] = randomSays(rng)
				case 1:
					delete(messages, c)
				}
			}
			maps.Copy(o.Endpoints, messages)
			for _, r := range []string{"r", "s", "unknown"} {
				if rng.IntN(2) == 0 {
					o.Weights[r] = []uint32{rng.Uint32N(3), rng.Uint32N(3)}
				}
			}
			after := mustCompose(t, u, o, before, serial)
			alone := mustCompose(t, u, o, nil, serial)
			for typeURL := range u.hashes {
				if !equal(after.hashes[typeURL], alone.hashes[typeURL]) {
					t.Fatalf("seed %d, step %d: %s differ", seed, serial, typeURL)
				}
			}
			for name, r := range after.resources[resourcev3.EndpointType].All() {
				if got, err := hash(r); err != nil || got != after.hashes[resourcev3.EndpointType].Get(name) {
					t.Fatalf("seed %d, step %d: the hash of %s is not its own", seed, serial, name)
				}
			}
			before = after
		}
	}
}

// randomSays is something about some of three endpoints.
func randomSays(rng *rand.Rand) *endpointv3.ClusterLoadAssignment {
	out := says()
	for _, a := range []string{one1, two2, three3, "10.0.0.4:80"} {
		if rng.IntN(4) > 0 {
			out.Endpoints[0].LbEndpoints = append(out.Endpoints[0].LbEndpoints, said(a, rng.IntN(4), []corev3.HealthStatus{healthy, unhealthy}[rng.IntN(2)]))
		}
	}
	return out
}

func TestLabel(t *testing.T) {
	for _, l := range []label{{}, {serial: 7}, {serial: 7, turn: 3}, {serial: math.MaxUint64, turn: math.MaxUint64}} {
		if got := parseLabel(l.String()); got != l {
			t.Errorf("%+v is read as %+v", l, got)
		}
	}
	if got := parseLabel("of another server"); got != (label{}) {
		t.Errorf("got %+v", got)
	}
}
