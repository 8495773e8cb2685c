package redact_test

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/weir-dev/weir/adapters"
	"github.com/weir-dev/weir/internal/redact"
)

func TestPath(t *testing.T) {
	for in, want := range map[string]string{
		"/":                              "/",
		"":                               "",
		"*":                              "*",
		"/v1/chat/completions":           "/v1/chat/completions",
		"/team-a/v1/messages?key=secret": "/team-a/v1/messages",
		"/compatible-mode/v1/responses":  "/compatible-mode/v1/responses",
		"/v1beta/models":                 "/v1beta/models",
		"/v1/models/gpt-4o":              "/v1/models/*",
		"/v1/models/gpt-4":               "/v1/models/gpt-4",
		"/sk-proj-AbC123/v1/messages":    "/*/v1/messages",
		"/0123456789abcdef/v1":           "/*/v1",
		"/1234/x":                        "/*/x",
		"/abcdefghijklmnop":              "/*",
		"/%73%65%63/v1":                  "/*/v1",
		"//v1//":                         "//v1//",
		"/..;/etc":                       "/*/etc",
		"/key=abc":                       "/*",
		"/a\x1b[31m":                     "/*",
		strings.Repeat("/a", 17):         strings.Repeat("/a", 15) + "/*",
		"/" + strings.Repeat("a-", 13):   "/*",
		"/v1/chat/completions#fragment":  "/v1/chat/*",
	} {
		if got := redact.Path(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

// TestEveryEndpointIsShown: lines without them would say little.
func TestEveryEndpointIsShown(t *testing.T) {
	for _, d := range adapters.Catalog() {
		for _, e := range d.Endpoints {
			path := strings.TrimSuffix(d.Root+e.Path, "/{model}")
			if got := redact.Path("/team-a" + path); got != "/team-a"+path {
				t.Errorf("%s is shown as %s", path, got)
			}
		}
	}
}

// TestRandomKeysAreHidden, of all the usual alphabets.
func TestRandomKeysAreHidden(t *testing.T) {
	for range 1000 {
		raw := make([]byte, 18)
		if _, err := rand.Read(raw); err != nil {
			t.Fatal(err)
		}
		for _, key := range []string{hex.EncodeToString(raw), hex.EncodeToString(raw[:8]), base64.RawURLEncoding.EncodeToString(raw), "sk-" + base64.RawURLEncoding.EncodeToString(raw)} {
			if got := redact.Path("/" + key + "/v1/messages"); got != "/*/v1/messages" {
				t.Fatalf("%s is shown in %s", key, got)
			}
		}
	}
}

func FuzzPath(f *testing.F) {
	for _, s := range []string{"/v1/chat/completions", "/sk-AbC/v1?x=y", "//", "", "*", "\xff/\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := redact.Path(s)
		if again := redact.Path(got); again != got {
			t.Errorf("%q becomes %q, and that %q", s, got, again)
		}
		if strings.Trim(got, "abcdefghijklmnopqrstuvwxyz0123456789-_./*") != "" {
			t.Errorf("%q is shown as %q", s, got)
		}
	})
}

// TestPathAllocatesNothing for what is fit to be shown.
func TestPathAllocatesNothing(t *testing.T) {
	if n := testing.AllocsPerRun(100, func() { redact.Path("/team-a/v1/chat/completions") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
