package openai

import (
	"slices"
	"strings"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/internal/fields"
	"github.com/weir-dev/weir/adapters/jsonx"
)

// BuildCall prints r as a Chat Completions request.
//
// The limit goes out as max_completion_tokens: OpenAI's reasoning models refuse max_tokens, its
// other models take both, and so do vLLM, SGLang, llama.cpp and Qwen's compatible mode. A server
// that knows max_tokens alone ignores the limit (Ollama up to 0.32).
//
// A stream always asks for usage, whether or not the caller did; the inbound side hides it.
func (outbound) BuildCall(r *canon.Request, o canon.CallOptions) (*canon.Call, *canon.Error) {
	b := builder{canon.NewDraft(r)}
	b.Raw(`{"model":`)
	b.Str(o.Model)
	b.Raw(`,"messages":[`)
	if err := b.messages(r.Messages); err != nil {
		return nil, fields.Sentence(err)
	}
	b.Raw("]")
	b.tools(r)
	b.integer("max_completion_tokens", r.MaxTokens)
	b.float("temperature", r.Temperature)
	b.float("top_p", r.TopP)
	b.float("presence_penalty", r.PresencePenalty)
	b.float("frequency_penalty", r.FrequencyPenalty)
	b.integer("seed", r.Seed)
	if r.TopK != nil {
		b.Drop("top_k")
	}
	b.stop(r.Stop)
	b.format(r.Format)
	b.reasoning(r.Reasoning, o.Model)
	if r.User != "" {
		b.Raw(`,"user":`)
		b.Str(r.User)
	}
	if r.Stream {
		b.Raw(`,"stream":true,"stream_options":{"include_usage":true}`)
	}
	b.Raw("}")
	return &canon.Call{Path: "/chat/completions", Body: b.Text, Dropped: b.Dropped}, nil
}

// Credentials gives the bearer header.
func (outbound) Credentials(key string) []canon.Credential {
	return []canon.Credential{{Name: "authorization", Value: "Bearer " + key}}
}

// SetModel replaces the model's name, reading the body once without building a tree of it.
func (outbound) SetModel(body []byte, model string) ([]byte, *canon.Error) {
	out, err := jsonx.SetString(body, "model", model)
	if err != nil {
		return nil, &canon.Error{Kind: canon.ErrInvalidRequest, Param: "model", Message: err.Error()}
	}
	return out, nil
}

// builder prints one request.
type builder struct{ canon.Draft }

func (b *builder) member(name string) {
	b.Raw(`,"`)
	b.Raw(name)
	b.Raw(`":`)
}

func (b *builder) integer(name string, n *int64) {
	if n != nil {
		b.member(name)
		b.Int(*n)
	}
}

func (b *builder) float(name string, f *float64) {
	if f != nil {
		b.member(name)
		b.Num(*f)
	}
}

func (b *builder) boolean(name string, v *bool) {
	if v != nil {
		b.member(name)
		b.Bool(*v)
	}
}

func (b *builder) stop(stop []string) {
	if len(stop) == 0 {
		return
	}
	b.Raw(`,"stop":[`)
	for i, s := range stop {
		if i > 0 {
			b.Raw(",")
		}
		b.Str(s)
	}
	b.Raw("]")
}

// tools prints the tools and what is said about them; OpenAI refuses the latter without the former.
func (b *builder) tools(r *canon.Request) {
	if len(r.Tools) == 0 {
		return
	}
	b.Raw(`,"tools":[`)
	for i := range r.Tools {
		t := &r.Tools[i]
		if i > 0 {
			b.Raw(",")
		}
		b.Raw(`{"type":"function","function":{"name":`)
		b.Str(t.Name)
		if t.Description != "" {
			b.Raw(`,"description":`)
			b.Str(t.Description)
		}
		if t.Parameters != nil {
			b.Raw(`,"parameters":`)
			b.Bytes(t.Parameters)
		}
		b.boolean("strict", t.Strict)
		b.Raw("}}")
	}
	b.Raw("]")
	if c := r.ToolChoice; c != nil {
		b.Raw(`,"tool_choice":`)
		if c.Mode == canon.ChoiceTool {
			b.Raw(`{"type":"function","function":{"name":`)
			b.Str(c.Name)
			b.Raw("}}")
		} else {
			b.Str(string(c.Mode))
		}
	}
	b.boolean("parallel_tool_calls", r.ParallelToolCalls)
}

func (b *builder) format(f *canon.Format) {
	if f == nil {
		return
	}
	switch f.Kind {
	case canon.FormatJSON:
		b.Raw(`,"response_format":{"type":"json_object"}`)
	case canon.FormatSchema:
		b.Raw(`,"response_format":{"type":"json_schema","json_schema":{"name":`)
		if f.Name == "" { // required here, absent in other dialects
			b.Str("response")
		} else {
			b.Str(f.Name)
		}
		b.Raw(`,"schema":`)
		b.Bytes(f.Schema)
		b.boolean("strict", f.Strict)
		b.Raw("}}")
	}
}

// cannotReason are the beginnings of the names of OpenAI's models that refuse reasoning_effort. Agents written for other
// providers ask every model to think; servers of open models ignore what they do not know.
var cannotReason = []string{"gpt-3.5", "gpt-4", "chatgpt-"}

// reasoning prints reasoning_effort. A budget becomes the effort that is nearest to it and is
// reported, since it is no bound any more. Forbidden thinking is reported and not said: callers of
// other dialects forbid it for models that cannot think at all, and those refuse
// reasoning_effort:"none".
func (b *builder) reasoning(r *canon.Reasoning, model string) {
	if r == nil {
		return
	}
	if !r.Disabled && slices.ContainsFunc(cannotReason, func(p string) bool { return strings.HasPrefix(model, p) }) {
		b.Drop("reasoning_effort")
		return
	}
	if r.Disabled {
		b.Drop("thinking")
		return
	}
	effort := r.Effort
	if r.BudgetTokens != nil {
		b.Drop("thinking_budget")
		if effort == "" {
			effort = effortFor(*r.BudgetTokens)
		}
	}
	if effort != "" {
		b.Raw(`,"reasoning_effort":`)
		b.Str(effort)
	}
}

// effortFor cuts budgets of thinking tokens where providers' own presets lie: 1,024 is the smallest
// that Anthropic takes, 2,048 and 8,192 are usual for low and medium.
func effortFor(budget int64) string {
	switch {
	case budget <= 2048:
		return "low"
	case budget <= 8192:
		return "medium"
	}
	return "high"
}
