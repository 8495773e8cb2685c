// Package engine lists the inference servers and exporters whose metrics Weir reads. Each has a folder of its own that knows the
// names of its metrics; here is what they have in common.
package engine

import (
	"io"
	"time"

	"github.com/weir-dev/weir/xds/load/engine/dcgm"
	"github.com/weir-dev/weir/xds/load/engine/sglang"
	"github.com/weir-dev/weir/xds/load/engine/tgi"
	"github.com/weir-dev/weir/xds/load/engine/triton"
	"github.com/weir-dev/weir/xds/load/engine/trtllm"
	"github.com/weir-dev/weir/xds/load/engine/vllm"
	"github.com/weir-dev/weir/xds/load/signal"
)

// Reader turns the metrics of one endpoint, in the Prometheus text format, into samples. It remembers what rates need, so there is
// one for each endpoint and source, and a new one begins without that memory. It is not safe for concurrent use.
type Reader interface {
	// Read reads one page that was answered at that time. Times of later calls are later. An error says that the page is not
	// what the engine sends; the sample is then empty. It does not close r.
	Read(r io.Reader, at time.Time) (signal.Sample, error)
}

// Engine is one kind of server.
type Engine struct {
	Name        string // as v1alpha1.MetricsType spells it
	DefaultPort int    // of its metrics; 0: the port that it answers requests on
	DefaultPath string // of its metrics
	New         func() Reader
}

// Catalog is every Engine, by name. It is a new slice each time.
func Catalog() []Engine {
	return []Engine{
		{Name: "DCGM", DefaultPort: 9400, DefaultPath: "/metrics", New: func() Reader { return dcgm.New() }},
		{Name: "SGLang", DefaultPath: "/metrics", New: func() Reader { return sglang.New() }},
		{Name: "TGI", DefaultPath: "/metrics", New: func() Reader { return tgi.New() }},
		// trtllm-serve answers /metrics with JSON of its iterations.
		{Name: "TensorRTLLM", DefaultPath: "/prometheus/metrics", New: func() Reader { return trtllm.New() }},
		{Name: "Triton", DefaultPort: 8002, DefaultPath: "/metrics", New: func() Reader { return triton.New() }},
		{Name: "VLLM", DefaultPath: "/metrics", New: func() Reader { return vllm.New() }},
	}
}

// Find is the Engine of that name.
func Find(name string) (Engine, bool) {
	for _, e := range Catalog() {
		if e.Name == name {
			return e, true
		}
	}
	return Engine{}, false
}
