package usage

import (
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
	exemplary bool // reported, whole and undisturbed: others can be estimated by it
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
//	2xx, 3xx of a backend         what was reported; by estimate what was delivered, if no whole report came
//	no status, a backend asked    the input, by estimate: the caller went away while the backend was at work
//	everything else               nothing: failed answers are free, and so are Weir's own
func (o *Open) judge(r *Record, est *Estimator) verdict {
	o.mu.Lock()
	defer o.mu.Unlock()
	attempts := max(r.Attempts, o.attempts)
	v := verdict{begun: o.confirmed, asked: r.Backend != "" || attempts > 0}
	var c *Candidate
	if v.asked {
		c = o.answering(r.Backend)
	}
	v.entry = o.entry(c)
	e := &v.entry
	if r.Backend != "" {
		e.Backend = r.Backend
	}
	e.Status, e.Attempts, e.TTFT, e.Duration = r.Status, attempts, r.FirstByte, r.Duration

	answered := r.Status >= 200 && r.Status < 400 && r.Backend != "" && !r.Immediate
	unanswered := r.Status == 0 && v.asked && !r.Immediate
	// Envoy names another reason for the end of an answer that it did not get whole.
	broken := o.failed || answered && !r.Aborted && r.Details != "" && r.Details != wire.ViaUpstream
	e.Aborted = r.Aborted || answered && broken
	switch {
	case r.Immediate || r.Aborted:
	case r.Status >= 500 || broken && !o.cut:
		v.end = endBad
	case answered:
		v.end = endGood
	}

	if !answered && !unanswered || free(o.Operation) {
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
		input := est.Input(k, int64(r.BytesIn))
		if input == 0 {
			input = o.EstimatedInput
		}
		o.fill(&e.Tokens, input, est.Output(k, int64(r.BytesOut)))
	}
	o.charge(e, c)
	v.exemplary = answered && !e.Estimated && !e.Aborted && !o.cut
	return v
}

// interrupted decides where no record comes.
func (o *Open) interrupted() verdict {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.loss()
}

// loss is what a request is charged of which nothing more will be known: the input, by estimate, if a backend was asked,
// and what has been reported or delivered. The caller holds the lock.
func (o *Open) loss() verdict {
	c := o.answering("")
	v := verdict{entry: o.entry(c), begun: o.confirmed, asked: c != nil}
	e := &v.entry
	e.Interrupted, e.Attempts = true, o.attempts
	e.Estimated = !o.complete
	if !v.asked || free(o.Operation) {
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
		Credential: o.Credential, Route: o.Route, Model: o.Model, Operation: o.Operation, Dialect: o.Dialect, Stream: o.Stream,
		Currency: o.Currency,
	}
	e.Cut = o.cut
	if c != nil {
		e.Backend, e.UpstreamModel, e.Translated = c.Backend, c.UpstreamModel, c.Translated
	}
	return e
}

// intent is what the ledger makes such an entry of.
func intent(e *ledger.Entry) ledger.Intent {
	return ledger.Intent{
		ID: e.ID, Time: e.Time, RequestID: e.RequestID, Tenant: e.Tenant, Namespace: e.Namespace, Consumer: e.Consumer,
		Credential: e.Credential, Route: e.Route, Backend: e.Backend, Model: e.Model, UpstreamModel: e.UpstreamModel,
		Operation: e.Operation, Dialect: e.Dialect, Stream: e.Stream, Tokens: e.Tokens, Cost: e.Cost, Currency: e.Currency,
		PriceVersion: e.PriceVersion, Unpriced: e.Unpriced,
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
