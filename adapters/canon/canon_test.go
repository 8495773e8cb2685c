package canon

import (
	"fmt"
	"slices"
	"testing"

	"github.com/weir-dev/weir/adapters/jsonx"
)

// TestEmitter: what Again sends is what reading would have sent.
func TestEmitter(t *testing.T) {
	var got []string
	e := Emitter{To: func(ev *Event) { got = append(got, fmt.Sprintf("%d %d %q %q", ev.Kind, ev.Tool, ev.Text, ev.Origin)) }}
	again := 0
	read := func(data string, before func()) {
		text := []byte(data)
		if e.Again(text) {
			again++
			return
		}
		before()
		e.SendText(Event{Kind: EventReasoning, Tool: 3, Origin: "o"}, jsonx.Root(text).Get("t"))
		e.Read(text)
	}
	nothing := func() {}
	read(`{"t":"one","n":1}`, nothing)
	read(`{"t":"two","n":1}`, nothing)    // again
	read(`{"t":"","n":1}`, nothing)       // read: nothing is sent
	read(`{"t":"three","n":1}`, nothing)  // read: the event before sent nothing
	read(`{"t":"fo\nur","n":1}`, nothing) // again
	read(`{"t":"five","n":2}`, func() { e.Send(Event{Kind: EventPing}) })
	read(`{"t":"six","n":2}`, nothing)   // read: two were sent before
	read(`{"t":7,"n":2}`, nothing)       // no string
	read(`{"t":"eight","n":2}`, nothing) // read
	e.Read(nil)                          // something else came
	read(`{"t":"nine","n":2}`, nothing)  // read
	read(`{"t":"ten","n":2}`, nothing)   // again
	want := []string{`2 3 "one" "o"`, `2 3 "two" "o"`, `2 3 "three" "o"`, `2 3 "fo\nur" "o"`, `9 0 "" ""`, `2 3 "five" "o"`,
		`2 3 "six" "o"`, `2 3 "eight" "o"`, `2 3 "nine" "o"`, `2 3 "ten" "o"`}
	if !slices.Equal(got, want) || again != 3 {
		t.Errorf("%d sent again of\n%q, want\n%q", again, got, want)
	}
}

func TestDraft(t *testing.T) {
	r := &Request{Extra: []string{"logit_bias"}}
	d := NewDraft(r)
	d.Raw(`{"a":`)
	d.Str("x\n")
	d.Raw(`,"b":[`)
	d.Int(-3)
	d.Raw(",")
	d.Num(0.5)
	d.Raw(",")
	d.Bool(true)
	d.Bytes([]byte("]}"))
	if want := `{"a":"x\n","b":[-3,0.5,true]}`; string(d.Text) != want {
		t.Errorf("%s, want %s", d.Text, want)
	}
	d.Drop("seed")
	d.Drop("logit_bias")
	d.Drop("seed")
	if want := []string{"logit_bias", "seed"}; !slices.Equal(d.Dropped, want) || len(r.Extra) != 1 {
		t.Errorf("dropped %q, want %q; the request has %q", d.Dropped, want, r.Extra)
	}
	d.Fail("tools[1]", "tools[%d] is no tool", 1)
	d.Fail("user", "later")
	if d.Err == nil || d.Err.Param != "tools[1]" || d.Err.Message != "tools[1] is no tool" || d.Err.Kind != ErrInvalidRequest {
		t.Errorf("%+v", d.Err)
	}
}

func TestRoleOf(t *testing.T) {
	for _, r := range []Role{RoleSystem, RoleDeveloper, RoleUser, RoleAssistant, RoleTool} {
		if got, ok := RoleOf(string(r)); got != r || !ok {
			t.Errorf("%s is %q, %v", r, got, ok)
		}
	}
	if r, ok := RoleOf("function"); r != "" || ok {
		t.Errorf("a function is %q", r)
	}
}
