package usage

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/weir-dev/weir/extproc/wire"
	"github.com/weir-dev/weir/usage/ledger"
)

const ms = time.Millisecond

// answered is a stream that one backend has answered at its first attempt.
func answered(change ...func(*Finished)) *Finished {
	f := &Finished{
		Record: &Record{
			Start: time.Unix(1000, 0), Duration: 1012 * ms, FirstByte: 110 * ms, Status: 200, Details: wire.ViaUpstream, Stream: true, Attempts: 1,
			Tenant: "acme", Backend: "default/up", FirstToken: 100 * ms,
			Timing: Timing{Received: 2 * ms, BackendSent: 7 * ms, BackendSentLast: 8 * ms, BackendFirst: 100 * ms, BackendLast: 1011 * ms},
		},
		Open: &Open{Tenant: "acme"},
		Entry: &ledger.Entry{
			Tenant: "acme", Model: "gpt", Operation: "chat", Dialect: "openai", Backend: "default/up", Stream: true, Currency: "USD", Cost: 2_500_000_000,
			Tokens: ledger.Tokens{Input: 10, CacheRead: 5, Output: 9, Reasoning: 1},
		},
	}
	for _, c := range change {
		c(f)
	}
	return f
}

func requestMetrics(t testing.TB, max int) (*prometheus.Registry, *RequestMetrics) {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	m := NewRequestMetrics(RequestMetricsOptions{Registry: reg, MaxNames: max})
	m.Use(Names{Providers: map[string]string{"default/up": "azure.ai.openai"}, Models: map[string]bool{"gpt": true}, Tenants: map[string]bool{"acme": true}})
	return reg, m
}

// sums are the counts and sums of histograms, and the values of the rest, by "name{labels}".
func sums(t testing.TB, reg *prometheus.Registry) map[string]string {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var l []string
			for _, p := range m.GetLabel() {
				if p.GetValue() != "" {
					l = append(l, strings.TrimPrefix(p.GetName(), "gen_ai_")+"="+p.GetValue())
				}
			}
			v := fmt.Sprintf("%.6g", m.GetCounter().GetValue())
			if h := m.GetHistogram(); h != nil {
				v = fmt.Sprintf("%d: %.6g", h.GetSampleCount(), h.GetSampleSum())
			}
			out[f.GetName()+"{"+strings.Join(l, ",")+"}"] = v
		}
	}
	return out
}

// TestRequestMetrics: what is exported of one request, and what is not.
func TestRequestMetrics(t *testing.T) {
	const of = "operation_name=chat,provider_name=azure.ai.openai,request_model=gpt"
	all := map[string]string{
		"gen_ai_client_token_usage{" + of + ",token_type=input}":               "1: 15",
		"gen_ai_client_token_usage{" + of + ",token_type=output}":              "1: 10",
		"gen_ai_client_operation_duration_seconds{" + of + "}":                 "1: 1.004",
		"gen_ai_client_operation_time_to_first_chunk_seconds{" + of + "}":      "1: 0.1",
		"gen_ai_server_request_duration_seconds{" + of + "}":                   "1: 1.012",
		"gen_ai_server_time_to_first_token_seconds{" + of + "}":                "1: 0.107",
		"gen_ai_server_time_per_output_token_seconds{" + of + "}":              "1: 0.100556",
		"weir_overhead_seconds{stream=true,translated=false}":                  "1: 0.006",
		"weir_tenant_requests_total{outcome=ok,tenant=acme}":                   "1",
		"weir_tenant_tokens_total{direction=input,tenant=acme}":                "15",
		"weir_tenant_tokens_total{direction=output,tenant=acme}":               "10",
		"weir_tenant_cost_total{currency=USD,tenant=acme}":                     "2.5",
		"weir_metrics_label_overflow_total{label=model}":                       "0",
		"weir_metrics_label_overflow_total{label=tenant}":                      "0",
		"weir_attempts_failed_total{backend=default/down,reason=503}":          "1",
		"weir_attempts_failed_total{backend=default/down,reason=connect}":      "1",
		"gen_ai_server_request_duration_seconds{error_type=529," + of + "}":    "1: 1.012",
		"gen_ai_server_request_duration_seconds{error_type=_OTHER," + of + "}": "1: 1.012",
	}
	const server, client = "gen_ai_server_request_duration_seconds", "gen_ai_client_operation_duration_seconds"
	for _, c := range []struct {
		name   string
		change func(*Finished)
		want   map[string]string // beside all; "" is none
	}{
		{"a stream", func(*Finished) {}, map[string]string{}},
		{"no stream", func(f *Finished) { f.Record.Stream = false }, map[string]string{
			"gen_ai_client_operation_time_to_first_chunk_seconds": "", "gen_ai_server_time_to_first_token_seconds": "",
			"gen_ai_server_time_per_output_token_seconds": "", "weir_overhead_seconds{stream=false,translated=false}": "1: 0.006",
		}},
		{"estimated", func(f *Finished) { f.Entry.Estimated = true }, map[string]string{
			"gen_ai_client_token_usage": "", "gen_ai_server_time_per_output_token_seconds": "",
			"weir_tenant_tokens_total{direction=input,tenant=acme}": "15",
		}},
		{"one token", func(f *Finished) { f.Entry.Tokens = ledger.Tokens{Output: 1} }, map[string]string{"gen_ai_server_time_per_output_token_seconds": ""}},
		{"translated", func(f *Finished) { f.Entry.Translated = true }, map[string]string{"weir_overhead_seconds{stream=true,translated=true}": "1: 0.006"}},
		{"an upload that overlaps", func(f *Finished) { f.Record.Timing.Received = 500 * ms }, map[string]string{
			"weir_overhead_seconds{stream=true,translated=false}": "1: 0.001",
		}},
		{"another model", func(f *Finished) { f.Entry.Model = "made up" }, map[string]string{
			server + "{operation_name=chat,provider_name=azure.ai.openai,request_model=other}": "1: 1.012",
		}},
		{"another operation", func(f *Finished) { f.Entry.Operation = "completions" }, map[string]string{
			server + "{operation_name=text_completion,provider_name=azure.ai.openai,request_model=gpt}": "1: 1.012",
		}},
		{"a backend that is gone", func(f *Finished) { f.Entry.Backend = "default/gone" }, map[string]string{
			server + "{operation_name=chat,provider_name=openai,request_model=gpt}": "1: 1.012",
		}},
		{"overloaded", func(f *Finished) { f.Record.Status = 529 }, map[string]string{
			server + "{error_type=529," + of + "}": "1: 1.012", "weir_tenant_requests_total{outcome=failed,tenant=acme}": "1", "gen_ai_server_time_to_first_token_seconds": "",
		}},
		{"a status that nobody knows", func(f *Finished) { f.Record.Status = 477 }, map[string]string{
			server + "{error_type=_OTHER," + of + "}": "1: 1.012", "weir_tenant_requests_total{outcome=rejected,tenant=acme}": "1",
		}},
		{"the caller left", func(f *Finished) { f.Record.Aborted, f.Record.Timing.BackendLast = true, 0 }, map[string]string{
			client + "{error_type=canceled," + of + "}": "1: 1.005", "weir_tenant_requests_total{outcome=aborted,tenant=acme}": "1", "weir_overhead_seconds": "",
		}},
		{"the answer broke off", func(f *Finished) { f.Entry.Aborted, f.Record.Details = true, "upstream_reset" }, map[string]string{
			client + "{error_type=incomplete," + of + "}": "1: 1.004", "weir_tenant_requests_total{outcome=failed,tenant=acme}": "1", "weir_overhead_seconds": "",
		}},
		{"a budget cut it", func(f *Finished) { f.Entry.Cut = true }, map[string]string{"weir_overhead_seconds": ""}},
		{"after another attempt", func(f *Finished) {
			f.Record.Attempts, f.Record.Timing.BackendSent = 2, 207*ms
			f.Failed = []Failed{{Backend: "default/down", Status: 503, Start: f.Record.Start.Add(7 * ms)}}
		}, map[string]string{
			"weir_overhead_seconds": "", "weir_attempts_failed_total{backend=default/down,reason=503}": "1",
			client + "{" + of + "}": "1: 1.004", "gen_ai_server_time_to_first_token_seconds{" + of + "}": "1: 0.307",
		}},
		{"no connection", func(f *Finished) {
			f.Record.Status, f.Record.Details, f.Record.Timing = 503, "upstream_reset_before_response_started", Timing{Received: 2 * ms}
			f.Failed = []Failed{{Backend: "default/down", Flags: "UF", Start: f.Record.Start}}
		}, map[string]string{
			client: "", "weir_attempts_failed_total{backend=default/down,reason=connect}": "1", server + "{error_type=503," + of + "}": "1: 1.012",
		}},
		{"refused", func(f *Finished) {
			f.Open, f.Entry, f.Record.Attempts, f.Record.Immediate, f.Record.Status = nil, nil, 0, true, 429
		}, map[string]string{
			server: "", client: "", "weir_tenant_requests_total{outcome=refused,tenant=acme}": "1", "weir_tenant_tokens_total": "", "weir_overhead_seconds": "",
		}},
		{"nobody known", func(f *Finished) {
			f.Open, f.Entry, f.Record.Tenant, f.Record.Immediate, f.Record.Status = nil, nil, "", true, 401
		}, map[string]string{"weir_tenant_requests_total": "", server: ""}},
		{"lost with Envoy", func(f *Finished) { f.Record = nil }, map[string]string{
			server: "", "weir_tenant_requests_total{outcome=lost,tenant=acme}": "1", "weir_tenant_tokens_total{direction=input,tenant=acme}": "15",
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			reg, m := requestMetrics(t, 0)
			m.Finished(answered(c.change))
			got := sums(t, reg)
			for series, want := range c.want {
				if want != "" && got[series] != want {
					t.Errorf("%s: %q, want %q", series, got[series], want)
				}
				for have, value := range got {
					if want == "" && strings.HasPrefix(have, series+"{") {
						t.Errorf("there should be no %s: %s", have, value)
					}
				}
			}
			for have, value := range got {
				if want, known := all[have]; c.name == "a stream" && (!known || value != want) {
					t.Errorf("%s: %q, want %q", have, value, want)
				}
			}
		})
	}
	reg, m := requestMetrics(t, 0)
	m.Finished(answered())
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
}

// TestNameBombs: callers make names up by the thousand, of tenants, models and both, from many places at once.
func TestNameBombs(t *testing.T) {
	const names, max, workers = 100_000, 20, 4
	reg, m := requestMetrics(t, max)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := w; i < names; i += workers {
				name := fmt.Sprint("made-up-", i)
				m.Finished(answered(func(f *Finished) { f.Record.Tenant, f.Entry.Model, f.Entry.Operation = name, name, "chat" }))
			}
		})
	}
	wg.Wait()
	m.Finished(answered()) // those that the configuration knows have places yet
	got, series := sums(t, reg), map[string]int{}
	for s := range got {
		name, _, _ := strings.Cut(s, "{")
		series[name]++
	}
	for name, want := range map[string]int{
		"weir_tenant_requests_total": max/2 + 2, "weir_tenant_tokens_total": 2 * (max/2 + 2), "weir_tenant_cost_total": max/2 + 2,
		"gen_ai_server_request_duration_seconds": 2, "gen_ai_client_token_usage": 4,
	} {
		if series[name] != want {
			t.Errorf("%s has %d series, want %d", name, series[name], want)
		}
	}
	for s, want := range map[string]string{
		"weir_tenant_requests_total{outcome=ok,tenant=other}":                                                           fmt.Sprintf("%.6g", float64(names-max/2)),
		"weir_tenant_requests_total{outcome=ok,tenant=acme}":                                                            "1",
		"weir_metrics_label_overflow_total{label=tenant}":                                                               fmt.Sprintf("%.6g", float64(names-max/2)),
		"weir_metrics_label_overflow_total{label=model}":                                                                "0", // names that are no model are no label at all
		"gen_ai_server_request_duration_seconds{operation_name=chat,provider_name=azure.ai.openai,request_model=other}": fmt.Sprintf("%d: %.6g", names, 1.012*names),
	} {
		if got[s] != want {
			t.Errorf("%s: %q, want %q", s, got[s], want)
		}
	}
}

// TestManyDeclaredNames: a configuration of thousands of models and tenants has as many series as are bounded, too.
func TestManyDeclaredNames(t *testing.T) {
	const names, max = 5000, 20
	reg, m := requestMetrics(t, max)
	n := Names{Models: map[string]bool{}, Tenants: map[string]bool{}}
	name := func(i int) string { return fmt.Sprint("name-", i) }
	for i := range names {
		n.Models[name(i)], n.Tenants[name(i)] = true, true
	}
	m.Use(n)
	send := func(i int) {
		m.Finished(answered(func(f *Finished) { f.Record.Tenant, f.Entry.Model = name(i), name(i) }))
	}
	for i := range names {
		send(i)
	}
	count := func(metric string) int {
		n, err := testutil.GatherAndCount(reg, metric)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	for _, metric := range []string{"weir_tenant_requests_total", "gen_ai_server_request_duration_seconds"} {
		if got := count(metric); got != max+1 {
			t.Errorf("%s has %d series, want %d", metric, got, max+1)
		}
	}
	got := sums(t, reg)
	for _, label := range []string{"model", "tenant"} {
		if v := got["weir_metrics_label_overflow_total{label="+label+"}"]; v != fmt.Sprint(names-max) {
			t.Errorf("%s: %s overflows, want %d", label, v, names-max)
		}
	}
	// Those that the next configuration does not know give their places to others.
	for i := range names - 1 {
		delete(n.Models, name(i))
		delete(n.Tenants, name(i))
	}
	m.Use(n)
	send(names - 1)
	for _, metric := range []string{"weir_tenant_requests_total", "gen_ai_server_request_duration_seconds"} {
		if got := count(metric); got != 2 { // and other
			t.Errorf("%s has %d series after the change, want 2", metric, got)
		}
	}
}

// TestNamesThatComeBack: what a configuration has left out and the next one has again is counted where it is seen.
func TestNamesThatComeBack(t *testing.T) {
	reg, m := requestMetrics(t, 0)
	known := Names{Models: map[string]bool{"gpt": true}, Tenants: map[string]bool{"acme": true}}
	m.Finished(answered())
	m.Use(Names{})
	if got, ok := sums(t, reg)["weir_tenant_requests_total{outcome=ok,tenant=acme}"]; ok {
		t.Errorf("%s requests of a tenant that is gone", got)
	}
	m.Use(known)
	m.Finished(answered())
	m.Finished(answered())
	got := sums(t, reg)
	for s, want := range map[string]string{
		"weir_tenant_requests_total{outcome=ok,tenant=acme}":                                                 "2",
		"weir_tenant_tokens_total{direction=input,tenant=acme}":                                              "30",
		"weir_tenant_tokens_total{direction=output,tenant=acme}":                                             "20",
		"weir_tenant_cost_total{currency=USD,tenant=acme}":                                                   "5",
		"gen_ai_server_request_duration_seconds{operation_name=chat,provider_name=openai,request_model=gpt}": "2: 2.024",
	} {
		if got[s] != want {
			t.Errorf("%s: %q, want %q", s, got[s], want)
		}
	}
}

// TestNamesThatAreNoLabels: whatever a claim holds, it breaks nothing.
func TestNamesThatAreNoLabels(t *testing.T) {
	reg, m := requestMetrics(t, 0)
	for _, name := range []string{"\xff\xfe", strings.Repeat("x", maxNameBytes+1)} {
		m.Finished(answered(func(f *Finished) { f.Record.Tenant = name }))
	}
	if got := sums(t, reg)["weir_tenant_requests_total{outcome=ok,tenant=other}"]; got != "2" {
		t.Errorf("%s requests of others, want 2", got)
	}
}

func TestProvider(t *testing.T) {
	for _, c := range []struct{ dialect, host, want string }{
		{"openai", "api.openai.com", "openai"},
		{"openai", "API.OpenAI.com:443", "openai"},
		{"openai", "my.openai.azure.com", "azure.ai.openai"},
		{"openai", "notapi.deepseek.com", "openai"},
		{"openai", "api.deepseek.com", "deepseek"},
		{"openai", "10.0.0.1:8000", "openai"},
		{"openai", "dashscope-intl.aliyuncs.com", ProviderDashScope},
		{"dashscope", "127.0.0.1", ProviderDashScope},
		{"anthropic", "bedrock-runtime.us-east-1.amazonaws.com", "aws.bedrock"},
		{"anthropic", "us-central1-aiplatform.googleapis.com", "gcp.vertex_ai"},
		{"anthropic", "api.anthropic.com", "anthropic"},
	} {
		if got := Provider(c.dialect, c.host); got != c.want {
			t.Errorf("%s at %s is %q, want %q", c.dialect, c.host, got, c.want)
		}
	}
}

func TestFailure(t *testing.T) {
	for _, c := range []struct {
		of   Failed
		want string
	}{
		{Failed{Status: 503, Flags: "UF"}, "503"}, {Failed{Flags: "UF"}, "connect"}, {Failed{Flags: "UF,URX"}, "connect"}, {Failed{Flags: "DF"}, "connect"},
		{Failed{Flags: "UT"}, "timeout"}, {Failed{Flags: "LR,UC"}, "reset"}, {Failed{Flags: "UR"}, "reset"}, {Failed{Flags: "UO"}, "overflow"},
		{Failed{Flags: "UH"}, "no_endpoint"}, {Failed{Flags: "DC"}, "canceled"}, {Failed{Flags: "XX"}, "_OTHER"}, {Failed{}, "_OTHER"},
	} {
		if got := FailureReason(&c.of); got != c.want {
			t.Errorf("%+v: %q, want %q", c.of, got, c.want)
		}
	}
}

// BenchmarkFinished: what the metrics of a stream cost, from all cores at once.
func BenchmarkFinished(b *testing.B) {
	_, m := requestMetrics(b, 0)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		f := answered()
		for pb.Next() {
			m.Finished(f)
		}
	})
}
