// Package serve hands versions of the configuration to Envoy over delta ADS and to ext_proc, in
// that order: ext_proc decides from a version only once Envoy has taken it. Beside that it hands Envoy what steering
// says of what is served, which is no version.
package serve

import (
	"fmt"
	"maps"
	"reflect"

	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	cachev3 "github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/protobuf/proto"

	"github.com/weir-dev/weir/internal/cow"
	"github.com/weir-dev/weir/xds/compile"
)

// A version shares with the one before it, by pointer, what has not changed (compile.Compiler). Nothing here looks into that again:
// what is marshalled and hashed is what has another pointer, and what there is much of is in maps that share what is the same (package cow),
// so that what two of them differ in is found, and changed, whatever else there is.

// union is what several versions make together, before anything is steered. It is not changed: with and without make others.
type union struct {
	state
	routes  cow.Map[*routev3.Route] // by key
	scopes  cow.Map[*scope]         // by name: of routes
	maxBody uint32
	newest  *compile.Version // all of it is in here as it has it; nil where there is none
	// touched has, by type, the names of what is not as in the union that this one was made from.
	touched map[string][]string
}

// warms says whether something is not as in before, the union that this one was made from, which Envoy does not use at once.
func (u *union) warms(before *union) bool {
	for _, typeURL := range []string{resourcev3.ClusterType, resourcev3.ListenerType, resourcev3.SecretType} {
		for _, name := range u.touched[typeURL] { // by pointer; it may be the same nonetheless
			if u.hashes[typeURL].Get(name) != before.hashes[typeURL].Get(name) {
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
	resources map[string]cow.Map[types.Resource]
	hashes    map[string]cow.Map[string]
}

// nothing is the union of no version.
func nothing() *union {
	return &union{state: state{map[string]cow.Map[types.Resource]{}, map[string]cow.Map[string]{}}}
}

// draft is a state in the making. What it is made from stays as it is.
type draft struct {
	from    state
	edits   map[string]*edit    // by type, of those that change
	touched map[string][]string // names by type
}

// edit is a type of a draft.
type edit struct {
	resources cow.Edit[types.Resource]
	hashes    cow.Edit[string]
}

func (s state) draft() *draft { return &draft{s, map[string]*edit{}, map[string][]string{}} }

// resource is what the draft has; nil for nothing.
func (d *draft) resource(typeURL, name string) types.Resource {
	if e := d.edits[typeURL]; e != nil {
		return e.resources.Get(name)
	}
	return d.from.resources[typeURL].Get(name)
}

// version is that of what the draft has; "" for nothing.
func (d *draft) version(typeURL, name string) string {
	if e := d.edits[typeURL]; e != nil {
		return e.hashes.Get(name)
	}
	return d.from.hashes[typeURL].Get(name)
}

// touch notes that what is under a name changes.
func (d *draft) touch(typeURL, name string) *edit {
	e := d.edits[typeURL]
	if e == nil {
		e = &edit{d.from.resources[typeURL].Edit(), d.from.hashes[typeURL].Edit()}
		d.edits[typeURL] = e
	}
	d.touched[typeURL] = append(d.touched[typeURL], name)
	return e
}

// put has a resource in the draft.
func (d *draft) put(typeURL, name string, m types.Resource) error {
	if d.resource(typeURL, name) == m {
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
	e := d.touch(typeURL, name)
	e.resources.Set(name, m)
	e.hashes.Set(name, version)
}

// drop has it there no more.
func (d *draft) drop(typeURL, name string) {
	if d.resource(typeURL, name) == nil {
		return
	}
	e := d.touch(typeURL, name)
	e.resources.Delete(name)
	e.hashes.Delete(name)
}

// done is what was made.
func (d *draft) done() state {
	out := state{maps.Clone(d.from.resources), maps.Clone(d.from.hashes)}
	for typeURL, e := range d.edits {
		out.resources[typeURL], out.hashes[typeURL] = e.resources.Map(), e.hashes.Map()
	}
	return out
}

// with is the union of u and a newer version: Envoy keeps what requests of an older version may still need. Where two have
// a resource of one name, the newer counts; listeners are the newest's alone. maxBody is the largest of all of them.
func (u *union) with(v *compile.Version, maxBody uint32) (*union, error) {
	d := u.draft()
	for name := range u.resources[resourcev3.ListenerType].Names() {
		if v.Listeners[name] == nil {
			d.drop(resourcev3.ListenerType, name)
		}
	}
	before := u.newest
	if before == nil {
		before = &compile.Version{}
	}
	for name := range cow.Diff(before.Clusters, v.Clusters) {
		if m := v.Clusters.Get(name); m != nil {
			if err := d.put(resourcev3.ClusterType, name, m); err != nil {
				return nil, err
			}
		}
	}
	for _, put := range []func() error{
		func() error { return putAll(d, resourcev3.EndpointType, before.Endpoints, v.Endpoints) },
		func() error { return putAll(d, resourcev3.SecretType, before.Secrets, v.Secrets) },
		func() error { return putAll(d, resourcev3.ListenerType, before.Listeners, v.Listeners) },
	} {
		if err := put(); err != nil {
			return nil, err
		}
	}
	next := &union{scopes: u.scopes, maxBody: maxBody, newest: v}
	changed := map[string]map[string]*routev3.Route{} // by scope, entries by key
	routes := u.routes.Edit()
	for key := range cow.Diff(before.Routes, v.Routes) { // all that before has is there already
		r, was := v.Routes.Get(key), u.routes.Get(key)
		if r == nil || was == r {
			continue
		}
		routes.Set(key, r)
		if was != nil && proto.Equal(was, r) {
			continue
		}
		name := compile.ScopeOf(key)
		if changed[name] == nil {
			changed[name] = map[string]*routev3.Route{}
		}
		changed[name][key] = r
	}
	next.routes = routes.Map()
	if err := next.rescope(d, u, changed); err != nil {
		return nil, err
	}
	return next, nil
}

// putAll has what a version has of a type in the draft. All of before is there already: where nothing has changed since, it is the same map.
func putAll[M interface {
	comparable
	types.Resource
}](d *draft, typeURL string, before, from map[string]M) error {
	if same(before, from) {
		return nil
	}
	for name, m := range from {
		if was, had := before[name]; had && was == m {
			continue
		}
		if err := d.put(typeURL, name, m); err != nil {
			return err
		}
	}
	return nil
}

// same says whether two maps are one. Maps of which nothing changes are handed on.
func same[V any](a, b map[string]V) bool {
	return reflect.ValueOf(a).UnsafePointer() == reflect.ValueOf(b).UnsafePointer()
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
		routes := u.routes.Edit()
		for _, key := range list {
			routes.Delete(key)
			name := compile.ScopeOf(key)
			if gone[name] == nil {
				gone[name] = map[string]*routev3.Route{}
			}
			gone[name][key] = nil
		}
		next.routes = routes.Map()
	}
	if err := next.rescope(d, u, gone); err != nil {
		return nil, err
	}
	return next, nil
}

// rescope makes the scopes with what has changed in them, where nil is an entry that is gone, and completes the union.
func (u *union) rescope(d *draft, before *union, changed map[string]map[string]*routev3.Route) error {
	scopes := u.scopes.Edit()
	for name, entries := range changed {
		is := &scope{entries: map[string]*routev3.Route{}}
		if was := scopes.Get(name); was != nil {
			is.entries = maps.Clone(was.entries)
		}
		maps.Copy(is.entries, entries)
		maps.DeleteFunc(is.entries, func(_ string, r *routev3.Route) bool { return r == nil })
		if len(is.entries) == 0 {
			scopes.Delete(name)
			d.drop(resourcev3.ScopedRouteType, name)
			continue
		}
		scopes.Set(name, is)
	}
	u.scopes = scopes.Map()
	remade := maps.Keys(changed)
	if u.maxBody != before.maxBody {
		remade = u.scopes.Names() // it is in all of them
	}
	for name := range remade {
		if is := u.scopes.Get(name); is != nil {
			if err := d.put(resourcev3.ScopedRouteType, name, compile.Scope(name, is.entries, u.maxBody)); err != nil {
				return err
			}
		}
	}
	u.state, u.touched = d.done(), d.touched
	return nil
}

// endpoints are those of a cluster; nil where there are none.
func (u *union) endpoints(cluster string) *endpointv3.ClusterLoadAssignment {
	m, _ := u.resources[resourcev3.EndpointType].Get(cluster).(*endpointv3.ClusterLoadAssignment)
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
