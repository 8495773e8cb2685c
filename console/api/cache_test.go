package api

import (
	"errors"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/weir-dev/weir/extproc/cache"
	"github.com/weir-dev/weir/extproc/wire"
	"github.com/weir-dev/weir/usage"
	"github.com/weir-dev/weir/usage/ledger"
	"github.com/weir-dev/weir/usage/money"
)

// TestCache: what the cache has done, of each policy.
func TestCache(t *testing.T) {
	r := newRig(t, 1)
	if got := read[Cache](r, "/api/cache"); got.Redis != "off" || got.Policies == nil || len(got.Policies) != 0 {
		t.Errorf("%+v", got)
	}
	r.cached = cache.Stats{
		Redis: true, RedisUp: true, Replicas: 3, Flights: 2, FlightBytes: 4096, Queue: 5,
		Policies: []cache.PolicyStats{
			{Policy: &cache.Policy{ID: "default/idle", TTL: time.Minute, MemoryBytes: 1 << 20}},
			{
				Policy:  &cache.Policy{ID: "default/used", TTL: time.Hour, MemoryBytes: 64 << 20, Redis: true, Bloom: &cache.Bloom{Keys: 1e6, FalsePositives: 0.01}, Semantic: &cache.Semantic{}},
				Entries: 10, Bytes: 12345, MemoryHits: 60, RedisHits: 10, Stale: 4, Negative: 1, Misses: 25, Shared: 8, Bought: 17, Failed: 1, Refreshes: 4, Evictions: 2,
				SavedInput: 1000, SavedOutput: 2000, SavedCost: map[string]money.Nano{"USD": 12_345_678_901, "EUR": 1}, Bloom: &cache.BloomStats{Ready: true, Keys: 17, Bytes: 1198136, No: 24, Right: 10, Wrong: 1},
			},
		},
	}
	r.golden("cache", "/api/cache")
	r.cached.RedisUp = false
	if got := read[Cache](r, "/api/cache"); got.Redis != "down" {
		t.Errorf("%+v", got)
	}
}

// TestPurgeCache: a purge removes what it says and nothing more.
func TestPurgeCache(t *testing.T) {
	r := newRig(t, 1)
	post := func(body string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		r.mux.ServeHTTP(w, httptest.NewRequest("POST", "/api/cache/purge", strings.NewReader(body)))
		return w
	}
	hex := strings.Repeat("0a", 32)
	for body, want := range map[string]string{
		`{"tenant":"acme"}`: "tenant acme",
		`{"tenant":"acme","model":"m","tag":"t","policy":"a/b"}`: "tenant acme, model m, tag t, policy a/b",
		`{"key":"` + hex + `"}`:                                  "key " + hex,
	} {
		r.purged = nil
		if w := post(body); w.Code != 200 || strings.Join(strings.Fields(w.Body.String()), "") != `{"purged":7}` || len(r.purged) != 1 || r.purged[0].String() != want {
			t.Errorf("%s: %d %s %v", body, w.Code, w.Body, r.purged)
		}
	}
	r.purged = nil
	for body, want := range map[string]string{
		``:                               "the body must be",
		`null`:                           "nothing is selected",
		`{}`:                             "nothing is selected",
		`{"tenant":""}`:                  "nothing is selected",
		`[]`:                             "the body must be",
		`{"tennant":"acme"}`:             "the body must be",
		`{"tenant":"acme","models":"x"}`: "the body must be",
		`{"tenant":"a"} {"tenant":"b"}`:  "nothing else",
		`{"policy":"chat"}`:              "namespace/name",
		`{"key":"0a"}`:                   "64 hexadecimal digits",
		`{"tag":"` + strings.Repeat("x", maxPurge) + `"}`: "the body must be",
	} {
		if w := post(body); w.Code != 400 || !strings.Contains(w.Body.String(), want) || len(r.purged) != 0 {
			t.Errorf("%.60s: %d %s %v", body, w.Code, w.Body, r.purged)
		}
	}
	r.purge = errors.New("redis at 10.0.0.9:6379: connection refused")
	if w := post(`{"tag":"x"}`); w.Code != 503 || w.Header().Get("retry-after") == "" || !strings.Contains(w.Body.String(), "from this replica") || strings.Contains(w.Body.String(), "10.0.0.9") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := r.get("/api/cache/purge"); w.Code != 405 {
		t.Errorf("GET: %d", w.Code)
	}
}

func FuzzParsePurge(f *testing.F) {
	for _, seed := range []string{``, `{}`, `{"tenant":"a"}`, `{"key":"` + strings.Repeat("ff", 32) + `"}`, `{"policy":"a/b","tag":"\u0000"}`, `{"tag":"a"}x`, `[1]`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, body string) {
		if s, err := parsePurge(strings.NewReader(body)); err == nil && s.Empty() {
			t.Errorf("%q selects nothing, or all", body)
		}
	})
}

// TestRequestsOfTheCache: lists and details say what came of the cache, and what Weir asked by itself.
func TestRequestsOfTheCache(t *testing.T) {
	r := newRig(t, 1)
	r.finish("plain")
	r.finish("hit", func(f *usage.Finished) {
		f.Record.Cache, f.Record.Relayed, f.Record.Attempts, f.Record.Backend, f.Record.Endpoint = "hit", true, 0, "", ""
		f.Entry.Cache, f.Entry.Cached, f.Entry.Cost, f.Entry.Backend, f.Entry.Attempts = "hit", true, 0, "", 0
		f.Entry.Tokens, f.Entry.SavedTokens, f.Entry.SavedCost, f.Entry.Currency = ledger.Tokens{}, ledger.Tokens{Input: 7, Output: 3}, 1_500_000, "EUR"
	})
	r.finish("sum", func(f *usage.Finished) {
		f.Open.Fill, f.Open.Purpose, f.Entry.Purpose, f.Record.Fill = true, "summary", "summary", "summary"
	})
	r.finish("kept by Envoy alone", func(f *usage.Finished) { f.Open, f.Entry, f.Record.Fill = nil, nil, "refresh" })
	r.finish("answer", func(f *usage.Finished) { f.Open.Fill, f.Record.Fill = true, wire.FillAnswer })
	got := map[string][2]string{}
	for _, s := range read[Requests](r, "/api/requests").Recent {
		got[s.ID] = [2]string{s.Cache, s.Purpose}
	}
	want := map[string][2]string{"plain": {}, "hit": {"hit", ""}, "sum": {"", "summary"}, "req-kept by Envoy alone": {"", "refresh"}}
	if len(got) != len(want) {
		t.Errorf("%v", got)
	}
	for id, w := range want {
		if g, ok := got[id]; !ok || g != w {
			t.Errorf("%s: %v, want %v", id, g, w)
		}
	}
	if list := read[Requests](r, "/api/requests?cache=hit").Recent; len(list) != 1 || list[0].ID != "hit" {
		t.Errorf("%+v", list)
	}
	if d := read[Request](r, "/api/requests/hit"); !strings.Contains(strings.Join(d.Decision.Steps, " "), "was in the cache: it cost nothing") ||
		!strings.Contains(strings.Join(d.Decision.Steps, " "), "It would have cost 0.0015 EUR") || d.SavedCost != "0.0015" || d.Cost != "0" {
		t.Errorf("%q", d.Decision.Steps)
	}
	if d := read[Request](r, "/api/requests/plain"); strings.Contains(strings.Join(d.Decision.Steps, " "), "would have cost") || d.SavedCost != "" {
		t.Errorf("%q %q", d.Decision.Steps, d.SavedCost)
	}
	if d := read[Request](r, "/api/requests/sum"); !strings.Contains(strings.Join(d.Decision.Steps, " "), "on behalf of the consumer: summary") {
		t.Errorf("%q", d.Decision.Steps)
	}
}
