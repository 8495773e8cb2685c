// Package triton reads the metrics of Triton Inference Server with its TensorRT-LLM backend, at port 8002
// (github.com/triton-inference-server/tensorrtllm_backend, "Triton metrics"). Triton with its vLLM backend shows vLLM's metrics at
// that port: for it the type is VLLM.
package triton

import (
	"io"
	"time"

	"github.com/weir-dev/weir/xds/load/engine/internal/page"
	"github.com/weir-dev/weir/xds/load/engine/internal/tally"
	"github.com/weir-dev/weir/xds/load/signal"
)

// Reader reads the metrics of one server.
type Reader struct {
	page   page.Page
	memory tally.Parts // of each GPU, bytes: used, total
}

// New is a Reader that has read no page.
func New() *Reader { return &Reader{} }

// Read reads one page. Triton tells the GPUs that it sees, too. Its own queue durations are not those of the backend, which batches for
// itself, so the delay is only what is known from requests that go on waiting.
func (r *Reader) Read(src io.Reader, at time.Time) (signal.Sample, error) {
	p, f := &r.page, page.Found{}
	var used, blocks, pending tally.Sum
	r.memory.Reset()
	p.Begin(src)
	for {
		name, ok := p.Own("nv")
		if !ok {
			break
		}
		switch string(name) {
		case "trt_llm_request_metrics":
			switch kind, _ := p.Label("request_type"); string(kind) {
			case "waiting":
				f.Waiting.Add(p.Value())
			case "scheduled":
				f.Running.Add(p.Value())
			}
		case "trt_llm_kv_cache_block_metrics":
			switch kind, _ := p.Label("kv_cache_block_type"); string(kind) {
			case "fraction":
				f.KVCache.Add(p.Value())
			case "used":
				used.Add(p.Value())
			case "max":
				blocks.Add(p.Value())
			case "tokens_per":
				f.BlockSize.Add(p.Value())
			}
		case "inference_pending_request_count":
			pending.Add(p.Value())
		case "inference_request_success", "inference_request_failure": // each model of an ensemble counts
			f.Finished.Add(p.Value())
		case "gpu_utilization": // 0..1
			f.GPU.Add(p.Value())
		case "gpu_memory_used_bytes":
			v, ok := p.Value()
			r.memory.First(gpu(p), v, ok)
		case "gpu_memory_total_bytes":
			v, ok := p.Value()
			r.memory.Second(gpu(p), v, ok)
		}
	}
	f.Blocks = blocks
	if !f.KVCache.Known && used.Known && blocks.Value > 0 { // older backends tell no fraction
		f.KVCache.Add(used.Value/blocks.Value, true)
	}
	if !f.Waiting.Known { // nor what waits in them: then what waits in Triton
		f.Waiting = pending
	}
	f.GPUMemory = r.memory.Fullest(func(used, total float64) float64 { return used / total })
	return p.Sample(at, "Triton", &f)
}

func gpu(p *page.Page) uint64 {
	label, _ := p.Label("gpu_uuid")
	return tally.Key(label)
}
