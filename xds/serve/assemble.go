// Package serve hands versions of the configuration to Envoy over delta ADS and to ext_proc, in
// that order: ext_proc decides from a version only once Envoy has taken it.
package serve

import (
	"fmt"
	"maps"
	"slices"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	cachev3 "github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"

	"github.com/weir-dev/weir/xds/compile"
)

// assemble makes the snapshot of several versions, oldest first: Envoy keeps what requests of an older
// version may still need. Where two have a resource of one name, the newest counts; listeners are the newest's alone. Of
// no version it is empty.
func assemble(serial uint64, versions []*compile.Version) (*cachev3.Snapshot, error) {
	clusters, endpoints, secrets := map[string]types.Resource{}, map[string]types.Resource{}, map[string]types.Resource{}
	routes := map[string]*routev3.Route{}
	var maxBody uint32
	for _, v := range versions {
		collect(clusters, v.Clusters)
		collect(endpoints, v.Endpoints)
		collect(secrets, v.Secrets)
		maps.Copy(routes, v.Routes)
		maxBody = max(maxBody, v.MaxBody)
	}
	listeners := map[string]types.Resource{}
	var routing []types.Resource
	if n := len(versions); n > 0 {
		collect(listeners, versions[n-1].Listeners)
		routing = append(routing, compile.RouteConfiguration(routes, maxBody))
	}
	snapshot, err := cachev3.NewSnapshot(fmt.Sprint(serial), map[resourcev3.Type][]types.Resource{
		resourcev3.ClusterType:  list(clusters),
		resourcev3.EndpointType: list(endpoints),
		resourcev3.SecretType:   list(secrets),
		resourcev3.ListenerType: list(listeners),
		resourcev3.RouteType:    routing,
	})
	if err != nil {
		return nil, fmt.Errorf("assemble snapshot %d: %w", serial, err)
	}
	if err := snapshot.ConstructVersionMap(); err != nil {
		return nil, fmt.Errorf("hash snapshot %d: %w", serial, err)
	}
	return snapshot, nil
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
