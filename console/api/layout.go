package api

import (
	"maps"
	"net"
	"net/netip"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/extproc/pick"
	"github.com/weir-dev/weir/extproc/table"
	"github.com/weir-dev/weir/extproc/wire"
	"github.com/weir-dev/weir/xds/compile"
	"github.com/weir-dev/weir/xds/source"
)

// layout is what a version of the configuration says about who may go where. It does not change.
type layout struct {
	version  string
	currency string
	gateways []Gateway
	backends []Backend // with their endpoints, and without state
	steered  bool      // there are backends that are steered

	addresses map[string]addresses // by backend
	read      func() *routes       // by routes
	made      made                 // what backends were made of
}

// made is what the backends of a layout were made of.
type made struct {
	written   []*v1alpha1.Backend
	endpoints map[source.ObjectRef][]v1alpha1.Endpoint
	pools     map[string]*compile.Pool
}

// same says whether the same comes of both.
func (m *made) same(o *made) bool {
	one := func(a, b any) bool { return reflect.ValueOf(a).UnsafePointer() == reflect.ValueOf(b).UnsafePointer() }
	return one(m.endpoints, o.endpoints) && (one(m.pools, o.pools) || len(m.pools)+len(o.pools) == 0) && slices.Equal(m.written, o.written)
}

// routes are those of a layout: each rule of a Route is one here.
type routes struct {
	list []Route // sorted by ID
	by   map[string]*Route
}

// routes are read when somebody first asks for them. Nobody looks at most versions, and there may be ten thousand rules.
func (l *layout) routes() *routes {
	if l == nil || l.read == nil {
		return &routes{}
	}
	return l.read()
}

// addresses are those of the endpoints of a backend.
type addresses struct {
	known map[string]bool
	only  string // the one that there is; "" for several
}

// layoutOf reads a version and the objects that it was made of. What is as in before, which may be nil, is shared with it.
func layoutOf(v *compile.Version, objs *source.Objects, before *layout) *layout {
	out := &layout{
		version: v.ID, currency: v.Currency, gateways: []Gateway{}, steered: len(v.Pools) > 0,
		made: made{objs.Backends, objs.Endpoints, v.Pools},
	}
	written, decided := objs.Routes, v.Table // and nothing else of them is kept
	out.read = sync.OnceValue(func() *routes { return routesOf(written, decided) })
	for _, g := range objs.Gateways {
		out.gateways = append(out.gateways, gatewayOf(v, g))
	}
	if before != nil && before.made.same(&out.made) {
		out.backends, out.addresses = before.backends, before.addresses
		return out
	}
	out.backends, out.addresses = make([]Backend, 0, len(objs.Backends)), make(map[string]addresses, len(objs.Backends))
	for _, b := range objs.Backends {
		made := backendOf(v, b, objs.Endpoints[source.RefOf(b)])
		known := addresses{known: map[string]bool{}}
		for _, e := range made.Endpoints {
			known.known[e.Address] = true
		}
		if len(made.Endpoints) == 1 {
			known.only = made.Endpoints[0].Address
		}
		out.backends = append(out.backends, made)
		out.addresses[made.ID] = known
	}
	return out
}

func routesOf(written []*v1alpha1.Route, decided *table.Table) *routes {
	matches := make(map[string][]string, len(written))
	for _, r := range written {
		for i := range r.Spec.Rules {
			matches[compile.RuleName(r, i)] = matchTexts(r.Spec.Rules[i].Matches)
		}
	}
	out := &routes{list: make([]Route, 0, len(matches))}
	seen := make(map[string]bool, len(matches))
	for r := range decided.EachRule {
		if !seen[r.Name] {
			seen[r.Name] = true
			out.list = append(out.list, routeOf(r, matches[r.Name]))
		}
	}
	slices.SortFunc(out.list, func(a, b Route) int { return strings.Compare(a.ID, b.ID) })
	out.by = make(map[string]*Route, len(out.list))
	for i := range out.list {
		out.by[out.list[i].ID] = &out.list[i]
	}
	return out
}

func gatewayOf(v *compile.Version, g *v1alpha1.LLMGateway) Gateway {
	out := Gateway{ID: g.Namespace + "/" + g.Name, Listeners: []Listener{}}
	for i := range g.Spec.Listeners {
		l := &g.Spec.Listeners[i]
		address := wire.Address(v.Listeners[compile.ListenerName(g, l)].GetAddress().GetSocketAddress())
		scheme := "http"
		if l.TLS != nil {
			scheme = "https"
		}
		out.Listeners = append(out.Listeners, Listener{Name: string(l.Name), Address: address, URL: scheme + "://" + reachable(address)})
	}
	return out
}

// reachable is where an address is reached from this machine.
func reachable(address string) string {
	at, err := netip.ParseAddrPort(address)
	switch {
	case err != nil || !at.Addr().IsUnspecified():
		return address
	case at.Addr().Is4():
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), at.Port()).String()
	}
	return netip.AddrPortFrom(netip.IPv6Loopback(), at.Port()).String()
}

func backendOf(v *compile.Version, b *v1alpha1.Backend, found []v1alpha1.Endpoint) Backend {
	out := Backend{ID: b.Namespace + "/" + b.Name, Dialect: b.Spec.Dialect, Models: []string{}, Endpoints: []Endpoint{}}
	for _, m := range b.Spec.Models {
		out.Models = append(out.Models, string(m.Name))
	}
	add := func(address string, weight uint32) {
		out.Endpoints = append(out.Endpoints, Endpoint{ID: endpointID(out.ID, address), Address: address, EndpointState: EndpointState{BaseWeight: weight, Weight: weight}})
	}
	if p := v.Pools[out.ID]; p != nil {
		out.Steered, out.Policy, out.Host, out.Picking = true, p.Policy, p.Host, "Envoy"
		if p.Pick != nil && p.Pick.Mode == pick.LeastLoad {
			out.Picking = "Weir"
		}
		for _, e := range p.Endpoints {
			add(e.Key, e.Weight)
		}
		return out
	}
	for _, e := range slices.Concat(b.Spec.Endpoints, found) {
		host := e.Address
		if ip, err := netip.ParseAddr(host); err == nil {
			host = ip.String()
		}
		add(net.JoinHostPort(host, strconv.Itoa(int(e.Port))), uint32(max(1, e.Weight)))
	}
	if u, err := url.Parse(b.Spec.URL); err == nil && u.Host != "" {
		out.Host = u.Host
		port := u.Port()
		if port == "" {
			port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
		}
		add(net.JoinHostPort(u.Hostname(), port), 1)
	} else if len(out.Endpoints) > 0 {
		out.Host = out.Endpoints[0].Address
	}
	return out
}

// endpointID names an endpoint among those of all backends.
func endpointID(backend, address string) string { return backend + "|" + address }

func routeOf(r *table.Rule, matches []string) Route {
	out := Route{ID: r.Name, Matches: matches, Targets: []RouteBackend{}, RequiredScopes: r.RequiredScopes}
	parts := strings.SplitN(r.Name, "/", 3)
	out.Route = strings.Join(parts[:min(2, len(parts))], "/")
	for _, c := range r.Candidates {
		out.Targets = append(out.Targets, RouteBackend{Backend: c.Backend.ID, Model: c.Model, Weight: c.Weight, Priority: c.Priority})
	}
	return out
}

// matchTexts writes what a rule matches, a line for each of which one is enough.
func matchTexts(list []v1alpha1.RouteMatch) []string {
	if len(list) == 0 {
		return []string{"every request"}
	}
	out := make([]string, len(list))
	for i := range list {
		out[i] = matchText(&list[i])
	}
	return out
}

// shownModels of a match are written out.
const shownModels = 8

func matchText(m *v1alpha1.RouteMatch) string {
	var parts []string
	if n := len(m.Models); n > 0 {
		var names []string
		for _, name := range m.Models[:min(n, shownModels)] {
			names = append(names, string(name))
		}
		text := "model " + strings.Join(names, " or ")
		if n > shownModels {
			text += " or one of " + strconv.Itoa(n-shownModels) + " more"
		}
		parts = append(parts, text)
	}
	if p := m.Path; p != nil {
		if p.Type == v1alpha1.PathExact {
			parts = append(parts, "path "+p.Value)
		} else {
			parts = append(parts, "path under "+p.Value)
		}
	}
	if m.Method != "" {
		parts = append(parts, "method "+m.Method)
	}
	value := func(what string, v v1alpha1.ValueMatch) {
		is := " is "
		if v.Type == v1alpha1.MatchRegularExpression {
			is = " matches "
		}
		parts = append(parts, what+" "+v.Name+is+strconv.Quote(v.Value))
	}
	for _, v := range m.Headers {
		value("header", v)
	}
	for _, v := range m.QueryParams {
		value("query parameter", v)
	}
	for _, k := range slices.Sorted(maps.Keys(m.ConsumerLabels)) {
		parts = append(parts, "consumer label "+k+"="+m.ConsumerLabels[k])
	}
	if len(parts) == 0 {
		return "every request"
	}
	return strings.Join(parts, ", ")
}

// maxLayouts are kept: the one that is served, those before it that requests were decided by, and those that may be next.
const maxLayouts = 8

// layouts are those of the last versions. The zero value is ready.
type layouts struct {
	mu   sync.RWMutex
	list []*layout // the oldest first
	live string
	// current is the layout of the version that is served; before there is one it is the newest.
	current atomic.Pointer[layout]
}

func (x *layouts) put(l *layout) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.list = slices.DeleteFunc(x.list, func(o *layout) bool { return o.version == l.version })
	if len(x.list) >= maxLayouts { // what is served stays, however many have come after it
		i := slices.IndexFunc(x.list, func(o *layout) bool { return o.version != x.live })
		x.list = slices.Delete(x.list, i, i+1)
	}
	x.list = append(x.list, l)
	if x.live == "" || x.live == l.version {
		x.current.Store(l)
	}
}

// newest is the layout that was put last; nil before the first.
func (x *layouts) newest() *layout {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if len(x.list) == 0 {
		return nil
	}
	return x.list[len(x.list)-1]
}

func (x *layouts) use(version string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.live = version
	for _, l := range x.list {
		if l.version == version {
			x.current.Store(l)
		}
	}
}

// of finds the layout of a version; nil where it is not known any more.
func (x *layouts) of(version string) *layout {
	x.mu.RLock()
	defer x.mu.RUnlock()
	for _, l := range x.list {
		if l.version == version {
			return l
		}
	}
	return nil
}

// now is the layout in use; an empty one before there is any.
func (x *layouts) now() *layout {
	if l := x.current.Load(); l != nil {
		return l
	}
	return &layout{}
}

// place is a state.Places.
func (a *API) place(backend, address string) string {
	known, ok := a.layouts.now().addresses[backend]
	if !ok || known.known[address] {
		return address
	}
	return known.only
}
