package console

import (
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestWhoComesIn: what is open stays open, and the rest goes by the address and the login.
func TestWhoComesIn(t *testing.T) {
	shutAt := func(o *Options) { o.Address = elsewhere }
	for name, c := range map[string]struct {
		edit             func(*Options)
		api, page, login int
	}{
		"loopback":                 {nil, 200, 200, 200},
		"loopback 6":               {func(o *Options) { o.Address = &net.TCPAddr{IP: net.IPv6loopback, Port: 1} }, 200, 200, 200},
		"loopback with a token":    {withToken(t), 401, 200, 200},
		"elsewhere":                {shutAt, 403, 403, 403},
		"elsewhere with a token":   {func(o *Options) { withToken(t)(o); o.Address = elsewhere }, 401, 200, 200},
		"one address, not of here": {func(o *Options) { o.Address = &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1} }, 403, 403, 403},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, c.edit)
			for _, path := range open {
				if a := r.ask("GET", path, "", "host", "anything.example"); a.status != 200 || a.body != "open" {
					t.Errorf("%s: %d %s", path, a.status, a.body)
				}
			}
			for path, want := range map[string]int{"/api/status": c.api, "/": c.page, "/index.html": c.page, "/api/session": c.login} {
				a := r.ask("GET", path, "")
				if a.status != want {
					t.Errorf("%s: status %d, want %d: %s", path, a.status, want, a.body)
				}
				if want != 200 && !strings.Contains(a.body, `{"error":"`) {
					t.Errorf("%s: the refusal is %s", path, a.body)
				}
				if want == 401 && !strings.HasPrefix(a.header.Get("www-authenticate"), "Bearer ") {
					t.Errorf("%s: no challenge", path)
				}
			}
			if got := r.Shut(); got != (c.page == 403) {
				t.Errorf("Shut is %v", got)
			}
		})
	}
}

// TestShutSaysWhatToDo to a person, as a page.
func TestShutSaysWhatToDo(t *testing.T) {
	r := newRig(t, func(o *Options) { o.Address = elsewhere })
	a := r.ask("GET", "/", "", "accept", "text/html,*/*")
	for _, want := range []string{"<h1>", "WEIR_ADMIN_TOKEN", "--admin-token-file", "--admin-oidc-issuer", "127.0.0.1"} {
		if !strings.Contains(a.body, want) {
			t.Errorf("%q is missing in %s", want, a.body)
		}
	}
	if kind := a.header.Get("content-type"); kind != "text/html; charset=utf-8" {
		t.Errorf("content-type %q", kind)
	}
}

// TestHeaders: every answer but the open ones keeps browsers from doing harm with it.
func TestHeaders(t *testing.T) {
	r := newRig(t, withToken(t))
	for _, path := range []string{"/", "/api/status", "/api/session", "/nothing", "/api/session/oidc"} {
		h := r.ask("GET", path, "").header
		for name, want := range map[string]string{
			"content-security-policy": policy, "x-content-type-options": "nosniff", "referrer-policy": "no-referrer",
			"cross-origin-opener-policy": "same-origin", "cross-origin-resource-policy": "same-origin", "x-frame-options": "DENY",
		} {
			if got := h.Get(name); got != want {
				t.Errorf("%s: %s is %q", path, name, got)
			}
		}
		if strings.HasPrefix(path, "/api/") && h.Get("cache-control") != "no-store" {
			t.Errorf("%s may be kept: %q", path, h.Get("cache-control"))
		}
	}
	if strings.Contains(policy, "unsafe") || !strings.HasPrefix(policy, "default-src 'none';") {
		t.Errorf("the policy is %s", policy)
	}
}

// TestRebinding: another name that leads to a loopback address gets nothing, unless a login guards it.
func TestRebinding(t *testing.T) {
	free := newRig(t, func(o *Options) { o.Name = "admin.internal" })
	for host, want := range map[string]int{
		"127.0.0.1:8081": 200, "localhost": 200, "LOCALHOST:1": 200, "localhost.:1": 200, "console.localhost:8081": 200, "[::1]:8081": 200, "127.8.8.8": 200, "admin.internal:8081": 200,
		"evil.example": 421, "evil.example:8081": 421, "127.0.0.1.evil.example": 421, "notlocalhost": 421, "192.0.2.1": 421, "0.0.0.0": 421,
	} {
		for _, path := range []string{"/api/status", "/", "/api/session"} {
			if a := free.ask("GET", path, "", "host", host); a.status != want {
				t.Errorf("%s of %s: status %d, want %d", path, host, a.status, want)
			}
		}
	}
	if a := newRig(t, withToken(t)).ask("GET", "/", "", "host", "console.example"); a.status != 200 {
		t.Errorf("a guarded console under another name: status %d", a.status)
	}
}

// TestOtherSites cannot change anything, and can read nothing that changes by asking.
func TestOtherSites(t *testing.T) {
	r := newRig(t, nil)
	for name, c := range map[string]struct {
		headers []string
		want    int
	}{
		"a script":                {nil, 200},
		"the page":                {[]string{"origin", "URL", "sec-fetch-site", "same-origin"}, 200},
		"the page, old browser":   {[]string{"origin", "URL"}, 200},
		"another site":            {[]string{"origin", "https://evil.example", "sec-fetch-site", "cross-site"}, 403},
		"another site, old":       {[]string{"origin", "https://evil.example"}, 403},
		"another port":            {[]string{"origin", "http://127.0.0.1:1", "sec-fetch-site", "same-site"}, 403},
		"a sandbox":               {[]string{"origin", "null"}, 403},
		"another site, no origin": {[]string{"sec-fetch-site", "cross-site"}, 403},
	} {
		t.Run(name, func(t *testing.T) {
			headers := slices.Clone(c.headers)
			for i, v := range headers {
				if v == "URL" {
					headers[i] = r.url
				}
			}
			for _, x := range []struct{ method, path string }{{"POST", "/api/change"}, {"POST", "/api/session"}} {
				if a := r.ask(x.method, x.path, "{}", headers...); a.status != c.want {
					t.Errorf("%s %s: status %d, want %d: %s", x.method, x.path, a.status, c.want, a.body)
				}
			}
		})
	}
}

func TestTokenLogin(t *testing.T) {
	r := newRig(t, withToken(t))
	if s := r.session(); s.Authenticated || !s.LoginRequired || !slices.Equal(s.Methods, []string{"token"}) || s.User != "" || !s.Playground {
		t.Errorf("before: %+v", s)
	}
	for _, body := range []string{`{"token":"wrong"}`, `{"token":""}`, `{}`, `{"token":"` + secret + `x"}`} {
		if a := r.ask("POST", "/api/session", body); a.status != 401 || a.header.Get("set-cookie") != "" {
			t.Errorf("%s: status %d", body, a.status)
		}
	}
	for body, want := range map[string]int{`{"token":5}`: 400, `nonsense-of-` + secret: 400, `{"token":"` + strings.Repeat("x", 9000) + `"}`: 413} {
		if a := r.ask("POST", "/api/session", body); a.status != want || strings.Contains(a.body, secret) {
			t.Errorf("%.30s: status %d %s", body, a.status, a.body)
		}
	}
	if a := r.ask("POST", "/api/session", `{"token":"`+secret+`"}`, "content-type", "text/plain"); a.status != 415 {
		t.Errorf("a form of another site could send text/plain: status %d", a.status)
	}

	a := r.login()
	if a.status != 200 {
		t.Fatalf("login: %d %s", a.status, a.body)
	}
	cookie := a.header.Get("set-cookie")
	for _, want := range []string{"weir_session=", "Path=/", "HttpOnly", "SameSite=Strict", "Max-Age=43200"} {
		if !strings.Contains(cookie, want) {
			t.Errorf("%q is missing in %s", want, cookie)
		}
	}
	if strings.Contains(cookie, "Secure") {
		t.Error("a browser would not send this over plain HTTP")
	}
	if a := r.ask("GET", "/api/status", ""); a.status != 200 {
		t.Errorf("after the login: %d", a.status)
	}
	if s := r.session(); !s.Authenticated || s.Method != "token" || s.User == "" || s.ExpiresAt == nil {
		t.Errorf("after: %+v", s)
	}
	if a := r.ask("DELETE", "/api/session", ""); a.status != 204 {
		t.Errorf("logout: %d", a.status)
	}
	if a := r.ask("GET", "/api/status", "", "cookie", strings.Split(cookie, ";")[0]); a.status != 401 {
		t.Errorf("the cookie of a session that has ended: status %d", a.status)
	}
	if strings.Contains(r.log.String(), secret) || !strings.Contains(r.log.String(), "somebody logged in") {
		t.Errorf("the log: %s", r.log)
	}
}

// TestSecureCookies over HTTPS, also where a proxy speaks it.
func TestSecureCookies(t *testing.T) {
	r := newRig(t, withToken(t))
	r.browser.Jar = nil // it takes this machine for safe
	a := r.ask("POST", "/api/session", `{"token":"`+secret+`"}`, "x-forwarded-proto", "https")
	cookie := a.header.Get("set-cookie")
	if !strings.HasPrefix(cookie, "__Host-weir_session=") || !strings.Contains(cookie, "Secure") || strings.Contains(cookie, "Domain") {
		t.Errorf("the cookie is %s", cookie)
	}
	value := strings.Split(cookie, ";")[0]
	if a := r.ask("GET", "/api/status", "", "cookie", value, "x-forwarded-proto", "https"); a.status != 200 {
		t.Errorf("status %d", a.status)
	}
	if a := r.ask("GET", "/api/status", "", "cookie", strings.TrimPrefix(value, "__Host-"), "x-forwarded-proto", "https"); a.status != 401 {
		t.Errorf("a cookie that any neighbour could set: status %d", a.status)
	}
}

func TestBearer(t *testing.T) {
	r := newRig(t, withToken(t))
	for value, want := range map[string]int{
		"Bearer " + secret: 200, "bearer  " + secret + " ": 200, "Bearer": 401, "Bearer x": 401, "Basic " + secret: 401,
	} {
		if a := r.ask("GET", "/api/status", "", "authorization", value); a.status != want {
			t.Errorf("%q: status %d, want %d", value, a.status, want)
		}
	}
	if a := r.ask("GET", "/api/session", "", "authorization", "Bearer "+secret); !strings.Contains(a.body, `"authenticated":true`) {
		t.Errorf("the session of a script: %s", a.body)
	}
	// A cookie does not make up for a wrong token.
	r.login()
	if a := r.ask("GET", "/api/status", "", "authorization", "Bearer wrong"); a.status != 401 {
		t.Errorf("a wrong token beside a session: status %d", a.status)
	}
}

func TestThrottle(t *testing.T) {
	r := newRig(t, withToken(t))
	for i := range maxFailures {
		if a := r.ask("GET", "/api/status", "", "authorization", "Bearer wrong"); a.status != 401 {
			t.Fatalf("failure %d: status %d", i+1, a.status)
		}
	}
	a := r.login()
	if a.status != http.StatusTooManyRequests || a.header.Get("retry-after") != "10" {
		t.Errorf("after %d failures: status %d, retry-after %q", maxFailures, a.status, a.header.Get("retry-after"))
	}
	r.clock.add(forgiveAfter)
	if a := r.login(); a.status != 200 {
		t.Errorf("%s later: status %d", forgiveAfter, a.status)
	}
	r.clock.add(maxFailures * forgiveAfter)
	for i := range maxFailures {
		if a := r.ask("POST", "/api/session", `{"token":"no"}`); a.status != 401 {
			t.Fatalf("failure %d when all are forgiven: status %d", i+1, a.status)
		}
	}
}

func TestSessionsExpire(t *testing.T) {
	r := newRig(t, withToken(t))
	status := func() int { return r.ask("GET", "/api/status", "").status }
	r.login()
	for range 5 { // in use
		r.clock.add(idleExpiry - time.Second)
		if got := status(); got != 200 {
			t.Fatalf("a session in use: status %d", got)
		}
	}
	r.clock.add(idleExpiry)
	if got := status(); got != 401 {
		t.Errorf("a session without use: status %d", got)
	}
	r.login()
	for range int(lastExpiry/(idleExpiry/2)) - 1 {
		r.clock.add(idleExpiry / 2)
		if got := status(); got != 200 {
			t.Fatalf("a session in use: status %d", got)
		}
	}
	r.clock.add(idleExpiry / 2)
	if got := status(); got != 401 {
		t.Errorf("after %s: status %d", lastExpiry, got)
	}
}

// TestLogoutEndsStreams: what a session had opened ends with it, and keeps it alive until then.
func TestLogoutEndsStreams(t *testing.T) {
	r := newRig(t, withToken(t))
	r.login()
	ended := make(chan reply, 1)
	go func() { ended <- r.ask("GET", "/api/wait", "") }()
	select {
	case <-r.waiting:
	case a := <-ended:
		t.Fatalf("the stream ends at once: %d %s", a.status, a.body)
	}
	r.clock.add(2 * idleExpiry)
	if a := r.ask("GET", "/api/status", ""); a.status != 200 {
		t.Errorf("a session with a stream that is open: status %d", a.status)
	}
	r.ask("DELETE", "/api/session", "")
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Fatal("the stream goes on after the logout")
	}
}

func TestManySessionsMakeRoom(t *testing.T) {
	c := &clock{t: time.Now()}
	x := newSessions(c.now)
	first := x.begin(&session{})
	for range maxSessions - 1 {
		c.add(time.Millisecond)
		x.begin(&session{})
	}
	c.add(time.Millisecond)
	last := x.begin(&session{})
	if len(x.m) != maxSessions || x.get(first) != nil || x.get(last) == nil {
		t.Errorf("%d sessions; the first is %v", len(x.m), x.get(first))
	}
}

func TestMethodsAndPaths(t *testing.T) {
	r := newRig(t, nil)
	for _, c := range []struct {
		method, path string
		want         int
	}{
		{"POST", "/", 405}, {"HEAD", "/", 200}, {"GET", "/nothing.js", 404}, {"GET", "/static/index.html", 404}, {"GET", "/../console.go", 404},
		{"PUT", "/api/session", 405}, {"GET", "/api/nothing", 404}, {"GET", "/apix", 404}, {"GET", "/api", 404},
	} {
		if a := r.ask(c.method, c.path, ""); a.status != c.want {
			t.Errorf("%s %s: status %d, want %d", c.method, c.path, a.status, c.want)
		}
	}
}
