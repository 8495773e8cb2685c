package e2e

import (
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/weir-dev/weir/test/e2e/harness"
	"github.com/weir-dev/weir/test/sim"
)

// embeddingModel is what tells the meaning of requests in these tests.
const embeddingModel = "text-embedding-3-small"

// near is a CachePolicy that finds answers by meaning.
func near(spec string) string {
	return cacheAll("eligible: All\nsemantic: {model: " + embeddingModel + ", threshold: \"0.95\"}\n" + spec)
}

// calls are how many chats and embeddings the providers were asked for.
func (r *remembering) calls() (chats, embeddings int) {
	for _, of := range []*harness.Sim{r.openai, r.anthropic} {
		for _, q := range of.Requests() {
			if strings.HasSuffix(q.Path, "/embeddings") {
				embeddings++
			} else {
				chats++
			}
		}
	}
	return chats, embeddings
}

// chat is a chat with a temperature of 0 and whatever else there is.
func (r *remembering) chat(t *testing.T, text string, more map[string]any, headers ...string) answer {
	t.Helper()
	body := map[string]any{"model": "gpt-4o", "temperature": 0, "messages": []any{map[string]any{"role": "user", "content": text}}}
	for name, v := range more {
		if name == "system" {
			body["messages"] = append([]any{map[string]any{"role": "system", "content": v}}, body["messages"].([]any)...)
			continue
		}
		body[name] = v
	}
	raw, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	a := do(t, http.DefaultClient, request(t, r.Gateway, "POST", "/v1/chat/completions", "openai", string(raw), headers...))
	if a.status != 200 {
		t.Fatalf("%q %v: %d %s", text, more, a.status, a.body)
	}
	return a
}

// checkNear checks an answer that was found by the meaning of its request.
func checkNear(t *testing.T, what string, a answer) {
	t.Helper()
	similarity, err := strconv.ParseFloat(a.header.Get("x-weir-cache-similarity"), 64)
	if a.status != 200 || a.header.Get("x-weir-cache") != "hit" || err != nil || similarity < 0.95 || similarity > 1 {
		t.Errorf("%s: %d, x-weir-cache %q, similarity %q", what, a.status, a.header.Get("x-weir-cache"), a.header.Get("x-weir-cache-similarity"))
	}
	if _, err := strconv.Atoi(a.header.Get("age")); err != nil {
		t.Errorf("%s: its age is %q", what, a.header.Get("age"))
	}
}

// A question in other words gets the answer that was bought, whatever the dialect, plain or as a stream. What is paid for is its embedding.
func TestSemanticHits(t *testing.T) {
	r := startRemembering(t, near(""))
	const question = "What is the capital of France?"
	first := r.say(t, "openai", "gpt-4o", question, false)
	if got := first.header.Get("x-weir-cache"); first.status != 200 || got != "miss" || first.header.Get("x-weir-cache-similarity") != "" {
		t.Fatalf("the first: %d %q %s", first.status, got, first.body)
	}
	want := said(t, "openai", first)
	expect := func(what string, chats, embeddings int) {
		t.Helper()
		if c, e := r.calls(); c != chats || e != embeddings {
			t.Errorf("%s: the providers had %d chats and %d requests for embeddings, want %d and %d", what, c, e, chats, embeddings)
		}
	}
	expect("the first", 1, 1)

	other := r.say(t, "openai", "gpt-4o", "of France, what is the capital", false)
	checkNear(t, "in other words", other)
	if other.body != first.body {
		t.Errorf("in other words:\n%s\nwant\n%s", other.body, first.body)
	}
	expect("in other words", 1, 2)
	checkNear(t, "the other words again", r.say(t, "openai", "gpt-4o", "of France, what is the capital", false))
	expect("the other words again", 1, 2) // it is remembered what they got
	if again := r.say(t, "openai", "gpt-4o", question, false); again.header.Get("x-weir-cache") != "hit" || again.header.Get("x-weir-cache-similarity") != "" {
		t.Errorf("the question itself: %v", again.header)
	}
	expect("the question itself", 1, 2)

	a := r.say(t, "anthropic", "gpt-4o", "The capital of France is what?", true)
	checkNear(t, "a stream in the other dialect", a)
	if text, ended, err := streamText(a.body); text != want || !ended || err != nil {
		t.Errorf("the stream: %q, ended %v, %v, want %q", text, ended, err, want)
	}
	expect("a stream in the other dialect", 1, 3)

	if far := r.say(t, "openai", "gpt-4o", "What is the capital of Spain?", false); far.header.Get("x-weir-cache") != "miss" {
		t.Errorf("another question: %q, similarity %q", far.header.Get("x-weir-cache"), far.header.Get("x-weir-cache-similarity"))
	}
	expect("another question", 2, 4)
	for _, control := range []string{"no-cache", "no-store"} {
		if a := r.say(t, "openai", "gpt-4o", "Is what the capital of France?", false, "x-weir-cache-control", control); a.header.Get("x-weir-cache") == "hit" {
			t.Errorf("%s got a hit", control)
		}
	}
	expect("who wants nothing of the cache", 4, 4)

	count := map[string]int{}
	for _, e := range r.entries(t, 8+4) {
		kind := e.Cache
		if e.Purpose != "" {
			kind = e.Purpose
		}
		count[kind]++
		switch {
		case e.Consumer != "app" || e.Status != 200:
			t.Errorf("entry %+v", e)
		case e.Purpose != "" && (e.Cost == 0 || e.Tokens.Total() == 0 || e.Cached || e.Backend != "default/oa"):
			t.Errorf("an embedding: %+v", e)
		case kind == "hit" && (e.Cost != 0 || e.Tokens.Total() != 0 || !e.Cached || e.Backend != ""):
			t.Errorf("a hit: %+v", e)
		case kind == "miss" && (e.Cost == 0 || e.Cached):
			t.Errorf("a miss: %+v", e)
		}
	}
	if count["embedding"] != 4 || count["hit"] != 4 || count["miss"] != 3 {
		t.Errorf("entries: %v", count)
	}
	if got := r.Metric("weir_requests_total"); got != 8 {
		t.Errorf("weir_requests_total is %v, want 8", got)
	}
	for result, want := range map[string]float64{"miss": 2, "near": 3, "served": 3} {
		if got := r.Metric("weir_cache_semantic_lookups_total", "policy", "default/cache", "result", result); got != want {
			t.Errorf("lookups that ended with %s: %v, want %v", result, got, want)
		}
	}
}

// Only the last text is compared by its meaning: with anything else that is not the same the answer is another one.
func TestSemanticGuard(t *testing.T) {
	r := startRemembering(t, near(""))
	tool := func(name string) []any {
		return []any{map[string]any{"type": "function", "function": map[string]any{"name": name, "parameters": map[string]any{"type": "object"}}}}
	}
	const question, words = "What is the capital of France?", "of France, what is the capital"
	for i, c := range []struct {
		what    string
		more    map[string]any
		headers []string
	}{
		{"nothing else", nil, nil},
		{"a system prompt", map[string]any{"system": "Answer in one word."}, nil},
		{"another system prompt", map[string]any{"system": "Answer in one word"}, nil},
		{"a tool", map[string]any{"tools": tool("look")}, nil},
		{"another tool", map[string]any{"tools": tool("see")}, nil},
		{"a temperature", map[string]any{"temperature": 0.5}, nil},
		{"a length", map[string]any{"max_tokens": 20}, nil},
		{"another model", map[string]any{"model": "claude-sonnet-4-5"}, nil},
		{"a prompt version", nil, []string{"x-weir-prompt-version", "2"}},
		{"another tenant", nil, []string{"authorization", "Bearer " + relayOther}},
	} {
		if a := r.chat(t, question, c.more, c.headers...); a.header.Get("x-weir-cache") != "miss" {
			t.Errorf("%s: it got the answer to another request, %q", c.what, a.header.Get("x-weir-cache"))
		}
		bought := r.chat(t, question, c.more, c.headers...)
		found := r.chat(t, words, c.more, c.headers...)
		checkNear(t, c.what, found)
		if found.body != bought.body {
			t.Errorf("%s: got %s, want %s", c.what, found.body, bought.body)
		}
		if chats, _ := r.calls(); chats != i+1 {
			t.Errorf("%s: %d chats were bought, want %d", c.what, chats, i+1)
		}
	}
}

// Of many equal requests at once one asks what they mean, and all get the answer that it finds.
func TestSemanticStampede(t *testing.T) {
	r := startRemembering(t, near(""))
	want := r.chat(t, "What is the capital of France?", nil).body
	const many = 60
	var wg sync.WaitGroup
	for range many {
		wg.Go(func() {
			resp, err := http.DefaultClient.Do(request(t, r.Gateway, "POST", "/v1/chat/completions", "openai",
				`{"model":"gpt-4o","temperature":0,"messages":[{"role":"user","content":"of France, what is the capital"}]}`))
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if checkNear(t, "one of many", answer{resp.StatusCode, resp.Header, string(body)}); err != nil || string(body) != want {
				t.Errorf("one of many got %s, %v, want %s", body, err, want)
			}
		})
	}
	wg.Wait()
	// Who comes when the first have gone is told what they got, without an embedding.
	if chats, embeddings := r.calls(); chats != 1 || embeddings != 2 {
		t.Errorf("the providers had %d chats and %d requests for embeddings, want 1 and 2", chats, embeddings)
	}
}

// Where no embedding can be had, answers are bought as without: the caller has used up what there is of them, or the model fails.
func TestSemanticWithoutEmbeddings(t *testing.T) {
	const poor = "key-of-one-without-embeddings-0123"
	r := startRemembering(t, near(""),
		harness.Consumer("poor", poor, "tenant: poor\n"),
		harness.Document("LimitPolicy", "embeddings", "targetRefs: [{kind: Consumer, name: poor}]\nmodels: ["+embeddingModel+"]\nlimits: [{name: most, unit: TotalTokens, limit: 1, window: 1h}]\n"))
	outcome := func(text string, headers ...string) string {
		t.Helper()
		return r.chat(t, text, nil, headers...).header.Get("x-weir-cache")
	}
	auth := []string{"authorization", "Bearer " + poor}
	if a, b, c := outcome("One, two, three.", auth...), outcome("Three, two, one.", auth...), outcome("One, two, three.", auth...); a != "miss" || b != "miss" || c != "hit" {
		t.Errorf("a caller without embeddings: %s, %s, %s", a, b, c)
	}
	if _, n := r.calls(); n != 0 {
		t.Errorf("the provider had %d requests for embeddings beyond the limit", n)
	}
	if a, b := outcome("One, two, three."), outcome("Three, two, one."); a != "miss" || b != "hit" {
		t.Errorf("another caller: %s, %s", a, b)
	}
	r.openai.Configure(sim.Faults{Rules: []sim.Rule{{Kind: sim.Status, Status: 500, Path: "/v1/embeddings"}}})
	if a, b, c := outcome("Four, five, six."), outcome("Six, five, four."), outcome("Four, five, six."); a != "miss" || b != "miss" || c != "hit" {
		t.Errorf("the model fails: %s, %s, %s", a, b, c)
	}
	if got := r.Metric("weir_cache_semantic_lookups_total", "policy", "default/cache", "result", "skipped"); got == 0 {
		t.Error("a model that has just failed is asked again")
	}
	if chats, _ := r.calls(); chats != 5 {
		t.Errorf("%d chats were bought, want 5", chats)
	}
}

// A purge takes the meanings along: nothing leads to what is gone, and what is bought next is found.
func TestSemanticPurge(t *testing.T) {
	r := startRemembering(t, near("tags: [red]\n"))
	for _, by := range []string{`{"policy":"default/cache"}`, `{"tag":"red"}`} {
		if a := r.chat(t, "What is the capital of France?", nil); a.header.Get("x-weir-cache") != "miss" {
			t.Fatalf("%s: the first: %v", by, a.header)
		}
		checkNear(t, by, r.chat(t, "of France, what is the capital", nil))
		purge(t, r.Gateway, by)
		if a := r.chat(t, "of France, what is the capital", nil); a.header.Get("x-weir-cache") != "miss" {
			t.Errorf("%s: after the purge: %v", by, a.header)
		}
		checkNear(t, by+", again", r.chat(t, "What is the capital of France?", nil))
		purge(t, r.Gateway, by)
	}
}

// purge purges the cache by what is given as JSON, and gives how many answers went.
func purge(t *testing.T, g *harness.Gateway, what string) int {
	t.Helper()
	resp, err := http.Post(g.AdminURL+"/api/cache/purge", "application/json", strings.NewReader(what))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var done struct{ Purged int }
	if err := json.NewDecoder(resp.Body).Decode(&done); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("the purge of %s: status %d, %v", what, resp.StatusCode, err)
	}
	return done.Purged
}
