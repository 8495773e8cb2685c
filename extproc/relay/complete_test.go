package relay

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/extproc/cache"
	"github.com/weir-dev/weir/extproc/wire"
)

// Only what is proven to be whole is kept, whatever was asked for.
func TestComplete(t *testing.T) {
	r := newRig(t, plainly)
	x := &exchange{Server: r.server}
	const (
		done     = `{"status":"completed","error":null,"output":[],"usage":{"input_tokens":10,"input_tokens_details":{"cached_tokens":4},"output_tokens":3,"output_tokens_details":{"reasoning_tokens":2}}}`
		told     = "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":" + done + "}\n\n"
		piece    = "data: {\"choices\":[{\"text\":\"a\"}]}\n\n"
		end      = "data: [DONE]\n\n"
		embedded = `{"object":"list","data":[{"embedding":[1]}],"usage":{"prompt_tokens":8,"total_tokens":8}}`
	)
	for name, c := range map[string]struct {
		op     canon.Operation
		stream bool
		body   string
		ok     bool
		tokens canon.Usage
	}{
		"a response":                   {canon.OpResponses, false, done, true, canon.Usage{Input: 10, CacheRead: 4, Output: 3, Reasoning: 2}},
		"one that is not complete":     {canon.OpResponses, false, `{"status":"incomplete"}`, false, canon.Usage{}},
		"one in progress":              {canon.OpResponses, false, `{"status":"in_progress"}`, false, canon.Usage{}},
		"one with an error":            {canon.OpResponses, false, `{"status":"completed","error":{"code":"x"}}`, false, canon.Usage{}},
		"half a response":              {canon.OpResponses, false, `{"status":"completed"`, false, canon.Usage{}},
		"a stream of it":               {canon.OpResponses, true, told, true, canon.Usage{Input: 10, CacheRead: 4, Output: 3, Reasoning: 2}},
		"a stream without an end":      {canon.OpResponses, true, "data: {\"type\":\"response.created\",\"response\":{}}\n\n", false, canon.Usage{}},
		"a stream with an error":       {canon.OpResponses, true, "event: error\ndata: {\"type\":\"error\"}\n\n" + told, false, canon.Usage{}},
		"a stream that failed":         {canon.OpResponses, true, "data: {\"type\":\"response.failed\",\"response\":{\"status\":\"failed\"}}\n\n", false, canon.Usage{}},
		"half its last event":          {canon.OpResponses, true, told[:len(told)-2], false, canon.Usage{}},
		"a completion":                 {canon.OpCompletions, false, `{"choices":[{"text":"a"}],"usage":{"prompt_tokens":2,"completion_tokens":1}}`, true, canon.Usage{Input: 2, Output: 1}},
		"an error":                     {canon.OpCompletions, false, `{"error":{"message":"x"}}`, false, canon.Usage{}},
		"completions":                  {canon.OpCompletions, true, piece + "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":2,\"completion_tokens\":1}}\n\n" + end, true, canon.Usage{Input: 2, Output: 1}},
		"completions without an end":   {canon.OpCompletions, true, piece, false, canon.Usage{}},
		"completions with an error":    {canon.OpCompletions, true, piece + "data: {\"error\":{\"message\":\"x\"}}\n\n" + end, false, canon.Usage{}},
		"completions that are no JSON": {canon.OpCompletions, true, "data: {\n\n" + end, false, canon.Usage{}},
		"embeddings":                   {canon.OpEmbeddings, false, embedded, true, canon.Usage{Input: 8}},
		"embeddings with an error":     {canon.OpEmbeddings, false, `{"data":[{}],"error":"x"}`, false, canon.Usage{}},
		"no embeddings":                {canon.OpEmbeddings, false, `{"object":"list"}`, false, canon.Usage{}},
		"half the embeddings":          {canon.OpEmbeddings, false, embedded[:40], false, canon.Usage{}},
		"a chat":                       {canon.OpChat, false, plainAnswer, true, canon.Usage{Input: 1, Output: 1}},
		"a chat that is an error":      {canon.OpChat, false, `{"error":{"message":"x"}}`, false, canon.Usage{}},
		"what nobody knows":            {canon.OpModels, false, `{"data":[{}]}`, false, canon.Usage{}},
	} {
		tokens, ok := x.complete(&cache.Head{Status: 200, Dialect: "openai", Operation: c.op, Stream: c.stream}, []byte(c.body))
		if ok != c.ok || ok && (tokens == nil || *tokens != c.tokens) {
			t.Errorf("%s: %v %+v, want %v %+v", name, ok, tokens, c.ok, c.tokens)
		}
	}
}

func FuzzComplete(f *testing.F) {
	f.Add("data: [DONE]\n\n", true)
	f.Add(`{"data":[1],"usage":{"prompt_tokens":-3}}`, false)
	f.Add("data: {\"type\":\"response.completed\",\"response\":{\"status\":\"completed\",\"usage\":{\"input_tokens\":1,\"input_tokens_details\":{\"cached_tokens\":9}}}}\n\n", true)
	f.Fuzz(func(t *testing.T, body string, stream bool) {
		x := &exchange{}
		for _, op := range []canon.Operation{canon.OpResponses, canon.OpCompletions, canon.OpEmbeddings} {
			tokens, ok := x.complete(&cache.Head{Status: 200, Operation: op, Stream: stream}, []byte(body))
			if tokens != nil && (tokens.Input < 0 || tokens.CacheRead < 0 || tokens.Output < 0) {
				t.Fatalf("%q costs %+v", body, tokens)
			}
			if ok && strings.TrimSpace(body) == "" {
				t.Fatal("nothing is whole")
			}
		}
	})
}

// A refusal of Weir's own is nobody's later, a refusal of the provider's is.
func TestWhoseRefusalsAreKept(t *testing.T) {
	for name, c := range map[string]struct {
		refuse *canon.Error
		answer http.HandlerFunc
		second string
	}{
		"the provider's":  {nil, func(w http.ResponseWriter, _ *http.Request) { http.Error(w, `{"error":{}}`, 400) }, "negative"},
		"Weir's decision": {&canon.Error{Kind: canon.ErrInvalidRequest, Code: "not_translatable", Message: "No."}, nil, "miss"},
		"no backend's": {nil, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Del(wire.BackendHeader)
			http.Error(w, "too large", 413)
		}, "miss"},
	} {
		r := newRig(t, c.answer)
		if c.refuse != nil {
			r.refuse = func(*Fill) *canon.Error { return c.refuse }
		}
		p := policyOf()
		p.Negative, p.NegativeTTL = []int{400, 404, 413}, p.TTL
		for i, want := range []string{"miss", c.second} {
			if status, h, _ := r.ask(r.flight(p)); status/100 != 4 || h.Get(wire.CacheHeader) != want {
				t.Errorf("%s, request %d: %d %q, want %q", name, i, status, h.Get(wire.CacheHeader), want)
			}
		}
	}
}

// All lines of a header count.
func TestRepeatedHeaders(t *testing.T) {
	r := newRig(t, plainly)
	p := policyOf()
	ask := func(values ...string) string {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), "POST", "http://relay/v1/chat/completions", strings.NewReader(plainAsk))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("content-type", "application/json")
		req.Header.Set(wire.FlightHeader, r.flight(p).ID)
		for i := 0; i+1 < len(values); i += 2 {
			req.Header.Add(values[i], values[i+1])
		}
		resp, err := r.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		_, _ = io.Copy(io.Discard, resp.Body)
		return resp.Header.Get(wire.CacheHeader)
	}
	for i, c := range []struct {
		want   string
		values []string
	}{
		{"miss", []string{wire.PromptVersionHeader, "1", wire.PromptVersionHeader, "2"}},
		{"miss", []string{wire.PromptVersionHeader, "1"}},
		{"hit", []string{wire.PromptVersionHeader, "1"}},
		{"bypass", []string{wire.PromptVersionHeader, "1", wire.CacheControlHeader, "max-age=60", wire.CacheControlHeader, "no-store"}},
	} {
		if got := ask(c.values...); got != c.want {
			t.Errorf("request %d: %q, want %q", i, got, c.want)
		}
	}
}
