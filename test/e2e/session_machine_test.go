package e2e

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/responses"

	"github.com/weir-dev/weir/extproc/session"
	"github.com/weir-dev/weir/test/e2e/harness"
)

// shopMachine is a table with guards, time-outs, instructions and events of its own.
const shopMachine = `
rules:
  - {name: amount, slot: amount, pattern: '(\d+) euros'}
stateMachine:
  initial: choosing
  states:
    - {name: choosing}
    - {name: paying, timeout: 1s, onTimeout: forgotten, onEnter: [invoice], instructions: 'The customer pays {{amount}} euros.'}
    - {name: forgotten, timeout: 1s, onTimeout: choosing}
    - {name: sold}
  events:
    - {name: checkout, pattern: '(?i)check ?out'}
    - {name: paid, from: Assistant, expression: 'text.contains("received")'}
  transitions:
    - {from: [choosing], event: checkout, to: paying, guard: '"amount" in slots && int(slots.amount) > 0'}
    - {from: [paying], event: paid, to: sold}
    - {from: [paying, sold], event: deny, to: choosing}
`

// TestSessionMachines: states that requests move, and what is found in what is said.
func TestSessionMachines(t *testing.T) {
	t.Parallel()
	x := startTalks(t, map[string]string{
		"plain": "stateMachine: {}\n",
		"shop":  shopMachine,
		"api":   shopMachine,
		"notes": `
rules:
  - {name: order, pattern: '(?i)order #?(?P<order>\d+)'}
  - {name: refund, intent: refund, expression: 'text.contains("money back")'}
  - {name: mail, entity: mail, pattern: '[^\s@]+@[^\s@]+'}
  - {name: urgent, slot: urgent, expression: '"order" in slots && text.endsWith("!")'}
  - {name: eta, from: Assistant, slot: days, pattern: 'in (?P<value>\d+) days'}
`,
		"asked":  "extraction: {model: cheap, slots: [{name: city}, {name: size, values: [S, M, L]}, {name: guests, type: integer}], intents: [{name: buy}]}\n",
		"before": "extraction: {model: cheap, when: Before, slots: [{name: city}]}\nstateMachine: {initial: start, states: [{name: start}, {name: going, instructions: 'They go to {{city}}.'}], transitions: [{event: user_message, to: going, guard: '\"city\" in slots'}]}\n",
	}, harness.Options{})
	for _, c := range []struct {
		name string
		run  func(*testing.T, *talks)
	}{
		{"built-in", testBuiltInStates}, {"aborted", testAborted}, {"table", testStateTable}, {"api", testStateAPI}, {"rules", testSessionRules}, {"extraction", testExtraction},
		{"extraction before", testExtractionBefore}, {"responses", testStatesOfResponses},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, x) })
	}
}

// moves are the events of a session, as "event from>to".
func moves(v *session.View) (out []string) {
	for _, e := range v.Events {
		out = append(out, e.Name+" "+e.From+">"+e.To)
	}
	return out
}

// step is one request that moves a state.
type step struct {
	user   string
	says   speech
	during string // the state while the model thinks
	after  string // and when it has answered
}

// walk takes the steps, and looks at the state in between.
func (x *talks) walk(t *testing.T, consumer, id string, steps []step) {
	t.Helper()
	for i, s := range steps {
		release := x.hold(t, s.says, x.talk(t, consumer, id, s.body(i%2 == 1)))
		state := ""
		if v := x.show(t, consumer, id); v != nil {
			state = v.State
		}
		if state != s.during {
			t.Errorf("step %d, %q: while the model thinks the state is %q, want %q", i, s.user, state, s.during)
		}
		want := http.StatusOK
		if s.says.status > 0 {
			want = s.says.status
		}
		if a := release(); a.status != want {
			t.Fatalf("step %d: status %d, want %d: %s", i, a.status, want, a.body)
		}
		is := func() bool {
			v := x.show(t, consumer, id)
			return v != nil && v.State == s.after
		}
		if s.says.status > 0 { // that may be noted after the caller knows
			x.WaitFor("the state "+s.after, is)
		}
		if !is() {
			t.Fatalf("step %d: after %q the session is %+v, want the state %s", i, s.says.text, x.show(t, consumer, id), s.after)
		}
	}
}

// body is what is sent: a question, or the result of the last call.
func (s *step) body(stream bool) string {
	if id, ok := strings.CutPrefix(s.user, "result of "); ok {
		return fmt.Sprintf(`{"model":"actor","stream":%v,"messages":[{"role":"tool","tool_call_id":"call_%s","content":"done"}]}`, stream, id)
	}
	return chatBody("actor", s.user, stream)
}

// testBuiltInStates walks through every state of the built-in machine, by most of its events.
func testBuiltInStates(t *testing.T, x *talks) {
	const (
		idle       = "idle"
		confirming = "awaiting_confirmation"
		adjusting  = "adjusting"
		asking     = "asking_again"
		executing  = "executing"
		reporting  = "reporting"
	)
	x.walk(t, "plain", "s", []step{
		{"Hello.", speech{text: "Welcome."}, "", idle},
		{"A table for tonight.", speech{text: "At eight, for four. Shall I book it?"}, idle, confirming},
		{"It rains outside.", speech{text: "For how many is it?"}, asking, asking},
		{"Five.", speech{text: "At eight, for five. Shall I book it?"}, adjusting, confirming},
		{"At nine instead.", speech{text: "At nine, for five. Shall I book it?"}, adjusting, confirming},
		{"No.", speech{text: "Nothing is booked."}, adjusting, reporting},
		{"Change it to six people.", speech{text: "At nine, for six. Do you confirm?"}, adjusting, confirming},
		{"Yes, please.", speech{call: "book", arguments: `{"n":6}`}, executing, executing},
		{"result of book", speech{text: "The table is yours."}, executing, reporting},
		{"Thanks.", speech{text: "Shall I call a taxi?"}, reporting, confirming},
		{"Go ahead.", speech{status: 500}, executing, asking},
		{"A taxi at eight.", speech{text: "It comes."}, adjusting, reporting},
	})
	v := x.show(t, "plain", "s")
	if v.Turns != 10 {
		t.Errorf("%d turns are kept, want 10", v.Turns)
	}
	if !slices.Contains(moves(v), "failed executing>asking_again") || !slices.Contains(moves(v), "tool_result executing>executing") {
		t.Errorf("the events are %v", moves(v))
	}
	if got := x.Metric("weir_session_events_total", "policy", "default/plain", "event", "confirm", "state", executing); got != 2 {
		t.Errorf("%v confirmations were counted", got)
	}
}

// testAborted: a caller who leaves while the model answers is told from a request that has failed.
func testAborted(t *testing.T, x *talks) {
	for i, stream := range []bool{false, true} {
		id := fmt.Sprint("left", i)
		x.walk(t, "plain", id, []step{{"A table for two.", speech{text: "Shall I book it?"}, "", "awaiting_confirmation"}})
		ctx, cancel := context.WithCancel(t.Context())
		release := x.hold(t, speech{text: "Nobody hears that."}, x.talk(t, "plain", id, chatBody("actor", "Yes.", stream)).WithContext(ctx))
		cancel()
		x.WaitFor("the state adjusting", func() bool { return x.show(t, "plain", id).State == "adjusting" })
		if a := release(); a.status != 0 {
			t.Errorf("who left got %d: %s", a.status, a.body)
		}
		if got := moves(x.show(t, "plain", id)); got[len(got)-1] != "aborted executing>adjusting" {
			t.Errorf("the events are %v", got)
		}
		x.walk(t, "plain", id, []step{{"For three.", speech{text: "It is booked."}, "adjusting", "reporting"}})
	}
}

// testStateTable: guards, instructions with slots, events of one's own, and time-outs that happen while nobody speaks.
func testStateTable(t *testing.T, x *talks) {
	x.walk(t, "shop", "s", []step{
		{"Check out, please.", speech{text: "What?"}, "", "choosing"}, // there is nothing to pay
		{"It is 0 euros. Check out.", speech{text: "No."}, "choosing", "choosing"},
	})
	x.actor.will("actor", speech{text: "How do you pay?"})
	x.must(t, "shop", "s", "actor", "It is 12 euros. Check out.", "ok")
	if body := x.actor.last(t, "actor"); !strings.Contains(body, "The customer pays 12 euros.") {
		t.Errorf("the model was not told: %s", body)
	}
	// paying is left after a second, and forgotten after another, by the process itself.
	x.WaitFor("the time-outs", func() bool { return x.show(t, "shop", "s").State == "choosing" })
	got := moves(x.show(t, "shop", "s"))
	if want := []string{"checkout choosing>paying", "invoice paying>paying", "timeout paying>forgotten", "timeout forgotten>choosing"}; !slices.Equal(got, want) {
		t.Errorf("the events are %v, want %v", got, want)
	}
	// Where everything is done in time, nothing times out: sold has no end.
	x.actor.will("actor", speech{text: "Pay here: we have received nothing yet."})
	x.must(t, "shop", "sold", "actor", "It is 5 euros. Check out.", "new")
	if v := x.show(t, "shop", "sold"); v.State != "sold" {
		t.Errorf("the state is %s after %v", v.State, moves(v))
	}
	if a := x.say(t, "shop", "sold", "actor", "No."); a.status != 200 || x.show(t, "shop", "sold").State != "choosing" {
		t.Errorf("%d, the state is %s", a.status, x.show(t, "shop", "sold").State)
	}
}

// testStateAPI: slots and states that the API sets are those of the next request; who was slower is told.
func testStateAPI(t *testing.T, x *talks) {
	x.must(t, "api", "s", "actor", "Hello.", "new")
	one := x.admin(t, "GET", sessionPath("api", "s", "/slots"), "")
	if a := x.admin(t, "PATCH", sessionPath("api", "s", "/slots"), `{"amount":"30","note":{"a":1}}`); a.status != 200 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	x.actor.will("actor", speech{text: "How?"})
	x.must(t, "api", "s", "actor", "Check out.", "ok")
	if body := x.actor.last(t, "actor"); !strings.Contains(body, "The customer pays 30 euros.") {
		t.Errorf("the model was not told: %s", body)
	}
	if a := x.admin(t, "PUT", sessionPath("api", "s", "/state"), `{"state":"sold"}`); a.status != 200 || x.show(t, "api", "s").State != "sold" {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := x.admin(t, "PUT", sessionPath("api", "s", "/state"), `{"state":"dancing"}`); a.status != http.StatusUnprocessableEntity {
		t.Errorf("a state that is none: %d %s", a.status, a.body)
	}
	req, err := http.NewRequestWithContext(t.Context(), "PUT", x.AdminURL+sessionPath("api", "s", "/slots"), strings.NewReader(`{}`))
	must(t, err)
	req.Header.Set("if-match", one.header.Get("etag"))
	if a := do(t, http.DefaultClient, req); a.status != http.StatusPreconditionFailed {
		t.Errorf("an old revision: %d %s", a.status, a.body)
	}
	if v := x.show(t, "api", "s"); string(v.Slots["amount"].Value) != `"30"` || v.Slots["amount"].Source != session.FromAPI || len(v.Slots) != 2 {
		t.Errorf("the slots are %+v", v.Slots)
	}
}

// testSessionRules: slots, entities and intents by patterns and expressions.
func testSessionRules(t *testing.T, x *talks) {
	x.actor.will("actor", speech{text: "It comes in 3 days."})
	x.must(t, "notes", "s", "actor", "Where is order #4711? I am ann@example.com!", "new")
	if v := x.show(t, "notes", "s"); string(v.Slots["urgent"].Value) != "true" {
		t.Errorf("the slots are %+v", v.Slots)
	}
	x.must(t, "notes", "s", "actor", "I want my money back, bob@example.com.", "ok")
	v := x.show(t, "notes", "s")
	for name, want := range map[string]string{"order": `"4711"`, "days": `"3"`, "urgent": `false`} {
		if got := v.Slots[name]; string(got.Value) != want || got.Source != session.FromRule {
			t.Errorf("the slot %s is %s by %s, want %s", name, got.Value, got.Source, want)
		}
	}
	if v.Intent != "refund" || len(v.Entities["mail"]) != 2 {
		t.Errorf("the intent is %q, the entities %v", v.Intent, v.Entities)
	}
}

// testExtraction: a cheap model fills slots by a tool that it must call, after the answer, in the caller's name and at its cost. What was not asked
// for, or is of another type, is not taken.
func testExtraction(t *testing.T, x *talks) {
	x.actor.will("cheap", speech{call: "note", arguments: `{"slots":{"city":"Ulm","size":"XXL","guests":4,"other":"x"},"intent":"buy"}`})
	x.must(t, "asked", "s", "actor", "Four of us go to Ulm.", "new")
	x.WaitFor("the slots", func() bool { return len(x.show(t, "asked", "s").Slots) > 0 })
	v := x.show(t, "asked", "s")
	if string(v.Slots["city"].Value) != `"Ulm"` || string(v.Slots["guests"].Value) != "4" || len(v.Slots) != 2 || v.Intent != "buy" || v.Slots["city"].Source != session.FromModel {
		t.Errorf("the slots are %+v, the intent %q", v.Slots, v.Intent)
	}
	body := x.actor.last(t, "cheap")
	for _, part := range []string{`"tool_choice"`, `"note"`, "Four of us go to Ulm.", "Yes."} {
		if !strings.Contains(body, part) {
			t.Errorf("the model was not told %s: %s", part, body)
		}
	}
	x.WaitFor("the entries", func() bool {
		asked, answered := 0, 0
		for _, e := range x.Ledger() {
			if e.Consumer == "asked" && e.Cost > 0 && e.Tokens.Total() == 20 && e.Status == 200 {
				asked += btoi(e.Purpose == "extraction" && e.Model == "cheap")
				answered += btoi(e.Purpose == "" && e.Model == "actor")
			}
		}
		return asked == 1 && answered == 1
	})
	// A model that fails costs nobody the answer.
	x.actor.will("cheap", speech{status: 500})
	x.must(t, "asked", "s", "actor", "Or Bonn.", "ok")
	x.WaitFor("the failure", func() bool {
		return x.Metric("weir_session_asks_total", "policy", "default/asked", "purpose", "extraction", "outcome", "failed") == 1
	})
}

// testExtractionBefore: what a model finds before the request goes on is there for the guards and the instructions of that very request.
func testExtractionBefore(t *testing.T, x *talks) {
	x.actor.will("cheap", speech{call: "note", arguments: `{"slots":{}}`}, speech{call: "note", arguments: `{"slots":{"city":"Ulm"}}`})
	x.must(t, "before", "s", "actor", "We travel.", "new")
	if body := x.actor.last(t, "actor"); strings.Contains(body, "They go to") {
		t.Errorf("the model was told %s", body)
	}
	x.must(t, "before", "s", "actor", "To Ulm.", "ok")
	if body := x.actor.last(t, "actor"); !strings.Contains(body, "They go to Ulm.") {
		t.Errorf("the model was not told: %s", body)
	}
}

// testStatesOfResponses: a conversation by OpenAI's Responses API has rules and states as any other.
func testStatesOfResponses(t *testing.T, x *talks) {
	client := newOpenAI(x.URL, talker("shop")).client
	ask := func(text, previous string) *responses.Response {
		p := responses.ResponseNewParams{Model: "actor", Input: responses.ResponseNewParamsInputUnion{OfString: openai.String(text)}}
		if previous != "" {
			p.PreviousResponseID = openai.String(previous)
		}
		r, err := client.Responses.New(t.Context(), p)
		must(t, err)
		return r
	}
	one := ask("It is 7 euros.", "")
	x.actor.will("actor", speech{text: "We have received it."})
	two := ask("Check out.", one.ID)
	if body := x.actor.last(t, "actor"); !strings.Contains(body, "The customer pays 7 euros.") || transcript(t, body) != "user: It is 7 euros.\nassistant: Yes.\nuser: Check out." {
		t.Errorf("the model heard %s", body)
	}
	v := x.show(t, "shop", strings.TrimPrefix(two.ID, "resp_")[:32]) // the rest of the ID is the turn
	if v == nil || v.State != "sold" {
		t.Fatalf("the session of %s is %+v: %s", two.ID, v, x.admin(t, "GET", "/api/sessions?tenant=shop", "").body)
	}
}
