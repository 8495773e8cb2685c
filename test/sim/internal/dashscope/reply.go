package dashscope

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/weir-dev/weir/test/sim/internal/exchange"
	"github.com/weir-dev/weir/test/sim/internal/model"
)

type details struct {
	Cached    *int `json:"cached_tokens,omitempty"`
	Reasoning *int `json:"reasoning_tokens,omitempty"`
	Text      *int `json:"text_tokens,omitempty"`
	Image     *int `json:"image_tokens,omitempty"`
}

type usageObject struct {
	Input         int      `json:"input_tokens"`
	Output        int      `json:"output_tokens"`
	Total         int      `json:"total_tokens"`
	Image         *int     `json:"image_tokens,omitempty"`
	InputDetails  *details `json:"input_tokens_details,omitempty"`
	OutputDetails *details `json:"output_tokens_details,omitempty"`
	PromptDetails *details `json:"prompt_tokens_details,omitempty"`
}

type callFunction struct {
	Name      string `json:"name"`
	Arguments string `json:"arguments"`
}

type callObject struct {
	Index    int          `json:"index"`
	ID       string       `json:"id"`
	Type     string       `json:"type"`
	Function callFunction `json:"function"`
}

type textPart struct {
	Text string `json:"text"`
}

type messageObject struct {
	Role      string       `json:"role"`
	Content   any          `json:"content"` // a string, or a list of parts
	Reasoning *string      `json:"reasoning_content,omitempty"`
	ToolCalls []callObject `json:"tool_calls,omitempty"`
}

type logprob struct {
	Token   string    `json:"token"`
	Bytes   []int     `json:"bytes"`
	Logprob float64   `json:"logprob"`
	Top     []logprob `json:"top_logprobs"`
}

type choiceObject struct {
	Index        *int          `json:"index,omitempty"` // only with n above 1
	Message      messageObject `json:"message"`
	Logprobs     any           `json:"logprobs,omitempty"`
	FinishReason string        `json:"finish_reason"`
}

type outputObject struct {
	Text         *string        `json:"text,omitempty"`
	FinishReason string         `json:"finish_reason,omitempty"`
	Choices      []choiceObject `json:"choices,omitempty"`
}

type replyObject struct {
	Output    outputObject `json:"output"`
	Usage     usageObject  `json:"usage"`
	RequestID string       `json:"request_id"`
}

// usageObject counts up to a number of output tokens, of which some were reasoning.
func (c *completion) usageObject(output, thought int) usageObject {
	u := usageObject{Input: c.usage.Input, Output: output, Total: c.usage.Input + output}
	u.PromptDetails = &details{Cached: &c.usage.Cached}
	if c.thinks {
		u.OutputDetails = &details{Reasoning: &thought}
	}
	if c.parts {
		rest := c.usage.Input - c.imageTokens
		u.Image = &c.imageTokens
		u.InputDetails = &details{Text: &rest, Image: &c.imageTokens}
	}
	return u
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

func (c *completion) callID(choice, i int) string { return c.r.ID("call_", 1+choice*1000+i, 22) }

// content writes text the way the API returns it: multimodal answers are lists.
func (c *completion) content(s string) any {
	if !c.parts {
		return s
	}
	if s == "" {
		return []textPart{}
	}
	return []textPart{{s}}
}

func (c *completion) logprobsOf(list []string) any {
	if !c.logprobs {
		return nil
	}
	out := []logprob{}
	for _, t := range list {
		lp := logprob{Token: t, Logprob: -0.105361, Bytes: []int{}, Top: []logprob{}}
		for i := range len(t) {
			lp.Bytes = append(lp.Bytes, int(t[i]))
		}
		out = append(out, lp)
	}
	return map[string]any{"content": out}
}

// choice is one whole choice.
func (c *completion) choice(index int) choiceObject {
	a := c.answers[index]
	ch := choiceObject{FinishReason: finishReason(a.Finish), Logprobs: c.logprobsOf(a.Text)}
	if len(c.answers) > 1 {
		ch.Index = &index
	}
	ch.Message = messageObject{Role: "assistant", Content: c.content(strings.Join(a.Text, ""))}
	if c.thinks {
		s := strings.Join(a.Thinking, "")
		ch.Message.Reasoning = &s
	}
	for i, call := range a.Calls {
		ch.Message.ToolCalls = append(ch.Message.ToolCalls, callObject{i, c.callID(index, i), "function",
			callFunction{call.Name, strings.Join(call.Args, "")}})
	}
	return ch
}

func (c *completion) reply() *exchange.Reply {
	var rep *exchange.Reply
	if c.summary.Stream {
		rep = &exchange.Reply{Status: 200, Frames: c.frames, Header: http.Header{
			"Content-Type": {"text/event-stream;charset=UTF-8"}, "Cache-Control": {"no-cache"}}}
	} else {
		out := outputObject{}
		for i := range c.answers {
			out.Choices = append(out.Choices, c.choice(i))
		}
		if c.asText {
			out = plainText(strings.Join(c.answers[0].Text, ""), finishReason(c.answers[0].Finish))
		}
		rep = exchange.JSON(200, replyObject{out, c.usageObject(c.usage.Output, c.usage.Reasoning), c.r.UUID()})
		rep.Tokens = c.usage.Output
	}
	rep.Summary, rep.Usage = c.summary, c.usage
	return rep
}

// plainText is the output of result_format text.
func plainText(said, finish string) outputObject {
	return outputObject{Text: &said, FinishReason: finish}
}

// frame writes one event: no space after the colons, the HTTP status in a comment.
func frame(id int, name string, status int, v any) []byte {
	b := append([]byte("id:"), strconv.Itoa(id)...)
	b = append(b, "\nevent:"+name+"\n:HTTP_STATUS/"+strconv.Itoa(status)+"\ndata:"...)
	return append(append(b, exchange.Encode(v)...), "\n\n"...)
}
