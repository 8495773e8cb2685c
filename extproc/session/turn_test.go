package session

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weir-dev/weir/adapters/canon"
)

// TestHistory: what is added of a conversation, as its caller and its policy want it.
func TestHistory(t *testing.T) {
	const q = `{"model":"gpt","messages":[{"role":"system","content":"Be brief."},{"role":"user","content":"q4"}]}`
	for name, c := range map[string]struct {
		turns  int
		tokens int64
		body   string
		want   []string
	}{
		"the last turns behind the system prompt": {3, 0, q, []string{"system: Be brief.", "user: q1", "assistant: a1", "user: q2", "assistant: a2", "user: q3", "assistant: a3", "user: q4"}},
		"one turn":    {1, 0, q, []string{"system: Be brief.", "user: q3", "assistant: a3", "user: q4"}},
		"none":        {0, 0, q, []string{"system: Be brief.", "user: q4"}},
		"few tokens":  {3, 25, q, []string{"system: Be brief.", "user: q2", "assistant: a2", "user: q3", "assistant: a3", "user: q4"}},
		"no room":     {3, 3, q, []string{"system: Be brief.", "user: q4"}},
		"system only": {1, 0, `{"model":"gpt","messages":[{"role":"system","content":"Go on."}]}`, []string{"system: Go on.", "user: q3", "assistant: a3"}},
		"the caller sends all of it": {
			3, 0, `{"model":"gpt","messages":[{"role":"user","content":"q1"},{"role":"assistant","content":"a1"},{"role":"user","content":"q2"},{"role":"assistant","content":"a2 "},{"role":"user","content":"q3"},{"role":"assistant","content":[{"type":"text","text":"a3"}]},{"role":"user","content":"q4"}]}`,
			[]string{"user: q1", "assistant: a1", "user: q2", "assistant: a2 ", "user: q3", "assistant: a3", "user: q4"},
		},
		"the caller sends the last of it": {
			3, 0, `{"model":"gpt","messages":[{"role":"user","content":"q3"},{"role":"assistant","content":"a3"},{"role":"user","content":"q4"}]}`,
			[]string{"user: q1", "assistant: a1", "user: q2", "assistant: a2", "user: q3", "assistant: a3", "user: q4"},
		},
		"the caller has edited it": {
			3, 0, `{"model":"gpt","messages":[{"role":"user","content":"q1"},{"role":"assistant","content":"something else"},{"role":"user","content":"q4"}]}`,
			[]string{"user: q1", "assistant: something else", "user: q4"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := policyOf(func(p *Policy) { p.HistoryTurns, p.HistoryTokens = c.turns, c.tokens })
			r := newRig(t, nil, p)
			for i := 1; i <= 3; i++ {
				r.say(p, ana, fmt.Sprintf("q%d", i), fmt.Sprintf("a%d", i))
			}
			turn := r.begin(p, ana, "openai", c.body)
			same(t, texts(t, string(turn.Body())), c.want)
			if err := turn.Commit(context.Background(), answered2("a4")); err != nil {
				t.Fatal(err)
			}
			// What is kept grows by what is new, whoever sends the rest.
			s := r.get(p, ana)
			last := s.Turns[len(s.Turns)-1]
			wantInput := 1
			if name == "system only" {
				wantInput = 0
			}
			if len(s.Turns) != 4 || len(last.Input) != wantInput {
				t.Errorf("%d turns are kept, the last with %d messages of input", len(s.Turns), len(last.Input))
			}
		})
	}
}

// TestHistoryOfAFirstRequest: a conversation that its caller began elsewhere is kept whole.
func TestHistoryOfAFirstRequest(t *testing.T) {
	p := policyOf()
	r := newRig(t, nil, p)
	turn := r.begin(p, ana, "openai", `{"model":"gpt","messages":[{"role":"user","content":"q1"},{"role":"assistant","content":"a1"},{"role":"user","content":"q2"}]}`)
	if turn.State() != StateNew {
		t.Errorf("the state is %s", turn.State())
	}
	if err := turn.Commit(context.Background(), answered2("a2")); err != nil {
		t.Fatal(err)
	}
	same(t, texts(t, r.say(p, ana, "q3", "a3")), []string{"user: q1", "assistant: a1", "user: q2", "assistant: a2", "user: q3"})
}

// TestTools: calls and results are not separated, and neither is sent without the other.
func TestTools(t *testing.T) {
	tool := func(id string) string {
		return `{"model":"gpt","messages":[{"role":"tool","tool_call_id":"` + id + `","content":"17 degrees"}]}`
	}
	t.Run("a result alone finds its call", func(t *testing.T) {
		p := policyOf(func(p *Policy) { p.HistoryTurns = 0 })
		r := newRig(t, nil, p)
		turn := r.begin(p, ana, "openai", chat("weather?"))
		if err := turn.Commit(context.Background(), calling("c1", "weather", `{"city":"Ulm"}`)); err != nil {
			t.Fatal(err)
		}
		turn = r.begin(p, ana, "openai", tool("c1"))
		same(t, texts(t, string(turn.Body())), []string{"user: weather?", "assistant: calls c1", "tool: 17 degrees result c1"})
		if _, err := turn.Request(); err != nil {
			t.Errorf("what is sent on is no valid request: %v", err)
		}
		if err := turn.Commit(context.Background(), answered2("It is 17 degrees.")); err != nil {
			t.Fatal(err)
		}
		p.HistoryTurns = 1
		same(t, texts(t, r.say(p, ana, "thanks", "you are welcome")),
			[]string{"user: weather?", "assistant: calls c1", "tool: 17 degrees result c1", "assistant: It is 17 degrees.", "user: thanks"})
	})
	t.Run("somebody speaks in between", func(t *testing.T) {
		p := policyOf()
		r := newRig(t, nil, p)
		turn := r.begin(p, ana, "openai", chat("weather?"))
		if err := turn.Commit(context.Background(), calling("c1", "weather", `{}`)); err != nil {
			t.Fatal(err)
		}
		same(t, texts(t, r.say(p, ana, "and the time?", "noon")), []string{"user: weather?", "user: and the time?"})
		turn = r.begin(p, ana, "openai", tool("c1"))
		same(t, texts(t, string(turn.Body())), []string{"user: and the time?", "assistant: noon", "user: weather?", "assistant: calls c1", "tool: 17 degrees result c1"})
		if _, err := turn.Request(); err != nil {
			t.Errorf("what is sent on is no valid request: %v in %s", err, turn.Body())
		}
		if err := turn.Commit(context.Background(), answered2("17")); err != nil {
			t.Fatal(err)
		}
		same(t, texts(t, r.say(p, ana, "thanks", "ok")), []string{
			"user: weather?", "assistant: calls c1", "tool: 17 degrees result c1", "assistant: 17", "user: and the time?", "assistant: noon", "user: thanks",
		})
	})
	t.Run("in Anthropic's dialect", func(t *testing.T) {
		p := policyOf()
		r := newRig(t, nil, p)
		turn := r.begin(p, ana, "openai", chat("weather?"))
		if err := turn.Commit(context.Background(), calling("c1", "weather", `{"city":"Ulm"}`)); err != nil {
			t.Fatal(err)
		}
		turn = r.begin(p, ana, "anthropic", `{"model":"claude","max_tokens":9,"messages":[{"role":"user","content":[{"type":"tool_result","tool_use_id":"c1","content":"17"}]}]}`)
		same(t, texts(t, string(turn.Body())), []string{"user: weather?", "assistant: calls c1", "user: result c1"})
	})
}

// TestManyProviders: the turns of one conversation are added in whatever dialect its caller speaks next.
func TestManyProviders(t *testing.T) {
	p := policyOf()
	r := newRig(t, nil, p)
	r.say(p, ana, "I am Ana.", "Hello Ana.")
	turn := r.begin(p, ana, "anthropic", `{"max_tokens":10,"model":"claude","system":"Be \u0062rief.","messages":[{"role":"user","content":"Who am I?"}]}`)
	want := `{"max_tokens":10,"model":"claude","system":"Be \u0062rief.","messages":[{"role":"user","content":[{"type":"text","text":"I am Ana."}]},` +
		`{"role":"assistant","content":[{"type":"text","text":"Hello Ana."}]},{"role":"user","content":"Who am I?"}]}`
	if got := string(turn.Body()); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if err := turn.Commit(context.Background(), answered2("Ana.")); err != nil {
		t.Fatal(err)
	}
	same(t, texts(t, r.say(p, ana, "Sure?", "Yes.")), []string{"user: I am Ana.", "assistant: Hello Ana.", "user: Who am I?", "assistant: Ana.", "user: Sure?"})
}

// TestConsumers: a name means another session for each consumer, or one for a tenant, as the policy says.
func TestConsumers(t *testing.T) {
	for _, perTenant := range []bool{false, true} {
		p := policyOf(func(p *Policy) { p.PerTenant = perTenant })
		r := newRig(t, nil, p)
		r.say(p, p.Address("acme", "acme/ana", "s"), "secret", "ok")
		got := texts(t, r.say(p, p.Address("acme", "acme/bob", "s"), "hello", "hi"))
		other := texts(t, r.say(p, p.Address("globex", "acme/ana", "s"), "hello", "hi"))
		want := []string{"user: hello"}
		same(t, other, want)
		if perTenant {
			want = []string{"user: secret", "assistant: ok", "user: hello"}
		}
		same(t, got, want)
	}
}

// TestTimeOuts: a session ends when nobody used it for long, and however much it is used.
func TestTimeOuts(t *testing.T) {
	p := policyOf(func(p *Policy) { p.Idle, p.Absolute = time.Hour, 3*time.Hour })
	r := newRig(t, nil, p)
	r.say(p, ana, "q1", "a1")
	for range 3 { // to 2 h 57 min
		r.clock.add(59 * time.Minute)
		if got := texts(t, r.say(p, ana, "q", "a")); len(got) == 1 {
			t.Fatal("the session was forgotten while it was used")
		}
	}
	r.clock.add(4 * time.Minute)
	same(t, texts(t, r.say(p, ana, "new", "a")), []string{"user: new"})
	r.clock.add(time.Hour)
	turn := r.begin(p, ana, "openai", chat("again"))
	if turn.State() != StateNew {
		t.Errorf("after the idle time-out the state is %s", turn.State())
	}
	turn.Abort(context.Background(), EventFailed)
	r.Tick(context.Background())
	if n, bytes := r.memory.count(); n != 0 || bytes != 0 {
		t.Errorf("%d sessions with %d bytes are left in memory", n, bytes)
	}
}

// TestKeep: the oldest turns go when there are too many, images before words, and a call goes with its result.
func TestKeep(t *testing.T) {
	p := policyOf(func(p *Policy) { p.KeepTurns, p.KeepBytes, p.HistoryTurns = 4, 8<<10, 100 })
	r := newRig(t, nil, p)
	turn := r.begin(p, ana, "openai", chat("weather?"))
	if err := turn.Commit(context.Background(), calling("c1", "weather", `{}`)); err != nil {
		t.Fatal(err)
	}
	turn = r.begin(p, ana, "openai", `{"model":"gpt","messages":[{"role":"tool","tool_call_id":"c1","content":"17"}]}`)
	if err := turn.Commit(context.Background(), answered2("17")); err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		r.say(p, ana, fmt.Sprintf("q%d", i), "a")
	}
	s := r.get(p, ana)
	if len(s.Turns) != 4 || s.Forgotten != 1 || s.Turns[0].Input[0].Parts[0].Text != "q0" {
		t.Errorf("%d entries are kept, %d turns forgotten, the first is %+v", len(s.Turns), s.Forgotten, s.Turns[0].Input)
	}
	image := `{"model":"gpt","messages":[{"role":"user","content":[{"type":"text","text":"look"},{"type":"image_url","image_url":{"url":"data:image/png;base64,` + strings.Repeat("AAAA", 4<<10) + `"}}]}]}`
	turn = r.begin(p, ana, "openai", image)
	if err := turn.Commit(context.Background(), answered2("a cat")); err != nil {
		t.Fatal(err)
	}
	s = r.get(p, ana)
	if last := s.Turns[len(s.Turns)-1]; len(s.Turns) != 4 || last.Input[0].Parts[1].Text != imageGone || last.Input[0].Parts[0].Text != "look" {
		t.Errorf("an image that is too large was not left out: %+v", last.Input)
	}
	if n := r.count("weir_session_turns_forgotten_total", "reason=size"); n != 2 {
		t.Errorf("%v turns were counted as forgotten, not 2", n)
	}
}

// TestSummary: old turns are summed up once there are too many tokens, and the sum is added before what is left.
func TestSummary(t *testing.T) {
	p := policyOf(func(p *Policy) {
		p.HistoryTurns = 2
		p.Summary = &SummaryPolicy{Model: "cheap", AfterTokens: 60, KeepTurns: 2, MaxTokens: 100, Timeout: time.Second}
	})
	r := newRig(t, nil, p)
	var asked []string
	fail := true
	c := func(c *Call) {
		c.Caller = scripted(func(a Ask) (*canon.Response, error) {
			if fail {
				return nil, errDown
			}
			asked = append(asked, textOf(a.Request.Messages, canon.RoleUser))
			return answered2(fmt.Sprintf(" sum %d ", len(asked))), nil
		})
	}
	for i := range 5 {
		r.say(p, ana, fmt.Sprintf("question %d, which is rather long", i), "a long answer to it", c)
		r.Wait()
	}
	if s := r.get(p, ana); s.Summary != nil || len(s.Turns) != 5 {
		t.Fatalf("a model that fails has changed the session: %+v", s.Summary)
	}
	fail = false
	r.say(p, ana, "question 5", "answer 5", c)
	r.Wait()
	s := r.get(p, ana)
	if s.Summary == nil || s.Summary.Text != "sum 1" || s.Summary.Turns != 4 || len(s.Turns) != 2 || s.Forgotten != 4 {
		t.Fatalf("summary %+v, %d turns, %d forgotten", s.Summary, len(s.Turns), s.Forgotten)
	}
	if !strings.Contains(asked[0], "user: question 0") || strings.Contains(asked[0], "question 4") {
		t.Errorf("the model was asked to sum up %q", asked[0])
	}
	same(t, texts(t, r.say(p, ana, "question 6, which is rather long, rather long, rather long, rather long", strings.Repeat("word ", 60), c))[:2],
		[]string{"system: " + summaryHead + "sum 1", "user: question 4, which is rather long"})
	r.Wait()
	if s := r.get(p, ana); s.Summary.Text != "sum 2" || !strings.Contains(asked[1], "sum 1") || s.Summary.Turns != 5 {
		t.Errorf("the second summary is %+v, of %q", s.Summary, asked[1])
	}
	if ok, failed := r.count("weir_session_asks_total", "outcome=ok"), r.count("weir_session_asks_total", "outcome=failed"); ok != 2 || failed == 0 {
		t.Errorf("%v asks are counted as ok, %v as failed", ok, failed)
	}
}

// TestSummaryAlone: the sum goes out where the last turn is too long to, and not where the caller sends a history.
func TestSummaryAlone(t *testing.T) {
	p := policyOf(func(p *Policy) {
		p.HistoryTokens = 50
		p.Summary = &SummaryPolicy{Model: "cheap", AfterTokens: 60, KeepTurns: 1, MaxTokens: 100, Timeout: time.Second}
	})
	r := newRig(t, nil, p)
	c := func(c *Call) {
		c.Caller = scripted(func(Ask) (*canon.Response, error) { return answered2("the sum"), nil })
	}
	r.say(p, ana, "q1", "a1", c)
	r.say(p, ana, "q2", strings.Repeat("word ", 100), c)
	r.Wait()
	same(t, texts(t, string(r.begin(p, ana, "openai", chat("q3")).Body())), []string{"system: " + summaryHead + "the sum", "user: q3"})
	own := `{"model":"gpt","messages":[{"role":"user","content":"mine"},{"role":"assistant","content":"mine too"},{"role":"user","content":"q3"}]}`
	same(t, texts(t, string(r.begin(p, ana, "openai", own).Body())), []string{"user: mine", "assistant: mine too", "user: q3"})
}

// TestOneSummaryAtATime: turns that come while a model sums up do not have another one do it, too.
func TestOneSummaryAtATime(t *testing.T) {
	p := policyOf(func(p *Policy) {
		p.Summary = &SummaryPolicy{Model: "cheap", AfterTokens: 10, KeepTurns: 1, MaxTokens: 100, Timeout: time.Minute}
	})
	r := newRig(t, nil, p)
	asked := make(chan struct{}, 10)
	going := make(chan struct{})
	c := func(c *Call) {
		c.Caller = scripted(func(Ask) (*canon.Response, error) {
			asked <- struct{}{}
			<-going
			return answered2("the sum"), nil
		})
	}
	for i := range 2 {
		r.say(p, ana, fmt.Sprintf("a question of some words %d", i), "and its answer of some words", c)
	}
	<-asked
	for i := range 3 {
		r.say(p, ana, fmt.Sprintf("another question of some words %d", i), "and its answer of some words", c)
	}
	close(going)
	r.Wait()
	if len(asked) > 0 {
		t.Errorf("%d more models were asked", len(asked))
	}
	if s := r.get(p, ana); s.Summary == nil || s.Summary.Turns != 1 || len(s.Turns) != 4 {
		t.Errorf("%+v, %d turns", s.Summary, len(s.Turns))
	}
}

// TestErase: what was erased does not come back with a request that was under way, and can be begun anew.
func TestErase(t *testing.T) {
	for _, first := range []bool{true, false} { // whether there was a session when the request began
		p := policyOf()
		r := newRig(t, nil, p)
		if first {
			r.say(p, ana, "q1", "a1")
		}
		old := r.begin(p, ana, "openai", chat("under way"))
		if !first {
			r.say(p, ana, "q1", "a1")
		}
		was, err := r.Erase(context.Background(), ana)
		if err != nil || !was {
			t.Fatalf("%v %v", was, err)
		}
		if err := old.Commit(context.Background(), answered2("late")); err == nil {
			t.Error("an erased session took a turn")
		}
		if s := r.get(p, ana); s != nil {
			t.Fatalf("the session is back: %+v", s)
		}
		older := r.begin(p, ana, "openai", chat("under way"))
		if older.State() != StateNew {
			t.Errorf("the state after erasing is %s", older.State())
		}
		same(t, texts(t, r.say(p, ana, "fresh", "a")), []string{"user: fresh"})
		if err := older.Commit(context.Background(), answered2("too")); err != nil {
			t.Errorf("a request that began after the erasure could not be kept: %v", err)
		}
		if err := old.Commit(context.Background(), answered2("late")); err != nil {
			t.Error("a second Commit is not ignored")
		}
		if s := r.get(p, ana); len(s.Turns) != 2 {
			t.Errorf("%d turns", len(s.Turns))
		}
		if was, err := r.Erase(context.Background(), Address{"acme", "acme/ana", "none"}); was || err != nil {
			t.Errorf("erasing nothing: %v %v", was, err)
		}
	}
}

// TestEraseOfABeginning: a session that is erased while its first request is under way does not appear with the answer, whatever policy it is
// under and however often it is erased; one that begins later does.
func TestEraseOfABeginning(t *testing.T) {
	stores(t, func(t *testing.T, place Place, change func(*Policy)) {
		for name, with := range map[string][]func(*Policy){"plain": nil, "encrypted": {encrypted(mustKey(t, 1))}} {
			t.Run(name, func(t *testing.T) {
				ctx := context.Background()
				a := Address{"acme", "acme/ana", "first " + name}
				p := policyOf(append(with, change)...)
				plain := policyOf(change, func(p *Policy) { p.ID = "default/plain" })
				r := newRig(t, place, plain, p)
				for _, state := range []string{"never used", "erased before"} {
					turn, moved := r.begin(p, a, "openai", chat("under way")), r.begin(plain, a, "openai", chat("under way, too"))
					if turn.State() != StateNew || moved.State() != StateNew {
						t.Fatalf("%s: the states are %s and %s", state, turn.State(), moved.State())
					}
					if was, err := r.Erase(ctx, a); was || err != nil {
						t.Fatalf("%s: %v %v", state, was, err)
					}
					for _, turn := range []*Turn{turn, moved} {
						if err := turn.Commit(ctx, answered2("late")); !errors.Is(err, ErrErased) {
							t.Errorf("%s: the answer is kept: %v", state, err)
						}
					}
					if s := r.get(p, a); s != nil {
						t.Errorf("%s: it is there: %+v", state, s)
					}
				}
				if lines, _, err := r.List(ctx, Filter{}, "", 10); err != nil || slices.ContainsFunc(lines, func(l Line) bool { return l.ID == a.ID }) {
					t.Errorf("the list has %+v, %v", lines, err)
				}
				same(t, texts(t, r.say(p, a, "fresh", "a")), []string{"user: fresh"})
				if s := r.get(p, a); s == nil || len(s.Turns) != 1 {
					t.Errorf("what begins later is not kept: %+v", s)
				}
			})
		}
	})
}

// TestEraseOfWhatCannotBeRead: it is gone for a request that is under way, too.
func TestEraseOfWhatCannotBeRead(t *testing.T) {
	stores(t, func(t *testing.T, place Place, change func(*Policy)) {
		ctx := context.Background()
		gone := policyOf(encrypted(mustKey(t, 1)), change)
		r := newRig(t, place, gone)
		r.say(gone, ana, "q1", "a1")
		p := policyOf(encrypted(mustKey(t, 2)), change)
		r.Use([]*Policy{p})
		turn := r.begin(p, ana, "openai", chat("under way"))
		if turn.State() != StateLost {
			t.Fatalf("the state is %s", turn.State())
		}
		if was, err := r.Erase(ctx, ana); !was || err != nil {
			t.Fatalf("%v %v", was, err)
		}
		if err := turn.Commit(ctx, answered2("late")); !errors.Is(err, ErrErased) {
			t.Errorf("the answer is kept: %v", err)
		}
		if next := r.begin(p, ana, "openai", chat("q")); next.State() != StateNew {
			t.Errorf("after erasing the state is %s", next.State())
		}
	})
}

// TestNothingIsLogged: no text, slot or name of a session is in the log or a metric, whatever goes wrong.
func TestNothingIsLogged(t *testing.T) {
	e, err := NewEnv()
	if err != nil {
		t.Fatal(err)
	}
	broken, err := e.Compile(`int(text) > 3`, true)
	if err != nil {
		t.Fatal(err)
	}
	p := policyOf(with(t), func(p *Policy) {
		p.Rules = []*Rule{{Name: "broken", Intent: "x", Expression: broken}}
		p.Extraction = &Extraction{Model: "cheap", Before: true, Slots: []Term{{Name: "a", Type: TypeString}}, Timeout: time.Second}
	})
	r := newRig(t, nil, p)
	a := Address{"acme", "acme/hunter1", "hunter2"}
	r.say(p, a, "hunter3 please", "Shall I hunter4?", func(c *Call) {
		c.Caller = scripted(func(Ask) (*canon.Response, error) { return calling("c", extractTool, `{"hunter5`), nil })
	})
	if r.count("weir_session_rule_errors_total") == 0 {
		t.Error("the rule did not fail")
	}
	at := a.Ref()
	_, v, _ := r.memory.Get(context.Background(), at)
	if _, err := r.memory.Put(context.Background(), at, []byte("\x01\x00{\"turns\":\"hunter6\"}"), v, Life{TTL: time.Hour, PartBytes: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	if turn := r.begin(p, a, "openai", chat("hunter7")); turn.State() != StateLost {
		t.Errorf("the state is %s", turn.State())
	}
	families, _ := r.registry.Gather()
	if all := r.log.String() + fmt.Sprint(families); strings.Contains(all, "hunter") || !strings.Contains(all, "awaiting_confirmation") {
		t.Error(all)
	}
}
