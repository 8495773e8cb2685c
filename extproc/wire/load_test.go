package wire

import (
	"strings"
	"testing"
)

func TestParseLoad(t *testing.T) {
	for _, c := range []struct {
		key, text                 string
		ok                        bool
		backend, endpoint, status string
		headers                   map[string]string
	}{
		{"default/gpt 10.0.0.1:443", "429\nretry-after: 7\nx-ratelimit-remaining-tokens: 0", true, "default/gpt", "10.0.0.1:443", "429",
			map[string]string{"retry-after": "7", "x-ratelimit-remaining-tokens": "0", "after": "", "x-ratelimit-remaining-requests": ""}},
		{"default/gpt [::1]:443", "200", true, "default/gpt", "[::1]:443", "200", map[string]string{"retry-after": ""}},
		{"n/b 10.0.0.1:1", "200\nendpoint-load-metrics: TEXT kv: 1, x=2", true, "n/b", "10.0.0.1:1", "200",
			map[string]string{"endpoint-load-metrics": "TEXT kv: 1, x=2", "TEXT kv": ""}},
		{"n/b 10.0.0.1:1", "200\nbroken\n\nretry-after: 1", true, "n/b", "10.0.0.1:1", "200", map[string]string{"retry-after": "1", "broken": "", "": ""}},
		{key: "default/gpt", text: "200"},
		{key: " 10.0.0.1:443", text: "200"},
		{key: "default/gpt ", text: "200"},
		{key: "default/gpt 10.0.0.1:443", text: ""},
		{key: "default/gpt 10.0.0.1:443", text: "-\nretry-after: 7"},
		{key: "retry-after", text: "7"},
	} {
		l, ok := ParseLoad(c.key, c.text)
		if ok != c.ok || l.Backend != c.backend || l.Endpoint != c.endpoint || l.Status != c.status {
			t.Errorf("ParseLoad(%q, %q) = %+v, %v", c.key, c.text, l, ok)
		}
		for name, want := range c.headers {
			if got := l.Header(name); got != want {
				t.Errorf("%q: header %q is %q, want %q", c.text, name, got, want)
			}
		}
	}
}

// FuzzParseLoad: a header is what one line says, whatever the others are.
func FuzzParseLoad(f *testing.F) {
	f.Add("default/gpt 10.0.0.1:443", "429\nretry-after: 7\nx-ratelimit-remaining-tokens: 0", "retry-after")
	f.Add("a b c", "200\n: \n\n", "")
	f.Add("", "", "x")
	f.Fuzz(func(t *testing.T, key, text, name string) {
		l, ok := ParseLoad(key, text)
		if !ok {
			return
		}
		if l.Backend+" "+l.Endpoint != key || strings.Contains(l.Backend, " ") {
			t.Errorf("%q is read as %q and %q", key, l.Backend, l.Endpoint)
		}
		got := l.Header(name)
		want := ""
		for _, line := range strings.Split(text, "\n")[1:] {
			if i := strings.Index(line, ": "); i >= 0 && line[:i] == name {
				want = line[i+2:]
				break
			}
		}
		if got != want {
			t.Errorf("%q of %q is %q, want %q", name, text, got, want)
		}
	})
}
