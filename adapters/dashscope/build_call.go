package dashscope

import (
	"fmt"
	"math"
	"slices"

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
	canon.Draft
	req    *canon.Request
	opts   canon.CallOptions
	traits traits
	multi  bool // the multimodal service, whose contents are arrays
}

// BuildCall implements canon.Outbound.
func (outbound) BuildCall(r *canon.Request, o canon.CallOptions) (*canon.Call, *canon.Error) {
	b := builder{Draft: canon.NewDraft(r), req: r, opts: o, traits: traitsOf(o.Model)}
	b.multi = b.traits.multimodal || hasImages(r)
	b.Raw(`{"model":`)
	b.Str(o.Model)
	b.Raw(`,"input":{"messages":[`)
	b.messages()
	b.Raw(`]},"parameters":{"result_format":"message"`)
	b.parameters()
	b.Raw(`}}`)
	if b.Err != nil {
		return nil, b.Err
	}
	call := &canon.Call{Path: textPath, Body: b.Text, Dropped: b.Dropped}
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

func (b *builder) parameters() {
	r := b.req
	if r.Stream {
		// Without it every frame repeats the whole text so far.
		b.Raw(`,"incremental_output":true`)
	}
	switch {
	case r.MaxTokens != nil:
		b.Raw(`,"max_tokens":`)
		b.Int(*r.MaxTokens)
	case b.opts.DefaultMaxTokens > 0:
		b.Raw(`,"max_tokens":`)
		b.Int(b.opts.DefaultMaxTokens)
	}
	b.sampling()
	b.thinking()
	b.tools()
	b.format()
	if r.User != "" {
		b.Drop("user")
	}
}

func (b *builder) sampling() {
	r := b.req
	if r.Temperature != nil {
		b.Raw(`,"temperature":`)
		b.Num(min(maxTemperature, max(0, *r.Temperature)))
	}
	if r.TopP != nil {
		b.Raw(`,"top_p":`)
		b.Num(min(1, max(minTopP, *r.TopP)))
	}
	if r.TopK != nil && *r.TopK >= 0 {
		b.Raw(`,"top_k":`)
		b.Int(*r.TopK)
	}
	if r.PresencePenalty != nil {
		b.Raw(`,"presence_penalty":`)
		b.Num(*r.PresencePenalty)
	}
	if r.FrequencyPenalty != nil && *r.FrequencyPenalty != 0 {
		b.Drop("frequency_penalty")
	}
	if r.Seed != nil {
		if *r.Seed < 0 || *r.Seed > math.MaxInt32 {
			b.Drop("seed") // the provider's range is 0 to 2^31-1
		} else {
			b.Raw(`,"seed":`)
			b.Int(*r.Seed)
		}
	}
	for i, s := range r.Stop {
		if i == 0 {
			b.Raw(`,"stop":[`)
		} else {
			b.Raw(`,`)
		}
		b.Str(s)
	}
	if len(r.Stop) > 0 {
		b.Raw(`]`)
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
			b.Drop("reasoning")
		}
		if r != nil || b.traits.thinks || b.traits.streamThinks {
			b.Raw(`,"enable_thinking":false`)
		}
		return
	}
	switch {
	case r == nil:
		if b.traits.streamThinks && !b.req.Stream {
			b.Raw(`,"enable_thinking":false`)
		}
	case r.Disabled:
		b.Raw(`,"enable_thinking":false`)
	default:
		b.Raw(`,"enable_thinking":true`)
		budget := effortBudget(r.Effort)
		if r.BudgetTokens != nil {
			budget = *r.BudgetTokens
		}
		if budget > 0 {
			b.Raw(`,"thinking_budget":`)
			b.Int(budget)
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
			b.Raw(`,"tools":[`)
		} else {
			b.Raw(`,`)
		}
		b.Raw(`{"type":"function","function":{"name":`)
		b.Str(t.Name)
		if t.Description != "" {
			b.Raw(`,"description":`)
			b.Str(t.Description)
		}
		b.Raw(`,"parameters":`)
		switch {
		case len(t.Parameters) == 0 || string(t.Parameters) == "null":
			b.Raw(`{"type":"object","properties":{}}`)
		case jsonx.Check(t.Parameters) != nil || jsonx.Root(t.Parameters).Kind() != jsonx.Object:
			b.Fail(fmt.Sprintf("tools[%d].parameters", i), "tools[%d].parameters must be a JSON Schema object", i)
		default:
			b.Bytes(t.Parameters)
		}
		b.Raw(`}}`)
		if t.Strict != nil && *t.Strict {
			b.Drop("tools.strict")
		}
	}
	b.Raw(`]`)
	b.toolChoice()
	// The other dialects let a model call several tools at once unless told not to; here it is the
	// other way round.
	if b.req.ParallelToolCalls == nil || *b.req.ParallelToolCalls {
		b.Raw(`,"parallel_tool_calls":true`)
	} else {
		b.Raw(`,"parallel_tool_calls":false`)
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
	b.Raw(`,"tool_choice":`)
	switch choice.Mode {
	case canon.ChoiceNone:
		b.Raw(`"none"`)
	case canon.ChoiceRequired:
		b.Raw(`"required"`)
	case canon.ChoiceTool:
		b.Raw(`{"type":"function","function":{"name":`)
		b.Str(choice.Name)
		b.Raw(`}}`)
	default:
		b.Raw(`"auto"`)
	}
}

func (b *builder) format() {
	f := b.req.Format
	if f == nil {
		return
	}
	switch f.Kind {
	case canon.FormatJSON:
		b.Raw(`,"response_format":{"type":"json_object"}`)
	case canon.FormatSchema:
		if jsonx.Check(f.Schema) != nil || jsonx.Root(f.Schema).Kind() != jsonx.Object {
			b.Fail("response_format", "the JSON schema of the response format must be an object")
		}
		b.Raw(`,"response_format":{"type":"json_schema","json_schema":{"name":`)
		if f.Name == "" {
			b.Raw(`"answer"`) // required here, absent in some dialects
		} else {
			b.Str(f.Name)
		}
		b.Raw(`,"schema":`)
		b.Bytes(f.Schema)
		if f.Strict != nil {
			b.Raw(`,"strict":`)
			b.Bool(*f.Strict)
		}
		b.Raw(`}}`)
	}
}
