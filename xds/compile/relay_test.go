package compile

import (
	"slices"
	"strings"
	"testing"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	earlyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/early_header_mutation/header_mutation/v3"

	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/extproc/table"
	"github.com/weir-dev/weir/extproc/wire"
	"github.com/weir-dev/weir/xds/source"
)

// strippedOf are the headers that the door of a listener takes off.
func strippedOf(t *testing.T, m *hcmv3.HttpConnectionManager) (names, prefixes []string) {
	t.Helper()
	early := &earlyv3.HeaderMutation{}
	if err := m.GetEarlyHeaderMutationExtensions()[0].GetTypedConfig().UnmarshalTo(early); err != nil {
		t.Fatal(err)
	}
	for _, x := range early.GetMutations() {
		if x.GetRemove() != "" {
			names = append(names, x.GetRemove())
		}
		if p := x.GetRemoveOnMatch().GetKeyMatcher().GetPrefix(); p != "" {
			prefixes = append(prefixes, p)
		}
	}
	return names, prefixes
}

func managerOf(t *testing.T, v *Version, listener string) *hcmv3.HttpConnectionManager {
	t.Helper()
	m := &hcmv3.HttpConnectionManager{}
	filters := v.Listeners[listener].GetFilterChains()[0].GetFilters()
	if err := filters[len(filters)-1].GetTypedConfig().UnmarshalTo(m); err != nil {
		t.Fatal(err)
	}
	return m
}

// TestRelay: the relay, its route and the inner listener are there where some policy is, and what tells fills is taken off at every other door.
func TestRelay(t *testing.T) {
	plain := docGateway + docCaller + docRoute + doc("Backend", "a", "{dialect: openai, url: 'http://a.example'}")
	before := compileText(t, plain)
	if before.Clusters.Get(wire.RelayCluster) != nil || before.Routes.Get(wire.RelayKey) != nil || before.Listeners[wire.InnerListener] != nil {
		t.Error("there is a relay without a policy")
	}
	after := compileText(t, plain+doc("CachePolicy", "c", "{targetRefs: [{kind: LLMGateway, name: main}]}"))
	if after.Clusters.Get(wire.RelayCluster) == nil || after.Routes.Get(wire.RelayKey) == nil || after.Listeners[wire.InnerListener] == nil {
		t.Fatal("there is no relay")
	}
	if got := after.Listeners[wire.InnerListener].GetAddress().GetPipe(); got.GetPath() != "/run/weir/inner.sock" || got.GetMode() != 0o600 {
		t.Errorf("the inner listener is at %v", got)
	}
	for name := range after.Listeners {
		m := managerOf(t, after, name)
		names, prefixes := strippedOf(t, m)
		stripped := strings.Join(names, " ") + " "
		for _, header := range wire.PrivateHeaders {
			kept := header == wire.RuleHeader || header == wire.FlightHeader && name == wire.InnerListener
			if strings.Contains(stripped, header+" ") == kept {
				t.Errorf("%s: %s is taken off: %v", name, header, !kept)
			}
		}
		if strings.Join(prefixes, " ") != "x-envoy-" {
			t.Errorf("%s: prefixes %q are taken off", name, prefixes)
		}
		for _, f := range m.GetHttpFilters() {
			decide := &extprocv3.ExternalProcessor{}
			if f.GetName() != decideFilter || f.GetTypedConfig().UnmarshalTo(decide) != nil {
				continue
			}
			marked := false
			for _, h := range decide.GetGrpcService().GetInitialMetadata() {
				marked = marked || h.GetKey() == wire.InnerMetadata
			}
			if marked != (name == wire.InnerListener) {
				t.Errorf("%s: calls are marked as those of the inner listener: %v", name, marked)
			}
		}
	}
	opts := options(t)
	opts.RelaySocket = ""
	v, problems := Compile(load(t, plain+doc("CachePolicy", "c", "{targetRefs: [{kind: LLMGateway, name: main}]}")), opts)
	if source.HasErrors(problems) || v.Listeners[wire.InnerListener] != nil {
		t.Errorf("a process without a relay: %v", problems)
	}
}

// TestKeeping: of the policies that cover a request, the one with the most specific target applies.
func TestKeeping(t *testing.T) {
	target := func(name, kind, of, more string) string {
		return doc("CachePolicy", name, "{targetRefs: [{kind: "+kind+", name: '"+of+"'"+more+"}]}")
	}
	v := compileText(t, docGateway+docCaller+doc("Backend", "a", "{dialect: openai, url: 'http://a.example'}")+
		doc("Route", "r", "{rules: [{name: one, matches: [{models: [m]}], backends: [{name: a}]}, {name: two, matches: [{models: [k]}], backends: [{name: a}]}]}")+
		target("gateway", "LLMGateway", "main", "")+target("route", "Route", "r", "")+target("rule", "Route", "r", ", sectionName: one")+
		target("all", "Tenant", "*", "")+target("tenant", "Tenant", "t", "")+target("consumer", "Consumer", "demo", "")+
		doc("CachePolicy", "narrow", "{targetRefs: [{kind: Consumer, name: demo}], models: [x]}"))
	tbl := v.Table
	if tbl.Caches.Empty() || !tbl.Sessions.Empty() {
		t.Fatal("caches and sessions are mixed up")
	}
	rules := map[string]*table.Rule{}
	for _, r := range tbl.All() {
		rules[r.Name] = r
	}
	one, two := rules["default/r/one"], rules["default/r/two"]
	for _, c := range []struct {
		id   identity.Identity
		want string
	}{
		{identity.Identity{Tenant: "t", ConsumerID: "default/demo"}, "default/consumer"},
		{identity.Identity{Tenant: "t", ConsumerID: "default/x"}, "default/tenant"},
		{identity.Identity{Tenant: "u"}, "default/all"},
	} {
		if got := tbl.Caches.Find("default/main", one, &c.id, "m"); got == nil || got.Name != c.want || got.Policy == nil {
			t.Errorf("%+v: %+v, want %s", c.id, got, c.want)
		}
	}
	keeping := tbl.Caches
	keeping.AllTenants = nil
	if got := keeping.Find("default/main", one, &identity.Identity{Tenant: "u"}, "m"); got == nil || got.Name != "default/rule" {
		t.Errorf("by the rule: %+v", got)
	}
	if got := keeping.Find("default/main", two, &identity.Identity{Tenant: "u"}, "k"); got == nil || got.Name != "default/route" {
		t.Errorf("by the route: %+v", got)
	}
	keeping.Routes, keeping.Rules = nil, nil
	if got := keeping.Find("default/main", two, &identity.Identity{Tenant: "u"}, "k"); got == nil || got.Name != "default/gateway" {
		t.Errorf("by the gateway: %+v", got)
	}
	if got := keeping.Find("default/other", two, &identity.Identity{Tenant: "u"}, "k"); got != nil {
		t.Errorf("by another gateway: %+v", got)
	}
}

// dumpKeeping prints what policies are attached to.
func dumpKeeping[P any](k *table.Keeping[P], what func(P) string) string {
	var lines []string
	for kind, m := range map[string]map[string][]table.Kept[P]{
		"gateway": k.Gateways, "route": k.Routes, "rule": k.Rules, "tenant": k.Tenants, "consumer": k.Consumers, "credential": k.Credentials,
		"all": {"": k.AllTenants},
	} {
		for at, list := range m {
			line := kind + " " + at + ":"
			for i := range list {
				line += " " + list[i].Name + " " + what(list[i].Policy)
			}
			lines = append(lines, line+"\n")
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}
