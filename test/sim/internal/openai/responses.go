package openai

import (
	"net/http"
	"strings"
	"time"

	"github.com/weir-dev/weir/test/sim/internal/exchange"
	"github.com/weir-dev/weir/test/sim/internal/jsontree"
	"github.com/weir-dev/weir/test/sim/internal/model"
	"github.com/weir-dev/weir/test/sim/internal/shape"
	"github.com/weir-dev/weir/test/sim/internal/tokens"
)

// The Responses API, without server-side state: previous_response_id and conversation find nothing.

var (
	inputPart = shape.Tagged("type", map[string]*shape.Type{
		"input_text":  shape.Object(shape.Need("type", shape.String()), shape.Need("text", shape.String()), breakpoint),
		"input_image": shape.Object(shape.Need("type", shape.String()), shape.May("image_url", shape.String()), shape.May("file_id", shape.String()), shape.May("detail", shape.Enum("auto", "low", "high", "original")), breakpoint),
		"input_file":  shape.Loose(shape.Need("type", shape.String())),
		"output_text": shape.Loose(shape.Need("type", shape.String()), shape.Need("text", shape.String())),
		"refusal":     shape.Object(shape.Need("type", shape.String()), shape.Need("refusal", shape.String())),
	})

	inputMessage = shape.Object(shape.May("type", shape.Enum("message")), shape.Need("role", shape.Enum("user", "assistant", "system", "developer")),
		shape.Need("content", shape.Either(shape.String(), shape.List(inputPart, 0))), shape.May("id", shape.String()), shape.May("status", shape.String()), shape.May("phase", shape.String()))

	inputItem = &shape.Type{Kinds: jsontree.Obj, Tag: "type", Variants: map[string]*shape.Type{
		"message": inputMessage,
		"function_call": shape.Loose(shape.Need("type", shape.String()), shape.Need("call_id", shape.Text(1, 64)), shape.Need("name", shape.Match(namePattern)),
			shape.Need("arguments", shape.String())),
		"function_call_output": shape.Loose(shape.Need("type", shape.String()), shape.Need("call_id", shape.Text(1, 64)), shape.Need("output", shape.Either(shape.String(), shape.List(inputPart, 0)))),
		"reasoning":            shape.Loose(shape.Need("type", shape.String()), shape.May("summary", shape.List(shape.Loose(), 0))),
		"item_reference":       shape.Object(shape.Need("type", shape.String()), shape.Need("id", shape.String())),
	}, Other: shape.Loose(shape.Need("type", shape.String()))} // hosted tools' items pass unread

	responsesShape = shape.Object(
		shape.Need("model", shape.Text(1, 0)),
		shape.Need("input", shape.Either(shape.String(), shape.List(shape.Anything(), 0))),
		shape.May("background", shape.Bool()),
		shape.May("client_metadata", shape.Loose()),
		shape.May("context_management", shape.Anything()),
		shape.May("conversation", shape.Either(shape.String(), shape.Loose())),
		shape.May("include", shape.List(shape.String(), 0)),
		shape.May("instructions", shape.String()),
		shape.May("max_output_tokens", shape.AtLeast(16)),
		shape.May("max_tool_calls", shape.AtLeast(1)),
		shape.May("metadata", metadata),
		shape.May("moderation", shape.Anything()),
		shape.May("parallel_tool_calls", shape.Bool()),
		shape.May("previous_response_id", shape.String()),
		shape.May("prompt", shape.Loose()),
		shape.May("prompt_cache_key", shape.String()),
		shape.May("prompt_cache_options", shape.Loose()),
		shape.May("prompt_cache_retention", shape.String()),
		shape.May("reasoning", shape.Object(shape.May("effort", efforts), shape.May("summary", shape.Enum("auto", "concise", "detailed")),
			shape.May("generate_summary", shape.Enum("auto", "concise", "detailed")), shape.May("context", shape.String()))),
		shape.May("safety_identifier", shape.Text(0, 64)),
		shape.May("service_tier", serviceTier),
		shape.May("store", shape.Bool()),
		shape.May("stream", shape.Bool()),
		shape.May("stream_options", shape.Object(shape.May("include_obfuscation", shape.Bool()))),
		shape.May("temperature", shape.Number(0, 2)),
		shape.May("text", shape.Object(shape.May("verbosity", shape.Enum("low", "medium", "high")), shape.May("format", shape.Tagged("type", map[string]*shape.Type{
			"text":        shape.Object(shape.Need("type", shape.String())),
			"json_object": shape.Object(shape.Need("type", shape.String())),
			"json_schema": shape.Object(shape.Need("type", shape.String()), shape.Need("name", shape.Match(namePattern)), shape.Need("schema", shape.Loose()),
				shape.May("description", shape.String()), shape.May("strict", shape.Bool())),
		})))),
		shape.May("tool_choice", shape.Either(shape.Enum("none", "auto", "required"), shape.Loose(shape.Need("type", shape.String())))),
		shape.May("tools", shape.List(&shape.Type{Kinds: jsontree.Obj, Tag: "type", Variants: map[string]*shape.Type{
			"function": shape.Object(shape.Need("type", shape.String()), shape.Need("name", shape.Match(namePattern)), shape.May("description", shape.String()),
				shape.May("parameters", shape.Loose()), shape.May("strict", shape.Bool()), shape.May("defer_loading", shape.Bool()), shape.May("allowed_callers", shape.Anything())),
		}, Other: shape.Loose(shape.Need("type", shape.String()))}, 0)),
		shape.May("top_logprobs", shape.Int(0, 20)),
		shape.May("top_p", shape.Number(0, 1)),
		shape.May("truncation", shape.Enum("auto", "disabled")),
		shape.May("user", shape.String()),
	)
)

func (p Provider) responses(r *exchange.Request, b *jsontree.Node, _ []string) (*exchange.Reply, *failure) {
	if f := p.known(r, b.Get("model").Str()); f != nil {
		return nil, f
	}
	if f := checkResponses(b); f != nil {
		return nil, f
	}
	c := readResponses(b)
	c.ask.Seed = r.Seed
	total, cached := r.Cache.Observe(r.Credential()+"/"+b.Get("model").Str(), c.ask.Prompt, tokens.Implicit{Block: 128, Min: 1024, TTL: 10 * time.Minute}, r.Now)
	t := &turn{r: r, body: b, answer: c.ask.Answer(0)}
	t.usage = exchange.Usage{Input: total + c.extra + perReply, Cached: cached, Output: t.answer.Tokens(), Reasoning: len(t.answer.Thinking)}
	var rep *exchange.Reply
	if b.Get("stream").True() {
		rep = &exchange.Reply{Status: 200, Frames: t.frames, Header: http.Header{
			"Content-Type": {"text/event-stream; charset=utf-8"}, "Cache-Control": {"no-cache"}}}
	} else {
		rep = exchange.JSON(200, t.object("completed", t.items()))
		rep.Tokens = t.usage.Output
	}
	rep.Summary, rep.Usage = c.summary, t.usage
	return rep, nil
}

func checkResponses(b *jsontree.Node) *failure {
	if id := b.Get("previous_response_id"); id != nil {
		return bad("previous_response_id", "previous_response_not_found", "Previous response with id '%s' not found.", id.Str())
	}
	open, known := map[string]bool{}, map[string]bool{}
	for i, it := range b.Get("input").List() {
		at := place("input", i)
		t := inputItem
		if it.Get("type") == nil && it.Get("role") != nil {
			t = inputMessage
		}
		if p := shape.Check(it, t); p != nil {
			p.Path = append([]any{"input", i}, p.Path...)
			return explain(p)
		}
		for j, part := range it.Get("content").List() {
			if part.Get("type").Str() == "input_image" && part.Get("image_url") != nil {
				if f := checkImage(part.Get("image_url").Str(), place(at+".content", j)+".image_url"); f != nil {
					return f
				}
			}
		}
		id := it.Get("call_id").Str()
		switch it.Get("type").Str() {
		case "function_call":
			open[id], known[id] = true, true
		case "function_call_output":
			if !known[id] {
				return bad("input", "", "No tool call found for function call output with call_id %s.", id)
			}
			delete(open, id)
		}
	}
	for _, it := range b.Get("input").List() {
		if id := it.Get("call_id").Str(); open[id] {
			return bad("input", "", "No tool output found for function call %s.", id)
		}
	}
	declared := map[string]bool{}
	for i, t := range b.Get("tools").List() {
		if t.Get("type").Str() != "function" {
			continue
		}
		name, at := t.Get("name").Str(), place("tools", i)+".parameters"
		declared[name] = true
		if f := checkObjectSchema(t.Get("parameters"), "function '"+name+"'", at); f != nil {
			return f
		}
		if t.Get("strict").True() {
			if f := checkStrict(t.Get("parameters"), nil, "function '"+name+"'", at); f != nil {
				return f
			}
		}
	}
	if ch := b.Get("tool_choice"); ch.Get("type").Str() == "function" && !declared[ch.Get("name").Str()] {
		return bad("tool_choice", "", "Tool choice 'function' not found in 'tools' parameter.")
	} else if ch.Str() == "required" && len(b.Get("tools").List()) == 0 {
		return bad("tool_choice", "", "Tool choice 'required' must be specified with 'tools' parameter.")
	}
	if f := b.At("text", "format"); f.Get("type").Str() == "json_object" && !mentionsJSON(b.Get("input")) {
		return bad("input", "", "Response input messages must contain the word 'json' in some form to use 'text.format' of type 'json_object'.")
	} else if f.Get("strict").True() {
		return checkStrict(f.Get("schema"), nil, "response_format '"+f.Get("name").Str()+"'", "text.format.schema")
	}
	return nil
}

func readResponses(b *jsontree.Node) conversation {
	var c conversation
	c.summary = exchange.Summary{Model: b.Get("model").Str(), Stream: b.Get("stream").True(), MaxTokens: b.Get("max_output_tokens").Int()}
	c.ask.Max = c.summary.MaxTokens
	c.ask.Parallel = !b.Get("parallel_tool_calls").False()
	var prompt strings.Builder
	prompt.WriteString(b.Get("tools").JSON() + b.Get("instructions").Str())
	if in := b.Get("input"); in.Is(jsontree.Str) {
		c.ask.Last = in.Text
		c.summary.Roles = []string{"user"}
		c.extra += perMessage
		prompt.WriteString("\nuser: " + in.Text)
	}
	for _, it := range b.Get("input").List() {
		c.extra += perMessage
		role, said := it.Get("role").Str(), text(it.Get("content"))
		switch it.Get("type").Str() {
		case "function_call":
			role, said = "function_call", it.Get("name").Str()+it.Get("arguments").Str()
			c.ask.Results = nil
		case "function_call_output":
			role, said = "function_call_output", text(it.Get("output"))
			c.ask.Settled = true
			c.ask.Results = append(c.ask.Results, said)
		}
		c.summary.Roles = append(c.summary.Roles, role)
		prompt.WriteString("\n" + role + ": " + said)
		switch role {
		case "user":
			c.ask.Last, c.ask.Settled, c.ask.Results, c.ask.Images = said, false, nil, nil
			for _, part := range it.Get("content").List() {
				if url := part.Get("image_url").Str(); url != "" {
					c.image(imageOf(url))
				}
			}
		case "assistant":
			c.ask.Results = nil
		}
	}
	c.ask.Prompt = prompt.String()
	for _, t := range b.Get("tools").List() {
		if t.Get("type").Str() == "function" {
			c.ask.Tools = append(c.ask.Tools, model.Tool{Name: t.Get("name").Str(), Schema: t.Get("parameters")})
			c.summary.Tools = append(c.summary.Tools, t.Get("name").Str())
		}
	}
	choose(&c, b.Get("tool_choice"))
	switch f := b.At("text", "format"); f.Get("type").Str() {
	case "json_object":
		c.ask.WantJSON = true
	case "json_schema":
		c.ask.WantJSON, c.ask.Schema = true, f.Get("schema")
	}
	if reasoning.MatchString(c.summary.Model) && b.At("reasoning", "effort").Str() != "none" {
		c.ask.Think = true
	}
	return c
}
