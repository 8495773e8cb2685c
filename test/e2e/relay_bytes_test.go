package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-dev/weir/test/e2e/harness"
	"github.com/weir-dev/weir/test/sim"
)

// relayCache covers everything.
func relayCache(spec string) string {
	return harness.Document("CachePolicy", "cache", "targetRefs: [{kind: Route, name: all}]\n"+spec)
}

// Bodies up to the gateway's limit come through, over both protocols, relayed or not.
func TestLargestBodies(t *testing.T) {
	for name, documents := range map[string][]string{"plain": nil, "relayed": {relayCache("")}} {
		t.Run(name, func(t *testing.T) {
			r := startRemembering(t, documents...)
			for _, h2 := range []bool{false, true} {
				transport := &http.Transport{Protocols: &http.Protocols{}}
				transport.Protocols.SetHTTP1(!h2)
				transport.Protocols.SetUnencryptedHTTP2(h2)
				t.Cleanup(transport.CloseIdleConnections)
				for _, size := range []int{1_100_000, 3_000_000, 12_000_000} {
					text := strings.Repeat("All work and no play. ", size/22)
					for _, model := range []string{"gpt-4o", claude} {
						a := do(t, &http.Client{Transport: transport}, request(t, r.Gateway, "POST", "/v1/chat/completions", "openai", chatBody(model, text, false)))
						if a.status != 200 {
							t.Errorf("HTTP/2 %v, %d bytes, %s: %d %.200s", h2, size, model, a.status, a.body)
						}
					}
				}
				a := do(t, &http.Client{Transport: transport}, request(t, r.Gateway, "POST", "/v1/chat/completions", "openai",
					chatBody("gpt-4o", strings.Repeat("x", 33<<20), false)))
				if a.status != 413 {
					t.Errorf("HTTP/2 %v, more than the limit: %d %.200s", h2, a.status, a.body)
				}
			}
		})
	}
}

// Callers who leave end nobody else's request, however many they are.
func TestRelayAborts(t *testing.T) {
	r := startRemembering(t, relayCache("eligible: OptIn\n"))
	r.openai.Configure(sim.Faults{Rules: []sim.Rule{{Kind: sim.Hang}}})
	leaving, leave := context.WithCancel(t.Context())
	var gone sync.WaitGroup
	const callers = 300
	for i := range callers {
		req := request(t, r.Gateway, "POST", "/v1/chat/completions", "openai", chatBody("gpt-4o", fmt.Sprint("leaves ", i), false)).WithContext(leaving)
		gone.Go(func() {
			if resp, err := http.DefaultClient.Do(req); err == nil {
				resp.Body.Close()
			}
		})
	}
	r.WaitFor("all to be asked", func() bool { return len(r.openai.Requests()) >= callers })
	stop := make(chan struct{})
	var staying sync.WaitGroup
	for i := range 4 {
		staying.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				if a := r.say(t, "openai", claude, fmt.Sprint("stays ", i, n), true); a.status != 200 || !strings.Contains(a.body, "[DONE]") {
					t.Errorf("%d %s", a.status, a.body)
				}
			}
		})
	}
	leave()
	gone.Wait()
	close(stop)
	staying.Wait()
}

// Callers who do not read hold up nobody else, whatever they were to read.
func TestRelaySlowReaders(t *testing.T) {
	long := strings.Replace(completion, `"Hello."`, `"`+strings.Repeat("It is a long way. ", 200_000)+`"`, 1)
	if len(long) < 3<<20 {
		t.Fatal("the answer is not long")
	}
	provider := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("content-type", "application/json")
		_, _ = io.WriteString(w, long)
	}))
	t.Cleanup(provider.Close)
	g := harness.Start(t, harness.Options{
		Backends: []harness.Backend{
			{Name: "oa", Sim: harness.NewSim(t, sim.Options{Dialect: sim.OpenAI}), Models: []string{"gpt-4o"}},
			{Name: "long", Dialect: "openai", URL: provider.URL, Models: []string{"long"}},
		},
		Documents: []string{harness.Route("all", "rules: [{backends: [{name: oa}, {name: long}]}]"), relayCache("")},
	})
	for i := range 60 {
		transport := &http.Transport{ReadBufferSize: 4096}
		t.Cleanup(transport.CloseIdleConnections)
		resp, err := transport.RoundTrip(request(t, g, "POST", "/v1/chat/completions", "openai", chatBody("long", fmt.Sprint("Hello ", i), false)))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close() // it is not read
		if resp.StatusCode != 200 {
			text, _ := io.ReadAll(resp.Body)
			t.Fatalf("%d %.200s", resp.StatusCode, text)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for i := range 20 {
		a := do(t, http.DefaultClient, request(t, g, "POST", "/v1/chat/completions", "openai", chatBody("gpt-4o", fmt.Sprint("Hello ", i), false)).WithContext(ctx))
		if a.status != 200 {
			t.Fatalf("%d %s", a.status, a.body)
		}
	}
}

// A caller for whom nothing is kept is told so in OpenAI's words.
func TestNothingKeptForCaller(t *testing.T) {
	r := startRemembering(t, harness.Document("SessionPolicy", "talk", "targetRefs: [{kind: Tenant, name: somebody}]\n"))
	for path, want := range map[string]string{
		"/v1/responses/resp_x":     "Response with id 'resp_x' not found.",
		"/v1/conversations/conv_x": "Conversation with id 'conv_x' not found.",
	} {
		a := do(t, http.DefaultClient, request(t, r.Gateway, "GET", path, "openai", ""))
		if a.status != 404 || !strings.Contains(a.body, want) {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
}
