package openai

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weir-dev/weir/test/sim/internal/exchange"
	"github.com/weir-dev/weir/test/sim/internal/jsontree"
	"github.com/weir-dev/weir/test/sim/internal/media"
	"github.com/weir-dev/weir/test/sim/internal/model"
	"github.com/weir-dev/weir/test/sim/internal/tokens"
)

func place(list string, i int) string { return list + "[" + strconv.Itoa(i) + "]" }

func contains(list []string, s string) bool { return slices.Contains(list, s) }

// Prices of things that are not text, in tokens.
const (
	perMessage = 4  // role and separators
	perImage   = 85 // one low-detail tile
	perReply   = 3  // the start of the answer
)

// conversation is what a chat request says, read once for everything that follows.
type conversation struct {
	ask     model.Ask
	extra   int // prompt tokens that are not text
	summary exchange.Summary
}

func (c *conversation) image(i model.Image) {
	c.ask.Images = append(c.ask.Images, i)
	c.summary.Images = append(c.summary.Images, i.String())
	c.extra += perImage
}

// imageOf describes an image URL that was checked before.
func imageOf(url string) model.Image {
	mediaType, data, ok := media.DataURI(url)
	if !ok {
		return model.Image{URL: url}
	}
	n, _ := media.Image(mediaType, data)
	return model.Image{Type: mediaType, Size: n}
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

func (p Provider) chat(r *exchange.Request, b *jsontree.Node, _ []string) (*exchange.Reply, *failure) {
	if f := p.known(r, b.Get("model").Str()); f != nil {
		return nil, f
	}
	if f := p.checkChat(b); f != nil {
		return nil, f
	}
	c := read(b)
	c.ask.Seed = r.Seed
	if p.Qwen {
		name := b.Get("model").Str()
		c.ask.Think = b.Get("enable_thinking").True() || strings.HasPrefix(name, "qwq")
		c.ask.ThinkMax = b.Get("thinking_budget").Int()
	} else if reasoning.MatchString(b.Get("model").Str()) && b.Get("reasoning_effort").Str() != "none" {
		c.ask.Think = true // hidden: billed as reasoning tokens, never shown
	}

	ch := &completion{p: p, r: r, body: b}
	n := max(1, b.Get("n").Int())
	for i := range n {
		ch.answers = append(ch.answers, c.ask.Answer(i))
	}
	how := tokens.Implicit{Block: 128, Min: 1024, TTL: 10 * time.Minute}
	if p.Qwen {
		how = tokens.Implicit{Block: 64, Min: 256, TTL: 10 * time.Minute}
	}
	total, cached := r.Cache.Observe(r.Credential()+"/"+b.Get("model").Str(), c.ask.Prompt, how, r.Now)
	ch.usage = exchange.Usage{Input: total + c.extra + perReply, Cached: cached}
	for _, a := range ch.answers {
		ch.usage.Output += a.Tokens()
		ch.usage.Reasoning += len(a.Thinking)
	}

	var rep *exchange.Reply
	if b.Get("stream").True() {
		rep = ch.stream()
	} else {
		rep = exchange.JSON(200, ch.object())
		rep.Tokens = ch.usage.Output
	}
	rep.Summary, rep.Usage = c.summary, ch.usage
	return rep, nil
}

// read turns a checked body into an ask.
func read(b *jsontree.Node) conversation {
	var c conversation
	c.summary.Model = b.Get("model").Str()
	c.summary.Stream = b.Get("stream").True()
	var prompt strings.Builder
	// Declarations come first, as in a real prompt, so that a growing conversation keeps its prefix.
	prompt.WriteString(b.Get("tools").JSON())
	for _, m := range b.Get("messages").List() {
		role := m.Get("role").Str()
		c.summary.Roles = append(c.summary.Roles, role)
		c.extra += perMessage
		said := text(m.Get("content"))
		prompt.WriteString("\n" + role + ": " + said)
		for _, call := range m.Get("tool_calls").List() {
			prompt.WriteString(call.Get("function").JSON() + call.Get("custom").JSON())
		}
		switch role {
		case "user":
			c.ask.Last, c.ask.Settled, c.ask.Results, c.ask.Images = said, false, nil, nil
			for _, part := range m.Get("content").List() {
				switch part.Get("type").Str() {
				case "image_url":
					c.image(imageOf(part.At("image_url", "url").Str()))
				case "file", "input_audio":
					c.extra += perImage
				}
			}
		case "tool":
			c.ask.Settled = true
			c.ask.Results = append(c.ask.Results, said)
		case "assistant":
			c.ask.Results = nil
		}
	}
	c.ask.Prompt = prompt.String()
	c.ask.Max = max(b.Get("max_completion_tokens").Int(), b.Get("max_tokens").Int())
	c.ask.Stop = b.Get("stop").Strings()
	c.ask.Parallel = !b.Get("parallel_tool_calls").False()
	c.summary.MaxTokens = c.ask.Max

	for _, t := range b.Get("tools").List() {
		fn := t.Get("function")
		if fn == nil {
			continue // custom tools take free text: declared, never called
		}
		c.ask.Tools = append(c.ask.Tools, model.Tool{Name: fn.Get("name").Str(), Schema: fn.Get("parameters")})
		c.summary.Tools = append(c.summary.Tools, fn.Get("name").Str())
	}
	choose(&c, b.Get("tool_choice"))
	switch f := b.Get("response_format"); f.Get("type").Str() {
	case "json_object":
		c.ask.WantJSON = true
	case "json_schema":
		c.ask.WantJSON, c.ask.Schema = true, f.At("json_schema", "schema")
	}
	return c
}

func choose(c *conversation, choice *jsontree.Node) {
	c.summary.ToolChoice = choice.JSON()
	switch choice.Str() {
	case "none":
		c.ask.Choice = model.None
	case "required":
		c.ask.Choice = model.Required
	}
	switch choice.Get("type").Str() {
	case "function":
		c.ask.Choice, c.ask.Name = model.Named, choice.At("function", "name").Str()
		if c.ask.Name == "" {
			c.ask.Name = choice.Get("name").Str() // the flat form of the Responses API
		}
	case "allowed_tools":
		allowed := choice.Get("allowed_tools")
		if allowed == nil {
			allowed = choice
		}
		names := map[string]bool{}
		for _, t := range allowed.Get("tools").List() {
			names[t.At("function", "name").Str()+t.Get("name").Str()] = true
		}
		c.ask.Tools = slices.DeleteFunc(c.ask.Tools, func(t model.Tool) bool { return !names[t.Name] })
		if allowed.Get("mode").Str() == "required" {
			c.ask.Choice = model.Required
		}
	}
}
