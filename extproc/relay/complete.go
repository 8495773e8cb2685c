package relay

import (
	"bytes"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/jsonx"
	"github.com/weir-dev/weir/adapters/sse"
	"github.com/weir-dev/weir/extproc/cache"
)

// complete says whether an answer under a good status is proven to be whole and without an error in it, and what it cost, where it tells.
// A stream that has no end of its own looks whole wherever it breaks, and an error may come under 200: neither is to be kept.
func (x *exchange) complete(head *cache.Head, body []byte) (tokens *canon.Usage, ok bool) {
	switch head.Operation {
	case canon.OpChat:
		answer, err := x.player.Read(head, body)
		if err != nil {
			return nil, false
		}
		return answer.Usage, true
	case canon.OpResponses:
		if head.Stream {
			return responseStream(body)
		}
		return response(object(body))
	case canon.OpCompletions:
		if head.Stream {
			return completionStream(body)
		}
		root := object(body)
		return tokensOf(root.Get("usage")), root.Get("choices").Len() > 0 && root.Get("error").Missing()
	case canon.OpEmbeddings:
		root := object(body)
		return tokensOf(root.Get("usage")), !head.Stream && root.Get("data").Len() > 0 && root.Get("error").Missing()
	}
	return nil, false
}

// object is the JSON object that a text is; missing where it is none.
func object(text []byte) jsonx.Value {
	if jsonx.Check(text) != nil {
		return nil
	}
	if root := jsonx.Root(text); root.Kind() == jsonx.Object {
		return root
	}
	return nil
}

// response reads an object of the Responses API.
func response(root jsonx.Value) (*canon.Usage, bool) {
	return tokensOf(root.Get("usage")), root.Get("status").Str() == "completed" && root.Get("error").Missing()
}

// responseStream reads a stream of the Responses API: it has the response, completed, in its last event.
func responseStream(body []byte) (tokens *canon.Usage, ok bool) {
	failed := false
	whole := events(body, func(ev sse.Event) {
		root := object(ev.Data)
		switch root.Get("type").Str() {
		case "response.completed":
			tokens, ok = response(root.Get("response"))
		case "error", "response.failed", "response.incomplete", "response.cancelled":
			failed = true
		}
		failed = failed || string(ev.Name) == "error" || !root.Get("error").Missing()
	})
	return tokens, ok && whole && !failed
}

// completionStream reads a stream of completions, which ends as that of a chat does.
func completionStream(body []byte) (tokens *canon.Usage, ok bool) {
	failed := false
	whole := events(body, func(ev sse.Event) {
		if string(bytes.TrimSpace(ev.Data)) == "[DONE]" {
			ok = true
			return
		}
		root := object(ev.Data)
		failed = failed || string(ev.Name) == "error" || root.Missing() || !root.Get("error").Missing()
		if u := tokensOf(root.Get("usage")); u != nil {
			tokens = u
		}
	})
	return tokens, ok && whole && !failed
}

// events gives the events of a stream that have data, and says whether it could be read to its end.
func events(body []byte, each func(sse.Event)) bool {
	var r sse.Reader
	r.Feed(body, func(ev sse.Event) {
		if ev.Data != nil {
			each(ev)
		}
	})
	return r.Err() == nil && !r.Partial()
}

// tokensOf reads a usage in either of the names that OpenAI has for them; nil where there is none.
func tokensOf(v jsonx.Value) *canon.Usage {
	if v.Kind() != jsonx.Object {
		return nil
	}
	number := func(v jsonx.Value) int64 {
		n, _ := v.Int()
		return max(n, 0)
	}
	either := func(a, b string) int64 { return max(number(v.Get(a)), number(v.Get(b))) }
	u := &canon.Usage{Input: either("input_tokens", "prompt_tokens"), Output: either("output_tokens", "completion_tokens")}
	for _, details := range [...]string{"input_tokens_details", "prompt_tokens_details"} {
		if n := number(v.Get(details).Get("cached_tokens")); n > 0 {
			u.CacheRead = min(n, u.Input)
		}
	}
	for _, details := range [...]string{"output_tokens_details", "completion_tokens_details"} {
		if n := number(v.Get(details).Get("reasoning_tokens")); n > 0 {
			u.Reasoning = min(n, u.Output)
		}
	}
	return u
}
