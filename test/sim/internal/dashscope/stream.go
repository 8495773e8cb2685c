package dashscope

import (
	"strings"

	"github.com/weir-dev/weir/test/sim/internal/exchange"
	"github.com/weir-dev/weir/test/sim/internal/model"
)

// piece is one token on its way: of the reasoning, the text or a call's arguments.
type piece struct {
	choice  int
	thought string
	said    string
	call    int // index of a call, -1 for none
	head    bool
	args    string
	tokens  int
}

// pieces lists what one choice sends, in order.
func pieces(index int, a model.Answer) []piece {
	var out []piece
	for _, t := range a.Thinking {
		out = append(out, piece{choice: index, thought: t, call: -1, tokens: 1})
	}
	for _, t := range a.Text {
		out = append(out, piece{choice: index, said: t, call: -1, tokens: 1})
	}
	for i, call := range a.Calls {
		out = append(out, piece{choice: index, call: i, head: true, tokens: call.Cost() - len(call.Args)})
		for _, t := range call.Args {
			out = append(out, piece{choice: index, call: i, args: t, tokens: 1})
		}
	}
	return out
}

// progress is how much of a choice was sent so far, for frames that repeat it all.
type progress struct {
	thought, said strings.Builder
	args          []string
}

// frames streams the answer. With incremental_output every frame holds what is new, without it every
// frame holds everything so far. Usage is in every frame, counted up to there. The last frame of each
// choice says why it ended; before that the finish reason is the string "null".
func (c *completion) frames(yield func(exchange.Frame) bool) {
	id, output, thought := 0, 0, 0
	send := func(out outputObject, p piece) bool {
		id++
		output += p.tokens
		reasoning := 0
		if p.thought != "" {
			reasoning = p.tokens
		}
		thought += reasoning
		return yield(exchange.Frame{Tokens: p.tokens, Reasoning: reasoning,
			Data: frame(id, "result", 200, replyObject{out, c.usageObject(output, thought), c.r.UUID()})})
	}
	for i, a := range c.answers {
		var sofar progress
		for _, p := range pieces(i, a) {
			if !send(c.step(&sofar, a, p, "null"), p) {
				return
			}
		}
		end := piece{choice: i, call: -1}
		if !send(c.step(&sofar, a, end, finishReason(a.Finish)), end) {
			return
		}
	}
}

// step builds the output of one frame.
func (c *completion) step(sofar *progress, a model.Answer, p piece, finish string) outputObject {
	sofar.thought.WriteString(p.thought)
	sofar.said.WriteString(p.said)
	if p.head {
		sofar.args = append(sofar.args, "")
	}
	if p.call >= 0 {
		sofar.args[p.call] += p.args
	}
	said, thought := p.said, p.thought
	if !c.incremental {
		said, thought = sofar.said.String(), sofar.thought.String()
	}
	if c.asText {
		return plainText(said, finish)
	}
	ch := choiceObject{FinishReason: finish, Message: messageObject{Role: "assistant", Content: c.content(said)}}
	if len(c.answers) > 1 {
		ch.Index = &p.choice
	}
	if c.thinks {
		ch.Message.Reasoning = &thought
	}
	if p.said != "" {
		ch.Logprobs = c.logprobsOf([]string{p.said})
	}
	switch {
	case !c.incremental:
		for i, args := range sofar.args {
			ch.Message.ToolCalls = append(ch.Message.ToolCalls, callObject{i, c.callID(p.choice, i), "function", callFunction{a.Calls[i].Name, args}})
		}
	case p.head:
		ch.Message.ToolCalls = []callObject{{p.call, c.callID(p.choice, p.call), "function", callFunction{Name: a.Calls[p.call].Name}}}
	case p.call >= 0:
		ch.Message.ToolCalls = []callObject{{p.call, "", "function", callFunction{Arguments: p.args}}}
	}
	return outputObject{Choices: []choiceObject{ch}}
}
