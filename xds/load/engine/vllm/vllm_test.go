package vllm_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	. "github.com/weir-dev/weir/xds/load/engine/internal/enginetest"
	"github.com/weir-dev/weir/xds/load/engine/vllm"
	"github.com/weir-dev/weir/xds/load/signal"
)

func fresh() Reader { return vllm.New() }

func TestRead(t *testing.T) {
	all := Has(signal.Waiting, signal.Running, signal.KVCache, signal.KVTokens)
	busy := signal.Sample{Has: all.With(signal.QueueDelay), Waiting: 3, Running: 16, KVCache: 0.9671, KVTokens: 295152, QueueDelay: 620 * time.Millisecond}
	still := busy
	still.QueueDelay = 1200 * time.Millisecond
	idle := signal.Sample{Has: all.With(signal.QueueDelay), Running: 14, KVCache: 0.2934, KVTokens: 295152}
	for name, story := range map[string][]Step{
		"version 1": {
			{Page: "v1.txt", Want: idle},
			{Page: "v1-later.txt", After: 500 * time.Millisecond, Want: busy},
			// None finished, none left the queue: the last mean holds until one that waits has waited longer.
			{Page: "v1-later.txt", After: 600 * time.Millisecond, Want: busy},
			{Page: "v1-later.txt", After: 600 * time.Millisecond, Want: still},
			// The server began anew.
			{Page: "v1.txt", After: 500 * time.Millisecond, Want: idle},
		},
		"two engines": {{Page: "v1-data-parallel.txt", Want: signal.Sample{Has: all, Waiting: 7, Running: 61, KVCache: 0.88, KVTokens: 288000}}},
		"version 0":   {{Page: "v0.txt", Want: signal.Sample{Has: all, Waiting: 1, Running: 3, KVCache: 0.5512, KVTokens: 446224}}},
	} {
		t.Run(name, func(t *testing.T) { Run(t, fresh, story) })
	}
}

func TestReadOdd(t *testing.T) {
	for _, test := range []struct {
		name, page string
		want       signal.Sample
		err        string
	}{
		{name: "nothing answered yet", page: "", want: signal.Sample{}},
		{name: "another server", page: "go_goroutines 12\n", err: "none of vLLM"},
		{name: "not metrics", page: "<!DOCTYPE html>\n", err: "line 1 of the metrics"},
		{name: "through a collector", page: "vllm_num_requests_waiting 4\n", want: signal.Sample{Has: Has(signal.Waiting), Waiting: 4}},
		{name: "not measured yet", page: `vllm:cache_config_info{block_size="16",num_gpu_blocks="None"} 1.0` + "\nvllm:kv_cache_usage_perc NaN\n"},
		{name: "more than full", page: "vllm:kv_cache_usage_perc 1.0000001\n", want: signal.Sample{Has: Has(signal.KVCache), KVCache: 1}},
		{name: "senseless", page: "vllm:num_requests_waiting -1\nvllm:num_requests_running +Inf\n"},
		{name: "cut", page: "vllm:num_requests_waiting 4\nvllm:num_requests_running{engine=\"0", err: "line 2 of the metrics"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := vllm.New().Read(strings.NewReader(test.page), Start())
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) || got != (signal.Sample{}) {
					t.Fatalf("got %+v, %v; want an error with %q", got, err, test.err)
				}
				return
			}
			if test.want.At = Start(); err != nil || got != test.want {
				t.Fatalf("got %+v, %v; want %+v", got, err, test.want)
			}
		})
	}
}

func TestReadAllocates(t *testing.T) {
	Allocs(t, vllm.New(), Page(t, "v1.txt"), 0)
}

func BenchmarkRead(b *testing.B) {
	page := Page(b, "v1.txt")
	src, r, at := bytes.NewReader(page), vllm.New(), Start()
	b.SetBytes(int64(len(page)))
	b.ReportAllocs()
	for b.Loop() {
		src.Reset(page)
		at = at.Add(time.Second)
		if _, err := r.Read(src, at); err != nil {
			b.Fatal(err)
		}
	}
}
