package e2e

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/weir-dev/weir/extproc/wire"
	"github.com/weir-dev/weir/test/e2e/harness"
)

// What a request of TestDirectChain says to the rules, and to the servers.
const (
	directWay  = "test-way"  // which rule it is of
	directFail = "test-fail" // servers that answer 503, each with the number of the attempt, "a1,b2"
)

// taken is a request as a server has got it.
type taken struct {
	server, url, host, body string
	header                  http.Header
}

// directServers keep what they are asked, and answer in the shape of their dialect.
type directServers struct {
	mu  sync.Mutex
	got []taken
	by  map[string]*httptest.Server
}

func (s *directServers) start(t *testing.T, name string) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		s.mu.Lock()
		s.got = append(s.got, taken{name, r.URL.String(), r.Host, string(body), r.Header.Clone()})
		s.mu.Unlock()
		w.Header().Set("content-type", "application/json")
		w.Header().Set("x-weir-at", "the server's own")
		w.Header().Set("x-ratelimit-remaining-requests", "1")
		if attempt := r.Header.Get("traceparent"); slices.Contains(strings.Split(r.Header.Get(directFail), ","), name+attempt[51:52]) { // where its digit is
			w.WriteHeader(503)
		}
		_, _ = io.WriteString(w, `{"id":"1","usage":{"prompt_tokens":3,"completion_tokens":2,"input_tokens":3,"output_tokens":2}}`)
	}))
	t.Cleanup(server.Close)
	s.by[name] = server
	return server
}

// take gives what has come since the last call.
func (s *directServers) take() []taken {
	s.mu.Lock()
	defer s.mu.Unlock()
	got := s.got
	s.got = nil
	return got
}

// comparable leaves out what differs from request to request, and what only the test says.
func (r taken) comparable() taken {
	r.header = maps.Clone(r.header)
	for _, h := range []string{"Traceparent", "X-Request-Id", directWay, directFail} {
		delete(r.header, http.CanonicalHeaderKey(h))
	}
	return r
}

// TestDirectChain: what a backend gets as the n-th of a chain is what it gets as the only one of a rule, and what Weir prepares where it
// is asked, whatever the attempts before have had.
func TestDirectChain(t *testing.T) {
	t.Parallel()
	servers := &directServers{by: map[string]*httptest.Server{}}
	var docs []string
	backends := []harness.Backend{
		{Name: "a", Dialect: "openai", URL: servers.start(t, "a").URL + "/v1", AnyModel: true},
		{Name: "b", Dialect: "openai", URL: servers.start(t, "b").URL + "/other/base", AnyModel: true},
		{Name: "c", Dialect: "openai", URL: servers.start(t, "c").URL, AnyModel: true, Key: "-", Spec: "metrics: [{type: ORCA}]"},
		{Name: "d", Dialect: "anthropic", URL: servers.start(t, "d").URL, AnyModel: true},
		{Name: "e", Dialect: "anthropic", URL: servers.start(t, "e").URL + "/e", AnyModel: true},
	}
	docs = append(docs, harness.Document("LoadPolicy", "c", "targetRefs: [{kind: Backend, name: c}]"))
	ways := map[string][]string{"abc": {"a", "b", "c"}, "cba": {"c", "b", "a"}, "abab": {"a", "b"}, "de": {"d", "e"}, "ed": {"e", "d"}}
	for _, b := range backends {
		ways["only-"+b.Name] = []string{b.Name}
		other := map[string]string{"openai": "d", "anthropic": "a"}[b.Dialect]
		ways["asked-"+b.Name] = []string{b.Name, other}
	}
	for way, names := range ways {
		var rule strings.Builder
		fmt.Fprintf(&rule, "rules:\n  - matches: [{headers: [{name: %s, value: %s}]}]\n    backends:\n", directWay, way)
		for i, n := range names {
			fmt.Fprintf(&rule, "      - {name: %s, priority: %d}\n", n, i)
		}
		if way == "abab" {
			rule.WriteString("    retry: {attempts: 4}\n")
		}
		docs = append(docs, harness.Route("way-"+way, rule.String()))
	}
	g := harness.Start(t, harness.Options{Backends: backends, Documents: docs})

	ask := func(t *testing.T, dialect, way, fail string, header map[string]string) (answer, []taken) {
		t.Helper()
		req := request(t, g, "POST", chatPath(dialect)+"?x=1&y=%20z", dialect, fmt.Sprintf(`{"model":"m","max_tokens":9,"n":1,"messages":[{"role":"user","content":"in %s"}]}`, dialect))
		for k, v := range map[string]string{
			"cookie": "a=b", "accept-encoding": "gzip", "x-forwarded-for": "192.0.2.1", "x-weir-at": "default/a", "x-weir-path": "/evil", wire.LoadFormat: "JSON",
			"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "x=1", "x-custom": "kept", "openai-organization": "theirs", "openai-beta": "b",
			"anthropic-beta": "c",
			directWay:        way, directFail: fail,
		} {
			req.Header.Set(k, v)
		}
		for k, v := range header {
			req.Header.Set(k, v)
		}
		servers.take()
		a := do(t, http.DefaultClient, req)
		return a, servers.take()
	}
	// What the comparison rests on.
	_, got := ask(t, "openai", "abc", "a1,b2", nil)
	if len(got) != 3 {
		t.Fatalf("%d attempts: %+v", len(got), got)
	}
	for i, want := range []struct{ url, authorization, reports string }{
		{"/v1/chat/completions?x=1&y=%20z", "Bearer " + harness.BackendKey("a"), ""}, {"/other/base/chat/completions?x=1&y=%20z", "Bearer " + harness.BackendKey("b"), ""},
		{"/chat/completions?x=1&y=%20z", "", wire.LoadFormatText},
	} {
		r := got[i]
		if r.url != want.url || r.header.Get("authorization") != want.authorization || r.header.Get(wire.LoadFormat) != want.reports ||
			r.host != strings.TrimPrefix(servers.by[r.server].URL, "http://") || r.header.Get("x-custom") != "kept" {
			t.Errorf("attempt %d: %+v, want %+v", i+1, r, want)
		}
	}
	for _, c := range []struct {
		dialect, way string
		header       map[string]string
	}{
		{"openai", "abc", nil}, {"openai", "cba", nil}, {"openai", "abab", nil},
		{"anthropic", "de", nil}, {"anthropic", "ed", nil},
		{"anthropic", "de", map[string]string{"anthropic-version": "2026-12-01"}},
	} {
		names := ways[c.way]
		if c.way == "abab" {
			names = append(names, names...)
		}
		for failed := range names {
			fail := ""
			for i, n := range names[:failed] {
				fail += fmt.Sprintf("%s%d,", n, i+1)
			}
			t.Run(sprint(c.way, failed, len(c.header)), func(t *testing.T) {
				messages := extProcMessages(g)
				a, got := ask(t, c.dialect, c.way, fail, c.header)
				if n := extProcMessages(g) - messages; n > 1 { // for the request, unless it was decided in advance
					t.Errorf("Envoy sent %d messages to Weir, want one", n)
				}
				if a.status != 200 || a.header.Get(wire.BackendHeader) != "default/"+names[failed] || a.header.Get(wire.RouteHeader) != "default/way-"+c.way {
					t.Errorf("status %d: %v", a.status, a.header)
				}
				for _, h := range []string{"x-weir-at", "x-weir-from", "x-ratelimit-remaining-requests"} {
					if v := a.header.Get(h); v != "" {
						t.Errorf("the caller got %s: %s", h, v)
					}
				}
				if len(got) != failed+1 {
					t.Fatalf("%d attempts: %+v", len(got), got)
				}
				for i, r := range got {
					_, alone := ask(t, c.dialect, "only-"+names[i], fail, c.header)
					_, asked := ask(t, c.dialect, "asked-"+names[i], fail, c.header)
					for how, other := range map[string][]taken{"alone": alone, "prepared by Weir": asked} {
						if got, want := fmt.Sprintf("%+v", r.comparable()), fmt.Sprintf("%+v", other[0].comparable()); got != want {
							t.Errorf("attempt %d gets\n%s\nand %s it is\n%s", i+1, got, how, want)
						}
					}
					if want := fmt.Sprintf("%x-01", i+1); !strings.HasSuffix(r.header.Get("traceparent"), want) || !strings.HasPrefix(r.header.Get("traceparent"), "00-0af7651916cd43dd8448eb211c80319c-") {
						t.Errorf("attempt %d has the trace context %s", i+1, r.header.Get("traceparent"))
					}
				}
			})
		}
	}
}
