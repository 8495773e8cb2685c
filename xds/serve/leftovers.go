package serve

import (
	"iter"
	"time"

	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"

	"github.com/weir-dev/weir/internal/cow"
	"github.com/weir-dev/weir/xds/compile"
)

// leftovers are resources that only versions older than the served one have, with when they may go: by type and name; routes by their
// keys, under RouteType. So what it costs to keep them does not hang on how many versions they are of.
type leftovers map[string]map[string]time.Time

// leave notes what a version that is served from now on does not have of what the one before it had. It may go when the requests of all
// older versions are over: which of them had it is not known any more.
func (l leftovers) leave(before, v *compile.Version, until time.Time) {
	if before == nil {
		before = &compile.Version{}
	}
	leave(l, resourcev3.ClusterType, cow.Diff(before.Clusters, v.Clusters), v.Clusters.Has, until)
	leave(l, resourcev3.EndpointType, dropped(before.Endpoints, v.Endpoints), isIn(v.Endpoints), until)
	leave(l, resourcev3.SecretType, dropped(before.Secrets, v.Secrets), isIn(v.Secrets), until)
	leave(l, resourcev3.RouteType, cow.Diff(before.Routes, v.Routes), v.Routes.Has, until)
}

// leave takes the names of a type under which something has changed.
func leave(l leftovers, typeURL string, changed iter.Seq[string], wanted func(name string) bool, until time.Time) {
	for name := range l[typeURL] {
		if wanted(name) {
			delete(l[typeURL], name)
		}
	}
	for name := range changed {
		if wanted(name) {
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

// dropped are the names that one map has and another has not.
func dropped[M any](before, now map[string]M) iter.Seq[string] {
	return func(yield func(string) bool) {
		if same(before, now) {
			return
		}
		for name := range before {
			if _, still := now[name]; !still && !yield(name) {
				return
			}
		}
	}
}

// isIn says whether a map has a name.
func isIn[M any](m map[string]M) func(string) bool {
	return func(name string) bool {
		_, is := m[name]
		return is
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
