package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/weir-dev/weir/console"
	"github.com/weir-dev/weir/console/api"
	"github.com/weir-dev/weir/extproc/session"
)

// weirCommand runs weir with arguments, against a gateway at the address.
func weirCommand(t *testing.T, admin string, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	c := root()
	c.SetArgs(append(args, "--admin", admin))
	c.SetOut(&out)
	c.SetErr(io.Discard)
	err := c.ExecuteContext(context.Background())
	return out.String(), err
}

// keptGateway has a cache and two sessions. What changes something is noted.
func keptGateway(t *testing.T) (address string, told *[]string) {
	t.Helper()
	told = &[]string{}
	half, zero := 0.5, 0.011
	mux := http.NewServeMux()
	answer := func(pattern string, body any) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			sent, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			if r.Method != http.MethodGet {
				*told = append(*told, strings.TrimSpace(r.Method+" "+r.URL.RequestURI()+" "+string(sent)))
			}
			w.Header().Set("content-type", "application/json")
			_ = json.NewEncoder(w).Encode(body)
		})
	}
	answer("GET /api/cache", api.Cache{Redis: "up", Replicas: 3, Buying: 2, BuyingBytes: 2048, Queue: 4, Policies: []api.CachePolicyState{
		{ID: "default/chat", Entries: 12, Bytes: 1 << 20, MaxBytes: 64 << 20, Hits: api.CacheHits{Memory: 30, Redis: 5}, Stale: 3, Negative: 1, Misses: 39, Shared: 7, HitRatio: &half,
			SavedTokens: api.SavedTokens{Input: 12345, Output: 678}, SavedCost: []api.Amount{{Amount: "0.5", Currency: "EUR"}, {Amount: "1.234567891", Currency: "USD"}},
			Bloom: &api.BloomState{Keys: 12, MaxKeys: 1e6, Bytes: 1198136, Spared: 39, Missed: 1, FalsePositives: &zero, ConfiguredFalsePositives: 0.01}},
		{ID: "default/evil\x1b[31m"},
	}})
	answer("POST /api/cache/purge", api.CachePurged{Purged: 7})
	now := time.Now()
	one := session.Line{Tenant: "acme", Consumer: "default/ana", ID: "trip-1", Policy: "default/chat", Store: "redis", Used: now.Add(-time.Minute), Expires: now.Add(time.Hour), Turns: 3, Tokens: 1500, State: "idle", Intent: "buy"}
	two := session.Line{Tenant: "acme", ID: "shared", Policy: "default/all", Store: "memory", Used: now, Expires: now.Add(time.Hour)}
	mux.HandleFunc("GET /api/sessions", func(w http.ResponseWriter, r *http.Request) {
		page := sessionList{Sessions: []session.Line{one}, Next: "c1"}
		if r.FormValue("cursor") == "c1" {
			page = sessionList{Sessions: []session.Line{two}}
		}
		if r.FormValue("tenant") == "nobody" {
			page = sessionList{Sessions: []session.Line{}}
		}
		_ = json.NewEncoder(w).Encode(page)
	})
	answer("DELETE /api/sessions", map[string]int{"erased": 4})
	view := session.View{
		Tenant: "acme", Consumer: "default/ana", ID: "trip/1", Policy: "default/chat", Revision: 5, Created: now, Used: now, Expires: now.Add(time.Hour), Turns: 3, Forgotten: 2, Tokens: 1500,
		Intent: "buy", State: "executing", Entered: &now, Slots: map[string]session.Slot{"city": {Value: json.RawMessage(`{"name": "Ulm"}`), Source: "rule"}},
		Entities: map[string][]string{"mail": {"a@b.example", "c@d.example"}}, Events: []session.Event{{At: now, Name: "confirm", From: "awaiting_confirmation", To: "executing"}},
	}
	mux.HandleFunc("GET /api/sessions/{id}", func(w http.ResponseWriter, r *http.Request) {
		if r.PathValue("id") != "trip/1" || r.FormValue("consumer") != "default/ana" {
			api.Fail(w, http.StatusNotFound, "there is no such session")
			return
		}
		_ = json.NewEncoder(w).Encode(view)
	})
	answer("PUT /api/sessions/{id}/state", view)
	answer("DELETE /api/sessions/{id}", map[string]int{"erased": 1})
	mux.HandleFunc("GET /api/sessions/{id}/export", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"id":"trip/1"}`) })
	mux.HandleFunc("GET /api/session-export", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "{\"id\":\"a\"}\n")
		if r.FormValue("tenant") == "broken" {
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}
	})
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s.URL, told
}

func TestCacheAndSessionsCommands(t *testing.T) {
	at, told := keptGateway(t)
	ana := []string{"--tenant", "acme", "--consumer", "default/ana"}
	for name, c := range map[string]struct {
		args []string
		want []string
		told string
	}{
		"stats":        {[]string{"cache", "stats"}, []string{"by Redis, 3 replicas", "2 answers, 2.0 KiB", "default/chat", "1.0 MiB of 64.0 MiB", "50.0%", "30, 5", "12.3k, 678", "0.5 EUR, 1.234567891 USD", "being made", "1.1%", "1.0%"}, ""},
		"stats JSON":   {[]string{"cache", "stats", "-o", "json"}, []string{`"hitRatio": 0.5`}, ""},
		"purge":        {[]string{"cache", "purge", "--policy", "default/chat", "--tag", "x"}, []string{"7 answers purged"}, `POST /api/cache/purge {"tag":"x","policy":"default/chat"}`},
		"purge JSON":   {[]string{"cache", "purge", "--tenant", "acme", "-o", "json"}, []string{`"purged": 7`}, `POST /api/cache/purge {"tenant":"acme"}`},
		"list":         {[]string{"sessions", "list"}, []string{"trip-1", "default/ana", "redis", "1.5k", "idle", "60 s ago", "60 min", "shared"}, ""},
		"list some":    {[]string{"sessions", "list", "--limit", "1"}, []string{"trip-1", "There are more"}, ""},
		"list none":    {[]string{"sessions", "list", "--tenant", "nobody"}, []string{"No sessions."}, ""},
		"list JSON":    {[]string{"sessions", "list", "-o", "json"}, []string{`"id": "trip-1"`, `"id": "shared"`}, ""},
		"show":         {append([]string{"sessions", "show", "trip/1"}, ana...), []string{"executing, for", "2 are not kept any more", `{"name":"Ulm"}  rule`, "a@b.example, c@d.example", "confirm  awaiting_confirmation  executing"}, ""},
		"show JSON":    {append([]string{"sessions", "show", "trip/1", "-o", "json"}, ana...), []string{`"revision": 5`}, ""},
		"export":       {append([]string{"sessions", "export", "trip/1"}, ana...), []string{"{\"id\":\"trip/1\"}\n"}, ""},
		"export all":   {append([]string{"sessions", "export"}, ana...), []string{"{\"id\":\"a\"}\n"}, ""},
		"delete":       {append([]string{"sessions", "delete", "trip/1"}, ana...), []string{"1 session erased"}, "DELETE /api/sessions/trip%2F1?consumer=default%2Fana&tenant=acme"},
		"delete all":   {append([]string{"sessions", "delete", "--all"}, ana...), []string{"4 sessions erased"}, "DELETE /api/sessions?consumer=default%2Fana&tenant=acme"},
		"set a state":  {append([]string{"sessions", "set-state", "trip/1", "executing"}, ana...), []string{"State     executing"}, `PUT /api/sessions/trip%2F1/state?consumer=default%2Fana&tenant=acme {"state":"executing"}`},
		"tenant alone": {[]string{"sessions", "set-state", "s", "idle", "--tenant", "acme"}, []string{"State"}, `PUT /api/sessions/s/state?tenant=acme {"state":"idle"}`},
	} {
		t.Run(name, func(t *testing.T) {
			*told = nil
			out, err := weirCommand(t, at, c.args...)
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range c.want {
				if !strings.Contains(out, want) {
					t.Errorf("%q is not in:\n%s", want, out)
				}
			}
			if strings.Contains(out, "\x1b") {
				t.Errorf("a name reaches the terminal as it is: %q", out)
			}
			if got := strings.Join(*told, "; "); got != c.told {
				t.Errorf("the gateway was told %q, not %q", got, c.told)
			}
		})
	}
}

// TestCacheAndSessionsErrors: what is wrong is said before anything is changed.
func TestCacheAndSessionsErrors(t *testing.T) {
	at, told := keptGateway(t)
	old := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { api.Fail(w, http.StatusNotFound, console.NothingHere) }))
	t.Cleanup(old.Close)
	for name, c := range map[string]struct {
		at   string
		args []string
		want string
	}{
		"purge of nothing":     {at, []string{"cache", "purge"}, "nothing is selected"},
		"purge of half a name": {at, []string{"cache", "purge", "--policy", "chat"}, "default/chat"},
		"another output":       {at, []string{"cache", "stats", "-o", "yaml"}, "use text or json"},
		"an older gateway":     {old.URL, []string{"cache", "stats"}, "is no weir that knows /api/cache"},
		"whose":                {at, []string{"sessions", "show", "x"}, "--tenant is missing"},
		"whose consumer":       {at, []string{"sessions", "list", "--consumer", "default/ana"}, "--tenant is missing"},
		"half a consumer":      {at, []string{"sessions", "show", "x", "--tenant", "t", "--consumer", "ana"}, "default/ana"},
		"no session":           {at, []string{"sessions", "show", "x", "--tenant", "t"}, "there is no such session"},
		"no limit":             {at, []string{"sessions", "list", "--limit", "0"}, "--limit"},
		"delete what":          {at, []string{"sessions", "delete", "--tenant", "t"}, "--all"},
		"delete both":          {at, []string{"sessions", "delete", "x", "--all", "--tenant", "t"}, "--all"},
		"half an export":       {at, []string{"sessions", "export", "--tenant", "broken"}, "not all of it"},
	} {
		t.Run(name, func(t *testing.T) {
			*told = nil
			_, err := weirCommand(t, c.at, c.args...)
			var quiet quietError
			if err == nil || errors.As(err, &quiet) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v", err)
			}
			if len(*told) > 0 {
				t.Errorf("the gateway was told %q", *told)
			}
		})
	}
}
