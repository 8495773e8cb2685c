package adapters

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/internal/adaptertest"
	"github.com/weir-dev/weir/adapters/sse"
)

// These tests translate between every inbound and every outbound dialect of the catalog: a file
// NAME.DIALECT.json is what one side sends, NAME.DIALECT-OTHER.txt is what the other side gets.

// each runs a test for every file of a folder with the dialect named in it.
func each(t *testing.T, folder, ext string, run func(t *testing.T, d canon.Dialect, base string, content []byte)) {
	files, _ := filepath.Glob(filepath.Join("testdata", folder, "*"+ext))
	seen := map[string]bool{}
	for _, file := range files {
		base := strings.TrimSuffix(file, ext)
		t.Run(filepath.Base(base), func(t *testing.T) {
			d, ok := catalog(t).Get(strings.TrimPrefix(filepath.Ext(base), "."))
			if !ok {
				t.Fatalf("%s names no dialect", file)
			}
			seen[d.Name] = true
			content, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			run(t, d, base, content)
		})
	}
	for _, d := range Catalog() {
		if !seen[d.Name] && (folder != "requests" || d.In != nil) {
			t.Errorf("testdata/%s has nothing in the dialect %s", folder, d.Name)
		}
	}
}

func TestPairsRequests(t *testing.T) {
	each(t, "requests", ".json", func(t *testing.T, in canon.Dialect, base string, body []byte) {
		r, err := in.In.ParseRequest(body)
		if err != nil {
			t.Fatal(err)
		}
		before, _ := json.Marshal(r)
		for _, out := range Catalog() {
			call, err := out.Out.BuildCall(r, canon.CallOptions{Model: r.Model})
			text := ""
			if err != nil {
				text = fmt.Sprintf("refused: %s\n", err)
			} else {
				text = "POST " + call.Path + "\n"
				for _, h := range call.Headers {
					text += h[0] + ": " + h[1] + "\n"
				}
				text += "\n" + adaptertest.Indent(t, call.Body) + "\ndropped: " + strings.Join(call.Dropped, ", ") + "\n"
			}
			adaptertest.File(t, base+"-"+out.Name+".txt", []byte(text))
			if after, _ := json.Marshal(r); !bytes.Equal(before, after) {
				t.Fatalf("%s changed the request", out.Name)
			}
		}
	})
}

func TestPairsAnswers(t *testing.T) {
	each(t, "answers", ".json", func(t *testing.T, out canon.Dialect, base string, body []byte) {
		r, err := out.Out.ParseResponse(body)
		if err != nil {
			t.Fatal(err)
		}
		for _, in := range Catalog() {
			if in.In == nil {
				continue
			}
			answer := in.In.AppendResponse(nil, r, reply)
			adaptertest.File(t, base+"-"+in.Name+".txt", []byte(adaptertest.Indent(t, answer)))
		}
	})
}

var reply = canon.Reply{Model: "asked-for", ID: "0123456789", Created: 1700000001, IncludeUsage: true}

// transcribe translates a stream that arrives in chunks of size bytes.
func transcribe(out canon.Dialect, in canon.Dialect, stream []byte, size int) []byte {
	d, e := out.Out.NewStreamDecoder(), in.In.NewStreamEncoder(reply)
	var text []byte
	emit := func(ev *canon.Event) { text = e.Append(text, ev) }
	for len(stream) > 0 {
		n := min(size, len(stream))
		piece := bytes.Clone(stream[:n])
		d.Feed(piece, emit)
		for i := range piece {
			piece[i] = 'x' // neither side may keep anything of it
		}
		stream = stream[n:]
	}
	d.End(emit)
	return e.End(text)
}

func TestPairsStreams(t *testing.T) {
	each(t, "streams", ".sse", func(t *testing.T, out canon.Dialect, base string, stream []byte) {
		want := fmt.Sprintf("(ended by line %d of %[1]d)\n", 1+bytes.Count(bytes.TrimRight(stream, "\n"), []byte("\n")))
		if strings.HasPrefix(filepath.Base(base), "cut.") {
			want = "(ended by no line)\n"
		}
		if got := adaptertest.Ending(t, out.Out.NewStreamDecoder, stream); got != want {
			t.Errorf("%swant %s", got, want)
		}
		for _, in := range Catalog() {
			if in.In == nil {
				continue
			}
			whole := transcribe(out, in, stream, len(stream))
			for _, size := range []int{1, 3, 17, 64} {
				if got := transcribe(out, in, stream, size); !bytes.Equal(got, whole) {
					t.Fatalf("chunks of %d give another stream for %s:\n%s", size, in.Name, got)
				}
			}
			adaptertest.File(t, base+"-"+in.Name+".txt", whole)
			var lines sse.Reader
			lines.Feed(whole, func(ev sse.Event) {
				if len(ev.Data) > 0 && string(ev.Data) != "[DONE]" && !json.Valid(ev.Data) {
					t.Errorf("for %s: not JSON: %s", in.Name, ev.Data)
				}
			})
			if lines.Partial() {
				t.Errorf("for %s the last event has no end", in.Name)
			}
			// Whatever the dialect, the caller's stream decodes to what the provider's did. Only
			// reasoning that Anthropic did not sign is kept from its callers.
			if in.Out != nil {
				origin := ""
				if in.Name == "anthropic" {
					origin = in.Name
				}
				want, got := summary(out, stream, origin), summary(in, whole, "")
				if got != want {
					t.Errorf("a %s caller reads\n%s\nthe provider said\n%s", in.Name, got, want)
				}
			}
		}
	})
}

// summary is what a stream says when all of it has come. An origin other than "" leaves out the
// reasoning of any other.
func summary(d canon.Dialect, stream []byte, origin string) string {
	var text, reasoning, end string
	var tools []string
	dec := d.Out.NewStreamDecoder()
	emit := func(ev *canon.Event) {
		switch ev.Kind {
		case canon.EventText:
			text += ev.Text
		case canon.EventReasoning:
			if origin == "" || ev.Origin == origin {
				reasoning += ev.Text
			}
		case canon.EventToolStart:
			tools = append(tools, ev.CallID+" "+ev.Name+" ")
		case canon.EventToolDelta:
			tools[ev.Tool] += ev.Text
		case canon.EventFinish:
			end += " finish " + string(ev.Finish)
		case canon.EventUsage:
			end += fmt.Sprintf(" usage %+v", *ev.Usage)
		case canon.EventError:
			end += " error"
		}
	}
	dec.Feed(stream, emit)
	dec.End(emit)
	return fmt.Sprintf("text %q, reasoning %q, tools %q,%s", text, reasoning, tools, end)
}

// answer makes a minimal answer of a provider that ended for the given reason.
func answer(dialect, reason string) string {
	switch dialect {
	case "openai":
		return `{"id":"i","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"x"},"finish_reason":"` + reason + `"}]}`
	case "anthropic":
		return `{"id":"i","type":"message","role":"assistant","model":"m","content":[{"type":"text","text":"x"}],"stop_reason":"` + reason + `","stop_sequence":null,"usage":{"input_tokens":1,"output_tokens":1}}`
	default:
		return `{"request_id":"i","output":{"choices":[{"finish_reason":"` + reason + `","message":{"role":"assistant","content":"x"}}]},"usage":{"input_tokens":1,"output_tokens":1}}`
	}
}

func TestPairsStopReasons(t *testing.T) {
	tests := []struct{ dialect, reason, openai, anthropic string }{
		{"openai", "stop", "stop", "end_turn"},
		{"openai", "length", "length", "max_tokens"},
		{"openai", "tool_calls", "tool_calls", "tool_use"},
		{"openai", "content_filter", "content_filter", "refusal"},
		{"openai", "function_call", "tool_calls", "tool_use"},
		{"anthropic", "end_turn", "stop", "end_turn"},
		{"anthropic", "stop_sequence", "stop", ""},
		{"anthropic", "max_tokens", "length", "max_tokens"},
		{"anthropic", "model_context_window_exceeded", "length", "max_tokens"},
		{"anthropic", "tool_use", "tool_calls", "tool_use"},
		{"anthropic", "refusal", "content_filter", "refusal"},
		{"anthropic", "pause_turn", "stop", "end_turn"},
		{"dashscope", "stop", "stop", "end_turn"},
		{"dashscope", "length", "length", "max_tokens"},
		{"dashscope", "tool_calls", "tool_calls", "tool_use"},
	}
	s := catalog(t)
	for _, tt := range tests {
		t.Run(tt.dialect+" "+tt.reason, func(t *testing.T) {
			out, _ := s.Get(tt.dialect)
			r, err := out.Out.ParseResponse([]byte(answer(tt.dialect, tt.reason)))
			if err != nil {
				t.Fatal(err)
			}
			for name, want := range map[string]string{"openai": `"finish_reason":"` + tt.openai + `"`, "anthropic": `"stop_reason":"` + tt.anthropic} {
				in, _ := s.Get(name)
				if got := string(in.In.AppendResponse(nil, r, reply)); !strings.Contains(got, want) {
					t.Errorf("%s caller: want %s in %s", name, want, got)
				}
			}
		})
	}
}

// TestPairsUsage has one count in several spellings, in testdata/answers/text.*.json: 100 tokens
// read, 60 of them from the cache, 20 written. Where a dialect tells more, its row has it.
func TestPairsUsage(t *testing.T) {
	tests := map[string]canon.Usage{
		"openai":    {Input: 100, CacheRead: 60, CacheWrite: 10, Output: 20, Reasoning: 5},
		"anthropic": {Input: 100, CacheRead: 60, CacheWrite: 10, Output: 20, Reasoning: 5},
		"dashscope": {Input: 100, CacheRead: 60, Output: 20, Reasoning: 5},
	}
	s := catalog(t)
	for name, want := range tests {
		body, e := os.ReadFile("testdata/answers/text." + name + ".json")
		if e != nil {
			t.Fatal(e)
		}
		out, _ := s.Get(name)
		r, err := out.Out.ParseResponse(body)
		if err != nil {
			t.Fatal(err)
		}
		if *r.Usage != want {
			t.Errorf("%s: %+v, want %+v", name, *r.Usage, want)
		}
		var openai struct {
			Usage struct {
				Prompt     int64 `json:"prompt_tokens"`
				Completion int64 `json:"completion_tokens"`
				Total      int64 `json:"total_tokens"`
				Details    struct {
					Cached int64 `json:"cached_tokens"`
				} `json:"prompt_tokens_details"`
			}
		}
		in, _ := s.Get("openai")
		if err := json.Unmarshal(in.In.AppendResponse(nil, r, reply), &openai); err != nil {
			t.Fatal(err)
		}
		if u := openai.Usage; u.Prompt != want.Input || u.Completion != want.Output || u.Total != want.Input+want.Output || u.Details.Cached != want.CacheRead {
			t.Errorf("%s to an OpenAI caller: %+v", name, u)
		}
		var anthropic struct {
			Usage struct {
				Input  int64 `json:"input_tokens"`
				Read   int64 `json:"cache_read_input_tokens"`
				Write  int64 `json:"cache_creation_input_tokens"`
				Output int64 `json:"output_tokens"`
			}
		}
		in, _ = s.Get("anthropic")
		if err := json.Unmarshal(in.In.AppendResponse(nil, r, reply), &anthropic); err != nil {
			t.Fatal(err)
		}
		if u := anthropic.Usage; u.Input != want.Input-want.CacheRead-want.CacheWrite || u.Read != want.CacheRead || u.Write != want.CacheWrite || u.Output != want.Output {
			t.Errorf("%s to an Anthropic caller: %+v", name, u)
		}
	}
}

func TestPairsErrors(t *testing.T) {
	tests := []struct {
		dialect           string
		status            int
		body              string
		want              int
		openai, anthropic string // the error's type
	}{
		{"openai", 400, `{"error":{"message":"M","type":"invalid_request_error","param":null,"code":null}}`, 400, "invalid_request_error", "invalid_request_error"},
		{"openai", 401, `{"error":{"message":"M","type":"invalid_request_error","code":"invalid_api_key"}}`, 401, "authentication_error", "authentication_error"},
		{"openai", 403, `{"error":{"message":"M"}}`, 403, "permission_error", "permission_error"},
		{"openai", 404, `{"error":{"message":"M","code":"model_not_found"}}`, 404, "invalid_request_error", "not_found_error"},
		{"openai", 413, `nginx`, 413, "request_too_large", "request_too_large"},
		{"openai", 429, `{"error":{"message":"M","code":"rate_limit_exceeded"}}`, 429, "rate_limit_error", "rate_limit_error"},
		{"openai", 429, `{"error":{"message":"M","code":"insufficient_quota"}}`, 402, "insufficient_quota", "billing_error"},
		{"openai", 500, `{"error":{"message":"M"}}`, 500, "server_error", "api_error"},
		{"openai", 503, ``, 503, "server_error", "overloaded_error"},
		{"openai", 504, `<html>`, 504, "timeout", "timeout_error"},
		{"anthropic", 400, `{"type":"error","error":{"type":"invalid_request_error","message":"M"}}`, 400, "invalid_request_error", "invalid_request_error"},
		{"anthropic", 402, `{"type":"error","error":{"type":"billing_error","message":"M"}}`, 402, "insufficient_quota", "billing_error"},
		{"anthropic", 413, `{"type":"error","error":{"type":"request_too_large","message":"M"}}`, 413, "request_too_large", "request_too_large"},
		{"anthropic", 429, `{"type":"error","error":{"type":"rate_limit_error","message":"M"}}`, 429, "rate_limit_error", "rate_limit_error"},
		{"anthropic", 500, `{"type":"error","error":{"type":"api_error","message":"M"}}`, 500, "server_error", "api_error"},
		{"anthropic", 529, `{"type":"error","error":{"type":"overloaded_error","message":"M"}}`, 503, "server_error", "overloaded_error"},
		{"dashscope", 400, `{"code":"InvalidParameter","message":"M","request_id":"r"}`, 400, "invalid_request_error", "invalid_request_error"},
		{"dashscope", 403, `{"code":"AccessDenied","message":"M","request_id":"r"}`, 403, "permission_error", "permission_error"},
		{"dashscope", 429, `{"code":"Throttling.RateQuota","message":"M","request_id":"r"}`, 429, "rate_limit_error", "rate_limit_error"},
		{"dashscope", 500, `{"code":"InternalError","message":"M","request_id":"r"}`, 500, "server_error", "api_error"},
		{"dashscope", 503, `{"code":"ServiceUnavailable","message":"M","request_id":"r"}`, 503, "server_error", "overloaded_error"},
	}
	s := catalog(t)
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%s %d %s", tt.dialect, tt.status, tt.openai), func(t *testing.T) {
			out, _ := s.Get(tt.dialect)
			e := out.Out.ParseError(tt.status, "4", []byte(tt.body))
			if e.HTTPStatus() != tt.want || e.RetryAfter.Seconds() != 4 {
				t.Errorf("status %d, retry after %v; want %d, 4s", e.HTTPStatus(), e.RetryAfter, tt.want)
			}
			for name, want := range map[string]string{"openai": tt.openai, "anthropic": tt.anthropic} {
				in, _ := s.Get(name)
				var got struct {
					Error struct{ Type, Message string }
				}
				body := in.In.AppendError(nil, e, "req-1")
				if err := json.Unmarshal(body, &got); err != nil || got.Error.Type != want || got.Error.Message == "" {
					t.Errorf("%s caller: want the type %s in %s", name, want, body)
				}
			}
		})
	}
}

// FuzzAgain: an event that is the one before with another text is read like any other. The same stream with space in front of
// every other event's JSON is one in which no event is like the one before.
func FuzzAgain(f *testing.F) {
	s, err := NewSet(Catalog()...)
	if err != nil {
		f.Fatal(err)
	}
	files, _ := filepath.Glob("testdata/streams/*.sse")
	for _, file := range files {
		stream, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(stream)
	}
	for name, kinds := range chunk {
		all := call[name]
		for _, kind := range []string{"text", "tool", "reasoning", "text", "tool"} {
			for n, p := range append(pieces, "", "x", "\\\\") {
				all += kinds[kind](p, n)
			}
		}
		f.Add([]byte(all))
	}
	f.Fuzz(func(t *testing.T, stream []byte) {
		n := 0
		spaced := regexp.MustCompile(`(?m)^data: ?\{`).ReplaceAllFunc(stream, func(b []byte) []byte {
			n++
			return []byte("data: " + strings.Repeat(" ", n%2) + "{")
		})
		for _, name := range s.Names() {
			d, _ := s.Get(name)
			show := func(ev *canon.Event) string {
				if ev.Err != nil {
					return "error " + string(ev.Err.Kind) // its message has positions
				}
				return adaptertest.Line(ev)
			}
			got := adaptertest.Decode(t, d.Out.NewStreamDecoder(), show, stream)
			if want := adaptertest.Decode(t, d.Out.NewStreamDecoder(), show, spaced); got != want {
				t.Fatalf("%s reads\n%s\nand event by event\n%s", name, got, want)
			}
		}
	})
}

// TestRequestsKeepTheirBody: a call shares no memory with the caller's body, nor does building it change the body.
func TestRequestsKeepTheirBody(t *testing.T) {
	each(t, "requests", ".json", func(t *testing.T, in canon.Dialect, _ string, body []byte) {
		before := bytes.Clone(body)
		r, err := in.In.ParseRequest(body)
		if err != nil {
			t.Fatal(err)
		}
		for _, out := range Catalog() {
			call, err := out.Out.BuildCall(r, canon.CallOptions{Model: "m"})
			if err != nil {
				continue
			}
			printed := bytes.Clone(call.Body)
			if !bytes.Equal(body, before) {
				t.Fatalf("%s changed the body", out.Name)
			}
			for i := range body {
				body[i] = '?'
			}
			if !bytes.Equal(call.Body, printed) {
				t.Errorf("the call of %s shares memory with the body", out.Name)
			}
			copy(body, before)
		}
	})
}
