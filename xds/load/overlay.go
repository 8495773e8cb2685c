package load

import (
	"math"
	"net"
	"strconv"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weir-dev/weir/xds/compile"
	"github.com/weir-dev/weir/xds/load/weigh"
)

// assignment is the template with these weights. Envoy has no weight 0: what is isolated is unhealthy.
func assignment(template *endpointv3.ClusterLoadAssignment, results map[string]*weigh.Result) *endpointv3.ClusterLoadAssignment {
	out := proto.CloneOf(template)
	for _, group := range out.GetEndpoints() {
		for _, e := range group.GetLbEndpoints() {
			r := results[keyOf(e)]
			if r == nil {
				continue
			}
			e.HealthStatus = corev3.HealthStatus_HEALTHY
			if r.Status == weigh.Isolated {
				e.HealthStatus = corev3.HealthStatus_UNHEALTHY
			}
			e.LoadBalancingWeight = wrapperspb.UInt32(max(1, r.Weight))
		}
	}
	return out
}

// keyOf is the endpoint as records and pools name it.
func keyOf(e *endpointv3.LbEndpoint) string {
	a := e.GetEndpoint().GetAddress().GetSocketAddress()
	return net.JoinHostPort(a.GetAddress(), strconv.FormatUint(uint64(a.GetPortValue()), 10))
}

// shareScale is how much of a weight of 1 in a Route an untouched Backend gets: whole numbers must tell shares of a percent apart.
const shareScale = 1000

// member is one Backend of a steered route at one moment.
type member struct {
	share  float64 // 1 for a Backend that nobody steers
	usable bool
}

// routeWeights are the weights of a route's members. Load goes to the lowest priority number that has a Backend which can take it;
// where none can, to the first as the Route says.
func routeWeights(r *compile.SteeredRoute, of func(string) member) []uint32 {
	out := make([]uint32, len(r.Members))
	for _, level := range []func(m member) bool{
		func(m member) bool { return m.usable && m.share > 0 },
		func(m member) bool { return m.usable }, // blocked ones, which will tell the caller so
		func(member) bool { return true },
	} {
		lowest, found := int32(math.MaxInt32), false
		for _, m := range r.Members {
			if m.Weight > 0 && level(of(m.Backend)) {
				lowest, found = min(lowest, m.Priority), true
			}
		}
		if !found {
			continue
		}
		for i, m := range r.Members {
			if now := of(m.Backend); m.Priority == lowest && m.Weight > 0 && level(now) {
				share := now.share
				if share <= 0 {
					share = 1
				}
				out[i] = uint32(min(max(1, math.Round(float64(m.Weight)*share*shareScale)), math.MaxInt32/float64(len(out))))
			}
		}
		break
	}
	return out
}

// worth says whether weights differ by so many percent of their sum, or in who gets anything at all.
func worth(before, after []uint32, percent int) bool {
	if len(before) != len(after) {
		return true
	}
	var sumBefore, sumAfter float64
	for i := range after {
		sumBefore, sumAfter = sumBefore+float64(before[i]), sumAfter+float64(after[i])
	}
	for i := range after {
		if (before[i] == 0) != (after[i] == 0) {
			return true
		}
		x, y := float64(before[i])/sumBefore, float64(after[i])/sumAfter
		if x != y && math.Abs(x-y)*100 >= float64(percent)*max(x, y) {
			return true
		}
	}
	return false
}
