package openai

import (
	"encoding/json"
	"strings"

	"github.com/weir-dev/weir/test/sim/internal/exchange"
	"github.com/weir-dev/weir/test/sim/internal/jsontree"
	"github.com/weir-dev/weir/test/sim/internal/model"
)

// turn is an answered Responses request.
type turn struct {
	r      *exchange.Request
	body   *jsontree.Node
	answer model.Answer
	usage  exchange.Usage
}

// object writes JSON members in a fixed order, which the long response object needs.
type object []member

type member struct {
	name  string
	value any
}

// MarshalJSON writes the members in order.
func (o object) MarshalJSON() ([]byte, error) {
	b := []byte{'{'}
	for i, m := range o {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(append(append(b, exchange.Encode(m.name)...), ':'), exchange.Encode(m.value)...)
	}
	return append(b, '}'), nil
}

// echo returns a request member as it came, or a default.
func (t *turn) echo(name, otherwise string) json.RawMessage {
	if v := t.body.Get(name); v != nil {
		return json.RawMessage(v.Raw)
	}
	return json.RawMessage(otherwise)
}

// object is the response object; usage is absent until the end.
func (t *turn) object(status string, output any) object {
	var usage, incomplete, completed any
	if status == "completed" {
		usage = object{
			{"input_tokens", t.usage.Input}, {"input_tokens_details", object{{"cached_tokens", t.usage.Cached}}},
			{"output_tokens", t.usage.Output}, {"output_tokens_details", object{{"reasoning_tokens", t.usage.Reasoning}}},
			{"total_tokens", t.usage.Input + t.usage.Output},
		}
		completed = t.r.Now.Unix()
		if t.answer.Finish == model.Length {
			status, completed = "incomplete", nil
			incomplete = object{{"reason", "max_output_tokens"}}
		}
	}
	return object{
		{"id", t.r.ID("resp_", 0, 48)}, {"object", "response"}, {"created_at", t.r.Now.Unix()}, {"status", status},
		{"background", false}, {"completed_at", completed}, {"error", nil}, {"incomplete_details", incomplete},
		{"instructions", t.echo("instructions", "null")}, {"max_output_tokens", t.echo("max_output_tokens", "null")},
		{"max_tool_calls", t.echo("max_tool_calls", "null")}, {"model", t.echo("model", "null")}, {"output", output},
		{"parallel_tool_calls", t.echo("parallel_tool_calls", "true")}, {"previous_response_id", nil},
		{"prompt_cache_key", t.echo("prompt_cache_key", "null")},
		{"reasoning", t.echo("reasoning", `{"effort":null,"summary":null}`)}, {"safety_identifier", t.echo("safety_identifier", "null")},
		{"service_tier", "default"}, {"store", t.echo("store", "true")}, {"temperature", t.echo("temperature", "1")},
		{"text", t.echo("text", `{"format":{"type":"text"},"verbosity":"medium"}`)}, {"tool_choice", t.echo("tool_choice", `"auto"`)},
		{"tools", t.echo("tools", "[]")}, {"top_logprobs", t.echo("top_logprobs", "0")}, {"top_p", t.echo("top_p", "1")},
		{"truncation", t.echo("truncation", `"disabled"`)}, {"usage", usage}, {"user", t.echo("user", "null")},
		{"metadata", t.echo("metadata", "{}")},
	}
}

// item is one element of the output, with the tokens it is streamed in.
type item struct {
	id   string
	kind string // reasoning, message, function_call
	say  []string
	call model.Call
	num  int
}

func (t *turn) list() []item {
	var out []item
	if len(t.answer.Thinking) > 0 {
		out = append(out, item{id: t.r.ID("rs_", 1, 48), kind: "reasoning", say: t.answer.Thinking})
	}
	if len(t.answer.Text) > 0 || len(t.answer.Calls) == 0 {
		out = append(out, item{id: t.r.ID("msg_", 2, 48), kind: "message", say: t.answer.Text})
	}
	for i, c := range t.answer.Calls {
		out = append(out, item{id: t.r.ID("fc_", 3+i, 48), kind: "function_call", say: c.Args, call: c, num: i})
	}
	return out
}

func (t *turn) items() []any {
	out := []any{}
	for _, it := range t.list() {
		out = append(out, t.item(it, "completed"))
	}
	return out
}

func part(text string) object {
	return object{{"type", "output_text"}, {"annotations", []any{}}, {"logprobs", []any{}}, {"text", text}}
}

// item is an output item; one in progress is still empty.
func (t *turn) item(it item, status string) object {
	said := ""
	if status == "completed" {
		said = strings.Join(it.say, "")
	}
	switch it.kind {
	case "reasoning":
		return object{{"id", it.id}, {"type", "reasoning"}, {"summary", []any{}}}
	case "message":
		content := []any{}
		if status == "completed" {
			content = append(content, part(said))
			if t.answer.Finish == model.Length {
				status = "incomplete"
			}
		}
		return object{{"id", it.id}, {"type", "message"}, {"status", status}, {"content", content}, {"role", "assistant"}}
	}
	return object{{"id", it.id}, {"type", "function_call"}, {"status", status}, {"arguments", said},
		{"call_id", t.r.ID("call_", 1+it.num, 24)}, {"name", it.call.Name}}
}

// frames streams the response: every event has its name, its type and a rising sequence number.
func (t *turn) frames(yield func(exchange.Frame) bool) {
	seq := -1
	emit := func(kind string, f exchange.Frame, members ...member) bool {
		seq++
		o := append(object{{"type", kind}, {"sequence_number", seq}}, members...)
		data := append([]byte("event: "+kind+"\ndata: "), exchange.Encode(o)...)
		f.Data = append(data, "\n\n"...)
		return yield(f)
	}
	send := func(kind string, members ...member) bool { return emit(kind, exchange.Frame{}, members...) }
	if !send("response.created", member{"response", t.object("in_progress", []any{})}) ||
		!send("response.in_progress", member{"response", t.object("in_progress", []any{})}) {
		return
	}
	for i, it := range t.list() {
		if !t.streamItem(emit, i, it) {
			return
		}
	}
	kind := "response.completed"
	if t.answer.Finish == model.Length {
		kind = "response.incomplete"
	}
	send(kind, member{"response", t.object("completed", t.items())})
}

func (t *turn) streamItem(emit func(string, exchange.Frame, ...member) bool, index int, it item) bool {
	send := func(kind string, tokens int, members ...member) bool {
		return emit(kind, exchange.Frame{Tokens: tokens}, members...)
	}
	out, id := member{"output_index", index}, member{"item_id", it.id}
	var first exchange.Frame
	switch it.kind {
	case "reasoning":
		first.Tokens, first.Reasoning = len(it.say), len(it.say) // billed and waited for, not shown
	case "function_call":
		first.Tokens = it.call.Cost() - len(it.call.Args) // its name
	}
	if !emit("response.output_item.added", first, out, member{"item", t.item(it, "in_progress")}) {
		return false
	}
	said := strings.Join(it.say, "")
	switch it.kind {
	case "message":
		at := member{"content_index", 0}
		if !send("response.content_part.added", 0, id, out, at, member{"part", part("")}) {
			return false
		}
		for _, tok := range it.say {
			if !send("response.output_text.delta", 1, id, out, at, member{"delta", tok}, member{"logprobs", []any{}}) {
				return false
			}
		}
		if !send("response.output_text.done", 0, id, out, at, member{"text", said}, member{"logprobs", []any{}}) ||
			!send("response.content_part.done", 0, id, out, at, member{"part", part(said)}) {
			return false
		}
	case "function_call":
		for _, tok := range it.say {
			if !send("response.function_call_arguments.delta", 1, id, out, member{"delta", tok}) {
				return false
			}
		}
		if !send("response.function_call_arguments.done", 0, id, out, member{"arguments", said}) {
			return false
		}
	}
	return send("response.output_item.done", 0, out, member{"item", t.item(it, "completed")})
}
