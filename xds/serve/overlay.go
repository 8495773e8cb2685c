package serve

import (
	"fmt"
	"maps"
	"math"
	"net"
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weir-dev/weir/extproc/wire"
	"github.com/weir-dev/weir/xds/compile"
)

// Overlay is what steering says of what is served: weights and health of endpoints, and how routes divide requests. It
// changes these in whatever versions are served, without being one. The zero value changes nothing.
//
// Nothing in it may be changed once it was given to Steer. What is said of a cluster again is cheapest as the same message:
// then it is not even looked at.
type Overlay struct {
	// Serial names the overlay to Options.Steered.
	Serial uint64
	// Endpoints by cluster. Weight and health of each endpoint are taken from here, where it is an endpoint of what is
	// served, and all else from there; a weight of 0, which Envoy does not have, makes it unhealthy. Where both have the
	// same addresses, localities, priorities and the policy are taken from here too. Clusters that are not served
	// are ignored.
	Endpoints map[string]*endpointv3.ClusterLoadAssignment
	// Weights by route key, one for each of the route's weighted clusters in their order. Their sum must not be 0 nor
	// exceed 32 bits: else the route keeps its own, as it does where their number is not the route's.
	// Keys that are not served are ignored.
	Weights map[string][]uint32
}

// served is what Envoy is to have: the union of versions, and what an overlay makes of it.
type served struct {
	state
	union    *union
	labels   map[string]label    // by type
	steered  map[string]steered  // by cluster, of those that the overlay speaks of
	weighted map[string]weighted // by scope, of those where weights are not the routes' own
	spoken   map[string]bool     // scopes that the overlay speaks of
	bad      map[string]string   // by route, why the overlay's weights cannot be used
}

// steered is an endpoint resource, and what it was made from.
type steered struct {
	own  *endpointv3.ClusterLoadAssignment // the union's
	from *endpointv3.ClusterLoadAssignment // the overlay's
	made *endpointv3.ClusterLoadAssignment
	hash string
}

// weighted is the resource of a scope with other weights, and what it was made from.
type weighted struct {
	own     *scope
	maxBody uint32
	weights map[string][]uint32 // by route
	made    *routev3.ScopedRouteConfiguration
	hash    string
}

// compose makes what is to be served of a union and an overlay, which may be nil. before is what was served until now, or
// nil: what has not changed since is not made again. Resources that are not as before, all of them where the union is
// another one, are labelled with the label.
func compose(u *union, o *Overlay, before *served, is label) (*served, error) {
	if o == nil {
		o = &Overlay{}
	}
	s := &served{union: u, steered: map[string]steered{}, weighted: map[string]weighted{}, spoken: map[string]bool{}, bad: map[string]string{}}
	base := u.state
	if before == nil {
		before = &served{}
	}
	if before.union == u {
		base, s.labels = before.state, maps.Clone(before.labels)
	} else {
		s.labels = map[string]label{}
		for _, typeURL := range kinds {
			s.labels[typeURL] = label{serial: is.serial}
		}
		// What steering may have changed says so, in case Envoy refuses it.
		for _, typeURL := range steerable {
			s.labels[typeURL] = is
		}
	}
	d := base.draft()
	if err := s.steer(d, o, before); err != nil {
		return nil, err
	}
	if err := s.reweigh(d, o, before); err != nil {
		return nil, err
	}
	for typeURL := range d.touched {
		s.labels[typeURL] = is
	}
	s.state = d.done()
	return s, nil
}

// steer makes the endpoints.
func (s *served) steer(d *draft, o *Overlay, before *served) error {
	for name, from := range o.Endpoints {
		own := s.union.endpoints(name)
		if own == nil || from == nil {
			continue
		}
		is, ok := before.steered[name]
		if !ok || is.from != from || is.own != own {
			is = steered{own: own, from: from, made: merge(own, from)}
			var err error
			if is.hash, err = hash(is.made); err != nil {
				return fmt.Errorf("endpoints of %s: %w", name, err)
			}
		}
		s.steered[name] = is
		if d.version(resourcev3.EndpointType, name) != is.hash {
			d.set(resourcev3.EndpointType, name, is.made, is.hash)
		}
	}
	for name := range before.steered {
		if _, still := s.steered[name]; !still {
			s.restore(d, resourcev3.EndpointType, name)
		}
	}
	return nil
}

// restore has the union's own resource in the draft again, if it has one.
func (s *served) restore(d *draft, typeURL, name string) {
	m := s.union.resources[typeURL].Get(name)
	if version := s.union.hashes[typeURL].Get(name); m != nil && d.version(typeURL, name) != version {
		d.set(typeURL, name, m, version)
	}
}

// reweigh makes the scopes.
func (s *served) reweigh(d *draft, o *Overlay, before *served) error {
	other := map[string]map[string][]uint32{} // by scope and route
	for key, weights := range o.Weights {
		r := s.union.routes.Get(key)
		if r == nil {
			continue
		}
		own := r.GetRoute().GetWeightedClusters().GetClusters()
		if reason := unusable(weights, len(own)); reason != "" {
			s.bad[key] = reason
			continue
		}
		name := compile.ScopeOf(key)
		s.spoken[name] = true
		if !slices.EqualFunc(own, weights, func(c *routev3.WeightedCluster_ClusterWeight, w uint32) bool {
			return c.GetWeight().GetValue() == w
		}) {
			if other[name] == nil {
				other[name] = map[string][]uint32{}
			}
			other[name][key] = weights
		}
	}
	for name, weights := range other {
		own := s.union.scopes.Get(name)
		is := before.weighted[name]
		if is.own != own || is.maxBody != s.union.maxBody || !maps.EqualFunc(is.weights, weights, slices.Equal) {
			is = weighted{own: own, maxBody: s.union.maxBody, weights: weights, made: reweighed(name, own, weights, s.union.maxBody)}
			var err error
			if is.hash, err = hash(is.made); err != nil {
				return fmt.Errorf("routes of %s: %w", name, err)
			}
		}
		s.weighted[name] = is
		if d.version(resourcev3.ScopedRouteType, name) != is.hash {
			d.set(resourcev3.ScopedRouteType, name, is.made, is.hash)
		}
	}
	for name := range before.weighted {
		if _, still := s.weighted[name]; !still {
			s.restore(d, resourcev3.ScopedRouteType, name)
		}
	}
	return nil
}

// reweighed is a scope in which routes have other weights.
func reweighed(name string, own *scope, weights map[string][]uint32, maxBody uint32) *routev3.ScopedRouteConfiguration {
	entries := maps.Clone(own.entries)
	for key, shares := range weights {
		r := proto.CloneOf(entries[key])
		for i, c := range r.GetRoute().GetWeightedClusters().GetClusters() {
			c.Weight = wrapperspb.UInt32(shares[i])
		}
		entries[key] = r
	}
	return compile.Scope(name, entries, maxBody)
}

// unusable says why weights cannot be those of a route with so many clusters; "" where they can.
func unusable(weights []uint32, clusters int) string {
	if len(weights) != clusters {
		return fmt.Sprintf("there are %d weights for %d backends", len(weights), clusters)
	}
	sum := uint64(0)
	for _, w := range weights {
		sum += uint64(w)
	}
	switch {
	case sum == 0:
		return "all weights are 0"
	case sum > math.MaxUint32:
		return fmt.Sprintf("the weights have the sum %d, and Envoy takes %d at most", sum, uint32(math.MaxUint32))
	}
	return ""
}

// merge gives the endpoints of a version the weights and the health that an overlay says. Of the version's message parts
// are used as they are.
func merge(own, say *endpointv3.ClusterLoadAssignment) *endpointv3.ClusterLoadAssignment {
	said := map[string]*endpointv3.LbEndpoint{}
	for _, group := range say.GetEndpoints() {
		for _, e := range group.GetLbEndpoints() {
			said[addressOf(e)] = e
		}
	}
	known := make(map[string]*endpointv3.LbEndpoint, len(said))
	same := true
	for _, group := range own.GetEndpoints() {
		for _, e := range group.GetLbEndpoints() {
			address := addressOf(e)
			known[address] = e
			same = same && said[address] != nil
		}
	}
	same = same && len(known) == len(said)

	out := &endpointv3.ClusterLoadAssignment{ClusterName: own.GetClusterName(), NamedEndpoints: own.GetNamedEndpoints(), Policy: own.GetPolicy()}
	arrangement := own
	if same {
		arrangement = say
		if say.GetPolicy() != nil {
			out.Policy = say.GetPolicy()
		}
	}
	for _, group := range arrangement.GetEndpoints() {
		g := &endpointv3.LocalityLbEndpoints{
			Locality: group.GetLocality(), Metadata: group.GetMetadata(), LoadBalancingWeight: group.GetLoadBalancingWeight(),
			Priority: group.GetPriority(), Proximity: group.GetProximity(), LbConfig: group.GetLbConfig(),
		}
		for _, e := range group.GetLbEndpoints() {
			address := addressOf(e)
			g.LbEndpoints = append(g.LbEndpoints, weighed(known[address], said[address]))
		}
		out.Endpoints = append(out.Endpoints, g)
	}
	return out
}

// weighed is an endpoint with the weight and the health that are said of it; say may be nil.
func weighed(own, say *endpointv3.LbEndpoint) *endpointv3.LbEndpoint {
	if say == nil {
		return own
	}
	out := &endpointv3.LbEndpoint{
		HostIdentifier: own.GetHostIdentifier(), Metadata: own.GetMetadata(),
		HealthStatus: say.GetHealthStatus(), LoadBalancingWeight: own.GetLoadBalancingWeight(),
	}
	switch w := say.GetLoadBalancingWeight(); {
	case w == nil:
	case w.GetValue() == 0:
		out.LoadBalancingWeight = wrapperspb.UInt32(1)
		out.HealthStatus = corev3.HealthStatus_UNHEALTHY
	default:
		out.LoadBalancingWeight = w
	}
	return out
}

// addressOf tells the endpoints of a cluster apart.
func addressOf(e *endpointv3.LbEndpoint) string {
	a := e.GetEndpoint().GetAddress()
	if s := a.GetSocketAddress(); s != nil {
		if name := s.GetNamedPort(); name != "" {
			return net.JoinHostPort(s.GetAddress(), name)
		}
		return wire.Address(s)
	}
	if p := a.GetPipe(); p != nil {
		return p.GetPath()
	}
	return e.GetEndpointName()
}
