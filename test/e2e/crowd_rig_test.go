package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-dev/weir/test/e2e/harness"
)

// stage is a provider of OpenAI's dialect that plays acts, those of each model in turn, and a whole story where there is none. It goes on behind
// a gate when the gate is open.
type stage struct {
	*httptest.Server

	mu    sync.Mutex
	acts  map[string][]act
	calls map[string]int
}

// act is one answer: an error at the first gate, or as many words as there are parts behind each of the gates.
type act struct {
	status int
	gates  []chan struct{}
}

// storyParts are the words before each gate, and behind the last.
const storyParts = 10

// storyText is what a stage tells a model that has so many gates.
func storyText(model string, gates int) string {
	var words []string
	for i := range storyParts * (gates + 1) {
		words = append(words, fmt.Sprintf("%s-%d", model, i))
	}
	return strings.Join(words, " ")
}

func newStage(t *testing.T) *stage {
	t.Helper()
	s := &stage{acts: map[string][]act{}, calls: map[string]int{}}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

// will has a model play an act next, and gives its gates.
func (s *stage) will(t *testing.T, model string, status, gates int) (open []func()) {
	t.Helper()
	a := act{status: status}
	for range gates {
		gate := make(chan struct{})
		a.gates = append(a.gates, gate)
		opened := sync.OnceFunc(func() { close(gate) })
		open = append(open, opened)
		t.Cleanup(opened)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.acts[model] = append(s.acts[model], a)
	return open
}

// asked is how often a model was asked.
func (s *stage) asked(model string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[model]
}

func (s *stage) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var asked struct {
		Model  string
		Stream bool
	}
	if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	var plays act
	s.mu.Lock()
	s.calls[asked.Model]++
	if q := s.acts[asked.Model]; len(q) > 0 {
		plays, s.acts[asked.Model] = q[0], q[1:]
	}
	s.mu.Unlock()
	pass := func(i int) bool {
		select {
		case <-plays.gates[i]:
			return true
		case <-r.Context().Done():
			return false
		}
	}
	text := storyText(asked.Model, len(plays.gates))
	tokens := len(strings.Fields(text))
	usage := map[string]int{"prompt_tokens": 10, "completion_tokens": tokens, "total_tokens": 10 + tokens}
	if plays.status > 0 || !asked.Stream {
		for i := range plays.gates {
			if !pass(i) {
				return
			}
		}
		w.Header().Set("content-type", plainJSON)
		if plays.status > 0 {
			w.WriteHeader(plays.status)
			fmt.Fprintf(w, `{"error":{"message":"Refused by %s.","type":"asked_for","code":null,"param":null}}`, asked.Model)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{ // the gateway may have gone
			"id": "c", "object": "chat.completion", "created": 1, "model": asked.Model, "usage": usage,
			"choices": []any{map[string]any{"index": 0, "finish_reason": "stop", "message": map[string]any{"role": "assistant", "content": text}}},
		})
		return
	}
	w.Header().Set("content-type", "text/event-stream")
	event := func(choices, usage any) {
		line, _ := json.Marshal(map[string]any{"id": "c", "object": "chat.completion.chunk", "created": 1, "model": asked.Model, "choices": choices, "usage": usage})
		fmt.Fprintf(w, "data: %s\n\n", line)
		_ = http.NewResponseController(w).Flush() // the gateway may have gone
	}
	delta := func(content map[string]any, finish any) {
		event([]any{map[string]any{"index": 0, "delta": content, "finish_reason": finish}}, nil)
	}
	for i, word := range strings.SplitAfter(text, " ") {
		if i > 0 && i%storyParts == 0 && !pass(i/storyParts-1) {
			return
		}
		delta(map[string]any{"role": "assistant", "content": word}, nil)
	}
	delta(map[string]any{}, "stop")
	event([]any{}, usage)
	_, _ = io.WriteString(w, "data: [DONE]\n\n")
}

// crowded is a gateway in front of a stage. Its consumers are of one tenant: rich and poor.
type crowded struct {
	*harness.Gateway
	stage  *stage
	client *http.Client
}

// crowdKey is the key of a consumer.
func crowdKey(name string) string { return "crowd-key-of-" + name + "-0123456789" }

// startCrowded starts a gateway; its Route is named all, and a token of output costs 0.001.
func startCrowded(t *testing.T, s *stage, o harness.Options) *crowded {
	t.Helper()
	c := &crowded{stage: s, client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1000}, Timeout: harness.Patience}}
	t.Cleanup(c.client.CloseIdleConnections)
	o.Backends = []harness.Backend{{Name: "stage", Dialect: "openai", URL: s.URL + "/v1", AnyModel: true,
		Spec: "prices: [{input: \"0\", output: \"1000\"}]"}}
	o.Documents = append([]string{
		harness.Route("all", "rules: [{retry: {attempts: 1}, backends: [{name: stage}]}]"),
		harness.Consumer("rich", crowdKey("rich"), "tenant: crowd"), harness.Consumer("poor", crowdKey("poor"), "tenant: crowd"),
	}, o.Documents...)
	c.Gateway = harness.Start(t, o)
	if problems := c.Status().Problems; len(problems) > 0 {
		t.Fatalf("problems: %q", problems)
	}
	return c
}

// crowdPolicy keeps the answers of a model.
func crowdPolicy(model, spec string) string {
	return harness.Document("CachePolicy", model, "targetRefs: [{kind: Route, name: all}]\nmodels: ["+model+"]\n"+spec)
}

// asker is a request of a crowd: every second one in Anthropic's dialect, and of both every second one for a stream.
type asker struct {
	dialect string
	stream  bool
	key     string
	model   string
}

func askerOf(i int, consumer, model string) asker {
	return asker{[]string{"openai", "anthropic"}[i%2], i%4 > 1, crowdKey(consumer), model}
}

// ask sends the request of a member. Who cannot be answered has the status 0.
func (c *crowded) ask(t *testing.T, m asker, headers ...string) (answer, error) {
	body := strings.TrimSuffix(chatBody(m.model, "What everybody wants to know.", m.stream), "}") + `,"temperature":0}`
	resp, err := c.client.Do(request(t, c.Gateway, "POST", chatPath(m.dialect), m.dialect, body, append([]string{"authorization", "Bearer " + m.key}, headers...)...))
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(text)}, err
}

// must is ask for what must be answered.
func (c *crowded) must(t *testing.T, m asker, headers ...string) answer {
	t.Helper()
	a, err := c.ask(t, m, headers...)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// said is the text of an answer to a member.
func (m asker) said(t *testing.T, a answer) string {
	t.Helper()
	if !m.stream {
		return said(t, m.dialect, a)
	}
	text, ended, err := streamText(a.body)
	if err != nil || !ended {
		t.Fatalf("a stream of %s, ended %v: %v: %s", m.dialect, ended, err, a.body)
	}
	return text
}

// together sends the requests of members at once. Meanwhile runs while they do; all must be answered then.
func (c *crowded) together(t *testing.T, members []asker, meanwhile func()) []answer {
	t.Helper()
	answers, errs := make([]answer, len(members)), make([]error, len(members))
	var wg sync.WaitGroup
	began := time.Now()
	for i, m := range members {
		wg.Go(func() { answers[i], errs[i] = c.ask(t, m) })
	}
	meanwhile()
	wg.Wait()
	t.Logf("%d answers took %v", len(members), time.Since(began).Round(time.Millisecond))
	for i, err := range errs {
		if err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
	}
	return answers
}

// joined is how many requests have joined those that bought an answer.
func (c *crowded) joined(model string) int {
	return int(c.Metric("weir_cache_shared_total", "policy", "default/"+model))
}

// outcomes count what came of the cache.
func outcomes(answers []answer) map[string]int {
	out := map[string]int{}
	for _, a := range answers {
		out[a.header.Get("x-weir-cache")]++
	}
	return out
}
