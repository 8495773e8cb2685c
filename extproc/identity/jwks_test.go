package identity

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// issuerServer is a JWKS endpoint whose answer a test sets.
type issuerServer struct {
	*httptest.Server
	mu     sync.Mutex
	answer http.HandlerFunc
	hits   int
}

func newIssuerServer(t *testing.T) *issuerServer {
	s := &issuerServer{answer: http.NotFound}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.hits++
		answer := s.answer
		s.mu.Unlock()
		answer(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *issuerServer) serve(answer http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = answer
}

func (s *issuerServer) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hits
}

// document answers with a body and header name, value pairs.
func document(body []byte, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		_, _ = w.Write(body)
	}
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

// jwksFixture is a manager on a fake clock. waits counts the waits that have been awaited.
type jwksFixture struct {
	*JWKS
	clock *fakeClock
	done  chan SourceState
	waits int
}

func newFixture(t *testing.T, opts JWKSOptions) *jwksFixture {
	f := &jwksFixture{clock: newFakeClock(), done: make(chan SourceState, 100)}
	opts.Clock = f.clock
	opts.Notify = func(s SourceState) { f.done <- s }
	f.JWKS = NewJWKS(opts)
	t.Cleanup(f.Stop)
	return f
}

// fetched waits for one fetch to end and its URL to wait again.
func (f *jwksFixture) fetched() SourceState {
	s := <-f.done
	f.waits++
	f.clock.waitFor(f.waits)
	return s
}

// advanceToFetch turns the clock on until a fetch has come of it. How often the URL waits depends on the load.
func (f *jwksFixture) advanceToFetch(step time.Duration) SourceState {
	for {
		f.clock.Advance(step)
		select {
		case s := <-f.done:
			return s
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// advanceUntilDone turns the clock on, fetch by fetch, until those who wait for keys have ended.
func (f *jwksFixture) advanceUntilDone(wg *sync.WaitGroup) {
	ended := make(chan struct{})
	go func() { wg.Wait(); close(ended) }()
	for {
		f.clock.Advance(minInterval)
		select {
		case <-ended:
			return
		case <-f.done:
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// woken waits until a wish for newer keys has made a URL wait for its minimum interval.
func (f *jwksFixture) woken() {
	f.waits++
	f.clock.waitFor(f.waits)
}

func urlConfig(url string) Config {
	return Config{Issuers: []Issuer{{Namespace: "default", Name: "u", Issuer: rsaIssuer, Audiences: []string{audience},
		Algorithms: []string{"RS256", "ES256"}, Keys: IssuerKeys{URL: url}, Leeway: 30 * time.Second}}}
}

// TestIssuerDown: the last keys serve for a while, then callers are told to come back, then it heals.
func TestIssuerDown(t *testing.T) {
	k := keysOnce()
	srv := newIssuerServer(t)
	srv.serve(document(jwks(jwk("r1", &k.rsa.PublicKey, nil))))
	f := newFixture(t, JWKSOptions{KeepFor: 30 * time.Minute})
	a := newAuthenticator(t, urlConfig(srv.URL), f)
	f.fetched()
	token := rsaToken(object{"exp": t0.Unix() + 86400})
	if _, err := login(a, bearer(token), f.clock.Now()); err != nil {
		t.Fatal(err)
	}
	srv.serve(status(500))
	f.clock.Advance(DefaultRefresh)
	var gaps []time.Duration
	for range 7 {
		s := f.fetched()
		if !strings.Contains(s.Err, "status 500") || s.Keys != 1 || !s.Fetched.Equal(t0) {
			t.Fatalf("state %+v", s)
		}
		gaps = append(gaps, s.Next.Sub(s.Attempted))
		f.clock.Advance(s.Next.Sub(s.Attempted))
	}
	if want := []time.Duration{2e9, 4e9, 8e9, 16e9, 32e9, 60e9, 60e9}; !slices.Equal(gaps, want) {
		t.Errorf("tries %v apart, want %v", gaps, want)
	}
	f.fetched()
	end := t0.Add(DefaultRefresh + 30*time.Minute)
	if _, err := login(a, bearer(token), end.Add(-1)); err != nil {
		t.Errorf("just before the end: %v", err)
	}
	id, err := login(a, bearer(token), end)
	mustRefuse(t, id, err, 503, CodeKeysUnavailable)
	if !strings.Contains(err.Message, rsaIssuer) || !strings.Contains(err.Message, "cannot be fetched") {
		t.Errorf("message %q", err.Message)
	}
	srv.serve(document(jwks(jwk("r1", &k.rsa.PublicKey, nil))))
	f.clock.Advance(end.Sub(f.clock.Now()))
	if s := f.fetched(); s.Err != "" {
		t.Fatalf("state %+v", s)
	}
	if _, err := login(a, bearer(token), f.clock.Now()); err != nil {
		t.Errorf("after the recovery: %v", err)
	}
}

// TestFetchRefusals: answers that must not become keys. Each is tried before and after a good one.
func TestFetchRefusals(t *testing.T) {
	k := keysOnce()
	good := jwks(jwk("r1", &k.rsa.PublicKey, nil))
	elsewhere := newIssuerServer(t)
	elsewhere.serve(document(good))
	srv := newIssuerServer(t)
	for _, c := range []struct {
		name, want string
		answer     http.HandlerFunc
	}{
		{"not found", "status 404", status(404)},
		{"no content", "status 204", status(204)},
		{"203 with keys", "status 203", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(203); _, _ = w.Write(good) }},
		{"too large", "more than 4096 bytes", document(append(good, strings.Repeat(" ", 4096)...))},
		{"endless", "more than 4096 bytes", func(w http.ResponseWriter, _ *http.Request) {
			for {
				if _, err := w.Write(good); err != nil {
					return
				}
			}
		}},
		{"HTML", "not a JWKS", document([]byte("<html>"))},
		{"empty", "not a JWKS", document(nil)},
		{"no list", "not a JWKS", document([]byte(`{"keys":{}}`))},
		{"null list", "not a JWKS", document([]byte(`{"keys":null}`))},
		{"trailing data", "not a JWKS", document(append(slices.Clone(good), "{}"...))},
		{"broken off", "broke off", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(len(good)+10))
			_, _ = w.Write(good)
		}},
		{"redirect to another host", "another host", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, elsewhere.URL, 302) }},
		{"redirect to another scheme", "another host or scheme", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://"+r.Host+"/keys", 302)
		}},
		{"redirect to a file", "another host or scheme", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "file:///etc/passwd")
			w.WriteHeader(302)
		}},
		{"redirect in a circle", "more than 3 times", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/again", 302) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t, JWKSOptions{MaxBytes: 4096})
			srv.serve(c.answer)
			remote, err := f.Watch(KeyLocation{URL: srv.URL + "/keys"})
			if err != nil {
				t.Fatal(err)
			}
			s := f.fetched()
			if !strings.Contains(s.Err, c.want) || s.Keys != 0 {
				t.Errorf("state %+v does not say %q", s, c.want)
			}
			if set, retry := remote.Current(f.clock.Now()); set != nil || retry != minInterval {
				t.Errorf("keys %v, retry in %v", set, retry)
			}
			srv.serve(document(good))
			f.clock.Advance(minInterval)
			if s := f.fetched(); s.Err != "" || s.Keys != 1 {
				t.Fatalf("state %+v", s)
			}
			before, _ := remote.Current(f.clock.Now())
			srv.serve(c.answer)
			f.clock.Advance(DefaultRefresh)
			f.fetched()
			if after, _ := remote.Current(f.clock.Now()); after != before || after.Len() != 1 {
				t.Errorf("the last keys are lost: %v", after)
			}
		})
	}
	if n := elsewhere.count(); n != 0 {
		t.Errorf("a redirect to another host was followed %d times", n)
	}
}

// TestSameOriginRedirect: a path that moved is followed, and the same document keeps the same set.
func TestSameOriginRedirect(t *testing.T) {
	srv := newIssuerServer(t)
	good := jwks(jwk("r1", &keysOnce().rsa.PublicKey, nil))
	srv.serve(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/old" {
			http.Redirect(w, r, "/new", http.StatusPermanentRedirect)
			return
		}
		document(good)(w, r)
	})
	f := newFixture(t, JWKSOptions{})
	remote, _ := f.Watch(KeyLocation{URL: srv.URL + "/old"})
	if s := f.fetched(); s.Keys != 1 {
		t.Fatalf("state %+v", s)
	}
	first, _ := remote.Current(t0)
	f.clock.Advance(DefaultRefresh)
	f.fetched()
	if second, _ := remote.Current(f.clock.Now()); second != first {
		t.Error("the same document made another set, which empties caches")
	}
}

func TestTimeout(t *testing.T) {
	srv := newIssuerServer(t)
	srv.serve(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	f := newFixture(t, JWKSOptions{Timeout: time.Millisecond})
	if _, err := f.Watch(KeyLocation{URL: srv.URL}); err != nil {
		t.Fatal(err)
	}
	if s := f.fetched(); !strings.Contains(s.Err, "deadline") {
		t.Errorf("state %+v", s)
	}
}

func TestMaxAge(t *testing.T) {
	good := jwks(jwk("r1", &keysOnce().rsa.PublicKey, nil))
	srv := newIssuerServer(t)
	for control, want := range map[string]time.Duration{
		"":                               DefaultRefresh,
		"public, max-age=900":            15 * time.Minute,
		`Max-Age="120", must-revalidate`: 2 * time.Minute,
		"max-age=1":                      minMaxAge,
		"max-age=0":                      DefaultRefresh,
		"max-age=86400":                  maxMaxAge,
		"max-age=99999999999999999999":   DefaultRefresh,
		"max-age=-5":                     DefaultRefresh,
		"max-age=900, no-store":          DefaultRefresh,
		"no-cache, max-age=900":          DefaultRefresh,
	} {
		f := newFixture(t, JWKSOptions{})
		srv.serve(document(good, "Cache-Control", control))
		if _, err := f.Watch(KeyLocation{URL: srv.URL}); err != nil {
			t.Fatal(err)
		}
		if s := f.fetched(); s.Next.Sub(s.Fetched) != want {
			t.Errorf("cache-control %q: next fetch after %v, want %v", control, s.Next.Sub(s.Fetched), want)
		}
	}
}

// TestWatch covers the life of URLs.
func TestWatch(t *testing.T) {
	for _, bad := range []string{"https://x/keys#1", "keys.json", "/keys", "file:///etc/passwd", "ftp://x/keys", "https://", "http://user:secret@x/keys", "://", "https://x/\x00"} {
		f := newFixture(t, JWKSOptions{})
		_, errs := New(urlConfig(bad), f)
		if len(errs) != 1 || strings.Contains(errs[0].Error(), "secret@") {
			t.Errorf("%q: %v", bad, errs)
		}
	}
	one, two := newIssuerServer(t), newIssuerServer(t)
	good := document(jwks(jwk("r1", &keysOnce().rsa.PublicKey, nil)))
	one.serve(good)
	two.serve(good)
	f := newFixture(t, JWKSOptions{})
	cfg := urlConfig(one.URL)
	again := cfg.Issuers[0]
	again.Issuer = "https://again.example"
	second := again
	second.Issuer, second.Keys.URL = "https://second.example", two.URL
	cfg.Issuers = append(cfg.Issuers, again, second)
	a := newAuthenticator(t, cfg, f)
	f.fetched()
	f.fetched()
	if n := one.count(); n != 1 {
		t.Errorf("a shared URL was fetched %d times", n)
	}
	if states := f.States(); len(states) != 2 || !slices.IsSortedFunc(states, func(a, b SourceState) int { return strings.Compare(a.URL, b.URL) }) {
		t.Errorf("states %+v", states)
	}
	if urls := a.URLs(); !slices.Contains(urls, one.URL) || !slices.Contains(urls, two.URL) {
		t.Errorf("URLs %v", urls)
	}
	f.Retain([]string{two.URL})
	if states := f.States(); len(states) != 1 || states[0].URL != two.URL {
		t.Errorf("states %+v", states)
	}
	// Requests that still use the old Authenticator are served with the keys it has.
	if _, err := login(a, bearer(rsaToken(nil)), t0); err != nil {
		t.Errorf("after Retain: %v", err)
	}
	f.Stop()
	f.Stop()
	if _, err := login(a, bearer(rsaToken(nil)), t0); err != nil {
		t.Errorf("after Stop: %v", err)
	}
	if _, err := f.Watch(KeyLocation{URL: one.URL}); err == nil {
		t.Error("a stopped manager starts to watch")
	}
}

// TestConcurrentRotation rotates keys under load: a token is let in, or refused as unknown, and never anything else.
func TestConcurrentRotation(t *testing.T) {
	k := keysOnce()
	srv := newIssuerServer(t)
	r1, e1 := jwk("r1", &k.rsa.PublicKey, nil), jwk("e1", &k.p256.PublicKey, nil)
	srv.serve(document(jwks(r1)))
	f := newFixture(t, JWKSOptions{})
	a := newAuthenticator(t, urlConfig(srv.URL), f)
	f.fetched()
	far := object{"exp": t0.Unix() + 86400}
	tokens := []string{rsaToken(far), mint(object{"alg": "ES256", "kid": "e1"}, goodClaims(rsaIssuer, far), signWith("ES256", k.p256))}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := g; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := login(a, bearer(tokens[i%2]), t0); err != nil && err.HTTPStatus() != 401 {
					t.Errorf("%v", err)
					return
				}
			}
		})
	}
	for i := range 10 {
		srv.serve(document(jwks([][]object{{e1}, {r1, e1}, {r1}}[i%3]...)))
		f.advanceToFetch(DefaultRefresh)
	}
	close(stop)
	f.advanceUntilDone(&wg)
}
