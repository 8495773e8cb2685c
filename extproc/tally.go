package extproc

import (
	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/extproc/content"
)

// account is told what an answer used; *usage.Open is one. Its methods are called on the request's path.
type account interface {
	// Report takes what the provider has reported, or Weir has counted; complete marks the provider's final count.
	Report(u canon.Usage, complete bool)
	// Delivered takes bytes of what the model wrote, on top of those before.
	Delivered(textBytes int)
	// Cut notes that Weir ended the answer.
	Cut()
	// Fail notes that the answer turned into an error after it had begun.
	Fail()
}

// bytesPerToken of text, about: of English. See length.
const bytesPerToken = 4

// tally counts the tokens of an answer while it comes. The zero value tells nobody and never ends a stream.
type tally struct {
	account account                // nil: nobody is told
	stop    func(canon.Usage) bool // says whether a stream is to end, by what it has used; nil: never
	input   int64                  // estimated tokens of the request, until the provider tells
	content *content.Capture       // takes the text; nil: nobody does

	reported canon.Usage
	complete bool // reported is the final count
	finished bool // the provider has told why it stopped, or failed: there is nothing left to cut
	closed   bool // the decoder has been told the end
	all      length
	thought  length // reasoning, a part of all
	told     int64  // bytes of all that account knows of
}

// length is how much a model has written. Most providers send an event for each token, some put several into one: both
// the events and the bytes are a lower bound, and the larger one is closer. Reasoning that a provider keeps to itself is
// known only from its report.
type length struct{ events, bytes int64 }

func (l *length) add(text string) {
	l.events++
	l.bytes += int64(len(text))
}

func (l *length) tokens() int64 {
	return max(l.events, (l.bytes+bytesPerToken-1)/bytesPerToken)
}

// see counts one event.
func (t *tally) see(ev *canon.Event) {
	t.content.See(ev)
	switch ev.Kind {
	case canon.EventStart:
		if ev.Usage != nil {
			t.report(*ev.Usage, false)
		}
	case canon.EventText, canon.EventRefusal, canon.EventToolDelta:
		if ev.Text != "" {
			t.all.add(ev.Text)
		}
	case canon.EventReasoning:
		if ev.Text != "" {
			t.all.add(ev.Text)
			t.thought.add(ev.Text)
		}
	case canon.EventToolStart:
		t.all.add(ev.Name)
	case canon.EventFinish:
		t.finished = true
	case canon.EventUsage:
		if ev.Usage != nil {
			t.report(*ev.Usage, true)
		}
	case canon.EventError:
		t.finished = true
	case canon.EventPing:
	}
}

func (t *tally) report(u canon.Usage, complete bool) {
	t.reported, t.complete = u, complete
	if t.account != nil {
		t.account.Report(u, complete)
	}
}

// seeWhole counts an answer that came in one piece.
func (t *tally) seeWhole(r *canon.Response) {
	if r.Usage != nil {
		t.report(*r.Usage, true)
		if t.content.WantsOutput() {
			r.Events(t.content.See)
		}
		return
	}
	r.Events(t.see)
	t.deliver()
}

// deliver tells the account what has come since the last time. It is called for each piece of a stream, so that an answer that
// is broken off is charged what it delivered.
func (t *tally) deliver() {
	n := t.all.bytes - t.told
	if t.account == nil || n == 0 || t.complete {
		return
	}
	t.told = t.all.bytes
	t.account.Delivered(int(n))
	if t.all.events*bytesPerToken > t.all.bytes {
		t.account.Report(t.counted(), false)
	}
}

// counted is what has been used so far, of the output by Weir's own count where that is more than what was reported.
func (t *tally) counted() canon.Usage {
	u := t.reported
	if !t.complete {
		u.Output = max(u.Output, t.all.tokens())
		u.Reasoning = max(u.Reasoning, min(t.thought.tokens(), u.Output))
	}
	return u
}

// soFar is counted, with the input estimated where it is not known.
func (t *tally) soFar() canon.Usage {
	u := t.counted()
	if u.Input == 0 {
		u.Input = t.input
	}
	return u
}

// due says whether the stream is to be cut now.
func (t *tally) due() bool {
	return t.stop != nil && !t.finished && t.stop(t.soFar())
}

// cut appends what ends a stream before its time: to the caller it is one that became too long. The encoder has seen what
// the caller has seen.
func (t *tally) cut(dst []byte, enc canon.StreamEncoder, withUsage bool) []byte {
	t.finished = true
	u := t.soFar()
	end := &canon.Event{Kind: canon.EventFinish, Finish: canon.FinishLength}
	t.content.See(end)
	dst = enc.Append(dst, end)
	if withUsage {
		dst = enc.Append(dst, &canon.Event{Kind: canon.EventUsage, Usage: &u})
	}
	if t.account != nil {
		t.account.Report(t.counted(), false)
		t.account.Cut()
	}
	return enc.End(dst)
}
