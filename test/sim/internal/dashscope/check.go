package dashscope

import (
	"strings"

	"github.com/weir-dev/weir/test/sim/internal/exchange"
	"github.com/weir-dev/weir/test/sim/internal/jsontree"
	"github.com/weir-dev/weir/test/sim/internal/media"
	"github.com/weir-dev/weir/test/sim/internal/openai"
	"github.com/weir-dev/weir/test/sim/internal/shape"
)

// algo is the prefix of complaints that come from the model's own server.
const algo = "<400> InternalError.Algo.InvalidParameter: "

// check holds the rules that one field alone does not show.
func check(r *exchange.Request, b *jsontree.Node) *failure {
	for _, rule := range []func(*exchange.Request, *jsontree.Node) *failure{checkInput, checkPairs, checkParameters} {
		if f := rule(r, b); f != nil {
			return f
		}
	}
	return nil
}

func checkInput(_ *exchange.Request, b *jsontree.Node) *failure {
	in := b.Get("input")
	if in.Get("messages") == nil && in.Get("prompt").Str() == "" {
		return invalid("Either \"prompt\" or \"messages\" must exist and cannot both be none")
	}
	if in.Get("messages") != nil && in.Get("prompt") != nil {
		return invalid("\"prompt\" and \"messages\" cannot both be given")
	}
	list := in.Get("messages").List()
	for i, m := range list {
		role, content := m.Get("role").Str(), m.Get("content")
		at := shape.Dotted("input", "messages", i)
		if role == "assistant" {
			if content == nil && m.Get("tool_calls") == nil {
				return invalid(algo+"the content field is a required field: %s", at)
			}
		} else if content.Is(jsontree.Str) && content.Text == "" {
			return invalid(algo+"Role must be user or assistant and Content length must be greater than 0: %s", at)
		}
		if role == "system" && i > 0 {
			return invalid(algo+"System message must be at the beginning: %s", at)
		}
		for j, p := range content.List() {
			if f := checkPart(p, shape.Dotted(at, "content", j), role); f != nil {
				return f
			}
		}
	}
	if n := len(list); n > 0 {
		switch last := list[n-1]; {
		case last.Get("role").Str() == "assistant" && !last.Get("partial").True():
			return invalid(algo + "The last message must be from the user or a tool")
		case n == 1 && last.Get("role").Str() == "system":
			return invalid(algo + "A user message is required")
		}
	}
	return nil
}

func checkPart(p *jsontree.Node, at, role string) *failure {
	n := 0
	for _, name := range []string{"text", "image", "audio", "video"} {
		if p.Get(name) != nil {
			n++
		}
	}
	if n != 1 {
		return invalid("Each part of content must have exactly one of 'text', 'image', 'audio' and 'video': %s", at)
	}
	img := p.Get("image")
	if img == nil {
		return nil
	}
	if role != "user" {
		return invalid("Images are only allowed in user messages: %s", at)
	}
	if media.Remote(img.Text) || strings.HasPrefix(img.Text, "oss://") {
		return nil
	}
	mediaType, data, ok := media.DataURI(img.Text)
	if !ok {
		return invalid("The image is neither a URL nor a base64 data URI: %s", at)
	}
	if _, err := media.Image(mediaType, data); err != nil {
		return &failure{400, "InvalidParameter.DataInspection", "Unable to read the image at " + at + ": " + err.Error()}
	}
	return nil
}

// checkPairs holds that calls and tool messages belong together.
func checkPairs(_ *exchange.Request, b *jsontree.Node) *failure {
	open, known := map[string]bool{}, map[string]bool{}
	loose := 0 // calls that a tool message without an id may answer
	list := b.At("input", "messages").List()
	unanswered := func(i int) *failure {
		return invalid(algo+"An assistant message with \"tool_calls\" must be followed by tool messages responding to each \"tool_call_id\". The following tool_call_ids did not have response messages: message[%d].role", i)
	}
	for i, m := range list {
		if m.Get("role").Str() == "tool" {
			id := m.Get("tool_call_id").Str()
			switch {
			case len(known) == 0:
				return invalid(algo+"messages with role \"tool\" must be a response to a preceeding message with \"tool_calls\": message[%d].role", i)
			case id == "" && loose == 1:
				clear(open)
			case !open[id]:
				return invalid(algo+"the tool_call_id %q has no call in the preceeding message: message[%d].tool_call_id", id, i)
			}
			delete(open, id)
			continue
		}
		if len(open) > 0 {
			return unanswered(i)
		}
		clear(known)
		loose = len(m.Get("tool_calls").List())
		for _, c := range m.Get("tool_calls").List() {
			known[c.Get("id").Str()], open[c.Get("id").Str()] = true, true
		}
	}
	if len(open) > 0 {
		return unanswered(len(list))
	}
	return nil
}

func checkParameters(r *exchange.Request, b *jsontree.Node) *failure {
	p, model := b.Get("parameters"), b.Get("model").Str()
	thinking := p.Get("enable_thinking").True()
	tools := p.Get("tools")
	asText := r.Path == textPath && p.Get("result_format").Str() != "message"
	switch {
	case tools != nil && asText:
		return invalid("The result_format parameter must be \"message\" when tools are given")
	case p.Get("tool_choice").Is(jsontree.Obj) && tools == nil, p.Get("tool_choice").Str() == "required" && tools == nil:
		return invalid(algo + "tool_choice is only allowed when tools are given")
	case thinking && asText:
		return invalid("The result_format parameter must be \"message\" when enable_thinking is true")
	case thinking && !streaming(r) && openai.ThinksOnlyStreaming(model):
		return invalid("parameter.enable_thinking must be set to false for non-streaming calls")
	case thinking && streaming(r) && !p.Get("incremental_output").True() && openai.ThinksOnlyStreaming(model):
		return invalid("The incremental_output parameter must be \"true\" when enable_thinking is true")
	case thinking && p.At("response_format", "type").Str() == "json_object":
		return invalid(algo + "Json mode response is not supported when enable_thinking is true")
	case p.Get("top_logprobs").Int() > 0 && !p.Get("logprobs").True():
		return invalid(algo + "top_logprobs is only allowed when logprobs is true")
	case p.At("response_format", "type").Str() == "json_object" && !strings.Contains(strings.ToLower(b.Get("input").JSON()), "json"):
		return invalid(algo + "'messages' must contain the word 'json' in some form, to use 'response_format' of type 'json_object'.")
	}
	if msg := openai.QwenChoice(model, thinking, p.Get("tool_choice")); msg != "" {
		return invalid("%s", msg)
	}
	names := map[string]bool{}
	for _, t := range tools.List() {
		fn := t.Get("function")
		names[fn.Get("name").Str()] = true
		if s := fn.Get("parameters"); s != nil && len(s.Members) > 0 && s.Get("type").Str() != "object" {
			return invalid(algo+"the parameters of the function '%s' must be a JSON schema of type object", fn.Get("name").Str())
		}
	}
	if name := p.At("tool_choice", "function", "name").Str(); name != "" && !names[name] {
		return invalid(algo+"tool_choice names the function '%s', which is not in tools", name)
	}
	return nil
}
