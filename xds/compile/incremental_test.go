package compile

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/extproc/table"
	"github.com/weir-dev/weir/internal/cow"
	"github.com/weir-dev/weir/xds/source"
)

// allBytes are the messages of a map, by name.
func allBytes[M proto.Message](m map[string]M) (out []byte) {
	for _, name := range slices.Sorted(maps.Keys(m)) {
		out = append(append(out, name...), deterministic(m[name])...)
	}
	return out
}

// everything is a version in words: what Envoy gets, and what requests are decided from.
func everything(t testing.TB, v *Version) string {
	t.Helper()
	if v == nil {
		return "refused"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %d %v %v\n", v.ID, v.MaxBody, v.Retain, v.MaxWait)
	for _, part := range [][]byte{allBytes(v.Listeners), allBytes(maps.Collect(v.Clusters.All())), allBytes(v.Endpoints), allBytes(v.Secrets), allBytes(maps.Collect(v.Routes.All()))} {
		fmt.Fprintf(&b, "%x\n", part)
	}
	settings := v.Settings
	settings.Shared, settings.Authz = nil, nil
	fmt.Fprintf(&b, "%s%s %+v\n", asJSON(v.Pools), asJSON(v.Steered), settings)
	for _, id := range slices.Sorted(maps.Keys(v.Pools)) {
		p := v.Pools[id]
		fmt.Fprintf(&b, "%s %v %d\n", id, p.TLS != nil, len(p.Prices))
	}
	tb := v.Table
	text, err := json.Marshal(dumpTable(tb))
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(&b, "%s\n%s\n", text, dumpPolicies(tb))
	b.WriteString(dumpKeeping(&tb.Caches, func(p table.CachePolicy) string { return p.TTL.String() }))
	b.WriteString(dumpKeeping(&tb.Sessions, func(p table.SessionPolicy) string { return p.ID }))
	fmt.Fprintf(&b, "%s %d %s %v %s %v %v %v %s %d\n", tb.Version, tb.Created, tb.Currency, tb.KeySharing, tb.Gateway, tb.Waits, tb.Prompts, tb.Native, tb.Vary, len(tb.Captures))
	for _, name := range slices.Sorted(tb.Chains.Names()) {
		fmt.Fprintf(&b, "%s: %v\n", name, candidateLines(tb.Chains.Get(name).Candidates, false))
	}
	for _, key := range []string{"alpha", "beta", "gamma"} {
		h := identity.Headers{}
		h.Add("authorization", "Bearer "+keyText(key))
		id, refused := tb.Auth.Authenticate(t.Context(), h, netip.MustParseAddr("10.0.0.1"), time.Unix(1_800_000_000, 0))
		if id == nil {
			fmt.Fprintf(&b, "%s: %v\n", key, refused)
			continue
		}
		fmt.Fprintf(&b, "%s: %s %s %v %v %v\n", key, id.CredentialID, id.Tenant, id.Labels, id.MayUse("m1"), id.MayUse("m3"))
	}
	return b.String()
}

// findings says which rules a table finds for requests of all kinds.
func findings(tb *table.Table) string {
	var b strings.Builder
	for _, model := range []string{"", "m1", "m2", "m3", "other"} {
		for _, path := range []string{"/v1/chat/completions", "/v1/messages", "/x"} {
			for _, header := range []string{"", "1"} {
				r := tb.Find(&table.Request{Gateway: "n1/g0", Method: "POST", Path: path, Model: model, Labels: map[string]string{"team": "a"},
					Header: func(name string) (string, bool) { return header, name == "x-h" && header != "" }})
				if r == nil {
					b.WriteString("- ")
					continue
				}
				fmt.Fprintf(&b, "%s(%d %d) ", r.Name, r.Capable(model, ""), len(tb.Applying(nil, "n1/g0", r, &identity.Identity{Tenant: "n1"}, model)))
			}
		}
	}
	return b.String()
}

func keyText(name string) string { return "sk-" + strings.Repeat(name, 8) }

// world changes a configuration step by step. Every change makes new objects and new maps.
type world struct {
	rng  *rand.Rand
	objs *source.Objects
	opts Options
}

func pickOf[T any](w *world, list ...T) T { return list[w.rng.IntN(len(list))] }

func (w *world) yes(percent int) bool { return w.rng.IntN(100) < percent }

func (w *world) namespace() string { return pickOf(w, "n1", "n1", "n1", "n2") }

func (w *world) meta(prefix string, n int) metav1.ObjectMeta {
	m := metav1.ObjectMeta{Namespace: w.namespace(), Name: fmt.Sprintf("%s%d", prefix, w.rng.IntN(n)), CreationTimestamp: metav1.Unix(int64(w.rng.IntN(3)), 0)}
	if w.yes(10) {
		m.Annotations = map[string]string{"note": fmt.Sprint(w.rng.IntN(3))}
	}
	return m
}

func duration1(d time.Duration) *metav1.Duration { return &metav1.Duration{Duration: d} }

func (w *world) models() (out []v1alpha1.ModelName) {
	for _, m := range []v1alpha1.ModelName{"m1", "m2", "m3", "m*"} {
		if w.yes(25) {
			out = append(out, m)
		}
	}
	return out
}

func (w *world) secretRef() v1alpha1.SecretRef {
	ref := v1alpha1.SecretRef{Name: v1alpha1.ObjectName(pickOf(w, "s0", "s1", "s2", "s3")), Key: "value"}
	if w.yes(15) {
		ref.Namespace = v1alpha1.NamespaceName(w.namespace())
	}
	return ref
}

func (w *world) gateway() *v1alpha1.LLMGateway {
	g := &v1alpha1.LLMGateway{ObjectMeta: w.meta("g", 2), Spec: v1alpha1.LLMGatewaySpec{
		Listeners: []v1alpha1.Listener{{Name: "l", Address: "127.0.0.1", Port: int32(8000 + w.rng.IntN(40))}},
		Limits:    v1alpha1.GatewayLimits{MaxRequestBytes: *resource.NewQuantity(int64(1+w.rng.IntN(3))<<20, resource.BinarySI), MaxHeaderKiB: 60},
		Timeouts:  v1alpha1.GatewayTimeouts{Idle: duration1(time.Hour), StreamIdle: duration1(time.Minute), Request: duration1(time.Minute)},
	}}
	if w.yes(20) {
		g.Spec.NativeLane = v1alpha1.NativeLaneDisabled
	}
	if w.yes(20) {
		ref := w.secretRef()
		g.Spec.Authentication.KeyPepperRef = &ref
	}
	if w.yes(10) {
		g.Spec.Authentication.KeyStore = v1alpha1.KeysRedis
	}
	g.Spec.AllowedRoutes = w.allowedRoutes()
	return g
}

func (w *world) allowedRoutes() (out []v1alpha1.AllowedRoutes) {
	if w.yes(60) {
		return nil
	}
	for range 1 + w.rng.IntN(3) {
		a := v1alpha1.AllowedRoutes{}
		switch a.Namespaces.From = pickOf(w, v1alpha1.NamespacesFromAll, v1alpha1.NamespacesFromSame, v1alpha1.NamespacesFromSelector); a.Namespaces.From {
		case v1alpha1.NamespacesFromSelector:
			a.Namespaces.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{pickOf(w, "team", "kubernetes.io/metadata.name"): pickOf(w, "n1", "n2")}}
		case v1alpha1.NamespacesFromAll:
			if w.yes(50) {
				a.PathPrefixes = []string{pickOf(w, "/v1", "/{namespace}", "/")}
			}
		}
		if w.yes(20) {
			a.Models = []v1alpha1.ModelName{"m*"}
		}
		out = append(out, a)
	}
	return out
}

func (w *world) backend() *v1alpha1.Backend {
	b := &v1alpha1.Backend{ObjectMeta: w.meta("b", 6), Spec: v1alpha1.BackendSpec{
		Dialect: pickOf(w, "openai", "openai", "openai", "anthropic"),
		Connections: v1alpha1.ConnectionLimits{
			MaxConnections: 10, MaxRequests: int32(10 + w.rng.IntN(2)), MaxPendingRequests: 10, ConnectTimeout: duration1(time.Second),
		},
	}}
	switch w.rng.IntN(4) {
	case 0:
		b.Spec.URL = pickOf(w, "http://127.0.0.1:8000/v1", "http://pool.local", "https://api.example/v1")
	case 1:
		b.Spec.Endpoints = []v1alpha1.Endpoint{{Address: "10.0.0.1", Port: 80, Weight: 1}, {Address: "10.0.0.2", Port: 80, Weight: int32(1 + w.rng.IntN(3))}}
	default:
		b.Spec.Selector = &v1alpha1.PodSelector{}
	}
	for _, m := range w.models() {
		if strings.Contains(string(m), "*") {
			continue
		}
		model := v1alpha1.BackendModel{Name: m}
		if w.yes(20) {
			model.UpstreamName = "up-" + m
		}
		b.Spec.Models = append(b.Spec.Models, model)
	}
	if w.yes(40) {
		b.Spec.Credential = &v1alpha1.BackendCredential{SecretRef: w.secretRef()}
	}
	if w.yes(20) {
		b.Spec.Prices = []v1alpha1.Price{{Input: "1", Output: "2"}}
	}
	return b
}

func (w *world) route() *v1alpha1.Route {
	r := &v1alpha1.Route{ObjectMeta: w.meta("r", 6)}
	for range 1 + w.rng.IntN(2) {
		rule := v1alpha1.RouteRule{Timeouts: v1alpha1.RouteTimeouts{Request: duration1(time.Duration(1+w.rng.IntN(3)) * time.Minute)}}
		if w.yes(30) {
			rule.Name = v1alpha1.ObjectName(pickOf(w, "one", "two"))
		}
		rule.Retry.Attempts = int32(w.rng.IntN(3))
		for range 1 + w.rng.IntN(3) {
			weight := int32(w.rng.IntN(4))
			b := v1alpha1.RouteBackend{Name: v1alpha1.ObjectName(fmt.Sprintf("b%d", w.rng.IntN(6))), Weight: &weight, Priority: int32(w.rng.IntN(2))}
			if w.yes(20) {
				b.Namespace = v1alpha1.NamespaceName(w.namespace())
			}
			if w.yes(10) {
				b.Model = "m1"
			}
			rule.Backends = append(rule.Backends, b)
		}
		for range w.rng.IntN(3) {
			m := v1alpha1.RouteMatch{Models: w.models()}
			if w.yes(20) {
				m.Path = &v1alpha1.PathMatch{Type: v1alpha1.PathPrefix, Value: pickOf(w, "/v1", "/x")}
			}
			if w.yes(20) {
				m.Headers = []v1alpha1.ValueMatch{{Name: pickOf(w, "x-h", "x-other"), Value: "1"}}
			}
			if w.yes(10) {
				m.ConsumerLabels = map[string]string{"team": "a"}
			}
			rule.Matches = append(rule.Matches, m)
		}
		r.Spec.Rules = append(r.Spec.Rules, rule)
	}
	return r
}

func (w *world) consumer() *v1alpha1.Consumer {
	c := &v1alpha1.Consumer{ObjectMeta: w.meta("c", 3)}
	c.Spec.Tenant = pickOf(w, "", "red", "blue")
	c.Spec.AllowedModels = w.models()
	return c
}

func (w *world) apiKey() *v1alpha1.APIKey {
	k := &v1alpha1.APIKey{ObjectMeta: w.meta("k", 4)}
	k.Spec.Consumer = v1alpha1.ObjectName(fmt.Sprintf("c%d", w.rng.IntN(3)))
	if w.yes(30) {
		ref := w.secretRef()
		k.Spec.SecretRef = &ref
	} else {
		k.Spec.Hash = identity.HashKey(keyText(pickOf(w, "alpha", "beta", "gamma")))
	}
	if w.yes(20) {
		k.Spec.AllowedCIDRs = []string{pickOf(w, "10.0.0.0/8", "10.0.0.1/8")}
	}
	return k
}

func (w *world) targets() []v1alpha1.PolicyTarget {
	t := v1alpha1.PolicyTarget{Kind: pickOf(w, v1alpha1.TargetGateway, v1alpha1.TargetRoute, v1alpha1.TargetTenant, v1alpha1.TargetConsumer, v1alpha1.TargetAPIKey)}
	switch t.Kind {
	case v1alpha1.TargetGateway:
		t.Name = "g0"
	case v1alpha1.TargetRoute:
		t.Name = fmt.Sprintf("r%d", w.rng.IntN(6))
		if w.yes(30) {
			t.SectionName = "one"
		}
	case v1alpha1.TargetTenant:
		t.Name = pickOf(w, "red", "n1", "*")
	case v1alpha1.TargetConsumer:
		t.Name = fmt.Sprintf("c%d", w.rng.IntN(3))
	case v1alpha1.TargetAPIKey:
		t.Name = fmt.Sprintf("k%d", w.rng.IntN(4))
	}
	return []v1alpha1.PolicyTarget{t}
}

func (w *world) cachePolicy() *v1alpha1.CachePolicy {
	p := &v1alpha1.CachePolicy{ObjectMeta: w.meta("cp", 3)}
	p.Spec.TargetRefs, p.Spec.Models = w.targets(), w.models()
	p.Spec.TTL = duration1(time.Duration(1+w.rng.IntN(3)) * time.Minute)
	return p
}

func (w *world) sessionPolicy() *v1alpha1.SessionPolicy {
	p := &v1alpha1.SessionPolicy{ObjectMeta: w.meta("sp", 3)}
	p.Spec.TargetRefs = w.targets()
	return p
}

func (w *world) limitPolicy() *v1alpha1.LimitPolicy {
	p := &v1alpha1.LimitPolicy{ObjectMeta: w.meta("p", 4), Spec: v1alpha1.LimitPolicySpec{TargetRefs: w.targets(), Models: w.models()}}
	l := v1alpha1.Limit{Name: "l", Unit: pickOf(w, v1alpha1.UnitRequests, v1alpha1.UnitCost), Limit: resource.MustParse("5"), Window: duration1(time.Minute)}
	if w.yes(30) {
		l.MaxWait = duration1(time.Second)
	}
	p.Spec.Limits = []v1alpha1.Limit{l}
	p.Spec.Per = pickOf(w, v1alpha1.PerTarget, v1alpha1.PerTenant)
	return p
}

func (w *world) loadPolicy() *v1alpha1.LoadPolicy {
	p := &v1alpha1.LoadPolicy{ObjectMeta: w.meta("lp", 3)}
	p.Spec.Weights.Tick = duration1(250 * time.Millisecond)
	p.Spec.Picking.Mode = pickOf(w, v1alpha1.PickLeastLoad, v1alpha1.PickWeights)
	p.Spec.TargetRefs = []v1alpha1.LoadPolicyTarget{{Kind: v1alpha1.LoadTargetBackend, Name: v1alpha1.ObjectName(fmt.Sprintf("b%d", w.rng.IntN(6)))}}
	if w.yes(30) {
		p.Spec.TargetRefs = []v1alpha1.LoadPolicyTarget{{Kind: v1alpha1.LoadTargetGateway, Name: "g0"}}
	}
	if w.yes(40) {
		p.Spec.FailureMode = v1alpha1.LoadFailOpen
	}
	return p
}

func (w *world) budget() *v1alpha1.Budget {
	b := &v1alpha1.Budget{ObjectMeta: w.meta("bu", 2), Spec: v1alpha1.BudgetSpec{TargetRefs: w.targets(), Models: w.models()}}
	b.Spec.Amount, b.Spec.TimeZone, b.Spec.Period = resource.MustParse("10"), pickOf(w, "UTC", "UTC", "Nowhere"), v1alpha1.PeriodDay
	return b
}

func (w *world) grant() *v1alpha1.ReferenceGrant {
	g := &v1alpha1.ReferenceGrant{ObjectMeta: w.meta("rg", 2)}
	g.Spec.From = []v1alpha1.ReferenceGrantFrom{{Kind: pickOf(w, v1alpha1.GrantFromRoute, v1alpha1.GrantFromBackend), Namespace: v1alpha1.NamespaceName(w.namespace())}}
	g.Spec.To = []v1alpha1.ReferenceGrantTo{{Kind: pickOf(w, v1alpha1.GrantToBackend, v1alpha1.GrantToSecret)}}
	return g
}

// edited puts an object into a list, in the place of one of its name, or takes one out.
func edited[T source.Object](w *world, list []T, made T) []T {
	list = slices.Clone(list)
	if len(list) > 1 && w.yes(15) {
		i := w.rng.IntN(len(list))
		return slices.Delete(list, i, i+1)
	}
	same := slices.IndexFunc(list, func(o T) bool { return source.RefOf(o) == source.RefOf(made) })
	if same >= 0 {
		list[same] = made
		return list
	}
	at := w.rng.IntN(len(list) + 1)
	return slices.Insert(list, at, made)
}

// newWorld begins with a gateway, and with what Backends and APIKeys point to.
func newWorld(t testing.TB, seed uint64) *world {
	w := &world{rng: rand.New(rand.NewPCG(seed, 1)), objs: source.NewObjects(), opts: options(t)}
	w.opts.Lenient = true
	w.objs.Gateways = []*v1alpha1.LLMGateway{w.gateway()}
	for _, namespace := range []string{"n1", "n2"} {
		for i := range 6 {
			w.objs.Secrets[source.SecretKeyOf(namespace, v1alpha1.SecretRef{Name: v1alpha1.ObjectName(fmt.Sprintf("s%d", i)), Key: "value"})] = source.NewSecret(fmt.Sprintf("%s-secret-%d-0123456789", namespace, i))
			w.objs.Endpoints[source.ObjectRef{Kind: "Backend", Namespace: namespace, Name: fmt.Sprintf("b%d", i)}] = []v1alpha1.Endpoint{{Address: "10.9.0.1", Port: 80, Weight: 1}}
		}
	}
	for range 6 {
		w.objs.Backends = edited(w, w.objs.Backends, w.backend())
	}
	return w
}

// step makes the next configuration.
func (w *world) step() {
	next := *w.objs
	o := &next
	w.objs = o
	switch w.rng.IntN(17) {
	case 0:
		if o.Gateways = edited(w, o.Gateways, w.gateway()); len(o.Gateways) == 0 {
			o.Gateways = []*v1alpha1.LLMGateway{w.gateway()}
		}
	case 1, 2:
		o.Backends = edited(w, o.Backends, w.backend())
	case 3, 4:
		o.Routes = edited(w, o.Routes, w.route())
	case 5:
		o.Consumers = edited(w, o.Consumers, w.consumer())
	case 6:
		o.APIKeys = edited(w, o.APIKeys, w.apiKey())
	case 7, 8:
		o.LimitPolicies = edited(w, o.LimitPolicies, w.limitPolicy())
	case 9:
		o.Budgets = edited(w, o.Budgets, w.budget())
	case 10:
		o.LoadPolicies = edited(w, o.LoadPolicies, w.loadPolicy())
	case 14:
		o.CachePolicies = edited(w, o.CachePolicies, w.cachePolicy())
	case 15:
		o.SessionPolicies = edited(w, o.SessionPolicies, w.sessionPolicy())
	case 11:
		o.ReferenceGrants = edited(w, o.ReferenceGrants, w.grant())
	case 12:
		o.Secrets = maps.Clone(o.Secrets)
		key := source.SecretKeyOf(w.namespace(), v1alpha1.SecretRef{Name: v1alpha1.ObjectName(pickOf(w, "s0", "s1", "s2", "s3")), Key: "value"})
		if w.yes(10) {
			delete(o.Secrets, key)
		} else {
			o.Secrets[key] = source.NewSecret(pickOf(w, keyText("alpha"), keyText("gamma"), "weak", strings.Repeat("pepper", 8)))
		}
	case 13:
		o.Endpoints = maps.Clone(o.Endpoints)
		ref := source.ObjectRef{Kind: "Backend", Namespace: w.namespace(), Name: fmt.Sprintf("b%d", w.rng.IntN(6))}
		if len(o.Backends) > 0 && w.yes(70) {
			ref = source.RefOf(pickOf(w, o.Backends...))
		}
		list := []v1alpha1.Endpoint{}
		for i := range w.rng.IntN(4) {
			list = append(list, v1alpha1.Endpoint{Address: fmt.Sprintf("10.9.0.%d", i+1+w.rng.IntN(2)), Port: 80, Weight: 1})
		}
		if o.Endpoints[ref] = list; w.yes(10) {
			delete(o.Endpoints, ref)
		}
	default:
		switch w.rng.IntN(8) {
		case 6:
			o.Namespaces = map[string]map[string]string{}
			for _, namespace := range []string{"n1", "n2"} {
				if w.yes(70) {
					o.Namespaces[namespace] = map[string]string{"team": pickOf(w, "n1", "n2")}
				}
			}
		case 7:
			w.opts.AllowedRoutes = pickOf(w, "", v1alpha1.NamespacesFromAll, v1alpha1.NamespacesFromSame)
		case 0:
			w.opts.Lenient = !w.opts.Lenient
		case 1:
			w.opts.LaneFile = pickOf(w, "", "/run/weir/lanes")
		case 2: // the same again, in another order
			o.Routes, o.Backends = slices.Clone(o.Routes), slices.Clone(o.Backends)
			w.rng.Shuffle(len(o.Routes), func(i, j int) { o.Routes[i], o.Routes[j] = o.Routes[j], o.Routes[i] })
			w.rng.Shuffle(len(o.Backends), func(i, j int) { o.Backends[i], o.Backends[j] = o.Backends[j], o.Backends[i] })
		case 3: // from another reading: the same objects at other places
			for i, r := range o.Routes {
				o.Routes = slices.Clone(o.Routes)
				o.Routes[i] = r.DeepCopy()
			}
		case 4:
			o.Origins = map[source.ObjectRef]*source.Origin{}
			for _, obj := range o.All() {
				o.Origins[source.RefOf(obj)] = source.NewOrigin(pickOf(w, "a.yaml", "b.yaml"), 1+w.rng.IntN(9), nil)
			}
		case 5: // an object that is there twice
			if len(o.Routes) > 0 && w.yes(30) {
				o.Routes = append(slices.Clone(o.Routes), o.Routes[0].DeepCopy())
			} else {
				seen := map[source.ObjectRef]bool{}
				o.Routes = slices.DeleteFunc(slices.Clone(o.Routes), func(r *v1alpha1.Route) bool {
					twice := seen[source.RefOf(r)]
					seen[source.RefOf(r)] = true
					return twice
				})
			}
		}
	}
}

// repair takes out what is wrong.
func (w *world) repair(problems []source.Problem) {
	next := *w.objs
	o := &next
	w.objs = o
	wrong := map[source.ObjectRef]bool{}
	for _, p := range problems {
		if p.Severity == source.Error {
			wrong[p.Object] = true
		}
	}
	o.Backends, o.Routes, o.Consumers, o.APIKeys = without(o.Backends, wrong), without(o.Routes, wrong), without(o.Consumers, wrong), without(o.APIKeys, wrong)
	o.LimitPolicies, o.Budgets, o.LoadPolicies = without(o.LimitPolicies, wrong), without(o.Budgets, wrong), without(o.LoadPolicies, wrong)
	o.CachePolicies, o.SessionPolicies = without(o.CachePolicies, wrong), without(o.SessionPolicies, wrong)
	if o.Gateways = without(o.Gateways, wrong); len(o.Gateways) == 0 {
		o.Gateways = []*v1alpha1.LLMGateway{w.gateway()}
	}
}

func without[T source.Object](list []T, wrong map[source.ObjectRef]bool) []T {
	return slices.DeleteFunc(slices.Clone(list), func(o T) bool { return wrong[source.RefOf(o)] })
}

func problemLines(problems []source.Problem) (out []string) {
	for _, p := range problems {
		out = append(out, string(p.Reason)+" "+p.String())
	}
	return out
}

// TestIncremental: a Compiler that has compiled other configurations before makes what a new one makes, and what it has made before stays as it is.
func TestIncremental(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, seed)
			k, checking := NewCompiler(), NewCompiler()
			type kept struct {
				v    *Version
				text string
			}
			var before []kept
			var last []source.Problem
			good, made := 0, 0
			for step := range 120 {
				if last == nil || !source.HasErrors(last) || w.yes(15) {
					w.step()
				} else {
					w.repair(last)
				}
				got, gotProblems := k.Compile(w.objs, w.opts)
				last = gotProblems
				want, wantProblems := Compile(w.objs, w.opts)
				if a, b := problemLines(gotProblems), problemLines(wantProblems); !slices.Equal(a, b) {
					t.Fatalf("step %d: the problems are\n%s\nand of a new Compiler\n%s", step, strings.Join(a, "\n"), strings.Join(b, "\n"))
				}
				checkOnly(t, checking, w, gotProblems, want)
				text := everything(t, got)
				if fresh := everything(t, want); text != fresh {
					t.Fatalf("step %d differs: %s", step, firstDifference(text, fresh))
				}
				if got == nil {
					continue
				}
				good++
				if a, b := findings(got.Table), findings(want.Table); a != b {
					t.Fatalf("step %d finds\n%s\nand a new table\n%s", step, a, b)
				}
				// What a configuration that was refused did without is made anew, and so is everything after a change of options.
				if n := len(before); n > 0 && made == step-1 && k.run > 1 {
					checkShared(t, before[n-1].v, got)
				}
				before, made = append(before, kept{got, text}), step
				if len(before) > 5 {
					before = before[1:]
				}
			}
			for i, b := range before {
				if now := everything(t, b.v); now != b.text {
					t.Errorf("the version of %d steps before the end has changed: %s", len(before)-i, firstDifference(now, b.text))
				}
			}
			if good < 30 {
				t.Errorf("only %d of the configurations are valid", good)
			}
		})
	}
}

// checkOnly: a Compiler of versions that are not served says the same of the objects, and keeps nothing for Envoy.
func checkOnly(t *testing.T, k *Compiler, w *world, problems []source.Problem, want *Version) {
	t.Helper()
	opts := w.opts
	opts.Check = true
	got, gotProblems := k.Compile(w.objs, opts)
	if a, b := problemLines(gotProblems), problemLines(problems); !slices.Equal(a, b) {
		t.Fatalf("the problems are\n%s\nand for a version that is served\n%s", strings.Join(a, "\n"), strings.Join(b, "\n"))
	}
	if kept := k.listeners.m.Len() + k.clusters.m.Len() + k.loads.m.Len() + k.sds.m.Len() + k.entries.m.Len() + k.steered.m.Len(); kept > 0 {
		t.Fatalf("%d values are kept for Envoy", kept)
	}
	if want == nil || got == nil {
		if got != want {
			t.Fatal("one is refused and the other is not")
		}
		return
	}
	left, decisions := *want, *want.Table
	left.Listeners, left.Endpoints, left.Secrets, left.Steered = nil, nil, nil, nil
	left.Clusters, left.Routes = cow.Map[*clusterv3.Cluster]{}, cow.Map[*routev3.Route]{}
	decisions.Chains = cow.Map[*table.Chain]{}
	left.Table = &decisions
	if a, b := everything(t, got), everything(t, &left); a != b {
		t.Fatalf("a version that is not served differs: %s", firstDifference(a, b))
	}
	if a, b := findings(got.Table), findings(want.Table); a != b {
		t.Fatalf("it finds\n%s\nand one that is served\n%s", a, b)
	}
}

// checkShared: messages that are the same in two versions are at the same place.
func checkShared(t *testing.T, before, after *Version) {
	t.Helper()
	sharedIn(t, before.Listeners, after.Listeners)
	sharedIn(t, maps.Collect(before.Clusters.All()), maps.Collect(after.Clusters.All()))
	sharedIn(t, before.Endpoints, after.Endpoints)
	sharedIn(t, before.Secrets, after.Secrets)
	sharedIn(t, maps.Collect(before.Routes.All()), maps.Collect(after.Routes.All()))
}

func sharedIn[M interface {
	comparable
	proto.Message
}](t *testing.T, before, after map[string]M) {
	t.Helper()
	for name, m := range after {
		if old, ok := before[name]; ok && old != m && proto.Equal(old, m) {
			t.Errorf("%s was made anew", name)
		}
	}
}

// TestReadersOfOldVersions: requests read one version while the next ones are compiled. The race detector looks on.
func TestReadersOfOldVersions(t *testing.T) {
	w := newWorld(t, 7)
	k := NewCompiler()
	var readers sync.WaitGroup
	for range 150 {
		w.step()
		v, problems := k.Compile(w.objs, w.opts)
		if v == nil {
			w.repair(problems)
			continue
		}
		readers.Go(func() {
			findings(v.Table)
			everything(t, v)
		})
	}
	readers.Wait()
}

// TestTotalsOfRoutes: what all Routes together come to follows each of them, also where only one is another one than before.
func TestTotalsOfRoutes(t *testing.T) {
	objs, opts, k := manyObjects(t, 3, 3), options(t), NewCompiler()
	k.Compile(objs, opts)
	for _, change := range []func(*v1alpha1.RouteRule){
		func(r *v1alpha1.RouteRule) { r.Timeouts.Request = duration1(time.Hour) },
		func(r *v1alpha1.RouteRule) { r.Timeouts.Request = duration1(time.Minute) },
		func(r *v1alpha1.RouteRule) {
			r.Matches[0].Headers = []v1alpha1.ValueMatch{{Name: "X-Team", Value: "red"}}
		},
		func(r *v1alpha1.RouteRule) { r.Matches[0].Headers[0].Name = "x-other" },
		func(r *v1alpha1.RouteRule) { r.Matches[0].Headers = nil },
		func(r *v1alpha1.RouteRule) { r.Backends[0].Weight = new(int32(7)) },
	} {
		next := *objs
		next.Routes = slices.Clone(objs.Routes)
		next.Routes[1] = objs.Routes[1].DeepCopy()
		change(&next.Routes[1].Spec.Rules[0])
		objs = &next
		got, _ := k.Compile(objs, opts)
		want, problems := Compile(objs, opts)
		if want == nil || got == nil {
			t.Fatal(problems)
		}
		if got.Retain != want.Retain || got.Table.Vary != want.Table.Vary || got.ID != want.ID {
			t.Errorf("%v, %q and %s, not %v, %q and %s", got.Retain, got.Table.Vary, got.ID, want.Retain, want.Table.Vary, want.ID)
		}
	}
}
