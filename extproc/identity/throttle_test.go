package identity

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"
)

func from(a *Authenticator, source, cred string, now time.Time) outcome {
	var addr netip.Addr
	if source != "" {
		addr = netip.MustParseAddr(source)
	}
	if _, err := a.Authenticate(context.Background(), bearer(cred), addr, now); err != nil {
		if err.Code == CodeThrottled && err.RetryAfter <= 0 {
			return outcome{-1, "429 without a time to wait"}
		}
		return outcome{err.HTTPStatus(), err.Message}
	}
	return outcome{status: 200}
}

func throttledConfig(limit int) Config {
	cfg := testConfig()
	cfg.Throttle, cfg.MaxFailedLogins = NewThrottle(), limit
	return cfg
}

// TestThrottle: failures of one address, and what still passes.
func TestThrottle(t *testing.T) {
	var reasons []Reason
	cfg := throttledConfig(3)
	cfg.Refused = func(r Reason) { reasons = append(reasons, r) }
	a := newAuthenticator(t, cfg, nil)
	const bad, here = "guess-0123456789abcdef", "198.51.100.7"
	known := rsaToken(object{"exp": t0.Unix() + 600})
	check := func(when, source, cred string, now time.Time, want int) {
		t.Helper()
		if got := from(a, source, cred, now); got.status != want {
			t.Errorf("%s: %+v, want %d", when, got, want)
		}
	}
	check("a good token", here, known, t0, 200)
	for n := range 3 {
		check(fmt.Sprint("failure ", n+1), here, bad, t0.Add(time.Duration(n)*time.Second), 401)
	}
	at := t0.Add(3 * time.Second)
	check("one too many", here, bad, at, 429)
	check("a known key", here, demoKey, at, 200)
	check("a token that was verified before", here, known, at, 200)
	check("a new good token", here, rsaToken(object{"sub": "bob"}), at, 429)
	check("a disabled key", here, disabledKey, at, 429)
	check("an expired key", here, expiredKeyV, at, 429)
	check("another address", "198.51.100.8", bad, at, 401)
	check("no credential", here, "", at, 401)
	check("the address as IPv6 writes it", "::ffff:198.51.100.7", bad, at, 429)
	check("just before the minute is over", here, bad, t0.Add(62*time.Second-1), 429)
	check("after the minute", here, bad, t0.Add(62*time.Second), 401)
	check("and the two after it", here, bad, t0.Add(63*time.Second), 401)
	check("a good token after the minute", here, rsaToken(object{"sub": "bob"}), t0.Add(64*time.Second), 200)
	counts := map[Reason]int{}
	for _, r := range reasons {
		counts[r]++
	}
	if counts[ReasonUnknownKey] != 6 || counts[ReasonThrottled] != 6 || counts[ReasonInvalidCredential] != 1 {
		t.Errorf("reasons %v", counts)
	}
}

// TestThrottleCounts: what counts as a failed login and what does not.
func TestThrottleCounts(t *testing.T) {
	for name, c := range map[string]struct {
		headers Headers
		counts  bool
	}{
		"unknown key":         {bearer("guess-0123456789abcdef"), true},
		"disabled key":        {bearer(disabledKey), true},
		"expired key":         {bearer(expiredKeyV), true},
		"wrong address":       {bearer(boundKeyV), true},
		"bad token":           {bearer(rsaToken(object{"aud": "x"})), true},
		"token without scope": {bearer(mint(object{"alg": "EdDSA"}, goodClaims(manyIssuer, nil), signWith("EdDSA", keysOnce().ed))), false},
		"none":                {Headers{}, false},
		"basic":               {headers("authorization", "Basic eDp5"), false},
		"two":                 {headers("authorization", "Bearer "+demoKey, "x-api-key", batchKey), false},
		"a good key":          {bearer(demoKey), false},
	} {
		cfg := attackConfig()
		cfg.Throttle, cfg.MaxFailedLogins = NewThrottle(), 1
		a := newAuthenticator(t, cfg, nil)
		_, _ = login(a, c.headers, t0)
		_, err := login(a, bearer("guess-0123456789abcdef"), t0)
		if counted := err.Code == CodeThrottled; counted != c.counts {
			t.Errorf("%s: counted %t", name, counted)
		}
	}
}

// TestThrottleNets: an IPv6 customer counts as one, loopback counts as well, and so does who hides.
func TestThrottleNets(t *testing.T) {
	const bad = "guess-0123456789abcdef"
	for _, c := range []struct {
		first, second string
		same          bool
	}{
		{"2001:db8:1:2::1", "2001:db8:1:2:ffff::9", true}, {"2001:db8:1:2::1", "2001:db8:1:3::1", false},
		{"192.0.2.1", "192.0.2.2", false}, {"127.0.0.1", "127.0.0.1", true}, {"::1", "::1", true}, {"fe80::1%a", "fe80::2%b", true}, {"", "", true},
	} {
		a := newAuthenticator(t, throttledConfig(1), nil)
		from(a, c.first, bad, t0)
		if got := from(a, c.second, bad, t0); (got.status == 429) != c.same {
			t.Errorf("%s, then %s: %+v", c.first, c.second, got)
		}
	}
	for _, cfg := range []Config{throttledConfig(0), testConfig()} {
		cfg.MaxFailedLogins = 0
		a := newAuthenticator(t, cfg, nil)
		for range 200 {
			if got := from(a, "192.0.2.1", bad, t0); got.status != 401 {
				t.Fatalf("without a limit: %+v", got)
			}
		}
	}
}

// TestThrottleBound: memory stays bounded under a flood of addresses, and who failed often is kept rather than who failed once.
func TestThrottleBound(t *testing.T) {
	th := NewThrottle()
	loud := netip.MustParseAddr("203.0.113.1")
	for range 50 {
		th.fail(loud, 50, t0)
	}
	for n := range 200_000 {
		th.fail(netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}), 50, t0)
	}
	if n := th.Len(); n > throttleShards*throttlePerShard {
		t.Errorf("%d addresses are remembered", n)
	}
	if th.wait(loud, 50, t0) != throttleWindow {
		t.Error("the loudest address is forgotten")
	}
	// What is over makes room.
	later := t0.Add(throttleWindow)
	before := th.Len()
	for n := range 10_000 {
		th.fail(netip.AddrFrom4([4]byte{11, 0, byte(n >> 8), byte(n)}), 50, later)
	}
	if n := th.Len(); n >= before {
		t.Errorf("%d addresses, %d before: what is over is kept", n, before)
	}
}

// TestThrottleClock: a clock that steps back does not lock anybody out for longer than a window.
func TestThrottleClock(t *testing.T) {
	th := NewThrottle()
	th.fail(home, 1, t0.Add(24*time.Hour))
	if w := th.wait(home, 1, t0); w != 0 {
		t.Errorf("has to wait %v", w)
	}
}

func TestThrottleConcurrent(t *testing.T) {
	a := newAuthenticator(t, throttledConfig(10), nil)
	var wg sync.WaitGroup
	var mu sync.Mutex
	counts := map[int]int{}
	for range 8 {
		wg.Go(func() {
			for range 100 {
				got := from(a, "192.0.2.1", "guess-0123456789abcdef", t0)
				mu.Lock()
				counts[got.status]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if counts[401] < 10 || counts[401] > 10+8 || counts[401]+counts[429] != 800 {
		t.Errorf("answers %v", counts)
	}
}

// TestReasons: the list is complete, or metrics would miss some.
func TestReasons(t *testing.T) {
	seen := map[Reason]bool{}
	for _, r := range Reasons() {
		if seen[r] || r == "" {
			t.Errorf("%q is listed twice", r)
		}
		seen[r] = true
	}
	cfg := attackConfig()
	cfg.Refused = func(r Reason) {
		if !seen[r] {
			t.Errorf("%q is not listed", r)
		}
	}
	a := newAuthenticator(t, cfg, nil)
	for _, at := range append(tokenAttacks(), headerAttacks()...) {
		_, _ = login(a, at.headers, t0)
	}
}
