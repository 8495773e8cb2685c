package identity

import (
	"crypto/sha256"
	"strings"
	"testing"
	"time"
)

// TestAllocations holds the two common paths to what they cost now.
func TestAllocations(t *testing.T) {
	cfg := testConfig()
	longKey := "sk-" + strings.Repeat("0123456789", 16)
	cfg.Keys = append(cfg.Keys, Key{Namespace: "default", Name: "long", Consumer: "demo", Hash: sha256.Sum256([]byte(longKey))})
	a := newAuthenticator(t, cfg, nil)
	for name, c := range map[string]struct {
		headers Headers
		max     float64
	}{
		"key": {bearer(batchKey), 0}, "long key": {headers("x-api-key", longKey), 0}, "token in the cache": {bearer(rsaToken(nil)), 0},
		"key in two headers": {headers("x-api-key", batchKey, "authorization", "Bearer "+batchKey), 0},
	} {
		got := testing.AllocsPerRun(100, func() {
			if _, err := login(a, c.headers, t0); err != nil {
				t.Fatal(err)
			}
		})
		if got > c.max {
			t.Errorf("%s: %v allocations, want %v", name, got, c.max)
		}
	}
}

func benchmark(b *testing.B, a *Authenticator, h Headers, now func(i int) time.Time) {
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, err := login(a, h, now(i)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkKey(b *testing.B) {
	benchmark(b, newAuthenticator(b, testConfig(), nil), bearer(batchKey), func(int) time.Time { return t0 })
}

func BenchmarkTokenHit(b *testing.B) {
	benchmark(b, newAuthenticator(b, testConfig(), nil), bearer(rsaToken(nil)), func(int) time.Time { return t0 })
}

// BenchmarkTokenVerify asks within the leeway after exp, where the cache never answers.
func BenchmarkTokenVerify(b *testing.B) {
	k := keysOnce()
	for alg, key := range map[string]any{"RS256": k.rsa, "ES256": k.p256, "EdDSA": k.ed} {
		kid := map[string]string{"RS256": "r", "ES256": "e256", "EdDSA": "ed"}[alg]
		token := mint(object{"alg": alg, "kid": kid}, goodClaims(manyIssuer, object{"exp": t0.Unix() - 5, "scope": "llm"}), signWith(alg, key))
		b.Run(alg, func(b *testing.B) {
			benchmark(b, newAuthenticator(b, testConfig(), nil), bearer(token), func(int) time.Time { return t0 })
		})
	}
}

func BenchmarkTokenHitParallel(b *testing.B) {
	a := newAuthenticator(b, testConfig(), nil)
	h := bearer(rsaToken(nil))
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := login(a, h, t0); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkUnknownKey(b *testing.B) {
	a := newAuthenticator(b, testConfig(), nil)
	h := bearer("unknown-0123456789abcdef")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := login(a, h, t0); err == nil {
			b.Fatal("let in")
		}
	}
}
