package responses

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/extproc/session"
)

// rig is a Keeper over a real Manager in memory.
type rig struct {
	*Keeper
	t      testing.TB
	m      *session.Manager
	policy *session.Policy
	caller Caller
	mu     sync.Mutex
	lost   []error
}

func newRig(t testing.TB, change ...func(*session.Policy)) *rig {
	t.Helper()
	m, err := session.New(session.Options{Now: time.Now, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	p := &session.Policy{ID: "ns/p", KeepTurns: 100, KeepBytes: 1 << 20, Idle: time.Hour, Absolute: time.Hour, MemoryBytes: 64 << 20}
	for _, f := range change {
		f(p)
	}
	m.Use([]*session.Policy{p})
	r := &rig{t: t, m: m, policy: p, caller: Caller{Tenant: "acme", Consumer: "amy", Policy: p}}
	seed := rand.NewChaCha8([32]byte{1})
	r.Keeper = New(m, func() time.Time { return time.Unix(1700000000, 0) }, &locked{r: seed}, func(err error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.lost = append(r.lost, err)
	})
	return r
}

// locked is a source of bytes for several goroutines.
type locked struct {
	mu sync.Mutex
	r  io.Reader
}

func (l *locked) Read(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.r.Read(p)
}

// begin begins an exchange that must succeed.
func (r *rig) begin(c Caller, body string) *Exchange {
	r.t.Helper()
	x, err := r.Begin(context.Background(), c, []byte(body))
	if err != nil {
		r.t.Fatalf("%s: %v", body, err)
	}
	return x
}

// reply is the object of an answer.
type reply struct {
	ID, Status string
	Store      bool
	Output     []struct{ ID, Type string }
	raw        []byte
}

// say asks and has the model answer, whole or as a stream.
func (r *rig) say(body string, parts ...canon.Part) (a reply, conversation string) {
	r.t.Helper()
	return r.sayAs(r.caller, body, parts...)
}

func (r *rig) sayAs(c Caller, body string, parts ...canon.Part) (a reply, conversation string) {
	r.t.Helper()
	x := r.begin(c, body)
	res := &canon.Response{Parts: parts, Finish: canon.FinishStop}
	if x.Stream() {
		e := x.Dialect().In.NewStreamEncoder(x.Reply())
		var out []byte
		res.Events(func(ev *canon.Event) { out = e.Append(out, ev) })
		out = e.End(out)
		frames := bytes.Split(bytes.TrimSpace(out), []byte("\n\n"))
		_, data, _ := bytes.Cut(frames[len(frames)-1], []byte("data: "))
		var f struct{ Response json.RawMessage }
		if err := json.Unmarshal(data, &f); err != nil {
			r.t.Fatal(err)
		}
		a.raw = f.Response
	} else {
		a.raw = x.Dialect().In.AppendResponse(nil, res, x.Reply())
	}
	if err := json.Unmarshal(a.raw, &a); err != nil {
		r.t.Fatalf("%v in %s", err, a.raw)
	}
	return a, told(x.Chat())
}

// told is a conversation on one line.
func told(c *canon.Request) string {
	var out []string
	for _, m := range c.Messages {
		for _, p := range m.Parts {
			switch {
			case p.Call != nil:
				out = append(out, fmt.Sprintf("%s calls %s(%s)", m.Role, p.Call.Name, p.Call.Arguments))
			case p.Result != nil:
				out = append(out, fmt.Sprintf("%s %s gives %s", m.Role, p.Result.Name, p.Result.Parts[0].Text))
			default:
				out = append(out, fmt.Sprintf("%s %s", m.Role, p.Text))
			}
		}
	}
	return strings.Join(out, "; ")
}

func text(s string) canon.Part { return canon.Part{Text: s} }

func call(id, name, args string) canon.Part {
	return canon.Part{Kind: canon.PartToolCall, Call: &canon.ToolCall{ID: id, Name: name, Arguments: args}}
}

// get asks for what is kept: the answer, or the error's status and message.
func (r *rig) ask(method, path, body string) string {
	r.t.Helper()
	return r.askAs(r.caller.Tenant, r.caller.Consumer, method, path, body)
}

func (r *rig) askAs(tenant, consumer, method, path, body string) string {
	r.t.Helper()
	path, query, _ := strings.Cut(path, "?")
	q, err := url.ParseQuery(query)
	if err != nil {
		r.t.Fatal(err)
	}
	if !IsResource("/team/v1" + path) {
		r.t.Fatalf("%s is no resource", path)
	}
	got, cerr := r.Resource(context.Background(), &Request{Tenant: tenant, Consumer: consumer, Policies: []*session.Policy{r.policy},
		Method: method, Path: "/team/v1" + path, Query: q, Body: []byte(body)})
	if cerr != nil {
		return fmt.Sprintf("%d %s", cerr.HTTPStatus(), cerr.Message)
	}
	if !json.Valid(got) {
		r.t.Fatalf("%s %s: not JSON: %s", method, path, got)
	}
	return string(got)
}

func (r *rig) want(what, got, want string) {
	r.t.Helper()
	if got != want {
		r.t.Errorf("%s\n got %s\nwant %s", what, got, want)
	}
}

func TestChain(t *testing.T) {
	r := newRig(t)
	one, said := r.say(`{"model":"m","input":"one","instructions":"Be brief."}`, text("eins"))
	r.want("first", said, "system Be brief.; user one")
	two, said := r.say(`{"model":"m","input":"two","stream":true,"previous_response_id":"`+one.ID+`"}`, text("zwei"))
	r.want("second, without the instructions of the first", said, "user one; assistant eins; user two")
	_, said = r.say(`{"model":"m","input":"three","instructions":"Now sing.","previous_response_id":"`+two.ID+`"}`, text("drei"))
	r.want("third", said, "system Now sing.; user one; assistant eins; user two; assistant zwei; user three")
	_, said = r.say(`{"model":"m","input":"other","previous_response_id":"`+one.ID+`"}`, text("anders"))
	r.want("a branch from the first", said, "user one; assistant eins; user other")
	if one.ID[:37] != two.ID[:37] || one.ID == two.ID || len(one.ID) != 53 {
		t.Errorf("ids %s %s", one.ID, two.ID)
	}
	r.want("as it was answered", r.ask("GET", "/responses/"+two.ID, ""), string(two.raw))
	if len(r.lost) > 0 {
		t.Error(r.lost)
	}
}

func TestTools(t *testing.T) {
	r := newRig(t)
	one, _ := r.say(`{"model":"m","input":"Weather?","tools":[{"type":"function","name":"look"}]}`, text("Looking."), call("c1", "look", `{"at":"Bonn"}`))
	two, said := r.say(`{"model":"m","previous_response_id":"`+one.ID+`","input":[{"type":"function_call_output","call_id":"c1","output":"sun"}]}`, text("Sunny."))
	r.want("the result behind its call", said, `user Weather?; assistant Looking.; assistant calls look({"at":"Bonn"}); tool look gives sun`)
	_, cerr := r.Begin(context.Background(), r.caller, []byte(`{"model":"m","previous_response_id":"`+one.ID+`","input":"Never mind."}`))
	if cerr == nil || cerr.Message != "No tool output found for function call c1." {
		t.Errorf("%v", cerr)
	}
	r.want("what was put in", r.ask("GET", "/responses/"+two.ID+"/input_items", ""),
		`{"object":"list","data":[{"id":"fco_`+two.ID[5:]+`_i0","type":"function_call_output","status":"completed","call_id":"c1","output":"sun"}],"first_id":"fco_`+two.ID[5:]+`_i0","last_id":"fco_`+two.ID[5:]+`_i0","has_more":false}`)
}

// TestReferences: clients may send the ids of what they got in the place of it.
func TestReferences(t *testing.T) {
	r := newRig(t)
	one, _ := r.say(`{"model":"m","input":"one"}`, text("eins"), call("c1", "f", "{}"))
	_, said := r.say(`{"model":"m","input":[{"role":"user","content":"again"},{"type":"item_reference","id":"`+one.Output[0].ID+`"},{"id":"`+one.Output[1].ID+`"},{"type":"function_call_output","call_id":"c1","output":"x"}]}`, text("a"))
	r.want("references", said, "user again; assistant eins; assistant calls f({}); tool f gives x")
	for _, id := range []string{"msg_1", "msg_" + strings.Repeat("0", 48) + "_0", one.Output[0].ID + "9"} {
		_, cerr := r.Begin(context.Background(), r.caller, []byte(`{"model":"m","input":[{"type":"item_reference","id":"`+id+`"}]}`))
		if cerr == nil || cerr.HTTPStatus() != 404 || !strings.Contains(cerr.Message, "not found") {
			t.Errorf("%s: %v", id, cerr)
		}
	}
}

func TestConversation(t *testing.T) {
	r := newRig(t)
	var c struct{ ID string }
	if err := json.Unmarshal([]byte(r.ask("POST", "/conversations", `{"metadata":{"a":"b"},"items":[{"role":"system","content":"Rhyme."}]}`)), &c); err != nil {
		t.Fatal(err)
	}
	one, said := r.say(`{"model":"m","input":"one","conversation":"`+c.ID+`"}`, text("eins"))
	r.want("first", said, "system Rhyme.; user one")
	_, said = r.say(`{"model":"m","input":"two","conversation":{"id":"`+c.ID+`"},"store":false}`, text("zwei"))
	r.want("second", said, "system Rhyme.; user one; assistant eins; user two")
	_, said = r.say(`{"model":"m","input":"three","conversation":"`+c.ID+`"}`, text("drei"))
	r.want("what was not to be stored is not there", said, "system Rhyme.; user one; assistant eins; user three")

	r.want("shown", r.ask("GET", "/conversations/"+c.ID, ""), `{"id":"`+c.ID+`","object":"conversation","created_at":1700000000,"metadata":{"a":"b"}}`)
	r.want("changed", r.ask("POST", "/conversations/"+c.ID, `{"metadata":{"x":"y"}}`), `{"id":"`+c.ID+`","object":"conversation","created_at":1700000000,"metadata":{"x":"y"}}`)
	var list struct {
		Data    []struct{ ID, Type, Role string }
		HasMore bool `json:"has_more"`
	}
	page := r.ask("GET", "/conversations/"+c.ID+"/items?order=asc&limit=2&after="+one.Output[0].ID, "")
	if err := json.Unmarshal([]byte(page), &list); err != nil || len(list.Data) != 2 || list.HasMore || list.Data[1].Role != "assistant" {
		t.Errorf("%v %s", err, page)
	}
	added := r.ask("POST", "/conversations/"+c.ID+"/items", `{"items":[{"role":"user","content":"four"}]}`)
	if err := json.Unmarshal([]byte(added), &list); err != nil || len(list.Data) != 1 {
		t.Fatalf("%v %s", err, added)
	}
	four := list.Data[0].ID
	if got := r.ask("GET", "/conversations/"+c.ID+"/items/"+four, ""); !strings.Contains(got, `"four"`) {
		t.Error(got)
	}
	// The first answer is taken away from the conversation, though not from its response's history of items.
	if got := r.ask("DELETE", "/conversations/"+c.ID+"/items/"+one.Output[0].ID, ""); !strings.Contains(got, c.ID) {
		t.Error(got)
	}
	r.want("gone", r.ask("GET", "/conversations/"+c.ID+"/items/"+one.Output[0].ID, ""), "404 Item with id '"+one.Output[0].ID+"' not found.")
	_, said = r.say(`{"model":"m","conversation":"`+c.ID+`"}`, text("vier"))
	r.want("without input, and without the item", said, "system Rhyme.; user one; user three; assistant drei; user four")

	// A response that is deleted leaves its items to the conversation.
	r.want("deleted", r.ask("DELETE", "/responses/"+one.ID, ""), `{"id":"`+one.ID+`","object":"response","deleted":true}`)
	r.want("gone", r.ask("GET", "/responses/"+one.ID, ""), "404 Response with id '"+one.ID+"' not found.")
	_, said = r.say(`{"model":"m","input":"five","conversation":"`+c.ID+`"}`, text("fünf"))
	r.want("items stay", said, "system Rhyme.; user one; user three; assistant drei; user four; assistant vier; user five")

	r.want("deleted", r.ask("DELETE", "/conversations/"+c.ID, ""), `{"id":"`+c.ID+`","object":"conversation.deleted","deleted":true}`)
	missing := "404 Conversation with id '" + c.ID + "' not found."
	r.want("gone", r.ask("GET", "/conversations/"+c.ID, ""), missing)
	_, cerr := r.Begin(context.Background(), r.caller, []byte(`{"model":"m","input":"x","conversation":"`+c.ID+`"}`))
	r.want("gone", fmt.Sprintf("%d %s", cerr.HTTPStatus(), cerr.Message), missing)
}

func TestDelete(t *testing.T) {
	r := newRig(t)
	one, _ := r.say(`{"model":"m","input":"one"}`, text("eins"))
	two, _ := r.say(`{"model":"m","input":"two","previous_response_id":"`+one.ID+`"}`, text("zwei"))
	three, _ := r.say(`{"model":"m","input":"three","previous_response_id":"`+two.ID+`"}`, text("drei"))
	r.want("delete", r.ask("DELETE", "/responses/"+two.ID, ""), `{"id":"`+two.ID+`","object":"response","deleted":true}`)
	r.want("twice", r.ask("DELETE", "/responses/"+two.ID, ""), "404 Response with id '"+two.ID+"' not found.")
	r.want("its input", r.ask("GET", "/responses/"+two.ID+"/input_items", ""), "404 Response with id '"+two.ID+"' not found.")
	_, said := r.say(`{"model":"m","input":"four","previous_response_id":"`+three.ID+`"}`, text("vier"))
	r.want("nothing of it is said again", said, "user one; assistant eins; user three; assistant drei; user four")
	_, cerr := r.Begin(context.Background(), r.caller, []byte(`{"model":"m","input":"x","previous_response_id":"`+two.ID+`"}`))
	if cerr == nil || cerr.HTTPStatus() != 400 || cerr.Code != "previous_response_not_found" || cerr.Message != "Previous response with id '"+two.ID+"' not found." {
		t.Errorf("%+v", cerr)
	}
}

// TestNobodyElse: an id is of no use to another tenant, nor to another consumer of the same.
func TestNobodyElse(t *testing.T) {
	r := newRig(t)
	one, _ := r.say(`{"model":"m","input":"secret"}`, text("eins"))
	var c struct{ ID string }
	if err := json.Unmarshal([]byte(r.ask("POST", "/conversations", "")), &c); err != nil {
		t.Fatal(err)
	}
	for _, who := range []Caller{{Tenant: "evil", Consumer: "amy", Policy: r.policy}, {Tenant: "acme", Consumer: "bob", Policy: r.policy}} {
		for _, path := range []string{"/responses/" + one.ID, "/responses/" + one.ID + "/input_items", "/conversations/" + c.ID, "/conversations/" + c.ID + "/items"} {
			if got := r.askAs(who.Tenant, who.Consumer, "GET", path, ""); !strings.HasPrefix(got, "404 ") {
				t.Errorf("%s of %s: %s", path, who.Tenant, got)
			}
		}
		if got := r.askAs(who.Tenant, who.Consumer, "DELETE", "/responses/"+one.ID, ""); !strings.HasPrefix(got, "404 ") {
			t.Error(got)
		}
		for _, body := range []string{`{"model":"m","input":"x","previous_response_id":"` + one.ID + `"}`, `{"model":"m","input":"x","conversation":"` + c.ID + `"}`,
			`{"model":"m","input":[{"type":"item_reference","id":"` + one.Output[0].ID + `"}]}`} {
			if _, cerr := r.Begin(context.Background(), who, []byte(body)); cerr == nil || !strings.Contains(cerr.Message, "not found") {
				t.Errorf("%s: %v", body, cerr)
			}
		}
	}
	r.want("still there", r.ask("GET", "/responses/"+one.ID, ""), string(one.raw))
}

func TestStoreFalse(t *testing.T) {
	r := newRig(t)
	one, _ := r.say(`{"model":"m","input":"one","store":false}`, text("eins"))
	if one.Store {
		t.Error("it says that it is stored")
	}
	r.want("not kept", r.ask("GET", "/responses/"+one.ID, ""), "404 Response with id '"+one.ID+"' not found.")
	// Without a policy nothing is kept, and the answer says so.
	two, said := r.sayAs(Caller{Tenant: "acme"}, `{"model":"m","input":"one"}`, text("eins"))
	if two.Store || said != "user one" {
		t.Errorf("%s %s", two.raw, said)
	}
	_, cerr := r.Begin(context.Background(), Caller{Tenant: "acme"}, []byte(`{"model":"m","input":"x","previous_response_id":"`+one.ID+`"}`))
	if cerr == nil || !strings.Contains(cerr.Message, "no SessionPolicy covers it") {
		t.Errorf("%v", cerr)
	}
	if _, kept := r.begin(Caller{}, `{"model":"m","input":"x"}`).Address(); kept {
		t.Error("it has an address")
	}
}

// TestFailedAnswersAreNotKept: what broke off is nothing to go on from.
func TestFailedAnswersAreNotKept(t *testing.T) {
	r := newRig(t)
	x := r.begin(r.caller, `{"model":"m","input":"one","stream":true}`)
	e := x.Dialect().In.NewStreamEncoder(x.Reply())
	out := e.Append(nil, &canon.Event{Kind: canon.EventText, Text: "ei"})
	out = e.Append(out, &canon.Event{Kind: canon.EventError, Err: &canon.Error{Kind: canon.ErrBadGateway, Message: "cut"}})
	out = e.End(out)
	if !bytes.Contains(out, []byte("response.failed")) {
		t.Fatalf("%s", out)
	}
	id := "resp_" + x.Reply().ID
	r.want("not kept", r.ask("GET", "/responses/"+id, ""), "404 Response with id '"+id+"' not found.")
}

// TestLimitedCall: a call whose arguments a limit cut off is shown, and not said again.
func TestLimitedCall(t *testing.T) {
	r := newRig(t)
	x := r.begin(r.caller, `{"model":"m","input":"one","stream":true}`)
	e := x.Dialect().In.NewStreamEncoder(x.Reply())
	for _, ev := range []canon.Event{{Kind: canon.EventText, Text: "so"}, {Kind: canon.EventToolStart, CallID: "c", Name: "f"}, {Kind: canon.EventToolDelta, Text: `{"a":`}, {Kind: canon.EventFinish, Finish: canon.FinishLength}} {
		e.Append(nil, &ev)
	}
	e.End(nil)
	id := "resp_" + x.Reply().ID
	if got := r.ask("GET", "/responses/"+id, ""); !strings.Contains(got, `"status":"incomplete","arguments":"{\"a\":"`) {
		t.Error(got)
	}
	_, said := r.say(`{"model":"m","input":"go on","previous_response_id":"`+id+`"}`, text("x"))
	r.want("history", said, "user one; assistant so; user go on")
}

func TestBounds(t *testing.T) {
	long := strings.Repeat("x", 4000)
	t.Run("turns", func(t *testing.T) {
		r := newRig(t, func(p *session.Policy) { p.KeepTurns = 2 })
		one, _ := r.say(`{"model":"m","input":"one"}`, text("1"))
		two, _ := r.say(`{"model":"m","input":"two","previous_response_id":"`+one.ID+`"}`, text("2"))
		three, _ := r.say(`{"model":"m","input":"three","previous_response_id":"`+two.ID+`"}`, text("3"))
		r.want("forgotten", r.ask("GET", "/responses/"+one.ID, ""), "404 Response with id '"+one.ID+"' not found.")
		_, said := r.say(`{"model":"m","input":"four","previous_response_id":"`+three.ID+`"}`, text("4"))
		r.want("history", said, "user two; assistant 2; user three; assistant 3; user four")
	})
	t.Run("bytes", func(t *testing.T) {
		r := newRig(t, func(p *session.Policy) { p.KeepBytes = 8000 })
		one, _ := r.say(`{"model":"m","input":"`+long+`"}`, text("1"))
		two, _ := r.say(`{"model":"m","input":"`+long+`","previous_response_id":"`+one.ID+`"}`, text("2"))
		if !two.Store {
			t.Error("the second turn is not kept")
		}
		r.want("forgotten", r.ask("GET", "/responses/"+one.ID, ""), "404 Response with id '"+one.ID+"' not found.")
		large, _ := r.say(`{"model":"m","input":"`+long+long+long+`"}`, text("1"))
		if large.Store || len(r.lost) != 1 || !errors.Is(r.lost[0], errTooLarge) {
			t.Errorf("too large: store %v, %v", large.Store, r.lost)
		}
		r.want("not kept", r.ask("GET", "/responses/"+large.ID, ""), "404 Response with id '"+large.ID+"' not found.")
	})
	t.Run("tokens", func(t *testing.T) {
		r := newRig(t, func(p *session.Policy) { p.HistoryTokens = 300 })
		one, _ := r.say(`{"model":"m","input":"`+long+`"}`, text("1"))
		two, _ := r.say(`{"model":"m","input":"two","previous_response_id":"`+one.ID+`"}`, text("2"), call("c", "f", "{}"))
		three, said := r.say(`{"model":"m","input":[{"type":"function_call_output","call_id":"c","output":"y"}],"previous_response_id":"`+two.ID+`"}`, text("3"))
		r.want("history", said, "user two; assistant 2; assistant calls f({}); tool f gives y")
		// The turn with the call is over the bound, and stays with the turn that answers it.
		r.policy.HistoryTokens = 100
		_, said = r.say(`{"model":"m","input":"four","previous_response_id":"`+three.ID+`"}`, text("4"))
		r.want("no result without its call", said, "user two; assistant 2; assistant calls f({}); tool f gives y; assistant 3; user four")
		r.policy.HistoryTokens = 1
		_, said = r.say(`{"model":"m","input":"four","previous_response_id":"`+three.ID+`"}`, text("4"))
		r.want("none fits", said, "user four")
	})
}

// TestAtOnce: requests that continue one response at the same time lose nothing, and do not see each other.
func TestAtOnce(t *testing.T) {
	r := newRig(t)
	one, _ := r.say(`{"model":"m","input":"one"}`, text("eins"))
	const n = 20
	ids := make([]string, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			a, said := r.say(fmt.Sprintf(`{"model":"m","input":"at once %d","previous_response_id":%q}`, i, one.ID), text("x"))
			ids[i] = a.ID
			if want := fmt.Sprintf("user one; assistant eins; user at once %d", i); said != want {
				t.Errorf("got %s, want %s", said, want)
			}
		})
	}
	wg.Wait()
	for i, id := range ids {
		if got := r.ask("GET", "/responses/"+id+"/input_items", ""); !strings.Contains(got, fmt.Sprintf(`"at once %d"`, i)) {
			t.Errorf("%d: %s", i, got)
		}
	}
	if len(r.lost) > 0 {
		t.Error(r.lost)
	}
}

// broken is a store that cannot be reached.
type broken struct{ Sessions }

func (broken) Load(context.Context, *session.Policy, session.Address) (*session.Session, error) {
	return nil, session.ErrUnavailable
}

func (broken) Update(context.Context, *session.Policy, session.Address, func(*session.Session) error) (*session.Session, error) {
	return nil, session.ErrUnavailable
}

// TestStoreAway: what was said before is not left out in silence, and what could not be kept is not said to be.
func TestStoreAway(t *testing.T) {
	r := newRig(t)
	one, _ := r.say(`{"model":"m","input":"one"}`, text("eins"))
	r.sessions = broken{}
	_, cerr := r.Begin(context.Background(), r.caller, []byte(`{"model":"m","input":"x","previous_response_id":"`+one.ID+`"}`))
	if cerr == nil || cerr.HTTPStatus() != 503 || cerr.RetryAfter == 0 {
		t.Errorf("%+v", cerr)
	}
	if got := r.ask("GET", "/responses/"+one.ID, ""); !strings.HasPrefix(got, "503 ") {
		t.Error(got)
	}
	for _, stream := range []string{"false", "true"} {
		two, _ := r.say(`{"model":"m","input":"two","stream":`+stream+`}`, text("zwei"))
		if two.Store || two.Status != "completed" {
			t.Errorf("%s", two.raw)
		}
	}
	if len(r.lost) != 2 {
		t.Error(r.lost)
	}
}

func TestResourceRefuses(t *testing.T) {
	r := newRig(t)
	one, _ := r.say(`{"model":"m","input":"one"}`, text("eins"))
	tests := []struct{ method, path, body, want string }{
		{"PUT", "/responses/" + one.ID, "", "405 This path does not take the method PUT."},
		{"GET", "/responses/" + one.ID + "?stream=true", "", "400 Only a response made in the background can be streamed again, and none is here."},
		{"POST", "/responses/" + one.ID + "/cancel", "", "400 Cannot cancel a synchronous response."},
		{"GET", "/responses/" + one.ID + "/input_items?limit=1000", "", `400 limit must be a whole number between 1 and 100, not "1000"`},
		{"GET", "/responses/resp_1", "", "404 Response with id 'resp_1' not found."},
		{"GET", "/conversations/conv_1", "", "404 Conversation with id 'conv_1' not found."},
		{"GET", "/conversations/conv_" + one.ID[5:37], "", "404 Conversation with id 'conv_" + one.ID[5:37] + "' not found."},
		{"GET", "/conversations", "", "405 This path does not take the method GET."},
		{"POST", "/conversations", `{"items":1}`, "400 items must be an array of items, not a number"},
	}
	for _, tt := range tests {
		r.want(tt.method+" "+tt.path, r.ask(tt.method, tt.path, tt.body), tt.want)
	}
}

func TestIsResource(t *testing.T) {
	tests := map[string]bool{
		"/v1/responses": false, "/v1/responses/": false, "/v1/responses/input_tokens": false, "/v1/responses/compact": false, "/v1/responses/resp_1": true,
		"/x/v1/responses/resp_1/": true, "/v1/responses/resp_1/input_items": true, "/v1/responses/resp_1/cancel": true, "/v1/responses/resp_1/other": false,
		"/v1/responses//input_items": false, "/v1/conversations": true, "/team/v1/conversations": true, "/v1/conversations/c": true, "/v1/conversations/c/items": true,
		"/v1/conversations/c/items/i": true, "/v1/conversations/c/items/i/j": false, "/v1/conversations/c/x": false, "/v1/chat/completions": false, "/": false, "": false,
	}
	for path, want := range tests {
		if got := IsResource(path); got != want {
			t.Errorf("%s: %v", path, got)
		}
	}
}

// TestPrint: what somebody adds to the chat request is said, with what canon cannot carry.
func TestPrint(t *testing.T) {
	r := newRig(t)
	x := r.begin(r.caller, `{"model":"gpt-5","input":"q","prompt_cache_key":"k","truncation":"auto","stream":true}`)
	c := *x.Chat()
	c.Messages = append([]canon.Message{{Role: canon.RoleSystem, Parts: []canon.Part{text("state")}}}, c.Messages...)
	body, dropped, cerr := x.Print(&c)
	if cerr != nil {
		t.Fatal(cerr)
	}
	r.want("body", string(body), `{"model":"gpt-5","messages":[{"role":"system","content":"state"},{"role":"user","content":"q"}],"stream":true,"stream_options":{"include_usage":true},"prompt_cache_key":"k"}`)
	r.want("dropped", strings.Join(dropped, ","), "truncation")
	if at, kept := x.Address(); !kept || at.Tenant != "acme" || at.Consumer != "amy" || len(at.ID) != 32 {
		t.Errorf("%+v %v", at, kept)
	}
}
