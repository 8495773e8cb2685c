package dashscope

import (
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/jsonx"
)

// Sampling limits: temperature is below 2, top_p above 0.
const (
	maxTemperature = 1.99
	minTopP        = 1e-6
)

// builder prints one request.
type builder struct {
	req    *canon.Request
	opts   canon.CallOptions
	traits traits
	multi  bool // the multimodal service, whose contents are arrays

	dst     []byte
	dropped []string
	err     *canon.Error // the first problem
}

// BuildCall implements canon.Outbound.
func (outbound) BuildCall(r *canon.Request, o canon.CallOptions) (*canon.Call, *canon.Error) {
	b := builder{req: r, opts: o, traits: traitsOf(o.Model)}
	b.multi = b.traits.multimodal || hasImages(r)
	for _, field := range r.Extra {
		b.drop(field)
	}
	b.dst = make([]byte, 0, b.req.SizeHint())
	b.raw(`{"model":`)
	b.str(o.Model)
	b.raw(`,"input":{"messages":[`)
	b.messages()
	b.raw(`]},"parameters":{"result_format":"message"`)
	b.parameters()
	b.raw(`}}`)
	if b.err != nil {
		return nil, b.err
	}
	call := &canon.Call{Path: textPath, Body: b.dst, Dropped: b.dropped}
	if b.multi {
		call.Path = multimodalPath
	}
	if r.Stream {
		// Streaming is asked for here, not in the body.
		call.Headers = [][2]string{{"x-dashscope-sse", "enable"}, {"accept", "text/event-stream"}}
	}
	return call, nil
}

func hasImages(r *canon.Request) bool {
	for i := range r.Messages {
		for j := range r.Messages[i].Parts {
			p := &r.Messages[i].Parts[j]
			if p.Kind == canon.PartImage || p.Kind == canon.PartToolResult && p.Result != nil && hasImage(p.Result.Parts) {
				return true
			}
		}
	}
	return false
}

func hasImage(parts []canon.Part) bool {
	return slices.ContainsFunc(parts, func(p canon.Part) bool { return p.Kind == canon.PartImage })
}

func (b *builder) drop(field string) {
	if !slices.Contains(b.dropped, field) {
		b.dropped = append(b.dropped, field)
	}
}

// fail notes the first problem; what is printed after it does not matter.
func (b *builder) fail(param, format string, args ...any) {
	if b.err == nil {
		b.err = &canon.Error{Kind: canon.ErrInvalidRequest, Param: param, Message: fmt.Sprintf(format, args...)}
	}
}

func (b *builder) raw(s string)  { b.dst = append(b.dst, s...) }
func (b *builder) str(s string)  { b.dst = jsonx.AppendString(b.dst, s) }
func (b *builder) int(n int64)   { b.dst = strconv.AppendInt(b.dst, n, 10) }
func (b *builder) num(f float64) { b.dst = strconv.AppendFloat(b.dst, f, 'g', -1, 64) }

func (b *builder) parameters() {
	r := b.req
	if r.Stream {
		// Without it every frame repeats the whole text so far.
		b.raw(`,"incremental_output":true`)
	}
	switch {
	case r.MaxTokens != nil:
		b.raw(`,"max_tokens":`)
		b.int(*r.MaxTokens)
	case b.opts.DefaultMaxTokens > 0:
		b.raw(`,"max_tokens":`)
		b.int(b.opts.DefaultMaxTokens)
	}
	b.sampling()
	b.thinking()
	b.tools()
	b.format()
	if r.User != "" {
		b.drop("user")
	}
}

func (b *builder) sampling() {
	r := b.req
	if r.Temperature != nil {
		b.raw(`,"temperature":`)
		b.num(min(maxTemperature, max(0, *r.Temperature)))
	}
	if r.TopP != nil {
		b.raw(`,"top_p":`)
		b.num(min(1, max(minTopP, *r.TopP)))
	}
	if r.TopK != nil && *r.TopK >= 0 {
		b.raw(`,"top_k":`)
		b.int(*r.TopK)
	}
	if r.PresencePenalty != nil {
		b.raw(`,"presence_penalty":`)
		b.num(*r.PresencePenalty)
	}
	if r.FrequencyPenalty != nil && *r.FrequencyPenalty != 0 {
		b.drop("frequency_penalty")
	}
	if r.Seed != nil {
		if *r.Seed < 0 || *r.Seed > math.MaxInt32 {
			b.drop("seed") // the provider's range is 0 to 2^31-1
		} else {
			b.raw(`,"seed":`)
			b.int(*r.Seed)
		}
	}
	for i, s := range r.Stop {
		if i == 0 {
			b.raw(`,"stop":[`)
		} else {
			b.raw(`,`)
		}
		b.str(s)
	}
	if len(r.Stop) > 0 {
		b.raw(`]`)
	}
}

// forcedCall reports that the model must call a tool.
func (b *builder) forcedCall() bool {
	c := b.req.ToolChoice
	return len(b.req.Tools) > 0 && c != nil && (c.Mode == canon.ChoiceRequired || c.Mode == canon.ChoiceTool)
}

// jsonFormat reports that the answer must be JSON.
func (b *builder) jsonFormat() bool {
	return b.req.Format != nil && b.req.Format.Kind != canon.FormatText
}

// effortBudgets are thinking budgets in tokens; the native API has no effort. Efforts above medium
// think as long as the model likes.
func effortBudget(effort string) int64 {
	switch effort {
	case "minimal":
		return 1024
	case "low":
		return 2048
	case "medium":
		return 8192
	}
	return 0
}

// thinking prints enable_thinking. DashScope refuses thinking together with a forced tool call or
// with JSON output; those decide what an answer is, so that thinking yields.
func (b *builder) thinking() {
	r := b.req.Reasoning
	if b.forcedCall() || b.jsonFormat() {
		if r != nil && !r.Disabled {
			b.drop("reasoning")
		}
		if r != nil || b.traits.thinks || b.traits.streamThinks {
			b.raw(`,"enable_thinking":false`)
		}
		return
	}
	switch {
	case r == nil:
		if b.traits.streamThinks && !b.req.Stream {
			b.raw(`,"enable_thinking":false`)
		}
	case r.Disabled:
		b.raw(`,"enable_thinking":false`)
	default:
		b.raw(`,"enable_thinking":true`)
		budget := effortBudget(r.Effort)
		if r.BudgetTokens != nil {
			budget = *r.BudgetTokens
		}
		if budget > 0 {
			b.raw(`,"thinking_budget":`)
			b.int(budget)
		}
	}
}

func (b *builder) tools() {
	if len(b.req.Tools) == 0 {
		return
	}
	for i := range b.req.Tools {
		t := &b.req.Tools[i]
		if i == 0 {
			b.raw(`,"tools":[`)
		} else {
			b.raw(`,`)
		}
		b.raw(`{"type":"function","function":{"name":`)
		b.str(t.Name)
		if t.Description != "" {
			b.raw(`,"description":`)
			b.str(t.Description)
		}
		b.raw(`,"parameters":`)
		switch {
		case len(t.Parameters) == 0 || string(t.Parameters) == "null":
			b.raw(`{"type":"object","properties":{}}`)
		case jsonx.Check(t.Parameters) != nil || jsonx.Root(t.Parameters).Kind() != jsonx.Object:
			b.fail(fmt.Sprintf("tools[%d].parameters", i), "tools[%d].parameters must be a JSON Schema object", i)
		default:
			b.dst = append(b.dst, t.Parameters...)
		}
		b.raw(`}}`)
		if t.Strict != nil && *t.Strict {
			b.drop("tools.strict")
		}
	}
	b.raw(`]`)
	b.toolChoice()
	// The other dialects let a model call several tools at once unless told not to; here it is the
	// other way round.
	if b.req.ParallelToolCalls == nil || *b.req.ParallelToolCalls {
		b.raw(`,"parallel_tool_calls":true`)
	} else {
		b.raw(`,"parallel_tool_calls":false`)
	}
}

func (b *builder) toolChoice() {
	c := b.req.ToolChoice
	if c == nil {
		return
	}
	choice := *c
	if choice.Mode == canon.ChoiceRequired && len(b.req.Tools) == 1 {
		// The same wish in the form that every model takes: "required" came later.
		choice = canon.ToolChoice{Mode: canon.ChoiceTool, Name: b.req.Tools[0].Name}
	}
	b.raw(`,"tool_choice":`)
	switch choice.Mode {
	case canon.ChoiceNone:
		b.raw(`"none"`)
	case canon.ChoiceRequired:
		b.raw(`"required"`)
	case canon.ChoiceTool:
		b.raw(`{"type":"function","function":{"name":`)
		b.str(choice.Name)
		b.raw(`}}`)
	default:
		b.raw(`"auto"`)
	}
}

func (b *builder) format() {
	f := b.req.Format
	if f == nil {
		return
	}
	switch f.Kind {
	case canon.FormatJSON:
		b.raw(`,"response_format":{"type":"json_object"}`)
	case canon.FormatSchema:
		if jsonx.Check(f.Schema) != nil || jsonx.Root(f.Schema).Kind() != jsonx.Object {
			b.fail("response_format", "the JSON schema of the response format must be an object")
		}
		b.raw(`,"response_format":{"type":"json_schema","json_schema":{"name":`)
		if f.Name == "" {
			b.raw(`"answer"`) // required here, absent in some dialects
		} else {
			b.str(f.Name)
		}
		b.raw(`,"schema":`)
		b.dst = append(b.dst, f.Schema...)
		if f.Strict != nil {
			b.raw(`,"strict":`)
			b.dst = strconv.AppendBool(b.dst, *f.Strict)
		}
		b.raw(`}}`)
	}
}
