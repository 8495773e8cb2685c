package serve

import (
	"time"

	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"

	"github.com/weir-dev/weir/xds/compile"
)

// leftovers are resources that only versions older than the served one have, with when they may go: by type and name; routes by their
// keys, under RouteType. So what it costs to keep them does not hang on how many versions they are of.
type leftovers map[string]map[string]time.Time

// leave notes what a version that is served from now on does not have of what Envoy has. It may go when the requests of all
// older versions are over: which of them had it is not known any more.
func (l leftovers) leave(u *union, v *compile.Version, until time.Time) {
	leave(l, resourcev3.ClusterType, u.resources[resourcev3.ClusterType], v.Clusters, until)
	leave(l, resourcev3.EndpointType, u.resources[resourcev3.EndpointType], v.Endpoints, until)
	leave(l, resourcev3.SecretType, u.resources[resourcev3.SecretType], v.Secrets, until)
	leave(l, resourcev3.RouteType, u.routes, v.Routes, until)
}

func leave[R, M any](l leftovers, typeURL string, has map[string]R, wants map[string]M, until time.Time) {
	for name := range l[typeURL] {
		if _, again := wants[name]; again {
			delete(l[typeURL], name)
		}
	}
	if len(has) == len(wants)+len(l[typeURL]) { // Envoy has all that is wanted, so that and what is known here is all it has
		return
	}
	for name := range has {
		if _, wanted := wants[name]; wanted {
			continue
		}
		if l[typeURL] == nil {
			l[typeURL] = map[string]time.Time{}
		}
		if _, known := l[typeURL][name]; !known {
			l[typeURL][name] = until
		}
	}
}

// due takes out what may go now, by type.
func (l leftovers) due(now time.Time) map[string][]string {
	out := map[string][]string{}
	for typeURL, names := range l {
		for name, until := range names {
			if now.After(until) {
				delete(names, name)
				out[typeURL] = append(out[typeURL], name)
			}
		}
	}
	return out
}
