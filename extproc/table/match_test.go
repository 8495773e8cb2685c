package table

import (
	"regexp"
	"testing"
)

func TestPathMatches(t *testing.T) {
	for _, c := range []struct {
		want  string
		exact bool
		got   string
		match bool
	}{
		{"", false, "/anything", true},
		{"/", false, "/anything", true},
		{"/", false, "/", true},
		{"/", true, "/", true},
		{"/", true, "/a", false},
		{"/a", false, "/a", true},
		{"/a", false, "/a/", true},
		{"/a", false, "/a/b", true},
		{"/a", false, "/ab", false},
		{"/a", false, "/A", false},
		{"/a", false, "/", false},
		{"/a", false, "", false},
		{"/a/", false, "/a", true},
		{"/a/", false, "/a/b", true},
		{"/a/", false, "/ab", false},
		{"/a/b", false, "/a", false},
		{"/a", true, "/a", true},
		{"/a", true, "/a/", false},
		{"/a/", true, "/a", false},
		{"/a", true, "/a/b", false},
		{"/v1", false, "/v1/chat/completions", true},
		{"/v1", false, "/v10/chat", false},
	} {
		if got := pathMatches(c.want, c.exact, c.got); got != c.match {
			t.Errorf("pathMatches(%q, exact %v, %q) = %v", c.want, c.exact, c.got, got)
		}
	}
}

func TestMatchConditions(t *testing.T) {
	anchored := func(expr string) *regexp.Regexp { return regexp.MustCompile(`\A(?:` + expr + `)\z`) }
	for _, c := range []struct {
		name  string
		m     Match
		edit  func(*Request)
		match bool
	}{
		{"method", Match{Method: "POST"}, nil, true},
		{"other method", Match{Method: "GET"}, nil, false},
		{"method compares by case", Match{Method: "POST"}, func(r *Request) { r.Method = "post" }, false},

		{"header", Match{Headers: []ValueMatch{{Name: "x-version", Value: "v2"}}}, func(r *Request) { r.Header = headers("x-version", "v2") }, true},
		{"header value by case", Match{Headers: []ValueMatch{{Name: "x-version", Value: "v2"}}}, func(r *Request) { r.Header = headers("x-version", "V2") }, false},
		{"header absent", Match{Headers: []ValueMatch{{Name: "x-version", Value: "v2"}}}, nil, false},
		{"header absent, expression of anything", Match{Headers: []ValueMatch{{Name: "x-version", Regexp: anchored(`.*`)}}}, nil, false},
		{"header empty, expression of anything", Match{Headers: []ValueMatch{{Name: "x", Regexp: anchored(`.*`)}}}, func(r *Request) { r.Header = headers("x", "") }, true},
		{"header expression, whole value", Match{Headers: []ValueMatch{{Name: "x", Regexp: anchored(`v[0-9]|w`)}}}, func(r *Request) { r.Header = headers("x", "v2") }, true},
		{"header expression, part of the value", Match{Headers: []ValueMatch{{Name: "x", Regexp: anchored(`v[0-9]|w`)}}}, func(r *Request) { r.Header = headers("x", "v22") }, false},
		{"two headers, one missing", Match{Headers: []ValueMatch{{Name: "x", Value: "1"}, {Name: "y", Value: "1"}}}, func(r *Request) { r.Header = headers("x", "1") }, false},

		{"query", Match{Query: []ValueMatch{{Name: "v", Value: "2"}}}, func(r *Request) { r.Query = "a=1&v=2" }, true},
		{"query name by case", Match{Query: []ValueMatch{{Name: "v", Value: "2"}}}, func(r *Request) { r.Query = "V=2" }, false},
		{"query decoded", Match{Query: []ValueMatch{{Name: "v", Value: "a b"}}}, func(r *Request) { r.Query = "v=a%20b" }, true},
		{"query, the first of two", Match{Query: []ValueMatch{{Name: "v", Value: "2"}}}, func(r *Request) { r.Query = "v=2&v=3" }, true},
		{"query, the second of two", Match{Query: []ValueMatch{{Name: "v", Value: "3"}}}, func(r *Request) { r.Query = "v=2&v=3" }, false},
		{"query absent", Match{Query: []ValueMatch{{Name: "v", Value: "2"}}}, nil, false},
		{"query that cannot be read", Match{Query: []ValueMatch{{Name: "v", Value: "2"}}}, func(r *Request) { r.Query = "v=2&x=%zz" }, false},
		{"query that cannot be read, nothing asked of it", Match{}, func(r *Request) { r.Query = "%zz" }, true},
		{"query expression", Match{Query: []ValueMatch{{Name: "v", Regexp: anchored(`[a-c]+`)}}}, func(r *Request) { r.Query = "v=abc" }, true},

		{"label", Match{Labels: map[string]string{"team": "x"}}, func(r *Request) { r.Labels = map[string]string{"team": "x", "tier": "y"} }, true},
		{"other label", Match{Labels: map[string]string{"team": "x"}}, func(r *Request) { r.Labels = map[string]string{"team": "y"} }, false},
		{"no label", Match{Labels: map[string]string{"team": "x"}}, nil, false},
		{"empty value is no absent label", Match{Labels: map[string]string{"team": ""}}, nil, false},

		{"exact model", Match{Models: []string{"gpt-4o"}}, nil, true},
		{"one of several models", Match{Models: []string{"a", "gpt-4o", "b"}}, nil, true},
		{"other model", Match{Models: []string{"gpt-4"}}, nil, false},
		{"model by case", Match{Models: []string{"GPT-4o"}}, nil, false},
		{"pattern", Match{Models: []string{"gpt-*"}}, nil, true},
		{"pattern of all", Match{Models: []string{"*"}}, nil, true},
		{"pattern of all and no model", Match{Models: []string{"*"}}, func(r *Request) { r.Model = "" }, false},
		{"other pattern", Match{Models: []string{"claude-*"}}, nil, false},
		{"exact or pattern, by pattern", Match{Models: []string{"claude", "gpt*"}}, nil, true},
		{"exact or pattern, by exact", Match{Models: []string{"claude*", "gpt-4o"}}, nil, true},
		{"no model asked of", Match{}, func(r *Request) { r.Model = "" }, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := request()
			if c.edit != nil {
				c.edit(r)
			}
			if got := matches(t, c.m, r); got != c.match {
				t.Errorf("got %v, want %v", got, c.match)
			}
		})
	}
}

func TestAddRefusesBadPattern(t *testing.T) {
	var b Builder
	if err := b.Add(&Rule{}, Match{Models: []string{"gpt-*\n"}}); err == nil {
		t.Error("a pattern with a line break was taken")
	}
}
