package key_test

import (
	"testing"

	"github.com/weir-dev/weir/adapters"
	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/extproc/cache"
	"github.com/weir-dev/weir/extproc/cache/key"
)

// catalog has every dialect.
func catalog(t testing.TB) *adapters.Set {
	t.Helper()
	s, err := adapters.NewSet(adapters.Catalog()...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// parse reads a chat; nil where canon cannot carry it.
func parse(t testing.TB, s *adapters.Set, dialect, body string) *canon.Request {
	t.Helper()
	d, ok := s.Get(dialect)
	if !ok {
		t.Fatalf("there is no dialect %q", dialect)
	}
	r, err := d.In.ParseRequest([]byte(body))
	if err != nil && err.Code != canon.CodeNotTranslatable {
		t.Fatalf("%s: %v", body, err)
	}
	return r
}

func headers(list ...string) func(string) string {
	return func(name string) string {
		for i := 0; i+1 < len(list); i += 2 {
			if list[i] == name {
				return list[i+1]
			}
		}
		return ""
	}
}

// chat is a request of a consumer under a policy for everything.
func chat(t testing.TB, s *adapters.Set, dialect, body string) *key.Input {
	t.Helper()
	return &key.Input{
		Policy: &cache.Policy{ID: "default/p", Eligible: cache.EligibleAll}, Rule: "default/chat/0", Tenant: "t", Consumer: "c",
		Dialect: dialect, Operation: canon.OpChat, Body: []byte(body), Request: parse(t, s, dialect, body), Header: headers(),
	}
}

func of(t testing.TB, in *key.Input) cache.Key {
	t.Helper()
	k, e, err := key.Of(in)
	if err != nil {
		t.Fatalf("%s: %v", in.Body, err)
	}
	if !e.Store || k == (cache.Key{}) {
		t.Fatalf("%s: %+v", in.Body, e)
	}
	return k
}
