// Package vllm reads the metrics of vLLM's OpenAI server (docs.vllm.ai, "Production metrics"): of engine version 1, and of version 0
// with its older name for the use of the cache. With data parallelism one server runs several engines, told apart by a label.
package vllm

import (
	"io"
	"time"

	"github.com/weir-dev/weir/xds/load/engine/internal/page"
	"github.com/weir-dev/weir/xds/load/signal"
)

// Reader reads the metrics of one server.
type Reader struct {
	page page.Page
}

// New is a Reader that has read no page.
func New() *Reader { return &Reader{} }

// Read reads one page. Requests and cache sizes are summed over the engines; of the use of the cache the fullest engine's counts.
func (r *Reader) Read(src io.Reader, at time.Time) (signal.Sample, error) {
	p, f := &r.page, page.Found{}
	p.Begin(src)
	for {
		name, ok := p.Own("vllm")
		if !ok {
			return p.Sample(at, "vLLM", &f)
		}
		switch string(name) {
		case "num_requests_waiting":
			f.Waiting.Add(p.Value())
		case "num_requests_running":
			f.Running.Add(p.Value())
		case "kv_cache_usage_perc", "gpu_cache_usage_perc": // 1 is full, whatever the name says
			f.KVCache.Add(p.Value())
		case "request_success_total": // of every finished_reason, "abort" among them
			f.Finished.Add(p.Value())
		case "request_queue_time_seconds_sum":
			f.Seconds.Add(p.Value())
		case "request_queue_time_seconds_count":
			f.Entered.Add(p.Value())
		case "cache_config_info":
			f.KVTokens.Add(capacity(p))
		}
	}
}

// capacity is the size of an engine's cache in tokens, which vLLM tells in labels. What it has not measured yet is "None".
func capacity(p *page.Page) (float64, bool) {
	if v, ok := p.Count("kv_cache_size_tokens"); ok { // newer; also right for models whose layers differ
		return v, true
	}
	size, ok := p.Count("block_size")
	if !ok {
		return 0, false
	}
	blocks, ok := p.Count("num_gpu_blocks")
	return size * blocks, ok
}
