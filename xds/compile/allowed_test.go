package compile

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/extproc/table"
	"github.com/weir-dev/weir/extproc/wire"
	"github.com/weir-dev/weir/xds/source"
)

func allowing(allowed string) string {
	return docIn("infra", "LLMGateway", "main", "{listeners: [{name: http, address: 127.0.0.1, port: 8080}], allowedRoutes: "+allowed+"}")
}

// routed is a Route of a namespace with these matches, and its Backend.
func routed(namespace, matches string) string {
	return docIn(namespace, "Backend", "b", "{dialect: openai, url: 'http://127.0.0.1:8000/v1'}") +
		docIn(namespace, "Route", "r", "{rules: [{matches: "+matches+", backends: [{name: b}]}]}")
}

// TestAllowedRoutes: whose Routes a gateway takes, and what it says of the others.
func TestAllowedRoutes(t *testing.T) {
	const below = "[{namespaces: {from: All}, pathPrefixes: ['/{namespace}', /shared/]}]"
	const within = "[{namespaces: {from: All}, models: ['{namespace}-*', common]}]"
	const labelled = "[{namespaces: {from: All}, consumerLabels: {team: 'of-{namespace}'}}]"
	const named = "[{namespaces: {from: Selector, selector: {matchExpressions: [{key: kubernetes.io/metadata.name, operator: In, values: [team-a, team-c]}]}}}]"
	const byLabel = "[{namespaces: {from: Selector, selector: {matchLabels: {tier: gold}, matchExpressions: [{key: kubernetes.io/metadata.name, operator: Exists}]}}}]"
	const not = "[{namespaces: {from: Selector, selector: {matchExpressions: [{key: tier, operator: DoesNotExist}]}}}]"
	refused := func(field, why string) string {
		if field != "" {
			field = "spec.rules[0].matches" + field + ": "
		}
		return "NotAllowedByGateway: Route team-a/r: " + field + why
	}
	const misfit = "LLMGateway infra/main takes from the namespace team-a only matches with "
	elsewhere := refused("", "no entry of spec.allowedRoutes of LLMGateway infra/main is for Routes of the namespace team-a")
	path := refused("[0].path", misfit+"a path below /team-a or /shared/ (its spec.allowedRoutes)")
	models := refused("[0].models", misfit+"models within team-a-*, common (its spec.allowedRoutes)")
	labels := refused("[0].consumerLabels", misfit+"consumerLabels team=of-team-a (its spec.allowedRoutes)")
	for _, c := range []struct {
		name, allowed, matches string
		known                  map[string]string // labels of team-a; nil: not known
		want                   string            // "": it is taken
	}{
		{"all", "[{namespaces: {from: All}}]", "[]", nil, ""},
		{"the gateway's own", "[{}]", "[]", nil, elsewhere},
		{"named", named, "[]", nil, ""},
		{"not named", "[{namespaces: {from: Selector, selector: {matchLabels: {kubernetes.io/metadata.name: team-b}}}}]", "[]", nil, elsewhere},
		{"every name", "[{namespaces: {from: Selector, selector: {}}}]", "[]", nil, ""},
		{"a label", byLabel, "[]", map[string]string{"tier": "gold"}, ""},
		{"another label", byLabel, "[]", map[string]string{"tier": "iron"}, elsewhere},
		{"no label", byLabel, "[]", map[string]string{}, elsewhere},
		{"labels nobody knows", byLabel, "[]", nil, refused("", "LLMGateway infra/main selects namespaces by their labels (spec.allowedRoutes), and those of the namespace team-a are not known here")},
		{"a label that must not be there", not, "[]", map[string]string{}, ""},
		{"a label that must not be there, and nobody knows", not, "[]", nil, refused("", "LLMGateway infra/main selects namespaces")},
		{"one of two", "[{}, {namespaces: {from: All}}]", "[]", nil, ""},

		{"its path", below, "[{path: {value: /team-a}}, {path: {value: /team-a/}}, {path: {value: /team-a/v1}}, {path: {type: Exact, value: /team-a/x}}]", nil, ""},
		{"what is for all", below, "[{path: {value: /shared}}, {path: {value: /shared/v1}}]", nil, ""},
		{"another's path", below, "[{path: {value: /team-b/v1}}]", nil, path},
		{"a path that only begins alike", below, "[{path: {value: /team-abc}}]", nil, path},
		{"a path above", below, "[{path: {value: /}}]", nil, path},
		{"every path", below, "[{models: [m]}]", nil, path},
		{"an exact path", below, "[{path: {type: Exact, value: /v1/chat/completions}}]", nil, path},
		{"one of its matches", below, "[{path: {value: /team-a}}, {path: {value: /v1}}]", nil, strings.Replace(path, "[0].path", "[1].path", 1)},
		{"no match at all", below, "[]", nil, strings.Replace(path, "[0].path", "", 1)},

		{"its models", within, "[{models: [team-a-small, 'team-a-*', 'team-a-b*c', common]}]", nil, ""},
		{"another's model", within, "[{models: [team-a-small, team-b-small]}]", nil, models},
		{"more than its models", within, "[{models: ['team-*']}]", nil, models},
		{"all models", within, "[{models: ['*']}]", nil, models},
		{"a pattern over a name", within, "[{models: ['comm*']}]", nil, models},
		{"no models", within, "[{path: {value: /x}}]", nil, models},

		{"its callers", labelled, "[{consumerLabels: {team: of-team-a, more: x}}]", nil, ""},
		{"another's callers", labelled, "[{consumerLabels: {team: of-team-b}}]", nil, labels},
		{"all callers", labelled, "[{}]", nil, labels},

		{"each match by another entry", "[{namespaces: {from: All}, models: ['{namespace}-*']}, {namespaces: {from: All}, pathPrefixes: ['/{namespace}']}]",
			"[{models: [team-a-x]}, {path: {value: /team-a}}]", nil, ""},
		{"all that an entry asks for", "[{namespaces: {from: All}, models: [m], pathPrefixes: [/p]}]", "[{models: [m], path: {value: /p}}]", nil, ""},
		{"half of what an entry asks for", "[{namespaces: {from: All}, models: [m], pathPrefixes: [/p]}, {}]", "[{models: [m]}]", nil,
			refused("[0].path", misfit+"a path below /p and models within m (its spec.allowedRoutes)")},
	} {
		t.Run(c.name, func(t *testing.T) {
			objs := load(t, allowing(c.allowed)+docCaller+routed("team-a", c.matches))
			if c.known != nil {
				objs.Namespaces = map[string]map[string]string{"team-a": c.known}
			}
			opts := options(t)
			opts.Lenient = true // unknown models are somebody else's
			v, problems := Compile(objs, opts)
			problems = slices.DeleteFunc(problems, func(p source.Problem) bool { return p.Severity == source.Warning })
			if c.want == "" {
				if expect(t, problems, nil); v == nil {
					t.Error("nothing is compiled")
				}
				return
			}
			expect(t, problems, []string{c.want})
		})
	}
}

// TestAllowedRoutesUnsaid: a gateway that says nothing takes every Route, unless the installation says otherwise.
func TestAllowedRoutesUnsaid(t *testing.T) {
	objs := load(t, docIn("infra", "LLMGateway", "main", "{listeners: [{name: http, address: 127.0.0.1, port: 8080}]}")+docCaller+
		routed("infra", "[{models: [a]}]")+routed("team-a", "[{models: [b]}]"))
	for from, want := range map[v1alpha1.FromNamespaces][]string{
		"": nil, v1alpha1.NamespacesFromAll: nil,
		v1alpha1.NamespacesFromSame: {"NotAllowedByGateway: Route team-a/r: LLMGateway infra/main takes Routes of its own namespace only, because it has no spec.allowedRoutes " +
			"and this installation runs with --allowed-routes=Same: give it an entry there for the namespace team-a"},
	} {
		opts := options(t)
		opts.AllowedRoutes = from
		_, problems := Compile(objs, opts)
		expect(t, problems, want)
	}
}

func TestAllowedRoutesWrong(t *testing.T) {
	for allowed, want := range map[string]string{
		"[{namespaces: {from: Selector, selector: {matchExpressions: [{key: tier, operator: In}]}}}]": "LLMGateway infra/main: spec.allowedRoutes[0].namespaces.selector: not a selector of labels: ",
		"[{}, {namespaces: {from: All}, models: [' x']}]":                                             "LLMGateway infra/main: spec.allowedRoutes[1].models[0]: a model name or pattern has 1 to",
	} {
		_, problems := Compile(load(t, allowing(allowed)+docCaller+routed("infra", "[{models: [m]}]")), options(t))
		expect(t, problems, []string{want})
	}
}

// TestRoutesOfOneGateway: a Route that only some gateways take serves no request of the others.
func TestRoutesOfOneGateway(t *testing.T) {
	gateway := func(name string, port int, allowed string) string {
		return docIn("infra", "LLMGateway", name, fmt.Sprintf("{listeners: [{name: http, address: 127.0.0.1, port: %d}], allowedRoutes: %s}", port, allowed))
	}
	both := gateway("in", 1, "[{namespaces: {from: All}}]") + gateway("out", 2, "[{namespaces: {from: All}, pathPrefixes: ['/{namespace}']}]")
	v, problems := Compile(load(t, both+docCaller+routed("team-a", "[{path: {value: /v1}}]")+routed("team-b", "[{path: {value: /team-b}}]")+
		routed("team-c", "[]")), options(t))
	expect(t, problems, nil)
	for _, c := range []struct{ gateway, path, want string }{
		{"infra/in", "/v1/x", "team-a/r"}, {"infra/out", "/v1/x", ""}, {"", "/v1/x", ""}, {table.AnyGateway, "/v1/x", "team-a/r"},
		{"infra/in", "/team-b/x", "team-b/r"}, {"infra/out", "/team-b/x", "team-b/r"}, {"", "/team-b/x", "team-b/r"},
		{"infra/in", "/x", "team-c/r"}, {"infra/out", "/x", ""},
	} {
		got := ""
		if r := v.Table.Find(&table.Request{Gateway: c.gateway, Method: "POST", Path: c.path}); r != nil {
			got = r.Name
		}
		if got != c.want {
			t.Errorf("%s at gateway %q is served by %q, want %q", c.path, c.gateway, got, c.want)
		}
	}
	// One that none takes is told of both.
	_, problems = Compile(load(t, gateway("in", 1, "[{}]")+gateway("out", 2, "[{namespaces: {from: All}, pathPrefixes: [/x]}]")+docCaller+routed("team-a", "[{models: [m]}]")), options(t))
	expect(t, problems, []string{"NotAllowedByGateway: Route team-a/r: spec.rules[0].matches[0].path: no entry of spec.allowedRoutes of LLMGateway infra/in is for Routes of the namespace team-a; " +
		"LLMGateway infra/out takes from the namespace team-a only matches with a path below /x (its spec.allowedRoutes)"})
}

// TestAllowedRoutesCost: an entry, or a label, that is about one namespace has no other's Routes compiled again, and what else a gateway says has
// none.
func TestAllowedRoutesCost(t *testing.T) {
	selecting := func(value, path string) v1alpha1.AllowedRoutes {
		return v1alpha1.AllowedRoutes{PathPrefixes: []string{path}, Namespaces: v1alpha1.RouteNamespaces{From: v1alpha1.NamespacesFromSelector,
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"team": value}}}}
	}
	objs := load(t, allowing("[{}]")+docCaller+routed("team-a", "[{path: {value: /a}}]")+routed("team-b", "[{path: {value: /b}}]"))
	objs.Namespaces = map[string]map[string]string{"team-a": {"team": "a"}, "team-b": {"team": "b"}}
	change := func(edit func(*v1alpha1.LLMGateway)) {
		next := *objs
		g := objs.Gateways[0].DeepCopy()
		edit(g)
		next.Gateways = []*v1alpha1.LLMGateway{g}
		objs = &next
	}
	change(func(g *v1alpha1.LLMGateway) {
		g.Spec.AllowedRoutes = []v1alpha1.AllowedRoutes{selecting("a", "/a"), selecting("b", "/b")}
	})
	k, opts := NewCompiler(), options(t)
	compiled := func() string {
		before := map[*routeUnit]bool{}
		for _, u := range k.routeUnits {
			before[u] = true
		}
		_, problems := k.Compile(objs, opts)
		var out []string
		for _, u := range k.routeUnits {
			if !before[u] {
				out = append(out, u.ref.Namespace)
			}
		}
		text := strings.Join(out, " ")
		if source.HasErrors(problems) {
			text += " refused"
		}
		return text
	}
	label := func(namespace, team string) {
		next := *objs
		next.Namespaces = maps.Clone(objs.Namespaces)
		next.Namespaces[namespace] = map[string]string{"team": team}
		objs = &next
	}
	for _, step := range []struct {
		what string
		do   func()
		want string
	}{
		{"the first time", func() {}, "team-a team-b"},
		{"nothing", func() {}, ""},
		{"another port", func() { change(func(g *v1alpha1.LLMGateway) { g.Spec.Listeners[0].Port++ }) }, ""},
		{"an entry before theirs, for neither", func() {
			change(func(g *v1alpha1.LLMGateway) {
				g.Spec.AllowedRoutes = append([]v1alpha1.AllowedRoutes{selecting("c", "/c")}, g.Spec.AllowedRoutes...)
			})
		}, ""},
		{"more for one", func() {
			change(func(g *v1alpha1.LLMGateway) {
				g.Spec.AllowedRoutes = append(g.Spec.AllowedRoutes, selecting("a", "/more"))
			})
		}, "team-a"},
		{"a label of one", func() { label("team-b", "c") }, "team-b refused"},
		{"back again", func() { label("team-b", "b") }, "team-b"},
		{"a label of another namespace", func() { label("team-z", "a") }, ""},
	} {
		step.do()
		if got := compiled(); got != step.want {
			t.Errorf("%s: compiled again are %q, want %q", step.what, got, step.want)
		}
	}
}

// TestOpenOfOneGateway: Envoy by itself does not tell gateways apart, so what may be of a Route of one of them is not let through.
func TestOpenOfOneGateway(t *testing.T) {
	both := `
apiVersion: weir.dev/v1alpha1
kind: LLMGateway
metadata: {name: in}
spec: {listeners: [{name: http, address: 127.0.0.1, port: 8080}]}
---
apiVersion: weir.dev/v1alpha1
kind: LLMGateway
metadata: {name: out}
spec: {listeners: [{name: http, address: 127.0.0.1, port: 8081}], allowedRoutes: [{models: [public]}]}
---` + doc("Consumer", "c", "{}") + "\n" + keyDocument("k", "c", "hash: '"+identity.HashKey(openKey)+"'") + "\n---" +
		doc("LoadPolicy", "open", "{failureMode: Open, targetRefs: [{kind: Backend, name: gpus}]}") +
		doc("Backend", "gpus", "{dialect: openai, basePath: /v1, endpoints: [{address: 10.0.0.1, port: 8000}]}") +
		doc("Route", "inner", "{rules: [{matches: [{models: [secret]}], backends: [{name: gpus}]}]}") +
		doc("Route", "outer", "{rules: [{matches: [{models: [public]}], backends: [{name: gpus}]}]}")
	v, problems := Compile(load(t, both), options(t))
	if v == nil || len(problems) != 1 || !strings.Contains(problems[0].String(), "Route default/inner: spec.rules[0]: warning: LoadPolicy default/open says failureMode: Open, but") {
		t.Fatalf("problems: %v", problems)
	}
	o := newOpener(t, v)
	for model, want := range map[string]string{"public": "default/outer", "secret": "", "other": ""} {
		if got := o.ask(t, chatAt("/v1/chat/completions", model, openKey)); got[wire.KeyRoute] != want {
			t.Errorf("model %s: %v, want the rule %q", model, got, want)
		}
	}
}
