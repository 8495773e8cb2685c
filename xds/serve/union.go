// Package serve hands versions of the configuration to Envoy over delta ADS and to ext_proc, in
// that order: ext_proc decides from a version only once Envoy has taken it. Beside that it hands Envoy what steering
// says of what is served, which is no version.
package serve

import (
	"fmt"
	"maps"

	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	cachev3 "github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/protobuf/proto"

	"github.com/weir-dev/weir/xds/compile"
)

// A version shares with the one before it, by pointer, what has not changed (compile.Compiler). Nothing here looks into that again:
// what is marshalled and hashed is what has another pointer, and maps that change are copied.

// union is what several versions make together, before anything is steered. It is not changed: with and without make others.
type union struct {
	state
	routes  map[string]*routev3.Route // by key
	scopes  map[string]*scope         // by name: of routes
	maxBody uint32
	newest  *compile.Version // all of it is in here as it has it; nil where there is none
	// touched has, by type, the names of what is not as in the union that this one was made from.
	touched map[string][]string
}

// warms says whether something is not as in before, the union that this one was made from, which Envoy does not use at once.
func (u *union) warms(before *union) bool {
	for _, typeURL := range []string{resourcev3.ClusterType, resourcev3.ListenerType, resourcev3.SecretType} {
		for _, name := range u.touched[typeURL] { // by pointer; it may be the same nonetheless
			if u.hashes[typeURL][name] != before.hashes[typeURL][name] {
				return true
			}
		}
	}
	return false
}

// scope is the entries of one scope, by key. It is not changed.
type scope struct {
	entries map[string]*routev3.Route
}

// state is resources and their versions, by type URL and name.
type state struct {
	resources map[string]map[string]types.Resource
	hashes    map[string]map[string]string
}

// nothing is the union of no version.
func nothing() *union {
	return &union{
		state:  state{map[string]map[string]types.Resource{}, map[string]map[string]string{}},
		routes: map[string]*routev3.Route{}, scopes: map[string]*scope{},
	}
}

// draft is a state in the making. What it is made from stays as it is.
type draft struct {
	state
	touched map[string][]string // names by type
}

func (s state) draft() *draft {
	return &draft{state{maps.Clone(s.resources), maps.Clone(s.hashes)}, map[string][]string{}}
}

// touch makes the maps of a type the draft's own, and notes a name.
func (d *draft) touch(typeURL, name string) {
	names, own := d.touched[typeURL]
	if !own {
		d.resources[typeURL], d.hashes[typeURL] = copied(d.resources[typeURL]), copied(d.hashes[typeURL])
	}
	d.touched[typeURL] = append(names, name)
}

// copied is maps.Clone, with a map for nil.
func copied[V any](m map[string]V) map[string]V {
	if m == nil {
		return map[string]V{}
	}
	return maps.Clone(m)
}

// put has a resource in the draft.
func (d *draft) put(typeURL, name string, m types.Resource) error {
	if d.resources[typeURL][name] == m {
		return nil
	}
	version, err := hash(m)
	if err != nil {
		return fmt.Errorf("%s %s: %w", shortType(typeURL), name, err)
	}
	d.set(typeURL, name, m, version)
	return nil
}

// set has a resource with a known version in the draft.
func (d *draft) set(typeURL, name string, m types.Resource, version string) {
	d.touch(typeURL, name)
	d.resources[typeURL][name], d.hashes[typeURL][name] = m, version
}

// drop has it there no more.
func (d *draft) drop(typeURL, name string) {
	if _, there := d.resources[typeURL][name]; !there {
		return
	}
	d.touch(typeURL, name)
	delete(d.resources[typeURL], name)
	delete(d.hashes[typeURL], name)
}

// with is the union of u and a newer version: Envoy keeps what requests of an older version may still need. Where two have
// a resource of one name, the newer counts; listeners are the newest's alone. maxBody is the largest of all of them.
func (u *union) with(v *compile.Version, maxBody uint32) (*union, error) {
	d := u.draft()
	for name := range u.resources[resourcev3.ListenerType] {
		if v.Listeners[name] == nil {
			d.drop(resourcev3.ListenerType, name)
		}
	}
	before := u.newest
	if before == nil {
		before = &compile.Version{}
	}
	for _, put := range []func() error{
		func() error { return putAll(d, resourcev3.ClusterType, before.Clusters, v.Clusters) },
		func() error { return putAll(d, resourcev3.EndpointType, before.Endpoints, v.Endpoints) },
		func() error { return putAll(d, resourcev3.SecretType, before.Secrets, v.Secrets) },
		func() error { return putAll(d, resourcev3.ListenerType, before.Listeners, v.Listeners) },
	} {
		if err := put(); err != nil {
			return nil, err
		}
	}
	next := &union{routes: u.routes, scopes: u.scopes, maxBody: maxBody, newest: v}
	changed := map[string]map[string]*routev3.Route{} // by scope, entries by key
	own := false
	routes := v.Routes
	if same(before.Routes, routes) {
		routes = nil
	}
	for key, r := range routes {
		was := next.routes[key]
		if was == r {
			continue
		}
		if !own {
			own, next.routes = true, maps.Clone(u.routes)
		}
		next.routes[key] = r
		if was != nil && proto.Equal(was, r) {
			continue
		}
		name := compile.ScopeOf(key)
		if changed[name] == nil {
			changed[name] = map[string]*routev3.Route{}
		}
		changed[name][key] = r
	}
	if err := next.rescope(d, u, changed); err != nil {
		return nil, err
	}
	return next, nil
}

// putAll has what a version has of a type in the draft. All of before is there already: where nothing has changed since, it is the same map.
func putAll[M types.Resource](d *draft, typeURL string, before, from map[string]M) error {
	if same(before, from) {
		return nil
	}
	for name, m := range from {
		if err := d.put(typeURL, name, m); err != nil {
			return err
		}
	}
	return nil
}

// without is u without some resources that its newest version does not have, by type and name: routes by their keys, under RouteType.
func (u *union) without(names map[string][]string, maxBody uint32) (*union, error) {
	d := u.draft()
	next := &union{routes: u.routes, scopes: u.scopes, maxBody: maxBody, newest: u.newest}
	gone := map[string]map[string]*routev3.Route{}
	for typeURL, list := range names {
		if typeURL != resourcev3.RouteType {
			for _, name := range list {
				d.drop(typeURL, name)
			}
			continue
		}
		next.routes = maps.Clone(u.routes)
		for _, key := range list {
			delete(next.routes, key)
			name := compile.ScopeOf(key)
			if gone[name] == nil {
				gone[name] = map[string]*routev3.Route{}
			}
			gone[name][key] = nil
		}
	}
	if err := next.rescope(d, u, gone); err != nil {
		return nil, err
	}
	return next, nil
}

// rescope makes the scopes with what has changed in them, where nil is an entry that is gone, and completes the union.
func (u *union) rescope(d *draft, before *union, changed map[string]map[string]*routev3.Route) error {
	if len(changed) > 0 {
		u.scopes = maps.Clone(u.scopes)
	}
	for name, entries := range changed {
		is := &scope{entries: map[string]*routev3.Route{}}
		if was := u.scopes[name]; was != nil {
			is.entries = maps.Clone(was.entries)
		}
		maps.Copy(is.entries, entries)
		maps.DeleteFunc(is.entries, func(_ string, r *routev3.Route) bool { return r == nil })
		if len(is.entries) == 0 {
			delete(u.scopes, name)
			d.drop(resourcev3.ScopedRouteType, name)
			continue
		}
		u.scopes[name] = is
	}
	for name := range changed {
		if u.maxBody != before.maxBody {
			break // all of them are made anew
		}
		if is := u.scopes[name]; is != nil {
			if err := d.put(resourcev3.ScopedRouteType, name, compile.Scope(name, is.entries, u.maxBody)); err != nil {
				return err
			}
		}
	}
	if u.maxBody != before.maxBody {
		for name, is := range u.scopes {
			if err := d.put(resourcev3.ScopedRouteType, name, compile.Scope(name, is.entries, u.maxBody)); err != nil {
				return err
			}
		}
	}
	u.state, u.touched = d.state, d.touched
	return nil
}

// endpoints are those of a cluster; nil where there are none.
func (u *union) endpoints(cluster string) *endpointv3.ClusterLoadAssignment {
	m, _ := u.resources[resourcev3.EndpointType][cluster].(*endpointv3.ClusterLoadAssignment)
	return m
}

// hash is the version of a resource.
func hash(m proto.Message) (string, error) {
	b, err := cachev3.MarshalResource(m)
	if err != nil {
		return "", err
	}
	return cachev3.HashResource(b), nil
}
