package gpu

import (
	"bytes"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/weir-dev/weir/test/sim/gpu/engine"
)

// reading is what the metrics say at a moment: the truth, or what overrides it.
type reading struct {
	stats            engine.Stats
	meter            meter
	waiting, running float64
	kv               float64 // 0..1
	gpu, memory      float64 // 0..1
}

// H100 80GB, in MiB. The driver keeps some, and vLLM takes 90 % of the whole when it starts, whatever it needs.
const (
	gpuTotal    = 81559
	gpuReserved = 480
	gpuTaken    = 0.9 * gpuTotal / (gpuTotal - gpuReserved)
)

// read reads the metrics. page says that it is for the page which holds the histogram of the queue.
func (s *Server) read(page bool) reading {
	f := s.Fault()
	d := s.driver
	d.mu.Lock()
	d.advance()
	if q := f.Override.QueueDelay; q != nil && page {
		d.meter.queue.seconds(time.Duration(*q))
	}
	r := reading{stats: d.engine.Stats(), gpu: d.gpus.util, memory: gpuTaken}
	if page {
		r.meter = d.meter.clone()
	}
	d.mu.Unlock()
	r.waiting, r.running, r.kv = float64(r.stats.Waiting), float64(r.stats.Running), r.stats.KVUsed
	o := f.Override
	for _, set := range []struct {
		to   *float64
		from *float64
	}{{&r.waiting, o.Waiting}, {&r.running, o.Running}, {&r.kv, o.KVCache}, {&r.gpu, o.GPUUtilization}, {&r.memory, o.GPUMemory}} {
		if set.from != nil {
			*set.to = *set.from
		}
	}
	return r
}

// serveMetrics answers with a page, as slowly and as surely as the fault in force says.
func (s *Server) serveMetrics(w http.ResponseWriter, r *http.Request, write func() []byte) {
	f := s.Fault()
	if f.MetricsDelay > 0 {
		t := time.NewTimer(time.Duration(f.MetricsDelay))
		defer t.Stop()
		select {
		case <-t.C:
		case <-r.Context().Done():
			return
		}
	}
	if f.MetricsOff {
		http.Error(w, "metrics are switched off by /control", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", pageType)
	_, _ = w.Write(write()) // the reader may have left; there is nobody to tell
}

// vllmPage is what vLLM (engine version 1) has at /metrics.
func (s *Server) vllmPage() []byte {
	r := s.read(true)
	st, m, prof := r.stats, &r.meter, s.pool.opts.Profile
	p := newPage(s.model(), s.created)
	p.gauge("vllm:num_requests_running", "Number of requests in model execution batches.", r.running)
	p.gauge("vllm:num_requests_waiting", "Number of requests waiting to be processed.", r.waiting)
	p.gauge("vllm:kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.", r.kv)
	p.counter("vllm:prefix_cache_queries", "Prefix cache queries, in terms of number of queried tokens.", st.PromptTokens)
	p.counter("vllm:prefix_cache_hits", "Prefix cache hits, in terms of number of cached tokens.", st.CachedTokens)
	p.counter("vllm:num_preemptions", "Cumulative number of preemption from the engine.", st.Preemptions)
	p.counter("vllm:prompt_tokens", "Number of prefill tokens processed.", st.PromptTokens)
	p.counter("vllm:generation_tokens", "Number of generation tokens processed.", st.OutputTokens)
	p.counters("vllm:request_success", "Count of successfully processed requests.", "finished_reason", m.success)
	p.histogram("vllm:request_prompt_tokens", "Number of prefill tokens processed.", &m.prompts)
	p.histogram("vllm:request_generation_tokens", "Number of generation tokens processed.", &m.generations)
	p.histogram("vllm:request_params_max_tokens", "Histogram of the max_tokens request parameter.", &m.limits)
	p.histogram("vllm:time_to_first_token_seconds", "Histogram of time to first token in seconds.", &m.ttft)
	p.histogram("vllm:inter_token_latency_seconds", "Histogram of inter-token latency in seconds.", &m.itl)
	p.histogram("vllm:e2e_request_latency_seconds", "Histogram of e2e request latency in seconds.", &m.e2e)
	p.histogram("vllm:request_queue_time_seconds", "Histogram of time spent in WAITING phase for request.", &m.queue)
	p.histogram("vllm:request_inference_time_seconds", "Histogram of time spent in RUNNING phase for request.", &m.inference)
	p.histogram("vllm:request_prefill_time_seconds", "Histogram of time spent in PREFILL phase for request.", &m.prefill)
	p.histogram("vllm:request_decode_time_seconds", "Histogram of time spent in DECODE phase for request.", &m.dec)
	p.head("vllm:cache_config_info", "Information of the LLMEngine CacheConfig", "gauge")
	fmt.Fprintf(p, `vllm:cache_config_info{block_size="%d",cache_dtype="auto",cpu_offload_gb="0.0",enable_prefix_caching="True",engine="0",gpu_memory_utilization="0.9",is_attention_free="False",num_cpu_blocks="None",num_gpu_blocks="%d",num_gpu_blocks_override="None",prefix_caching_hash_algo="sha256",sliding_window="None",swap_space="4"} 1.0`+"\n",
		prof.BlockTokens, st.KVTokens/prof.BlockTokens)
	return p.Bytes()
}

// dcgmPage is what NVIDIA's exporter has, in the order and spelling of its template.
func (s *Server) dcgmPage() []byte {
	r := s.read(false)
	used := r.memory * (gpuTotal - gpuReserved)
	var b bytes.Buffer
	for _, m := range []struct {
		name, help string
		value      float64
	}{
		{"DCGM_FI_DEV_SM_CLOCK", "SM clock frequency (in MHz).", 1980},
		{"DCGM_FI_DEV_GPU_UTIL", "GPU utilization (in %).", 100 * r.gpu},
		{"DCGM_FI_DEV_XID_ERRORS", "Value of the last XID error encountered.", 0},
		{"DCGM_FI_DEV_FB_FREE", "Framebuffer memory free (in MiB).", gpuTotal - gpuReserved - used},
		{"DCGM_FI_DEV_FB_USED", "Framebuffer memory used (in MiB).", used},
	} {
		fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s gauge\n", m.name, m.help, m.name)
		for gpu := range max(1, s.pool.opts.Profile.GPUs) {
			fmt.Fprintf(&b, `%s{gpu="%d",UUID="GPU-%08x-0000-4000-8000-%012x",pci_bus_id="00000000:%02X:00.0",device="nvidia%d",modelName="NVIDIA H100 80GB HBM3",Hostname="%s"} %.0f`+"\n",
				m.name, gpu, s.index, gpu, 0x1b+gpu, gpu, escape(s.Addr()), m.value)
		}
	}
	return b.Bytes()
}

// orca is the header endpoint-load-metrics in a format that a client asked for, as vLLM writes it (entrypoints/openai/orca_metrics.py).
// Empty: it is no format.
func (s *Server) orca(format string) string {
	format = strings.ToUpper(format)
	if format != "TEXT" && format != "JSON" {
		return ""
	}
	r := s.read(false)
	kv, waiting := python(r.kv), python(r.waiting)
	if format == "TEXT" {
		return "TEXT named_metrics.kv_cache_usage_perc=" + kv + ", named_metrics.num_requests_waiting=" + waiting
	}
	return `JSON {"named_metrics": {"kv_cache_usage_perc": ` + kv + `, "num_requests_waiting": ` + waiting + `}}`
}

// python is v as Python prints a float, up to 10^16.
func python(v float64) string {
	if v != 0 && v < 1e-4 {
		return strconv.FormatFloat(v, 'e', -1, 64)
	}
	s := strconv.FormatFloat(v, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}
