// Package trtllm reads the metrics of trtllm-serve, the server of TensorRT-LLM, at /prometheus/metrics. It shows those of its requests
// when it is started with return_perf_metrics, and those of its iterations with enable_iter_perf_stats.
package trtllm

import (
	"io"
	"time"

	"github.com/weir-dev/weir/xds/load/engine/internal/page"
	"github.com/weir-dev/weir/xds/load/engine/internal/tally"
	"github.com/weir-dev/weir/xds/load/signal"
)

// Reader reads the metrics of one server.
type Reader struct {
	page page.Page
}

// New is a Reader that has read no page.
func New() *Reader { return &Reader{} }

// Read reads one page.
func (r *Reader) Read(src io.Reader, at time.Time) (signal.Sample, error) {
	p, f := &r.page, page.Found{}
	var completed, ended tally.Sum
	p.Begin(src)
	for {
		name, ok := p.Own("trtllm")
		if !ok {
			break
		}
		switch string(name) {
		case "num_requests_waiting":
			f.Waiting.Add(p.Value())
		case "num_requests_running":
			f.Running.Add(p.Value())
		case "kv_cache_utilization": // 0..1
			f.KVCache.Add(p.Value())
		case "kv_cache_max_blocks":
			f.Blocks.Add(p.Value())
		case "kv_cache_tokens_per_block":
			f.BlockSize.Add(p.Value())
		case "num_requests_completed_total":
			completed.Add(p.Value())
		case "request_success_total", "request_error_total":
			ended.Add(p.Value())
		case "request_queue_time_seconds_sum":
			f.Seconds.Add(p.Value())
		case "request_queue_time_seconds_count":
			f.Entered.Add(p.Value())
		}
	}
	// Newer servers count what their iterations completed; the others what they answered. One request is in both.
	if f.Finished = completed; !completed.Known {
		f.Finished = ended
	}
	return p.Sample(at, "trtllm-serve", &f)
}
