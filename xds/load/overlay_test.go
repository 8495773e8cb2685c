package load

import (
	"maps"
	"math"
	"slices"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/proto"

	"github.com/weir-dev/weir/xds/load/weigh"
)

func TestAssignment(t *testing.T) {
	const a, b, c, six = "10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80", "[fd00::1]:80"
	p := poolOf("default/pool", a, b, c, six)
	template := templateOf(p)
	template.Policy = &endpointv3.ClusterLoadAssignment_Policy{WeightedPriorityHealth: true}
	template.Endpoints[0].Locality = &corev3.Locality{Zone: "z"}
	before := proto.CloneOf(template)
	out := assignment(template, []weigh.Result{
		{Key: c, Weight: 700, Base: 1}, {Key: a, Weight: 0, Status: weigh.Isolated, Base: 1}, {Key: six, Weight: 50, Status: weigh.WarmingUp, Base: 1},
	})
	if !proto.Equal(template, before) {
		t.Error("the template was changed")
	}
	if out.GetClusterName() != p.Cluster || !proto.Equal(out.GetPolicy(), before.GetPolicy()) || out.GetEndpoints()[0].GetLocality().GetZone() != "z" {
		t.Errorf("what is no weight has changed: %v", out)
	}
	type said struct {
		health corev3.HealthStatus
		weight uint32
	}
	got := map[string]said{}
	for _, e := range out.GetEndpoints()[0].GetLbEndpoints() {
		got[keyOf(e)] = said{e.GetHealthStatus(), e.GetLoadBalancingWeight().GetValue()}
	}
	want := map[string]said{
		a: {corev3.HealthStatus_UNHEALTHY, 1}, b: {corev3.HealthStatus_UNKNOWN, 1}, // nobody says anything of b
		c: {corev3.HealthStatus_HEALTHY, 700}, six: {corev3.HealthStatus_HEALTHY, 50},
	}
	if !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got, want := weightsOf(out), map[string]uint32{b: 1, c: 700, six: 50}; !maps.Equal(got, want) {
		t.Errorf("told %v, want %v", got, want)
	}
	if got := weightsOf(nil); len(got) != 0 {
		t.Errorf("told %v of nothing", got)
	}
}

// TestAssignmentFits: Envoy refuses a locality whose weights have a sum of more than 32 bits.
func TestAssignmentFits(t *testing.T) {
	keys := keysOf(50)
	var results []weigh.Result
	for i, k := range keys {
		results = append(results, weigh.Result{Key: k, Base: 1_000_000, Weight: uint32(1_000_000_000 - 10_000_000*i)})
	}
	out := assignment(templateOf(poolOf("default/pool", keys...)), results)
	sum := uint64(0)
	var weights []uint32
	for _, e := range out.GetEndpoints()[0].GetLbEndpoints() {
		weights = append(weights, e.GetLoadBalancingWeight().GetValue())
		sum += uint64(weights[len(weights)-1])
	}
	if sum > math.MaxUint32 || sum < math.MaxUint32/100*99 {
		t.Errorf("the sum is %d, and %d fits", sum, uint32(math.MaxUint32))
	}
	if ratio := float64(weights[0]) / float64(weights[49]); math.Abs(ratio-1000.0/510) > 1e-6 {
		t.Errorf("the first and the last weight have the ratio %v", ratio)
	}
}

func TestWhole(t *testing.T) {
	for _, c := range []struct {
		name string
		in   []float64
		want []uint32
	}{
		{"none", nil, []uint32{}},
		{"as they are", []float64{1000, 250, 0}, []uint32{1000, 250, 0}},
		{"rounded", []float64{1000.5, 0.4, 2.49}, []uint32{1001, 1, 2}},
		{"as large as fits", []float64{math.MaxUint32 - 2, 0}, []uint32{math.MaxUint32 - 2, 0}},
		{"too large, one", []float64{1e12}, []uint32{math.MaxUint32 - 1}},
		{"too large, in proportion", []float64{3e10, 1e10, 1, 0}, []uint32{3221225468, 1073741823, 1, 0}},
	} {
		got := whole(c.in)
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
		sum := uint64(0)
		for _, w := range got {
			sum += uint64(w)
		}
		if sum > math.MaxUint32 {
			t.Errorf("%s: the sum is %d", c.name, sum)
		}
	}
}
