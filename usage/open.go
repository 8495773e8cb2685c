package usage

import (
	"sync"
	"time"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/internal/trace"
	"github.com/weir-dev/weir/usage/ledger"
	"github.com/weir-dev/weir/usage/money"
)

// Grant is what a request took of its limits and budgets. Exactly one of the three is called, once.
type Grant interface {
	// Settle replaces what was reserved by what was used. A request that failed settles zeros: it was a request.
	Settle(inputTokens, outputTokens, costNano int64)
	// Cancel gives everything back, because no backend was asked.
	Cancel()
	// Void gives everything back as if the request had never come: it comes once more.
	Void()
}

// Outcome is told how a request ended, for a circuit breaker. Exactly one of the two is called, once.
type Outcome interface {
	// Done: ok is false for 5xx, time-outs and answers that broke off.
	Done(ok bool, now time.Time)
	// Drop: the end says nothing about backends. The caller went away or was wrong, or Weir answered itself.
	Drop()
}

// Hold is a place at an endpoint that a request occupies while it runs. Exactly one of Ended and Free is called, once.
type Hold interface {
	// Asked tells that an attempt is made at a backend: the n-th that is known of, from 1. Those before it have failed. It is called where
	// Weir prepares the attempts, and where Envoy does and tells of one that failed: then there may be no n-th after all, because it was
	// the last. It may come while Ended or Free does, and after it.
	Asked(n int, backend string)
	// Ended gives the place back and tells how the request ended.
	Ended(Ending)
	// Free gives the place back where nothing is to be learned from the end: the backend was not asked, or nobody knows.
	Free()
}

// Ending is how a request ended, for the endpoint that served it.
type Ending struct {
	At       time.Time
	Backend  string // that gave the answer; "" where none did
	Endpoint string // of the last attempt, "ip:port"; "" where there was none
	Attempts int
	// Good and Bad are what circuit breakers are told; neither where the caller went away or was wrong.
	Good, Bad bool
	TTFT      time.Duration // of the last attempt: until the first byte of the answer's body; 0 where unknown
	Tokens    ledger.Tokens // estimated ones included
	// Answers are those of every attempt as far as they were noted; see Record.Signals.
	Answers map[string]string
}

// Candidate is a backend that may serve a request, and what that would cost.
type Candidate struct {
	Backend       string // ID
	UpstreamModel string // what the backend calls the model
	Prices        *money.Table
	Dialect       string // the backend's
	Translated    bool   // it is another one than the caller's
}

// Open is a request that was let in and has not been settled. The exported fields are what is known when it is
// let in; they must not change once Desk.Begin has it. The methods are for after that; they are safe for concurrent
// use and do nothing once it is settled.
type Open struct {
	ID         string // of the exchange; unique over all processes and times
	PeekID     string // of the peek filter: finds it where Envoy's record has no ID, because the decision came too late; may be ""
	RequestID  string
	Trace      trace.Place
	Time       time.Time // when the request began; its prices are those of this time
	Gateway    string    // LLMGateway that it came in by, "namespace/name"
	Tenant     string
	Namespace  string
	Consumer   string
	Credential string // which one; never its value
	Route      string
	Model      string // the caller's name for it
	Operation  string
	Path       string // of the caller's request, as redact.Path leaves it: Envoy's record has the one that went to the backend
	Dialect    string // the caller's
	Stream     bool
	Currency   string // of the prices
	// Candidates in no order that matters.
	Candidates []Candidate
	// Unasked says that Envoy prepares the attempts by itself: Attempt is not called.
	Unasked bool
	// Order is whom the attempts of such a request ask, one after the other, as places in Candidates; nil where Envoy chooses the first, of
	// whom Likely is the likeliest.
	Order  []uint8
	Likely uint8
	// EstimatedInput are the tokens of the request as they were estimated when it was let in, media included.
	EstimatedInput int64
	// TextBytes are those of the body without media in base64, whose tokens do not go by their bytes; 0 where the
	// body was not measured. MediaTokens are about the tokens of the media.
	TextBytes, MediaTokens int64
	Grant                  Grant     // nil where nothing limits the request
	Outcomes               []Outcome // of circuit breakers
	Hold                   Hold      // nil where the request occupies no place that anybody counts
	// Native says that Weir let the request in ahead of its coming and was not asked: Time is then when Weir noticed it, a few milliseconds
	// late, and what differs between such requests (RequestID, Trace, TextBytes, PeekID) is in the record alone.
	Native bool
	// Relayed says that the request goes to the relay, which tells by Serve what it did with it.
	Relayed bool
	// Resource says of such a request that it asks for something that the relay keeps: nothing is bought for it, and it has no entry.
	Resource bool
	// Fill says that the relay asks, for a caller; Purpose what for, "" where it is the answer to the caller. Cache is what came of the cache.
	Fill           bool
	Purpose, Cache string
	// Waited is how long limits and pools without room made the request wait before it was let in.
	Waited time.Duration
	// Expires is when Envoy ends the request at the latest.
	Expires time.Time

	desk  *Desk
	begun time.Time

	mu        sync.Mutex
	closed    bool
	confirmed bool
	attempts  int
	prepared  []Attempt // the first of them
	// asked holds, for each candidate, the number of the last attempt that asked it; 0 where none did.
	asked     [maxCandidates]uint8
	reported  bool // report holds something
	complete  bool // report is final
	refused   bool // an attempt, by Weir itself
	cut       bool
	failed    bool
	report    canon.Usage
	textBytes int64         // that was delivered
	content   ContentSource // nil where no text is captured

	served   Served // by the relay
	settled  bool   // of a fill: own is its entry, nil where it has none, and endpoint what was asked last
	own      *ledger.Entry
	endpoint string
	waiting  []func(*ledger.Entry, string) // for own and endpoint
}

// maxCandidates that attempts are told apart for: as many as a rule may have.
const maxCandidates = 16

// Confirm notes that Envoy has the decision and goes on with the request. It says whether that is noted: false when the
// request has been given up or settled.
func (o *Open) Confirm() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.confirm()
}

// confirm enters the intent. It holds the lock meanwhile, so that the intent is noted before the entry.
func (o *Open) confirm() bool {
	if o.closed {
		return false
	}
	if !o.confirmed {
		o.confirmed = true
		if o.Relayed {
			return true // whether it has an entry of its own, its end tells
		}
		v := o.loss(0)
		o.desk.opts.Ledger.Begin(intent(&v.entry))
	}
	return true
}

// Attempt notes that an attempt was prepared for a backend, and confirms the request. It says whether that is noted.
func (o *Open) Attempt(backend, upstreamModel string) bool {
	n, ok := o.attempt(backend, upstreamModel)
	if ok && o.Hold != nil {
		o.Hold.Asked(n, backend)
	}
	return ok
}

// attempt gives the number of the attempt, from 1.
func (o *Open) attempt(backend, upstreamModel string) (n int, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return 0, false
	}
	o.attempts++
	if len(o.prepared) < maxFailedAttempts {
		o.prepared = append(o.prepared, Attempt{At: o.desk.opts.Now(), Backend: backend, UpstreamModel: upstreamModel})
	}
	for i := range o.Candidates {
		if c := &o.Candidates[i]; i < maxCandidates && c.Backend == backend && c.UpstreamModel == upstreamModel {
			o.asked[i] = uint8(min(o.attempts, 255))
			break
		}
	}
	return o.attempts, o.confirm()
}

// Report takes what a translated answer reported. A stream may report several times; complete marks the final report,
// after which none counts.
func (o *Open) Report(u canon.Usage, complete bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.complete {
		return
	}
	o.report, o.reported, o.complete = u, true, complete
}

// Delivered notes that so many bytes of what the model wrote went to the caller of a translated stream: text, reasoning
// and arguments of tools. They are counted by their length if the stream ends without a report.
func (o *Open) Delivered(textBytes int) {
	o.mu.Lock()
	o.textBytes += int64(max(0, textBytes))
	o.mu.Unlock()
}

// Cut notes that Weir ended the answer because a budget was spent.
func (o *Open) Cut() {
	o.mu.Lock()
	o.cut = true
	o.mu.Unlock()
}

// WasCut says whether Weir ended the answer because a budget was spent.
func (o *Open) WasCut() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.cut
}

// Refuse notes that Weir refused an attempt itself: it could not be prepared for its backend.
func (o *Open) Refuse() {
	o.mu.Lock()
	o.refused = true
	o.mu.Unlock()
}

// WasRefused says whether Weir refused an attempt itself.
func (o *Open) WasRefused() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.refused
}

// Fail notes that the backend's answer broke off or turned into an error under a status that promised otherwise.
func (o *Open) Fail() {
	o.mu.Lock()
	o.failed = true
	o.mu.Unlock()
}

// Abandon gives up a request whose decision did not reach Envoy: nothing is counted and nothing is entered. It
// says whether it did; a request that was confirmed goes on.
func (o *Open) Abandon() bool {
	if !o.abandon() {
		return false
	}
	o.desk.remove(o)
	o.release(o.desk)
	return true
}

// abandon closes it unless it was confirmed.
func (o *Open) abandon() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed || o.confirmed {
		return false
	}
	o.closed = true
	return true
}

// end closes it, and says whether it was open: then the caller settles it.
func (o *Open) end() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return false
	}
	o.closed = true
	return true
}

// release ends a request that never was one.
func (o *Open) release(d *Desk) {
	if o.Grant != nil {
		o.Grant.Cancel()
	}
	for _, out := range o.Outcomes {
		out.Drop()
	}
	if o.Hold != nil {
		o.Hold.Free()
	}
	o.forget()
	o.isSettled(nil, "")
	d.metrics.abandoned.Inc()
}

// UpstreamModel is what a backend that was asked calls the model; "" where that is not known.
func (o *Open) UpstreamModel(backend string) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if c := o.answering(backend, o.attempts); c != nil {
		return c.UpstreamModel
	}
	return ""
}

// answering is the candidate that a backend is: the one of the last attempt at it. With no backend named, it is the one
// of the last attempt at all, or the only one there is, or the likeliest for the n-th attempt. It returns nil where that is unknown.
func (o *Open) answering(backend string, n int) *Candidate {
	var found *Candidate
	last := -1
	for i := range o.Candidates {
		c := &o.Candidates[i]
		if backend != "" && c.Backend != backend {
			continue
		}
		at := 0
		if i < maxCandidates {
			at = int(o.asked[i])
		}
		if at == 0 && backend == "" && len(o.Candidates) > 1 {
			continue
		}
		if at > last {
			found, last = c, at
		}
	}
	if found == nil && backend == "" {
		return o.expected(n)
	}
	return found
}

// expected is the candidate that the n-th attempt, from 1, most likely asks; nil where nobody knows.
func (o *Open) expected(n int) *Candidate {
	place := int(o.Likely)
	switch {
	case !o.Unasked:
		return nil
	case len(o.Order) > 0:
		place = int(o.Order[min(max(n, 1), len(o.Order))-1])
	case n > 1:
		return nil
	}
	if place >= len(o.Candidates) {
		return nil
	}
	return &o.Candidates[place]
}

// free says whether backends take nothing for an operation: the counting of tokens generates none.
func free(operation string) bool { return operation == string(canon.OpCountTokens) }

// writes says whether an operation has output tokens.
func writes(operation string) bool {
	return operation != string(canon.OpEmbeddings) && !free(operation)
}
