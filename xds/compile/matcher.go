package compile

import (
	xdscorev3 "github.com/cncf/xds/go/xds/core/v3"
	xdsmatcherv3 "github.com/cncf/xds/go/xds/type/matcher/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	actionv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/matcher/action/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"github.com/weir-dev/weir/extproc/wire"
)

// ruleMatcher finds a route by the key in wire.RuleHeader. A request without a known key has not been decided,
// which only happens when a decision is older than every version Envoy has: it is told to try again.
func ruleMatcher(entries map[string]*routev3.Route) *xdsmatcherv3.Matcher {
	undecided, n := entries[UndecidedKey], len(entries)
	if undecided == nil {
		undecided = undecidedRoute()
	} else {
		n--
	}
	m := &xdsmatcherv3.Matcher{OnNoMatch: routeAction(undecided)}
	if n == 0 {
		return m
	}
	byKey := make(map[string]*xdsmatcherv3.Matcher_OnMatch, n)
	for key, r := range entries {
		if key != UndecidedKey {
			byKey[key] = routeAction(r)
		}
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

// skipUnlessChosen skips the filter of the i-th credential unless a request's version is one of its own or, for the last
// one, none of the others'.
func skipUnlessChosen(credentials []injected, i int, header string) *xdsmatcherv3.Matcher {
	own := credentials[i].Versions
	predicate := anyOf(header, own)
	if own == nil {
		var others []string
		for _, c := range credentials {
			others = append(others, c.Versions...)
		}
		predicate = anyOf(header, others)
	} else {
		predicate = &xdsmatcherv3.Matcher_MatcherList_Predicate{
			MatchType: &xdsmatcherv3.Matcher_MatcherList_Predicate_NotMatcher{NotMatcher: predicate},
		}
	}
	skip := &xdsmatcherv3.Matcher_OnMatch{OnMatch: &xdsmatcherv3.Matcher_OnMatch_Action{
		Action: &xdscorev3.TypedExtensionConfig{Name: "skip", TypedConfig: pack(&actionv3.SkipFilter{})},
	}}
	return &xdsmatcherv3.Matcher{MatcherType: &xdsmatcherv3.Matcher_MatcherList_{MatcherList: &xdsmatcherv3.Matcher_MatcherList{
		Matchers: []*xdsmatcherv3.Matcher_MatcherList_FieldMatcher{{Predicate: predicate, OnMatch: skip}},
	}}}
}

// anyOf matches a header with one of the values.
func anyOf(header string, values []string) *xdsmatcherv3.Matcher_MatcherList_Predicate {
	var list []*xdsmatcherv3.Matcher_MatcherList_Predicate
	for _, v := range values {
		list = append(list, &xdsmatcherv3.Matcher_MatcherList_Predicate{
			MatchType: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate_{
				SinglePredicate: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate{
					Input: &xdscorev3.TypedExtensionConfig{
						Name: "header", TypedConfig: pack(&matcherv3.HttpRequestHeaderMatchInput{HeaderName: header}),
					},
					Matcher: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate_ValueMatch{
						ValueMatch: &xdsmatcherv3.StringMatcher{MatchPattern: &xdsmatcherv3.StringMatcher_Exact{Exact: v}},
					},
				},
			},
		})
	}
	if len(list) == 1 {
		return list[0]
	}
	return &xdsmatcherv3.Matcher_MatcherList_Predicate{MatchType: &xdsmatcherv3.Matcher_MatcherList_Predicate_OrMatcher{
		OrMatcher: &xdsmatcherv3.Matcher_MatcherList_Predicate_PredicateList{Predicate: list},
	}}
}
