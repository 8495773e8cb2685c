package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/weir-dev/weir/extproc/session"
	"github.com/weir-dev/weir/test/e2e/harness"
	"github.com/weir-dev/weir/test/sim"
)

// actor is a provider of OpenAI's dialect that says its lines, those of each model in turn, and "Yes." when there are none.
type actor struct {
	*httptest.Server

	mu     sync.Mutex
	lines  map[string][]speech
	scenes []scene
}

// speech is one answer: a text, or a call of a tool, or an error. It is said when until is closed, if there is one.
type speech struct {
	text      string
	call      string // name of the tool
	arguments string
	status    int
	until     chan struct{}
}

// scene is a request that came.
type scene struct{ model, body string }

func newActor(t *testing.T) *actor {
	t.Helper()
	a := &actor{lines: map[string][]speech{}}
	a.Server = httptest.NewServer(a)
	t.Cleanup(a.Close)
	return a
}

// will has a model say these lines next.
func (a *actor) will(model string, lines ...speech) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.lines[model] = append(a.lines[model], lines...)
}

// told are the bodies of the requests to a model.
func (a *actor) told(model string) (out []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range a.scenes {
		if s.model == model {
			out = append(out, s.body)
		}
	}
	return out
}

// last is the body of the last request to a model.
func (a *actor) last(t *testing.T, model string) string {
	t.Helper()
	all := a.told(model)
	if len(all) == 0 {
		t.Fatalf("the model %s was not asked", model)
	}
	return all[len(all)-1]
}

func (a *actor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the gateway has gone
	}
	var asked struct {
		Model  string
		Stream bool
	}
	if err := json.Unmarshal(body, &asked); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	says := speech{text: "Yes."}
	a.mu.Lock()
	a.scenes = append(a.scenes, scene{asked.Model, string(body)})
	if q := a.lines[asked.Model]; len(q) > 0 {
		says, a.lines[asked.Model] = q[0], q[1:]
	}
	a.mu.Unlock()
	if says.until != nil {
		select {
		case <-says.until:
		case <-r.Context().Done():
			return
		}
	}
	if says.status > 0 {
		w.Header().Set("content-type", "application/json")
		w.WriteHeader(says.status)
		_, _ = io.WriteString(w, `{"error":{"message":"asked for","type":"server_error","code":null,"param":null}}`) // the gateway may have gone
		return
	}
	message, finish := map[string]any{"role": "assistant", "content": says.text}, "stop"
	if says.call != "" {
		finish = "tool_calls"
		message["content"] = nil
		message["tool_calls"] = []any{map[string]any{"index": 0, "id": "call_" + says.call, "type": "function", "function": map[string]string{"name": says.call, "arguments": says.arguments}}}
	}
	usage := map[string]int{"prompt_tokens": 10, "completion_tokens": 10, "total_tokens": 20}
	frame := func(object, member string, value any, finish any) map[string]any {
		return map[string]any{"id": "c", "object": object, "created": 1, "model": asked.Model, "choices": []any{map[string]any{"index": 0, member: value, "finish_reason": finish}}}
	}
	if !asked.Stream {
		out := frame("chat.completion", "message", message, finish)
		out["usage"] = usage
		w.Header().Set("content-type", "application/json")
		_ = json.NewEncoder(w).Encode(out) // the gateway may have gone
		return
	}
	w.Header().Set("content-type", "text/event-stream")
	for _, f := range []map[string]any{
		frame("chat.completion.chunk", "delta", message, nil),
		frame("chat.completion.chunk", "delta", map[string]any{}, finish),
		{"id": "c", "object": "chat.completion.chunk", "created": 1, "model": asked.Model, "choices": []any{}, "usage": usage},
	} {
		text, _ := json.Marshal(f)
		fmt.Fprintf(w, "data: %s\n\n", text)
	}
	_, _ = io.WriteString(w, "data: [DONE]\n\n")
}

// talks is a gateway that keeps conversations: over the providers of all dialects, and over an actor with the models actor and cheap.
type talks struct {
	*harness.Gateway
	providers []provider
	actor     *actor
}

// talker is the key of a consumer of startTalks.
func talker(name string) string { return "key-of-talker-" + name + "-0123456789" }

// sessionPolicy keeps the conversations of a consumer.
func sessionPolicy(consumer, spec string) string {
	return harness.Document("SessionPolicy", consumer, "targetRefs: [{kind: Consumer, name: "+consumer+"}]\n"+spec)
}

// startTalks starts a gateway; each of the consumers has a tenant of its own, and what is in policies says what is kept for it.
func startTalks(t *testing.T, policies map[string]string, o harness.Options) *talks {
	t.Helper()
	x := &talks{providers: providers(t, sim.Faults{}), actor: newActor(t)}
	x.Gateway = harness.Start(t, x.options(policies, o))
	x.sound(t)
	return x
}

// options are those of a gateway in front of the providers.
func (x *talks) options(policies map[string]string, o harness.Options) harness.Options {
	const price = "prices: [{input: \"1\", output: \"2\"}]"
	o.Backends = append(backends(x.providers), harness.Backend{Name: "actor", Dialect: "openai", URL: x.actor.URL + "/v1", Models: []string{"actor", "cheap"}})
	for i := range o.Backends {
		o.Backends[i].Spec = price
	}
	o.Documents = append(o.Documents, harness.Route("all", "rules: [{retry: {attempts: 1}, backends: [{name: sim-openai}, {name: sim-anthropic}, {name: sim-dashscope}, {name: actor}]}]"))
	for name, spec := range policies {
		o.Documents = append(o.Documents, harness.Consumer(name, talker(name), "tenant: "+name), sessionPolicy(name, spec))
	}
	return o
}

func (x *talks) sound(t *testing.T) {
	t.Helper()
	if problems := x.Status().Problems; len(problems) > 0 {
		t.Fatalf("problems: %q", problems)
	}
}

// say speaks to a model as a consumer in a session, in the dialect of OpenAI.
func (x *talks) say(t *testing.T, consumer, id, model, text string, headers ...string) answer {
	t.Helper()
	headers = append([]string{"authorization", "Bearer " + talker(consumer), "x-weir-session", id}, headers...)
	return do(t, http.DefaultClient, request(t, x.Gateway, "POST", "/v1/chat/completions", "openai", chatBody(model, text, false), headers...))
}

// must speaks and fails the test unless the session stands as it should.
func (x *talks) must(t *testing.T, consumer, id, model, text, state string, headers ...string) answer {
	t.Helper()
	a := x.say(t, consumer, id, model, text, headers...)
	if got := a.header.Get("x-weir-session-state"); a.status != http.StatusOK || got != state {
		t.Fatalf("%q in the session %s of %s: %d, the session is %q, want %q: %s", text, id, consumer, a.status, got, state, a.body)
	}
	return a
}

// sessionPath is an address of the API of a consumer's session, which is in the tenant of that name.
func sessionPath(consumer, id, rest string) string {
	q := url.Values{"tenant": {consumer}, "consumer": {"default/" + consumer}}
	return "/api/sessions/" + url.PathEscape(id) + rest + "?" + q.Encode()
}

// admin asks the admin address.
func (x *talks) admin(t *testing.T, method, path, body string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, x.AdminURL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("content-type", "application/json")
	}
	return do(t, http.DefaultClient, req)
}

// show is a session as the API shows it; nil where there is none.
func (x *talks) show(t *testing.T, consumer, id string) *session.View {
	t.Helper()
	a := x.admin(t, "GET", sessionPath(consumer, id, ""), "")
	if a.status == http.StatusNotFound {
		return nil
	}
	var v session.View
	if err := json.Unmarshal([]byte(a.body), &v); err != nil || a.status != http.StatusOK {
		t.Fatalf("the session %s of %s: %d %v: %s", id, consumer, a.status, err, a.body)
	}
	return &v
}

// kept is all that is kept of a session.
func (x *talks) kept(t *testing.T, consumer, id string) *session.Session {
	t.Helper()
	a := x.admin(t, "GET", sessionPath(consumer, id, "/export"), "")
	var s session.Session
	if err := json.Unmarshal([]byte(a.body), &s); err != nil || a.status != http.StatusOK {
		t.Fatalf("the session %s of %s: %d %v: %s", id, consumer, a.status, err, a.body)
	}
	return &s
}

// transcript is what a body says, in any dialect: one message a line, without system prompts.
func transcript(t *testing.T, body string) string {
	t.Helper()
	type message struct {
		Role    string
		Content any
		Calls   []struct{ Function struct{ Name string } } `json:"tool_calls"`
	}
	var said struct {
		Messages []message
		Input    struct{ Messages []message }
	}
	if err := json.Unmarshal([]byte(body), &said); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	var out []string
	for _, m := range append(said.Messages, said.Input.Messages...) {
		if m.Role == "system" {
			continue
		}
		parts := textsIn(m.Content)
		for _, c := range m.Calls {
			parts = append(parts, "("+c.Function.Name+")")
		}
		out = append(out, m.Role+": "+strings.Join(parts, " "))
	}
	return strings.Join(out, "\n")
}

// meanwhile sends a request while the test goes on. Where there is no whole answer, the status is 0 and the body says why.
func meanwhile(req *http.Request) <-chan answer {
	out := make(chan answer, 1)
	go func() {
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			out <- answer{body: err.Error()}
			return
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			out <- answer{header: resp.Header, body: err.Error()}
			return
		}
		out <- answer{resp.StatusCode, resp.Header, string(body)}
	}()
	return out
}

// talk is a request of a consumer in a session.
func (x *talks) talk(t *testing.T, consumer, id, body string) *http.Request {
	t.Helper()
	return request(t, x.Gateway, "POST", "/v1/chat/completions", "openai", body, "authorization", "Bearer "+talker(consumer), "x-weir-session", id)
}

// hold has the actor say something when it is released, to a request that has arrived there.
func (x *talks) hold(t *testing.T, says speech, req *http.Request) (release func() answer) {
	t.Helper()
	says.until = make(chan struct{})
	x.actor.will("actor", says)
	before := len(x.actor.told("actor"))
	ended := meanwhile(req)
	x.WaitFor("the question", func() bool { return len(x.actor.told("actor")) > before })
	return func() answer {
		close(says.until)
		return <-ended
	}
}
