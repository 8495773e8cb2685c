package dashscope

import (
	"strings"
	"time"

	"github.com/weir-dev/weir/test/sim/internal/exchange"
	"github.com/weir-dev/weir/test/sim/internal/jsontree"
	"github.com/weir-dev/weir/test/sim/internal/media"
	"github.com/weir-dev/weir/test/sim/internal/model"
	"github.com/weir-dev/weir/test/sim/internal/tokens"
)

// Prices of things that are not text, in tokens.
const (
	perMessage = 4
	perImage   = 85
)

// completion is a request that was understood and answered.
type completion struct {
	r           *exchange.Request
	name        string
	answers     []model.Answer
	summary     exchange.Summary
	usage       exchange.Usage
	imageTokens int
	thinks      bool
	logprobs    bool
	asText      bool // result_format text: output.text instead of choices
	parts       bool // multimodal: content is a list of parts
	incremental bool
}

func text(content *jsontree.Node) string {
	if content.Is(jsontree.Str) {
		return content.Text
	}
	var parts []string
	for _, p := range content.List() {
		if t := p.Get("text"); t != nil {
			parts = append(parts, t.Text)
		}
	}
	return strings.Join(parts, "\n")
}

func imageOf(s string) model.Image {
	mediaType, data, ok := media.DataURI(s)
	if !ok {
		return model.Image{URL: s}
	}
	n, _ := media.Image(mediaType, data)
	return model.Image{Type: mediaType, Size: n}
}

// read turns a checked body into answers.
func read(r *exchange.Request, b *jsontree.Node) *completion {
	p := b.Get("parameters")
	c := &completion{r: r, name: b.Get("model").Str(), parts: r.Path == multimodalPath}
	c.summary = exchange.Summary{Model: c.name, Stream: streaming(r), MaxTokens: p.Get("max_tokens").Int(), ToolChoice: p.Get("tool_choice").JSON()}
	c.asText = !c.parts && p.Get("result_format").Str() != "message"
	c.incremental = p.Get("incremental_output").True()
	c.logprobs = p.Get("logprobs").True()
	ask := model.Ask{Seed: r.Seed, Max: c.summary.MaxTokens, Stop: p.Get("stop").Strings()}
	ask.Parallel = p.Get("parallel_tool_calls").True() // off unless asked for, unlike OpenAI's
	ask.Think = p.Get("enable_thinking").True() || strings.HasPrefix(c.name, "qwq")
	ask.ThinkMax = p.Get("thinking_budget").Int()
	c.thinks = ask.Think

	extra := 0
	var prompt strings.Builder
	prompt.WriteString(p.Get("tools").JSON())
	for _, h := range b.At("input", "history").List() {
		prompt.WriteString("\nuser: " + h.Get("user").Str() + "\nassistant: " + h.Get("bot").Str())
		extra += 2 * perMessage
	}
	if s := b.At("input", "prompt").Str(); s != "" {
		ask.Last = s
		prompt.WriteString("\nuser: " + s)
		extra += perMessage
		c.summary.Roles = []string{"user"}
	}
	for _, m := range b.At("input", "messages").List() {
		role, said := m.Get("role").Str(), text(m.Get("content"))
		c.summary.Roles = append(c.summary.Roles, role)
		extra += perMessage
		prompt.WriteString("\n" + role + ": " + said)
		for _, call := range m.Get("tool_calls").List() {
			prompt.WriteString(call.Get("function").JSON())
		}
		switch role {
		case "user":
			ask.Last, ask.Settled, ask.Results, ask.Images = said, false, nil, nil
			for _, part := range m.Get("content").List() {
				if img := part.Get("image"); img != nil {
					i := imageOf(img.Text)
					ask.Images = append(ask.Images, i)
					c.summary.Images = append(c.summary.Images, i.String())
					c.imageTokens += perImage
				} else if part.Get("text") == nil {
					c.imageTokens += perImage // audio and video cost the same here
				}
			}
		case "tool":
			ask.Settled = true
			ask.Results = append(ask.Results, said)
		case "assistant":
			ask.Results = nil
		}
	}
	ask.Prompt = prompt.String()
	for _, t := range p.Get("tools").List() {
		fn := t.Get("function")
		ask.Tools = append(ask.Tools, model.Tool{Name: fn.Get("name").Str(), Schema: fn.Get("parameters")})
		c.summary.Tools = append(c.summary.Tools, fn.Get("name").Str())
	}
	switch choice := p.Get("tool_choice"); {
	case choice.Str() == "none":
		ask.Choice = model.None
	case choice.Str() == "required":
		ask.Choice = model.Required
	case choice.Is(jsontree.Obj):
		ask.Choice, ask.Name = model.Named, choice.At("function", "name").Str()
	}
	switch f := p.Get("response_format"); f.Get("type").Str() {
	case "json_object":
		ask.WantJSON = true
	case "json_schema":
		ask.WantJSON, ask.Schema = true, f.At("json_schema", "schema")
	}
	if p != nil {
		known := knownParameters()
		for _, m := range p.Members {
			if !known[m.Name] {
				c.summary.Ignored = append(c.summary.Ignored, "parameters."+m.Name)
			}
		}
	}

	total, cached := r.Cache.Observe(r.Credential()+"/"+c.name, ask.Prompt, tokens.Implicit{Block: 64, Min: 256, TTL: 5 * time.Minute}, r.Now)
	c.usage = exchange.Usage{Input: total + extra + c.imageTokens, Cached: cached}
	for i := range max(1, p.Get("n").Int()) {
		a := ask.Answer(i)
		c.answers = append(c.answers, a)
		c.usage.Output += a.Tokens()
		c.usage.Reasoning += len(a.Thinking)
	}
	return c
}
