package session

import (
	"strings"
	"testing"
)

func TestName(t *testing.T) {
	p := &Policy{Headers: []string{DefaultHeader, "x-conversation-id"}}
	for _, c := range []struct {
		first, second string
		want, refused string // a part of the message
	}{
		{"", "", "", ""},
		{"a", "b", "a", ""},
		{"", "b", "b", ""},
		{"a/../b", "", "a/../b", ""},
		{"...", "", "...", ""},
		{".a", "", ".a", ""},
		{"%2F?#{}*", "", "%2F?#{}*", ""},
		{strings.Repeat("x", 256), "", strings.Repeat("x", 256), ""},
		{strings.Repeat("x", 257), "b", "", "257 bytes"},
		{"a b", "", "", "printable ASCII"},
		{"a\tb", "", "", "printable ASCII"},
		{"ü", "", "", "printable ASCII"},
		{"\xff", "", "", "printable ASCII"},
		// The admin API would be asked for all sessions.
		{".", "", "", `may not be "."`},
		{"", "..", "", `x-conversation-id does not name a session: it may not be ".."`},
	} {
		got, err := p.Name(func(name string) string {
			return map[string]string{DefaultHeader: c.first, "x-conversation-id": c.second}[name]
		})
		if got != c.want || (err == nil) != (c.refused == "") || err != nil && !strings.Contains(err.Message, c.refused) {
			t.Errorf("%q, %q: %q, %v; want %q, refused %q", c.first, c.second, got, err, c.want, c.refused)
		}
	}
}
