package anthropic

import (
	"encoding/json"

	"github.com/weir-dev/weir/test/sim/internal/exchange"
)

type startEvent struct {
	Type    string        `json:"type"`
	Message messageObject `json:"message"`
}

type blockStart struct {
	Type  string `json:"type"`
	Index int    `json:"index"`
	Block block  `json:"content_block"`
}

type delta struct {
	Type      string  `json:"type"`
	Text      *string `json:"text,omitempty"`
	Thinking  *string `json:"thinking,omitempty"`
	Signature *string `json:"signature,omitempty"`
	Partial   *string `json:"partial_json,omitempty"`
}

type blockDelta struct {
	Type  string `json:"type"`
	Index int    `json:"index"`
	Delta delta  `json:"delta"`
}

type indexed struct {
	Type  string `json:"type"`
	Index int    `json:"index"`
}

type messageDelta struct {
	Type  string `json:"type"`
	Delta struct {
		StopReason   string  `json:"stop_reason"`
		StopSequence *string `json:"stop_sequence"`
	} `json:"delta"`
	Usage *usageObject `json:"usage"`
}

// frames streams the message: every block is opened, filled and closed before the next one; the
// first block is followed by a ping, as on the real wire.
func (c *completion) frames(yield func(exchange.Frame) bool) {
	s := &stream{yield: yield}
	m := c.message()
	m.Usage = c.fullUsage(min(1, c.usage.Output))
	s.send("message_start", startEvent{"message_start", m}, 0)

	empty := ""
	if c.thinks {
		s.thinking = true
		s.open(block{Type: "thinking", Thinking: &empty, Signature: &empty}, 0)
		if c.omitted {
			s.hidden = len(c.answer.Thinking)
		} else {
			for i := range c.answer.Thinking {
				s.delta(delta{Type: "thinking_delta", Thinking: &c.answer.Thinking[i]}, 1)
			}
		}
		sig := signature(c.thought())
		s.delta(delta{Type: "signature_delta", Signature: &sig}, 0)
		s.close()
		s.thinking = false
	}
	if len(c.answer.Text) > 0 {
		s.open(block{Type: "text", Text: &empty}, 0)
		for i := range c.answer.Text {
			s.delta(delta{Type: "text_delta", Text: &c.answer.Text[i]}, 1)
		}
		s.close()
	}
	for i, call := range c.answer.Calls {
		s.open(block{Type: "tool_use", ID: c.callID(i), Name: call.Name, Input: json.RawMessage("{}")}, call.Cost()-len(call.Args))
		s.delta(delta{Type: "input_json_delta", Partial: &empty}, 0)
		for j := range call.Args {
			s.delta(delta{Type: "input_json_delta", Partial: &call.Args[j]}, 1)
		}
		s.close()
	}
	end := messageDelta{Type: "message_delta", Usage: c.withThinking(c.usageObject(c.usage.Output))}
	end.Delta.StopReason, end.Delta.StopSequence = c.stop()
	s.send("message_delta", end, 0)
	s.send("message_stop", struct {
		Type string `json:"type"`
	}{"message_stop"}, 0)
}

// stream numbers the blocks, and stops when the reader does.
type stream struct {
	yield  func(exchange.Frame) bool
	index  int
	hidden int // tokens that were made but not shown: the next event waits for them
	// thinking says that tokens are reasoning.
	thinking bool
	pinged   bool
	done     bool
}

func (s *stream) send(name string, v any, tokens int) {
	if s.done {
		return
	}
	f := exchange.Frame{Data: event(name, v), Tokens: tokens + s.hidden}
	if s.thinking {
		f.Reasoning = f.Tokens
	}
	s.done = !s.yield(f)
	s.hidden = 0
}

func (s *stream) open(b block, tokens int) {
	s.send("content_block_start", blockStart{"content_block_start", s.index, b}, tokens)
	if !s.pinged {
		s.pinged = true
		s.send("ping", struct {
			Type string `json:"type"`
		}{"ping"}, 0)
	}
}

func (s *stream) delta(d delta, tokens int) {
	s.send("content_block_delta", blockDelta{"content_block_delta", s.index, d}, tokens)
}

func (s *stream) close() {
	s.send("content_block_stop", indexed{"content_block_stop", s.index}, 0)
	s.index++
}
