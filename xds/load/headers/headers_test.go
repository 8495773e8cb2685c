package headers_test

import (
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weir-dev/weir/extproc/wire"
	"github.com/weir-dev/weir/xds/load/headers"
	"github.com/weir-dev/weir/xds/load/signal"
)

func now() time.Time { return time.Date(2026, 3, 14, 9, 26, 53, 0, time.UTC) }

// answer looks headers up that stand as "name: value" in lines.
func answer(text string) func(string) string {
	return func(name string) string {
		for line := range strings.Lines(text) {
			if have, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), ": "); ok && have == name {
				return value
			}
		}
		return ""
	}
}

func has(metrics ...signal.Metric) (s signal.Set) {
	for _, m := range metrics {
		s = s.With(m)
	}
	return s
}

func TestORCA(t *testing.T) {
	const prefix = "the endpoint-load-metrics header"
	vllm := signal.Sample{At: now(), Has: has(signal.KVCache, signal.Waiting), KVCache: 0.4, Waiting: 3}
	for _, test := range []struct {
		name, report string
		want         signal.Sample
		err          string
	}{
		{name: "none"},
		{name: "vLLM, text", report: "TEXT named_metrics.kv_cache_usage_perc=0.4, named_metrics.num_requests_waiting=3.0", want: vllm},
		{name: "vLLM, JSON", report: `JSON {"named_metrics": {"kv_cache_usage_perc": 0.4, "num_requests_waiting": 3.0}}`, want: vllm},
		{name: "protobuf's JSON", report: `JSON {"namedMetrics":{"kv_cache_usage_perc":0.4,"num_requests_waiting":"3"}}`, want: vllm},
		{name: "Triton", report: "TEXT named_metrics.kv_cache_utilization=0.25,named_metrics.max_token_capacity=399296",
			want: signal.Sample{At: now(), Has: has(signal.KVCache, signal.KVTokens), KVCache: 0.25, KVTokens: 399296}},
		{name: "colons", report: "TEXT named_metrics.num_requests_running:7,cpu_utilization:0.9",
			want: signal.Sample{At: now(), Has: has(signal.Running), Running: 7}},
		{name: "only the processor's", report: "TEXT cpu_utilization=0.9,rps_fractional=12", want: signal.Sample{At: now()}},
		{name: "not a named metric", report: "TEXT num_requests_waiting=3", want: signal.Sample{At: now()}},
		{name: "JSON of others", report: `JSON {"cpu_utilization":0.9,"named_metrics":{"foo":"bar"}}`, want: signal.Sample{At: now()}},
		{name: "out of bounds", report: "TEXT named_metrics.kv_cache_usage_perc=1.7,named_metrics.num_requests_waiting=-1,named_metrics.num_requests_running=NaN",
			want: signal.Sample{At: now(), Has: has(signal.KVCache), KVCache: 1}},
		{name: "unknown to protobuf", report: `JSON {"named_metrics":{"kv_cache_usage_perc":"NaN","num_requests_waiting":"Infinity"}}`, want: signal.Sample{At: now()}},
		{name: "blanks", report: " TEXT  named_metrics.kv_cache_usage_perc = 0.4 ,, named_metrics.num_requests_waiting = 3, ", want: vllm},
		{name: "empty", report: "TEXT", want: signal.Sample{At: now()}},

		{name: "binary", report: "BIN Cg0KBWhlbGxv", err: prefix + ": its format is neither TEXT nor JSON"},
		{name: "no format", report: "named_metrics.kv_cache_usage_perc=0.4", err: prefix + ": its format is neither TEXT nor JSON"},
		{name: "an entry", report: "TEXT named_metrics.kv_cache_usage_perc", err: prefix + ": an entry has no value"},
		{name: "a value", report: "TEXT named_metrics.kv_cache_usage_perc=much", err: prefix + ": a value is not a number"},
		{name: "a value in JSON", report: `JSON {"named_metrics":{"num_requests_waiting":{}}}`, err: prefix + ": a value is not a number"},
		{name: "JSON", report: `JSON {"named_metrics":`, err: prefix + ": its JSON is malformed"},
		{name: "JSON of another form", report: `JSON {"named_metrics":[1]}`, err: prefix + ": its JSON is malformed"},
		{name: "long", report: "TEXT a=" + strings.Repeat("1", 16<<10), err: prefix + " is longer than 16384 bytes"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := headers.ORCA(answer(wire.LoadReport+": "+test.report), now())
			if test.err != "" {
				if err == nil || err.Error() != test.err || got != (signal.Sample{}) {
					t.Fatalf("got %+v, %v; want %s", got, err, test.err)
				}
				return
			}
			if err != nil || got != test.want {
				t.Fatalf("got %+v, %v; want %+v", got, err, test.want)
			}
		})
	}
}

func TestRateLimits(t *testing.T) {
	for _, test := range []struct {
		name, headers string
		want          float64 // -1: unknown
	}{
		{"none", "content-type: text/plain", -1},
		{"OpenAI", "x-ratelimit-limit-requests: 10000\nx-ratelimit-remaining-requests: 9999\nx-ratelimit-limit-tokens: 200000\nx-ratelimit-remaining-tokens: 30000\nx-ratelimit-reset-tokens: 51s", 0.15},
		{"Anthropic", "anthropic-ratelimit-requests-limit: 50\nanthropic-ratelimit-requests-remaining: 49\nanthropic-ratelimit-tokens-limit: 40000\nanthropic-ratelimit-tokens-remaining: 38000\n" +
			"anthropic-ratelimit-input-tokens-limit: 32000\nanthropic-ratelimit-input-tokens-remaining: 31000\nanthropic-ratelimit-output-tokens-limit: 8000\nanthropic-ratelimit-output-tokens-remaining: 2000", 0.25},
		{"nothing left", "x-ratelimit-limit-requests: 10\nx-ratelimit-remaining-requests: 0", 0},
		{"nothing left of what is not told", "x-ratelimit-remaining-tokens: 0", 0},
		{"something left of what is not told", "x-ratelimit-remaining-tokens: 12", -1},
		{"only the limit", "x-ratelimit-limit-tokens: 12", -1},
		{"Azure does not know", "x-ratelimit-limit-tokens: 100\nx-ratelimit-remaining-tokens: -1\nx-ratelimit-limit-requests: 10\nx-ratelimit-remaining-requests: 9", 0.9},
		{"more than the limit", "x-ratelimit-limit-tokens: 100\nx-ratelimit-remaining-tokens: 120", 1},
		{"a limit of nothing", "x-ratelimit-limit-tokens: 0\nx-ratelimit-remaining-tokens: 5", -1},
		{"malformed", "x-ratelimit-limit-tokens: 100\nx-ratelimit-remaining-tokens: many\nx-ratelimit-limit-requests: NaN\nx-ratelimit-remaining-requests: 5", -1},
		{"infinite", "x-ratelimit-limit-tokens: inf\nx-ratelimit-remaining-tokens: inf", -1},
	} {
		t.Run(test.name, func(t *testing.T) {
			want := signal.Sample{}
			if test.want >= 0 {
				want = signal.Sample{At: now(), Has: has(signal.Headroom), Headroom: test.want}
			}
			if got := headers.RateLimits(answer(test.headers), now()); got != want {
				t.Fatalf("got %+v, want %+v", got, want)
			}
		})
	}
}

func TestRetryAfter(t *testing.T) {
	for _, test := range []struct {
		name, headers string
		want          time.Duration // -1: unknown
	}{
		{"none", "", -1},
		{"seconds", "retry-after: 7", 7 * time.Second},
		{"blanks", "retry-after:  7 ", 7 * time.Second},
		{"part of a second", "retry-after: 0.25", 250 * time.Millisecond},
		{"at once", "retry-after: 0", 0},
		{"a date", "retry-after: Sat, 14 Mar 2026 09:27:23 GMT", 30 * time.Second},
		{"a date of old", "retry-after: Saturday, 14-Mar-26 09:27:23 GMT", 30 * time.Second},
		{"a date in the past", "retry-after: Sat, 14 Mar 2026 09:00:00 GMT", 0},
		{"a date far away", "retry-after: Sat, 14 Mar 2126 09:00:00 GMT", headers.MaxRetryAfter},
		{"long", "retry-after: 99999999999999999999", headers.MaxRetryAfter},
		{"negative", "retry-after: -1", -1},
		{"not a number", "retry-after: NaN", -1},
		{"infinite", "retry-after: Inf", -1},
		{"a word", "retry-after: tomorrow", -1},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, ok := headers.RetryAfter(answer(test.headers), now())
			if !ok {
				got = -1
			}
			if got != test.want {
				t.Fatalf("got %v, want %v", got, test.want)
			}
		})
	}
}

// TestNames: what is asked for here is what Envoy hands over.
func TestNames(t *testing.T) {
	asked := map[string]bool{}
	record := func(name string) string {
		asked[name] = true
		return map[bool]string{true: "1"}[strings.Contains(name, "remaining")]
	}
	if _, err := headers.ORCA(record, now()); err != nil {
		t.Fatal(err)
	}
	headers.RateLimits(record, now())
	headers.RetryAfter(record, now())
	handed := []string{wire.LoadReport, wire.RetryAfter}
	for _, limits := range wire.LoadHeaders {
		handed = append(handed, limits...)
	}
	if got := slices.Sorted(maps.Keys(asked)); !slices.Equal(got, slices.Sorted(slices.Values(handed))) {
		t.Errorf("asked for are %v, and Envoy hands over %v", got, handed)
	}
}

func FuzzORCA(f *testing.F) {
	for _, report := range []string{
		"TEXT named_metrics.kv_cache_usage_perc=0.4, named_metrics.num_requests_waiting=3.0",
		`JSON {"named_metrics": {"kv_cache_usage_perc": 0.4, "num_requests_waiting": 3.0}}`,
		`JSON {"namedMetrics":{"max_token_capacity":"1e309"}}`, "BIN Cg0KBWhlbGxv", "TEXT a:b=c,,",
	} {
		f.Add(report)
	}
	f.Fuzz(func(t *testing.T, report string) {
		s, err := headers.ORCA(func(string) string { return report }, now())
		if err != nil && s != (signal.Sample{}) {
			t.Errorf("%+v beside an error", s)
		}
		if !(s.KVCache >= 0 && s.KVCache <= 1) {
			t.Errorf("cache %v", s.KVCache)
		}
		for _, v := range []float64{s.Waiting, s.Running, s.KVTokens} {
			if !(v >= 0) || math.IsInf(v, 0) {
				t.Errorf("%+v", s)
			}
		}
	})
}

func FuzzLimits(f *testing.F) {
	for _, seed := range [][2]string{{"10", "3"}, {"0", "0"}, {"NaN", "-1"}, {"1e400", "0x1p-2"}, {"Sat, 14 Mar 2026 09:27:23 GMT", "7"}} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, limit, rest string) {
		get := func(name string) string {
			if strings.Contains(name, "limit-requests") || strings.HasSuffix(name, "-limit") || name == "retry-after" {
				return limit
			}
			return rest
		}
		if s := headers.RateLimits(get, now()); !(s.Headroom >= 0 && s.Headroom <= 1) {
			t.Errorf("headroom %v", s.Headroom)
		}
		if d, ok := headers.RetryAfter(get, now()); d < 0 || d > headers.MaxRetryAfter || !ok && d != 0 {
			t.Errorf("%v, %v", d, ok)
		}
	})
}
