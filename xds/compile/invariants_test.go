package compile

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	luav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/lua/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/extproc/pick"
	"github.com/weir-dev/weir/extproc/table"
	"github.com/weir-dev/weir/extproc/wire"
	"github.com/weir-dev/weir/internal/cow"
	"github.com/weir-dev/weir/xds/source"
)

// checkVersion holds what must be true of every Version.
func checkVersion(t *testing.T, v *Version) {
	t.Helper()
	checkMessages(t, v)
	checkSecrets(t, v)
	checkChains(t, v)
	if v.Table.Version != v.ID {
		t.Errorf("the table is of version %q, Envoy's part of %q", v.Table.Version, v.ID)
	}
	checkSteering(t, v)
	undecided := v.Routes.Get(UndecidedKey)
	for key, r := range v.Routes.All() {
		if r == undecided || key == wire.RelayKey {
			continue
		}
		_, steered := v.Steered[key]
		sum := uint32(0)
		for _, w := range r.GetRoute().GetWeightedClusters().GetClusters() {
			if v.Clusters.Get(w.GetName()) == nil {
				t.Errorf("route %s names the cluster %s, which is not there", key, w.GetName())
			}
			if w.GetWeight().GetValue() == 0 && !steered {
				t.Errorf("route %s never asks %s", key, w.GetName())
			}
			sum += w.GetWeight().GetValue()
		}
		if sum == 0 {
			t.Errorf("route %s asks nobody", key)
		}
	}
	for name, c := range v.Clusters.All() {
		if c.GetName() != name {
			t.Errorf("cluster %s calls itself %s", name, c.GetName())
		}
		if s := c.GetEdsClusterConfig(); s != nil && v.Endpoints[s.GetServiceName()] == nil {
			t.Errorf("cluster %s has no endpoints", name)
		}
	}
	used := map[string]bool{}
	for _, r := range v.Table.All() {
		checkRule(t, v, r, used)
	}
	checkOpen(t, v, undecided, used)
	for key := range v.Routes.Names() {
		if key != UndecidedKey && key != wire.RelayKey && !used[key] {
			t.Errorf("no decision leads to the route %s", key)
		}
	}
}

// checkOpen: the undecided route has code of its own where some pool fails open, and then alone. It leads to routes that are there,
// whose backends all fail open and speak the dialect.
func checkOpen(t *testing.T, v *Version, undecided *routev3.Route, used map[string]bool) {
	t.Helper()
	opens := false
	for _, p := range v.Pools {
		opens = opens || p.FailOpen
	}
	if undecided == nil || opens != (undecided.GetTypedPerFilterConfig()[openFilter] != nil) {
		t.Fatalf("pools fail open: %v; the undecided route: %v", opens, undecided)
	}
	if !opens {
		return
	}
	targets := textOf(t, openCode(t, undecided), "TARGETS")
	for _, l := range strings.Split(strings.TrimSuffix(targets, "\n"), "\n") {
		f := strings.Split(l, "\t")
		if len(f) != 4 {
			if targets != "" {
				t.Errorf("the targets have the line %q", l)
			}
			continue
		}
		if f[3] == "" {
			continue
		}
		used[f[3]] = true
		r := v.Routes.Get(f[3])
		if r == nil || r.GetStatPrefix() != openStat {
			t.Errorf("requests of the model %q without a decision go to the route %s, which is %v", f[2], f[3], r)
		}
		for _, w := range r.GetRoute().GetWeightedClusters().GetClusters() {
			id := strings.TrimPrefix(w.GetName()[:strings.LastIndexByte(w.GetName(), '/')], "backend/")
			if p := v.Pools[id]; p == nil || !p.FailOpen {
				t.Errorf("requests without a decision may go to %s: %+v", id, p)
			}
		}
	}
}

// openCode is the Lua of the undecided route.
func openCode(t testing.TB, r *routev3.Route) string {
	t.Helper()
	conf := &luav3.LuaPerRoute{}
	if err := r.GetTypedPerFilterConfig()[openFilter].UnmarshalTo(conf); err != nil {
		t.Fatal(err)
	}
	return conf.GetSourceCode().GetInlineString()
}

// textOf is a text that Lua code begins with.
func textOf(t *testing.T, code, name string) string {
	t.Helper()
	_, rest, ok := strings.Cut(code, "local "+name+" = ")
	quoted, _, _ := strings.Cut(rest, "\n")
	text, err := strconv.Unquote(quoted) // of plain names Lua's escapes are Go's
	if !ok || err != nil {
		t.Fatalf("the text %s is %.80q: %v", name, quoted, err)
	}
	return text
}

// checkRule: whatever Capable can answer, there is a variant, with routes that exist and the right candidates.
func checkRule(t *testing.T, v *Version, r *table.Rule, used map[string]bool) {
	t.Helper()
	for _, mask := range r.Masks([]string{"openai", "anthropic"}) {
		variant := r.Variant(mask)
		if variant == nil {
			t.Errorf("rule %s: nothing serves the candidates %b", r.Name, mask)
			continue
		}
		var have table.Mask
		for _, c := range variant.Candidates {
			have |= c.Bit
		}
		if have != mask {
			t.Errorf("rule %s: the variant of %b has the candidates %b", r.Name, mask, have)
		}
		if v.Routes.Get(variant.ChainKey) == nil {
			t.Errorf("rule %s: the chain route %q of %b is not there", r.Name, variant.ChainKey, mask)
		}
		if variant.DirectKey != "" && v.Routes.Get(variant.DirectKey) == nil {
			t.Errorf("rule %s: the direct route %q of %b is not there", r.Name, variant.DirectKey, mask)
		}
		used[variant.ChainKey], used[variant.DirectKey] = true, true
		checkFirst(t, v, r, variant, used)
	}
}

// checkFirst: where Weir picks, there is a route that begins with each candidate, of the kinds that the variant has.
func checkFirst(t *testing.T, v *Version, r *table.Rule, variant *table.Variant, used map[string]bool) {
	t.Helper()
	want := slices.ContainsFunc(variant.Candidates, func(c *table.Candidate) bool {
		return c.Backend.Pick != nil && c.Backend.Pick.Mode == pick.LeastLoad
	})
	if (variant.First != nil) != want {
		t.Errorf("rule %s: routes for each candidate: %v, want %v", r.Name, variant.First != nil, want)
	}
	if !want {
		return
	}
	for _, c := range variant.Candidates {
		k, ok := variant.First[c]
		if !ok || (k.Direct != "") != (variant.DirectKey != "") {
			t.Errorf("rule %s: from %s there are %+v", r.Name, c.Backend.ID, k)
			continue
		}
		used[k.Direct], used[k.Chain] = true, true
		chain := v.Routes.Get(k.Chain).GetRoute().GetWeightedClusters().GetClusters()
		if len(chain) != 1 || v.Table.Chains.Get(chain[0].GetName()).Candidates[0].Backend != c.Backend {
			t.Errorf("rule %s: the chain from %s is %v", r.Name, c.Backend.ID, chain)
		}
		if k.Direct == "" {
			continue
		}
		direct := v.Routes.Get(k.Direct).GetRoute().GetWeightedClusters().GetClusters()
		if len(direct) != 1 || asksFirst(t, v, direct[0].GetName()) != c.Backend.ID {
			t.Errorf("rule %s: the direct route from %s is %v", r.Name, c.Backend.ID, direct)
		}
		if order := asked(v, direct[0].GetName()); len(order) > 1 && !slices.EqualFunc(order, k.Order, func(id string, c *table.Candidate) bool { return id == c.Backend.ID }) {
			t.Errorf("rule %s: from %s attempts ask %v, the table says %v", r.Name, c.Backend.ID, order, candidateLines(k.Order, false))
		}
	}
}

// checkSteering: what steering replaces is there, in the same order, and nothing else can be meant by it.
func checkSteering(t *testing.T, v *Version) {
	t.Helper()
	for id, p := range v.Pools {
		cl := v.Clusters.Get(p.Cluster)
		if p.Backend != id || cl == nil || (cl.GetEdsClusterConfig() != nil) != p.EDS || p.EDS != (cl.GetLoadBalancingPolicy() != nil) {
			t.Errorf("the pool %s is %+v, its cluster %v", id, p, cl)
			continue
		}
		if len(p.Endpoints) == 0 || p.Tick <= 0 || p.EDS && p.Pick == nil {
			t.Errorf("the pool %s is %+v", id, p)
		}
		if !p.EDS {
			continue
		}
		served := v.Endpoints[p.Cluster].GetEndpoints()[0].GetLbEndpoints()
		if len(served) != len(p.Endpoints) {
			t.Errorf("the pool %s has %d endpoints, its cluster %d", id, len(p.Endpoints), len(served))
			continue
		}
		for i, e := range served {
			a := e.GetEndpoint().GetAddress().GetSocketAddress()
			if at := (PoolEndpoint{p.Endpoints[i].Key, a.GetAddress(), a.GetPortValue(), e.GetLoadBalancingWeight().GetValue()}); at != p.Endpoints[i] {
				t.Errorf("endpoint %d of the pool %s is %+v, that of the cluster %+v", i, id, p.Endpoints[i], at)
			}
		}
	}
	for key, s := range v.Steered {
		clusters := v.Routes.Get(key).GetRoute().GetWeightedClusters().GetClusters()
		if len(clusters) != len(s.Members) || len(clusters) < 2 {
			t.Errorf("route %s chooses among %v, steering among %+v", key, clusters, s.Members)
			continue
		}
		steered := false
		for i, m := range s.Members {
			steered = steered || v.Pools[m.Backend] != nil
			if name := clusters[i].GetName(); asksFirst(t, v, name) != m.Backend {
				t.Errorf("route %s: member %d is %s, and %s begins with %s", key, i, m.Backend, name, asksFirst(t, v, name))
			}
			first := slices.MinFunc(s.Members, func(a, b SteeredMember) int { return int(a.Priority - b.Priority) }).Priority
			if got := clusters[i].GetWeight().GetValue(); m.Priority == first && got != m.Weight || m.Priority != first && got != 0 {
				t.Errorf("route %s: member %+v has the weight %d", key, m, got)
			}
		}
		if !steered {
			t.Errorf("route %s is steered, and none of its members is", key)
		}
	}
}

// asks are the IDs of the backends that the attempts of a cluster ask, in order.
func asksFirst(t *testing.T, v *Version, cluster string) string {
	t.Helper()
	return asked(v, cluster)[0]
}

// checkChains: Envoy and ext_proc agree on who is tried when. Attempts of the other chains ask nobody.
func checkChains(t *testing.T, v *Version) {
	t.Helper()
	seen := 0
	for name := range v.Clusters.Names() {
		switch kind, _, _ := strings.Cut(name, "/"); kind {
		case "backend", wire.RelayCluster:
			continue
		case "direct":
			checkDirectChain(t, v, name)
			continue
		}
		seen++
		chain, order := v.Table.Chains.Get(name), asked(v, name)
		if chain == nil {
			t.Errorf("Envoy has the chain %s, the table has not", name)
			continue
		}
		if len(chain.Candidates) != len(order) {
			t.Errorf("chain %s: Envoy tries %d, the table knows %d", name, len(order), len(chain.Candidates))
			continue
		}
		tries := map[string]int{}
		for i, got := range order {
			want := chain.Candidates[i]
			if got != want.Backend.ID {
				t.Errorf("chain %s, attempt %d: Envoy asks %s, the table says %s", name, i, got, want.Backend.ID)
			}
			if got := chain.Nth(want.Backend.ID, tries[want.Backend.ID]); got != want {
				t.Errorf("chain %s, attempt %d: Nth finds %+v, want %+v", name, i, got, want)
			}
			tries[want.Backend.ID]++
		}
	}
	if seen != v.Table.Chains.Len() {
		t.Errorf("Envoy has %d chains, the table has %d", seen, v.Table.Chains.Len())
	}
}

// checkDirectChain: of the backends that its attempts ask, each speaks the same dialect and gets its own credential, where it has one,
// and no attempt asks Weir.
func checkDirectChain(t *testing.T, v *Version, name string) {
	t.Helper()
	backends := map[string]*table.Backend{}
	for _, r := range v.Table.All() {
		for _, c := range r.Candidates {
			backends[c.Backend.ID] = c.Backend
		}
	}
	filters := map[string]bool{}
	for _, f := range upstreamFilters(t, v.Clusters.Get(name)) {
		filters[f.GetName()] = true
		if conf := f.GetTypedConfig(); conf.MessageIs(&extprocv3.ExternalProcessor{}) {
			t.Errorf("%s: its attempts ask Weir", name)
		}
	}
	order := asked(v, name)
	for i, id := range order {
		b := backends[id]
		if b == nil || b.Dialect.Name != backends[order[0]].Dialect.Name || b.Dialect.In == nil {
			t.Errorf("%s: attempt %d asks %s: %+v", name, i, id, b)
			continue
		}
		for _, c := range b.Credentials {
			if !filters["weir.credential."+id+"."+c.Name] {
				t.Errorf("%s: attempt %d at %s gets no %s", name, i, id, c.Name)
			}
		}
	}
	if len(order) < 2 {
		t.Errorf("%s asks %v alone", name, order)
	}
}

// upstreamFilters are those that the attempts of a cluster pass.
func upstreamFilters(t *testing.T, c *clusterv3.Cluster) []*hcmv3.HttpFilter {
	t.Helper()
	options := &httpv3.HttpProtocolOptions{}
	if err := c.GetTypedExtensionProtocolOptions()[httpOptionsKey].UnmarshalTo(options); err != nil {
		t.Fatal(err)
	}
	return options.GetHttpFilters()
}

// checkSecrets: a secret is in Secrets and in the table, and in nothing that a config dump shows.
func checkSecrets(t *testing.T, v *Version) {
	t.Helper()
	look := func(kind, name string, m proto.Message) {
		if raw := deterministic(m); strings.Contains(string(raw), marker) || strings.Contains(string(raw), "PRIVATE KEY") {
			t.Errorf("a secret is in the %s %s", kind, name)
		}
	}
	for n, m := range v.Listeners {
		look("listener", n, m)
	}
	for n, m := range v.Clusters.All() {
		look("cluster", n, m)
	}
	for n, m := range v.Endpoints {
		look("endpoints", n, m)
	}
	for n, m := range v.Routes.All() {
		look("route", n, m)
	}
	for n, m := range Scopes(v.Routes, v.MaxBody) {
		look("scope", n, m)
	}
}

type validated interface {
	proto.Message
	ValidateAll() error
}

// checkMessages: Envoy's own field rules hold, in packed messages as well.
func checkMessages(t *testing.T, v *Version) {
	t.Helper()
	for n, m := range v.Listeners {
		checkMessage(t, "listener "+n, m)
	}
	for n, m := range v.Clusters.All() {
		checkMessage(t, "cluster "+n, m)
	}
	for n, m := range v.Endpoints {
		checkMessage(t, "endpoints "+n, m)
	}
	for n, m := range v.Secrets {
		checkMessage(t, "secret "+n, m)
	}
	for n, m := range v.Routes.All() {
		checkMessage(t, "route "+n, m)
	}
	for n, m := range Scopes(v.Routes, v.MaxBody) {
		checkMessage(t, "scope "+n, m)
	}
}

func checkMessage(t *testing.T, what string, m proto.Message) {
	t.Helper()
	v, ok := m.(validated)
	if !ok {
		return // of a type without rules, such as google.protobuf.Struct
	}
	if err := v.ValidateAll(); err != nil {
		t.Errorf("%s: %v", what, err)
	}
	for _, inner := range packedIn(t, m) {
		checkMessage(t, what+" > "+string(inner.ProtoReflect().Descriptor().Name()), inner)
	}
}

func TestGoldensHoldTheInvariants(t *testing.T) {
	for name, in := range goldens(t) {
		t.Run(name, func(t *testing.T) { checkVersion(t, compileText(t, in)) })
	}
}

// TestRandomConfigurations compiles small random configurations twice each.
func TestRandomConfigurations(t *testing.T) {
	opts := options(t)
	good := 0
	for seed := range uint64(150) {
		v, problems := Compile(randomObjects(rand.New(rand.NewPCG(seed, 1))), opts)
		again, _ := Compile(randomObjects(rand.New(rand.NewPCG(seed, 1))), opts)
		if v == nil {
			if again != nil {
				t.Fatalf("seed %d: refused once", seed)
			}
			if len(problems) == 0 {
				t.Fatalf("seed %d: refused without a reason", seed)
			}
			continue
		}
		good++
		if v.ID != again.ID {
			t.Errorf("seed %d: the same objects make the versions %s and %s", seed, v.ID, again.ID)
		}
		checkVersion(t, v)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	if good < 75 {
		t.Errorf("only %d of 150 random configurations compile; the generator tests little", good)
	}
}

// TestKeysOfRoutes: a request that was decided just before a change of weights finds its route still; after a change
// of what the route does, both routes are there.
func TestKeysOfRoutes(t *testing.T) {
	opts := options(t)
	for seed := range uint64(60) {
		objs := randomObjects(rand.New(rand.NewPCG(seed, 1)))
		v, _ := Compile(objs, opts)
		if v == nil {
			continue
		}
		for _, r := range objs.Routes {
			for i := range r.Spec.Rules {
				for j := range r.Spec.Rules[i].Backends {
					if w := r.Spec.Rules[i].Backends[j].Weight; *w > 0 {
						*w += 7
					}
				}
			}
		}
		reweighted, _ := Compile(objs, opts)
		if got, want := namesOf(reweighted.Routes), namesOf(v.Routes); !slices.Equal(got, want) {
			t.Fatalf("seed %d: new weights change the keys from %q to %q", seed, want, got)
		}
		if reweighted.ID == v.ID {
			t.Errorf("seed %d: new weights make no new version", seed)
		}
		objs.Routes[0].Spec.Rules[0].Timeouts.Request = &metav1.Duration{Duration: 77 * time.Second}
		retimed, _ := Compile(objs, opts)
		for key, r := range retimed.Routes.All() {
			if old := v.Routes.Get(key); key != UndecidedKey && old != nil && !bytes.Equal(withoutWeights(old), withoutWeights(r)) {
				t.Fatalf("seed %d: the key %s stands for two different routes", seed, key)
			}
		}
		if slices.Equal(namesOf(retimed.Routes), namesOf(v.Routes)) {
			t.Errorf("seed %d: another timeout keeps all keys", seed)
		}
	}
}

func keysOf[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func namesOf[V any](m cow.Map[V]) []string { return slices.Sorted(m.Names()) }

// TestNamesOfClusters: what changes a cluster changes its name, so that both can be served at once. Where its requests go
// and with which key is a part of that; a list of models is not.
func TestNamesOfClusters(t *testing.T) {
	base := docGateway + docCaller + docRoute
	of := func(rest string) string {
		v := compileText(t, base+backendDoc("a", rest))
		for name := range v.Clusters.Names() {
			if strings.HasPrefix(name, "backend/") {
				return name
			}
		}
		return ""
	}
	plain := of("")
	for rest, same := range map[string]bool{
		", models: [{name: gpt-4o}]":                   true,
		", defaultMaxTokens: 5":                        true,
		", protocol: HTTP2":                            false,
		", connections: {maxConnections: 3}":           false,
		", credential: {secretRef: {env: OPENAI_KEY}}": false, // a filter more
	} {
		if got := of(rest); (got == plain) != same {
			t.Errorf("with %q the cluster is %s, without it %s", rest, got, plain)
		}
	}
	if a, b := of(", credential: {secretRef: {env: OPENAI_KEY}}"), of(", credential: {secretRef: {env: ANTHROPIC_KEY}}"); a == b {
		t.Errorf("with two keys the cluster is %s", a)
	}
}

// TestVersionsShareNoKeyAndNoHost: two versions are served at once for a while, and Envoy has one resource of a name. Of
// what both name the same, none may be a key or the host of a URL that is not the same in both.
func TestVersionsShareNoKeyAndNoHost(t *testing.T) {
	backend := func(where, key string) *Version {
		return compileText(t, docGateway+docCaller+docRoute+
			doc("Backend", "a", "{dialect: openai, "+where+", credential: {secretRef: {env: "+key+"}}}"))
	}
	const (
		here, there   = "url: 'http://127.0.0.1:8000'", "url: 'http://127.0.0.2:8000'"
		named, moved  = "url: 'http://here.example'", "url: 'http://there.example'"
		pool, larger  = "endpoints: [{address: 10.0.0.1, port: 80}]", "endpoints: [{address: 10.0.0.1, port: 80}, {address: 10.0.0.2, port: 80}]"
		oldKey, other = "OPENAI_KEY", "ANTHROPIC_KEY"
	)
	for _, c := range []struct {
		name         string
		before       *Version
		after        *Version
		sameClusters bool
	}{
		{"key", backend(here, oldKey), backend(here, other), false},
		{"address", backend(here, oldKey), backend(there, oldKey), false},
		{"address and key", backend(here, oldKey), backend(there, other), false},
		{"name", backend(named, oldKey), backend(moved, oldKey), false},
		{"key of a pool", backend(pool, oldKey), backend(pool, other), false},
		{"endpoints of a pool", backend(pool, oldKey), backend(larger, oldKey), true},
		{"nothing", backend(here, oldKey), backend(here, oldKey), true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if same := slices.Equal(namesOf(c.before.Clusters), namesOf(c.after.Clusters)); same != c.sameClusters {
				t.Errorf("clusters before: %q, after: %q", namesOf(c.before.Clusters), namesOf(c.after.Clusters))
			}
			for name, before := range c.before.Secrets {
				if after := c.after.Secrets[name]; after != nil && !proto.Equal(before, after) {
					t.Errorf("two keys have the name %s", name)
				}
			}
			for name, before := range c.before.Endpoints {
				if after := c.after.Endpoints[name]; after != nil && !c.sameClusters {
					t.Errorf("%s is at %v and %v", name, before, after)
				}
			}
		})
	}
}

// TestChainsOfOneName: a name that is taken by other backends is an error, and none of the two is served.
func TestChainsOfOneName(t *testing.T) {
	c := &compiler{Compiler: NewCompiler(), objs: &source.Objects{}, unit: &unit{}}
	of := func(backend, model string) []member {
		return []member{{Candidate: &table.Candidate{Backend: &table.Backend{ID: backend}, Model: model}, cluster: "backend/" + backend}}
	}
	name := c.chain(of("n/a", "m"))
	if again := c.chain(of("n/a", "m")); again != name || len(c.problems) != 0 {
		t.Fatalf("the same chain again is %s, not %s: %v", again, name, c.problems)
	}
	for _, other := range [][]member{of("n/b", "m"), of("n/a", "other"), append(of("n/a", "m"), of("n/a", "m")...)} {
		c.problems = nil
		chain := &table.Chain{Name: name}
		for _, m := range other {
			chain.Candidates = append(chain.Candidates, m.Candidate)
		}
		c.chains.m.Set(name, chain) // as if the hashes were equal
		c.chain(of("n/a", "m"))
		if !source.HasErrors(c.problems) || !strings.Contains(c.problems[0].String(), name) {
			t.Errorf("problems: %v", c.problems)
		}
	}
}

// randomObjects makes a small configuration with everything filled in that a schema would fill in.
func randomObjects(rng *rand.Rand) *source.Objects {
	objs := source.NewObjects()
	meta := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: "n", Name: name} }
	d := func(s time.Duration) *metav1.Duration { return &metav1.Duration{Duration: s} }
	models := []v1alpha1.ModelName{"m1", "m2", "m3", "m4"}
	some := func() (out []v1alpha1.ModelName) {
		for _, m := range models {
			if rng.IntN(2) == 0 {
				out = append(out, m)
			}
		}
		return out
	}
	objs.Gateways = []*v1alpha1.LLMGateway{{ObjectMeta: meta("g"), Spec: v1alpha1.LLMGatewaySpec{
		Listeners: []v1alpha1.Listener{{Name: "l", Address: "127.0.0.1", Port: 8080}},
		Limits:    v1alpha1.GatewayLimits{MaxRequestBytes: resource.MustParse("1Mi"), MaxHeaderKiB: 60},
		Timeouts:  v1alpha1.GatewayTimeouts{Idle: d(time.Hour), StreamIdle: d(time.Minute), Request: d(time.Minute)},
	}}}
	ref := v1alpha1.SecretRef{Env: "KEY"}
	objs.Secrets[source.SecretKeyOf("n", ref)] = source.NewSecret(marker)
	for i := range 1 + rng.IntN(4) {
		b := &v1alpha1.Backend{ObjectMeta: meta(fmt.Sprintf("b%d", i)), Spec: v1alpha1.BackendSpec{
			Dialect: []string{"openai", "anthropic", "dashscope"}[rng.IntN(3)],
			URL:     []string{"http://127.0.0.1:8000/v1", "https://api.example/v1", "http://pool.local"}[rng.IntN(3)],
			Connections: v1alpha1.ConnectionLimits{
				MaxConnections: 10, MaxRequests: 10, MaxPendingRequests: 10, ConnectTimeout: d(time.Second),
			},
		}}
		for _, m := range some() {
			b.Spec.Models = append(b.Spec.Models, v1alpha1.BackendModel{Name: m})
		}
		if rng.IntN(2) == 0 {
			b.Spec.Credential = &v1alpha1.BackendCredential{SecretRef: ref}
		}
		objs.Backends = append(objs.Backends, b)
	}
	for i := range rng.IntN(3) {
		p := &v1alpha1.LoadPolicy{ObjectMeta: meta(fmt.Sprintf("p%d", i))}
		p.Spec.Weights.Tick = d(250 * time.Millisecond)
		p.Spec.Weights.Headroom = &v1alpha1.HeadroomRule{Enter: 10, Leave: 20, FactorPercent: []int32{50, 100}[rng.IntN(2)]}
		p.Spec.Picking.Mode = []v1alpha1.PickMode{v1alpha1.PickLeastLoad, v1alpha1.PickWeights}[rng.IntN(2)]
		target := v1alpha1.LoadPolicyTarget{Kind: v1alpha1.LoadTargetGateway, Name: "g"}
		if i > 0 || rng.IntN(2) == 0 {
			target = v1alpha1.LoadPolicyTarget{Kind: v1alpha1.LoadTargetBackend, Name: v1alpha1.ObjectName(objs.Backends[i%len(objs.Backends)].Name)}
		}
		p.Spec.TargetRefs = append(p.Spec.TargetRefs, target)
		if rng.IntN(2) == 0 {
			p.Spec.FailureMode = v1alpha1.LoadFailOpen
		}
		objs.LoadPolicies = append(objs.LoadPolicies, p)
	}
	for i := range 1 + rng.IntN(3) {
		r := &v1alpha1.Route{ObjectMeta: meta(fmt.Sprintf("r%d", i))}
		for range 1 + rng.IntN(3) {
			r.Spec.Rules = append(r.Spec.Rules, randomRule(rng, objs, d))
		}
		objs.Routes = append(objs.Routes, r)
	}
	return objs
}

func randomRule(rng *rand.Rand, objs *source.Objects, d func(time.Duration) *metav1.Duration) v1alpha1.RouteRule {
	rule := v1alpha1.RouteRule{
		Retry: v1alpha1.RouteRetry{
			Attempts:   int32(rng.IntN(5)),
			Conditions: []v1alpha1.RetryCondition{v1alpha1.RetryConnectFailure, v1alpha1.RetryServerError, v1alpha1.RetryRateLimited, v1alpha1.RetryTimeout}[rng.IntN(4):],
		},
		Timeouts: v1alpha1.RouteTimeouts{Request: d(time.Duration(1+rng.IntN(3)) * time.Minute)},
	}
	for range 1 + rng.IntN(5) {
		b := objs.Backends[rng.IntN(len(objs.Backends))]
		weight := int32(rng.IntN(4))
		rb := v1alpha1.RouteBackend{Name: v1alpha1.ObjectName(b.Name), Weight: &weight, Priority: int32(rng.IntN(3))}
		if n := len(b.Spec.Models); n > 0 && rng.IntN(3) == 0 {
			rb.Model = b.Spec.Models[rng.IntN(n)].Name
		}
		rule.Backends = append(rule.Backends, rb)
	}
	switch rng.IntN(4) {
	case 0:
		rule.Matches = []v1alpha1.RouteMatch{{Models: []v1alpha1.ModelName{"m*"}}, {Method: "POST"}}
	case 1:
		rule.Matches = []v1alpha1.RouteMatch{{Path: &v1alpha1.PathMatch{Type: v1alpha1.PathPrefix, Value: "/v1"}}}
	}
	return rule
}
