package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	anthropicoption "github.com/anthropics/anthropic-sdk-go/v2/option"
	openaioption "github.com/openai/openai-go/v3/option"

	"github.com/weir-dev/weir/test/e2e/harness"
	"github.com/weir-dev/weir/test/sim"
)

// TestSessions: conversations that a gateway keeps in its memory.
func TestSessions(t *testing.T) {
	t.Parallel()
	x := startTalks(t, map[string]string{
		"ann":    "",
		"bob":    "",
		"long":   "history: {turns: 1}\nsummary: {model: cheap, afterTokens: 100, keepTurns: 1}\n",
		"both":   "",
		"narrow": "keep: {turns: 3, bytes: 16Ki}\n",
		"idle":   "keep: {idleTimeout: 1s}\n",
		"old":    "keep: {idleTimeout: 2s, absoluteTimeout: 2s}\n",
		"team":   "scope: Tenant\nheaders: [x-chat, x-other]\nsticky: false\n",
	}, harness.Options{Documents: []string{harness.Consumer("mate", talker("mate"), "tenant: team"),
		harness.Document("SessionPolicy", "mate", "targetRefs: [{kind: Consumer, name: mate}]\nscope: Tenant\nheaders: [x-chat]\n"),
		harness.Document("CachePolicy", "both", "targetRefs: [{kind: Consumer, name: both}]\n")}})
	for _, c := range []struct {
		name string
		run  func(*testing.T, *talks)
	}{
		{"five turns", testFiveTurns}, {"tools", testSessionTools}, {"own history", testOwnHistory}, {"apart", testApart}, {"erased", testErased},
		{"summary", testSummary}, {"size", testSize}, {"names", testNames}, {"not wanted", testNoSession}, {"failures", testTurnFails},
		{"cached", testCachedTurns}, {"explain", testSessionExplained},
		{"time-outs", testSessionEnds},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, x) })
	}
}

// states keeps what answers say of their session.
type states struct {
	mu   sync.Mutex
	last string
}

func (s *states) note(r *http.Response) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last = ""; r != nil {
		s.last = r.Header.Get("x-weir-session-state")
	}
}

func (s *states) get() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

// inSession are the SDKs of a consumer that name a session in each request.
func (x *talks) inSession(consumer, id string) (openAI, anthropic caller, s *states) {
	s = &states{}
	one := newOpenAI(x.URL, talker(consumer), openaioption.WithHeader("x-weir-session", id),
		openaioption.WithMiddleware(func(r *http.Request, next openaioption.MiddlewareNext) (*http.Response, error) {
			resp, err := next(r)
			s.note(resp)
			return resp, err
		}))
	other := newAnthropic(x.URL, talker(consumer), anthropicoption.WithHeader("x-weir-session", id),
		anthropicoption.WithMiddleware(func(r *http.Request, next anthropicoption.MiddlewareNext) (*http.Response, error) {
			resp, err := next(r)
			s.note(resp)
			return resp, err
		}))
	return one, other, s
}

// at is the provider of a model.
func (x *talks) at(t *testing.T, model string) *harness.Sim {
	t.Helper()
	for _, p := range x.providers {
		if slices.Contains(p.sim.Models(), model) {
			return p.sim
		}
	}
	t.Fatalf("nobody serves %s", model)
	return nil
}

// testFiveTurns: five turns by OpenAI's SDK, each with another provider than the one before, plain and as streams; then Anthropic's SDK goes
// on with it. Every provider gets the three turns before its own.
func testFiveTurns(t *testing.T, x *talks) {
	openAI, anthropic, state := x.inSession("ann", "trip")
	var all []string
	for i, c := range []struct {
		by     caller
		model  string
		stream bool
	}{
		{openAI, "gpt-4o", false}, {openAI, "claude-sonnet-4-5", false}, {openAI, "qwen-plus", false}, {openAI, "gpt-4o", true}, {openAI, "claude-sonnet-4-5", true},
		{anthropic, "qwen-plus", true}, {anthropic, "gpt-4o", false}, {anthropic, "claude-sonnet-4-5", true}, {openAI, "qwen-plus", true},
	} {
		text := fmt.Sprintf("This is question %d of all, in 12 words.", i)
		r := mustAsk(t, c.by, ask{model: c.model, system: "Be kind.", turns: user(text), stream: c.stream})
		if want := map[bool]string{true: "new", false: "ok"}[i == 0]; state.get() != want {
			t.Errorf("turn %d: the session is %q, want %q", i, state.get(), want)
		}
		last := x.at(t, c.model).Last()
		want := strings.Join(append(slices.Clone(all[max(0, len(all)-6):]), "user: "+text), "\n")
		if got := transcript(t, last.Body); got != want {
			t.Errorf("in turn %d %s heard\n%s\nwant\n%s", i, c.model, got, want)
		}
		if n := strings.Count(last.Body, "Be kind."); n != 1 {
			t.Errorf("turn %d: the system prompt is there %d times: %s", i, n, last.Body)
		}
		checkUsage(t, sdkCase{c.by, provider{sim: x.at(t, c.model)}, c.stream}, r)
		all = append(all, "user: "+text, "assistant: "+r.text)
	}
	if v := x.show(t, "ann", "trip"); v == nil || v.Turns != 9 || v.Policy != "default/ann" {
		t.Errorf("the session is %+v", v)
	}
	for _, p := range x.providers {
		for _, r := range p.sim.Requests() {
			for name := range r.Header {
				if strings.HasPrefix(name, "X-Weir-") {
					t.Errorf("%s got the header %s", p.name, name)
				}
			}
		}
	}
}

// testSessionTools: a call of one provider's model is answered in the next request, to another provider, by nothing but its result.
func testSessionTools(t *testing.T, x *talks) {
	models := []string{"gpt-4o", "claude-sonnet-4-5", "qwen-plus"}
	for i, from := range models {
		to := models[(i+1)%len(models)]
		for _, stream := range []bool{false, true} {
			id := fmt.Sprintf("tools-%d-%v", i, stream)
			openAI, anthropic, _ := x.inSession("ann", id)
			asks, tells := openAI, anthropic
			if stream {
				asks, tells = anthropic, openAI
			}
			tools := []string{"weather"}
			one := mustAsk(t, asks, ask{model: from, turns: user("Please call the tool."), tools: tools, stream: stream})
			if len(one.calls) != 1 {
				t.Fatalf("%s: %+v", from, one)
			}
			two := mustAsk(t, tells, ask{model: to, turns: []turn{{role: "tool", results: []result{{one.calls[0].id, "snow in Ulm"}}}}, tools: tools, stream: stream})
			if !strings.Contains(two.text, "snow in Ulm") {
				t.Errorf("%s to %s: the answer is %q", from, to, two.text)
			}
			// A question later both are still there, in the dialect of a third.
			mustAsk(t, asks, ask{model: models[(i+2)%len(models)], turns: user("And tomorrow?"), tools: tools, stream: stream})
			body := x.at(t, models[(i+2)%len(models)]).Last().Body
			for _, part := range []string{"Please call the tool.", `"weather"`, one.calls[0].id, "snow in Ulm", "And tomorrow?"} {
				if !strings.Contains(body, part) {
					t.Errorf("%s to %s: the third did not hear %s: %s", from, to, part, body)
				}
			}
			if v := x.show(t, "ann", id); v == nil || v.Turns != 2 {
				t.Errorf("%s to %s: the session is %+v", from, to, v)
			}
		}
	}
}

// testOwnHistory: a caller that sends its history itself does not get it twice.
func testOwnHistory(t *testing.T, x *talks) {
	openAI, anthropic, _ := x.inSession("ann", "own")
	q := ask{model: "gpt-4o", turns: user("First.")}
	for i, by := range []caller{openAI, anthropic, openAI} {
		q.stream = i == 1
		r := mustAsk(t, by, q)
		body := x.at(t, "gpt-4o").Last().Body
		for _, m := range q.turns {
			if n := strings.Count(transcript(t, body), m.role+": "+m.text); n != 1 {
				t.Errorf("turn %d: %q is there %d times: %s", i, m.text, n, body)
			}
		}
		q.turns = append(q.turns, turn{role: "assistant", text: r.text}, turn{role: "user", text: fmt.Sprintf("Then %d.", i)})
	}
	if v := x.show(t, "ann", "own"); v == nil || v.Turns != 3 {
		t.Errorf("the session is %+v", v)
	}
}

// testApart: sessions of the same name are apart by tenant and consumer, unless the policy says they are the tenant's.
func testApart(t *testing.T, x *talks) {
	x.must(t, "ann", "same", "actor", "The secret is plum.", "new")
	x.must(t, "bob", "same", "actor", "What is the secret?", "new")
	if got := transcript(t, x.actor.last(t, "actor")); got != "user: What is the secret?" {
		t.Errorf("bob's provider heard\n%s", got)
	}
	if a := x.admin(t, "GET", strings.Replace(sessionPath("ann", "same", "/export"), "tenant=ann", "tenant=bob", 1), ""); a.status != http.StatusNotFound {
		t.Errorf("ann's session under bob's tenant: %d %s", a.status, a.body)
	}
	chat := []string{"x-weir-session", "", "x-chat", "same"}
	x.must(t, "team", "", "actor", "The secret is fig.", "new", chat...)
	x.must(t, "mate", "", "actor", "What is our secret?", "ok", chat...)
	if got, want := transcript(t, x.actor.last(t, "actor")), "user: The secret is fig.\nassistant: Yes.\nuser: What is our secret?"; got != want {
		t.Errorf("the team's provider heard\n%s", got)
	}
}

// testErased: what is exported is all there is, what was erased begins anew, and a request that is under way does not bring it back.
func testErased(t *testing.T, x *talks) {
	x.must(t, "ann", "gone/1", "actor", "I live in Ulm.", "new")
	if s := x.kept(t, "ann", "gone/1"); len(s.Turns) != 1 || s.Turns[0].Input[0].Parts[0].Text != "I live in Ulm." || s.Turns[0].Output[0].Parts[0].Text != "Yes." {
		t.Errorf("the export is %+v", s)
	}
	if a := x.admin(t, "GET", "/api/session-export?tenant=ann&consumer=default%2Fann", ""); a.status != 200 || !strings.Contains(a.body, "I live in Ulm.") || strings.Count(a.body, "\n") < 2 {
		t.Errorf("the export of all: %d %s", a.status, a.body)
	}
	if a := x.admin(t, "GET", "/api/sessions?tenant=ann", ""); a.status != 200 || strings.Contains(a.body, "Ulm") || !strings.Contains(a.body, `"gone/1"`) {
		t.Errorf("the list: %d %s", a.status, a.body)
	}
	release := x.hold(t, speech{text: "In Ulm."}, x.talk(t, "ann", "gone/1", chatBody("actor", "Where do I live?", true)))
	if a := x.admin(t, "DELETE", sessionPath("ann", "gone/1", ""), ""); a.status != 200 || !strings.Contains(a.body, `"erased": 1`) {
		t.Errorf("erasing: %d %s", a.status, a.body)
	}
	if a := release(); a.status != 200 || !strings.Contains(a.body, "In Ulm.") {
		t.Errorf("the answer that was under way: %d %s", a.status, a.body)
	}
	if v := x.show(t, "ann", "gone/1"); v != nil {
		t.Errorf("it came back: %+v", v)
	}
	x.must(t, "ann", "gone/1", "actor", "Where do I live?", "new")
	if got := transcript(t, x.actor.last(t, "actor")); got != "user: Where do I live?" {
		t.Errorf("the provider heard\n%s", got)
	}
	if a := x.admin(t, "DELETE", "/api/sessions?tenant=bob&consumer=default%2Fbob", ""); a.status != 200 {
		t.Errorf("erasing all of bob: %d %s", a.status, a.body)
	}
	if v := x.show(t, "bob", "same"); v != nil {
		t.Errorf("bob still has %+v", v)
	}
}

// testSummary: the turns that are not added any more are summed up by another model, in the name and at the cost of the caller.
func testSummary(t *testing.T, x *talks) {
	x.actor.will("cheap", speech{text: "Ann wants a blue boat."})
	x.actor.will("actor", speech{text: strings.Repeat("A boat is a fine thing. ", 30)}, speech{text: "Short."})
	x.must(t, "long", "s", "actor", "I want a blue boat.", "new")
	x.must(t, "long", "s", "actor", "How much is it?", "ok")
	x.WaitFor("the summary", func() bool { return x.kept(t, "long", "s").Summary != nil })
	s := x.kept(t, "long", "s")
	if s.Summary.Text != "Ann wants a blue boat." || s.Summary.Turns != 1 || len(s.Turns) != 1 || s.Forgotten != 1 {
		t.Errorf("the session is %+v with %+v", s, s.Summary)
	}
	if body := x.actor.last(t, "cheap"); !strings.Contains(body, "I want a blue boat.") || strings.Contains(body, "How much is it?") {
		t.Errorf("the model was asked to sum up %s", body)
	}
	x.must(t, "long", "s", "actor", "And red?", "ok")
	body := x.actor.last(t, "actor")
	if got, want := transcript(t, body), "user: How much is it?\nassistant: Short.\nuser: And red?"; got != want {
		t.Errorf("the provider heard\n%s\nwant\n%s", got, want)
	}
	if at := strings.Index(body, "Ann wants a blue boat."); at < 0 || at > strings.Index(body, "How much is it?") {
		t.Errorf("the summary is not before the turns: %s", body)
	}
	x.WaitFor("the entry", func() bool {
		for _, e := range x.Ledger() {
			if e.Purpose == "summary" {
				if e.Consumer != "long" || e.Tenant != "long" || e.Model != "cheap" || e.Backend != "default/actor" || e.Cost == 0 || e.Tokens.Total() != 20 || e.Status != 200 {
					t.Fatalf("the entry is %+v", e)
				}
				return true
			}
		}
		return false
	})
}

// testSize: a session has no more turns and bytes than its policy lets it have; the oldest turns go.
func testSize(t *testing.T, x *talks) {
	for i := range 5 {
		x.must(t, "narrow", "few", "actor", fmt.Sprintf("Short %d.", i), map[bool]string{true: "new", false: "ok"}[i == 0])
	}
	if v := x.show(t, "narrow", "few"); v == nil || v.Turns != 3 || v.Forgotten != 2 {
		t.Errorf("the session is %+v", v)
	}
	if got := transcript(t, x.actor.last(t, "actor")); strings.Contains(got, "Short 0.") || !strings.HasPrefix(got, "user: Short 1.") {
		t.Errorf("the provider heard\n%s", got)
	}
	for i := range 3 {
		x.must(t, "narrow", "fat", "actor", fmt.Sprintf("Large %d. %s", i, strings.Repeat("word ", 2000)), map[bool]string{true: "new", false: "ok"}[i == 0])
	}
	if v := x.show(t, "narrow", "fat"); v == nil || v.Turns != 1 || v.Forgotten != 2 {
		t.Errorf("the session is %+v", v)
	}
}

// testNames: a name that is none is refused in the caller's dialect.
func testNames(t *testing.T, x *talks) {
	for _, name := range []string{"two words", "ünï", strings.Repeat("x", 257)} {
		for _, dialect := range []string{"openai", "anthropic"} {
			before := len(x.actor.told("actor"))
			a := do(t, http.DefaultClient, request(t, x.Gateway, "POST", chatPath(dialect), dialect, chatBody("actor", "Hello", false),
				"authorization", "Bearer "+talker("ann"), "x-weir-session", name))
			if m := checkError(t, dialect, a, 400); !strings.Contains(m, "x-weir-session") {
				t.Errorf("%q: %s", name, m)
			}
			if len(x.actor.told("actor")) != before {
				t.Errorf("%q: the provider was asked", name)
			}
		}
	}
	x.must(t, "ann", strings.Repeat("x", 256), "actor", "Hello", "new")
}

// testNoSession: who names no session, or has no policy, goes the way that it always went.
func testNoSession(t *testing.T, x *talks) {
	fills := x.Metric("weir_relay_fills_total", "purpose", "answer")
	for _, key := range []string{talker("ann"), x.Key} {
		headers := []string{"authorization", "Bearer " + key}
		if key == x.Key { // nobody keeps its conversations
			headers = append(headers, "x-weir-session", "trip")
		}
		a := do(t, http.DefaultClient, request(t, x.Gateway, "POST", "/v1/chat/completions", "openai", chatBody("gpt-4o", "Hello", false), headers...))
		last := x.at(t, "gpt-4o").Last()
		if a.status != 200 || a.header.Get("x-weir-session-state") != "" || last.Body != chatBody("gpt-4o", "Hello", false) {
			t.Errorf("%d %v, the provider got %s", a.status, a.header, last.Body)
		}
		if last.Header.Get("X-Weir-Session") != "" {
			t.Error("the provider was told of the session")
		}
	}
	if got := x.Metric("weir_relay_fills_total", "purpose", "answer"); got != fills {
		t.Errorf("%v of the requests went through the relay", got-fills)
	}
}

// testTurnFails: what got no whole answer is not kept, and its answer says how the session stands all the same.
func testTurnFails(t *testing.T, x *talks) {
	x.must(t, "ann", "broken", "gpt-4o", "The first.", "new")
	s := x.at(t, "gpt-4o")
	for _, rule := range []sim.Rule{{Kind: sim.Status, Status: 500, Next: 1}, {Kind: sim.Disconnect, AfterEvents: 3, Next: 1}, {Kind: sim.StreamError, AfterEvents: 3, Next: 1}} {
		s.Configure(sim.Faults{Rules: []sim.Rule{rule}})
		resp, err := http.DefaultClient.Do(x.talk(t, "ann", "broken", chatBody("gpt-4o", "It breaks.", true)))
		must(t, err)
		text, _ := io.ReadAll(resp.Body) // it breaks, one way or the other
		resp.Body.Close()
		if strings.Contains(string(text), "[DONE]") {
			t.Errorf("%s: the stream ended as if it were whole", rule.Kind)
		}
		if got := resp.Header.Get("x-weir-session-state"); got != "ok" {
			t.Errorf("%s: the session is %q", rule.Kind, got)
		}
	}
	s.Configure(sim.Faults{})
	// A caller that leaves in the middle.
	s.Configure(sim.Faults{IntervalMin: sim.Duration(20e6), IntervalMax: sim.Duration(20e6)})
	ctx, cancel := context.WithCancel(t.Context())
	resp, err := http.DefaultClient.Do(x.talk(t, "ann", "broken", chatBody("gpt-4o", "He leaves, 200 words.", true)).WithContext(ctx))
	must(t, err)
	_, err = resp.Body.Read(make([]byte, 16))
	must(t, err)
	cancel()
	resp.Body.Close()
	s.Ended()
	s.Configure(sim.Faults{})
	first := x.kept(t, "ann", "broken").Turns[0].Output[0].Parts[0].Text
	x.must(t, "ann", "broken", "gpt-4o", "The last.", "ok")
	if got, want := transcript(t, s.Last().Body), "user: The first.\nassistant: "+first+"\nuser: The last."; got != want {
		t.Errorf("the provider heard\n%s\nwant\n%s", got, want)
	}
}

// testSessionEnds: what nobody uses is forgotten, and what is used all the time as well, later.
func testSessionEnds(t *testing.T, x *talks) {
	x.must(t, "old", "s", "actor", "Hello.", "new")
	x.must(t, "idle", "s", "actor", "My name is Ida.", "new")
	x.WaitFor("the end of a session that is used", func() bool {
		return x.say(t, "old", "s", "actor", "And again.").header.Get("x-weir-session-state") == "new"
	})
	x.WaitFor("the end of an idle session", func() bool { return x.show(t, "idle", "s") == nil })
	x.must(t, "idle", "s", "actor", "What is my name?", "new")
	if got := transcript(t, x.actor.last(t, "actor")); got != "user: What is my name?" {
		t.Errorf("the provider heard\n%s", got)
	}
}

// testCachedTurns: an answer from the cache is a turn as any other, and the history is part of what is looked for.
func testCachedTurns(t *testing.T, x *talks) {
	say := func(id, text, cache string, stream bool) {
		t.Helper()
		body := strings.TrimSuffix(chatBody("actor", text, stream), "}") + `,"temperature":0}`
		a := do(t, http.DefaultClient, x.talk(t, "both", id, body))
		if a.status != 200 || a.header.Get("x-weir-cache") != cache || a.header.Get("x-weir-session-state") == "" {
			t.Fatalf("%s %q: %d, the cache says %q, want %q; %v", id, text, a.status, a.header.Get("x-weir-cache"), cache, a.header)
		}
	}
	x.actor.will("actor", speech{text: "The first answer."}, speech{text: "The second answer."}, speech{text: "Another one."})
	say("one", "The first question.", "miss", false)
	say("one", "The second question.", "miss", true)
	say("two", "The first question.", "hit", true)
	say("two", "The second question.", "hit", false)
	if got := x.kept(t, "both", "two"); len(got.Turns) != 2 || got.Turns[1].Output[0].Parts[0].Text != "The second answer." {
		t.Errorf("the session is %+v", got)
	}
	say("three", "The second question.", "miss", false) // without the first
	say("two", "The third question.", "miss", false)
	want := "user: The first question.\nassistant: The first answer.\nuser: The second question.\nassistant: The second answer.\nuser: The third question."
	if got := transcript(t, x.actor.last(t, "actor")); got != want {
		t.Errorf("the provider heard\n%s\nwant\n%s", got, want)
	}
	req := x.talk(t, "both", "two", chatBody("actor", "x", false))
	req.Header.Set("x-weir-cache-control", "only-if-cached")
	if a := do(t, http.DefaultClient, req); a.status != 504 || a.header.Get("x-weir-session-state") != "ok" {
		t.Errorf("what is not kept: %d %v", a.status, a.header)
	}
}

// testSessionExplained: that a session would be looked up can be known beforehand, and asking changes nothing.
func testSessionExplained(t *testing.T, x *talks) {
	told := &explained{&limited{Gateway: x.Gateway}}
	for _, c := range []struct {
		consumer, id string
		relayed      bool
		why          string
	}{
		{"bob", "s", true, "the SessionPolicy default/bob covers it"}, {"bob", "", false, "the SessionPolicy default/bob covers it, but it names no session"},
	} {
		got := told.explain(t, request(t, x.Gateway, "POST", "/v1/chat/completions", "openai", chatBody("gpt-4o", "Hello", false),
			"authorization", "Bearer "+talker(c.consumer), "x-weir-session", c.id)).Relay
		if got == nil || got.SessionPolicy != "default/"+c.consumer || got.Relayed != c.relayed || got.Why != c.why {
			t.Errorf("session %q: %+v, want %v: %s", c.id, got, c.relayed, c.why)
		}
	}
	if v := x.show(t, "bob", "s"); v != nil {
		t.Errorf("explaining made the session %+v", v)
	}
}
