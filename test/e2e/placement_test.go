package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/weir-dev/weir/test/e2e/harness"
)

// askHold makes the server that gets a request keep it, until the test lets go or the caller leaves.
const askHold = "test-hold"

// keptServers are servers that keep requests.
type keptServers struct {
	at map[string]string // addresses by name

	mu   sync.Mutex
	kept int
	free chan struct{}
}

func newKeptServers(t *testing.T, names ...string) *keptServers {
	s := &keptServers{at: map[string]string{}, free: make(chan struct{})}
	for _, name := range names {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.Header().Set(answeredBy, name)
			w.Header().Set("content-type", "application/json")
			if r.Header.Get(askHold) != "" {
				s.mu.Lock()
				s.kept++
				free := s.free
				s.mu.Unlock()
				select {
				case <-free:
				case <-r.Context().Done():
				}
				s.mu.Lock()
				s.kept--
				s.mu.Unlock()
			}
			if slices.Contains(strings.Split(r.Header.Get(askFailure), ","), name) {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
			_, _ = io.WriteString(w, `{"id":"1","object":"chat.completion","created":1,"model":"m","choices":[],"usage":{"prompt_tokens":4,"completion_tokens":2,"total_tokens":6}}`)
		}))
		t.Cleanup(server.Close)
		s.at[name] = strings.TrimPrefix(server.URL, "http://")
	}
	t.Cleanup(s.letGo)
	return s
}

// letGo lets all requests that are kept now be answered.
func (s *keptServers) letGo() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.free)
	s.free = make(chan struct{})
}

func (s *keptServers) keeps() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.kept
}

// TestPlacement: requests to pools on the real Envoy, in every way that they end. Nothing is left in flight of any of them.
func TestPlacement(t *testing.T) {
	t.Parallel()
	servers := newKeptServers(t, "a", "b", "c", "far1", "far2", "one")
	dead := net.JoinHostPort("127.0.0.1", strconv.Itoa(harness.FreePort(t)))
	pool := func(name string, addresses ...string) string {
		var list []string
		for _, a := range addresses {
			host, port, _ := net.SplitHostPort(a)
			list = append(list, fmt.Sprintf("{address: %s, port: %s}", host, port))
		}
		return harness.Document("Backend", name, "dialect: openai\nbasePath: /v1\nendpoints: ["+strings.Join(list, ", ")+"]\n")
	}
	policy := func(name, targets, rest string) string {
		return harness.Document("LoadPolicy", name, "targetRefs: ["+targets+"]\ncircuitBreaker: {errorPercent: 0}\n"+rest)
	}
	route := func(model, rest string) string {
		return harness.Route(model, "rules: [{matches: [{models: ["+model+"]}], "+rest+"}]\n")
	}
	g := harness.Start(t, harness.Options{Documents: []string{
		pool("near", servers.at["a"], servers.at["b"], servers.at["c"]), pool("half", dead, servers.at["a"]), pool("far", servers.at["far1"], servers.at["far2"]),
		pool("read", servers.at["a"], servers.at["b"], servers.at["c"]), pool("narrow", servers.at["one"]),
		harness.Document("Backend", "claude", "dialect: anthropic\nurl: http://"+servers.at["one"]+"\n"),
		policy("load", "{kind: LLMGateway, name: e2e}", ""),
		policy("prompts", "{kind: Backend, name: read}", "picking: {prefixAffinity: {blockTokens: 16}}\n"),
		policy("narrow", "{kind: Backend, name: narrow}", "picking: {prefixAffinity: {blockTokens: 16}}\nadmission: {maxRequestsPerEndpoint: 1, maxWait: 60s}\n"),
		route("near", "backends: [{name: near}]"), route("half", "backends: [{name: half}]"), route("read", "backends: [{name: read}]"), route("narrow", "backends: [{name: narrow}]"),
		route("thrice", "backends: [{name: near}], retry: {attempts: 3}"),
		route("fallback", "backends: [{name: near}, {name: far, priority: 1}]"),
		route("round", "backends: [{name: near}, {name: far, priority: 1}], retry: {attempts: 4}"),
		route("renamed", "backends: [{name: near, model: other}], retry: {attempts: 3}"),
		route("either", "backends: [{name: read}, {name: claude, priority: 1}]"),
	}})
	s := &steered{Gateway: g}
	body := func(model string) string {
		return fmt.Sprintf(`{"model":%q,"messages":[{"role":"user","content":%q}]}`, model, strings.Repeat("What is in this document? ", 20))
	}
	ask := func(t *testing.T, body string, headers ...string) answer {
		t.Helper()
		return do(t, http.DefaultClient, request(t, g, "POST", "/v1/chat/completions", "openai", body, headers...))
	}
	idle := func(t *testing.T) {
		t.Helper()
		harness.WaitFor(t, "nothing to be in flight", func() bool {
			for _, b := range s.steering(t).Backends {
				if b.RequestsInFlight+b.RequestsWaiting > 0 {
					return false
				}
				for _, e := range b.Endpoints {
					if e.RequestsInFlight+e.TokensInFlight != 0 {
						return false
					}
				}
			}
			return true
		})
	}

	for _, c := range []struct {
		name, body, failing string
		by                  []string // who may answer
		status              int
	}{
		{"straight", body("near"), "", []string{"a", "b", "c"}, 200},
		{"one server is dead", body("half"), "", []string{"a"}, 200},
		{"one attempt more than servers that fail", body("thrice"), "a,b", []string{"c"}, 200},
		{"all attempts fail", body("thrice"), "a,b,c", []string{"a", "b", "c"}, 503},
		{"the next pool answers", body("fallback"), "a,b,c", []string{"far1", "far2"}, 200},
		{"the next pool fails as well", body("fallback"), "a,b,c,far1,far2", []string{"far1", "far2"}, 503},
		{"round and round", body("round"), "a,b,c", []string{"far1", "far2"}, 200},
		{"under another name", body("renamed"), "b,c", []string{"a"}, 200},
		{"after the prompt was read", body("read"), "", []string{"a", "b", "c"}, 200},
		{"a prompt that makes no sense is the server's to refuse", `{"model":"read","messages":1}`, "", []string{"a", "b", "c"}, 200},
		{"where it may be translated it is Weir's", `{"model":"either","messages":1}`, "", []string{""}, 400},
		{"with a fallback in another dialect", body("either"), "", []string{"a", "b", "c"}, 200},
	} {
		t.Run(c.name, func(t *testing.T) {
			for range 10 {
				a := ask(t, c.body, askFailure, c.failing)
				if a.status != c.status || !slices.Contains(c.by, a.header.Get(answeredBy)) {
					t.Errorf("answered %d by %q, want %d by one of %q: %s", a.status, a.header.Get(answeredBy), c.status, c.by, a.body)
				}
			}
			idle(t)
		})
	}
	// A request that is kept, and its end.
	begin := func(t *testing.T, model string) (leave func(), done <-chan int) {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		req := request(t, g, "POST", "/v1/chat/completions", "openai", body(model), askHold, "yes").WithContext(ctx)
		status := make(chan int, 1)
		go func() {
			defer close(status)
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				return
			}
			_ = resp.Body.Close()
			status <- resp.StatusCode
		}()
		return cancel, status
	}
	for _, model := range []string{"near", "fallback", "read", "narrow"} {
		t.Run("the caller leaves/"+model, func(t *testing.T) {
			leave, _ := begin(t, model)
			harness.WaitFor(t, "the request to arrive", func() bool { return servers.keeps() == 1 })
			leave()
			idle(t)
			harness.WaitFor(t, "the server to notice", func() bool { return servers.keeps() == 0 })
		})
	}
	t.Run("waiting for room", func(t *testing.T) {
		_, first := begin(t, "narrow")
		harness.WaitFor(t, "the request to arrive", func() bool { return servers.keeps() == 1 })
		_, second := begin(t, "narrow")
		waiting := func(n int) func() bool {
			return func() bool { return s.backend(t, "narrow").RequestsWaiting == n }
		}
		harness.WaitFor(t, "the second to wait", waiting(1))
		leave, _ := begin(t, "narrow")
		harness.WaitFor(t, "the third to wait", waiting(2))
		leave()
		harness.WaitFor(t, "the third to be gone", waiting(1))
		servers.letGo()
		if got := <-first; got != 200 {
			t.Errorf("the first got %d", got)
		}
		harness.WaitFor(t, "the second to arrive", func() bool { return servers.keeps() == 1 })
		servers.letGo()
		if got := <-second; got != 200 {
			t.Errorf("the second got %d", got)
		}
		idle(t)
	})
	t.Run("Envoy dies", func(t *testing.T) {
		for _, model := range []string{"near", "fallback", "read", "narrow"} {
			_, done := begin(t, model)
			defer func() { <-done }()
		}
		harness.WaitFor(t, "the requests to arrive", func() bool { return servers.keeps() == 4 })
		_, done := begin(t, "narrow")
		defer func() { <-done }()
		harness.WaitFor(t, "one to wait", func() bool { return s.backend(t, "narrow").RequestsWaiting == 1 })
		must(t, syscall.Kill(g.EnvoyPID(), syscall.SIGKILL))
		idle(t)
		harness.WaitFor(t, "a request to be served again", func() bool {
			resp, err := http.DefaultClient.Do(request(t, g, "POST", "/v1/chat/completions", "openai", body("near")))
			if err != nil {
				return false
			}
			_ = resp.Body.Close()
			return resp.StatusCode == 200
		})
		idle(t)
	})
}
