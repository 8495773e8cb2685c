package session

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/jsonx"
)

// TestInstructions: what a state and a summary say is added to the system prompt, whatever form that has, and every other byte stays.
func TestInstructions(t *testing.T) {
	for name, c := range map[string]struct{ dialect, body, want string }{
		"OpenAI": {"openai", ` { "messages" : [ {"role":"developer","content":"d"} , {"role":"user","content":"q"} ] , "model":"m" } `,
			` { "messages" : [ {"role":"developer","content":"d"} , {"role":"system","content":"I"},HISTORY,{"role":"user","content":"q"} ] , "model":"m" } `},
		"OpenAI, only a system prompt": {"openai", `{"messages":[{"role":"system","content":"s"}],"model":"m"}`,
			`{"messages":[{"role":"system","content":"s"},{"role":"system","content":"I"},HISTORY],"model":"m"}`},
		"none":     {"anthropic", `{"max_tokens":1,"messages":[{"role":"user","content":"q"}],"model":"m" }`, `{"max_tokens":1,"messages":[HISTORY,{"role":"user","content":"q"}],"model":"m" ,"system":[{"type":"text","text":"I"}]}`},
		"text":     {"anthropic", `{"max_tokens":1,"system": "a\u0041" ,"messages":[{"role":"user","content":"q"}],"model":"m"}`, `{"max_tokens":1,"system": [{"type":"text","text":"a\u0041"},{"type":"text","text":"I"}] ,"messages":[HISTORY,{"role":"user","content":"q"}],"model":"m"}`},
		"empty":    {"anthropic", `{"max_tokens":1,"system":"","messages":[{"role":"user","content":"q"}],"model":"m"}`, `{"max_tokens":1,"system":[{"type":"text","text":"I"}],"messages":[HISTORY,{"role":"user","content":"q"}],"model":"m"}`},
		"blocks":   {"anthropic", `{"max_tokens":1,"messages":[{"role":"user","content":"q"}],"system":[ {"type":"text","text":"a"} ],"model":"m"}`, `{"max_tokens":1,"messages":[HISTORY,{"role":"user","content":"q"}],"system":[ {"type":"text","text":"a"} ,{"type":"text","text":"I"}],"model":"m"}`},
		"no block": {"anthropic", `{"max_tokens":1,"system":[],"messages":[{"role":"user","content":"q"}],"model":"m"}`, `{"max_tokens":1,"system":[{"type":"text","text":"I"}],"messages":[HISTORY,{"role":"user","content":"q"}],"model":"m"}`},
	} {
		t.Run(name, func(t *testing.T) {
			p := policyOf(with(t))
			p.Machine.States["idle"].Instructions = "I"
			r := newRig(t, nil, p)
			r.say(p, ana, "hey", "hello")
			history := `{"role":"user","content":"hey"},{"role":"assistant","content":"hello"}`
			if c.dialect == "anthropic" {
				history = `{"role":"user","content":[{"type":"text","text":"hey"}]},{"role":"assistant","content":[{"type":"text","text":"hello"}]}`
			}
			turn := r.begin(p, ana, c.dialect, c.body)
			if want := strings.Replace(c.want, "HISTORY", history, 1); string(turn.Body()) != want {
				t.Errorf("got\n%s\nwant\n%s", turn.Body(), want)
			}
			if _, err := turn.Request(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestRefused: bodies that messages cannot be added to.
func TestRefused(t *testing.T) {
	p := policyOf()
	r := newRig(t, nil, p)
	for _, c := range []struct{ dialect, body, want string }{
		{"openai", `{`, "not valid JSON"},
		{"openai", `[]`, "must be a JSON object, not an array"},
		{"openai", `{"model":"m"}`, "messages must be an array, not nothing"},
		{"openai", `{"model":"m","messages":"x"}`, "messages must be an array, not a string"},
		{"openai", `{"model":"m","messages":[{"role":"user","content":"a"}],"messages":[]}`, "messages more than once"},
		{"anthropic", `{"model":"m","max_tokens":1,"messages":[{"role":"user","content":"a"}],"system":"a","system":"b"}`, "system more than once"},
		{"openai", `{"model":"m","messages":[]}`, "must not be empty"},
	} {
		_, err := r.Begin(context.Background(), p, Call{Address: ana, Dialect: dialect(c.dialect), Body: []byte(c.body), Headers: http.Header{}})
		if err == nil || err.Kind != canon.ErrInvalidRequest || !strings.Contains(err.Message, c.want) {
			t.Errorf("%s: %v", c.body, err)
		}
	}
}

// TestOwnHistory: who keeps the turns itself gets instructions, and none are kept here.
func TestOwnHistory(t *testing.T) {
	p := policyOf(with(t))
	p.Machine.States["idle"].Instructions = "I"
	r := newRig(t, nil, p)
	d := canon.Dialect{Name: "responses"}
	req := &canon.Request{Model: "m", Messages: []canon.Message{{Role: canon.RoleSystem, Parts: []canon.Part{{Text: "s"}}}, {Role: canon.RoleUser, Parts: []canon.Part{{Text: "q"}}}}}
	turn, e := r.Begin(context.Background(), p, Call{Address: ana, Dialect: &d, Body: []byte("{}"), Request: req, OwnHistory: true})
	if e != nil {
		t.Fatal(e)
	}
	got, e := turn.Request()
	if e != nil || len(got.Messages) != 3 || got.Messages[1].Parts[0].Text != "I" || len(req.Messages) != 2 || string(turn.Body()) != "{}" {
		t.Errorf("%v %+v", e, got)
	}
	if err := turn.Commit(context.Background(), answered2("Shall I go on?")); err != nil {
		t.Fatal(err)
	}
	if s := r.get(p, ana); len(s.Turns) != 0 || s.State != "awaiting_confirmation" {
		t.Errorf("%d turns, state %s", len(s.Turns), s.State)
	}
}

// FuzzSplice: what is made of a body is JSON; taking out what was put in gives the body, byte for byte; and a dialect that reads the one
// reads the other.
func FuzzSplice(f *testing.F) {
	for _, s := range []string{
		`{"model":"m","messages":[{"role":"user","content":"q"}]}`,
		` {"messages" : [ {"role":"system","content":"\u00e9\\\""} , {"role":"user","content":[{"type":"text","text":"q]}"}]}],"max_tokens":3,"model":"m"}` + "\n",
		`{"model":"m","max_tokens":1,"system":"s","messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"},{"role":"user","content":"q2"}]}`,
		`{"model":"m","max_tokens":1,"system":[{"type":"text","text":"x"}],"messages":[{"role":"user","content":[{"type":"tool_result","tool_use_id":"c","content":"r"}]}]}`,
		`{"model":"m","messages":[{"role":"tool","tool_call_id":"c","content":"r"},{"role":"user","content":"q"}]}`,
		`{"model":"m","max_tokens":1,"system":null,"messages":[{"role":"user","content":"q"}]}`,
		`{"messages":[]}`, `{"messages":[1,"x",null]}`,
		`{"mess\u0061ges":[{"r\u006fle":"user","content":"q"}],"model":"m"}`,
	} {
		f.Add([]byte(s), true, "be brief", "hello")
		f.Add([]byte(s), false, "", "")
	}
	f.Fuzz(func(t *testing.T, body []byte, openai bool, system, said string) {
		form, d := systemShape, dialect("anthropic")
		if openai {
			form, d = chatShape, dialect("openai")
		}
		l, err := layoutOf(body)
		if err != nil {
			return
		}
		var prompts []string
		if system != "" {
			prompts = []string{system}
		}
		var elements []byte
		if said != "" {
			elements = jsonx.AppendString([]byte(`{"role":"user","content":`), said)
			elements = append(elements, '}')
		}
		out := l.into(form, prompts, elements)
		if !json.Valid(out) {
			t.Fatalf("%q became %q, which is no JSON", body, out)
		}
		if len(prompts) == 0 && len(elements) == 0 && !bytes.Equal(out, body) {
			t.Fatalf("%q became %q though nothing was added", body, out)
		}
		// Every byte of the body is in what was made of it, in order; a system prompt of no words excepted, which blocks cannot hold.
		empty := !openai && (string(l.system) == `""` || l.system.Kind() == jsonx.Null)
		if !empty && !subsequence(body, out) {
			t.Fatalf("%q became %q, which has not all of it", body, out)
		}
		before, e1 := d.In.ParseRequest(body)
		if e1 != nil || empty || strings.TrimSpace(said) == "" && said != "" || strings.TrimSpace(system) == "" && system != "" {
			return
		}
		after, e2 := d.In.ParseRequest(out)
		if e2 != nil {
			t.Fatalf("%q can be read, and what became of it, %q, cannot: %v", body, out, e2)
		}
		added := 0
		for _, s := range []string{system, said} {
			if s != "" {
				added++
			}
		}
		if form == systemShape && system != "" && (len(before.Messages) > 0 && before.Messages[0].Role == canon.RoleSystem && l.system != nil) {
			added-- // a block of the message that is there
		}
		if got := len(after.Messages) - len(before.Messages); got != added {
			t.Fatalf("%q: %d messages were added and not %d: %q", body, got, added, out)
		}
		if before.Model != after.Model {
			t.Fatalf("the model of %q changed", body)
		}
	})
}

func subsequence(part, whole []byte) bool {
	for _, c := range part {
		i := bytes.IndexByte(whole, c)
		if i < 0 {
			return false
		}
		whole = whole[i+1:]
	}
	return true
}

// FuzzBegin: no body makes a session fail in another way than by an error, and what is sent on is JSON.
func FuzzBegin(f *testing.F) {
	for _, s := range []string{
		chat("q"), `{"model":"m","messages":[{"role":"tool","tool_call_id":"c1","content":"r"}]}`,
		`{"model":"m","messages":[{"role":"user","content":"hey"},{"role":"assistant","content":"hello"},{"role":"user","content":"q"}]}`,
		`{"model":"m","max_tokens":1,"messages":[{"role":"user","content":[{"type":"tool_result","tool_use_id":"c1","content":"r"},{"type":"text","text":"x"}]}]}`,
	} {
		f.Add([]byte(s), true)
		f.Add([]byte(s), false)
	}
	p := policyOf(with(f))
	p.Machine.States["idle"].Instructions = "I {{a}}"
	f.Fuzz(func(t *testing.T, body []byte, openai bool) {
		r := newRig(t, nil, p)
		r.say(p, ana, "hey", "hello")
		turn := r.begin(p, ana, "openai", chat("weather?"))
		if err := turn.Commit(context.Background(), calling("c1", "w", "{}")); err != nil {
			t.Fatal(err)
		}
		d := dialect("anthropic")
		if openai {
			d = dialect("openai")
		}
		turn, e := r.Begin(context.Background(), p, Call{Address: ana, Dialect: d, Body: body, Headers: http.Header{}})
		if e != nil {
			return
		}
		if !json.Valid(turn.Body()) {
			t.Fatalf("%q became %q", body, turn.Body())
		}
		if _, alone := d.In.ParseRequest(body); alone == nil {
			if _, e := turn.Request(); e != nil {
				t.Fatalf("%q is a request, and %q is none: %v", body, turn.Body(), e)
			}
		}
		if err := turn.Commit(context.Background(), answered2("ok")); err != nil {
			t.Fatal(err)
		}
		if got := r.get(p, ana); len(got.Turns) != 3 {
			t.Fatalf("%d turns", len(got.Turns))
		}
	})
}
