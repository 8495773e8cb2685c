package session

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/weir-dev/weir/adapters/canon"
)

// everything is a session that has all that one can have, with turns that fill several segments.
func everything(turns int) *Session {
	at := time.Date(2026, 3, 1, 12, 0, 0, 5, time.UTC)
	s := &Session{
		Tenant: ana.Tenant, Consumer: ana.Consumer, ID: ana.ID, Policy: "default/chat", Revision: 7,
		Created: at, Used: at.Add(time.Hour), Expires: at.Add(2 * time.Hour), Forgotten: 3,
		Summary: &Summary{Text: "before", Turns: 3, Tokens: 9, At: at},
		Slots:   map[string]Slot{"city": {Value: json.RawMessage(`"Ulm"`), Source: FromRule, At: at}, "n": {Value: json.RawMessage(`{"a": 1}`), Source: FromAPI, At: at}},
		Entities: map[string][]string{
			"mail": {"a@b", "c@d"}, "none": nil,
		},
		Intent: "buy", State: "idle", Entered: at, Events: []Event{{At: at, Name: "confirm", From: "a", To: "idle"}},
		Responses: json.RawMessage(`{"turns":[` + strings.Repeat(`"x",`, 500) + `"y"]}`), Erasure: "e",
	}
	for i := range turns {
		t := Said{
			ID: newID(), At: at.Add(time.Duration(i) * time.Second), Tokens: int64(i), Model: "gpt-4o",
			Input:  Messages{{Role: canon.RoleUser, Name: "n", Parts: []canon.Part{{Text: fmt.Sprint("question ", i, strings.Repeat(" and more of it", 40))}}}},
			Output: Messages{{Role: canon.RoleAssistant, Parts: []canon.Part{{Text: "answer"}}}},
		}
		switch i % 4 {
		case 1:
			t.Input[0].Parts = append(t.Input[0].Parts, canon.Part{Kind: canon.PartImage, Image: &canon.Image{MediaType: "image/png", Data: "AAAA", Detail: "low"}})
			t.Output[0].Parts = append(t.Output[0].Parts, canon.Part{Kind: canon.PartToolCall, Call: &canon.ToolCall{ID: "c", Name: "f", Arguments: "{}"}})
		case 2:
			t.Continues = true
			t.Input = Messages{{Role: canon.RoleTool, Parts: []canon.Part{{Kind: canon.PartToolResult, Result: &canon.ToolResult{ID: "c", Name: "f", IsError: true,
				Parts: []canon.Part{{Text: "r"}, {Kind: canon.PartImage, Image: &canon.Image{URL: "https://x/y.png"}}}}}}}}
		case 3:
			t.Output[0].Parts = []canon.Part{{Kind: canon.PartReasoning, Text: "hm", Signature: "s", Origin: "o"}, {Kind: canon.PartRefusal, Text: "no"}}
		}
		s.Turns = append(s.Turns, t)
	}
	return s
}

// former is a session as versions of Weir wrote it that knew nothing of segments.
func former(t testing.TB, c *codec, s *Session, k *Key) []byte {
	t.Helper()
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	head := []byte{formJSON, compressed}
	text = c.zip.EncodeAll(text, nil)
	if k == nil {
		return append(head, text...)
	}
	head[1] |= sealed
	head = append(head, k.id[:]...)
	nonce := make([]byte, nonceLen)
	_, _ = rand.Read(nonce)
	return k.aead.Seal(append(bytes.Clone(head), nonce...), nonce, text, bound(ana.Ref(), head))
}

func exported(t testing.TB, s *Session) string {
	t.Helper()
	text, err := export(s)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestEncode: what is written is read, in the present form and in the former one, with and without a key, opened or not.
func TestEncode(t *testing.T) {
	c, err := newCodec()
	if err != nil {
		t.Fatal(err)
	}
	k := mustKey(t, 1)
	find := func([keyIDLen]byte) *Key { return k }
	for _, turns := range []int{0, 1, 3, 100} {
		s := everything(turns)
		for i := range s.Turns { // they are random
			s.Turns[i].ID = fmt.Sprint(i)
		}
		want := exported(t, s)
		for name, write := range map[string]func(*Session) []byte{
			"now": func(s *Session) []byte {
				b, err := c.encode(s, ana.Ref(), nil)
				if err != nil {
					t.Fatal(err)
				}
				return b
			},
			"sealed": func(s *Session) []byte {
				b, err := c.encode(s, ana.Ref(), k)
				if err != nil {
					t.Fatal(err)
				}
				return b
			},
			"former":        func(s *Session) []byte { return former(t, c, s, nil) },
			"former sealed": func(s *Session) []byte { return former(t, c, s, k) },
		} {
			blob := write(s)
			was := bytes.Clone(blob)
			once, err := c.decode(blob, ana.Ref(), find, false)
			if err != nil {
				t.Fatalf("%s, %d turns: %v", name, turns, err)
			}
			for i := range once.Turns {
				o, n := &s.Turns[i], &once.Turns[i]
				if o.hasImages() != n.hasImages() || o.hasCalls() != n.hasCalls() || o.bytes() != n.bytes() {
					t.Errorf("%s: of the turn %d something else is known before it is opened", name, i)
				}
			}
			// Written again unopened, it is the same.
			again, err := c.encode(once, ana.Ref(), nil)
			if err != nil {
				t.Fatal(err)
			}
			twice, err := c.decode(again, ana.Ref(), find, false)
			if err != nil {
				t.Fatal(err)
			}
			if got := exported(t, twice); got != want {
				t.Errorf("%s, %d turns: written twice\n%s\nwant\n%s", name, turns, got, want)
			}
			if got := exported(t, once); got != want {
				t.Errorf("%s, %d turns\n%s\nwant\n%s", name, turns, got, want)
			}
			if !bytes.Equal(blob, was) {
				t.Errorf("%s: the bytes of the store were changed", name)
			}
		}
	}
}

// TestSegments: a turn that is added leaves full segments as they are, whatever is forgotten or put between turns is right.
func TestSegments(t *testing.T) {
	c, err := newCodec()
	if err != nil {
		t.Fatal(err)
	}
	reload := func(s *Session) *Session {
		t.Helper()
		b, err := c.encode(s, ana.Ref(), nil)
		if err != nil {
			t.Fatal(err)
		}
		out, err := c.decode(b, ana.Ref(), nil, false)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	opened := func(s *Session) (n int) {
		seen := map[*segment]bool{}
		for i := range s.Turns {
			if g := s.Turns[i].in; g != nil && g.raw != nil && !seen[g] {
				seen[g] = true
				n++
			}
		}
		return n
	}
	s := reload(everything(100))
	all := map[*segment]bool{}
	for i := range s.Turns {
		all[s.Turns[i].in] = true
	}
	if len(all) < 5 {
		t.Fatalf("100 turns are in %d segments", len(all))
	}
	var want []string
	for i := range s.Turns {
		want = append(want, s.Turns[i].ID)
	}
	ids := func(s *Session) (out []string) {
		for i := range s.Turns {
			out = append(out, s.Turns[i].ID)
		}
		return out
	}
	fresh := func(id string, m ...canon.Message) Said {
		return Said{ID: id, Input: m, Output: Messages{{Role: canon.RoleAssistant, Parts: []canon.Part{{Text: "a"}}}}}
	}
	if err := s.append(fresh("new", canon.Message{Role: canon.RoleUser, Parts: []canon.Part{{Text: "q"}}})); err != nil {
		t.Fatal(err)
	}
	next := reload(s)
	if n := opened(s); n > 1 {
		t.Errorf("to add a turn %d segments were opened", n)
	}
	want = append(want, "new")
	same(t, ids(next), want)

	// A result in the middle stands behind its call.
	call := fresh("call")
	call.Output[0].Parts = []canon.Part{{Kind: canon.PartToolCall, Call: &canon.ToolCall{ID: "mine", Name: "f", Arguments: "{}"}}}
	s = next
	s.Turns = append(append(append([]Said{}, s.Turns[:40]...), call), s.Turns[40:]...)
	s = reload(s)
	result := canon.Message{Role: canon.RoleTool, Parts: []canon.Part{{Kind: canon.PartToolResult, Result: &canon.ToolResult{ID: "mine"}}}}
	if err := s.append(fresh("result", result)); err != nil {
		t.Fatal(err)
	}
	s = reload(s)
	if got := ids(s); got[40] != "call" || got[41] != "result" || !s.Turns[41].Continues || len(got) != 103 {
		t.Errorf("%d turns, %q", len(got), got[38:44])
	}
	// The oldest go, one by one.
	for len(s.Turns) > 0 {
		left := ids(s)[s.first():]
		s.forget(s.first())
		s = reload(s)
		same(t, ids(s), left)
		if err := openAll(s.Turns); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDamaged: a session of which a part cannot be read is lost, and begins anew with the next answer.
func TestDamaged(t *testing.T) {
	p := policyOf()
	r := newRig(t, nil, p)
	ctx := context.Background()
	for range 3 {
		r.say(p, ana, strings.Repeat("words to be compressed ", 20), "ok")
	}
	blob, v, err := r.memory.Get(ctx, ana.Ref())
	if err != nil {
		t.Fatal(err)
	}
	bad := bytes.Clone(blob)
	bad[len(bad)-6] ^= 0xff // of the last segment
	if _, err := r.memory.Put(ctx, ana.Ref(), bad, v, Life{TTL: time.Hour, Part: p.ID, PartBytes: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Load(ctx, p, ana); !errors.Is(err, errUnreadable) {
		t.Errorf("a damaged session was read: %v", err)
	}
	turn := r.begin(p, ana, "openai", chat("q"))
	same(t, texts(t, string(turn.Body())), []string{"user: q"})
	if err := turn.Commit(ctx, answered2("a")); err != nil || turn.State() != StateLost {
		t.Errorf("%v, state %s", err, turn.State())
	}
	same(t, texts(t, r.say(p, ana, "q2", "a2")), []string{"user: q", "assistant: a", "user: q2"})
}

// FuzzWire: whatever is in a head or in a turn, it is refused or read, and what is read is written and read again.
func FuzzWire(f *testing.F) {
	s := everything(4)
	sizes := make([]int, len(s.Turns))
	for i := range s.Turns {
		raw := appendSaid(nil, &s.Turns[i])
		sizes[i] = len(raw)
		f.Add(raw)
	}
	f.Add(appendUint(appendHead(nil, s, sizes), headSegment, len(sizes)))
	f.Fuzz(func(t *testing.T, b []byte) {
		if input, output, err := readSaid(string(b)); err == nil {
			raw := appendSaid(nil, &Said{Input: input, Output: output})
			in, out, err := readSaid(string(raw))
			if err != nil || !reflect.DeepEqual(in, input) || !reflect.DeepEqual(out, output) {
				t.Fatalf("%v: it was %+v %+v and is %+v %+v", err, input, output, in, out)
			}
		}
		var list []*segment
		var responses *segment
		var s Session
		if s.readHead(string(b), &list, &responses) != nil {
			return
		}
		turns := 0
		for _, g := range list {
			turns += g.turns
		}
		if turns != len(s.Turns) {
			t.Fatalf("%d of %d turns are in segments", turns, len(s.Turns))
		}
	})
}

// FuzzDecode: no bytes in a store do more than not to be read, and what is read can be written.
func FuzzDecode(f *testing.F) {
	c, err := newCodec()
	if err != nil {
		f.Fatal(err)
	}
	k := mustKey(f, 1)
	for _, s := range []*Session{everything(0), everything(2), everything(20)} {
		for _, key := range []*Key{nil, k} {
			b, err := c.encode(s, ana.Ref(), key)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b)
			f.Add(former(f, c, s, key))
		}
	}
	small := &Session{Tenant: ana.Tenant, Consumer: ana.Consumer, ID: ana.ID, Turns: everything(2).Turns[1:]} // too small to be compressed
	small.Turns[0].Input[0].Parts[0].Text = "x"
	b, err := c.encode(small, ana.Ref(), nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte{formJSON, 0, '{', '}'})
	f.Add([]byte{formBlocks, 0, 0x0a, 0x01, 0x00})
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := c.decode(b, ana.Ref(), func(id [keyIDLen]byte) *Key {
			if id == k.id {
				return k
			}
			return nil
		}, false)
		if err != nil {
			return
		}
		if s.Tenant != ana.Tenant || s.Consumer != ana.Consumer || s.ID != ana.ID {
			t.Fatalf("a session of %s/%s/%s was read", s.Tenant, s.Consumer, s.ID)
		}
		if s.open() != nil {
			return
		}
		want, err := export(s)
		if err != nil {
			return // a year that JSON does not have
		}
		again, err := c.encode(s, ana.Ref(), nil)
		if err != nil {
			t.Fatal(err)
		}
		back, err := c.decode(again, ana.Ref(), nil, false)
		if err != nil {
			t.Fatal(err)
		}
		if b[0] == formBlocks {
			if got := exported(t, back); got != string(want) {
				t.Fatalf("it was\n%s\nand is\n%s", want, got)
			}
		}
	})
}
