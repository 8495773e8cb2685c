package identity

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// far is long after everything these tests do with the clock.
var far = object{"exp": t0.Unix() + 86400}

func tokenOfKey(kid string, sign signer) string {
	header := object{"alg": "RS256"}
	if kid != "" {
		header["kid"] = kid
	}
	return mint(header, goodClaims(rsaIssuer, far), sign)
}

// outcome of one login.
type outcome struct {
	status  int
	message string
}

func try(a *Authenticator, token string, now time.Time) outcome {
	if _, err := login(a, bearer(token), now); err != nil {
		return outcome{err.HTTPStatus(), err.Message}
	}
	return outcome{status: 200}
}

// TestRotation lives through the change of an issuer's keys: no good token is refused.
func TestRotation(t *testing.T) {
	k := keysOnce()
	srv := newIssuerServer(t)
	f := newFixture(t, JWKSOptions{})
	oldKey, newKey := jwk("r1", &k.rsa.PublicKey, nil), jwk("r2", &k.otherRSA.PublicKey, nil)
	asked, release := make(chan struct{}), make(chan struct{})
	srv.serve(func(w http.ResponseWriter, r *http.Request) {
		close(asked)
		<-release
		document(jwks(oldKey))(w, r)
	})
	a := newAuthenticator(t, urlConfig(srv.URL), f)
	oldToken := tokenOfKey("r1", signWith("RS256", k.rsa))
	newToken := tokenOfKey("r2", signWith("RS256", k.otherRSA))
	check := func(when, token string, status int) {
		t.Helper()
		if got := try(a, token, f.clock.Now()); got.status != status {
			t.Errorf("%s: status %d (%s), want %d", when, got.status, got.message, status)
		}
	}
	// meanwhile tries a token that has to wait while do happens.
	meanwhile := func(when, token string, status int, do func()) {
		t.Helper()
		got := make(chan outcome)
		go func() { got <- try(a, token, f.clock.Now()) }()
		do()
		if got := <-got; got.status != status {
			t.Errorf("%s: status %d (%s), want %d", when, got.status, got.message, status)
		}
	}

	meanwhile("the first token, while the first keys are fetched", oldToken, 200, func() {
		<-asked
		close(release)
		s := f.fetched()
		if s.Keys != 1 || s.Err != "" || !s.Next.Equal(t0.Add(DefaultRefresh)) || !s.UsableTo.Equal(t0.Add(DefaultRefresh+DefaultKeepFor)) {
			t.Errorf("state %+v", s)
		}
	})
	check("old key again, from the cache", oldToken, 200)

	f.clock.Advance(minInterval)
	srv.serve(document(jwks(oldKey, newKey)))
	meanwhile("the first token with the new key", newToken, 200, func() {
		if s := f.fetched(); s.Keys != 2 {
			t.Errorf("state %+v", s)
		}
	})
	check("old key during the rotation", oldToken, 200)
	check("new key during the rotation", newToken, 200)

	// Right after that fetch a made-up key waits for the next, which keeps its distance.
	meanwhile("made-up key", tokenOfKey("made-up", signWith("RS256", k.otherRSA)), 401, func() {
		f.woken()
		f.clock.Advance(minInterval - 1)
		if n := srv.count(); n != 2 {
			t.Errorf("%d fetches within %v", n, minInterval)
		}
		f.clock.Advance(1)
		f.fetched()
	})

	// The old key is withdrawn: the next refresh voids what it had signed, cached or not.
	srv.serve(document(jwks(newKey)))
	f.clock.Advance(DefaultRefresh)
	if s := f.fetched(); s.Keys != 1 {
		t.Errorf("state %+v", s)
	}
	meanwhile("old key after the rotation", oldToken, 401, func() {
		f.woken()
		f.clock.Advance(minInterval)
		f.fetched()
	})
	check("new key after the rotation", newToken, 200)
}

// TestRotationWithoutKid: a token that names no key and does not verify may be of a new one.
func TestRotationWithoutKid(t *testing.T) {
	k := keysOnce()
	srv := newIssuerServer(t)
	srv.serve(document(jwks(jwk("", &k.rsa.PublicKey, nil))))
	f := newFixture(t, JWKSOptions{})
	a := newAuthenticator(t, urlConfig(srv.URL), f)
	f.fetched()
	f.clock.Advance(minInterval)
	srv.serve(document(jwks(jwk("", &k.otherRSA.PublicKey, nil))))
	got := make(chan outcome)
	go func() { got <- try(a, tokenOfKey("", signWith("RS256", k.otherRSA)), f.clock.Now()) }()
	f.fetched()
	if got := <-got; got.status != 200 {
		t.Errorf("new key: %+v", got)
	}
}

// TestRotationUnderLoad changes keys again and again while callers use the newest token and, beside them, others make up
// kids: no good token is refused, and the issuer is asked no more often than it may be.
func TestRotationUnderLoad(t *testing.T) {
	k := keysOnce()
	srv := newIssuerServer(t)
	private := []signer{signWith("RS256", k.rsa), signWith("RS256", k.otherRSA)}
	public := []any{&k.rsa.PublicKey, &k.otherRSA.PublicKey}
	kid := func(n int) string { return "k" + string(rune('a'+n)) }
	key := func(n int) object { return jwk(kid(n), public[n%2], nil) }
	published := []object{key(0)}
	srv.serve(document(jwks(published...)))
	f := newFixture(t, JWKSOptions{Wait: time.Minute}) // of real time; the clock of the fetches is the test's
	a := newAuthenticator(t, urlConfig(srv.URL), f)
	var newest atomic.Pointer[string]
	publish := func(n int) {
		token := tokenOfKey(kid(n), private[n%2])
		newest.Store(&token)
	}
	publish(0)
	var wg sync.WaitGroup
	var stop atomic.Bool
	var good, bad atomic.Int64
	for range 4 {
		wg.Go(func() {
			for !stop.Load() {
				if got := try(a, *newest.Load(), t0); got.status != 200 {
					t.Errorf("a good token is refused: %+v", got)
					return
				}
				good.Add(1)
			}
		})
	}
	for range 2 {
		wg.Go(func() {
			for n := 0; !stop.Load(); n++ {
				token := tokenOfKey("made-up", func(string) []byte { return []byte{byte(n)} })
				if got := try(a, token, t0); got.status != 401 {
					t.Errorf("a made-up kid: %+v", got)
					return
				}
				bad.Add(1)
			}
		})
	}
	for n := 1; n <= 8; n++ {
		published = append(published, key(n)) // the old ones stay for a while
		srv.serve(document(jwks(published...)))
		publish(n)
		// A made-up kid may cause the fetch as well: a good token comes after every change.
		for before := good.Load(); (good.Load() == before || bad.Load() == 0) && !t.Failed(); {
			f.advanceToFetch(minInterval)
		}
	}
	stop.Store(true)
	f.advanceUntilDone(&wg)
	elapsed := f.clock.Now().Sub(t0)
	if n, most := srv.count(), int(elapsed/minInterval)+1; n > most {
		t.Errorf("%d fetches in %v, which has room for %d", n, elapsed, most)
	}
	if good.Load() < 8 || bad.Load() == 0 {
		t.Errorf("only %d good and %d bad tokens were tried", good.Load(), bad.Load())
	}
}

// TestOneFetchForMany: many tokens of one new key cause one fetch.
func TestOneFetchForMany(t *testing.T) {
	k := keysOnce()
	srv := newIssuerServer(t)
	srv.serve(document(jwks(jwk("r1", &k.rsa.PublicKey, nil))))
	f := newFixture(t, JWKSOptions{Wait: time.Minute})
	a := newAuthenticator(t, urlConfig(srv.URL), f)
	f.fetched()
	srv.serve(document(jwks(jwk("r2", &k.otherRSA.PublicKey, nil))))
	token := tokenOfKey("r2", signWith("RS256", k.otherRSA))
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			if got := try(a, token, t0); got.status != 200 {
				t.Errorf("%+v", got)
			}
		})
	}
	f.woken()
	f.clock.Advance(minInterval)
	wg.Wait()
	if n := srv.count(); n != 2 {
		t.Errorf("%d fetches, want 2", n)
	}
}

// TestUnknownKeyOfDeadIssuer: whether a token with an unknown key is good cannot be told while the issuer is down.
func TestUnknownKeyOfDeadIssuer(t *testing.T) {
	k := keysOnce()
	srv := newIssuerServer(t)
	srv.serve(document(jwks(jwk("r1", &k.rsa.PublicKey, nil))))
	f := newFixture(t, JWKSOptions{Wait: minInterval + time.Second})
	var reasons []Reason
	cfg := urlConfig(srv.URL)
	cfg.Refused = func(r Reason) { reasons = append(reasons, r) }
	cfg.Throttle, cfg.MaxFailedLogins = NewThrottle(), 1
	a := newAuthenticator(t, cfg, f)
	f.fetched()
	srv.serve(status(500))
	f.clock.Advance(DefaultRefresh)
	f.fetched()
	f.clock.Advance(minInterval)
	f.fetched() // the second failure in a row: the next try is 4 s off, which is longer than a request waits
	for range 3 {
		id, err := login(a, bearer(tokenOfKey("r2", signWith("RS256", k.otherRSA))), f.clock.Now())
		mustRefuse(t, id, err, 503, CodeKeysUnavailable)
		if err.RetryAfter <= 0 || Challenge(err) != "" {
			t.Errorf("%+v", err)
		}
	}
	if got := try(a, tokenOfKey("r1", signWith("RS256", k.rsa)), f.clock.Now()); got.status != 200 {
		t.Errorf("a token of a known key: %+v", got)
	}
	if len(reasons) != 3 || reasons[0] != ReasonKeysUnavailable {
		t.Errorf("reasons %v", reasons)
	}
	// What is known to be wrong needs no keys.
	if got := try(a, rsaToken(object{"aud": "other"}), f.clock.Now()); got.status != 401 {
		t.Errorf("a token for somebody else: %+v", got)
	}
}

// TestWaitIsBounded: by the option, and by the request's context.
func TestWaitIsBounded(t *testing.T) {
	srv := newIssuerServer(t)
	hang := make(chan struct{})
	t.Cleanup(func() { close(hang) })
	srv.serve(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-hang:
		case <-r.Context().Done():
		}
	})
	a := newAuthenticator(t, urlConfig(srv.URL), newFixture(t, JWKSOptions{Wait: time.Millisecond}))
	if got := try(a, rsaToken(nil), t0); got.status != 503 {
		t.Errorf("with an issuer that hangs: %+v", got)
	}
	f := newFixture(t, JWKSOptions{Wait: time.Hour})
	a = newAuthenticator(t, urlConfig(srv.URL), f)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	id, err := a.Authenticate(ctx, bearer(rsaToken(nil)), home, t0)
	mustRefuse(t, id, err, 503, CodeKeysUnavailable)
	// Who waits for a document that is let go of is told so.
	got := make(chan outcome)
	go func() { got <- try(a, rsaToken(nil), t0) }()
	f.Retain(nil)
	if got := <-got; got.status != 503 {
		t.Errorf("after Retain: %+v", got)
	}
}

// TestKeepFor: two issuers with one URL keep its keys for their own times, and the report tells the time of the last.
func TestKeepFor(t *testing.T) {
	k := keysOnce()
	srv := newIssuerServer(t)
	srv.serve(document(jwks(jwk("r1", &k.rsa.PublicKey, nil))))
	f := newFixture(t, JWKSOptions{})
	short, err := f.Watch(KeyLocation{URL: srv.URL, KeepFor: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	long, err := f.Watch(KeyLocation{URL: srv.URL, KeepFor: 48 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	f.fetched()
	if n := srv.count(); n != 1 {
		t.Errorf("%d fetches of one URL", n)
	}
	end := t0.Add(DefaultRefresh)
	for _, c := range []struct {
		keys RemoteKeys
		at   time.Time
		want bool
	}{
		{short, end.Add(time.Minute - 1), true}, {short, end.Add(time.Minute), false},
		{long, end.Add(time.Minute), true}, {long, end.Add(48*time.Hour - 1), true}, {long, end.Add(48 * time.Hour), false},
	} {
		if set, _ := c.keys.Current(c.at); (set != nil) != c.want {
			t.Errorf("at %v: keys are there: %t", c.at.Sub(t0), set != nil)
		}
	}
	if s := f.States(); len(s) != 1 || !s[0].UsableTo.Equal(end.Add(48*time.Hour)) {
		t.Errorf("states %+v", s)
	}
}

// TestOffline: locations are checked and nothing is fetched.
func TestOffline(t *testing.T) {
	keys, err := Offline{}.Watch(KeyLocation{URL: "https://nowhere.example/keys"})
	if err != nil {
		t.Fatal(err)
	}
	if set, retry := keys.Current(t0); set != nil || retry <= 0 || keys.Await(context.Background(), nil) {
		t.Errorf("keys %v, retry in %v", set, retry)
	}
	for _, bad := range []KeyLocation{{URL: "file:///keys"}, {Issuer: "no-url"}, {}} {
		if _, err := (Offline{}).Watch(bad); err == nil || !strings.Contains(err.Error(), "URL") {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}
