package compile

import (
	xdscorev3 "github.com/cncf/xds/go/xds/core/v3"
	xdsmatcherv3 "github.com/cncf/xds/go/xds/type/matcher/v3"
	actionv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/matcher/action/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
)

// notChosen matches requests that do not take the i-th credential: those of versions that are not its own or, of the last one, those of
// the others' versions.
func notChosen(credentials []injected, i int, header string) *xdsmatcherv3.Matcher_MatcherList_Predicate {
	if own := credentials[i].Versions; own != nil {
		return not(anyOf(header, own))
	}
	var others []string
	for _, c := range credentials {
		others = append(others, c.Versions...)
	}
	return anyOf(header, others)
}

// skipWhere skips the filter of requests that match.
func skipWhere(predicate *xdsmatcherv3.Matcher_MatcherList_Predicate) *xdsmatcherv3.Matcher {
	skip := &xdsmatcherv3.Matcher_OnMatch{OnMatch: &xdsmatcherv3.Matcher_OnMatch_Action{
		Action: &xdscorev3.TypedExtensionConfig{Name: "skip", TypedConfig: pack(&actionv3.SkipFilter{})},
	}}
	return &xdsmatcherv3.Matcher{MatcherType: &xdsmatcherv3.Matcher_MatcherList_{MatcherList: &xdsmatcherv3.Matcher_MatcherList{
		Matchers: []*xdsmatcherv3.Matcher_MatcherList_FieldMatcher{{Predicate: predicate, OnMatch: skip}},
	}}}
}

func not(p *xdsmatcherv3.Matcher_MatcherList_Predicate) *xdsmatcherv3.Matcher_MatcherList_Predicate {
	return &xdsmatcherv3.Matcher_MatcherList_Predicate{MatchType: &xdsmatcherv3.Matcher_MatcherList_Predicate_NotMatcher{NotMatcher: p}}
}

// either matches what one of them matches. There are two at least.
func either(list ...*xdsmatcherv3.Matcher_MatcherList_Predicate) *xdsmatcherv3.Matcher_MatcherList_Predicate {
	return &xdsmatcherv3.Matcher_MatcherList_Predicate{MatchType: &xdsmatcherv3.Matcher_MatcherList_Predicate_OrMatcher{
		OrMatcher: &xdsmatcherv3.Matcher_MatcherList_Predicate_PredicateList{Predicate: list},
	}}
}

// anyOf matches a header with one of the values.
func anyOf(header string, values []string) *xdsmatcherv3.Matcher_MatcherList_Predicate {
	var list []*xdsmatcherv3.Matcher_MatcherList_Predicate
	for _, v := range values {
		list = append(list, headerLike(header, &xdsmatcherv3.StringMatcher{MatchPattern: &xdsmatcherv3.StringMatcher_Exact{Exact: v}}))
	}
	if len(list) == 1 {
		return list[0]
	}
	return either(list...)
}

// headerBegins matches a header with a value that begins so.
func headerBegins(header, prefix string) *xdsmatcherv3.Matcher_MatcherList_Predicate {
	return headerLike(header, &xdsmatcherv3.StringMatcher{MatchPattern: &xdsmatcherv3.StringMatcher_Prefix{Prefix: prefix}})
}

func headerLike(header string, value *xdsmatcherv3.StringMatcher) *xdsmatcherv3.Matcher_MatcherList_Predicate {
	return &xdsmatcherv3.Matcher_MatcherList_Predicate{
		MatchType: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate_{
			SinglePredicate: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate{
				Input: &xdscorev3.TypedExtensionConfig{
					Name: "header", TypedConfig: pack(&matcherv3.HttpRequestHeaderMatchInput{HeaderName: header}),
				},
				Matcher: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate_ValueMatch{ValueMatch: value},
			},
		},
	}
}
