package compile

import (
	xdscorev3 "github.com/cncf/xds/go/xds/core/v3"
	xdsmatcherv3 "github.com/cncf/xds/go/xds/type/matcher/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"github.com/weir-dev/weir/extproc/wire"
)

// ruleMatcher finds a route by the key in wire.RuleHeader. A request without a known key has not been decided,
// which only happens when a decision is older than every version Envoy has: it is told to try again.
func ruleMatcher(entries map[string]*routev3.Route) *xdsmatcherv3.Matcher {
	undecided := &routev3.Route{
		Name:  "undecided",
		Match: &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
		Action: &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{
			Status: 503,
			Body:   inline("no current decision for this request"),
		}},
	}
	m := &xdsmatcherv3.Matcher{OnNoMatch: routeAction(undecided)}
	if len(entries) == 0 {
		return m
	}
	byKey := make(map[string]*xdsmatcherv3.Matcher_OnMatch, len(entries))
	for key, r := range entries {
		byKey[key] = routeAction(r)
	}
	m.MatcherType = &xdsmatcherv3.Matcher_MatcherTree_{MatcherTree: &xdsmatcherv3.Matcher_MatcherTree{
		Input: &xdscorev3.TypedExtensionConfig{
			Name: "rule", TypedConfig: pack(&matcherv3.HttpRequestHeaderMatchInput{HeaderName: wire.RuleHeader}),
		},
		TreeType: &xdsmatcherv3.Matcher_MatcherTree_ExactMatchMap{
			ExactMatchMap: &xdsmatcherv3.Matcher_MatcherTree_MatchMap{Map: byKey},
		},
	}}
	return m
}

func routeAction(r *routev3.Route) *xdsmatcherv3.Matcher_OnMatch {
	return &xdsmatcherv3.Matcher_OnMatch{OnMatch: &xdsmatcherv3.Matcher_OnMatch_Action{
		Action: &xdscorev3.TypedExtensionConfig{Name: "route", TypedConfig: pack(r)},
	}}
}
