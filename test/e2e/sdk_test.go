package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/anthropics/anthropic-sdk-go/v2"
	anthropicoption "github.com/anthropics/anthropic-sdk-go/v2/option"
	"github.com/openai/openai-go/v3"

	"github.com/weir-dev/weir/test/e2e/harness"
	"github.com/weir-dev/weir/test/sim"
)

// provider is a simulator as a backend, with a model of it for text and one that sees.
type provider struct {
	sim         *harness.Sim
	name        string
	model, eyes string
}

// providers starts one simulator of each dialect. It takes no credential but that of its backend.
func providers(t *testing.T, f sim.Faults) []provider {
	t.Helper()
	out := []provider{
		{name: "sim-openai", model: "gpt-4o", eyes: "gpt-4o"},
		{name: "sim-anthropic", model: "claude-sonnet-4-5", eyes: "claude-haiku-4-5"},
		{name: "sim-dashscope", model: "qwen-plus", eyes: "qwen-vl-plus"},
	}
	for i, d := range sim.Dialects() {
		out[i].sim = harness.NewSim(t, sim.Options{Dialect: d, Key: harness.BackendKey(out[i].name), Faults: f, Seed: uint64(i + 1)})
	}
	return out
}

// backends are the providers as backends.
func backends(list []provider) (out []harness.Backend) {
	for _, p := range list {
		out = append(out, harness.Backend{Name: p.name, Sim: p.sim})
	}
	return out
}

// sdkCase is one SDK against one provider, whole or streamed.
type sdkCase struct {
	caller caller
	provider
	stream bool
}

func (c sdkCase) String() string {
	how := "whole"
	if c.stream {
		how = "stream"
	}
	return fmt.Sprintf("%s to %s %s", c.caller.dialect(), c.sim.Dialect(), how)
}

// question fills in what the case decides.
func (c sdkCase) question(a ask) ask {
	a.stream = c.stream
	if a.model == "" {
		a.model = c.model
	}
	return a
}

// word says a finish reason in the caller's words.
func (c sdkCase) word(openAI, anthropic string) string {
	if c.caller.dialect() == "openai" {
		return openAI
	}
	return anthropic
}

func TestSDKs(t *testing.T) {
	t.Parallel()
	ps := providers(t, sim.Faults{Chunking: sim.Split})
	g := harness.Start(t, harness.Options{
		Backends:  backends(ps),
		Documents: []string{harness.Route("models", "rules: [{backends: [{name: sim-openai}, {name: sim-anthropic}, {name: sim-dashscope}]}]")},
	})
	scenarios := []struct {
		name string
		run  func(*testing.T, sdkCase)
	}{
		{"chat", testChat}, {"turns", testTurns}, {"tools", testTools}, {"tool choice", testToolChoice}, {"images", testImages},
		{"structured output", testStructured}, {"stop", testStop}, {"max tokens", testMaxTokens}, {"cached tokens", testCached},
		{"errors", testProviderErrors},
	}
	for _, caller := range callers(g.URL, g.Key) {
		for _, p := range ps {
			for _, stream := range []bool{false, true} {
				c := sdkCase{caller, p, stream}
				for _, s := range scenarios {
					t.Run(c.String()+"/"+s.name, func(t *testing.T) { s.run(t, c) })
				}
			}
		}
		t.Run(caller.dialect()+"/models", func(t *testing.T) { testModels(t, caller, ps) })
		t.Run(caller.dialect()+"/gateway errors", func(t *testing.T) { testGatewayErrors(t, g.URL, caller) })
	}
	t.Run("credentials", func(t *testing.T) { testCredentials(t, g.Key, ps) })
}

func testChat(t *testing.T, c sdkCase) {
	r := mustAsk(t, c.caller, c.question(ask{turns: user("Tell me 30 words, please.")}))
	if r.finish != c.word("stop", "end_turn") {
		t.Errorf("finish %q", r.finish)
	}
	if len(strings.Fields(r.text)) < 10 || r.id == "" || r.model != c.model {
		t.Errorf("reply %+v", r)
	}
	checkUsage(t, c, r)
	if c.stream && r.pieces < 10 {
		t.Errorf("the text came in %d pieces", r.pieces)
	}
	// Whether it is streamed makes no difference to the text.
	other := c.question(ask{turns: user("Tell me 30 words, please.")})
	other.stream = !other.stream
	if o := mustAsk(t, c.caller, other); o.text != r.text || o.finish != r.finish || o.output != r.output {
		t.Errorf("whole and streamed answers differ:\n%+v\n%+v", r, o)
	}
}

// checkUsage compares what the SDK reports with what the provider billed.
func checkUsage(t *testing.T, c sdkCase, r reply) {
	t.Helper()
	billed := c.sim.Ended().Usage
	if int(r.input) != billed.Input || int(r.output) != billed.Output || int(r.cached) != billed.Cached {
		t.Errorf("usage %d (%d cached) + %d, billed %+v", r.input, r.cached, r.output, billed)
	}
}

func testTurns(t *testing.T, c sdkCase) {
	q := c.question(ask{system: "Answer as a pirate.", turns: user("What is the capital of France?")})
	first := mustAsk(t, c.caller, q)
	q.turns = append(q.turns, turn{role: "assistant", text: first.text}, turn{role: "user", text: "And of Italy? Ünïcödé: 你好 🌍"})
	second := mustAsk(t, c.caller, q)
	if second.text == "" || second.text == first.text {
		t.Errorf("answers %q and %q", first.text, second.text)
	}
	rec := c.sim.Ended()
	want := []string{"system", "user", "assistant", "user"}
	if got := slices.DeleteFunc(slices.Clone(rec.Summary.Roles), func(r string) bool { return r == "system" }); !slices.Equal(got, want[1:]) {
		t.Errorf("the provider saw the turns %v", rec.Summary.Roles)
	}
	for _, part := range []string{"Answer as a pirate.", "你好 🌍"} {
		if !strings.Contains(rec.Body, part) {
			t.Errorf("the provider did not see %q in %s", part, rec.Body)
		}
	}
	if !slices.Contains(rec.Summary.Roles, "system") && !strings.Contains(rec.Body, `"system":`) {
		t.Errorf("the instructions came as no system prompt: %s", rec.Body)
	}
}

func testTools(t *testing.T, c sdkCase) {
	q := c.question(ask{turns: user("Please call the tool."), tools: []string{"weather"}})
	one := mustAsk(t, c.caller, q)
	checkCalls(t, c, one, "weather")
	checkUsage(t, c, one)

	q.tools = []string{"weather", "population", "mayor"}
	several := mustAsk(t, c.caller, q)
	checkCalls(t, c, several, "weather", "population", "mayor")

	// The results go back, in the order of the calls.
	q.turns = append(q.turns, turn{role: "assistant", text: several.text, calls: several.calls}, turn{role: "tool", results: []result{
		{several.calls[0].id, "rain, 7 degrees"}, {several.calls[1].id, "312000"}, {several.calls[2].id, "Ada"}}})
	told := mustAsk(t, c.caller, q)
	for _, part := range []string{"rain, 7 degrees", "312000", "Ada"} {
		if !strings.Contains(told.text, part) {
			t.Errorf("the answer does not mention %q: %q", part, told.text)
		}
	}
	if told.finish != c.word("stop", "end_turn") || len(told.calls) > 0 {
		t.Errorf("finish %q, calls %v", told.finish, told.calls)
	}
}

func checkCalls(t *testing.T, c sdkCase, r reply, names ...string) {
	t.Helper()
	if r.finish != c.word("tool_calls", "tool_use") {
		t.Errorf("finish %q", r.finish)
	}
	var got []string
	ids := map[string]bool{}
	for _, call := range r.calls {
		got = append(got, call.name)
		ids[call.id] = true
		var args struct{ City string }
		if err := json.Unmarshal([]byte(call.arguments), &args); err != nil || args.City == "" {
			t.Errorf("arguments %q: %v", call.arguments, err)
		}
	}
	if !slices.Equal(got, names) {
		t.Fatalf("calls %v, want %v", got, names)
	}
	if len(ids) != len(names) || ids[""] {
		t.Errorf("the calls need an id each: %+v", r.calls)
	}
	if c.stream && r.pieces < 2*len(names) {
		t.Errorf("%d calls came in %d pieces: the arguments were not streamed", len(names), r.pieces)
	}
}

func testToolChoice(t *testing.T, c sdkCase) {
	tools := []string{"weather", "population"}
	forced := mustAsk(t, c.caller, c.question(ask{turns: user("Hello"), tools: tools, choice: "population"}))
	if len(forced.calls) != 1 || forced.calls[0].name != "population" {
		t.Errorf("a forced tool gave the calls %+v", forced.calls)
	}
	none := mustAsk(t, c.caller, c.question(ask{turns: user("Please call the tool."), tools: tools, choice: "none"}))
	if len(none.calls) > 0 || none.text == "" {
		t.Errorf("the choice none gave %+v", none)
	}
	serial := mustAsk(t, c.caller, c.question(ask{turns: user("Please call the tool."), tools: tools, serial: true}))
	if len(serial.calls) != 1 {
		t.Errorf("without parallel calls there were %+v", serial.calls)
	}
	any := mustAsk(t, c.caller, c.question(ask{turns: user("Hello"), tools: tools[:1], choice: "required"}))
	if len(any.calls) != 1 {
		t.Errorf("the choice required gave %+v", any.calls)
	}
}

// png is a picture of one pixel, of 70 bytes.
const png = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="

func testImages(t *testing.T, c sdkCase) {
	for image, want := range map[string]string{
		png:                              "I see 1 image: image/png of 70 bytes",
		"https://images.example/cat.png": "I see 1 image: an image at https://images.example/cat.png",
	} {
		r := mustAsk(t, c.caller, c.question(ask{model: c.eyes, turns: []turn{{role: "user", text: "What is this?", image: image}}}))
		if !strings.Contains(r.text, want) {
			t.Errorf("the answer to %.40s does not describe it: %q", image, r.text)
		}
	}
}

func testStructured(t *testing.T, c sdkCase) {
	schema := map[string]any{"type": "object", "additionalProperties": false, "required": []string{"city", "people"}, "properties": map[string]any{
		"city": map[string]any{"type": "string"}, "people": map[string]any{"type": "integer"}}}
	r := mustAsk(t, c.caller, c.question(ask{turns: user("Answer with JSON: a city."), schema: schema}))
	var got map[string]any
	if err := json.Unmarshal([]byte(r.text), &got); err != nil {
		t.Fatalf("%q is no JSON: %v", r.text, err)
	}
	_, city := got["city"].(string)
	_, people := got["people"].(float64)
	if !city || !people || len(got) != 2 {
		t.Errorf("%s does not fit the schema", r.text)
	}
}

func testStop(t *testing.T, c sdkCase) {
	q := c.question(ask{turns: user("Tell me 40 words about stops.")})
	words := strings.Fields(mustAsk(t, c.caller, q).text)
	q.stop = []string{words[len(words)/2], "never said"}
	r := mustAsk(t, c.caller, q)
	if strings.Contains(r.text, q.stop[0]) || len(strings.Fields(r.text)) > len(words)/2 || r.text == "" {
		t.Errorf("stopped at %q: %q", q.stop[0], r.text)
	}
	// Only Anthropic's API says which sequence it was, or that there was one at all.
	told := c.sim.Dialect() == sim.Anthropic
	switch {
	case c.caller.dialect() == "openai":
		if r.finish != "stop" {
			t.Errorf("finish %q", r.finish)
		}
	case told && (r.finish != "stop_sequence" || r.stopped != q.stop[0]):
		t.Errorf("finish %q at %q", r.finish, r.stopped)
	case !told && r.finish != "end_turn":
		t.Errorf("finish %q at %q", r.finish, r.stopped)
	}
}

func testMaxTokens(t *testing.T, c sdkCase) {
	r := mustAsk(t, c.caller, c.question(ask{turns: user("Tell me 100 words."), max: 7}))
	if r.finish != c.word("length", "max_tokens") || r.output != 7 {
		t.Errorf("finish %q after %d tokens", r.finish, r.output)
	}
	checkUsage(t, c, r)
}

func testCached(t *testing.T, c sdkCase) {
	// Anthropic caches what is marked; OpenAI's own API refuses the mark, which others ignore or know.
	marked := c.caller.dialect() == "anthropic" || c.sim.Dialect() == sim.Anthropic
	q := c.question(ask{system: c.String() + strings.Repeat(" long prompt", 3000), turns: user("Hello"), cacheAll: marked})
	if first := mustAsk(t, c.caller, q); first.cached != 0 {
		t.Errorf("%d cached tokens at first sight", first.cached)
	}
	again := mustAsk(t, c.caller, q)
	if again.cached < 1000 || again.cached > again.input {
		t.Errorf("%d of %d tokens cached", again.cached, again.input)
	}
	checkUsage(t, c, again)
}

func testProviderErrors(t *testing.T, c sdkCase) {
	for _, f := range []struct {
		rule              sim.Rule
		status            int
		openAI, anthropic string
	}{
		{sim.Rule{Kind: sim.Status, Status: 400}, 400, "invalid_request_error", "invalid_request_error"},
		{sim.Rule{Kind: sim.Status, Status: 429, RetryAfter: sim.Duration(7e9)}, 429, "", "rate_limit_error"},
		{sim.Rule{Kind: sim.Status, Status: 500}, 500, "server_error", "api_error"},
		{sim.Rule{Kind: sim.Status, Status: 503}, 503, "", "overloaded_error"},
	} {
		f.rule.Next = 1
		c.sim.Configure(sim.Faults{Chunking: sim.Split, Rules: []sim.Rule{f.rule}})
		if c.caller.dialect() == string(c.sim.Dialect()) {
			// The provider's own answer, untouched; only its shape is sure.
			_, err := c.caller.ask(t.Context(), c.question(ask{turns: user("Hello")}))
			if e, ok := c.caller.refusal(err); !ok || e.status != f.status || e.message == "" {
				t.Errorf("status %d became %v", f.status, err)
			}
			continue
		}
		e := mustRefuse(t, c.caller, c.question(ask{turns: user("Hello")}), f.status)
		if want := c.word(f.openAI, f.anthropic); want != "" && e.kind != want {
			t.Errorf("status %d has the type %q, want %q", f.status, e.kind, want)
		}
		if got := e.header.Get("retry-after"); f.status == 429 && got != "7" {
			t.Errorf("retry-after %q", got)
		}
	}
	if left := c.sim.Faults().Rules; len(left) > 0 {
		t.Errorf("some faults did not happen: %+v", left)
	}
}

func testModels(t *testing.T, c caller, ps []provider) {
	got, err := c.models(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, p := range ps {
		want = append(want, p.sim.Models()...)
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("models %v, want %v", got, want)
	}
}

func testGatewayErrors(t *testing.T, url string, c caller) {
	unknown := mustRefuse(t, c, ask{model: "no-such-model", turns: user("Hello")}, http.StatusNotFound)
	if c.dialect() == "openai" && unknown.code != "model_not_found" || c.dialect() == "anthropic" && unknown.kind != "not_found_error" {
		t.Errorf("an unknown model gave %+v", unknown)
	}
	for _, stranger := range callers(url, "not-a-key-at-all-0123") {
		if stranger.dialect() != c.dialect() {
			continue
		}
		e := mustRefuse(t, stranger, ask{model: "gpt-4o", turns: user("Hello")}, http.StatusUnauthorized)
		if e.kind != "authentication_error" || e.header.Get("www-authenticate") == "" {
			t.Errorf("an unknown key gave %+v", e)
		}
	}
	// A request that is refused for what it is, in both the own dialect and a translated one.
	for _, model := range []string{"gpt-4o", "claude-sonnet-4-5", "qwen-plus"} {
		mustRefuse(t, c, ask{model: model}, http.StatusBadRequest)
	}
}

// testCredentials looks at all that has happened before: no provider has ever seen a caller's key, or what else a
// caller's library says about itself in another dialect.
func testCredentials(t *testing.T, key string, ps []provider) {
	for _, p := range ps {
		recs := p.sim.Requests()
		if len(recs) < 50 {
			t.Errorf("%s has received %d requests only", p.name, len(recs))
		}
		for _, r := range recs {
			if !slices.Equal(r.Credentials, []string{sim.Fingerprint(harness.BackendKey(p.name))}) {
				t.Fatalf("%s was shown the credentials %v", p.name, r.Credentials)
			}
			if all := fmt.Sprint(r.Header, r.Query, r.Body); strings.Contains(all, key) || strings.Contains(all, sim.Fingerprint(key)) {
				t.Fatalf("%s was shown the caller's key: %s", p.name, all)
			}
			for name := range r.Header {
				if strings.HasPrefix(name, "X-Weir-") || strings.HasPrefix(name, "X-Envoy-") || strings.HasPrefix(name, "X-Forwarded-") {
					t.Fatalf("%s was shown the header %s", p.name, name)
				}
			}
			if p.sim.Dialect() != sim.Anthropic && r.Header.Get("Anthropic-Version") != "" {
				t.Fatalf("%s was shown a header of another dialect: %v", p.name, r.Header)
			}
		}
	}
}

// TestSDKOptions uses what the scenarios leave out: the ways to authenticate and to speak of older clients, and an operation
// that is not translated.
func TestSDKOptions(t *testing.T) {
	t.Parallel()
	ps := providers(t, sim.Faults{})[:2]
	g := harness.Start(t, harness.Options{
		Backends:  backends(ps),
		Documents: []string{harness.Route("models", "rules: [{backends: [{name: sim-openai}, {name: sim-anthropic}]}]")},
	})
	for name, opts := range map[string][]anthropicoption.RequestOption{
		"token": {anthropicoption.WithAuthToken(g.Key)},
		// What SDKs before 2.0, Claude Code and many others send.
		"2023-06-01": {anthropicoption.WithoutEnvironmentDefaults(), anthropicoption.WithHeader("x-api-key", g.Key), anthropicoption.WithHeader("anthropic-version", "2023-06-01")},
	} {
		t.Run(name, func(t *testing.T) {
			client := anthropicCaller{anthropic.NewClient(append(opts, anthropicoption.WithBaseURL(g.URL), anthropicoption.WithMaxRetries(0))...)}
			for _, model := range []string{"claude-sonnet-4-5", "gpt-4o"} {
				if r := mustAsk(t, client, ask{model: model, turns: user("Hello")}); r.text == "" {
					t.Errorf("no answer of %s", model)
				}
			}
		})
	}
	client := newOpenAI(g.URL, g.Key).client
	emb, err := client.Embeddings.New(t.Context(), openai.EmbeddingNewParams{Model: "text-embedding-3-small",
		Input: openai.EmbeddingNewParamsInputUnion{OfArrayOfStrings: []string{"a", "b"}}})
	if err != nil || len(emb.Data) != 2 {
		t.Errorf("embeddings of the same dialect: %v", err)
	}
}
