package compile

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"unsafe"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/extproc/limit"
	"github.com/weir-dev/weir/extproc/table"
	"github.com/weir-dev/weir/xds/source"
)

// Compiler compiles one reading of the objects after another, and makes anew only what has changed since the last one: what one changed object
// costs does not grow with the number of objects, apart from copies of pointers. The results are those of Compile, IDs included,
// whatever was compiled before. It relies on objects, and the maps of Objects, not being changed once they have been handed on: what stands at
// the same place is taken to be the same. A source that makes every object anew only loses time.
//
// It keeps what the last reading needed and nothing else. It is not safe for concurrent use.
type Compiler struct {
	options Options
	run     uint64
	stirred [kinds]uint64 // the last run in which an answer was another one that units of a kind have asked for
	spoilt  bool          // what is remembered is of no use for the next run

	// What objects say.
	gateways      ledger[*v1alpha1.LLMGateway]
	backends      ledger[*v1alpha1.Backend]
	routes        ledger[*v1alpha1.Route]
	consumers     ledger[*v1alpha1.Consumer]
	apiKeys       ledger[*v1alpha1.APIKey]
	issuers       ledger[*v1alpha1.JWTIssuer]
	limitPolicies ledger[*v1alpha1.LimitPolicy]
	budgets       ledger[*v1alpha1.Budget]
	loadPolicies  ledger[*v1alpha1.LoadPolicy]
	grantObjects  ledger[*v1alpha1.ReferenceGrant]
	cachePolicies ledger[*v1alpha1.CachePolicy]
	conversations ledger[*v1alpha1.SessionPolicy]

	names   map[source.ObjectRef]*name
	counted []*name // in this run
	grants  source.Grants
	permits map[crossing]*value[bool]

	// Whose Routes gateways take.
	doorsNow     []gatewayDoor
	doorProblems []source.Problem
	admitted     map[string]*admissions // by namespace

	secrets    values[source.SecretKey, source.Secret]
	namespaces values[string, map[string]string] // their labels
	endpoints  values[source.ObjectRef, []v1alpha1.Endpoint]

	// What was made of them.
	backendUnits []*backendUnit
	made         map[source.ObjectRef]*value[*backend] // by Backend
	routeUnits   []*routeUnit
	sections     map[source.ObjectRef]*ruleNames // by Route
	limitUnits   []*policyUnit
	budgetUnits  []*policyUnit
	policies     table.Policies
	ofBackends   backendTotals
	ofRoutes     routeTotals
	ofPolicies   policyTotals
	caching      keeper[table.CachePolicy, *v1alpha1.CachePolicy]
	conversing   keeper[table.SessionPolicy, *v1alpha1.SessionPolicy]
	identityUnit *identityUnit
	openUnit     *openUnit
	gatewayUnit  *gatewayUnit
	relayUnit    *relayUnit
	tenantNames  *tenantNames
	index        *table.Index

	// Answers to questions that units of several objects have.
	native    value[bool]   // some gateway has lanes
	counting  value[bool]   // replicas count together
	priced    value[bool]   // something has a price
	tokens    value[bool]   // there are JWTIssuers
	pepperOf  value[string] // the secret
	pepperMAC pepperMAC
	failed    value[int]  // MaxFailedLogins
	stored    value[bool] // StoredKeys
	opening   value[bool] // some pool fails open
	openable  value[bool]
	waits     value[[2]bool] // for a limit, for a pool
	authzAt   value[string]
	relaying  value[bool] // some requests go to the relay
	models    modelNames

	// What Envoy gets.
	listeners *held[*listenerv3.Listener]
	clusters  *held[*clusterv3.Cluster]
	loads     *held[*endpointv3.ClusterLoadAssignment]
	sds       *held[*tlsv3.Secret]
	entries   *held[*routev3.Route]
	pools     *held[*Pool]
	steered   *held[SteeredRoute]
	chains    *held[*table.Chain]
	directs   *held[[]*table.Backend] // of direct chains
}

// crossing is a reference from one object to another of another namespace.
type crossing struct{ from, to source.ObjectRef }

// NewCompiler returns a Compiler that remembers nothing yet.
func NewCompiler() *Compiler {
	k := &Compiler{spoilt: true}
	k.forget()
	return k
}

// forget makes a Compiler as good as new.
func (k *Compiler) forget() {
	*k = Compiler{
		spoilt:   true,
		names:    map[source.ObjectRef]*name{},
		permits:  map[crossing]*value[bool]{},
		made:     map[source.ObjectRef]*value[*backend]{},
		sections: map[source.ObjectRef]*ruleNames{},
		admitted: map[string]*admissions{},
		namespaces: values[string, map[string]string]{
			cells: map[string]*valueOf[map[string]string]{},
			same:  maps.Equal[map[string]string, map[string]string],
			digest: func(namespace string, labels map[string]string) digest {
				return digestOf("namespace", namespace, asJSON(labels))
			},
		},
		secrets: values[source.SecretKey, source.Secret]{
			cells: map[source.SecretKey]*valueOf[source.Secret]{},
			same:  source.Secret.Equal,
			digest: func(key source.SecretKey, s source.Secret) digest {
				return digestOf(key.String(), s.Reveal())
			},
		},
		endpoints: values[source.ObjectRef, []v1alpha1.Endpoint]{
			cells:  map[source.ObjectRef]*valueOf[[]v1alpha1.Endpoint]{},
			same:   slices.Equal[[]v1alpha1.Endpoint],
			digest: endpointsDigest,
		},
		listeners: newHeld[*listenerv3.Listener](), clusters: newHeld[*clusterv3.Cluster](), loads: newHeld[*endpointv3.ClusterLoadAssignment](),
		sds: newHeld[*tlsv3.Secret](), entries: newHeld[*routev3.Route](), pools: newHeld[*Pool](), steered: newHeld[SteeredRoute](),
		chains: newHeld[*table.Chain](), directs: newHeld[[]*table.Backend](),
	}
	k.pools.partly, k.chains.partly, k.directs.partly = true, true, true
}

// keepLittle makes a Compiler as good as new keep little of what only a version that is served needs.
func (k *Compiler) keepLittle() {
	k.listeners.inside, k.clusters.inside, k.loads.inside, k.sds.inside, k.entries.inside, k.steered.inside = true, true, true, true, true, true
	k.listeners.bare, k.clusters.bare, k.loads.bare, k.sds.bare, k.entries.bare, k.steered.bare = true, true, true, true, true, true
	k.chains.inside = true // rules share what is in it
}

func endpointsDigest(ref source.ObjectRef, list []v1alpha1.Endpoint) digest {
	parts := []string{ref.Namespace, ref.Name}
	for _, e := range list {
		parts = append(parts, e.Address, strconv.Itoa(int(e.Port)), strconv.Itoa(int(e.Weight)))
	}
	return digestOf(parts...)
}

// identical says whether two values are the same for all that can be told: functions and what pointers point to are not looked into. Both are addressable.
func identical(a, b reflect.Value) bool {
	switch a.Kind() {
	case reflect.Struct:
		for i := range a.NumField() {
			if !identical(a.Field(i), b.Field(i)) {
				return false
			}
		}
		return true
	case reflect.Func: // a closure is where its pointer points to; reflect tells its code, which others share
		return *(*unsafe.Pointer)(a.Addr().UnsafePointer()) == *(*unsafe.Pointer)(b.Addr().UnsafePointer())
	}
	return a.Comparable() && b.Comparable() && a.Equal(b)
}

// Compile compiles objects. The Version is nil when a problem is an Error.
func (k *Compiler) Compile(objs *source.Objects, opts Options) (*Version, []source.Problem) {
	if k.spoilt || !identical(reflect.ValueOf(&k.options).Elem(), reflect.ValueOf(&opts).Elem()) {
		k.forget()
		k.options = opts
	}
	v, problems, ok := k.compile(objs)
	if ok {
		return v, problems
	}
	// Objects that are there twice have no place in what is remembered: which of them counts depends on their order.
	k.forget()
	k.options = opts
	v, problems, _ = k.compile(objs)
	k.spoilt = true
	return v, problems
}

// compile is one run. ok is false where it gave up, because of objects that are there twice: a run that has nothing to remember does not.
func (k *Compiler) compile(objs *source.Objects) (_ *Version, _ []source.Problem, ok bool) {
	first := k.run == 0
	if first && k.options.Check {
		k.keepLittle()
	}
	k.run++
	k.spoilt = true // until all is well: a run that panics leaves nothing to go on from
	c := &compiler{
		Compiler: k, opts: k.options, objs: objs,
		policyOf: map[source.ObjectRef]*v1alpha1.LoadPolicy{},
		out:      &Version{Table: &table.Table{Created: k.options.Created}},
	}
	backends, routes, limits, budgets, double := c.follow()
	caches, sessions := follow(c, &c.cachePolicies, objs.CachePolicies), follow(c, &c.conversations, objs.SessionPolicies)
	double = c.settleNames() || double
	if double && !first {
		return nil, nil, false
	}
	c.settings()
	c.doors()
	c.captures()
	c.lanesOfGateways()
	c.identity()
	c.loadPoliciesOfBackends()
	c.compileBackends(backends)
	c.compileRoutes(routes)
	c.undecided()
	c.compilePolicies(limits, budgets)
	c.remember(caches, sessions)
	c.out.MaxWait = c.limitWait + c.poolWait
	c.compileGateways()
	c.compileRelay()
	if !source.HasErrors(c.problems) {
		c.advice()
	}
	k.sweep()
	k.spoilt = double
	c.placeProblems()
	source.SortProblems(c.problems)
	if source.HasErrors(c.problems) {
		return nil, c.problems, true
	}
	c.finish()
	return c.out, c.problems, true
}

// follow finds out what has changed since the last run.
func (c *compiler) follow() (backends, routes, limits, budgets *moves, double bool) {
	o := c.objs
	follow(c, &c.gateways, o.Gateways)
	backends = follow(c, &c.backends, o.Backends)
	routes = follow(c, &c.routes, o.Routes)
	follow(c, &c.consumers, o.Consumers)
	follow(c, &c.apiKeys, o.APIKeys)
	follow(c, &c.issuers, o.JWTIssuers)
	limits = follow(c, &c.limitPolicies, o.LimitPolicies)
	budgets = follow(c, &c.budgets, o.Budgets)
	follow(c, &c.loadPolicies, o.LoadPolicies)
	follow(c, &c.grantObjects, o.ReferenceGrants)
	double = c.settleNames()
	c.secrets.follow(c.Compiler, o.Secrets)
	c.endpoints.follow(c.Compiler, o.Endpoints)
	c.namespaces.follow(c.Compiler, o.Namespaces)
	if c.run == 1 || c.grantObjects.changed == c.run {
		c.grants = o.Grants()
		for r, permit := range c.permits {
			settle(c.Compiler, permit, c.grants.Permit(r.from, r.to))
		}
	}
	return backends, routes, limits, budgets, double
}

// sweep forgets answers that nobody needs any more.
func (k *Compiler) sweep() {
	objects := len(k.gateways.objects) + len(k.backends.objects) + len(k.routes.objects) + len(k.consumers.objects) + len(k.apiKeys.objects) +
		len(k.issuers.objects) + len(k.limitPolicies.objects) + len(k.budgets.objects) + len(k.loadPolicies.objects) + len(k.grantObjects.objects) +
		len(k.cachePolicies.objects) + len(k.conversations.objects)
	sweep(k.names, objects, func(v *name) bool { return v.n > 0 || v.users > 0 })
	sweep(k.made, len(k.backends.objects), func(v *value[*backend]) bool { return v.is != nil || v.users > 0 })
	sweep(k.sections, len(k.routes.objects), func(v *ruleNames) bool { return v.is != nil || v.users > 0 })
	sweep(k.secrets.cells, k.secrets.there, func(v *valueOf[source.Secret]) bool { return v.there || v.users > 0 })
	sweep(k.endpoints.cells, k.endpoints.there, func(v *valueOf[[]v1alpha1.Endpoint]) bool { return v.there || v.users > 0 })
	sweep(k.admitted, 0, func(v *admissions) bool { return v.users > 0 })
	sweep(k.namespaces.cells, k.namespaces.there+len(k.admitted), func(v *valueOf[map[string]string]) bool { return v.there })
	sweep(k.permits, 0, func(v *value[bool]) bool { return v.users > 0 })
}

// placeProblems says where the fields are written that problems speak of: a file may have been moved around an object that is as it was.
func (c *compiler) placeProblems() {
	for i := range c.problems {
		p := &c.problems[i]
		if origin := c.objs.Origins[p.Object]; origin != nil {
			p.File, p.Line = origin.File, origin.Locate(p.Field)
		} else {
			p.File, p.Line = "", 0
		}
	}
}

// finish makes the version of what was compiled.
func (c *compiler) finish() {
	v, t := c.out, c.out.Table
	v.Listeners, v.Clusters, v.Endpoints, v.Secrets = c.listeners.plain(), c.clusters.handOut(), c.loads.plain(), c.sds.plain()
	v.Routes, v.Pools, v.Steered = c.entries.handOut(), c.pools.plain(), c.steered.plain()
	v.ID = c.id()
	t.Use(c.index)
	t.Chains, t.Policies = c.chains.handOut(), c.policies
	t.Version, t.Currency = v.ID, v.Currency
	t.Waits = len(c.objs.LimitPolicies)+len(c.objs.Budgets) > 0 || c.poolWait > 0
	if v.Shared != nil {
		t.KeySharing = limit.Lease
	}
	if len(c.objs.Gateways) == 1 {
		t.Gateway = c.objs.Gateways[0].Namespace + "/" + c.objs.Gateways[0].Name
	}
}

// id identifies the objects and what was made of them: the second part changes when a newer weir compiles the same objects differently.
func (k *Compiler) id() string {
	h := sha256.New()
	for _, s := range []sum{
		k.gateways.total, k.backends.total, k.routes.total, k.consumers.total, k.apiKeys.total, k.issuers.total, k.limitPolicies.total,
		k.budgets.total, k.loadPolicies.total, k.grantObjects.total, k.secrets.total, k.endpoints.total, k.namespaces.total,
		k.cachePolicies.total, k.conversations.total,
		k.listeners.total, k.clusters.total, k.loads.total, k.sds.total, k.entries.total, k.pools.total, k.steered.total,
	} {
		fmt.Fprintf(h, "%016x", s)
	}
	return hex.EncodeToString(h.Sum(nil))[:12]
}
