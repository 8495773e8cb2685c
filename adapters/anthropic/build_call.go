package anthropic

import (
	"fmt"
	"strings"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/jsonx"
)

const (
	// maxCacheMarks is how many cache boundaries Anthropic takes in one request.
	maxCacheMarks = 4
	// maxUserID is Anthropic's limit on metadata.user_id, in characters.
	maxUserID = 256
	// jsonInstruction stands for response_format json_object, which Anthropic does not have.
	jsonInstruction = "Answer with a single valid JSON object and nothing else: no prose around it, no code fence."
)

// builder prints one request.
type builder struct {
	canon.Draft
	req    *canon.Request
	opts   canon.CallOptions
	traits traits

	maxTokens       int64
	budget          int64 // thinking budget, 0 for none
	adaptive        bool
	disableThinking bool
	effort          string

	asUser    int         // the system message that is said as the user's, or -1
	skipMarks int         // cache boundaries to leave out, so that maxCacheMarks remain
	trim      *canon.Part // the text that ends a final assistant turn
	ids       callIDs
}

// BuildCall implements canon.Outbound.
func (outbound) BuildCall(r *canon.Request, o canon.CallOptions) (*canon.Call, *canon.Error) {
	b := builder{Draft: canon.NewDraft(r), req: r, opts: o, traits: traitsOf(o.Model), asUser: -1}
	b.planThinking()
	b.planMessages()
	b.request()
	if b.Err != nil {
		return nil, b.Err
	}
	return &canon.Call{
		Path:    messagesPath,
		Headers: [][2]string{{"anthropic-version", apiVersion}},
		Body:    b.Text,
		Dropped: b.Dropped,
	}, nil
}

func (b *builder) request() {
	b.Raw(`{"model":`)
	b.Str(b.opts.Model)
	b.Raw(`,"max_tokens":`)
	b.Int(b.maxTokens)
	if b.req.Stream {
		b.Raw(`,"stream":true`)
	}
	// Tools, system, messages: the order in which Anthropic reads them, and counts cache boundaries.
	b.tools()
	b.system()
	b.Raw(`,"messages":[`)
	b.messages()
	b.Raw(`]`)
	b.sampling()
	b.thinking()
	b.outputConfig()
	if b.req.User != "" {
		if len(b.req.User) > maxUserID {
			b.Drop("user")
		} else {
			b.Raw(`,"metadata":{"user_id":`)
			b.Str(b.req.User)
			b.Raw(`}`)
		}
	}
	b.Raw(`}`)
}

func (b *builder) tools() {
	if len(b.req.Tools) == 0 {
		return
	}
	b.Raw(`,"tools":[`)
	for i := range b.req.Tools {
		t := &b.req.Tools[i]
		if i > 0 {
			b.Raw(`,`)
		}
		// A name cannot be changed: the answer would call a tool that the caller does not have.
		if !validName(t.Name, maxToolName) {
			b.Fail(fmt.Sprintf("tools[%d].name", i),
				"tools[%d]: Anthropic does not take the tool name %q; use 1 to 128 letters, digits, _ and -", i, t.Name)
		}
		b.Raw(`{"name":`)
		b.Str(t.Name)
		if t.Description != "" {
			b.Raw(`,"description":`)
			b.Str(t.Description)
		}
		b.Raw(`,"input_schema":`)
		b.schema(i, t.Parameters)
		if t.Strict != nil && *t.Strict {
			if b.traits.noStrict {
				b.Drop("tools.strict")
			} else {
				b.Raw(`,"strict":true`)
			}
		}
		b.mark(t.CacheMark)
		b.Raw(`}`)
	}
	b.Raw(`]`)
	b.toolChoice()
}

// schema prints the schema of a tool's arguments. Anthropic insists on "type":"object", which other
// providers let callers leave out.
func (b *builder) schema(i int, schema []byte) {
	if len(schema) == 0 || string(schema) == "null" {
		b.Raw(`{"type":"object","properties":{}}`)
		return
	}
	if jsonx.Check(schema) != nil || jsonx.Root(schema).Kind() != jsonx.Object {
		b.Fail(fmt.Sprintf("tools[%d].parameters", i), "tools[%d].parameters must be a JSON Schema object", i)
		return
	}
	v := jsonx.Root(schema)
	if v.Get("type") != nil {
		b.Bytes(v)
		return
	}
	b.Raw(`{"type":"object"`)
	if rest := jsonx.Root(v[1:]); rest[0] != '}' {
		b.Raw(`,`)
	}
	b.Bytes(v[1:])
}

func (b *builder) toolChoice() {
	serial := b.req.ParallelToolCalls != nil && !*b.req.ParallelToolCalls
	c := b.req.ToolChoice
	if c == nil {
		if !serial {
			return
		}
		c = &canon.ToolChoice{Mode: canon.ChoiceAuto} // the flag has no other place
	}
	b.Raw(`,"tool_choice":{"type":`)
	switch c.Mode {
	case canon.ChoiceNone:
		b.Raw(`"none"}`)
		return
	case canon.ChoiceRequired:
		b.Raw(`"any"`)
	case canon.ChoiceTool:
		b.Raw(`"tool","name":`)
		b.Str(c.Name)
	default:
		b.Raw(`"auto"`)
	}
	if serial {
		b.Raw(`,"disable_parallel_tool_use":true`)
	}
	b.Raw(`}`)
}

// sampling prints what steers the choice of tokens. Temperatures above 1 are held at 1, not
// rescaled: the same number means the same up to there.
func (b *builder) sampling() {
	temperature, topP, topK := b.req.Temperature, b.req.TopP, b.req.TopK
	thinks := b.adaptive || b.budget > 0
	if temperature != nil && (b.traits.noSampling || thinks) {
		if *temperature != 1 {
			b.Drop("temperature")
		}
		temperature = nil
	}
	// Models from 4.1 on refuse temperature and top_p together. 1 is what top_p is by default.
	if topP != nil && (b.traits.noSampling || temperature != nil || thinks && *topP < 0.95) {
		if *topP < 1 {
			b.Drop("top_p")
		}
		topP = nil
	}
	if topK != nil && (b.traits.noSampling || thinks) {
		b.Drop("top_k")
		topK = nil
	}
	if temperature != nil {
		b.Raw(`,"temperature":`)
		b.Num(min(1, max(0, *temperature)))
	}
	if topP != nil {
		b.Raw(`,"top_p":`)
		b.Num(min(1, max(0, *topP)))
	}
	if topK != nil && *topK >= 0 {
		b.Raw(`,"top_k":`)
		b.Int(*topK)
	}
	if b.req.PresencePenalty != nil && *b.req.PresencePenalty != 0 {
		b.Drop("presence_penalty")
	}
	if b.req.FrequencyPenalty != nil && *b.req.FrequencyPenalty != 0 {
		b.Drop("frequency_penalty")
	}
	if b.req.Seed != nil {
		b.Drop("seed")
	}
	b.stop()
}

func (b *builder) stop() {
	n := 0
	for _, s := range b.req.Stop {
		if strings.TrimSpace(s) == "" {
			b.Drop("stop") // Anthropic refuses sequences of white space alone
			continue
		}
		if n == 0 {
			b.Raw(`,"stop_sequences":[`)
		} else {
			b.Raw(`,`)
		}
		b.Str(s)
		n++
	}
	if n > 0 {
		b.Raw(`]`)
	}
}

func (b *builder) thinking() {
	switch {
	case b.disableThinking:
		b.Raw(`,"thinking":{"type":"disabled"}`)
	case b.budget > 0:
		b.Raw(`,"thinking":{"type":"enabled","budget_tokens":`)
		b.Int(b.budget)
		b.Raw(`}`)
	case b.adaptive:
		b.Raw(`,"thinking":{"type":"adaptive"}`)
	}
}

func (b *builder) outputConfig() {
	f := b.req.Format
	schema := f != nil && f.Kind == canon.FormatSchema
	if b.effort == "" && !schema {
		return
	}
	b.Raw(`,"output_config":{`)
	if b.effort != "" {
		b.Raw(`"effort":`)
		b.Str(b.effort)
	}
	if schema {
		if b.effort != "" {
			b.Raw(`,`)
		}
		if jsonx.Check(f.Schema) != nil || jsonx.Root(f.Schema).Kind() != jsonx.Object {
			b.Fail("response_format", "the JSON schema of the response format must be an object")
		}
		b.Raw(`"format":{"type":"json_schema","schema":`)
		b.Bytes(f.Schema)
		b.Raw(`}`)
	}
	b.Raw(`}`)
}

// mark prints a cache boundary, unless it is one of the first of too many.
func (b *builder) mark(wanted bool) {
	if !wanted {
		return
	}
	if b.skipMarks > 0 {
		b.skipMarks--
		return
	}
	b.Raw(`,"cache_control":{"type":"ephemeral"}`)
}
