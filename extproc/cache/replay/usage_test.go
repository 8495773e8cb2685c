package replay

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/extproc/cache"
)

const usageEvent = `data: {"id":"a","choices":[],"usage":{"prompt_tokens":2}}` + "\n\n"

func hidden(stream string, size int) string {
	var h hider
	var out []byte
	for len(stream) > 0 {
		n := min(size, len(stream))
		piece := []byte(stream[:n])
		out = h.feed(out, piece)
		for i := range piece {
			piece[i] = '?'
		}
		stream = stream[n:]
	}
	return string(h.end(out))
}

func TestHider(t *testing.T) {
	text := func(s string) string {
		return `data: {"choices":[{"delta":{"content":"` + s + `"}}],"usage":null}` + "\n\n"
	}
	done := "data: [DONE]\n\n"
	large := text(strings.Repeat("x", maxHeld))
	crlf := func(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") }
	for name, tt := range map[string]struct{ in, want string }{
		"usual":           {text("a") + usageEvent + done, text("a") + done},
		"CRLF":            {crlf(text("a") + usageEvent + done), crlf(text("a") + done)},
		"none":            {text("a") + done, text("a") + done},
		"comment":         {": ping\n\n" + usageEvent + ": ping\n\n", ": ping\n\n: ping\n\n"},
		"in a text":       {text(`\"choices\":[],\"usage\":{}`), text(`\"choices\":[],\"usage\":{}`)},
		"filter results":  {`data: {"choices":[],"prompt_filter_results":[]}` + "\n\n", `data: {"choices":[],"prompt_filter_results":[]}` + "\n\n"},
		"with a choice":   {`data: {"choices":[{}],"usage":{"x":1}}` + "\n\n", `data: {"choices":[{}],"usage":{"x":1}}` + "\n\n"},
		"usage is null":   {`data: {"choices":[],"usage":null}` + "\n\n", `data: {"choices":[],"usage":null}` + "\n\n"},
		"spaced":          {"data: { \"usage\" : {} , \"choices\" : [ ] }\n\n" + done, done},
		"two data lines":  {"data: {\"usage\":{},\ndata: \"choices\":[]}\n\n" + done, done},
		"large":           {large + usageEvent + done, large + done},
		"no end":          {text("a") + "data: {\"choices\"", text("a") + "data: {\"choices\""},
		"no end of usage": {text("a") + strings.TrimSuffix(usageEvent, "\n"), text("a") + strings.TrimSuffix(usageEvent, "\n")},
	} {
		for _, size := range []int{1, 2, 3, 7, 64, 1 << 20} {
			if got := hidden(tt.in, size); got != tt.want {
				t.Errorf("%s in pieces of %d: %.300q, want %.300q", name, size, got, tt.want)
			}
		}
	}
}

// FuzzHider: any cut gives the same bytes, and what is left out are whole events that tell the usage.
func FuzzHider(f *testing.F) {
	f.Add(usageEvent+"data: [DONE]\n\n", uint8(3))
	f.Add("data: x\r\n\r\n"+usageEvent, uint8(9))
	f.Add("\n\n\n"+usageEvent+"\r\n\n", uint8(1))
	f.Fuzz(func(t *testing.T, stream string, size uint8) {
		whole := hidden(stream, len(stream)+1)
		if got := hidden(stream, int(size)+1); got != whole {
			t.Fatalf("%q in pieces of %d: %q, whole %q", stream, size, got, whole)
		}
		if !strings.Contains(stream, `"usage"`) && whole != stream {
			t.Fatalf("%q became %q", stream, whole)
		}
	})
}

// TestUsageForWhomAsked: the same bytes for who asked for the usage, and none of it for who did not.
func TestUsageForWhomAsked(t *testing.T) {
	set := testSet(t)
	p := New(set)
	body := []byte(`data: {"id":"a","model":"m","choices":[{"index":0,"delta":{"content":"x"},"finish_reason":"stop"}],"usage":null}` + "\n\n" + usageEvent + "data: [DONE]\n\n")
	e := &cache.Entry{Head: cache.Head{Status: 200, Dialect: "openai", Operation: canon.OpChat, Stream: true}, Body: body}
	d, _ := set.Get("openai")
	for _, asked := range []bool{true, false} {
		a, err := p.Whole(e, To{Dialect: &d, Stream: true, Reply: canon.Reply{IncludeUsage: asked}})
		if err != nil || bytes.Contains(a.Body, []byte("prompt_tokens")) != asked || asked && &a.Body[0] != &body[0] {
			t.Errorf("asked %v: %s, %v", asked, a.Body, err)
		}
	}
	e.Body = body[:bytes.Index(body, []byte(`,"usage":null`))]
	e.Body = append(bytes.Clone(e.Body), "}\n\ndata: [DONE]\n\n"...)
	if a, err := p.Whole(e, To{Dialect: &d, Stream: true}); err != nil || &a.Body[0] != &e.Body[0] {
		t.Errorf("nothing to hide: %s, %v", a.Body, err)
	}
}

// TestPiecesAllocateNothing: what a token costs on its way to a caller of another dialect, or to one who did not ask for the usage.
func TestPiecesAllocateNothing(t *testing.T) {
	set := testSet(t)
	p := New(set)
	openai, _ := set.Get("openai")
	anthropic, _ := set.Get("anthropic")
	chunk := func(n int) []byte {
		return fmt.Appendf(nil, `data: {"id":"a","model":"m","choices":[{"index":0,"delta":{"content":" token%d"},"finish_reason":null}]}`+"\n\n", n%10)
	}
	for name, to := range map[string]To{"same": {Dialect: &openai, Stream: true}, "translated": {Dialect: &anthropic, Stream: true}} {
		tell, err := p.teller(&cache.Head{Status: 200, Dialect: "openai", Operation: canon.OpChat, Stream: true}, to)
		if err != nil {
			t.Fatal(err)
		}
		pieces := make([][]byte, 10)
		for i := range pieces {
			pieces[i] = chunk(i)
			tell.feed(pieces[i])
		}
		n := 0
		if got := testing.AllocsPerRun(100, func() {
			tell.out = tell.out[:0]
			tell.feed(pieces[n%len(pieces)])
			n++
		}); got != 0 || len(tell.out) == 0 {
			t.Errorf("%s: %v allocations for a piece, which became %q", name, got, tell.out)
		}
	}
}
