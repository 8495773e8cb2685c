package anthropic

import (
	"fmt"
	"slices"
	"strconv"
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
	req    *canon.Request
	opts   canon.CallOptions
	traits traits

	dst     []byte
	dropped []string
	err     *canon.Error // the first problem

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
	b := builder{req: r, opts: o, traits: traitsOf(o.Model), asUser: -1}
	for _, field := range r.Extra {
		b.drop(field)
	}
	b.planThinking()
	b.planMessages()
	b.dst = make([]byte, 0, b.req.SizeHint())
	b.request()
	if b.err != nil {
		return nil, b.err
	}
	return &canon.Call{
		Path:    messagesPath,
		Headers: [][2]string{{"anthropic-version", apiVersion}},
		Body:    b.dst,
		Dropped: b.dropped,
	}, nil
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

func (b *builder) request() {
	b.raw(`{"model":`)
	b.str(b.opts.Model)
	b.raw(`,"max_tokens":`)
	b.int(b.maxTokens)
	if b.req.Stream {
		b.raw(`,"stream":true`)
	}
	// Tools, system, messages: the order in which Anthropic reads them, and counts cache boundaries.
	b.tools()
	b.system()
	b.raw(`,"messages":[`)
	b.messages()
	b.raw(`]`)
	b.sampling()
	b.thinking()
	b.outputConfig()
	if b.req.User != "" {
		if len(b.req.User) > maxUserID {
			b.drop("user")
		} else {
			b.raw(`,"metadata":{"user_id":`)
			b.str(b.req.User)
			b.raw(`}`)
		}
	}
	b.raw(`}`)
}

func (b *builder) tools() {
	if len(b.req.Tools) == 0 {
		return
	}
	b.raw(`,"tools":[`)
	for i := range b.req.Tools {
		t := &b.req.Tools[i]
		if i > 0 {
			b.raw(`,`)
		}
		// A name cannot be changed: the answer would call a tool that the caller does not have.
		if !validName(t.Name, maxToolName) {
			b.fail(fmt.Sprintf("tools[%d].name", i),
				"tools[%d]: Anthropic does not take the tool name %q; use 1 to 128 letters, digits, _ and -", i, t.Name)
		}
		b.raw(`{"name":`)
		b.str(t.Name)
		if t.Description != "" {
			b.raw(`,"description":`)
			b.str(t.Description)
		}
		b.raw(`,"input_schema":`)
		b.schema(i, t.Parameters)
		if t.Strict != nil && *t.Strict {
			if b.traits.noStrict {
				b.drop("tools.strict")
			} else {
				b.raw(`,"strict":true`)
			}
		}
		b.mark(t.CacheMark)
		b.raw(`}`)
	}
	b.raw(`]`)
	b.toolChoice()
}

// schema prints the schema of a tool's arguments. Anthropic insists on "type":"object", which other
// providers let callers leave out.
func (b *builder) schema(i int, schema []byte) {
	if len(schema) == 0 || string(schema) == "null" {
		b.raw(`{"type":"object","properties":{}}`)
		return
	}
	if jsonx.Check(schema) != nil || jsonx.Root(schema).Kind() != jsonx.Object {
		b.fail(fmt.Sprintf("tools[%d].parameters", i), "tools[%d].parameters must be a JSON Schema object", i)
		return
	}
	v := jsonx.Root(schema)
	if v.Get("type") != nil {
		b.dst = append(b.dst, v...)
		return
	}
	b.raw(`{"type":"object"`)
	if rest := jsonx.Root(v[1:]); rest[0] != '}' {
		b.raw(`,`)
	}
	b.dst = append(b.dst, v[1:]...)
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
	b.raw(`,"tool_choice":{"type":`)
	switch c.Mode {
	case canon.ChoiceNone:
		b.raw(`"none"}`)
		return
	case canon.ChoiceRequired:
		b.raw(`"any"`)
	case canon.ChoiceTool:
		b.raw(`"tool","name":`)
		b.str(c.Name)
	default:
		b.raw(`"auto"`)
	}
	if serial {
		b.raw(`,"disable_parallel_tool_use":true`)
	}
	b.raw(`}`)
}

// sampling prints what steers the choice of tokens. Temperatures above 1 are held at 1, not
// rescaled: the same number means the same up to there.
func (b *builder) sampling() {
	temperature, topP, topK := b.req.Temperature, b.req.TopP, b.req.TopK
	thinks := b.adaptive || b.budget > 0
	if temperature != nil && (b.traits.noSampling || thinks) {
		if *temperature != 1 {
			b.drop("temperature")
		}
		temperature = nil
	}
	// Models from 4.1 on refuse temperature and top_p together. 1 is what top_p is by default.
	if topP != nil && (b.traits.noSampling || temperature != nil || thinks && *topP < 0.95) {
		if *topP < 1 {
			b.drop("top_p")
		}
		topP = nil
	}
	if topK != nil && (b.traits.noSampling || thinks) {
		b.drop("top_k")
		topK = nil
	}
	if temperature != nil {
		b.raw(`,"temperature":`)
		b.num(min(1, max(0, *temperature)))
	}
	if topP != nil {
		b.raw(`,"top_p":`)
		b.num(min(1, max(0, *topP)))
	}
	if topK != nil && *topK >= 0 {
		b.raw(`,"top_k":`)
		b.int(*topK)
	}
	if b.req.PresencePenalty != nil && *b.req.PresencePenalty != 0 {
		b.drop("presence_penalty")
	}
	if b.req.FrequencyPenalty != nil && *b.req.FrequencyPenalty != 0 {
		b.drop("frequency_penalty")
	}
	if b.req.Seed != nil {
		b.drop("seed")
	}
	b.stop()
}

func (b *builder) stop() {
	n := 0
	for _, s := range b.req.Stop {
		if strings.TrimSpace(s) == "" {
			b.drop("stop") // Anthropic refuses sequences of white space alone
			continue
		}
		if n == 0 {
			b.raw(`,"stop_sequences":[`)
		} else {
			b.raw(`,`)
		}
		b.str(s)
		n++
	}
	if n > 0 {
		b.raw(`]`)
	}
}

func (b *builder) thinking() {
	switch {
	case b.disableThinking:
		b.raw(`,"thinking":{"type":"disabled"}`)
	case b.budget > 0:
		b.raw(`,"thinking":{"type":"enabled","budget_tokens":`)
		b.int(b.budget)
		b.raw(`}`)
	case b.adaptive:
		b.raw(`,"thinking":{"type":"adaptive"}`)
	}
}

func (b *builder) outputConfig() {
	f := b.req.Format
	schema := f != nil && f.Kind == canon.FormatSchema
	if b.effort == "" && !schema {
		return
	}
	b.raw(`,"output_config":{`)
	if b.effort != "" {
		b.raw(`"effort":`)
		b.str(b.effort)
	}
	if schema {
		if b.effort != "" {
			b.raw(`,`)
		}
		if jsonx.Check(f.Schema) != nil || jsonx.Root(f.Schema).Kind() != jsonx.Object {
			b.fail("response_format", "the JSON schema of the response format must be an object")
		}
		b.raw(`"format":{"type":"json_schema","schema":`)
		b.dst = append(b.dst, f.Schema...)
		b.raw(`}`)
	}
	b.raw(`}`)
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
	b.raw(`,"cache_control":{"type":"ephemeral"}`)
}
