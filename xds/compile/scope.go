package compile

import (
	"strings"

	xdscorev3 "github.com/cncf/xds/go/xds/core/v3"
	xdsmatcherv3 "github.com/cncf/xds/go/xds/type/matcher/v3"
	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	headermutationv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weir-dev/weir/extproc/wire"
	"github.com/weir-dev/weir/internal/cow"
)

// Envoy gets the routes by rule: each rule is a scope of its own, which is a resource of its own (SRDS), so that a rule that
// changes costs what the rule costs and not what all of them do. A request is in the scope that its key names, the part before the
// first "#" of wire.RuleHeader, and there it takes the entry with its key. Both are looked up in maps.
//
// A request has a key from the start: the door gives it that of the undecided scope (undecidedKey). A key that Envoy does not know
// leads nowhere, and is answered 503 (localreply.go): the decision is older than every version that Envoy has.

// keySeparator stands in keys between the rule's name and what tells its entries apart.
const keySeparator = "#"

// scopesName names the scopes in Envoy's configuration dump, and is in the names of its counters.
const scopesName = "weir"

// ScopeOf names the scope of a key of Version.Routes.
func ScopeOf(key string) string {
	scope, _, _ := strings.Cut(key, keySeparator)
	return scope
}

// Scope makes the resource of one scope: its name, and its entries by their keys.
func Scope(name string, entries map[string]*routev3.Route, maxBody uint32) *routev3.ScopedRouteConfiguration {
	return &routev3.ScopedRouteConfiguration{
		Name: name,
		Key: &routev3.ScopedRouteConfiguration_Key{Fragments: []*routev3.ScopedRouteConfiguration_Key_Fragment{{
			Type: &routev3.ScopedRouteConfiguration_Key_Fragment_StringKey{StringKey: name},
		}}},
		RouteConfiguration: &routev3.RouteConfiguration{
			Name: scopesName,
			VirtualHosts: []*routev3.VirtualHost{{
				Name:                   "weir",
				Domains:                []string{"*"},
				Matcher:                keyMatcher(entries),
				RequestBodyBufferLimit: wrapperspb.UInt64(uint64(maxBody)),
			}},
		},
	}
}

// Scopes makes the resources of all entries, by their names.
func Scopes(entries cow.Map[*routev3.Route], maxBody uint32) map[string]*routev3.ScopedRouteConfiguration {
	by := map[string]map[string]*routev3.Route{}
	for key, r := range entries.All() {
		scope := ScopeOf(key)
		if by[scope] == nil {
			by[scope] = map[string]*routev3.Route{}
		}
		by[scope][key] = r
	}
	out := make(map[string]*routev3.ScopedRouteConfiguration, len(by))
	for scope, of := range by {
		out[scope] = Scope(scope, of, maxBody)
	}
	return out
}

// keyMatcher finds an entry by the key in wire.RuleHeader.
func keyMatcher(entries map[string]*routev3.Route) *xdsmatcherv3.Matcher {
	byKey := make(map[string]*xdsmatcherv3.Matcher_OnMatch, len(entries))
	for key, r := range entries {
		byKey[key] = &xdsmatcherv3.Matcher_OnMatch{OnMatch: &xdsmatcherv3.Matcher_OnMatch_Action{
			Action: &xdscorev3.TypedExtensionConfig{Name: "route", TypedConfig: pack(r)},
		}}
	}
	return &xdsmatcherv3.Matcher{MatcherType: &xdsmatcherv3.Matcher_MatcherTree_{MatcherTree: &xdsmatcherv3.Matcher_MatcherTree{
		Input: &xdscorev3.TypedExtensionConfig{
			Name: "rule", TypedConfig: pack(&matcherv3.HttpRequestHeaderMatchInput{HeaderName: wire.RuleHeader}),
		},
		TreeType: &xdsmatcherv3.Matcher_MatcherTree_ExactMatchMap{
			ExactMatchMap: &xdsmatcherv3.Matcher_MatcherTree_MatchMap{Map: byKey},
		},
	}}}
}

// scopedRoutes has Envoy find the scope of a request, and get the scopes from Weir.
func scopedRoutes() *hcmv3.HttpConnectionManager_ScopedRoutes {
	return &hcmv3.HttpConnectionManager_ScopedRoutes{ScopedRoutes: &hcmv3.ScopedRoutes{
		Name: scopesName,
		ScopeKeyBuilder: &hcmv3.ScopedRoutes_ScopeKeyBuilder{Fragments: []*hcmv3.ScopedRoutes_ScopeKeyBuilder_FragmentBuilder{{
			Type: &hcmv3.ScopedRoutes_ScopeKeyBuilder_FragmentBuilder_HeaderValueExtractor_{
				HeaderValueExtractor: &hcmv3.ScopedRoutes_ScopeKeyBuilder_FragmentBuilder_HeaderValueExtractor{
					Name: wire.RuleHeader, ElementSeparator: keySeparator,
					ExtractType: &hcmv3.ScopedRoutes_ScopeKeyBuilder_FragmentBuilder_HeaderValueExtractor_Index{Index: 0},
				},
			},
		}}},
		RdsConfigSource: ads(), // of scopes that name a route configuration, of which there are none
		ConfigSpecifier: &hcmv3.ScopedRoutes_ScopedRds{ScopedRds: &hcmv3.ScopedRds{ScopedRdsConfigSource: ads()}},
	}}
}

// undecidedKey gives a request that comes in the key of the undecided scope.
func undecidedKey() *mutationv3.HeaderMutation { return set(wire.RuleHeader, UndecidedKey) }

// answerFilter writes on a backend's answer whose it is and what is left of limits, and takes off what is for the holder of the
// account. It is the first that sees answers. Virtual hosts could do the same, but there are as many of them as rules, and each would
// keep it in memory.
func answerFilter() *hcmv3.HttpFilter {
	mutations := []*mutationv3.HeaderMutation{
		set(wire.RouteHeader, fact(wire.KeyRoute)),
		set(wire.BackendHeader, endpointMetadata(wire.KeyBackend)),
	}
	for _, name := range wire.AnswerHeaders { // Envoy leaves out those that the decision has not set
		mutations = append(mutations, set(name, fact(name)))
	}
	for _, name := range providerHeaders {
		mutations = append(mutations, remove(name))
	}
	return filter("weir.answer", &headermutationv3.HeaderMutation{Mutations: &headermutationv3.Mutations{ResponseMutations: mutations}})
}

// undecidedRoute answers requests without a decision.
func undecidedRoute() *routev3.Route {
	return &routev3.Route{
		Name:  UndecidedKey,
		Match: &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
		Action: &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{
			Status: 503,
			Body:   inline("no current decision for this request"),
		}},
	}
}
