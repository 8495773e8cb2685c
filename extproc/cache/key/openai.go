package key

import (
	"bytes"

	"github.com/weir-dev/weir/adapters/jsonx"
)

// The shape of OpenAI's chat requests, as far as canon carries it.
var (
	openaiRoot = []string{
		"model", "messages", "tools", "tool_choice", "parallel_tool_calls", "max_completion_tokens", "max_tokens", "temperature",
		"top_p", "top_k", "presence_penalty", "frequency_penalty", "seed", "stop", "n", "response_format", "reasoning_effort", "modalities",
	}
	openaiSystem     = []string{"role", "name", "content"} // developer and user as well
	openaiAssistant  = []string{"role", "name", "content", "reasoning_content", "reasoning", "refusal", "tool_calls"}
	openaiTool       = []string{"role", "name", "content", "tool_call_id"}
	openaiText       = []string{"type", "text"}
	openaiRefusal    = []string{"type", "refusal"}
	openaiImage      = []string{"type", "image_url"}
	openaiImageURL   = []string{"url", "detail"}
	openaiFunction   = []string{"type", "function"}
	openaiCall       = []string{"id", "type", "function"}
	openaiCallInside = []string{"name", "arguments"}
	openaiToolInside = []string{"name", "description", "parameters", "strict"}
	openaiNamed      = []string{"name"}
	openaiFormat     = []string{"type"}
	openaiSchema     = []string{"type", "json_schema"}
	openaiSchemaIn   = []string{"name", "schema", "strict"}
	// openaiMarks are prompt-cache boundaries.
	openaiMarks = []string{"cache_control", "prompt_cache_breakpoint"}
)

// openai reads a chat request of OpenAI's dialect that its ParseRequest has taken.
func (x *extras) openai(root jsonx.Value) {
	where := at{"", -1, -1}
	x.object(where, root, openaiRoot, notCounted)
	var thinking bool
	var effort, mostTokens, lessTokens, tools, choice jsonx.Value
	for name, v := range root.Members() {
		switch string(name) {
		case "messages":
			for i, m := range v.Elements() {
				x.openaiMessage(i, m)
			}
		case "tools":
			tools = v
			x.empty(where, "tools", v)
			for i, t := range v.Elements() {
				x.object(at{"tools", i, -1}, t, openaiFunction, openaiMarks)
				x.object(at{"tools.function", i, -1}, t.Get("function"), openaiToolInside, nil)
			}
		case "tool_choice":
			choice = v
		case "max_completion_tokens":
			mostTokens = v
		case "max_tokens":
			lessTokens = v
		case "top_k":
			// 0 and -1 switch it off, where nothing means the server's own default.
			if n, ok := v.Int(); ok && n <= 0 {
				x.add(where, "top_k", v)
			}
		case "modalities":
			x.empty(where, "modalities", v)
		case "stop":
			x.empty(where, "stop", v)
			if string(v) == `""` {
				x.add(where, "stop", v)
			}
		case "response_format":
			x.openaiResponseFormat(v)
		case "reasoning_effort":
			effort = v
		case "enable_thinking", "thinking_budget":
			thinking = thinking || !v.Missing()
		case "web_search_options", "enable_search", "search_options":
			on, isBool := v.Bool()
			x.live = x.live || !v.Missing() && (on || !isBool)
		}
	}
	// Of two fields for one thing canon keeps one, or what they amount to.
	if !mostTokens.Missing() && !lessTokens.Missing() {
		x.add(where, "max_tokens", lessTokens)
	}
	if thinking && !effort.Missing() {
		x.add(where, "reasoning_effort", effort)
	}
	x.openaiChoice(choice, tools)
}

func (x *extras) openaiMessage(i int, v jsonx.Value) {
	f := v.Fields()
	where := at{"messages", i, -1}
	switch f.Get("role").Share() {
	case "assistant":
		x.object(where, v, openaiAssistant, nil)
		if r := f.Get("reasoning"); !r.Missing() && len(f.Get("reasoning_content")) > len(`""`) {
			x.add(where, "reasoning", r)
		}
		calls := f.Get("tool_calls")
		x.empty(where, "tool_calls", calls)
		for j, c := range calls.Elements() {
			x.object(at{"messages.tool_calls", i, j}, c, openaiCall, nil)
			x.object(at{"messages.tool_calls.function", i, j}, c.Get("function"), openaiCallInside, nil)
		}
	case "tool":
		x.object(where, v, openaiTool, nil)
	default:
		x.object(where, v, openaiSystem, nil)
	}
	x.empty(where, "content", f.Get("content"))
	for j, part := range f.Get("content").Elements() {
		x.openaiPart(at{"messages.content", i, j}, part)
	}
}

func (x *extras) openaiPart(where at, v jsonx.Value) {
	switch v.Get("type").Share() {
	case "text":
		x.object(where, v, openaiText, openaiMarks)
	case "refusal":
		x.object(where, v, openaiRefusal, openaiMarks)
	default:
		x.object(where, v, openaiImage, openaiMarks)
		image := v.Get("image_url")
		where.place = "messages.content.image_url"
		x.object(where, image, openaiImageURL, nil)
		if d := image.Get("detail"); d.Share() == "original" {
			x.add(where, "detail", d) // canon has high
		}
		// canon writes a media type in one way.
		link := image.Get("url").Share()
		head := []byte(link[:min(len(link), len("data:image/jpg;"))])
		if bytes.EqualFold(head[:min(len(head), len("data:"))], []byte("data:")) {
			if end := bytes.IndexByte([]byte(link[:min(len(link), 100)]), ','); end > 0 {
				head = []byte(link[:end])
			}
			if !bytes.Equal(head, bytes.ToLower(head)) || bytes.HasPrefix(head, []byte("data:image/jpg;")) {
				x.add(where, "url", jsonx.AppendString(nil, string(head)))
			}
		}
	}
}

func (x *extras) openaiResponseFormat(v jsonx.Value) {
	where := at{"response_format", -1, -1}
	if v.Get("type").Share() != "json_schema" {
		x.object(where, v, openaiFormat, nil)
		return
	}
	x.object(where, v, openaiSchema, nil)
	where.place = "response_format.json_schema"
	x.object(where, v.Get("json_schema"), openaiSchemaIn, nil)
}

// openaiChoice reads tool_choice. Where it allows some of the tools, canon has only those, and a backend of the dialect tells the
// model of all.
func (x *extras) openaiChoice(choice, tools jsonx.Value) {
	where := at{"tool_choice", -1, -1}
	switch {
	case choice.Kind() != jsonx.Object:
		if tools.Len() == 0 && !choice.Missing() {
			x.add(where, "", choice)
		}
	case choice.Get("type").Share() == "function":
		x.object(where, choice, openaiFunction, nil)
		where.place = "tool_choice.function"
		x.object(where, choice.Get("function"), openaiNamed, nil)
	default:
		x.add(where, "", choice)
		x.add(where, "tools", tools)
	}
}
