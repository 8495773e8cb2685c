package content

import (
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"
)

// rule makes a Rule that captures everything.
func rule(maxBytes int, redact ...string) *Rule {
	r := &Rule{Input: true, Output: true, MaxBytes: maxBytes}
	for _, text := range redact {
		r.Redact = append(r.Redact, regexp.MustCompile(text))
	}
	return r
}

func TestShow(t *testing.T) {
	for _, c := range []struct {
		name, raw string
		limit     int
		escaped   bool
		redact    []string
		want      string
	}{
		{name: "no expressions", raw: "hello", limit: 5, want: "hello"},
		{name: "cut", raw: "hello", limit: 3, want: "hel"},
		{name: "cut inside a character", raw: "aé世", limit: 2, want: "a"},
		{name: "one match", raw: "my key is sk-1234 ok", limit: 99, redact: []string{`sk-\d+`}, want: "my key is [redacted] ok"},
		{name: "two expressions that overlap", raw: "abcdef", limit: 6, redact: []string{"bcd", "cde"}, want: "a[redacted]f"},
		{name: "matches that touch are one", raw: "1234", limit: 4, redact: []string{`\d`}, want: "[redacted]"},
		{name: "an expression does not see another's mark", raw: "abc", limit: 3, redact: []string{"b", "redacted"}, want: "a[redacted]c"},
		{name: "an expression sees what another takes out", raw: "user bob pw", limit: 11, redact: []string{"bob", "user bob"}, want: "[redacted] pw"},
		{name: "an empty match is none", raw: "abc", limit: 3, redact: []string{"x*"}, want: "abc"},
		{name: "across the cut", raw: "key sk-123456 and more", limit: 9, redact: []string{`sk-\d{6}`}, want: "key [redacted]"},
		{name: "behind the cut", raw: "hello sk-1", limit: 5, redact: []string{`sk-\d`}, want: "hello"},
		{name: "what is cut does not move up", raw: "sk-1 abcdef", limit: 6, redact: []string{`sk-\d`}, want: "[redacted] a"},
		{name: "everything", raw: "secret", limit: 6, redact: []string{`(?s).*`}, want: "[redacted]"},
		{name: "lines", raw: "-----BEGIN KEY-----\nabc\n-----END KEY-----\nrest", limit: 99, redact: []string{`(?s)-----BEGIN.*?END [A-Z]+-----`}, want: "[redacted]\nrest"},
		{name: "an escape hides nothing", raw: `{"name":"\u5f20\u4e09","n":1}`, limit: 99, escaped: true, redact: []string{"张三"}, want: `{"name":"[redacted]","n":1}`},
		{name: "text is searched as it is", raw: `\u5f20\u4e09`, limit: 99, redact: []string{"张三"}, want: `\u5f20\u4e09`},
		{name: "an escaped quote", raw: `{"pw":"a\"b"}`, limit: 99, escaped: true, redact: []string{`a"b`}, want: `{"pw":"[redacted]"}`},
		{name: "a member of JSON", raw: `{"password": "hunter2", "a":1}`, limit: 99, escaped: true, redact: []string{`"password":\s*"[^"]*"`}, want: `{[redacted], "a":1}`},
	} {
		if got := rule(0, c.redact...).show(text{c.raw, c.limit}, c.escaped); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestUnescape(t *testing.T) {
	for in, want := range map[string]string{
		``: ``, `plain`: `plain`, `a\nb`: "a\nb", `\"\\\/\b\f\r\t`: "\"\\/\b\f\r\t",
		`\u0041`: "A", `\ud83d\ude00`: "😀", `\ud83d`: "\uFFFD", `\ud83dx`: "\uFFFDx", `\u00g1`: `\u00g1`, `\u12`: `\u12`, `\`: `\`,
	} {
		got, places := unescape(in)
		if got != want || len(places) != len(got)+1 || places[len(got)] != len(in) {
			t.Errorf("%q becomes %q with %v, want %q", in, got, places, want)
		}
	}
}

func FuzzUnescape(f *testing.F) {
	f.Add(`{"a":"\u5f20\n\ud83d\ude00"}`)
	f.Add(`\u00`)
	f.Fuzz(func(t *testing.T, s string) {
		plain, places := unescape(s)
		if len(places) != len(plain)+1 {
			t.Fatalf("%d places of %d bytes", len(places), len(plain))
		}
		for i := 1; i < len(places); i++ {
			if places[i] < places[i-1] || places[i] > len(s) {
				t.Fatalf("%v", places)
			}
		}
		if !strings.Contains(s, `\`) && plain != s {
			t.Fatalf("%q becomes %q", s, plain)
		}
	})
}

// FuzzShow: whatever the text and wherever it is cut, no digit of a number of eight is seen, and what is seen is what was written.
func FuzzShow(f *testing.F) {
	f.Add("call 12345678 or 1234", 9)
	f.Add("12345678 世界 87654321", 3)
	f.Add(`{"n":"\u0031\u0032\u0033\u0034\u0035\u0036\u0037\u0038"}`, 12)
	f.Fuzz(func(t *testing.T, raw string, limit int) {
		limit = max(0, limit)
		r := rule(0, `\d{8}`)
		got := r.show(text{raw, min(limit, len(raw))}, true)
		if !utf8.ValidString(raw) {
			return
		}
		if !utf8.ValidString(got) {
			t.Fatalf("%q", got)
		}
		at := 0
		for i, seen := range strings.Split(got, Redacted) {
			if regexp.MustCompile(`\d{8}`).MatchString(seen) {
				t.Fatalf("%q shows %q", raw, got)
			}
			next := strings.Index(raw[at:], seen)
			if next < 0 || i == 0 && next > 0 {
				t.Fatalf("%q is shown as %q", raw, got)
			}
			at += next + len(seen)
		}
		if shown := strings.ReplaceAll(got, Redacted, ""); len(shown) > limit {
			t.Fatalf("%d bytes are shown of %d", len(shown), limit)
		}
	})
}
