package identity

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestHashKey(t *testing.T) {
	// printf abc | sha256sum
	const abc = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
	if got := HashKey("abc"); got != abc {
		t.Errorf("HashKey = %s", got)
	}
	if kind, got, err := ParseHash(abc); err != nil || kind != HashSHA256 || got != sha256.Sum256([]byte("abc")) {
		t.Errorf("ParseHash = %v %x, %v", kind, got, err)
	}
	for _, bad := range []string{"", "sha256:", abc[7:], abc[:70], abc + "0", strings.ToUpper(abc), "sha256:" + strings.ToUpper(abc[7:]),
		"sha512:" + abc[7:], "sha256:" + strings.Repeat("g", 64), " " + abc, "hmac-" + abc[:70],
		"hmac-" + strings.ToUpper(abc), "hmac-hmac-" + abc, "hmac-sha512:" + abc[7:]} {
		if _, got, err := ParseHash(bad); err == nil || got != [32]byte{} {
			t.Errorf("ParseHash(%q) = %x, %v", bad, got, err)
		}
	}
}

func TestValidateKey(t *testing.T) {
	for key, want := range map[string]string{
		"0123456789abcdef": "", strings.Repeat("k", maxCredentialBytes): "",
		"": "0 characters", "weir-demo-key": "13 characters", "0123456789abcde": "15 characters",
		strings.Repeat("k", maxCredentialBytes+1): "at most", "0123456789 abcdef": "white space", "0123456789abcdef\n": "white space",
		"0123456789abcdéf": "non-ASCII", "0123456789abcdef\x00": "control",
	} {
		err := ValidateKey(key)
		switch {
		case want == "" && err != nil:
			t.Errorf("%.20q: %v", key, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%.20q: error %v does not say %q", key, err, want)
		}
		if err != nil && key != "" && strings.Contains(err.Error(), key) {
			t.Errorf("the error quotes the key: %v", err)
		}
	}
}

func TestPatterns(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"gpt-5", "gpt-5", true}, {"gpt-5", "gpt-5 ", false}, {"gpt-5", "GPT-5", false}, {"gpt-5", "gpt-50", false},
		{"*", "", true}, {"*", "anything", true}, {"**", "x", true}, {"gpt-*", "gpt-", true}, {"gpt-*", "gpt", false},
		{"*-mini", "gpt-5-mini", true}, {"*-mini", "gpt-5-mini-2", false}, {"*-mini", "-mini-mini", true}, {"a*b*c", "abbc", true},
		{"a*b*c", "acb", false}, {"*ab", "aab", true}, {"*aab*", "aaaab", true}, {"a.c", "abc", false}, {"gpt-[45]", "gpt-4", false},
		{"qwen/*:free", "qwen/qwen3-8b:free", true}, {"模*", "模型", true},
	} {
		p, err := NewPatterns([]string{"never", c.pattern})
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Match(c.name); got != c.want {
			t.Errorf("%q matches %q: %t", c.pattern, c.name, got)
		}
	}
	for _, bad := range []string{"", " a", "a\n", strings.Repeat("a", maxPatternBytes+1), "a\xff"} {
		if _, err := NewPatterns([]string{"ok", bad}); err == nil {
			t.Errorf("pattern %q is taken", bad)
		}
	}
}

// FuzzPatterns compares with the regular expression that a pattern means.
func FuzzPatterns(f *testing.F) {
	f.Add("gpt-*", "gpt-5")
	f.Add("a*b*c", "aXbXbXc")
	f.Add("*a*a*a*", "aaab")
	f.Fuzz(func(t *testing.T, pattern, name string) {
		p, err := NewPatterns([]string{pattern})
		if err != nil || strings.ToValidUTF8(name, "") != name {
			return
		}
		re := regexp.MustCompile(`(?s)\A` + strings.ReplaceAll(regexp.QuoteMeta(pattern), `\*`, `.*`) + `\z`)
		if got, want := p.Match(name), re.MatchString(name); got != want {
			t.Errorf("%q matches %q: %t, want %t", pattern, name, got, want)
		}
	})
}

func TestDecodeObject(t *testing.T) {
	for _, good := range []string{`{}`, ` { "a" : [ 1 , {"b":null} ] , "A":true }`, `{"a":{"a":1},"b":{"a":1}}`} {
		if _, err := decodeObject([]byte(good)); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{``, `[]`, `1`, `"x"`, `null`, `{`, `{}{}`, `{} x`, `{"a":1,}`, `{"a":1,"a":1}`, `{"a":1,"\u0061":1}`,
		`{"x":[{"a":1,"a":2}]}`, "{\"a\":\"\xff\"}", `{a:1}`, `{"a":01}`, strings.Repeat(`{"a":`, 17) + "1" + strings.Repeat("}", 17)} {
		if m, err := decodeObject([]byte(bad)); err == nil {
			t.Errorf("%s: taken as %v", bad, m)
		}
	}
}

// cacheEntry makes an entry that is good from t0 for an hour.
func cacheEntry(shard byte, n int) *cached {
	e := &cached{notBefore: t0, expires: t0.Add(time.Hour)}
	binary.BigEndian.PutUint32(e.sum[8:], uint32(n))
	e.sum[0] = shard
	return e
}

func TestCacheTime(t *testing.T) {
	var c tokenCache
	e := cacheEntry(3, 1)
	if c.get(&e.sum, t0) != nil {
		t.Error("an empty cache has an entry")
	}
	c.put(e, t0)
	for at, want := range map[time.Duration]bool{-1: false, 0: true, time.Hour - 1: true, time.Hour: false} {
		if got := c.get(&e.sum, t0.Add(at)) == e; got != want {
			t.Errorf("at %v: found %t", at, got)
		}
	}
}

// TestCacheBound: the cache stays within its size, keeps what is used, and drops what is not.
func TestCacheBound(t *testing.T) {
	var c tokenCache
	hot := cacheEntry(5, -1)
	c.put(hot, t0)
	for n := range 10 * cachePerShard {
		c.put(cacheEntry(5, n), t0)
		if c.get(&hot.sum, t0) != hot {
			t.Fatalf("an entry in steady use is gone after %d others", n)
		}
	}
	s := &c.shards[5]
	if len(s.ring) != cachePerShard || len(s.entries) != cachePerShard {
		t.Errorf("%d and %d entries, want %d", len(s.ring), len(s.entries), cachePerShard)
	}
	for _, e := range s.ring {
		if s.entries[e.sum] != e {
			t.Fatal("ring and map disagree")
		}
	}
	if e := cacheEntry(5, 0); c.get(&e.sum, t0) != nil {
		t.Error("the oldest unused entry is still there")
	}
	// The same token again takes its old place.
	again := cacheEntry(5, -1)
	c.put(again, t0)
	if c.get(&hot.sum, t0) != again || len(s.ring) != cachePerShard {
		t.Error("a token was not replaced in place")
	}
	// Expired entries go first, used or not.
	later := t0.Add(time.Hour)
	fresh := cacheEntry(5, 1<<30)
	fresh.expires = later.Add(time.Hour)
	c.put(fresh, later)
	if c.get(&fresh.sum, later) != fresh {
		t.Error("a new entry found no place among expired ones")
	}
}

// TestPepper compares with the standard library's HMAC.
func TestPepper(t *testing.T) {
	for _, secret := range []string{pepperSecret, strings.Repeat("p", 32), strings.Repeat("p", 64), strings.Repeat("p", 65), strings.Repeat("p", 1000)} {
		p, err := NewPepper([]byte(secret))
		if err != nil {
			t.Fatal(err)
		}
		for n := range 70 {
			key := strings.Repeat("k", n*n)
			h := hmac.New(sha256.New, []byte(secret))
			h.Write([]byte(key))
			want := "hmac-sha256:" + hex.EncodeToString(h.Sum(nil))
			if got := p.HashKey(key); got != want {
				t.Errorf("%d characters: %s, want %s", len(key), got, want)
				return
			}
			kind, sum, err := ParseHash(want)
			if err != nil || kind != HashHMAC || sum != p.sum(key) {
				t.Errorf("ParseHash = %v %x, %v", kind, sum, err)
			}
		}
	}
	if _, err := NewPepper([]byte(strings.Repeat("p", 31))); err == nil || !strings.Contains(err.Error(), "31 bytes") {
		t.Errorf("a short pepper: %v", err)
	}
	secret := []byte(pepperSecret)
	p, err := NewPepper(secret)
	if err != nil {
		t.Fatal(err)
	}
	clear(secret)
	if p.HashKey("x") != testPepper().HashKey("x") {
		t.Error("the pepper changed with its source")
	}
}

// FuzzParseHash: what is read is what would be written.
func FuzzParseHash(f *testing.F) {
	f.Add(HashKey("x"))
	f.Add(testPepper().HashKey("x"))
	f.Add("hmac-sha256:")
	f.Fuzz(func(t *testing.T, s string) {
		kind, sum, err := ParseHash(s)
		if err == nil && FormatHash(kind, sum) != s {
			t.Errorf("%q is read as %s", s, FormatHash(kind, sum))
		}
	})
}
