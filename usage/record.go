// Package usage receives one access-log record for each request from Envoy and hands it to whoever counts:
// metrics now, and whatever else settles with the end of a request.
package usage

import (
	"time"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/internal/trace"
)

// Record is one finished request. It holds no credential and no text of a prompt or an answer.
type Record struct {
	RequestID  string
	Start      time.Time
	Duration   time.Duration // until the last byte went to the caller
	FirstByte  time.Duration // until the first byte of the answer went to the caller; 0 where none did
	Status     int           // 0 where the caller went away before there was one
	Details    string        // Envoy's response code details
	Aborted    bool          // the caller went away before the end
	Immediate  bool          // Weir answered itself
	Stream     bool          // the caller asked for a stream
	Dialect    string        // the caller's
	Operation  string
	Model      string // the caller's name for it
	Route      string
	Backend    string // that gave the answer; "" where none did
	Consumer   string
	Tenant     string
	Credential string // which one; never its value
	Version    string // of the configuration that decided
	Exchange   string // what ext_proc kept for the request; "" where Envoy did not take the decision, because the caller had gone
	PeekID     string // of the request, unique, set before the decision and whatever came of it; "" where it had no body
	BytesIn    uint64 // of the request body
	BytesOut   uint64 // of the answer's body
	Attempts   int    // requests to backends, the last included; 0 where there was none
	Endpoint   string // of the last attempt, "ip:port"; "" where there was none
	// FirstToken is the time from the first byte that the last attempt sent to its backend until the first byte of the answer's body; 0 where
	// it is not measured, where the caller asked for no stream (such an answer begins when all of it is written), and where the answer is an
	// error: it has no token.
	FirstToken time.Duration
	// Timing is when parts of it passed.
	Timing Timing
	// Trace is the request's place in a trace. Where Envoy has no decision of Weir's, it is made with the record: in the caller's trace, or in
	// one that begins here.
	Trace trace.Place
	// Flags are Envoy's response flags, as it writes them: "UF,URX".
	Flags string
	// Caller is the address and port of the caller's connection.
	Caller string
	// Method and Path are those of the request, the path without its query and what may be a credential: redact.Path. Where a backend was
	// asked, Envoy says the path that it was asked by; the Desk puts the caller's in its place.
	Method, Path string
	// Endpoints are those that Weir has named for attempts, in order: "ip:port,ip:port"; "" where Envoy picks.
	Endpoints string
	// Refusal is why Weir answered itself with an error, in words; "" where it did not. It holds nothing of a body.
	Refusal string
	// Policy is the name of the limit, budget or circuit breaker that refused; "" where none did.
	Policy string
	// FailedOpen says that nobody decided: Weir did not answer, and Envoy let the request through.
	FailedOpen bool
	// Native says that Envoy let the request through without asking, because Weir had decided in advance.
	Native bool
	// Relayed says that the relay answered. The Desk then says in Cache what came of the cache, and in FilledBy which backend the answer
	// came from, both "" where that is not known.
	Relayed         bool
	Cache, FilledBy string
	// Fill is what the relay asked for: wire.FillAnswer, or a purpose of its own; "" for requests of callers.
	Fill string
	// Scheme of the request, "http" or "https".
	Scheme string
	// UserAgent is what the caller calls its software.
	UserAgent string
	// Signals are what the answer's headers say about load, by their names; nil where they are not read.
	Signals map[string]string

	// Reported is the usage that Envoy read in the backend's answer, which must have reached its end; nil where there
	// was none to read. The counts are the backend's word.
	Reported *canon.Usage
	// ReportedComplete says that nothing of it was lost: not so where the backend broke the answer off with an error, or
	// a count was no number.
	ReportedComplete bool
}

// Timing holds times since the start of the request; 0 for what did not come to pass. Those of the backend are of the last attempt.
type Timing struct {
	Received        time.Duration // the last byte of the request came
	BackendSent     time.Duration // its first byte went to the backend
	BackendSentLast time.Duration // its last byte went to the backend
	BackendFirst    time.Duration // the first byte of the answer came
	BackendLast     time.Duration // the last byte of the answer came
}

// Failed is an attempt that failed before another was made, or that was the last. It holds what Envoy knows of it by itself.
type Failed struct {
	Span      string // trace.Place.Span of its request
	N         int    // 1 is the request's first attempt
	RequestID string
	Backend   string
	Endpoint  string // "ip:port"; "" where no connection came about
	Start     time.Time
	Duration  time.Duration
	Status    int    // 0 where there was no answer
	Flags     string // Envoy's response flags, "UF"
	Reason    string // why there was no connection; "" where there was one
}
