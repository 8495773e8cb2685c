// Package tgi reads the metrics of Hugging Face's Text Generation Inference (huggingface.co/docs/text-generation-inference,
// "Metrics"). It does not tell how full its cache is, and shows a metric only after the first request that touches it.
package tgi

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

// Read reads one page.
func (r *Reader) Read(src io.Reader, at time.Time) (signal.Sample, error) {
	p, f := &r.page, page.Found{}
	p.Begin(src)
	for {
		name, ok := p.Own("tgi")
		if !ok {
			return p.Sample(at, "TGI", &f)
		}
		switch string(name) {
		case "queue_size":
			f.Waiting.Add(p.Value())
		case "batch_current_size":
			f.Running.Add(p.Value())
		case "request_success", "request_failure":
			f.Finished.Add(p.Value())
		case "request_queue_duration_sum":
			f.Seconds.Add(p.Value())
		case "request_queue_duration_count":
			f.Entered.Add(p.Value())
		}
	}
}
