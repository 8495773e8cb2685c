// Package serve hands versions of the configuration to Envoy over delta ADS and to ext_proc, in
// that order: ext_proc decides from a version only once Envoy has taken it. Beside that it hands Envoy what steering
// says of what is served, which is no version.
package serve

import (
	"fmt"
	"maps"
	"slices"

	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	cachev3 "github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"

	"github.com/weir-dev/weir/xds/compile"
)

// union is what several versions make together, before anything is steered.
type union struct {
	endpoints map[string]*endpointv3.ClusterLoadAssignment
	routes    map[string]*routev3.Route
	maxBody   uint32
	resources [types.UnknownType]cachev3.Resources
	hashes    map[string]map[string]string // by type and name
}

// assemble makes the union of versions, oldest first: Envoy keeps what requests of an older
// version may still need. Where two have a resource of one name, the newest counts; listeners are the newest's alone. Of
// no version it is empty.
func assemble(versions []*compile.Version) (*union, error) {
	u := &union{endpoints: map[string]*endpointv3.ClusterLoadAssignment{}, routes: map[string]*routev3.Route{}}
	clusters, secrets := map[string]types.Resource{}, map[string]types.Resource{}
	for _, v := range versions {
		collect(clusters, v.Clusters)
		collect(secrets, v.Secrets)
		maps.Copy(u.endpoints, v.Endpoints)
		maps.Copy(u.routes, v.Routes)
		u.maxBody = max(u.maxBody, v.MaxBody)
	}
	listeners, endpoints := map[string]types.Resource{}, map[string]types.Resource{}
	collect(endpoints, u.endpoints)
	var routing []types.Resource
	if n := len(versions); n > 0 {
		collect(listeners, versions[n-1].Listeners)
		routing = append(routing, compile.RouteConfiguration(u.routes, u.maxBody))
	}
	snapshot, err := cachev3.NewSnapshot("", map[resourcev3.Type][]types.Resource{
		resourcev3.ClusterType:  list(clusters),
		resourcev3.EndpointType: list(endpoints),
		resourcev3.SecretType:   list(secrets),
		resourcev3.ListenerType: list(listeners),
		resourcev3.RouteType:    routing,
	})
	if err != nil {
		return nil, fmt.Errorf("assemble a snapshot: %w", err)
	}
	if err := snapshot.ConstructVersionMap(); err != nil {
		return nil, fmt.Errorf("hash a snapshot: %w", err)
	}
	u.resources, u.hashes = snapshot.Resources, snapshot.VersionMap
	return u, nil
}

// routing is the route configuration of the union; nil where it has none.
func (u *union) routing() *routev3.RouteConfiguration {
	rc, _ := u.resources[types.Route].Items[compile.RouteConfigName].Resource.(*routev3.RouteConfiguration)
	return rc
}

func collect[M types.Resource](into map[string]types.Resource, from map[string]M) {
	for name, m := range from {
		into[name] = m
	}
}

func list(m map[string]types.Resource) []types.Resource {
	out := make([]types.Resource, 0, len(m))
	for _, name := range slices.Sorted(maps.Keys(m)) {
		out = append(out, m[name])
	}
	return out
}
