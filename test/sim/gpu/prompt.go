package gpu

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"strings"
)

// tokenBytes is the length of a token: of prompts about what Qwen's tokenizer makes of English, of answers exactly.
const tokenBytes = 4

// chatRequest is what matters of a chat completion request. Everything else is taken and ignored, as vLLM does with most of it.
type chatRequest struct {
	Model               string          `json:"model"`
	Messages            []message       `json:"messages"`
	Tools               json.RawMessage `json:"tools"`
	MaxTokens           *int            `json:"max_tokens"`
	MaxCompletionTokens *int            `json:"max_completion_tokens"`
	MinTokens           int             `json:"min_tokens"` // vLLM's own
	IgnoreEOS           bool            `json:"ignore_eos"` // vLLM's own: answer with as many tokens as are allowed
	N                   *int            `json:"n"`
	Stream              bool            `json:"stream"`
	StreamOptions       *struct {
		IncludeUsage bool `json:"include_usage"`
	} `json:"stream_options"`
}

type message struct {
	Role       string          `json:"role"`
	Content    content         `json:"content"`
	ToolCalls  json.RawMessage `json:"tool_calls"`
	ToolCallID string          `json:"tool_call_id"`
}

// content is a text, or parts that are texts.
type content string

// UnmarshalJSON joins the parts.
func (c *content) UnmarshalJSON(b []byte) error {
	switch {
	case len(b) > 0 && b[0] == '"':
		return json.Unmarshal(b, (*string)(c))
	case string(b) == "null":
		*c = ""
		return nil
	}
	var parts []struct {
		Type string `json:"type"`
		Text string `json:"text"`
	}
	if err := json.Unmarshal(b, &parts); err != nil {
		return errors.New("content must be a string or a list of parts")
	}
	var all strings.Builder
	for _, p := range parts {
		if p.Type != "text" {
			return fmt.Errorf("a part of type %q: this is not a multimodal model", p.Type)
		}
		all.WriteString(p.Text)
	}
	*c = content(all.String())
	return nil
}

// parseChat reads a request. The error is for the caller.
func parseChat(body []byte) (*chatRequest, error) {
	r := &chatRequest{}
	if err := json.Unmarshal(body, r); err != nil {
		return nil, fmt.Errorf("the request cannot be read: %w", err)
	}
	limit := r.limit()
	switch {
	case r.Model == "":
		return nil, errors.New("model: field required")
	case len(r.Messages) == 0:
		return nil, errors.New("messages: a list of one message at least is required")
	case limit != nil && *limit < 1:
		return nil, fmt.Errorf("max_tokens must be at least 1, got %d", *limit)
	case r.MinTokens < 0 || limit != nil && r.MinTokens > *limit:
		return nil, fmt.Errorf("min_tokens must be from 0 to max_tokens, got %d", r.MinTokens)
	case r.N != nil && *r.N != 1:
		return nil, fmt.Errorf("n must be 1, got %d: this server makes one answer", *r.N)
	case r.StreamOptions != nil && !r.Stream:
		return nil, errors.New("stream_options can only be defined when stream is true")
	}
	for i, m := range r.Messages {
		if m.Role == "" {
			return nil, fmt.Errorf("messages[%d].role: field required", i)
		}
	}
	return r, nil
}

// limit is the most tokens that the caller wants. Nil: as many as fit.
func (r *chatRequest) limit() *int {
	if r.MaxCompletionTokens != nil {
		return r.MaxCompletionTokens
	}
	return r.MaxTokens
}

// prompt is what the model would read, in the manner of Qwen's chat template: a conversation that goes on begins with
// everything before, the answers included.
func (r *chatRequest) prompt() string {
	var b strings.Builder
	if len(r.Tools) > 0 && string(r.Tools) != "null" {
		b.WriteString("<|im_start|>system\n# Tools\n")
		b.Write(r.Tools)
		b.WriteString("<|im_end|>\n")
	}
	for _, m := range r.Messages {
		b.WriteString("<|im_start|>")
		b.WriteString(m.Role)
		b.WriteByte('\n')
		b.WriteString(m.ToolCallID)
		b.WriteString(string(m.Content))
		if string(m.ToolCalls) != "null" {
			b.Write(m.ToolCalls)
		}
		b.WriteString("<|im_end|>\n")
	}
	b.WriteString("<|im_start|>assistant\n")
	return b.String()
}

// tokens is the number of tokens of a text.
func tokens(text string) int { return (len(text) + tokenBytes - 1) / tokenBytes }

// blocks are chained hashes of the whole blocks of texts in a row.
func blocks(size int, texts ...string) []uint64 {
	size *= tokenBytes
	h := fnv.New64a()
	var out []uint64
	room := size
	for _, t := range texts {
		for len(t) >= room {
			h.Write([]byte(t[:room]))
			out = append(out, h.Sum64())
			t, room = t[room:], size
		}
		h.Write([]byte(t))
		room -= len(t)
	}
	return out
}
