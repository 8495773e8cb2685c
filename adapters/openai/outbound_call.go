package openai

import (
	"slices"
	"strconv"
	"strings"

	"github.com/weir-dev/weir/adapters/canon"
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
	b := builder{dst: make([]byte, 0, bodySize(r)), dropped: slices.Clone(r.Extra)}
	b.raw(`{"model":`)
	b.str(o.Model)
	b.raw(`,"messages":[`)
	if err := b.messages(r.Messages); err != nil {
		if err.Param != "" {
			err.Message = err.Param + " " + err.Message
		}
		return nil, err
	}
	b.raw("]")
	b.tools(r)
	b.integer("max_completion_tokens", r.MaxTokens)
	b.float("temperature", r.Temperature)
	b.float("top_p", r.TopP)
	b.float("presence_penalty", r.PresencePenalty)
	b.float("frequency_penalty", r.FrequencyPenalty)
	b.integer("seed", r.Seed)
	if r.TopK != nil {
		b.drop("top_k")
	}
	b.stop(r.Stop)
	b.format(r.Format)
	b.reasoning(r.Reasoning, o.Model)
	if r.User != "" {
		b.raw(`,"user":`)
		b.str(r.User)
	}
	if r.Stream {
		b.raw(`,"stream":true,"stream_options":{"include_usage":true}`)
	}
	b.raw("}")
	return &canon.Call{Path: "/chat/completions", Body: b.dst, Dropped: b.dropped}, nil
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

// builder collects the body of a call.
type builder struct {
	dst     []byte
	dropped []string
}

func (b *builder) raw(s string) { b.dst = append(b.dst, s...) }

func (b *builder) str(s string) { b.dst = jsonx.AppendString(b.dst, s) }

// drop names a field that is left out, once.
func (b *builder) drop(field string) {
	if !slices.Contains(b.dropped, field) {
		b.dropped = append(b.dropped, field)
	}
}

func (b *builder) member(name string) {
	b.raw(`,"`)
	b.raw(name)
	b.raw(`":`)
}

func (b *builder) integer(name string, n *int64) {
	if n != nil {
		b.member(name)
		b.dst = strconv.AppendInt(b.dst, *n, 10)
	}
}

func (b *builder) float(name string, f *float64) {
	if f != nil {
		b.member(name)
		b.dst = strconv.AppendFloat(b.dst, *f, 'g', -1, 64)
	}
}

func (b *builder) boolean(name string, v *bool) {
	if v != nil {
		b.member(name)
		b.dst = strconv.AppendBool(b.dst, *v)
	}
}

func (b *builder) stop(stop []string) {
	if len(stop) == 0 {
		return
	}
	b.raw(`,"stop":[`)
	for i, s := range stop {
		if i > 0 {
			b.raw(",")
		}
		b.str(s)
	}
	b.raw("]")
}

// tools prints the tools and what is said about them; OpenAI refuses the latter without the former.
func (b *builder) tools(r *canon.Request) {
	if len(r.Tools) == 0 {
		return
	}
	b.raw(`,"tools":[`)
	for i := range r.Tools {
		t := &r.Tools[i]
		if i > 0 {
			b.raw(",")
		}
		b.raw(`{"type":"function","function":{"name":`)
		b.str(t.Name)
		if t.Description != "" {
			b.raw(`,"description":`)
			b.str(t.Description)
		}
		if t.Parameters != nil {
			b.raw(`,"parameters":`)
			b.dst = append(b.dst, t.Parameters...)
		}
		b.boolean("strict", t.Strict)
		b.raw("}}")
	}
	b.raw("]")
	if c := r.ToolChoice; c != nil {
		b.raw(`,"tool_choice":`)
		if c.Mode == canon.ChoiceTool {
			b.raw(`{"type":"function","function":{"name":`)
			b.str(c.Name)
			b.raw("}}")
		} else {
			b.str(string(c.Mode))
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
		b.raw(`,"response_format":{"type":"json_object"}`)
	case canon.FormatSchema:
		b.raw(`,"response_format":{"type":"json_schema","json_schema":{"name":`)
		if f.Name == "" { // required here, absent in other dialects
			b.str("response")
		} else {
			b.str(f.Name)
		}
		b.raw(`,"schema":`)
		b.dst = append(b.dst, f.Schema...)
		b.boolean("strict", f.Strict)
		b.raw("}}")
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
		b.drop("reasoning_effort")
		return
	}
	if r.Disabled {
		b.drop("thinking")
		return
	}
	effort := r.Effort
	if r.BudgetTokens != nil {
		b.drop("thinking_budget")
		if effort == "" {
			effort = effortFor(*r.BudgetTokens)
		}
	}
	if effort != "" {
		b.raw(`,"reasoning_effort":`)
		b.str(effort)
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

// bodySize guesses the size of the body, so that a prompt with images is not copied while it grows.
func bodySize(r *canon.Request) int {
	n := 1024
	for i := range r.Messages {
		n += 64 + partsSize(r.Messages[i].Parts)
	}
	for i := range r.Tools {
		n += 128 + len(r.Tools[i].Description) + len(r.Tools[i].Parameters)
	}
	return n
}

func partsSize(parts []canon.Part) int {
	n := 0
	for i := range parts {
		p := &parts[i]
		n += 64 + len(p.Text) + len(p.Text)/16 // escapes
		if p.Image != nil {
			n += len(p.Image.Data) + len(p.Image.URL)
		}
		if p.Call != nil {
			n += 64 + len(p.Call.Arguments)*5/4
		}
		if p.Result != nil {
			n += partsSize(p.Result.Parts)
		}
	}
	return n
}
