package usage

import (
	"strings"

	"github.com/weir-dev/weir/extproc/wire"
	"github.com/weir-dev/weir/usage/ledger"
	"github.com/weir-dev/weir/usage/money"
)

// verdict is how a request ended and what that means.
type verdict struct {
	entry     ledger.Entry
	begun     bool // the ledger knows of it
	asked     bool // some backend has been asked
	end       end
	exemplary bool   // reported, whole and undisturbed: others can be estimated by it
	endpoint  string // of the last attempt; "" where nobody knows
}

// end is what circuit breakers are told.
type end uint8

const (
	endNeutral end = iota
	endGood
	endBad
)

// textPerToken is how many bytes of text an output token has, about.
const textPerToken = 4

// judge decides by the record:
//
//	2xx, 3xx of a backend         what was reported; by estimate what was delivered, if no whole report came. Nothing if the
//	                              backend broke it off before it wrote or reported anything: that is a failed answer, too
//	no status, a backend asked    the input, by estimate: the caller went away while the backend was at work
//	everything else               nothing: failed answers are free, and so are Weir's own. Where the backend's answer had
//	                              begun well, the entry says that it ended early
func (o *Open) judge(r *Record, est *Estimator) verdict {
	o.mu.Lock()
	defer o.mu.Unlock()
	attempts := max(r.Attempts, o.attempts)
	v := verdict{begun: o.confirmed, asked: r.Backend != "" || attempts > 0}
	var c *Candidate
	if v.asked {
		c = o.answering(r.Backend, attempts)
	}
	v.entry = o.entry(c)
	e := &v.entry
	text := o.TextBytes
	if o.Native {
		e.RequestID, e.Time, text = r.RequestID, r.Start, int64(r.BytesIn)
	}
	if r.Backend != "" {
		e.Backend = r.Backend
	}
	e.Status, e.Attempts, e.TTFT, e.Duration = r.Status, attempts, r.FirstByte, r.Duration
	v.endpoint = r.Endpoint

	answered := r.Status >= 200 && r.Status < 400 && r.Backend != "" && !r.Immediate
	unanswered := r.Status == 0 && v.asked && !r.Immediate
	// Envoy names another reason for the end of an answer that it did not get whole. Where it held the answer for Weir to
	// translate, the caller has had nothing of it, and gets an error; the backend may bill it nevertheless.
	broken := o.failed || !r.Aborted && (answered && r.Details != "" && r.Details != wire.ViaUpstream || lost(r.Details))
	e.Aborted = r.Aborted || broken
	switch {
	case r.Immediate || r.Aborted:
	case r.Status >= 500 || broken && !o.cut:
		v.end = endBad
	case answered:
		v.end = endGood
	}

	if !answered && !unanswered || free(o.Operation) || broken && !o.wrote(r) {
		return v
	}
	report, known, complete := o.report, o.reported, o.complete
	if !complete && r.Reported != nil && (r.ReportedComplete || !known) {
		report, complete = *r.Reported, r.ReportedComplete
	}
	e.Tokens = TokensOf(&report)
	if !complete {
		e.Estimated = true
		k := Kind{Backend: e.Backend, Model: e.UpstreamModel, Dialect: o.Dialect, Operation: o.Operation, Stream: o.Stream}
		input := o.EstimatedInput
		if text > 0 {
			input = est.Input(k, text) + o.MediaTokens // more is known of the backend than of all that could serve it
		}
		o.fill(&e.Tokens, input, est.Output(k, int64(r.BytesOut)))
	}
	o.charge(e, c)
	v.exemplary = answered && !e.Estimated && !e.Aborted && !o.cut
	return v
}

// wrote says whether an answer held something that the model wrote, or a report of what it used, as far as that is known.
// The caller holds the lock.
func (o *Open) wrote(r *Record) bool {
	switch {
	case o.textBytes > 0 || o.cut || TokensOf(&o.report) != Tokens{} || TokensOf(r.Reported) != Tokens{}:
		return true
	case o.failed: // it was translated, and its bytes are those of the error
		return false
	}
	return r.BytesOut > 0
}

// lost says whether the reason of an error is that an answer was lost after the backend had begun it.
func lost(details string) bool {
	return strings.HasPrefix(details, "upstream_reset_after_response_started") || details == "response_payload_too_large"
}

// interrupted decides where no record comes, and so many attempts are known to have failed.
func (o *Open) interrupted(failed int) verdict {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.loss(failed)
}

// loss is what a request is charged of which nothing more will be known: the input, by estimate, if a backend was asked,
// and what has been reported or delivered. The caller holds the lock.
func (o *Open) loss(failed int) verdict {
	c := o.answering("", failed+1)
	v := verdict{entry: o.entry(c), begun: o.confirmed, asked: c != nil}
	e := &v.entry
	e.Interrupted, e.Attempts = true, max(o.attempts, failed)
	e.Estimated = !o.complete
	if !v.asked || free(o.Operation) || o.failed && !o.wrote(&Record{}) {
		return v
	}
	e.Tokens = TokensOf(&o.report)
	if !o.complete {
		o.fill(&e.Tokens, o.EstimatedInput, 0)
	}
	o.charge(e, c)
	return v
}

// entry is what is known of the request, and of the backend that it went to.
func (o *Open) entry(c *Candidate) ledger.Entry {
	e := ledger.Entry{
		ID: o.ID, Time: o.Time, RequestID: o.RequestID, Tenant: o.Tenant, Namespace: o.Namespace, Consumer: o.Consumer,
		Credential: o.Credential, Gateway: o.Gateway, Route: o.Route, Model: o.Model, Operation: o.Operation, Dialect: o.Dialect, Stream: o.Stream,
		Currency: o.Currency,
	}
	e.Cut, e.Cache, e.Purpose = o.cut, o.Cache, o.Purpose
	if c != nil {
		e.Backend, e.UpstreamModel, e.Translated = c.Backend, c.UpstreamModel, c.Translated
	}
	return e
}

// intent is what the ledger makes such an entry of.
func intent(e *ledger.Entry) ledger.Intent {
	return ledger.Intent{
		ID: e.ID, Time: e.Time, RequestID: e.RequestID, Tenant: e.Tenant, Namespace: e.Namespace, Consumer: e.Consumer,
		Credential: e.Credential, Gateway: e.Gateway, Route: e.Route, Backend: e.Backend, Model: e.Model, UpstreamModel: e.UpstreamModel,
		Operation: e.Operation, Dialect: e.Dialect, Stream: e.Stream, Tokens: e.Tokens, Cost: e.Cost, Currency: e.Currency,
		PriceVersion: e.PriceVersion, Unpriced: e.Unpriced, Cache: e.Cache, Purpose: e.Purpose,
	}
}

// fill puts estimates where a report that is not whole says less. Text that is known to have been delivered tells more of
// the output than the bytes of the answer do.
func (o *Open) fill(t *Tokens, input, output int64) {
	if t.InputTotal() == 0 {
		t.Input = within(input, maxTokens)
	}
	if !writes(o.Operation) {
		return
	}
	if o.textBytes > 0 {
		output = (o.textBytes + textPerToken - 1) / textPerToken
	}
	t.Output = max(t.Output, within(output, maxTokens)-t.Reasoning)
}

// charge works out what the tokens cost.
func (o *Open) charge(e *ledger.Entry, c *Candidate) {
	var p *money.Price
	if c != nil {
		p = c.Prices.At(o.Time)
	}
	if p == nil {
		e.Unpriced = true
		return
	}
	cost, exact := p.Cost(money.Tokens(e.Tokens))
	e.Cost, e.PriceVersion = int64(cost), p.Version
	if !exact {
		e.Estimated = true // the cost is more than can be written
	}
}
