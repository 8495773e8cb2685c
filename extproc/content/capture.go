package content

import (
	"strconv"
	"sync"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/usage"
)

// Capture collects the text of one request. It is a usage.ContentSource. All methods may be called on nil, which captures nothing.
//
// The server hands over what it has read before it answers Envoy, and calls Work after it has: reading takes time that nobody waits
// for. Envoy's record of the request may be faster: Content does what is left to do.
type Capture struct {
	rule          *Rule
	dialect       *canon.Dialect
	op            canon.Operation
	input, output bool // what is wanted
	memory        *Memory

	mu     sync.Mutex
	closed bool
	took   int64 // bytes of memory
	done   *usage.Content

	// What is still to be read.
	body     []byte
	request  *canon.Request
	unread   bool // there is a body or a request
	chunks   [][]byte
	wholeEnd bool

	in         *input
	inMissing  string
	out        *output
	outMissing string
	decoder    decoder // of a tapped stream
	whole      []byte  // of a tapped answer that is no stream
	tapWhole   bool
}

// Why there is nothing of what was asked for.
const (
	missingUnread     = "the request ended before it was read"
	missingUnreadable = "the request has a form that Weir does not read, or no text"
	missingNoAnswer   = "there was no answer"
	missingAnswer     = "the answer has a form that Weir does not read"
	missingTooLarge   = "the answer is too large or broke off"
	missingMemory     = "the memory for captured text was used up"
)

// maxWhole is the largest answer that is no stream and that is read, in bytes. Text is a part of it: IDs, token probabilities and
// escapes are the rest.
const maxWhole = 2 << 20

// New makes the Capture of a request; nil where the rule wants nothing of it.
func New(r *Rule, d *canon.Dialect, op canon.Operation, model string, m *Memory) *Capture {
	in, out := r.Wants(model, op)
	if !in && !out {
		return nil
	}
	return &Capture{rule: r, dialect: d, op: op, input: in, output: out, memory: m, inMissing: missingUnread, outMissing: missingNoAnswer}
}

// WantsInput says whether the body of the request is needed.
func (c *Capture) WantsInput() bool { return c != nil && c.input }

// WantsOutput says whether the answer is needed.
func (c *Capture) WantsOutput() bool { return c != nil && c.output }

// Request takes the request: as it was parsed for other reasons, or else (parsed is nil) its body. Neither may change.
func (c *Capture) Request(body []byte, parsed *canon.Request) {
	if !c.WantsInput() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.body, c.request, c.unread = body, parsed, true
	}
}

// See takes an event of an answer that somebody else reads.
func (c *Capture) See(ev *canon.Event) {
	if c.WantsOutput() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.see(ev)
	}
}

// Tap begins to read an answer that nobody else reads: a stream of events or a whole one. It says whether that can be done.
func (c *Capture) Tap(stream bool) bool {
	if !c.WantsOutput() {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if stream {
		c.decoder = decoderOf(c.dialect, c.op)
		return c.decoder != nil
	}
	c.tapWhole, c.outMissing = true, missingTooLarge
	return true
}

// Chunk takes a piece of the answer that Tap was called for. It must not change any more.
func (c *Capture) Chunk(b []byte, end bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	if len(b) > 0 {
		c.chunks = append(c.chunks, b)
	}
	c.wholeEnd = c.wholeEnd || end
}

// Unreadable notes that an answer has come that nobody can read.
func (c *Capture) Unreadable() {
	if c.WantsOutput() {
		c.mu.Lock()
		c.outMissing = missingAnswer
		c.mu.Unlock()
	}
}

// Work reads what was handed over.
func (c *Capture) Work() {
	if c != nil {
		c.mu.Lock()
		c.work()
		c.mu.Unlock()
	}
}

// Settle makes the Content, when the answer has passed or the caller has gone. Nothing is taken after it.
func (c *Capture) Settle() {
	if c != nil {
		c.mu.Lock()
		c.settle()
		c.mu.Unlock()
	}
}

// Content implements usage.ContentSource.
func (c *Capture) Content() usage.Content {
	if c == nil {
		return usage.Content{}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return usage.Content{}
	}
	c.settle()
	return *c.done
}

// Close implements usage.ContentSource.
func (c *Capture) Close() {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.drop()
	c.done = nil
	c.memory.give(c.took)
	c.took = 0
}

// drop forgets what was collected.
func (c *Capture) drop() {
	c.body, c.request, c.chunks, c.in, c.out, c.decoder, c.whole = nil, nil, nil, nil, nil, nil, nil
	c.unread, c.tapWhole = false, false
}

// room takes memory.
func (c *Capture) room(n int) bool {
	if !c.memory.take(int64(n)) {
		return false
	}
	c.took += int64(n)
	return true
}

func (c *Capture) see(ev *canon.Event) {
	if c.closed || c.done != nil {
		return
	}
	if c.out == nil {
		c.out = newOutput(c.rule, c.room)
	}
	c.out.see(ev)
}

func (c *Capture) work() {
	if c.closed || c.done != nil {
		return
	}
	if c.unread {
		c.readRequest()
		c.body, c.request, c.unread = nil, nil, false
	}
	for _, b := range c.chunks {
		switch {
		case c.decoder != nil:
			c.decoder.Feed(b, c.see)
		case !c.tapWhole:
		case len(c.whole)+len(b) > maxWhole:
			c.tapWhole, c.whole, c.outMissing = false, nil, missingTooLarge
		case !c.room(len(b)):
			c.tapWhole, c.whole, c.outMissing = false, nil, missingMemory
		default:
			c.whole = append(c.whole, b...)
		}
	}
	clear(c.chunks)
	c.chunks = c.chunks[:0]
	if c.tapWhole && c.wholeEnd {
		c.tapWhole, c.outMissing = false, missingAnswer
		readWhole(c.dialect, c.op, c.whole, c.see)
		c.whole = nil
	}
}

func (c *Capture) readRequest() {
	var in *input
	if c.op == canon.OpChat {
		r := c.request
		if r == nil && c.dialect.In != nil {
			r, _ = c.dialect.In.ParseRequest(c.body)
		}
		if r != nil {
			in = c.rule.readMessages(r.Messages, apart(c.dialect))
		}
	} else if list := readBody(c.op, c.body); len(list) > 0 {
		in = c.rule.readMessages(list, true)
	}
	switch {
	case in == nil:
		c.inMissing = missingUnreadable
	case !c.room(int(in.bytes())):
		c.inMissing = missingMemory
	default:
		c.in = in
	}
}

// apart says whether a dialect has its system instructions apart from the messages: whether it opens a conversation with them by
// a field of the request.
func apart(d *canon.Dialect) bool { return d.Name == "anthropic" }

// settle makes the Content once.
func (c *Capture) settle() {
	c.work()
	if c.closed || c.done != nil {
		return
	}
	if c.tapWhole && len(c.whole) > 0 { // an answer that ends with trailers has no last piece
		readWhole(c.dialect, c.op, c.whole, c.see)
	}
	out := &usage.Content{}
	if c.input {
		if c.in == nil {
			out.InputMissing = c.inMissing
		} else {
			out.InputCut = c.in.cut
			out.Input = string(c.rule.appendMessages(nil, c.in.messages, ""))
			if len(c.in.system) > 0 {
				out.System = string(c.rule.appendParts(nil, c.in.system))
			}
		}
	}
	if c.output {
		switch {
		case c.out == nil:
			out.OutputMissing = c.outMissing
		case c.out.full && len(c.out.parts) == 0:
			out.OutputMissing = missingMemory
		default:
			finish := c.out.finish
			if finish == "" {
				finish = finishIncomplete
			}
			out.OutputCut = c.out.cut
			out.Output = string(c.rule.appendMessages(nil, []message{c.out.message()}, finish))
		}
	}
	c.drop()
	c.done = out
}

func appendInt(dst []byte, n int) []byte { return strconv.AppendInt(dst, int64(n), 10) }
