package openai

import (
	"net/http"
	"strings"

	"github.com/weir-dev/weir/test/sim/internal/exchange"
	"github.com/weir-dev/weir/test/sim/internal/jsontree"
	"github.com/weir-dev/weir/test/sim/internal/model"
)

// completion is an answered chat request, before it becomes an object or a stream.
type completion struct {
	p       Provider
	r       *exchange.Request
	body    *jsontree.Node
	answers []model.Answer
	usage   exchange.Usage
}

type usageObject struct {
	PromptTokens     int `json:"prompt_tokens"`
	CompletionTokens int `json:"completion_tokens"`
	TotalTokens      int `json:"total_tokens"`
	PromptDetails    struct {
		Cached int `json:"cached_tokens"`
		Audio  int `json:"audio_tokens"`
	} `json:"prompt_tokens_details"`
	CompletionDetails struct {
		Reasoning int `json:"reasoning_tokens"`
		Audio     int `json:"audio_tokens"`
		Accepted  int `json:"accepted_prediction_tokens"`
		Rejected  int `json:"rejected_prediction_tokens"`
	} `json:"completion_tokens_details"`
}

func (c *completion) usageObject() *usageObject {
	u := &usageObject{PromptTokens: c.usage.Input, CompletionTokens: c.usage.Output, TotalTokens: c.usage.Input + c.usage.Output}
	u.PromptDetails.Cached = c.usage.Cached
	u.CompletionDetails.Reasoning = c.usage.Reasoning
	return u
}

type callFunction struct {
	Name      string `json:"name,omitempty"`
	Arguments string `json:"arguments"`
}

type callObject struct {
	Index    *int         `json:"index,omitempty"` // in streams only
	ID       string       `json:"id,omitempty"`
	Type     string       `json:"type,omitempty"`
	Function callFunction `json:"function"`
}

type messageObject struct {
	Role        string       `json:"role"`
	Content     *string      `json:"content"`
	Reasoning   string       `json:"reasoning_content,omitempty"`
	Refusal     *string      `json:"refusal"`
	ToolCalls   []callObject `json:"tool_calls,omitempty"`
	Annotations []any        `json:"annotations"`
}

type choiceObject struct {
	Index        int           `json:"index"`
	Message      messageObject `json:"message"`
	Logprobs     any           `json:"logprobs"`
	FinishReason string        `json:"finish_reason"`
}

type logprob struct {
	Token   string    `json:"token"`
	Logprob float64   `json:"logprob"`
	Bytes   []int     `json:"bytes"`
	Top     []logprob `json:"top_logprobs,omitzero"`
}

type logprobs struct {
	Content []logprob `json:"content"`
	Refusal any       `json:"refusal"`
}

// logprobsOf invents probabilities: every token is certain to 90 percent.
func (c *completion) logprobsOf(list []string) any {
	if !c.body.Get("logprobs").True() {
		return nil
	}
	lp := logprobs{Content: []logprob{}}
	for _, t := range list {
		one := logprob{Token: t, Logprob: -0.105361, Bytes: make([]int, len(t))}
		for i := range len(t) {
			one.Bytes[i] = int(t[i])
		}
		full := one
		full.Top = []logprob{}
		if c.body.Get("top_logprobs").Int() > 0 {
			full.Top = append(full.Top, one)
		}
		lp.Content = append(lp.Content, full)
	}
	return lp
}

func finishReason(f model.Finish) string {
	switch f {
	case model.Length:
		return "length"
	case model.Called:
		return "tool_calls"
	}
	return "stop"
}

func (c *completion) callID(choice, i int) string { return c.r.ID("call_", 1+choice*1000+i, 24) }

func (c *completion) id() string { return c.r.ID("chatcmpl-", 0, 29) }

// fingerprint names the backend build; it is the same for all replies.
const fingerprint = "fp_5153a11b0f"

func (c *completion) object() any {
	choices := make([]choiceObject, 0, len(c.answers))
	for i, a := range c.answers {
		m := messageObject{Role: "assistant", Annotations: []any{}}
		said := strings.Join(a.Text, "")
		if len(a.Calls) == 0 || said != "" {
			m.Content = &said
		}
		if c.p.Qwen {
			m.Content = &said
			m.Reasoning = strings.Join(a.Thinking, "")
		}
		for j, call := range a.Calls {
			m.ToolCalls = append(m.ToolCalls, callObject{ID: c.callID(i, j), Type: "function",
				Function: callFunction{call.Name, strings.Join(call.Args, "")}})
		}
		choices = append(choices, choiceObject{i, m, c.logprobsOf(a.Text), finishReason(a.Finish)})
	}
	return struct {
		ID          string         `json:"id"`
		Object      string         `json:"object"`
		Created     int64          `json:"created"`
		Model       string         `json:"model"`
		Choices     []choiceObject `json:"choices"`
		Usage       *usageObject   `json:"usage"`
		ServiceTier string         `json:"service_tier"`
		Fingerprint string         `json:"system_fingerprint"`
	}{c.id(), "chat.completion", c.r.Now.Unix(), c.body.Get("model").Str(), choices, c.usageObject(), "default", fingerprint}
}

type deltaObject struct {
	Role      string       `json:"role,omitempty"`
	Content   any          `json:"content,omitempty"` // a *string, or null beside tool calls
	Reasoning *string      `json:"reasoning_content,omitempty"`
	ToolCalls []callObject `json:"tool_calls,omitempty"`
	Refusal   *nullValue   `json:"refusal,omitempty"`
}

// nullValue is written as null, which a nil pointer with omitempty would not be.
type nullValue struct{}

// MarshalJSON writes null.
func (*nullValue) MarshalJSON() ([]byte, error) { return []byte("null"), nil }

type deltaChoice struct {
	Index        int         `json:"index"`
	Delta        deltaObject `json:"delta"`
	Logprobs     any         `json:"logprobs"`
	FinishReason *string     `json:"finish_reason"`
}

type chunkObject struct {
	ID          string        `json:"id"`
	Object      string        `json:"object"`
	Created     int64         `json:"created"`
	Model       string        `json:"model"`
	ServiceTier string        `json:"service_tier"`
	Fingerprint string        `json:"system_fingerprint"`
	Choices     []deltaChoice `json:"choices"`
	Usage       any           `json:"usage,omitempty"`
}

// frame writes one data line; OpenAI's streams have no event names here.
func frame(v any) []byte {
	return append(append([]byte("data: "), exchange.Encode(v)...), "\n\n"...)
}

// stream makes the chunks: per choice the role, then deltas, then the finish reason; at the end the
// usage when it was asked for, and [DONE]. Choices take turns, token by token.
func (c *completion) stream() *exchange.Reply {
	withUsage := c.body.At("stream_options", "include_usage").True()
	chunk := chunkObject{ID: c.id(), Object: "chat.completion.chunk", Created: c.r.Now.Unix(),
		Model: c.body.Get("model").Str(), ServiceTier: "default", Fingerprint: fingerprint}
	if withUsage {
		chunk.Usage = (*nullValue)(nil)
	}
	frames := func(yield func(exchange.Frame) bool) {
		send := func(ch deltaChoice, s step) bool {
			chunk.Choices = []deltaChoice{ch}
			return yield(exchange.Frame{Data: frame(chunk), Tokens: s.tokens, Reasoning: s.thought})
		}
		var turns [][]step
		for i := range c.answers {
			turns = append(turns, c.steps(i))
		}
		for left := len(turns); left > 0; {
			for i := range turns {
				if len(turns[i]) == 0 {
					continue
				}
				s := turns[i][0]
				if turns[i] = turns[i][1:]; len(turns[i]) == 0 {
					left--
				}
				if !send(s.choice(c, i), s) {
					return
				}
			}
		}
		if withUsage {
			last := chunk
			last.Choices, last.Usage = []deltaChoice{}, c.usageObject()
			if !yield(exchange.Frame{Data: frame(last)}) {
				return
			}
		}
		yield(exchange.Frame{Data: []byte("data: [DONE]\n\n")})
	}
	return &exchange.Reply{Status: 200, Frames: frames, Header: http.Header{
		"Content-Type": {"text/event-stream; charset=utf-8"}, "Cache-Control": {"no-cache"}}}
}

// step is one chunk to come.
type step struct {
	delta   deltaObject
	said    string // the token, for its probability
	tokens  int
	thought int // of the tokens
	finish  string
}

func (s step) choice(c *completion, index int) deltaChoice {
	ch := deltaChoice{Index: index, Delta: s.delta}
	if s.said != "" {
		ch.Logprobs = c.logprobsOf([]string{s.said})
	}
	if s.finish != "" {
		ch.FinishReason = &s.finish
	}
	return ch
}

// steps lists the chunks of one choice.
func (c *completion) steps(index int) []step {
	a := c.answers[index]
	empty := ""
	first := step{delta: deltaObject{Role: "assistant", Content: &nullValue{}, Refusal: &nullValue{}}}
	if len(a.Calls) == 0 || c.p.Qwen {
		first.delta.Content = &empty
	}
	if c.p.Qwen {
		first.delta.Refusal = nil
	}
	out := []step{first}
	for i := range a.Thinking {
		s := step{tokens: 1, thought: 1}
		if c.p.Qwen {
			s.delta.Reasoning = &a.Thinking[i]
			out = append(out, s)
		}
	}
	if !c.p.Qwen && len(a.Thinking) > 0 {
		out[0].tokens, out[0].thought = len(a.Thinking), len(a.Thinking) // hidden reasoning delays the first chunk
	}
	for i, t := range a.Text {
		out = append(out, step{delta: deltaObject{Content: &a.Text[i]}, said: t, tokens: 1})
	}
	for j, call := range a.Calls {
		head := step{tokens: call.Cost() - len(call.Args), delta: deltaObject{ToolCalls: []callObject{{Index: &j, ID: c.callID(index, j),
			Type: "function", Function: callFunction{Name: call.Name}}}}}
		out = append(out, head)
		for _, piece := range call.Args {
			out = append(out, step{tokens: 1, delta: deltaObject{ToolCalls: []callObject{{Index: &j, Function: callFunction{Arguments: piece}}}}})
		}
	}
	return append(out, step{finish: finishReason(a.Finish)})
}
