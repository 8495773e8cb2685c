package anthropic

import (
	"crypto/sha256"
	"encoding/base64"
	"regexp"
	"strconv"
	"strings"

	"github.com/weir-dev/weir/test/sim/internal/exchange"
	"github.com/weir-dev/weir/test/sim/internal/jsontree"
	"github.com/weir-dev/weir/test/sim/internal/media"
	"github.com/weir-dev/weir/test/sim/internal/shape"
)

// maxImage is the limit of one image, in decoded bytes.
const maxImage = 5 << 20

// checkMessages holds the rules that one field alone does not show.
func checkMessages(_ *exchange.Request, b *jsontree.Node, version string) *failure {
	for _, rule := range []func(*jsontree.Node, string) *failure{checkSampling, checkThinking, checkTools, checkText, checkTurns, checkPairs, checkCacheMarks} {
		if f := rule(b, version); f != nil {
			return f
		}
	}
	return nil
}

var modelVersion = regexp.MustCompile(`^claude-(?:[a-z]+-)?(\d{1,2})(?:-(\d{1,2}))?(?:-|$)`)

// generation reads a Claude model name: claude-opus-4-6 is 406, claude-3-5-sonnet 305, others 0.
func generation(model string) int {
	m := modelVersion.FindStringSubmatch(model)
	if m == nil {
		return 0
	}
	major, _ := strconv.Atoi(m[1])
	minor, _ := strconv.Atoi(m[2])
	return major*100 + minor
}

func checkSampling(b *jsontree.Node, version string) *failure {
	gen := generation(b.Get("model").Str())
	for _, name := range []string{"temperature", "top_p", "top_k"} {
		v := b.Get(name)
		if v == nil {
			continue
		}
		if version == version2026 {
			return invalid("%s: not supported under anthropic-version %s", name, version2026)
		}
		if gen >= 407 && (name == "top_k" || v.Float() != 1) {
			return invalid("`%s` may only be set to its default with this model", name)
		}
	}
	if gen >= 401 && b.Get("temperature") != nil && b.Get("top_p") != nil {
		return invalid("`temperature` and `top_p` cannot both be specified for this model. Please use only one.")
	}
	for i, s := range b.Get("stop_sequences").Strings() {
		if strings.TrimSpace(s) == "" {
			return invalid("stop_sequences.%d: each stop sequence must contain non-whitespace", i)
		}
	}
	most := 128000
	if gen >= 300 && gen < 400 {
		most = 8192
	}
	if n := b.Get("max_tokens").Int(); n > most {
		return invalid("max_tokens: %d > %d, which is the maximum allowed number of output tokens for %s", n, most, b.Get("model").Str())
	}
	if s := b.At("output_config", "format", "schema"); s != nil {
		return checkSchema(s, "output_config.format.schema")
	}
	return nil
}

// checkSchema holds that every object in a schema for structured output is closed.
func checkSchema(s *jsontree.Node, at string) *failure {
	if s == nil {
		return nil
	}
	if s.Get("type").Str() == "object" && !s.Get("additionalProperties").False() {
		return invalid("%s: For 'object' type, 'additionalProperties' must be explicitly set to false", at)
	}
	for _, group := range []string{"properties", "$defs", "definitions"} {
		if g := s.Get(group); g != nil {
			for _, m := range g.Members {
				if f := checkSchema(m.Value, at+"."+group+"."+m.Name); f != nil {
					return f
				}
			}
		}
	}
	for i, alt := range s.Get("anyOf").List() {
		if f := checkSchema(alt, at+".anyOf."+strconv.Itoa(i)); f != nil {
			return f
		}
	}
	return checkSchema(s.Get("items"), at+".items")
}

func checkThinking(b *jsontree.Node, _ string) *failure {
	th := b.Get("thinking")
	mode := th.Get("type").Str()
	if mode == "" || mode == "disabled" {
		return nil
	}
	if mode == "enabled" && b.Get("max_tokens") != nil && b.Get("max_tokens").Int() <= th.Get("budget_tokens").Int() {
		return invalid("`max_tokens` must be greater than `thinking.budget_tokens`")
	}
	if t := b.Get("temperature"); t != nil && t.Float() != 1 {
		return invalid("`temperature` may only be set to 1 when thinking is enabled")
	}
	if b.Get("top_k") != nil {
		return invalid("`top_k` must be unset when thinking is enabled")
	}
	if t := b.Get("top_p"); t != nil && t.Float() < 0.95 {
		return invalid("`top_p` must be greater than or equal to 0.95 or unset when thinking is enabled")
	}
	if c := b.At("tool_choice", "type").Str(); c == "any" || c == "tool" {
		return invalid("Thinking may not be enabled when tool_choice forces tool use.")
	}
	return nil
}

func checkTools(b *jsontree.Node, _ string) *failure {
	declared := map[string]bool{}
	for i, t := range b.Get("tools").List() {
		want, label := customTool, "custom"
		if kind := t.Get("type"); kind != nil && kind.Str() != "custom" {
			want, label = serverTool, kind.Str()
		}
		if p := shape.Check(t, want); p != nil {
			p.Path = append([]any{"tools", i, label}, p.Path...)
			return explain(p)
		}
		name := t.Get("name").Str()
		if declared[name] {
			return invalid("tools: Tool names must be unique.")
		}
		declared[name] = true
	}
	choice := b.Get("tool_choice")
	if choice == nil {
		return nil
	}
	if kind := choice.Get("type").Str(); len(declared) == 0 && kind != "none" {
		return invalid("tool_choice.%s: tool_choice may only be specified while providing tools", kind)
	}
	if choice.Get("type").Str() == "tool" && !declared[choice.Get("name").Str()] {
		return invalid("Tool '%s' not found in provided tools", choice.Get("name").Str())
	}
	return nil
}

// checkText refuses blocks that say nothing, and looks at images and documents.
func checkText(b *jsontree.Node, version string) *failure {
	for _, s := range b.Get("system").List() {
		if f := notEmpty("system", s.Get("text").Str()); f != nil {
			return f
		}
	}
	list := b.Get("messages").List()
	for i, m := range list {
		role, content := m.Get("role").Str(), m.Get("content")
		last := i == len(list)-1 && role == "assistant"
		if content.Is(jsontree.Str) && content.Text == "" || content.Is(jsontree.Arr) && len(content.Items) == 0 {
			if !last {
				return invalid("messages.%d: all messages must have non-empty content except for the optional final assistant message", i)
			}
			continue
		}
		if content.Is(jsontree.Str) {
			if f := notEmpty("messages", content.Text); f != nil {
				return f
			}
		}
		for j, block := range content.List() {
			at := shape.Dotted("messages", i, "content", j)
			if f := checkBlock(block, at, role, version); f != nil {
				return f
			}
			for k, inner := range block.Get("content").List() {
				if f := checkBlock(inner, shape.Dotted(at, "tool_result", "content", k), role, version); f != nil {
					return f
				}
			}
		}
		if said := text(content); last && said != strings.TrimRight(said, " \t\r\n") {
			return invalid("messages: final assistant content cannot end with trailing whitespace")
		}
	}
	return nil
}

func notEmpty(where, s string) *failure {
	if s == "" {
		return invalid("%s: text content blocks must be non-empty", where)
	}
	if strings.TrimSpace(s) == "" {
		return invalid("%s: text content blocks must contain non-whitespace text", where)
	}
	return nil
}

func checkBlock(b *jsontree.Node, at, role, version string) *failure {
	kind := b.Get("type").Str()
	switch kind {
	case "text":
		if version == version2026 && role == "user" && len(b.Get("citations").List()) > 0 {
			return invalid("%s.text.citations: not allowed on user text blocks under anthropic-version %s", at, version2026)
		}
		return notEmpty("messages", b.Get("text").Str())
	case "image":
		return checkImage(b.Get("source"), at+".image.source")
	case "document":
		if role == "assistant" && version == version2026 {
			return invalid("%s: a document block directly in an assistant message is not allowed under anthropic-version %s", at, version2026)
		}
		if src := b.Get("source"); src.Get("type").Str() == "base64" {
			if _, err := base64.StdEncoding.DecodeString(src.Get("data").Str()); err != nil {
				return invalid("%s.document.source.base64.data: Invalid base64 data", at)
			}
		}
	case "thinking":
		if b.Get("signature").Str() != signature(b.Get("thinking").Str()) {
			return invalid("%s: Invalid `signature` in `thinking` block", at)
		}
	case "redacted_thinking":
		return invalid("%s: Invalid `data` in `redacted_thinking` block", at) // none was ever given out
	}
	return nil
}

func checkImage(src *jsontree.Node, at string) *failure {
	switch src.Get("type").Str() {
	case "url":
		if url := src.Get("url").Str(); !strings.HasPrefix(url, "https://") || !media.Remote(url) {
			return invalid("%s.url.url: Only HTTPS URLs are supported.", at)
		}
	case "base64":
		n, err := media.Image(src.Get("media_type").Str(), src.Get("data").Str())
		switch {
		case err == media.ErrBase64:
			return invalid("%s.base64.data: Invalid base64 data", at)
		case err != nil:
			return invalid("%s.base64: %v", at, err)
		case n > maxImage:
			return invalid("%s.base64: image exceeds 5 MB maximum: %d bytes > %d bytes", at, n, maxImage)
		}
	}
	return nil
}

// signature signs thinking. It is a plain hash: enough to tell whether a gateway returned a block verbatim or made one up.
func signature(thinking string) string {
	sum := sha256.Sum256([]byte("sim thinking\x00" + thinking))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// checkTurns holds the order of roles. Consecutive messages of one role are one turn to Anthropic, so
// they are not refused; a conversation that does not start with the user is.
func checkTurns(b *jsontree.Node, _ string) *failure {
	list := b.Get("messages").List()
	if list[0].Get("role").Str() != "user" {
		return invalid(`messages: first message must use the "user" role`)
	}
	if list[len(list)-1].Get("role").Str() == "assistant" {
		if generation(b.Get("model").Str()) >= 406 {
			return invalid("This model does not support assistant message prefill. The conversation must end with a user message.")
		}
		if b.At("thinking", "type").Str() == "enabled" {
			return invalid("messages: prefill is not supported when thinking is enabled")
		}
	}
	return nil
}

// turn is consecutive messages of one role, and where its blocks stood.
type turn struct {
	role   string
	blocks []*jsontree.Node
	places []string
	index  int
}

func turns(b *jsontree.Node) []turn {
	var out []turn
	for i, m := range b.Get("messages").List() {
		role := m.Get("role").Str()
		if len(out) == 0 || out[len(out)-1].role != role {
			out = append(out, turn{role: role, index: i})
		}
		t := &out[len(out)-1]
		content := m.Get("content")
		if content.Is(jsontree.Str) {
			t.blocks, t.places = append(t.blocks, content), append(t.places, shape.Dotted("messages", i, "content"))
		}
		for j, block := range content.List() {
			t.blocks, t.places = append(t.blocks, block), append(t.places, shape.Dotted("messages", i, "content", j))
		}
	}
	return out
}

// checkPairs holds that every tool_use is answered at the start of the next turn, and nothing else is.
func checkPairs(b *jsontree.Node, _ string) *failure {
	seen := map[string]bool{}
	list := turns(b)
	var asked []string // the calls of the turn before
	for n, t := range list {
		var found []string
		text := false
		for j, block := range t.blocks {
			switch block.Get("type").Str() {
			case "tool_use":
				id := block.Get("id").Str()
				if seen[id] {
					return invalid("%s: `tool_use` ids must be unique", t.places[j])
				}
				seen[id] = true
			case "tool_result":
				id := block.Get("tool_use_id").Str()
				if !has(asked, id) {
					return invalid("%s: unexpected `tool_use_id` found in `tool_result` blocks: %s. Each `tool_result` block must have a corresponding `tool_use` block in the previous message.", t.places[j], id)
				}
				if has(found, id) {
					return invalid("%s: each tool_use must have a single result. Found multiple `tool_result` blocks with id: %s", t.places[j], id)
				}
				if text {
					return unanswered(list[n-1].index, []string{id})
				}
				found = append(found, id)
			default:
				text = true
			}
		}
		var left []string
		for _, id := range asked {
			if !has(found, id) {
				left = append(left, id)
			}
		}
		if len(left) > 0 {
			return unanswered(list[n-1].index, left)
		}
		asked = nil
		if t.role == "assistant" {
			for _, block := range t.blocks {
				if block.Get("type").Str() == "tool_use" {
					asked = append(asked, block.Get("id").Str())
				}
			}
		}
	}
	if len(asked) > 0 {
		return unanswered(list[len(list)-1].index, asked)
	}
	return checkLoop(b, list)
}

// checkLoop holds that with a thinking budget the assistant turn of a running tool loop begins with its thinking.
func checkLoop(b *jsontree.Node, list []turn) *failure {
	if b.At("thinking", "type").Str() != "enabled" || len(list) < 2 {
		return nil
	}
	last, before := list[len(list)-1], list[len(list)-2]
	if last.blocks[0].Get("type").Str() != "tool_result" || before.role != "assistant" {
		return nil
	}
	kind := before.blocks[0].Get("type").Str()
	if before.blocks[0].Is(jsontree.Str) {
		kind = "text"
	}
	if kind != "thinking" && kind != "redacted_thinking" {
		return invalid("%s.type: Expected `thinking` or `redacted_thinking`, but found `%s`. When `thinking` is enabled, a final `assistant` message must start with a thinking block (preceeding the lastmost set of `tool_use` and `tool_result` blocks).", before.places[0], kind)
	}
	return nil
}

func unanswered(index int, ids []string) *failure {
	return invalid("messages.%d: `tool_use` ids were found without `tool_result` blocks immediately after: %s. Each `tool_use` block must have a corresponding `tool_result` block in the next message.", index, strings.Join(ids, ", "))
}

func has(list []string, s string) bool {
	for _, v := range list {
		if v == s {
			return true
		}
	}
	return false
}

// checkCacheMarks bounds the cache breakpoints.
func checkCacheMarks(b *jsontree.Node, _ string) *failure {
	n := 0
	for _, s := range segments(b) {
		if s.TTL > 0 {
			n++
		}
	}
	if n > 4 {
		return invalid("A maximum of 4 blocks with cache_control may be provided. Found %d.", n)
	}
	return nil
}
