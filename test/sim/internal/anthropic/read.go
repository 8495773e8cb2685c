package anthropic

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
	// minCached is the shortest prefix that is cached.
	minCached = 1024
)

// completion is a request that was understood and answered.
type completion struct {
	r       *exchange.Request
	body    *jsontree.Node
	answer  model.Answer
	thinks  bool // thinking blocks are sent
	omitted bool // ... without their text
	usage   exchange.Usage
	hour    int // cache writes that live an hour
	summary exchange.Summary
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

// ttl reads a cache breakpoint; 0 means none.
func ttl(n *jsontree.Node) time.Duration {
	switch c := n.Get("cache_control"); {
	case c == nil:
		return 0
	case c.Get("ttl").Str() == "1h":
		return time.Hour
	}
	return 5 * time.Minute
}

// segments splits the prompt at its blocks, in the order of the cache: tools, system, messages.
func segments(b *jsontree.Node) []tokens.Segment {
	var out []tokens.Segment
	for _, t := range b.Get("tools").List() {
		out = append(out, tokens.Segment{Text: t.Get("name").Str() + t.Get("description").Str() + t.Get("input_schema").JSON(), TTL: ttl(t)})
	}
	if s := b.Get("system"); s.Is(jsontree.Str) {
		out = append(out, tokens.Segment{Text: s.Text})
	}
	for _, s := range b.Get("system").List() {
		out = append(out, tokens.Segment{Text: s.Get("text").Str(), TTL: ttl(s)})
	}
	for _, m := range b.Get("messages").List() {
		out = append(out, tokens.Segment{Text: m.Get("role").Str(), Extra: perMessage - 1})
		content := m.Get("content")
		if content.Is(jsontree.Str) {
			out = append(out, tokens.Segment{Text: content.Text})
		}
		for _, block := range content.List() {
			s := tokens.Segment{TTL: ttl(block)}
			s.Text, s.Extra = weigh(block)
			out = append(out, s)
		}
	}
	if d := ttl(b); d > 0 && len(out) > 0 { // the top-level mark stands for the last block
		out[len(out)-1].TTL = max(out[len(out)-1].TTL, d)
	}
	return out
}

// weigh returns what a block says and what it costs beside that.
func weigh(b *jsontree.Node) (said string, extra int) {
	switch b.Get("type").Str() {
	case "text":
		return b.Get("text").Str(), 0
	case "thinking":
		return b.Get("thinking").Str(), 0
	case "tool_use":
		return b.Get("name").Str() + b.Get("input").JSON(), 2
	case "image":
		src := b.Get("source")
		return src.Get("url").Str() + src.Get("file_id").Str(), perImage
	case "tool_result":
		if c := b.Get("content"); c.Is(jsontree.Str) {
			return c.Text, 2
		}
		extra = 2
		for _, inner := range b.Get("content").List() {
			s, e := weigh(inner)
			said, extra = said+s, extra+e
		}
		return said, extra
	}
	return b.Get("source").Get("data").Str() + b.Get("title").Str(), perImage
}

// read turns a checked body into an answer.
func read(r *exchange.Request, b *jsontree.Node) *completion {
	c := &completion{r: r, body: b}
	c.summary = exchange.Summary{Model: b.Get("model").Str(), Stream: b.Get("stream").True(), MaxTokens: b.Get("max_tokens").Int()}
	ask := model.Ask{Seed: r.Seed, Max: c.summary.MaxTokens, Stop: b.Get("stop_sequences").Strings(), Parallel: true, Preface: true}

	parts := segments(b)
	var prompt strings.Builder
	for _, s := range parts {
		prompt.WriteString(s.Text)
		prompt.WriteByte('\n')
	}
	ask.Prompt = prompt.String()
	for _, t := range turns(b) {
		c.readTurn(&ask, t)
	}
	for _, t := range b.Get("tools").List() {
		if s := t.Get("input_schema"); s != nil { // server tools have none and are never called
			ask.Tools = append(ask.Tools, model.Tool{Name: t.Get("name").Str(), Schema: s})
			c.summary.Tools = append(c.summary.Tools, t.Get("name").Str())
		}
	}
	choice := b.Get("tool_choice")
	c.summary.ToolChoice = choice.JSON()
	ask.Parallel = !choice.Get("disable_parallel_tool_use").True()
	switch choice.Get("type").Str() {
	case "any":
		ask.Choice = model.Required
	case "tool":
		ask.Choice, ask.Name = model.Named, choice.Get("name").Str()
	case "none":
		ask.Choice = model.None
	}
	if s := b.At("output_config", "format", "schema"); s != nil {
		ask.WantJSON, ask.Schema = true, s
	}
	th := b.Get("thinking")
	switch th.Get("type").Str() {
	case "enabled":
		c.thinks, ask.ThinkMax = true, th.Get("budget_tokens").Int()
	case "adaptive":
		c.thinks = true
	case "between_tools":
		c.thinks = len(ask.Results) > 0
	}
	ask.Think = c.thinks
	c.omitted = th.Get("display").Str() == "omitted"

	total, read, written, hour := r.Cache.Marked(r.Credential()+"/"+c.summary.Model, parts, minCached, r.Now)
	c.answer = ask.Answer(0)
	c.usage = exchange.Usage{Input: total, Cached: read, CacheWritten: written, Output: c.answer.Tokens(), Reasoning: len(c.answer.Thinking)}
	c.hour = hour
	return c
}

func (c *completion) readTurn(ask *model.Ask, t turn) {
	c.summary.Roles = append(c.summary.Roles, t.role)
	switch t.role {
	case "assistant":
		ask.Results = nil
		return
	case "system":
		return
	}
	said, results, images := []string{}, []string{}, []model.Image{}
	for _, block := range t.blocks {
		switch {
		case block.Is(jsontree.Str):
			said = append(said, block.Text)
		case block.Get("type").Str() == "text":
			said = append(said, block.Get("text").Str())
		case block.Get("type").Str() == "image":
			images = append(images, imageOf(block.Get("source")))
		case block.Get("type").Str() == "tool_result":
			results = append(results, text(block.Get("content")))
			for _, inner := range block.Get("content").List() {
				if inner.Get("type").Str() == "image" {
					images = append(images, imageOf(inner.Get("source")))
				}
			}
		}
	}
	for _, i := range images {
		c.summary.Images = append(c.summary.Images, i.String())
	}
	if len(said) > 0 {
		ask.Last = strings.Join(said, "\n")
	}
	ask.Images = images
	ask.Results = results
	ask.Settled = len(results) > 0 && len(said) == 0
}

func imageOf(src *jsontree.Node) model.Image {
	switch src.Get("type").Str() {
	case "url":
		return model.Image{URL: src.Get("url").Str()}
	case "file":
		return model.Image{URL: src.Get("file_id").Str()}
	}
	n, _ := media.Image(src.Get("media_type").Str(), src.Get("data").Str())
	return model.Image{Type: src.Get("media_type").Str(), Size: n}
}
