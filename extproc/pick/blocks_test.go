package pick

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/cespare/xxhash/v2"

	"github.com/weir-dev/weir/adapters/canon"
)

func text(role canon.Role, parts ...string) canon.Message {
	m := canon.Message{Role: role}
	for _, p := range parts {
		m.Parts = append(m.Parts, canon.Part{Text: p})
	}
	return m
}

// conversation has all that a prompt can have.
func conversation() *canon.Request {
	return &canon.Request{
		Tools: []canon.Tool{{Name: "weather", Description: "of a city", Parameters: json.RawMessage(`{"type":"object","properties":{"city":{"type":"string","x":"a \" b"}}}`)}},
		Messages: []canon.Message{
			text(canon.RoleSystem, strings.Repeat("You are kind. ", 40)),
			{Role: canon.RoleUser, Parts: []canon.Part{{Text: "What is this?"}, {Kind: canon.PartImage, Image: &canon.Image{MediaType: "image/png", Data: strings.Repeat("QUJD", 5000)}}}},
			{Role: canon.RoleAssistant, Parts: []canon.Part{{Kind: canon.PartReasoning, Text: "hm"}, {Kind: canon.PartToolCall, Call: &canon.ToolCall{ID: "1", Name: "weather", Arguments: `{"city":"Rome"}`}}}},
			{Role: canon.RoleTool, Parts: []canon.Part{{Kind: canon.PartToolResult, Result: &canon.ToolResult{ID: "1", Parts: []canon.Part{{Text: "sunny " + strings.Repeat("and warm ", 60)}}}}}},
			text(canon.RoleUser, "Thanks. "+strings.Repeat("More! ", 50)),
		},
	}
}

const testBlock = 16

func blocksOf(req *canon.Request) []uint64 { return AppendBlocks(nil, "m", req, testBlock) }

// TestSameForAllDialects: what is no part of the prompt, and what dialects write differently, does not count.
func TestSameForAllDialects(t *testing.T) {
	want := blocksOf(conversation())
	if len(want) < 15 {
		t.Fatalf("only %d blocks", len(want))
	}
	for name, change := range map[string]func(*canon.Request){
		"white space of a schema": func(r *canon.Request) {
			var out bytes.Buffer
			_ = json.Indent(&out, r.Tools[0].Parameters, "", "\t")
			r.Tools[0].Parameters = out.Bytes()
		},
		"white space of arguments": func(r *canon.Request) { r.Messages[2].Parts[1].Call.Arguments = "{ \"city\" :\n\"Rome\" }" },
		"developer is system":      func(r *canon.Request) { r.Messages[0].Role = canon.RoleDeveloper },
		"text in two parts": func(r *canon.Request) {
			s := r.Messages[0].Parts[0].Text
			r.Messages[0].Parts = []canon.Part{{Text: s[:7]}, {Text: s[7:], CacheMark: true}}
		},
		"identifiers of calls": func(r *canon.Request) { r.Messages[2].Parts[1].Call.ID = "2"; r.Messages[3].Parts[0].Result.ID = "2" },
		"sampling":             func(r *canon.Request) { x := 0.5; r.Temperature, r.Stream, r.User = &x, true, "me" },
		"signatures":           func(r *canon.Request) { r.Messages[2].Parts[0].Signature = "x" },
	} {
		t.Run(name, func(t *testing.T) {
			r := conversation()
			change(r)
			if got := blocksOf(r); !slices.Equal(got, want) {
				t.Errorf("%x\nwant %x", got, want)
			}
		})
	}
}

// TestWhatCounts: blocks are the same up to what changes, and none is after it.
func TestWhatCounts(t *testing.T) {
	want := blocksOf(conversation())
	for name, c := range map[string]struct {
		change func(*canon.Request)
		same   int // blocks, at least; the first that holds the change is after it
		most   int
	}{
		"a tool":          {func(r *canon.Request) { r.Tools[0].Name = "clock" }, 0, 0},
		"a schema":        {func(r *canon.Request) { r.Tools[0].Parameters = json.RawMessage(`{}`) }, 0, 1},
		"space in a text": {func(r *canon.Request) { r.Messages[0].Parts[0].Text = strings.Repeat("You are  kind. ", 40) }, 1, 2},
		"white space in a string of a schema": {func(r *canon.Request) {
			r.Tools[0].Parameters = json.RawMessage(`{"type":"object","properties":{"city":{"type":"string","x":"a \"  b"}}}`)
		}, 1, 1},
		"a role":        {func(r *canon.Request) { r.Messages[1].Role = canon.RoleAssistant }, 9, 11},
		"an image":      {func(r *canon.Request) { r.Messages[1].Parts[1].Image.Data += "QUJD" }, 9, 11},
		"arguments":     {func(r *canon.Request) { r.Messages[2].Parts[1].Call.Arguments = `{"city":"Bonn"}` }, 10, 12},
		"a tool result": {func(r *canon.Request) { r.Messages[3].Parts[0].Result.Parts[0].Text += "!" }, 18, len(want) - 1},
		"the end":       {func(r *canon.Request) { r.Messages[4].Parts[0].Text += "!" }, len(want) - 1, len(want)},
	} {
		t.Run(name, func(t *testing.T) {
			r := conversation()
			c.change(r)
			got := blocksOf(r)
			same := 0
			for same < min(len(got), len(want)) && got[same] == want[same] {
				same++
			}
			if same < c.same || same > c.most {
				t.Errorf("the first %d of %d blocks are the same, want %d to %d", same, len(want), c.same, c.most)
			}
			for _, h := range got[same:] {
				if slices.Contains(want, h) {
					t.Errorf("block %x comes back after the change", h)
				}
			}
		})
	}
	if got := AppendBlocks(nil, "other", conversation(), testBlock); got[0] == want[0] {
		t.Error("the model does not count")
	}
}

// TestBlocksAreStable: replicas of all versions must agree.
func TestBlocksAreStable(t *testing.T) {
	got := AppendBlocks([]uint64{7}, "m", &canon.Request{Messages: []canon.Message{text(canon.RoleUser, strings.Repeat("x", 130))}}, 16)
	want := []uint64{7, 0xedb5699afcbcfbfe, 0xc80e5b1b3602c384}
	if !slices.Equal(got, want) {
		t.Errorf("%#x, want %#x", got, want)
	}
	if got := AppendBlocks(nil, "m", conversation(), 0); got != nil {
		t.Errorf("blocks of no length: %x", got)
	}
}

// TestBlocksOfATurn: the next turn of a conversation begins with the blocks of the one before.
func TestBlocksOfATurn(t *testing.T) {
	r := conversation()
	before := blocksOf(r)
	r.Messages = append(r.Messages, text(canon.RoleAssistant, strings.Repeat("You are welcome. ", 20)), text(canon.RoleUser, "Bye"))
	if after := blocksOf(r); len(after) <= len(before) || !slices.Equal(after[:len(before)], before) {
		t.Errorf("%x does not begin with %x", after, before)
	}
}

// FuzzBlocks compares the chain with one that first writes all and then cuts.
func FuzzBlocks(f *testing.F) {
	f.Add("hello", "{\"a\": [1, 2]}", "{\"b\"", uint8(3))
	f.Add(strings.Repeat("long ", 100), `"\"  \\"`, "\"", uint8(0))
	f.Fuzz(func(t *testing.T, s, schema, arguments string, size uint8) {
		block := int(size)%8 + 1
		r := &canon.Request{
			Tools: []canon.Tool{{Name: "t", Description: s, Parameters: json.RawMessage(schema)}},
			Messages: []canon.Message{text(canon.RoleUser, s, s), {Role: canon.RoleAssistant, Parts: []canon.Part{
				{Kind: canon.PartToolCall, Call: &canon.ToolCall{Name: s, Arguments: arguments}}, {Kind: canon.PartToolCall}, {Kind: canon.PartImage}, {Kind: canon.PartToolResult}}}},
		}
		all := "\x00tool\x00t\x00" + s + "\x00" + squeeze(schema) + "\x00user\x00\x00" + s + s + "\x00assistant\x00\x00\x00call\x00" + s + "\x00" + squeeze(arguments)
		var want []uint64
		hash := xxhash.Sum64String("m")
		for n := block * bytesPerToken; len(all) >= n; all = all[n:] {
			d := xxhash.NewWithSeed(hash)
			_, _ = d.WriteString(all[:n])
			hash = d.Sum64()
			want = append(want, hash)
		}
		if got := AppendBlocks(nil, "m", r, block); !slices.Equal(got, want) {
			t.Errorf("%x, want %x", got, want)
		}
	})
}

// squeeze takes the white space out of JSON, a character at a time.
func squeeze(s string) string {
	var out []byte
	quoted, escaped := false, false
	for _, b := range []byte(s) {
		if quoted || !strings.ContainsRune(" \n\r\t", rune(b)) {
			out = append(out, b)
		}
		switch {
		case escaped:
			escaped = false
		case quoted && b == '\\':
			escaped = true
		case b == '"':
			quoted = !quoted
		}
	}
	return string(out)
}
