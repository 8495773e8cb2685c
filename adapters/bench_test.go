package adapters

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/weir-dev/weir/adapters/canon"
)

// chunk makes the bytes of one stream event of a dialect: a piece of text, of reasoning, or of the arguments of call 0.
var chunk = map[string]map[string]func(piece string, n int) string{
	"openai": {
		"text":      openaiChunk(`{"content":%q}`),
		"reasoning": openaiChunk(`{"reasoning_content":%q}`),
		"tool":      openaiChunk(`{"tool_calls":[{"index":0,"function":{"arguments":%q}}]}`),
		// vLLM with continuous usage: more than the text changes from one event to the next.
		"counted": func(piece string, n int) string {
			return fmt.Sprintf(`data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"m","choices":[{"index":0,"delta":{"content":%q},"logprobs":null,"finish_reason":null}],"usage":{"prompt_tokens":10,"total_tokens":%d,"completion_tokens":%d}}`+"\n\n", piece, 10+n, n)
		},
	},
	"anthropic": {
		"text":      anthropicChunk(0, `{"type":"text_delta","text":%q}`),
		"reasoning": anthropicChunk(0, `{"type":"thinking_delta","thinking":%q}`),
		"tool":      anthropicChunk(1, `{"type":"input_json_delta","partial_json":%q}`),
	},
	"dashscope": {
		"text":      dashscopeChunk(`{"role":"assistant","content":%q}`),
		"reasoning": dashscopeChunk(`{"role":"assistant","content":"","reasoning_content":%q}`),
		"tool":      dashscopeChunk(`{"role":"assistant","content":"","tool_calls":[{"index":0,"id":"","type":"function","function":{"name":"","arguments":%q}}]}`),
	},
}

// call is the beginning of call 0, for the fragments of its arguments.
var call = map[string]string{
	"openai": openaiChunk(`{"tool_calls":[{"index":0,"id":"call_1","type":"function","function":{"name":"f","arguments":%q}}]}`)("", 0),
	"anthropic": "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":1,\"content_block\":" +
		"{\"type\":\"tool_use\",\"id\":\"toolu_1\",\"name\":\"f\",\"input\":{}}}\n\n",
	"dashscope": dashscopeChunk(`{"role":"assistant","content":"","tool_calls":[{"index":0,"id":"call_1","type":"function","function":{"name":"f","arguments":%q}}]}`)("", 0),
}

func openaiChunk(delta string) func(string, int) string {
	return func(piece string, _ int) string {
		return fmt.Sprintf(`data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"m","choices":[{"index":0,"delta":`+
			delta+`,"logprobs":null,"finish_reason":null}],"usage":null}`+"\n\n", piece)
	}
}

func anthropicChunk(index int, delta string) func(string, int) string {
	return func(piece string, _ int) string {
		return fmt.Sprintf("event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":%d,\"delta\":"+delta+"}\n\n", index, piece)
	}
}

func dashscopeChunk(message string) func(string, int) string {
	return func(piece string, n int) string {
		return fmt.Sprintf("id:%d\nevent:result\n:HTTP_STATUS/200\ndata:{\"output\":{\"choices\":[{\"message\":"+message+
			",\"finish_reason\":\"null\"}]},\"usage\":{\"input_tokens\":10,\"output_tokens\":%d,\"total_tokens\":%d},\"request_id\":\"r-1\"}\n\n", n+1, piece, n, n+10)
	}
}

// pieces are what models write: tokens, with line ends and quotation marks among them.
var pieces = strings.SplitAfter("The quick brown\n fox \"jumps\" over\tthe lazy dog \u4e16\u754c again and again", " ")

// flow is a stream under way: chunks of one event each that repeat for ever.
type flow struct {
	chunks [][]byte
	next   int
	dec    canon.StreamDecoder
	emit   func(*canon.Event)
	out    []byte
}

func newFlow(t testing.TB, s *Set, out, in, kind string) *flow {
	t.Helper()
	o, _ := s.Get(out)
	i, _ := s.Get(in)
	f := &flow{dec: o.Out.NewStreamDecoder()}
	enc := i.In.NewStreamEncoder(reply)
	f.emit = func(ev *canon.Event) {
		if ev.Kind == canon.EventError {
			t.Fatal(ev.Err)
		}
		f.out = enc.Append(f.out, ev)
	}
	if kind == "tool" {
		f.dec.Feed([]byte(call[out]), f.emit)
	}
	for n, p := range pieces {
		f.chunks = append(f.chunks, []byte(chunk[out][kind](p, n+1)))
	}
	for range f.chunks { // so that buffers have their size
		f.step()
	}
	return f
}

func (f *flow) step() {
	f.out = f.out[:0]
	f.dec.Feed(f.chunks[f.next], f.emit)
	f.next = (f.next + 1) % len(f.chunks)
}

// eachFlow runs for every pair of dialects and kind of event.
func eachFlow(run func(name, out, in, kind string)) {
	for _, out := range Catalog() {
		for _, in := range Catalog() {
			for _, kind := range []string{"text", "counted", "reasoning", "tool"} {
				if in.In != nil && out.Out != nil && chunk[out.Name][kind] != nil {
					run(out.Name+"-to-"+in.Name+"/"+kind, out.Name, in.Name, kind)
				}
			}
		}
	}
}

// BenchmarkStreamChunk reads one event of a provider's stream and prints it for the caller.
func BenchmarkStreamChunk(b *testing.B) {
	s := catalog(b)
	eachFlow(func(name, out, in, kind string) {
		b.Run(name, func(b *testing.B) {
			f := newFlow(b, s, out, in, kind)
			b.SetBytes(int64(len(f.chunks[0])))
			b.ReportAllocs()
			for b.Loop() {
				f.step()
			}
		})
	})
}

// TestStreamChunksAllocateNothing: it is what Weir does for each token.
func TestStreamChunksAllocateNothing(t *testing.T) {
	s := catalog(t)
	eachFlow(func(name, out, in, kind string) {
		f := newFlow(t, s, out, in, kind)
		printed := 0
		n := testing.AllocsPerRun(10*len(f.chunks), func() {
			f.step()
			printed += len(f.out)
		})
		// Anthropic's callers get no reasoning that Anthropic has not signed.
		if silent := kind == "reasoning" && in == "anthropic" && out != "anthropic"; n != 0 || printed == 0 != silent {
			t.Errorf("%s: %v allocations for an event, and %d bytes printed", name, n, printed)
		}
	})
}

// benchRequest is a conversation of about 100 KB: 60 turns with line ends and quotation marks, and 20 tools.
func benchRequest(dialect string) []byte {
	var b strings.Builder
	line := strings.Repeat(`A line of a prompt, as people \"write\" it.\n`, 36)
	b.WriteString(`{"model":"m","max_tokens":3200,"stream":true,"messages":[`)
	for i := range 60 {
		role := "user"
		if i%2 == 1 {
			role = "assistant"
		}
		fmt.Fprintf(&b, `{"role":"%s","content":[{"type":"text","text":"%s"}]},`, role, line)
	}
	b.WriteString(`{"role":"user","content":"Go on."}],"tools":[`)
	for i := range 20 {
		if i > 0 {
			b.WriteByte(',')
		}
		schema := `{"type":"object","properties":{"a":{"type":"string"}}}`
		if dialect == "anthropic" {
			fmt.Fprintf(&b, `{"name":"tool_%d","description":"%s","input_schema":%s}`, i, line[:200], schema)
		} else {
			fmt.Fprintf(&b, `{"type":"function","function":{"name":"tool_%d","description":"%s","parameters":%s}}`, i, line[:200], schema)
		}
	}
	b.WriteString(`]}`)
	return []byte(b.String())
}

func small(t testing.TB, dialect string) []byte {
	t.Helper()
	body, err := os.ReadFile("testdata/requests/tools." + dialect + ".json")
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// BenchmarkParseRequest reads a caller's request: a small one, one of 100 KB, and one with an image of 1 MB.
func BenchmarkParseRequest(b *testing.B) {
	for _, d := range Catalog() {
		if d.In == nil {
			continue
		}
		image := `{"type":"image_url","image_url":{"url":"data:image/png;base64,` + strings.Repeat("iVBORw0K", 1<<20/8) + `"}}`
		if d.Name == "anthropic" {
			image = `{"type":"image","source":{"type":"base64","media_type":"image/png","data":"` + strings.Repeat("iVBORw0K", 1<<20/8) + `"}}`
		}
		for _, c := range []struct {
			size string
			body []byte
		}{
			{"small", small(b, d.Name)}, {"100KB", benchRequest(d.Name)},
			{"image", []byte(`{"model":"m","max_tokens":10,"messages":[{"role":"user","content":[` + image + `]}]}`)},
		} {
			b.Run(d.Name+"/"+c.size, func(b *testing.B) {
				b.SetBytes(int64(len(c.body)))
				b.ReportAllocs()
				for b.Loop() {
					if _, err := d.In.ParseRequest(c.body); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkBuildCall prints a request for a provider.
func BenchmarkBuildCall(b *testing.B) {
	in, _ := catalog(b).Get("openai")
	for _, d := range Catalog() {
		for size, body := range map[string][]byte{"small": small(b, "openai"), "100KB": benchRequest("openai")} {
			b.Run(d.Name+"/"+size, func(b *testing.B) {
				r, err := in.In.ParseRequest(body)
				if err != nil {
					b.Fatal(err)
				}
				b.SetBytes(int64(len(body)))
				b.ReportAllocs()
				for b.Loop() {
					if _, err := d.Out.BuildCall(r, canon.CallOptions{Model: "m"}); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkSetModel renames the model in a body that passes untranslated.
func BenchmarkSetModel(b *testing.B) {
	d, _ := catalog(b).Get("openai")
	body := benchRequest("openai")
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := d.Out.SetModel(body, "other"); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkAnswer reads a provider's whole answer, and prints it for the caller.
func BenchmarkAnswer(b *testing.B) {
	for _, out := range Catalog() {
		body, err := os.ReadFile("testdata/answers/text." + out.Name + ".json")
		if err != nil {
			b.Fatal(err)
		}
		for _, in := range Catalog() {
			if in.In == nil {
				continue
			}
			b.Run(out.Name+"-to-"+in.Name, func(b *testing.B) {
				var dst []byte
				b.SetBytes(int64(len(body)))
				b.ReportAllocs()
				for b.Loop() {
					r, err := out.Out.ParseResponse(body)
					if err != nil {
						b.Fatal(err)
					}
					dst = in.In.AppendResponse(dst[:0], r, reply)
				}
			})
		}
	}
}
