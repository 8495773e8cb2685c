package gpu

import (
	"bytes"
	"flag"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/weir-dev/weir/test/sim/gpu/engine"
	loadengine "github.com/weir-dev/weir/xds/load/engine"
	"github.com/weir-dev/weir/xds/load/signal"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// parse reads a page with Prometheus' own parser.
func parse(t *testing.T, page string) map[string]*dto.MetricFamily {
	t.Helper()
	p := expfmt.NewTextParser(model.LegacyValidation)
	out, err := p.TextToMetricFamilies(strings.NewReader(page))
	if err != nil {
		t.Fatalf("%v in\n%s", err, page)
	}
	return out
}

// vary is what differs between two runs: addresses, times of creation, and times that depend on the machine.
var vary = regexp.MustCompile(`(_created\{[^}]*\}|_seconds(_bucket|_sum)\{[^}]*\}) [0-9.e+-]+|127\.0\.0\.1:[0-9]+`)

func TestPages(t *testing.T) {
	s := pool(t, 1, func(o *Options) {
		o.Profile.GPUs = 2
		o.Profile.KVTokens = 1000
		o.Models = []string{`a "quoted\" name`}
		o.DCGMInterval = time.Hour
	}).Servers[0]
	body := strings.Replace(chatBody(`,"max_tokens":4,"ignore_eos":true`, "What is this?"), `"m"`, `"a \"quoted\\\" name"`, 1)
	for range 3 {
		if resp, answer := ask(t, s, body); resp.StatusCode != 200 {
			t.Fatal(answer)
		}
	}
	for name, path := range map[string]string{"vllm": "/metrics", "dcgm": "/dcgm/metrics"} {
		_, got := get(t, s.URL()+path)
		parse(t, got)
		got = vary.ReplaceAllString(got, "$1 VARIES")
		file := filepath.Join("testdata", name+".prom")
		if *update {
			if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("%s differs from %s:\n%s", path, file, got)
		}
	}
}

// TestPageAddsUp compares the page with what clients saw.
func TestPageAddsUp(t *testing.T) {
	s := pool(t, 1, nil).Servers[0]
	for _, user := range []string{"one", "two", "three", "three"} {
		if resp, body := ask(t, s, chatBody(`,"max_tokens":7,"ignore_eos":true`, strings.Repeat(user+" ", 200))); resp.StatusCode != 200 {
			t.Fatal(body)
		}
	}
	st := s.Stats().Engine
	_, text := get(t, s.URL()+"/metrics")
	page := parse(t, text)
	value := func(name string) float64 {
		m := page[name].GetMetric()
		if len(m) != 1 {
			t.Fatalf("%s has %d samples", name, len(m))
		}
		return m[0].GetGauge().GetValue() + m[0].GetCounter().GetValue()
	}
	for name, want := range map[string]float64{
		"vllm:num_requests_running": 0, "vllm:num_requests_waiting": 0, "vllm:kv_cache_usage_perc": 0, "vllm:num_preemptions_total": 0,
		"vllm:prompt_tokens_total": float64(st.PromptTokens), "vllm:generation_tokens_total": 28,
		"vllm:prefix_cache_queries_total": float64(st.PromptTokens), "vllm:prefix_cache_hits_total": float64(st.CachedTokens), "vllm:cache_config_info": 1,
	} {
		if got := value(name); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	if st.CachedTokens == 0 || st.PromptTokens < 700 {
		t.Errorf("%+v", st)
	}
	for name, want := range map[string]uint64{
		"vllm:time_to_first_token_seconds": 4, "vllm:inter_token_latency_seconds": 24, "vllm:e2e_request_latency_seconds": 4, "vllm:request_queue_time_seconds": 4,
		"vllm:request_prefill_time_seconds": 4, "vllm:request_decode_time_seconds": 4, "vllm:request_inference_time_seconds": 4,
		"vllm:request_prompt_tokens": 4, "vllm:request_generation_tokens": 4, "vllm:request_params_max_tokens": 4,
	} {
		h := page[name].GetMetric()[0].GetHistogram()
		b := h.GetBucket()
		if h.GetSampleCount() != want || b[len(b)-1].GetCumulativeCount() != want || !math.IsInf(b[len(b)-1].GetUpperBound(), 1) {
			t.Errorf("%s: %v, want %d", name, h, want)
		}
	}
	h := func(name string) float64 { return page[name].GetMetric()[0].GetHistogram().GetSampleSum() }
	if got, want := h("vllm:request_prefill_time_seconds")+h("vllm:request_decode_time_seconds"), h("vllm:request_inference_time_seconds"); math.Abs(got-want) > 1e-9 {
		t.Errorf("prefill and decode take %v, together they took %v", got, want)
	}
	if got, want := h("vllm:request_queue_time_seconds")+h("vllm:request_inference_time_seconds"), h("vllm:e2e_request_latency_seconds"); math.Abs(got-want) > 1e-9 {
		t.Errorf("queue and inference take %v, the whole took %v", got, want)
	}
}

// TestGatewaysReaders lets the gateway's own readers read what is overridden.
func TestGatewaysReaders(t *testing.T) {
	s := pool(t, 1, nil).Servers[0]
	paths := map[string]string{"VLLM": "/metrics", "DCGM": "/dcgm/metrics"}
	readers := map[string]loadengine.Reader{}
	for name := range paths {
		e, ok := loadengine.Find(name)
		if !ok {
			t.Fatalf("no engine %s", name)
		}
		readers[name] = e.New()
	}
	at := time.Unix(1, 0)
	read := func() (vllm, dcgm signal.Sample) {
		t.Helper()
		at = at.Add(time.Second)
		out := map[string]signal.Sample{}
		for name, path := range paths {
			_, page := get(t, s.URL()+path)
			sample, err := readers[name].Read(strings.NewReader(page), at)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			out[name] = sample
		}
		return out["VLLM"], out["DCGM"]
	}
	v, g := read()
	if v.Waiting != 0 || v.KVCache != 0 || v.KVTokens != 950_000 || !v.Has.Has(signal.KVTokens) || g.GPUUtilization != 0 || math.Abs(g.GPUMemory-0.9053) > 0.001 {
		t.Errorf("at rest: %+v, %+v", v, g)
	}
	if err := s.Set(Fault{Override: Override{Waiting: new(12.0), Running: new(200.0), KVCache: new(0.97), QueueDelay: new(Duration(620 * time.Millisecond)),
		GPUUtilization: new(0.91), GPUMemory: new(0.5)}}); err != nil {
		t.Fatal(err)
	}
	read()
	v, g = read()
	if v.Waiting != 12 || v.Running != 200 || v.KVCache != 0.97 || g.GPUUtilization != 0.91 || math.Abs(g.GPUMemory-0.5) > 0.001 {
		t.Errorf("overridden: %+v, %+v", v, g)
	}
	// A reader may add that those who wait have waited since its last reading, a second ago.
	if d := v.QueueDelay.Round(time.Millisecond); d < 620*time.Millisecond || d > time.Second {
		t.Errorf("the queue delay is %v", d)
	}
	if err := s.Set(Fault{}); err != nil {
		t.Fatal(err)
	}
	read()
	if v, g = read(); v.Waiting != 0 || v.QueueDelay != 0 || v.KVCache != 0 || g.GPUUtilization != 0 {
		t.Errorf("at rest again: %+v, %+v", v, g)
	}
}

func TestSampler(t *testing.T) {
	p := engine.Profile{Name: "p", Step: 10 * time.Millisecond, KVTokens: 64, BlockTokens: 4, MaxSeqs: 1, Budget: 64}
	ms := time.Millisecond
	// Busy from 0 to 10, 150 to 160 and 1000 to 1050 ms.
	build := func() *engine.Engine {
		e, err := engine.New(p, engine.Options{})
		if err != nil {
			t.Fatal(err)
		}
		for id, r := range []engine.Request{{OutputTokens: 1}, {OutputTokens: 1, ArriveAt: 150 * ms}, {OutputTokens: 5, ArriveAt: time.Second}} {
			r.ID, r.PromptTokens = uint64(id), 1
			if err := e.Submit(r); err != nil {
				t.Fatal(err)
			}
		}
		return e
	}
	for _, test := range []struct {
		looks []time.Duration
		want  float64
	}{
		{[]time.Duration{50 * ms}, 0}, {[]time.Duration{100 * ms}, 0.1}, {[]time.Duration{100 * ms, 199 * ms}, 0.1}, {[]time.Duration{100 * ms, 200 * ms}, 0.1},
		{[]time.Duration{100 * ms, 300 * ms}, 0}, {[]time.Duration{1100 * ms}, 0.5}, {[]time.Duration{20 * ms, 1199 * ms}, 0.5}, {[]time.Duration{time.Hour}, 0},
		{[]time.Duration{time.Second, 1100 * ms}, 0.5},
	} {
		e, s := build(), sampler{interval: 100 * ms}
		for _, at := range test.looks {
			s.upto(e, at)
			e.Advance(at)
		}
		if math.Abs(s.util-test.want) > 1e-9 {
			t.Errorf("looking at %v: %v, want %v", test.looks, s.util, test.want)
		}
	}
}

func TestFloat(t *testing.T) {
	for v, want := range map[float64]string{0: "0.0", 1: "1.0", 0.25: "0.25", 1e6: "1e+06", 12345678: "1.2345678e+07", 999999: "999999.0", math.Inf(1): "+Inf", 1e-5: "1e-05"} {
		if got := float(v); got != want {
			t.Errorf("%v: %s, want %s", v, got, want)
		}
	}
	for v, want := range map[float64]string{0: "0.0", 3: "3.0", 0.4: "0.4", 1234567: "1234567.0", 1e-5: "1e-05"} {
		if got := python(v); got != want {
			t.Errorf("%v: %s, want %s", v, got, want)
		}
	}
}

func TestPrompt(t *testing.T) {
	for body, want := range map[string]string{
		`{"model":"m","messages":[{"role":"user","content":"a"}]}`:                                                                                 "<|im_start|>user\na<|im_end|>\n",
		`{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}],"tools":null}`:                "<|im_start|>user\nab<|im_end|>\n",
		`{"model":"m","messages":[{"role":"system","content":"s"},{"role":"user","content":""}],"tools":[{"x":1}]}`:                                "<|im_start|>system\n# Tools\n[{\"x\":1}]<|im_end|>\n<|im_start|>system\ns<|im_end|>\n<|im_start|>user\n<|im_end|>\n",
		`{"model":"m","messages":[{"role":"assistant","content":null,"tool_calls":[1]},{"role":"tool","tool_call_id":"c","content":"r"}],"x":"y"}`: "<|im_start|>assistant\n[1]<|im_end|>\n<|im_start|>tool\ncr<|im_end|>\n",
	} {
		r, err := parseChat([]byte(body))
		if err != nil {
			t.Errorf("%s: %v", body, err)
			continue
		}
		if got := r.prompt(); got != want+"<|im_start|>assistant\n" {
			t.Errorf("%s:\ngot  %q\nwant %q", body, got, want)
		}
	}
}

func TestBlocks(t *testing.T) {
	whole := strings.Repeat("0123456789abcdef", 40) // 640 bytes: 10 blocks of 16 tokens
	want := blocks(16, whole)
	if len(want) != 10 {
		t.Fatalf("%d blocks", len(want))
	}
	for cut := range len(whole) {
		if got := blocks(16, whole[:cut], whole[cut:]); !equal(got, want) {
			t.Fatalf("cut at %d: %v", cut, got)
		}
		if got := blocks(16, whole[:cut]); !equal(got, want[:cut/64]) {
			t.Fatalf("the first %d bytes: %v", cut, got)
		}
	}
	other := blocks(16, "X"+whole[1:])
	for i := range other {
		if other[i] == want[i] {
			t.Errorf("block %d does not depend on what is before it", i)
		}
	}
}

func equal(a, b []uint64) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

func TestAnswer(t *testing.T) {
	a := answer("p", 1, 50)
	if len(a) != 200 || answer("p", 1, 20) != a[:80] || answer("q", 1, 50) == a || answer("p", 2, 50) == a || strings.TrimSpace(a) != a {
		t.Errorf("%q", a)
	}
	below := 0
	for i := range uint64(1000) {
		n := length("p", i, 200)
		if n < 50 || n > 800 {
			t.Fatalf("%d tokens", n)
		}
		if n < 200 {
			below++
		}
	}
	if below < 440 || below > 560 {
		t.Errorf("%d of 1000 are below the median", below)
	}
}

func FuzzChat(f *testing.F) {
	f.Add([]byte(chatBody(`,"stream":true,"max_tokens":3`, "x")))
	f.Add([]byte(`{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"a"}]}],"tools":[{}],"n":1}`))
	f.Add([]byte(`{"model":"m","messages":[{"role":"assistant","content":null,"tool_calls":[]}]}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := parseChat(body)
		if err != nil {
			return
		}
		p := r.prompt()
		if n := tokens(p); n < 1 || len(blocks(16, p)) > n/16 {
			t.Errorf("%d tokens in %d blocks", n, len(blocks(16, p)))
		}
	})
}

func FuzzControl(f *testing.F) {
	f.Add([]byte(`{"speed":0.4,"override":{"gpuUtilization":0.9,"queueDelay":"1s"},"servers":[0]}`))
	f.Add([]byte(`{"all":true,"reset":true,"fail":500}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		if bytes.Contains(body, []byte("kill")) || bytes.Contains(bytes.ToLower(body), []byte("revive")) {
			return // there is nothing to kill here
		}
		o, err := Options{Addresses: []string{":0"}}.withDefaults()
		if err != nil {
			t.Fatal(err)
		}
		p := &Pool{opts: o}
		s, err := newServer(p, 0)
		if err != nil {
			t.Fatal(err)
		}
		p.Servers = []*Server{s}
		if _, err := s.command(body); err == nil {
			if err := s.Fault().check(); err != nil {
				t.Errorf("in force, though it is wrong: %v", err)
			}
		}
	})
}
