package anthropic

import (
	"encoding/json"
	"net/http"
	"strings"

	"github.com/weir-dev/weir/test/sim/internal/exchange"
	"github.com/weir-dev/weir/test/sim/internal/model"
)

type usageObject struct {
	Input         int `json:"input_tokens"`
	CacheCreation int `json:"cache_creation_input_tokens"`
	CacheRead     int `json:"cache_read_input_tokens"`
	Creation      *struct {
		Minutes int `json:"ephemeral_5m_input_tokens"`
		Hour    int `json:"ephemeral_1h_input_tokens"`
	} `json:"cache_creation,omitempty"`
	Output  int `json:"output_tokens"`
	Details *struct {
		Thinking int `json:"thinking_tokens"`
	} `json:"output_tokens_details,omitempty"`
	ServiceTier string `json:"service_tier,omitempty"`
}

// usageObject splits the input: what came from the cache or went into it is not in input_tokens.
func (c *completion) usageObject(output int) *usageObject {
	u := &usageObject{Input: c.usage.Input - c.usage.Cached - c.usage.CacheWritten,
		CacheCreation: c.usage.CacheWritten, CacheRead: c.usage.Cached, Output: output}
	return u
}

func (c *completion) fullUsage(output int) *usageObject {
	u := c.usageObject(output)
	u.Creation = new(struct {
		Minutes int `json:"ephemeral_5m_input_tokens"`
		Hour    int `json:"ephemeral_1h_input_tokens"`
	})
	u.Creation.Minutes, u.Creation.Hour = c.usage.CacheWritten-c.hour, c.hour
	u.ServiceTier = "standard"
	return u
}

func (c *completion) withThinking(u *usageObject) *usageObject {
	if c.thinks {
		u.Details = new(struct {
			Thinking int `json:"thinking_tokens"`
		})
		u.Details.Thinking = c.usage.Reasoning
	}
	return u
}

type block struct {
	Type      string          `json:"type"`
	Thinking  *string         `json:"thinking,omitempty"`
	Signature *string         `json:"signature,omitempty"`
	Text      *string         `json:"text,omitempty"`
	ID        string          `json:"id,omitempty"`
	Name      string          `json:"name,omitempty"`
	Input     json.RawMessage `json:"input,omitempty"`
}

type messageObject struct {
	ID           string       `json:"id"`
	Type         string       `json:"type"`
	Role         string       `json:"role"`
	Model        string       `json:"model"`
	Content      []block      `json:"content"`
	StopReason   *string      `json:"stop_reason"`
	StopSequence *string      `json:"stop_sequence"`
	Usage        *usageObject `json:"usage"`
}

func (c *completion) message() messageObject {
	return messageObject{ID: c.r.ID("msg_", 0, 24), Type: "message", Role: "assistant", Model: c.summary.Model, Content: []block{}}
}

func (c *completion) stop() (reason string, sequence *string) {
	switch c.answer.Finish {
	case model.Length:
		return "max_tokens", nil
	case model.Called:
		return "tool_use", nil
	case model.Stopped:
		return "stop_sequence", &c.answer.StopSequence
	}
	return "end_turn", nil
}

func (c *completion) callID(i int) string { return c.r.ID("toolu_", 1+i, 24) }

// countReply answers token counting.
func countReply(c *completion) *exchange.Reply {
	rep := exchange.JSON(200, struct {
		Input int `json:"input_tokens"`
	}{c.usage.Input})
	rep.Summary = c.summary
	return rep
}

func (c *completion) reply() *exchange.Reply {
	var rep *exchange.Reply
	if c.body.Get("stream").True() {
		rep = &exchange.Reply{Status: 200, Frames: c.frames, Header: http.Header{
			"Content-Type": {"text/event-stream; charset=utf-8"}, "Cache-Control": {"no-cache"}}}
	} else {
		rep = c.plain()
	}
	rep.Summary, rep.Usage = c.summary, c.usage
	return rep
}

func (c *completion) plain() *exchange.Reply {
	m := c.message()
	if c.thinks {
		said := c.thought()
		sig := signature(said)
		m.Content = append(m.Content, block{Type: "thinking", Thinking: &said, Signature: &sig})
	}
	if len(c.answer.Text) > 0 {
		said := strings.Join(c.answer.Text, "")
		m.Content = append(m.Content, block{Type: "text", Text: &said})
	}
	for i, call := range c.answer.Calls {
		m.Content = append(m.Content, block{Type: "tool_use", ID: c.callID(i), Name: call.Name,
			Input: json.RawMessage(strings.Join(call.Args, ""))})
	}
	reason, sequence := c.stop()
	m.StopReason, m.StopSequence = &reason, sequence
	m.Usage = c.withThinking(c.fullUsage(c.usage.Output))
	rep := exchange.JSON(200, m)
	rep.Tokens = c.usage.Output
	return rep
}

// thought is the text of the thinking as the caller may see it.
func (c *completion) thought() string {
	if c.omitted {
		return ""
	}
	return strings.Join(c.answer.Thinking, "")
}

// event writes one event: its name and its data's type are the same.
func event(name string, v any) []byte {
	return append(append([]byte("event: "+name+"\ndata: "), exchange.Encode(v)...), "\n\n"...)
}
