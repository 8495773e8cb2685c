package session

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/weir-dev/weir/adapters/canon"
)

func mustPattern(t testing.TB, text string) *regexp.Regexp {
	t.Helper()
	re, err := Pattern(text)
	if err != nil {
		t.Fatal(err)
	}
	return re
}

func mustCompile(t testing.TB, text string) *Expression {
	t.Helper()
	e, err := NewEnv()
	if err != nil {
		t.Fatal(err)
	}
	x, err := e.Compile(text, false)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// TestBuiltinMachine walks through every state and every time-out of the built-in machine.
func TestBuiltinMachine(t *testing.T) {
	stores(t, func(t *testing.T, place Place, change func(*Policy)) {
		p := policyOf(with(t), change)
		r := newRig(t, place, p)
		ctx := context.Background()
		state := func() string { return r.get(p, ana).State }
		// exchange has the user say something, sees which state the request is made in, and has the model answer.
		exchange := func(user, during string, answer *canon.Response, after string) {
			t.Helper()
			body := chat(user)
			if strings.HasPrefix(user, "{") {
				body = user
			}
			turn := r.begin(p, ana, "openai", body)
			if s := r.get(p, ana); s != nil && s.State != during {
				t.Fatalf("after %q the state is %s, not %s", user, s.State, during)
			}
			if answer == nil {
				turn.Abort(ctx, EventFailed)
			} else if err := turn.Commit(ctx, answer); err != nil {
				t.Fatal(err)
			}
			if got := state(); got != after {
				t.Fatalf("after the answer to %q the state is %s, not %s", user, got, after)
			}
		}
		result := `{"model":"gpt","messages":[{"role":"tool","tool_call_id":"c1","content":"done"}]}`
		exchange("Hello", "idle", answered2("Hello."), "idle")
		exchange("Book a table for two", "idle", answered2("For which day?"), "asking_again")
		exchange("Monday", "adjusting", answered2("A table for two on Monday: shall I book it?"), "awaiting_confirmation")
		exchange("Make it Tuesday instead", "adjusting", answered2("Tuesday then. Do you want me to book it?"), "awaiting_confirmation")
		exchange("Hm, what is on the menu", "asking_again", answered2("Fish. Shall I book?"), "awaiting_confirmation")
		exchange("no", "adjusting", answered2("What shall I change?"), "asking_again")
		exchange("nothing", "adjusting", answered2("请确认。"), "awaiting_confirmation")
		exchange("好的", "executing", calling("c1", "book", "{}"), "executing")
		exchange(result, "executing", answered2("It is booked."), "reporting")
		exchange("thanks", "reporting", answered2("You are welcome."), "reporting")
		exchange("change the time", "adjusting", calling("c2", "change", "{}"), "executing")
		exchange("still there?", "executing", nil, "asking_again")

		// A caller who leaves is told from a failure.
		exchange("again", "adjusting", calling("c3", "book", "{}"), "executing")
		turn := r.begin(p, ana, "openai", chat("hm"))
		turn.Abort(ctx, EventAborted)
		turn.Abort(ctx, EventFailed) // it is over already
		if events := r.get(p, ana).Events; state() != "adjusting" || events[len(events)-1].Name != EventAborted {
			t.Errorf("the state is %s, the events %+v", state(), events)
		}
		turn = r.begin(p, ana, "openai", chat("hm")) // no transition takes it
		if turn.Abort(ctx, EventAborted); state() != "adjusting" {
			t.Errorf("the state is %s", state())
		}

		// Every time-out.
		set := func(name string) {
			t.Helper()
			if _, err := r.Edit(ctx, ana, 0, func(s *Session, p *Policy, tell func(Event)) error {
				p.Machine.enter(s, "api", name, r.now(), tell)
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		for name, s := range p.Machine.States {
			if s.Timeout == 0 {
				continue
			}
			set(name)
			r.clock.add(s.Timeout - time.Second)
			if r.Tick(ctx); state() != name {
				t.Errorf("%s was left too early", name)
			}
			r.clock.add(time.Second)
			if r.Tick(ctx); state() != s.OnTimeout {
				t.Errorf("%s was left for %s, not %s", name, state(), s.OnTimeout)
			}
		}
		// Without a tick, the next request sees what is over, at the times at which it was.
		set("executing")
		r.clock.add(12 * time.Hour)
		before := r.clock.Now().Add(-12 * time.Hour)
		exchange("hello again", "idle", answered2("Hello."), "idle")
		events := r.get(p, ana).Events
		last := events[len(events)-2:]
		if !last[0].At.Equal(before.Add(10*time.Minute)) || last[0].To != "reporting" || !last[1].At.Equal(before.Add(40*time.Minute)) || last[1].To != "idle" {
			t.Errorf("%+v", last)
		}
		if r.count("weir_session_events_total", "event=timeout", "state=idle") < 5 {
			t.Error("time-outs are not counted")
		}
	})
}

// TestAbortSeesWhatIsThere: an event of a request that ends is told to the state that others have moved meanwhile.
func TestAbortSeesWhatIsThere(t *testing.T) {
	p := policyOf(with(t), inRedisToo)
	r := newRig(t, nil, p)
	r.upon(r.memory)
	turn := r.begin(p, ana, "openai", chat("hello"))
	r.say(p, ana, "book it", "Shall I book it?")
	r.begin(p, ana, "openai", chat("yes"))
	turn.Abort(context.Background(), EventFailed)
	if s := r.get(p, ana); s.State != "asking_again" {
		t.Errorf("the state is %s", s.State)
	}
}

// TestMachine: guards, events of one's own, instructions with slots, what is told when a state is entered.
func TestMachine(t *testing.T) {
	states := []*State{
		{Name: "shop", Instructions: "Sell."},
		{Name: "pay", Timeout: time.Minute, OnTimeout: "shop", Instructions: "Ask for {{amount}} {{ currency }}{{none}}.", OnEnter: []string{"invoice", "alarm"}},
	}
	transitions := []*Transition{
		{From: []string{"shop"}, To: "pay", On: "checkout", Guard: mustCompile(t, `"amount" in slots && int(slots.amount) > 10 && headers["x-tier"] == "gold" && event == "checkout"`)},
		{To: "shop", On: "cancel"},
		{From: []string{"pay"}, To: "pay", On: "user_message"},
	}
	events := []*EventRule{
		{Name: "checkout", Pattern: mustPattern(t, `(?i)check ?out`)},
		{Name: "cancel", Expression: mustCompile(t, `text.contains("cancel") && state == "pay"`)},
	}
	m, problems := NewMachine("shop", states, transitions, events)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	p := policyOf(func(p *Policy) {
		p.Machine, p.HistoryTurns = m, 0
		p.Rules = []*Rule{{Name: "amount", Slot: "amount", Pattern: mustPattern(t, `(\d+) euros`)}, {Name: "currency", Pattern: mustPattern(t, `(?P<currency>euro)s`)}}
	})
	r := newRig(t, nil, p)
	gold := func(c *Call) { c.Headers.Set("X-Tier", "gold"); c.Headers.Set("Authorization", "Bearer hunter2") }
	same(t, texts(t, r.say(p, ana, "9 euros, check out", "ok", gold)), []string{"system: Sell.", "user: 9 euros, check out"})
	same(t, texts(t, r.say(p, ana, "11 euros, check out", "ok")), []string{"system: Sell.", "user: 11 euros, check out"})
	same(t, texts(t, r.say(p, ana, "Check out", "ok", gold)), []string{"system: Ask for 11 euro.", "user: Check out"})
	s := r.get(p, ana)
	var names []string
	for _, e := range s.Events {
		names = append(names, fmt.Sprint(e.Name, " ", e.From, " ", e.To))
	}
	same(t, names, []string{"checkout shop pay", "invoice pay pay", "alarm pay pay"})
	if r.count("weir_session_events_total", "event=alarm", "state=pay") != 1 || !strings.Contains(r.log.String(), "event=alarm") {
		t.Error("an event of entering was not told")
	}
	r.clock.add(50 * time.Second)
	r.say(p, ana, "wait", "ok")
	if s := r.get(p, ana); s.State != "pay" || !s.Entered.Equal(r.clock.Now()) {
		t.Errorf("a transition to the same state does not begin its time anew: %+v", s)
	}
	if got := texts(t, r.say(p, ana, "cancel it", "ok")); got[0] != "system: Sell." {
		t.Errorf("%q", got)
	}
}

// TestMachineProblems: what is wrong with a machine is told with its place.
func TestMachineProblems(t *testing.T) {
	_, problems := NewMachine("a", []*State{{Name: "b"}, {Name: "b"}, {Name: "c", OnTimeout: "x", Timeout: 1}},
		[]*Transition{{From: []string{"b", "y"}, To: "z", On: "nothing"}, {To: "b", On: EventTimeout}},
		[]*EventRule{{Name: EventFailed}, {Name: "confirm", From: Assistant}, {Name: EventAborted}})
	var got []string
	for _, p := range problems {
		got = append(got, p.Field+": "+p.Err.Error())
	}
	same(t, got, []string{
		"states[1].name: there are two states b",
		"events[0].name: failed is not found in words: Weir tells it",
		"events[2].name: aborted is not found in words: Weir tells it",
		"events[1].from: the built-in event confirm is of the other speaker: give this one another name",
		"initial: there is no state a",
		"states[2].onTimeout: there is no state x",
		"transitions[0].from[1]: there is no state y",
		"transitions[0].to: there is no state z",
		"transitions[0].event: there is no event nothing: declare it in events, or use a built-in one",
		"transitions[1].event: what a time-out leads to is said by the state: onTimeout",
	})
	m, problems := NewMachine("a", []*State{{Name: "a"}, {Name: "lost"}}, []*Transition{{To: "a", On: "confirm"}, {To: "a", On: EventAborted}, {To: "a", On: EventFailed}}, nil)
	if m == nil || len(problems) != 1 || problems[0].Field != "states[1].name" {
		t.Errorf("%v", problems)
	}
}

// TestTwoStatesOfTime: states that lead to each other by time-outs do not go on for ever.
func TestTwoStatesOfTime(t *testing.T) {
	m, problems := NewMachine("a", []*State{{Name: "a", Timeout: time.Second, OnTimeout: "b"}, {Name: "b", Timeout: time.Second, OnTimeout: "a"}}, []*Transition{{To: "a", On: "confirm"}}, nil)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	now := newClock().Now()
	s := &Session{State: "a", Entered: now}
	if m.expire(s, now.Add(time.Hour), s.note); len(s.Events) != 2 {
		t.Errorf("%d events", len(s.Events))
	}
}

// TestRules: what rules find.
func TestRules(t *testing.T) {
	p := policyOf(func(p *Policy) {
		p.Rules = []*Rule{
			{Name: "order", Pattern: mustPattern(t, `(?i)order #?(?P<order>\d+)(?: of (?P<day>\w+))?`)},
			{Name: "refund", Intent: "refund", Pattern: mustPattern(t, `(?i)refund`)},
			{Name: "urgent", Intent: "urgent", Expression: mustCompile(t, `intent == "refund" && text.contains("!")`)},
			{Name: "mail", Entity: "mail", Pattern: mustPattern(t, `\S+@\S+`)},
			{Name: "tags", Entity: "tag", Expression: mustCompile(t, `text.split(" ").filter(w, w.startsWith("#"))`)},
			{Name: "long", Slot: "long", Expression: mustCompile(t, `size(text) > 30`)},
			{Name: "total", Slot: "total", Expression: mustCompile(t, `"order" in slots ? dyn({"id": slots.order, "n": 1.5}) : dyn(null)`)},
			{Name: "answer", From: Assistant, Slot: "eta", Pattern: mustPattern(t, `in (?P<value>\d+) days`)},
		}
	})
	r := newRig(t, nil, p)
	r.say(p, ana, "hello", "hi")
	if s := r.get(p, ana); len(s.Slots) != 1 || string(s.Slots["long"].Value) != "false" || s.Intent != "" {
		t.Errorf("%+v", s.Slots)
	}
	r.say(p, ana, "Refund order #17 of Monday! a@b c@d #x #y", "It comes in 3 days.")
	s := r.get(p, ana)
	got := map[string]string{}
	for name, v := range s.Slots {
		got[name] = string(v.Value)
	}
	if want := fmt.Sprint(map[string]string{"order": `"17"`, "day": `"Monday"`, "long": "true", "total": `{"id":"17","n":1.5}`, "eta": `"3"`}); fmt.Sprint(got) != want {
		t.Errorf("got %v, want %v", got, want)
	}
	if s.Intent != "urgent" || fmt.Sprint(s.Entities) != "map[mail:[a@b c@d] tag:[#17 #x #y]]" || s.Slots["order"].Source != FromRule {
		t.Errorf("%s %v", s.Intent, s.Entities)
	}
	if r.count("weir_session_rule_errors_total") != 0 {
		t.Error("a rule failed")
	}
}

// TestExpressions: what does not compile says why, and what costs too much ends.
func TestExpressions(t *testing.T) {
	e, err := NewEnv()
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{`text +`: "Syntax error", `nothing`: "undeclared reference", `size(text)`: "must say true or false"} {
		if _, err := e.Compile(text, true); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
	x := mustCompile(t, `text.split("").all(a, text.split("").all(b, text.split("").all(c, a != "" && b != "" && c != "")))`)
	if _, err := x.holds(&facts{s: &Session{}, text: strings.Repeat("x", 10000)}); err == nil || !strings.Contains(err.Error(), "cost") && !strings.Contains(err.Error(), "interrupted") {
		t.Errorf("an endless expression: %v", err)
	}
}

// TestExtraction: what a model notes is taken as far as it was asked for, before the request or after it.
func TestExtraction(t *testing.T) {
	for _, before := range []bool{true, false} {
		t.Run(fmt.Sprint("before ", before), func(t *testing.T) {
			p := policyOf(with(t), func(p *Policy) {
				p.Extraction = &Extraction{
					Model: "cheap", Before: before, MaxTokens: 100, Timeout: time.Second, Instructions: "Cities are in Germany.",
					Slots:    []Term{{Name: "city", Type: TypeString, Values: []string{"Ulm", "Bonn"}}, {Name: "guests", Type: TypeInteger}, {Name: "smoker", Type: TypeBoolean}, {Name: "price", Type: TypeNumber, Description: "in euros"}},
					Intents:  []Term{{Name: "book", Description: "wants a room"}, {Name: "cancel"}},
					Entities: []Term{{Name: "person"}},
				}
			})
			p.Machine.States["idle"].Instructions = "City: {{city}}."
			r := newRig(t, nil, p)
			var ask Ask
			c := func(c *Call) {
				c.Caller = scripted(func(a Ask) (*canon.Response, error) {
					ask = a
					return calling("c", extractTool, `{"slots":{"city":"Ulm","guests":2.5,"smoker":"yes","price":9.5,"other":1},"entities":{"person":["Ana",3,{}]},"intent":"book"}`), nil
				})
			}
			body := r.say(p, ana, "A room in Ulm", "Sure.", c)
			r.Wait()
			if want := "City: Ulm."; strings.Contains(body, want) != before {
				t.Errorf("%s", body)
			}
			s := r.get(p, ana)
			if len(s.Slots) != 2 || string(s.Slots["city"].Value) != `"Ulm"` || s.Slots["price"].Source != FromModel || s.Intent != "book" || fmt.Sprint(s.Entities["person"]) != "[Ana 3]" {
				t.Errorf("%+v %s %v", s.Slots, s.Intent, s.Entities)
			}
			q := ask.Request
			if ask.Purpose != PurposeExtraction || q.Model != "cheap" || *q.MaxTokens != 100 || q.ToolChoice.Name != extractTool || !strings.Contains(string(q.Tools[0].Parameters), `"description":"in euros"`) ||
				!strings.Contains(q.Messages[0].Parts[0].Text, "Cities are in Germany.") || !strings.Contains(q.Messages[1].Parts[0].Text, "A room in Ulm") {
				t.Errorf("%+v", q)
			}
		})
	}
}

// TestManyAsks: what there is no room for is skipped and counted, and Close ends what goes on.
func TestManyAsks(t *testing.T) {
	p := policyOf(func(p *Policy) {
		p.Extraction = &Extraction{Model: "cheap", Timeout: time.Hour, Entities: []Term{{Name: "person"}}}
	})
	r := newRig(t, nil, p)
	for i := range maxWork + 3 {
		r.say(p, Address{"acme", "", fmt.Sprint(i)}, "q", "a", func(c *Call) { c.Caller = stuck{} })
	}
	if n := r.count("weir_session_asks_total", "outcome=skipped"); n != 3 {
		t.Errorf("%v were skipped", n)
	}
	r.Close()
	if r.later(func(context.Context) {}) {
		t.Error("something began after the end")
	}
}

type stuck struct{}

func (stuck) Call(ctx context.Context, _ Ask) (*canon.Response, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}
