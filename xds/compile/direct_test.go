package compile

import (
	"slices"
	"strings"
	"testing"

	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	matchingv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/matching/v3"
	headermutationv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	luav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/lua/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/extproc/table"
	"github.com/weir-dev/weir/extproc/wire"
)

// chained is a member of a chain under test.
type chained struct {
	id, model, base string
	dialect         *canon.Dialect
	models          map[string]string
	signals         []string
	injected        []injected
}

func (c chained) member() member {
	return member{
		Candidate: &table.Candidate{Backend: &table.Backend{ID: c.id, Dialect: c.dialect, BasePath: c.base, Models: c.models}, Model: c.model},
		cluster:   "backend/" + c.id, signals: c.signals, injected: c.injected,
	}
}

func members(list ...chained) (out []member) {
	for _, c := range list {
		out = append(out, c.member())
	}
	return out
}

// TestAlike: Envoy can prepare attempts where one dialect is spoken and some model keeps its name.
func TestAlike(t *testing.T) {
	set := options(t).Dialects
	get := func(name string) *canon.Dialect {
		d, ok := set.Get(name)
		if !ok {
			t.Fatal(name)
		}
		return &d
	}
	openai, anthropic, dashscope := get("openai"), get("anthropic"), get("dashscope")
	same, renamed := map[string]string{"m": "m"}, map[string]string{"m": "other"}
	for _, c := range []struct {
		name string
		in   []chained
		want bool
	}{
		{"any model", []chained{{id: "a", dialect: openai}, {id: "b", dialect: openai}}, true},
		{"one list of models", []chained{{id: "a", dialect: openai, models: same}, {id: "b", dialect: openai}}, true},
		{"two lists with one model", []chained{{id: "a", dialect: openai, models: same}, {id: "b", dialect: openai, models: map[string]string{"m": "m", "n": "n"}}}, true},
		{"a name that each knows otherwise", []chained{{id: "a", dialect: openai, models: same}, {id: "b", dialect: openai, models: renamed}}, false},
		{"another dialect", []chained{{id: "a", dialect: openai}, {id: "b", dialect: anthropic}}, false},
		{"a dialect that no caller speaks", []chained{{id: "a", dialect: dashscope}, {id: "b", dialect: dashscope}}, false},
		{"the same model asked for", []chained{{id: "a", dialect: openai, model: "m"}, {id: "b", dialect: openai, model: "m"}}, true},
		{"several models asked for", []chained{{id: "a", dialect: openai, model: "m"}, {id: "b", dialect: openai, model: "n"}}, false},
		{"a model asked for that has another name there, which callers may know", []chained{{id: "a", dialect: openai, model: "m", models: renamed}, {id: "b", dialect: openai}}, true},
		{"a backend twice", []chained{{id: "a", dialect: openai}, {id: "b", dialect: openai}, {id: "a", dialect: openai}}, true},
		{"a backend twice with two models", []chained{{id: "a", dialect: openai}, {id: "b", dialect: openai}, {id: "a", dialect: openai, model: "m"}}, false},
	} {
		if got := alike(members(c.in...)); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

// TestDirectChainFilters: each attempt is prepared by what prepares the requests of a rule with its backend alone, and by nothing that is
// not needed.
func TestDirectChainFilters(t *testing.T) {
	d := &canon.Dialect{Name: "openai", Header: "version"}
	key := func(id, header string, versions ...string) injected {
		return injected{canon.Credential{Name: header, Versions: versions}, "credential/" + id + "/" + header}
	}
	orca := []string{wire.LoadReport}
	for _, c := range []struct {
		name string
		in   []chained
		want string // filters
	}{
		{"no credentials", []chained{{id: "a", dialect: d}, {id: "b", dialect: d}}, "weir.clean weir.codec"},
		{"credentials", []chained{{id: "a", dialect: d, injected: []injected{key("a", "authorization")}}, {id: "b", dialect: d}, {id: "a", dialect: d, injected: []injected{key("a", "authorization")}}},
			"weir.clean weir.credential.a.authorization weir.at weir.codec"},
		{"credentials by version", []chained{{id: "a", dialect: d, injected: []injected{key("a", "x-api-key", "1", "2"), key("a", "authorization")}}, {id: "b", dialect: d, injected: []injected{key("b", "x-api-key")}}},
			"weir.clean weir.credential.a.x-api-key weir.credential.a.authorization weir.credential.b.x-api-key weir.at weir.codec"},
		{"base paths", []chained{{id: "a", dialect: d, base: "/v1"}, {id: "b", dialect: d, base: "/x"}}, "weir.clean weir.base weir.at weir.codec"},
		{"reports of load", []chained{{id: "a", dialect: d, signals: orca}, {id: "b", dialect: d}}, "weir.clean weir.load weir.from weir.codec"},
	} {
		t.Run(c.name, func(t *testing.T) {
			filters := directChainFilters(members(c.in...))
			var names []string
			for _, f := range filters {
				names = append(names, f.GetName())
			}
			if got := strings.Join(names, " "); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
			alone, chain := mutationsOf(t, directFilters(nil, "", nil)[0]), mutationsOf(t, filters[0])
			n := len(alone.GetRequestMutations())
			if !slices.EqualFunc(alone.GetRequestMutations(), chain.GetRequestMutations()[:n], equal) || !slices.EqualFunc(alone.GetResponseMutations(), chain.GetResponseMutations(), equal) {
				t.Errorf("weir.clean is not that of one backend:\n%v\n%v", chain, alone)
			}
			more := ""
			for _, m := range chain.GetRequestMutations()[n:] {
				h := m.GetAppend().GetHeader()
				more += h.GetKey() + "=" + h.GetValue() + " "
			}
			want := ""
			if strings.Contains(c.want, "weir.load") {
				want += wire.LoadFormat + "=%UPSTREAM_METADATA(weir:reports)% "
			}
			if strings.Contains(c.want, "weir.at") {
				want += "x-weir-at=%UPSTREAM_METADATA(weir:backend)%#%UPSTREAM_REQUEST_ATTEMPT_COUNT% "
			}
			if more != want {
				t.Errorf("it also sets %s, want %s", more, want)
			}
		})
	}
}

func equal(a, b *mutationv3.HeaderMutation) bool { return proto.Equal(a, b) }

func mutationsOf(t *testing.T, f *hcmv3.HttpFilter) *headermutationv3.Mutations {
	t.Helper()
	conf := &headermutationv3.HeaderMutation{}
	if err := f.GetTypedConfig().UnmarshalTo(conf); err != nil {
		t.Fatal(err)
	}
	return conf.GetMutations()
}

// TestDirectBases: the route has the base path of the first backend, and Lua, which the first attempt there does without, all of them.
func TestDirectBases(t *testing.T) {
	v := compileText(t, docGateway+docCaller+
		doc("Backend", "a", "{dialect: openai, url: 'http://127.0.0.1:1/v1'}")+
		doc("Backend", "b", `{dialect: openai, url: 'http://127.0.0.1:2/q"uo/te'}`)+
		doc("Route", "r", "{rules: [{backends: [{name: b}, {name: a, priority: 1}]}]}"))
	var variant *table.Variant
	for _, r := range v.Table.All() {
		variant = r.Variant(3)
	}
	cluster := v.Routes.Get(variant.DirectKey).GetRoute().GetWeightedClusters().GetClusters()[0].GetName()
	if got := asked(v, cluster); !slices.Equal(got, []string{"default/b", "default/a"}) {
		t.Fatalf("attempts ask %v", got)
	}
	if got := candidateLines(variant.Order, false); !slices.Equal(got, []string{"default/b", "default/a"}) {
		t.Errorf("the table says that attempts ask %v", got)
	}
	const base = "/q%22uo/te"
	if got := v.Clusters.Get(cluster).GetMetadata().GetFilterMetadata()[wire.BackendNamespace].GetFields()[wire.KeyBase].GetStringValue(); got != base {
		t.Errorf("the route begins paths with %s", got)
	}
	for _, f := range upstreamFilters(t, v.Clusters.Get(cluster)) {
		if f.GetName() != "weir.base" {
			continue
		}
		conf, lua := &matchingv3.ExtensionWithMatcher{}, &luav3.Lua{}
		if err := f.GetTypedConfig().UnmarshalTo(conf); err != nil {
			t.Fatal(err)
		}
		if err := conf.GetExtensionConfig().GetTypedConfig().UnmarshalTo(lua); err != nil {
			t.Fatal(err)
		}
		if s := conf.GetXdsMatcher().String(); !strings.Contains(s, "default/b#1") {
			t.Errorf("it runs unless %s", s)
		}
		script := strings.TrimSuffix(lua.GetDefaultSourceCode().GetInlineString(), directSource)
		if want := "local NAMESPACE, AT_HEADER, FIRST = \"weir.attempt\", \"x-weir-at\", \"" + base + "\"\nlocal BASES = {\n  [\"default/b\"] = \"" + base + "\",\n  [\"default/a\"] = \"/v1\",\n}\n"; script != want {
			t.Errorf("it knows\n%s\nwant\n%s", script, want)
		}
		return
	}
	t.Error("there is no filter for base paths")
}
