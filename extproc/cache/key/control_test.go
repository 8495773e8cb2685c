package key_test

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/extproc/cache"
	"github.com/weir-dev/weir/extproc/cache/key"
)

func TestParseControl(t *testing.T) {
	silent := key.Control{MaxAge: key.None, MaxStale: key.None}
	with := func(f func(*key.Control)) key.Control { c := silent; f(&c); return c }
	age := func(d time.Duration) key.Control { return with(func(c *key.Control) { c.MaxAge = d }) }
	for _, tt := range []struct {
		values []string
		want   key.Control
		wrong  string // directive that the error names
	}{
		{nil, silent, ""},
		{[]string{""}, silent, ""},
		{[]string{" , ,"}, silent, ""},
		{[]string{"no-store"}, with(func(c *key.Control) { c.NoStore = true }), ""},
		{[]string{"No-Cache, no-transform , private=\"a, no-store\""}, with(func(c *key.Control) { c.NoCache = true }), ""},
		{[]string{"only-if-cached", "cache"}, with(func(c *key.Control) { c.OnlyIfCached, c.Cache = true, true }), ""},
		{[]string{"max-age=60"}, age(time.Minute), ""},
		{[]string{`MAX-AGE = "60" , nonsense=1`}, age(time.Minute), ""},
		{[]string{"max-age=60,max-age=30", "max-age=90"}, age(30 * time.Second), ""},
		{[]string{"max-age=0"}, age(0), ""},
		{[]string{"max-age=99999999999999999999"}, age(math.MaxInt32 * time.Second), ""},
		{[]string{"max-stale"}, with(func(c *key.Control) { c.MaxStale = math.MaxInt32 * time.Second }), ""},
		{[]string{"max-stale=5, max-stale"}, with(func(c *key.Control) { c.MaxStale = 5 * time.Second }), ""},
		{[]string{"min-fresh=5,min-fresh=7"}, with(func(c *key.Control) { c.MinFresh = 7 * time.Second }), ""},
		{[]string{`max-age="6\0"`}, age(time.Minute), ""},
		{[]string{"max-age"}, silent, "max-age"},
		{[]string{"max-age="}, silent, "max-age"},
		{[]string{"max-age=1O"}, silent, "max-age"},
		{[]string{"max-age=-1"}, silent, "max-age"},
		{[]string{`max-age="60`}, silent, "max-age"},
		{[]string{`private="a, no-store`}, with(func(c *key.Control) { c.NoStore = true }), ""},
		{[]string{"max-age=1.5"}, silent, "max-age"},
		{[]string{"min-fresh"}, silent, "min-fresh"},
		{[]string{"max-stale="}, silent, "max-stale"},
	} {
		got, err := key.ParseControl(tt.values...)
		switch {
		case tt.wrong != "":
			if err == nil || err.Kind != canon.ErrInvalidRequest || err.Param != key.ControlHeader || !strings.Contains(err.Message, tt.wrong) {
				t.Errorf("%q: error %v, want one about %s", tt.values, err, tt.wrong)
			}
		case err != nil:
			t.Errorf("%q: %v", tt.values, err)
		case got != tt.want:
			t.Errorf("%q: %+v, want %+v", tt.values, got, tt.want)
		}
	}
}

func TestControlTakes(t *testing.T) {
	const ttl, stale = time.Minute, 30 * time.Second
	for _, tt := range []struct {
		header string
		age    time.Duration
		want   bool
	}{
		{"", 0, true}, {"", ttl, true}, {"", ttl + stale, true}, {"", ttl + stale + 1, false},
		{"max-age=20", 20 * time.Second, true}, {"max-age=20", 21 * time.Second, false},
		{"max-age=80", 70 * time.Second, false}, {"max-age=80, max-stale", 70 * time.Second, true}, {"max-age=80, max-stale=5", 70 * time.Second, false},
		{"max-stale=5", 65 * time.Second, true}, {"max-stale=5", 66 * time.Second, false}, {"max-stale", ttl + stale + 1, false},
		{"min-fresh=10", 50 * time.Second, true}, {"min-fresh=10", 51 * time.Second, false},
		{"no-cache", 0, false}, {"no-store", 0, false}, {"cache", 0, true},
	} {
		c, err := key.ParseControl(tt.header)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.Takes(tt.age, ttl, stale); got != tt.want {
			t.Errorf("%q at %v: %v", tt.header, tt.age, got)
		}
	}
}

func FuzzParseControl(f *testing.F) {
	for _, v := range []string{`max-age=5, no-store`, `a="b\"c", max-stale`, `,,=,"`, `max-age="5`} {
		f.Add(v)
	}
	f.Fuzz(func(t *testing.T, v string) {
		c, err := key.ParseControl(v)
		if err != nil {
			if !strings.Contains(strings.ToLower(v), "m") {
				t.Fatalf("%q: %v", v, err)
			}
			return
		}
		// What a caller adds can only make the cache do less.
		if more, err := key.ParseControl(v + ", max-age=0"); err == nil && more.Takes(time.Second, time.Hour, time.Hour) {
			t.Fatalf("%q with max-age=0 takes an answer that is a second old", v)
		}
		if c.MaxAge < key.None || c.MinFresh < 0 || c.MaxStale < key.None {
			t.Fatalf("%q: %+v", v, c)
		}
	})
}

func TestEligibility(t *testing.T) {
	s := catalog(t)
	hi := func(more string) string {
		return `{"model":"m","messages":[{"role":"user","content":"Hi"}]` + more + `}`
	}
	det := cache.Policy{ID: "p"}
	seeded, warm, all, optIn := det, det, det, det
	seeded.Seeded, warm.MaxTemperature, all.Eligible, optIn.Eligible = true, 0.2, cache.EligibleAll, cache.EligibleOptIn
	byConsumer := all
	byConsumer.Scope = cache.ScopeConsumer
	for _, tt := range []struct {
		name, body, header string
		policy             cache.Policy
		op                 canon.Operation
		consumer           string
		read, store        bool
	}{
		{"no temperature", hi(``), "", det, canon.OpChat, "c", false, false},
		{"temperature 0", hi(`,"temperature":0`), "", det, canon.OpChat, "c", true, true},
		{"temperature 0, tools", hi(`,"temperature":0,"tools":[{"type":"function","function":{"name":"f"}}]`), "", det, canon.OpChat, "c", true, true},
		{"temperature 0, two choices", hi(`,"temperature":0,"n":2`), "", det, canon.OpChat, "c", true, true},
		{"no temperature, two choices", hi(`,"n":2`), "", det, canon.OpChat, "c", false, false},
		{"temperature 0.2", hi(`,"temperature":0.2`), "", det, canon.OpChat, "c", false, false},
		{"temperature 0.2, allowed", hi(`,"temperature":0.2`), "", warm, canon.OpChat, "c", true, true},
		{"seed", hi(`,"seed":1`), "", det, canon.OpChat, "c", false, false},
		{"seed, allowed", hi(`,"seed":1,"temperature":2`), "", seeded, canon.OpChat, "c", true, true},
		{"seed, two choices", hi(`,"seed":1,"n":2`), "", seeded, canon.OpChat, "c", true, true},
		{"searches", hi(`,"temperature":0,"web_search_options":{}`), "", det, canon.OpChat, "c", false, false},
		{"does not search", hi(`,"temperature":0,"enable_search":false`), "", det, canon.OpChat, "c", true, true},
		{"searches by a tool", hi(`,"temperature":0,"tools":[{"type":"web_search","name":"x"}]`), "", det, canon.OpChat, "c", false, false},
		{"all", hi(``), "", all, canon.OpChat, "c", true, true},
		{"no-store", hi(``), "no-store", all, canon.OpChat, "c", false, false},
		{"no-cache", hi(``), "no-cache", all, canon.OpChat, "c", false, true},
		{"max-age 0", hi(``), "max-age=0", all, canon.OpChat, "c", false, true},
		{"did not opt in", hi(`,"temperature":0`), "", optIn, canon.OpChat, "c", false, false},
		{"did not opt in by an unknown word", hi(``), "no-transform", optIn, canon.OpChat, "c", false, false},
		{"opted in", hi(``), "cache", optIn, canon.OpChat, "c", true, true},
		{"opted in by an age", hi(``), "max-age=60", optIn, canon.OpChat, "c", true, true},
		{"nobody", hi(``), "", byConsumer, canon.OpChat, "", false, false},
		{"embeddings", `{"model":"e","input":"Hi"}`, "", det, canon.OpEmbeddings, "c", true, true},
		{"completion", `{"model":"m","prompt":"Hi"}`, "", det, canon.OpCompletions, "c", false, false},
		{"completion at 0", `{"model":"m","prompt":"Hi","temperature":0}`, "", det, canon.OpCompletions, "c", true, true},
		{"response", `{"model":"m","input":"Hi"}`, "", all, canon.OpResponses, "c", false, false},
		{"response, kept", `{"model":"m","input":"Hi","store":true}`, "", all, canon.OpResponses, "c", false, false},
		{"response, not kept", `{"model":"m","input":"Hi","store":false}`, "", all, canon.OpResponses, "c", true, true},
		{"response, store is no word", `{"model":"m","input":"Hi","store":"false"}`, "", all, canon.OpResponses, "c", false, false},
		{"response after another", `{"model":"m","input":"Hi","store":false,"previous_response_id":"r"}`, "", all, canon.OpResponses, "c", false, false},
		{"response after none", `{"model":"m","input":"Hi","store":false,"previous_response_id":null}`, "", all, canon.OpResponses, "c", true, true},
		{"response of a conversation", `{"model":"m","input":"Hi","store":false,"conversation":{"id":"c"}}`, "", all, canon.OpResponses, "c", false, false},
		{"response in the background", `{"model":"m","input":"Hi","store":false,"background":true}`, "", all, canon.OpResponses, "c", false, false},
		{"response in the foreground", `{"model":"m","input":"Hi","store":false,"background":false}`, "", all, canon.OpResponses, "c", true, true},
		{"models", `{}`, "", all, canon.OpModels, "c", false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := chat(t, s, "openai", hi(``))
			in.Policy, in.Operation, in.Body, in.Request, in.Consumer = &tt.policy, tt.op, []byte(tt.body), nil, tt.consumer
			if tt.op == canon.OpChat {
				in.Request = parse(t, s, "openai", tt.body)
			}
			in.Header = headers(key.ControlHeader, tt.header)
			k, e, err := key.Of(in)
			if err != nil || e.Read != tt.read || e.Store != tt.store || (e.Why == "") != tt.store || (k == cache.Key{}) == tt.store {
				t.Errorf("read %v, store %v (%s), key %s, error %v", e.Read, e.Store, e.Why, k, err)
			}
		})
	}
	for _, body := range []string{`[]`, `{"a":`, ``} {
		in := chat(t, s, "openai", hi(``))
		in.Body, in.Request, in.Operation = []byte(body), nil, canon.OpEmbeddings
		if _, _, err := key.Of(in); err == nil || err.Kind != canon.ErrInvalidRequest {
			t.Errorf("%q: error %v", body, err)
		}
	}
	in := chat(t, s, "openai", hi(``))
	in.Header = headers(key.ControlHeader, "max-age=x")
	if _, _, err := key.Of(in); err == nil {
		t.Error("a header that makes no sense is taken")
	}
}

func TestGuard(t *testing.T) {
	s := catalog(t)
	guard := func(dialect, body string) (cache.Key, string, bool) { return key.Guard(chat(t, s, dialect, body)) }
	base, text, ok := guard("openai", `{"model":"m","max_tokens":9,"messages":[{"role":"system","content":"s"},{"role":"user","content":"Hi"}]}`)
	if !ok || text != "Hi" {
		t.Fatalf("%q, %v", text, ok)
	}
	if exact := of(t, chat(t, s, "openai", `{"model":"m","max_tokens":9,"messages":[{"role":"system","content":"s"},{"role":"user","content":"Hi"}]}`)); exact == base {
		t.Error("the guard is the key")
	}
	for _, body := range []string{
		`openai {"model":"m","max_tokens":9,"messages":[{"role":"system","content":"s"},{"role":"user","content":"What else?"}]}`,
		`openai {"model":"m","max_tokens":9,"stream":true,"messages":[{"role":"system","content":"s"},{"role":"user","content":[{"type":"text","text":"What"},{"type":"text","text":"else?"}]}]}`,
		`anthropic {"model":"m","max_tokens":9,"system":"s","messages":[{"role":"user","content":"What else?"}]}`,
	} {
		d, b := said(body)
		if g, text, ok := guard(d, b); !ok || g != base || strings.Join(strings.Fields(text), " ") != "What else?" {
			t.Errorf("%s: another guard, or %q", body, text)
		}
	}
	for _, body := range []string{
		`{"model":"n","max_tokens":9,"messages":[{"role":"system","content":"s"},{"role":"user","content":"Hi"}]}`,
		`{"model":"m","max_tokens":8,"messages":[{"role":"system","content":"s"},{"role":"user","content":"Hi"}]}`,
		`{"model":"m","max_tokens":9,"messages":[{"role":"system","content":"t"},{"role":"user","content":"Hi"}]}`,
		`{"model":"m","max_tokens":9,"messages":[{"role":"system","content":"s"},{"role":"user","name":"n","content":"Hi"}]}`,
		`{"model":"m","max_tokens":9,"messages":[{"role":"system","content":"s"},{"role":"user","content":[{"type":"text","text":"Hi"},{"type":"image_url","image_url":{"url":"https://x/y"}}]}]}`,
		`{"model":"m","max_tokens":9,"messages":[{"role":"system","content":"s"},{"role":"user","content":"Hi"}],"tools":[{"type":"function","function":{"name":"f"}}]}`,
		`{"model":"m","max_tokens":9,"messages":[{"role":"system","content":"s"},{"role":"user","content":"a"},{"role":"assistant","content":"b"},{"role":"user","content":"Hi"}]}`,
		`{"model":"m","max_tokens":9,"messages":[{"role":"system","content":"s"},{"role":"user","content":"Hi"}],"verbosity":"low"}`,
	} {
		if g, _, ok := guard("openai", body); !ok || g == base {
			t.Errorf("%s: the guard of another request", body)
		}
	}
	for _, body := range []string{
		`{"model":"m","messages":[{"role":"assistant","content":"Hi"}]}`,
		`{"model":"m","messages":[{"role":"user","content":" "}]}`,
		`{"model":"m","messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"https://x/y"}}]}]}`,
		`{"model":"m","n":2,"messages":[{"role":"user","content":"Hi"}]}`,
	} {
		if _, _, ok := guard("openai", body); ok {
			t.Errorf("%s has no text to find it by", body)
		}
	}
}
