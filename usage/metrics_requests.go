package usage

import (
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-dev/weir/extproc/wire"
	"github.com/weir-dev/weir/usage/ledger"
	"github.com/weir-dev/weir/usage/money"
)

// Names are what the configuration knows, as far as metrics need it.
type Names struct {
	// Providers are gen_ai.provider.name of the backends, by their IDs.
	Providers map[string]string
	// Models are the callers' names for models, and Tenants those of Consumers.
	Models, Tenants map[string]bool
}

// RequestMetricsOptions are what RequestMetrics need.
type RequestMetricsOptions struct {
	Registry prometheus.Registerer
	// MaxNames of models, and of tenants, that have series of their own; all others share one. Zero is 200.
	MaxNames int
}

// RequestMetrics export requests that are over: as the OpenTelemetry conventions for generative AI have it, what the gateway itself
// added to them, and what tenants used. How many series there are is bounded, whatever callers do.
//
// Names and buckets: OpenTelemetry semantic conventions 1.41, gen-ai-metrics, written as the OpenTelemetry specification wants it for
// Prometheus. In client metrics Weir is the client of a provider, in server metrics it is what callers see.
type RequestMetrics struct {
	tokens         *prometheus.HistogramVec
	clientDuration *prometheus.HistogramVec
	firstChunk     *prometheus.HistogramVec
	serverDuration *prometheus.HistogramVec
	firstToken     *prometheus.HistogramVec
	perToken       *prometheus.HistogramVec

	overhead *prometheus.HistogramVec
	failed   *prometheus.CounterVec

	tenantRequests *prometheus.CounterVec
	tenantTokens   *prometheus.CounterVec
	tenantCost     *prometheus.CounterVec

	models, tenants *labels
	providers       providersOf

	ofTenants  family[tenantLabels, tenantSeries]
	ofRequests family[requestLabels, requestSeries]
	ofOverhead family[overheadLabels, observer]
}

// tenantLabels are all that metrics of tenants have.
type tenantLabels struct{ tenant, outcome, currency string }

type tenantSeries struct{ requests, input, output, cost counter }

// requestLabels are those of gen_ai_server_request_duration_seconds, which has all that the others of generative AI have.
type requestLabels struct{ operation, provider, model, wrong string }

type requestSeries struct {
	serverDuration, clientDuration, input, output observer
	firstChunk, firstToken, perToken              observer
}

type overheadLabels struct{ stream, translated bool }

// The buckets of the conventions. Times are in seconds.
var (
	tokenBuckets      = []float64{1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864}
	firstTokenBuckets = []float64{.001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10}
	perTokenBuckets   = []float64{.01, .025, .05, .075, .1, .15, .2, .3, .4, .5, .75, 1, 2.5}
)

// NewRequestMetrics registers its metrics.
func NewRequestMetrics(o RequestMetricsOptions) *RequestMetrics {
	if o.MaxNames <= 0 {
		o.MaxNames = maxNames
	}
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		v := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
		o.Registry.MustRegister(v)
		return v
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
		o.Registry.MustRegister(v)
		return v
	}
	const operation, provider, model, errorType = "gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model", "error_type"
	overflow := counter("weir_metrics_label_overflow_total", "Requests that are counted under other, because there are too many names for a label.", "label")
	return &RequestMetrics{
		tokens: histogram("gen_ai_client_token_usage", "Tokens of a request by the provider's own account.",
			tokenBuckets, operation, provider, model, "gen_ai_token_type"),
		clientDuration: histogram("gen_ai_client_operation_duration_seconds", "Time from the first byte to a provider until the last byte of its answer, all attempts included.",
			durationBuckets, operation, provider, model, errorType),
		firstChunk: histogram("gen_ai_client_operation_time_to_first_chunk_seconds", "Time from the first byte to a provider until the first byte of a stream.",
			durationBuckets, operation, provider, model),
		serverDuration: histogram("gen_ai_server_request_duration_seconds", "Time from a caller's request until the last byte of the answer.",
			durationBuckets, operation, provider, model, errorType),
		firstToken: histogram("gen_ai_server_time_to_first_token_seconds", "Time from a caller's request until the first byte of a stream.",
			firstTokenBuckets, operation, provider, model),
		perToken: histogram("gen_ai_server_time_per_output_token_seconds", "Time for each output token of a stream after the first.",
			perTokenBuckets, operation, provider, model),
		overhead: histogram("weir_overhead_seconds", "Time that Envoy and Weir added to a request with one attempt.",
			prometheus.ExponentialBuckets(50e-6, 2, 16), "stream", "translated"),
		failed: counter("weir_attempts_failed_total", "Attempts at backends that failed, whether or not another was made.", "backend", "reason"),
		tenantRequests: counter("weir_tenant_requests_total", "Requests of a tenant that are over, by how they ended.",
			"tenant", "outcome"),
		tenantTokens: counter("weir_tenant_tokens_total", "Tokens of settled requests of a tenant.", "tenant", "direction"),
		tenantCost: counter("weir_tenant_cost_total", "Cost of settled requests of a tenant, in units of the currency. The ledger has it to the billionth.",
			"tenant", "currency"),
		models:  newLabels(o.MaxNames, 0, overflow.WithLabelValues("model")),
		tenants: newLabels(o.MaxNames, o.MaxNames/2, overflow.WithLabelValues("tenant")),
	}
}

// Use takes the names of the configuration that goes live. Series of models and tenants that it does not know any more go.
func (m *RequestMetrics) Use(n Names) {
	m.providers.Store(&n.Providers)
	for _, name := range m.models.use(n.Models) {
		of := prometheus.Labels{"gen_ai_request_model": name}
		for _, v := range []*prometheus.HistogramVec{m.tokens, m.clientDuration, m.firstChunk, m.serverDuration, m.firstToken, m.perToken} {
			v.DeletePartialMatch(of)
		}
	}
	for _, name := range m.tenants.use(n.Tenants) {
		of := prometheus.Labels{"tenant": name}
		for _, v := range []*prometheus.CounterVec{m.tenantRequests, m.tenantTokens, m.tenantCost} {
			v.DeletePartialMatch(of)
		}
	}
	m.ofRequests.forget()
	m.ofTenants.forget()
}

// Finished counts a request that is over. It is a FinishedSink.
func (m *RequestMetrics) Finished(f *Finished) {
	for i := range f.Failed {
		m.failed.WithLabelValues(f.Failed[i].Backend, FailureReason(&f.Failed[i])).Inc()
	}
	m.tenant(f)
	if f.Record == nil || f.Relayed() { // what backends did for it, its fill tells
		return
	}
	m.genAI(f)
	if added, ok := Overhead(f); ok {
		l := overheadLabels{f.Record.Stream, f.Entry != nil && f.Entry.Translated}
		m.ofOverhead.of(l).get(func() prometheus.Observer {
			return m.overhead.WithLabelValues(strconv.FormatBool(l.stream), strconv.FormatBool(l.translated))
		}).Observe(added.Seconds())
	}
}

// tenant counts for the tenant.
func (m *RequestMetrics) tenant(f *Finished) {
	name := ""
	switch {
	case f.Record != nil && f.Record.Tenant != "":
		name = f.Record.Tenant
	case f.Open != nil:
		name = f.Open.Tenant
	}
	if name == "" {
		return // nobody knows who called
	}
	l := tenantLabels{tenant: m.tenants.of(name), outcome: result(f)}
	e := f.Entry
	if e != nil {
		l.currency = e.Currency
	}
	of := m.ofTenants.of(l)
	if !f.IsFill() {
		of.requests.get(func() prometheus.Counter { return m.tenantRequests.WithLabelValues(l.tenant, l.outcome) }).Inc()
	}
	if e == nil || f.Relayed() { // the tokens are the fill's, if there are any
		return
	}
	if n := e.Tokens.InputTotal(); n > 0 {
		of.input.get(func() prometheus.Counter { return m.tenantTokens.WithLabelValues(l.tenant, "input") }).Add(float64(n))
	}
	if n := e.Tokens.OutputTotal(); n > 0 {
		of.output.get(func() prometheus.Counter { return m.tenantTokens.WithLabelValues(l.tenant, "output") }).Add(float64(n))
	}
	if e.Cost > 0 {
		of.cost.get(func() prometheus.Counter { return m.tenantCost.WithLabelValues(l.tenant, l.currency) }).Add(float64(e.Cost) / float64(money.Unit))
	}
}

// result is how a request ended for its caller.
func result(f *Finished) string {
	switch r := f.Record; {
	case r == nil:
		return "lost"
	case r.Aborted || r.Status == 0:
		return "aborted"
	case r.Immediate && r.Status >= 400:
		return "refused"
	case r.Status >= 500 || f.Entry != nil && f.Entry.Aborted:
		return "failed"
	case r.Status >= 400:
		return "rejected"
	}
	return "ok"
}

// genAI counts a request that a backend was asked for.
func (m *RequestMetrics) genAI(f *Finished) {
	r, e := f.Record, f.Entry
	if r.Attempts == 0 || r.Immediate || e == nil || e.Operation == "" {
		return
	}
	l := requestLabels{operation: OperationName(e.Operation), model: m.models.of(e.Model), provider: m.providers.of(e), wrong: errorType(r, e)}
	of := m.ofRequests.of(l)
	observe := func(o *observer, v *prometheus.HistogramVec, value float64) {
		o.get(func() prometheus.Observer { return v.WithLabelValues(l.operation, l.provider, l.model) }).Observe(value)
	}
	ended := func(o *observer, v *prometheus.HistogramVec, d time.Duration) {
		o.get(func() prometheus.Observer { return v.WithLabelValues(l.operation, l.provider, l.model, l.wrong) }).Observe(d.Seconds())
	}
	used := func(o *observer, kind string, tokens int64) {
		if tokens > 0 {
			o.get(func() prometheus.Observer { return m.tokens.WithLabelValues(l.operation, l.provider, l.model, kind) }).Observe(float64(tokens))
		}
	}
	ended(&of.serverDuration, m.serverDuration, r.Duration)
	if d := asked(f); d > 0 {
		ended(&of.clientDuration, m.clientDuration, d)
	}
	if !e.Estimated {
		used(&of.input, "input", e.Tokens.InputTotal())
		used(&of.output, "output", e.Tokens.OutputTotal())
	}
	if l.wrong != "" || !r.Stream || r.FirstToken <= 0 || r.Timing.BackendSent <= 0 {
		return
	}
	observe(&of.firstChunk, m.firstChunk, r.FirstToken.Seconds())
	ttft := r.Timing.BackendSent + r.FirstToken
	observe(&of.firstToken, m.firstToken, ttft.Seconds())
	if n := e.Tokens.OutputTotal(); !e.Estimated && n > 1 && r.Duration > ttft {
		observe(&of.perToken, m.perToken, (r.Duration-ttft).Seconds()/float64(n-1))
	}
}

// asked is how long backends were at work on a request: from the first attempt that is known of until the last byte of the answer.
func asked(f *Finished) time.Duration {
	t := &f.Record.Timing
	if t.BackendSent == 0 {
		return 0 // no connection came about
	}
	begun, last := t.BackendSent, t.BackendLast
	if len(f.Failed) > 0 && f.Record.Attempts > 1 {
		begun = min(begun, max(0, f.Failed[0].Start.Sub(f.Record.Start)))
	}
	if last == 0 {
		last = f.Record.Duration // there was no answer, or the caller did not wait for its end
	}
	return last - begun
}

// Overhead is what Envoy and Weir added to a request: from the last byte of the request until the first one went to the backend, and from
// the last byte of the backend's answer until it went to the caller. Where the request was still coming when the first byte of it went
// on, nothing was added to it. ok is false for requests that tell nothing: those with another number of attempts than one, without an
// answer of a backend, or that ended early.
//
// What a limit or a pool without room made a request wait is part of it, and a new connection to the backend is.
func Overhead(f *Finished) (added time.Duration, ok bool) {
	r := f.Record
	if r == nil || r.Attempts != 1 || r.Immediate || r.Aborted || r.Details != wire.ViaUpstream || f.Entry != nil && f.Entry.Cut {
		return 0, false
	}
	t := &r.Timing
	if t.BackendSent == 0 || t.BackendLast == 0 || r.Duration == 0 {
		return 0, false
	}
	return max(0, t.BackendSent-t.Received) + max(0, r.Duration-t.BackendLast), true
}

// OperationName is gen_ai.operation.name. Those that the conventions do not have keep Weir's name.
func OperationName(operation string) string {
	switch operation {
	case "responses":
		return "chat"
	case "completions":
		return "text_completion"
	}
	return operation
}

// errorType is error.type; "" where all went well. It is one of a fixed set, whatever statuses backends make up.
func errorType(r *Record, e *ledger.Entry) string {
	switch s := r.Status; {
	case r.Aborted || s == 0:
		return "canceled"
	case s >= 400:
		return statusName(s)
	case e.Aborted:
		return "incomplete"
	}
	return ""
}

// statusName is an error status that has a meaning here, or what the conventions call all others.
func statusName(status int) string {
	switch status {
	case 400, 401, 402, 403, 404, 408, 409, 413, 415, 422, 429, 500, 501, 502, 503, 504, 529:
		return strconv.Itoa(status)
	}
	return "_OTHER"
}

// FailureReason is why an attempt failed: its status, or what Envoy's flags say.
func FailureReason(f *Failed) string {
	if f.Status >= 400 {
		return statusName(f.Status)
	}
	for flag := range strings.SplitSeq(f.Flags, ",") {
		switch flag {
		case "UF", "DF":
			return "connect"
		case "UT", "DT", "UMSDR":
			return "timeout"
		case "UR", "UC", "UPE":
			return "reset"
		case "UO":
			return "overflow"
		case "UH":
			return "no_endpoint"
		case "DC", "DR":
			return "canceled"
		}
	}
	return "_OTHER"
}
