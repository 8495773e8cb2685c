package state

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weir-dev/weir/extproc/limit"
	"github.com/weir-dev/weir/usage"
	"github.com/weir-dev/weir/usage/ledger"
)

// How requests end.
const (
	OK          = "ok"
	Refused     = "refused"     // by Weir, or by Envoy before a backend was asked
	Failed      = "failed"      // a backend did not answer well
	Aborted     = "aborted"     // the caller went away
	Interrupted = "interrupted" // Envoy or Weir ended first
)

// Request is one that is over. It must not be changed.
type Request struct {
	// Seq numbers requests in the order in which they ended, from 1.
	Seq uint64
	// ID is that of the exchange where there was one, else the caller's request ID, else "#" and Seq.
	ID       string
	Began    time.Time
	Finished time.Time
	Outcome  string
	// Reason is why Outcome is not OK, in words; "" where nothing is to be said.
	Reason string
	// Record is Envoy's, without what only load is judged by and what software called, and with a short request ID; Recorded is false where
	// there is none.
	Record   usage.Record
	Recorded bool
	// Entry is what the ledger has; Entered is false where it has nothing.
	Entry   ledger.Entry
	Entered bool
	// What follows is known of requests that were let in.
	Candidates []usage.Candidate
	Decided    time.Time
	Prepared   []usage.Attempt
	Limits     limit.Headers
	// Tries are the attempts that are known to have failed.
	Tries []usage.Failed
}

// headed is a usage.Grant that tells how limits stood.
type headed interface{ Headers() limit.Headers }

// LimitsOf is how the limits of a request stood when it was let in.
func LimitsOf(o *usage.Open) limit.Headers {
	if h, ok := o.Grant.(headed); ok {
		return h.Headers()
	}
	return limit.Headers{}
}

// maxCallersText bytes of a request ID are kept: it may be as long as all headers together, whoever sends it.
const maxCallersText = 256

// own is a text of a caller as it is kept.
func own(s string) string {
	if len(s) <= maxCallersText {
		return s
	}
	return strings.ToValidUTF8(strings.Clone(s[:maxCallersText]), "")
}

// newRequest copies what is kept.
func newRequest(f *usage.Finished) *Request {
	r := &Request{Finished: f.At, Tries: tries(f.Failed)}
	if f.Record != nil {
		r.Record, r.Recorded = *f.Record, true
		r.Record.Signals, r.Record.Reported = nil, nil
		r.ID, r.Began = r.Record.RequestID, r.Record.Start
	}
	if o := f.Open; o != nil {
		r.ID = o.ID
		if !r.Recorded {
			r.Began = o.Time
		}
		r.Candidates, r.Prepared, r.Limits = o.Candidates, o.Attempts(), LimitsOf(o)
		if !o.Native { // else it was decided before it came
			r.Decided = o.Begun()
		}
		if !r.Recorded {
			r.Record = usage.Record{
				RequestID: o.RequestID, Start: o.Time, Stream: o.Stream, Dialect: o.Dialect, Operation: o.Operation, Model: o.Model, Route: o.Route,
				Consumer: o.Consumer, Tenant: o.Tenant, Credential: o.Credential, Exchange: o.ID, Trace: o.Trace,
			}
		}
	}
	if f.Entry != nil {
		r.Entry, r.Entered = *f.Entry, true
	}
	r.ID, r.Record.RequestID, r.Entry.RequestID, r.Record.UserAgent = own(r.ID), own(r.Record.RequestID), "", ""
	for i := range r.Tries {
		r.Tries[i].RequestID = ""
	}
	r.judge()
	return r
}

// tries are the attempts of a list, each once: the last may be told of twice, by Envoy and by the end of the request.
func tries(list []usage.Failed) []usage.Failed {
	out := slices.Clone(list)
	for i := 1; i < len(out); {
		if n := out[i].N; n > 0 && slices.ContainsFunc(out[:i], func(f usage.Failed) bool { return f.N == n }) {
			out = slices.Delete(out, i, i+1)
		} else {
			i++
		}
	}
	return out
}

// judge finds out how it ended, and why.
func (r *Request) judge() {
	c := &r.Record
	switch {
	case !r.Recorded:
		r.Outcome, r.Reason = Interrupted, "Envoy ended before the answer did"
	case c.Immediate && c.Status >= 400:
		if r.Outcome, r.Reason = Refused, c.Refusal; r.Reason == "" {
			r.Reason = c.Details
		}
	case c.Aborted || c.Status == 0:
		r.Outcome, r.Reason = Aborted, "the caller went away"
	case c.Status >= 400 && c.Backend == "" && c.Attempts == 0 && c.Status < 500:
		r.Outcome, r.Reason = Refused, "Envoy answered "+strconv.Itoa(c.Status)+by(c.Details)
	case c.Status >= 400 && c.Backend != "":
		if r.Outcome, r.Reason = Failed, c.Backend+" answered "+strconv.Itoa(c.Status); unanswered(c.Flags) != "" {
			r.Reason = c.Backend + " did not answer: " + unanswered(c.Flags)
		}
	case c.Status >= 400:
		r.Outcome, r.Reason = Failed, "no backend answered"+by(c.Details)
	case r.Entry.Aborted:
		r.Outcome, r.Reason = Failed, "the answer of "+c.Backend+" broke off"+by(c.Details)
	default:
		r.Outcome = OK
		if r.Entry.Cut {
			r.Reason = "the answer was ended because a budget was spent"
		}
	}
}

// by puts Envoy's word for something in brackets. It writes spaces as "_".
func by(details string) string {
	if details == "" {
		return ""
	}
	return " (" + strings.ReplaceAll(details, "_", " ") + ")"
}

// TTFT is the time from the beginning of a stream until the first byte of the answer's body came; 0 where it is not known.
func (r *Request) TTFT() time.Duration {
	if r.Record.FirstToken == 0 {
		return 0
	}
	return r.Record.Timing.BackendSent + r.Record.FirstToken
}

// Backend that answered, or was asked last; "" where none was.
func (r *Request) Backend() string {
	if r.Record.Backend != "" {
		return r.Record.Backend
	}
	return r.Entry.Backend
}

// end is how one attempt ended.
type end struct {
	backend, endpoint string
	kind              string // "" where it was no failure
	last              bool
}

// maxEnds that a request has, as a rule.
const maxEnds = 8

// ends appends how each attempt ended, those that are known to have failed first.
func (r *Request) ends(to []end) []end {
	c, told := &r.Record, false
	for i := range r.Tries {
		f := &r.Tries[i]
		last := f.N >= c.Attempts && f.N > 0 && r.Recorded
		told = told || last
		if f.Backend != "" {
			to = append(to, end{f.Backend, f.Endpoint, FailureOf(f.Status, f.Flags), last})
		}
	}
	if told || !r.Recorded {
		return to
	}
	e := end{backend: r.Backend(), endpoint: c.Endpoint, last: true}
	switch {
	case e.backend == "" || c.Immediate && c.Backend == "" || c.Backend == "" && c.Attempts == 0:
		return to
	case c.Aborted && c.Status == 0:
		return to // it says nothing of the backend
	case c.Status >= 400:
		e.kind = FailureOf(c.Status, c.Flags)
	case r.Outcome == Failed:
		e.kind = failureBroken
	}
	return append(to, e)
}

// The failures of backends, as people call them.
const (
	failureConnect = "no connection"
	failureTimeout = "time-out"
	failureLost    = "connection lost"
	failureFull    = "too many connections or requests"
	failureHealth  = "no healthy endpoint"
	failureName    = "name not found"
	failureBroken  = "the answer broke off"
	failureLimited = "rate limit (429)"
)

// unanswered names why no answer came, by Envoy's response flags; it is "" where one came.
func unanswered(flags string) string {
	for flag := range strings.SplitSeq(flags, ",") {
		switch flag {
		case "UF":
			return failureConnect
		case "UT", "UMSDR", "SI":
			return failureTimeout
		case "UR", "UC", "UPE":
			return failureLost
		case "UO":
			return failureFull
		case "UH":
			return failureHealth
		case "DF":
			return failureName
		}
	}
	return ""
}

// FailureOf names the failure of an attempt, by its status and Envoy's response flags. It is "" for what is not the backend's: the
// caller's mistakes, and success.
func FailureOf(status int, flags string) string {
	if why := unanswered(flags); why != "" {
		return why
	}
	switch {
	case status == 429:
		return failureLimited
	case status == 401 || status == 402 || status == 403:
		return "credential refused (" + strconv.Itoa(status) + ")"
	case status >= 500:
		return "status " + strconv.Itoa(status)
	}
	return ""
}
