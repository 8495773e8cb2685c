package session

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
)

// apiRig serves the API of a rig.
func apiRig(t *testing.T, r *rig, scope func(*http.Request) (Scope, bool)) func(method, path, body string, headers ...string) (int, string, http.Header) {
	mux := http.NewServeMux()
	NewAPI(r.Manager, scope).Register(mux, "/api")
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return func(method, path, body string, headers ...string) (int, string, http.Header) {
		t.Helper()
		req, err := http.NewRequest(method, s.URL+"/api"+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(headers); i += 2 {
			req.Header.Set(headers[i], headers[i+1])
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(b), resp.Header
	}
}

// TestAPI: reading, changing, exporting and erasing sessions.
func TestAPI(t *testing.T) {
	stores(t, func(t *testing.T, place Place, change func(*Policy)) {
		p := policyOf(with(t), change, encrypted(mustKey(t, 1)))
		r := newRig(t, place, p)
		for i := range 5 {
			r.say(p, Address{"acme", "acme/ana", fmt.Sprintf("s/%d", i)}, "hello", "hi")
		}
		r.say(p, Address{"acme", "acme/bob", "b"}, "hello", "hi")
		r.say(p, Address{"globex", "", "g"}, "hello", "hi")
		call := apiRig(t, r, Everything)
		list := func(query string) (ids []string, next string) {
			t.Helper()
			status, body, _ := call("GET", "/sessions"+query, "")
			var got struct {
				Sessions []Line
				Next     string
			}
			if err := json.Unmarshal([]byte(body), &got); err != nil || status != 200 {
				t.Fatalf("%d %s %v", status, body, err)
			}
			for _, l := range got.Sessions {
				ids = append(ids, l.Tenant+" "+l.ID)
			}
			return ids, got.Next
		}
		seen := map[string]bool{}
		for query, pages := "?limit=3", 0; ; pages++ {
			ids, next := list(query)
			for _, id := range ids {
				if seen[id] {
					t.Errorf("%s is listed twice", id)
				}
				seen[id] = true
			}
			if next == "" {
				if pages != 2 {
					t.Errorf("%d pages", pages+1)
				}
				break
			}
			query = "?limit=3&cursor=" + url.QueryEscape(next)
		}
		if len(seen) != 7 {
			t.Errorf("%d sessions are listed", len(seen))
		}
		if ids, _ := list("?tenant=acme&consumer=acme/bob"); len(ids) != 1 {
			t.Errorf("%q", ids)
		}
		if ids, _ := list("?tenant=globex"); len(ids) != 1 {
			t.Errorf("%q", ids)
		}

		const one = "/sessions/s%2F1"
		const who = "?tenant=acme&consumer=acme/ana"
		status, body, h := call("GET", one+who, "")
		if status != 200 || h.Get("etag") != `"1"` || h.Get("cache-control") != "no-store" || !strings.Contains(body, `"turns": 1`) || strings.Contains(body, "hello") {
			t.Errorf("%d %v %s", status, h, body)
		}
		for _, c := range []struct {
			method, path, body, match string
			status                    int
			want                      string
		}{
			{"PUT", one + "/slots" + who, `{"city":"Ulm","n":3}`, "", 200, `"source": "api"`},
			{"PATCH", one + "/slots" + who, `{"n":null,"x":{"a":[1]}}`, `"2"`, 200, `"revision": 3`},
			{"GET", one + "/slots" + who, "", "", 200, `"city": {`},
			{"PATCH", one + "/slots" + who, `{"y":1}`, `"2"`, 412, "changed since"},
			{"PATCH", one + "/slots" + who, `{"y":1}`, `x`, 400, "if-match"},
			{"PUT", one + "/slots" + who, `{"no good":1}`, "", 400, "no name of a slot"},
			{"PUT", one + "/slots" + who, `[]`, "", 400, "an object of slots"},
			{"PUT", one + "/slots" + who, `null`, "", 400, "an object of slots"},
			{"PATCH", one + "/slots" + who, `null`, "", 400, "an object of slots"},
			{"PUT", one + "/state" + who, `null`, "", 400, "the body must be"},
			{"PUT", one + "/slots" + who, `{} {}`, "", 400, "nothing else"},
			{"PUT", one + "/slots" + who, `{"big":"` + strings.Repeat("x", maxSlotBytes) + `"}`, "", 422, "no room"},
			{"PUT", one + "/state" + who, `{"state":"executing"}`, "", 200, `"name": "api"`},
			{"PUT", one + "/state" + who, `{"state":"nowhere"}`, "", 422, "has no state"},
			{"PUT", one + "/state" + who, `{"stat":"x"}`, "", 400, "the body must be"},
			{"GET", one + "/state" + who, "", "", 200, `"state": "executing"`},
			{"GET", one + "/export" + who, "", "", 200, `"text":"hello"`},
			{"GET", "/sessions/none" + who, "", "", 404, "no such session"},
			{"GET", one + "?tenant=acme", "", "", 404, "no such session"},
			{"PUT", "/sessions/none/slots" + who, `{}`, "", 404, "no such session"},
			{"DELETE", "/sessions/none" + who, "", "", 404, "no such session"},
			{"GET", one, "", "", 400, "say whose"},
			{"GET", "/sessions?consumer=x", "", "", 400, "say the tenant"},
			{"GET", "/sessions?limit=0", "", "", 400, "limit must be"},
			{"GET", "/sessions?cursor=x", "", "", 400, "cursor is not"},
			{"DELETE", "/sessions", "", "", 400, "say whose sessions"},
			{"GET", "/session-export", "", "", 400, "say whose sessions"},
			{"DELETE", one + who, "", "", 200, `"erased": 1`},
			{"GET", one + who, "", "", 404, "no such session"},
		} {
			headers := []string{}
			if c.match != "" {
				headers = []string{"if-match", c.match}
			}
			if status, body, _ := call(c.method, c.path, c.body, headers...); status != c.status || !strings.Contains(body, c.want) {
				t.Errorf("%s %s %.100s: %d %s", c.method, c.path, c.body, status, body)
			}
		}
		status, body, h = call("GET", "/session-export"+who, "")
		lines := strings.Split(strings.TrimSpace(body), "\n")
		if status != 200 || h.Get("content-type") != "application/x-ndjson" || len(lines) != 4 || strings.Contains(body, "erasure") {
			t.Errorf("%d %s", status, body)
		}
		for _, l := range lines {
			var s Session
			if err := json.Unmarshal([]byte(l), &s); err != nil || len(s.Turns) != 1 {
				t.Errorf("%v %s", err, l)
			}
		}
		if status, body, _ = call("DELETE", "/sessions"+who, ""); status != 200 || !strings.Contains(body, `"erased": 4`) {
			t.Errorf("%d %s", status, body)
		}
		if ids, _ := list(""); len(ids) != 2 {
			t.Errorf("%q are left", ids)
		}
		if status, body, _ = call("GET", "/session-export"+who, ""); status != 200 || body != "" {
			t.Errorf("%d %s", status, body)
		}
		// The policy goes: what is kept can be read and erased, not changed.
		r.Use(nil)
		if status, body, _ := call("PUT", "/sessions/g/slots?tenant=globex", `{}`); status != 409 {
			t.Errorf("%d %s", status, body)
		}
		if status, body, _ := call("DELETE", "/sessions?tenant=globex", ""); status != 200 || !strings.Contains(body, `"erased": 1`) {
			t.Errorf("%d %s", status, body)
		}
	})
}

// TestScope: who may see some sessions sees and changes no others.
func TestScope(t *testing.T) {
	p := policyOf(with(t))
	r := newRig(t, nil, p)
	r.say(p, Address{"acme", "acme/ana", "a"}, "hello", "hi")
	r.say(p, Address{"acme", "acme/bob", "b"}, "hello", "hi")
	r.say(p, Address{"globex", "globex/gus", "g"}, "hello", "hi")
	for name, c := range map[string]struct {
		scope Scope
		sees  int
	}{
		"tenant":   {Scope{Tenant: "acme"}, 2},
		"consumer": {Scope{Tenant: "acme", Consumer: "acme/ana", OneConsumer: true}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			call := apiRig(t, r, func(*http.Request) (Scope, bool) { return c.scope, true })
			_, body, _ := call("GET", "/sessions", "")
			if got := strings.Count(body, `"id"`); got != c.sees {
				t.Errorf("%d sessions are seen, not %d", got, c.sees)
			}
			for _, path := range []string{"/sessions/g?tenant=globex&consumer=globex/gus", "/sessions?tenant=globex", "/session-export?tenant=globex"} {
				if status, body, _ := call("GET", path, ""); status != 403 {
					t.Errorf("%s: %d %s", path, status, body)
				}
			}
			for _, path := range []string{"/sessions/g?tenant=globex&consumer=globex/gus", "/sessions?tenant=globex"} {
				if status, body, _ := call("DELETE", path, ""); status != 403 {
					t.Errorf("%s: %d %s", path, status, body)
				}
			}
			if status, _, _ := call("GET", "/sessions/g?consumer=globex/gus", ""); status == 200 {
				t.Error("another tenant's session is shown")
			}
			if status, _, _ := call("GET", "/sessions/b?consumer=acme/bob", ""); (status == 200) != (name == "tenant") {
				t.Errorf("another consumer's session: %d", status)
			}
			if status, _, _ := call("GET", "/sessions/a?tenant=acme&consumer=acme/ana", ""); status != 200 {
				t.Errorf("one's own session: %d", status)
			}
		})
	}
	call := apiRig(t, r, func(*http.Request) (Scope, bool) { return Scope{}, false })
	if status, _, _ := call("GET", "/sessions", ""); status != 403 {
		t.Errorf("%d", status)
	}
}

// TestAPIWithoutRedis: what cannot be reached or read says so, and can be erased where it is there.
func TestAPIWithoutRedis(t *testing.T) {
	server, place := redisPlace(t)
	p := policyOf(inRedisToo, encrypted(mustKey(t, 1)))
	r := newRig(t, place, p)
	r.say(p, ana, "hello", "hi")
	r.say(p, Address{"acme", "acme/bob", "b"}, "hello", "hi")
	r.Use([]*Policy{policyOf(inRedisToo, encrypted(mustKey(t, 2)))})
	call := apiRig(t, r, Everything)
	if status, body, _ := call("GET", "/sessions/s-1?tenant=acme&consumer=acme/ana", ""); status != 409 || !strings.Contains(body, "cannot be read") {
		t.Errorf("%d %s", status, body)
	}
	if status, body, _ := call("GET", "/sessions", ""); status != 200 || strings.Contains(body, "s-1") {
		t.Errorf("%d %s", status, body)
	}
	if status, body, _ := call("DELETE", "/sessions/s-1?tenant=acme&consumer=acme/ana", ""); status != 200 {
		t.Errorf("%d %s", status, body)
	}
	if status, body, _ := call("DELETE", "/sessions?tenant=acme", ""); status != 200 || !strings.Contains(body, `"erased": 1`) {
		t.Errorf("%d %s", status, body)
	}
	server.Kill()
	for _, c := range [][2]string{{"GET", "/sessions"}, {"DELETE", "/sessions?tenant=acme"}, {"GET", "/session-export?tenant=acme"}, {"GET", "/sessions/x?tenant=acme"}, {"DELETE", "/sessions/x?tenant=acme"}} {
		if status, body, h := call(c[0], c[1], ""); status != 503 || h.Get("retry-after") == "" || strings.Contains(body, server.Addr) {
			t.Errorf("%v: %d %s", c, status, body)
		}
	}
}

// TestTimersAreBounded: a session has one timer, which goes when it is erased.
func TestTimersAreBounded(t *testing.T) {
	p := policyOf(with(t))
	r := newRig(t, nil, p)
	for range 3 {
		r.say(p, ana, "q", "Shall I?")
	}
	if n := len(r.timers.queue); n != 1 {
		t.Errorf("%d timers", n)
	}
	if _, err := r.Erase(context.Background(), ana); err != nil {
		t.Fatal(err)
	}
	if n := len(r.timers.queue); n != 0 {
		t.Errorf("%d timers are left", n)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { r.Run(ctx); close(done) }()
	cancel()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Error("Run does not end")
	}
}
