package canon

// FinishReason says why generation ended.
type FinishReason string

// The finish reasons; these five and no other reach an OpenAI caller.
const (
	FinishStop          FinishReason = "stop"
	FinishLength        FinishReason = "length"
	FinishToolCalls     FinishReason = "tool_calls"
	FinishContentFilter FinishReason = "content_filter"
)

// Response is one whole answer. Its strings may share their bytes with the body it was read from: what is kept must be cloned.
type Response struct {
	ID           string // the provider's, or "" where the dialect has none
	Model        string // as the provider names it
	Created      int64  // Unix seconds, 0 where unknown
	Parts        []Part // text, reasoning, refusal, tool calls; in order
	Finish       FinishReason
	StopSequence string // the sequence that ended it, where the dialect tells
	Usage        *Usage // nil when the provider reported none
}

// Usage counts tokens. Input is everything the model read, cached or not; CacheRead and CacheWrite
// are parts of Input. Output is everything it wrote; Reasoning is a part of Output.
type Usage struct {
	Input      int64
	CacheRead  int64
	CacheWrite int64
	Output     int64
	Reasoning  int64
}

// EventKind tells which fields of an Event are set.
type EventKind uint8

// The kinds of Event, in the order a well-formed stream has them: one Start, any mix of deltas,
// at most one Finish, at most one final Usage, then nothing. EventError may replace the rest.
const (
	EventStart     EventKind = iota // ID, Model, Usage (input so far, may be nil)
	EventText                       // Text
	EventReasoning                  // Text and/or Signature
	EventRefusal                    // Text
	EventToolStart                  // Tool, CallID, Name
	EventToolDelta                  // Tool, Text: a fragment of the arguments' JSON
	EventFinish                     // Finish, StopSequence
	EventUsage                      // Usage: the final, cumulative count
	EventError                      // Err: nothing follows
	EventPing                       // keep-alive
)

// Event is one step of a streamed answer. Decoders reuse it: a receiver keeps nothing of it.
type Event struct {
	Kind EventKind
	Text string

	ID    string
	Model string

	Tool   int // dense per answer: 0, 1, 2... in order of appearance
	CallID string
	Name   string

	Signature string
	Origin    string // the dialect that signs the reasoning, "" where none does

	Finish       FinishReason
	StopSequence string
	Usage        *Usage
	Err          *Error
}

// Events emits the answer as the events of a stream of one step per part.
func (r *Response) Events(emit func(*Event)) {
	emit(&Event{Kind: EventStart, ID: r.ID, Model: r.Model, Usage: r.Usage})
	tool := 0
	for _, p := range r.Parts {
		switch p.Kind {
		case PartText:
			emit(&Event{Kind: EventText, Text: p.Text})
		case PartRefusal:
			emit(&Event{Kind: EventRefusal, Text: p.Text})
		case PartReasoning:
			emit(&Event{Kind: EventReasoning, Text: p.Text, Signature: p.Signature, Origin: p.Origin})
		case PartToolCall:
			emit(&Event{Kind: EventToolStart, Tool: tool, CallID: p.Call.ID, Name: p.Call.Name})
			emit(&Event{Kind: EventToolDelta, Tool: tool, Text: p.Call.Arguments})
			tool++
		}
	}
	emit(&Event{Kind: EventFinish, Finish: r.Finish, StopSequence: r.StopSequence})
	if r.Usage != nil {
		emit(&Event{Kind: EventUsage, Usage: r.Usage})
	}
}
