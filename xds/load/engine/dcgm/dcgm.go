// Package dcgm reads the metrics of NVIDIA's DCGM exporter (docs.nvidia.com/datacenter/dcgm), at port 9400. It tells all GPUs of its
// host, and by default measures every 30 s: set its collect interval (-c) to what the readings are to be worth.
package dcgm

import (
	"io"
	"time"

	"github.com/weir-dev/weir/xds/load/engine/internal/page"
	"github.com/weir-dev/weir/xds/load/engine/internal/tally"
	"github.com/weir-dev/weir/xds/load/signal"
)

// Reader reads the metrics of one host.
type Reader struct {
	page   page.Page
	memory tally.Parts // of each GPU or part of one, MiB: used, free
}

// New is a Reader that has read no page.
func New() *Reader { return &Reader{} }

// Read reads one page. The busiest and the fullest GPU count.
func (r *Reader) Read(src io.Reader, at time.Time) (signal.Sample, error) {
	p, f := &r.page, page.Found{}
	var engines tally.Max
	r.memory.Reset()
	p.Begin(src)
	for {
		name, ok := p.Own("DCGM")
		if !ok {
			break
		}
		switch string(name) {
		case "FI_DEV_GPU_UTIL": // percent of the time that some kernel ran
			if v, ok := measured(p); ok && v <= 100 {
				f.GPU.Add(v/100, true)
			}
		case "FI_PROF_GR_ENGINE_ACTIVE": // 0..1
			if v, ok := measured(p); ok && v <= 1 {
				engines.Add(v, true)
			}
		case "FI_DEV_FB_USED":
			v, ok := measured(p)
			r.memory.First(gpu(p), v, ok)
		case "FI_DEV_FB_FREE":
			v, ok := measured(p)
			r.memory.Second(gpu(p), v, ok)
		}
	}
	if !f.GPU.Known { // GPUs in MIG mode have no GPU_UTIL
		f.GPU = engines
	}
	f.GPUMemory = r.memory.Fullest(func(used, free float64) float64 { return used / (used + free) })
	return p.Sample(at, "the DCGM exporter", &f)
}

// blank is the least of the numbers that DCGM gives for what it could not measure: DCGM_INT32_BLANK. Those of 64 bits are larger, as
// 9223372036854775794 for what a GPU does not support. No percentage and no memory in MiB comes near it.
const blank = 0x7ffffff0

func measured(p *page.Page) (float64, bool) {
	v, ok := p.Value()
	return v, ok && v < blank
}

// gpu tells GPUs, and the instances of GPUs in MIG mode, apart. Not every exporter shows all of these labels.
func gpu(p *page.Page) uint64 {
	key := uint64(0)
	for _, name := range [...]string{"gpu", "UUID", "GPU_I_ID"} {
		label, _ := p.Label(name)
		key = 31*key + tally.Key(label)
	}
	return key
}
