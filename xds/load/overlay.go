package load

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weir-dev/weir/extproc/wire"
	"github.com/weir-dev/weir/xds/load/weigh"
)

// assignment is the template with these weights. Envoy has no weight 0: what is isolated is unhealthy. Of the template's message parts
// are used as they are.
func assignment(template *endpointv3.ClusterLoadAssignment, results []weigh.Result) *endpointv3.ClusterLoadAssignment {
	byKey := make(map[string]*weigh.Result, len(results))
	for i := range results {
		byKey[results[i].Key] = &results[i]
	}
	out := &endpointv3.ClusterLoadAssignment{
		ClusterName: template.GetClusterName(), NamedEndpoints: template.GetNamedEndpoints(), Policy: template.GetPolicy(),
	}
	for _, group := range template.GetEndpoints() {
		g := &endpointv3.LocalityLbEndpoints{
			Locality: group.GetLocality(), Metadata: group.GetMetadata(), LoadBalancingWeight: group.GetLoadBalancingWeight(),
			Priority: group.GetPriority(), Proximity: group.GetProximity(), LbConfig: group.GetLbConfig(),
			LbEndpoints: make([]*endpointv3.LbEndpoint, 0, len(group.GetLbEndpoints())),
		}
		weights := make([]float64, 0, len(group.GetLbEndpoints()))
		for _, e := range group.GetLbEndpoints() {
			w := float64(max(1, e.GetLoadBalancingWeight().GetValue()))
			health := e.GetHealthStatus()
			if r := byKey[keyOf(e)]; r != nil {
				w, health = float64(max(1, r.Weight)), corev3.HealthStatus_HEALTHY
				if r.Status == weigh.Isolated {
					health = corev3.HealthStatus_UNHEALTHY
				}
			}
			weights = append(weights, w)
			g.LbEndpoints = append(g.LbEndpoints, &endpointv3.LbEndpoint{HostIdentifier: e.GetHostIdentifier(), Metadata: e.GetMetadata(), HealthStatus: health})
		}
		for i, w := range whole(weights) {
			g.LbEndpoints[i].LoadBalancingWeight = wrapperspb.UInt32(w)
		}
		out.Endpoints = append(out.Endpoints, g)
	}
	return out
}

// weightsOf are the weights that an assignment gives endpoints, 0 where it isolates them.
func weightsOf(a *endpointv3.ClusterLoadAssignment) map[string]uint32 {
	out := map[string]uint32{}
	for _, group := range a.GetEndpoints() {
		for _, e := range group.GetLbEndpoints() {
			if e.GetHealthStatus() != corev3.HealthStatus_UNHEALTHY {
				out[keyOf(e)] = e.GetLoadBalancingWeight().GetValue()
			}
		}
	}
	return out
}

// keyOf is the endpoint as records and pools name it.
func keyOf(e *endpointv3.LbEndpoint) string {
	return wire.Address(e.GetEndpoint().GetAddress().GetSocketAddress())
}
