// Package sglang reads the metrics of SGLang's server (docs.sglang.io, "Production metrics"), which it shows when it is started with
// --enable-metrics.
package sglang

import (
	"io"
	"time"

	"github.com/weir-dev/weir/xds/load/engine/internal/page"
	"github.com/weir-dev/weir/xds/load/engine/internal/tally"
	"github.com/weir-dev/weir/xds/load/signal"
)

// Reader reads the metrics of one server.
type Reader struct {
	page                     page.Page
	waiting, running, tokens tally.Parts // by data-parallel rank
}

// New is a Reader that has read no page.
func New() *Reader { return &Reader{} }

// Read reads one page. Each data-parallel rank has a scheduler with requests of its own: they are summed. The tensor-parallel ranks of
// one scheduler work on the same requests, and with --enable-metrics-for-all-schedulers each tells them: they count once. Of the use
// of the cache the fullest rank's counts.
func (r *Reader) Read(src io.Reader, at time.Time) (signal.Sample, error) {
	p, f := &r.page, page.Found{}
	r.waiting.Reset()
	r.running.Reset()
	r.tokens.Reset()
	p.Begin(src)
	for {
		name, ok := p.Own("sglang")
		if !ok {
			break
		}
		switch string(name) {
		case "num_queue_reqs":
			r.add(&r.waiting)
		case "num_running_reqs":
			r.add(&r.running)
		case "token_usage": // 0..1
			f.KVCache.Add(p.Value())
		case "max_total_num_tokens":
			r.add(&r.tokens)
		case "cache_config_info":
			v, ok := capacity(p)
			r.tokens.First(rank(p), v, ok)
		case "num_requests_total", "num_aborted_requests_total":
			f.Finished.Add(p.Value())
		case "queue_time_seconds_sum":
			f.Seconds.Add(p.Value())
		case "queue_time_seconds_count":
			f.Entered.Add(p.Value())
		}
	}
	f.Waiting, f.Running, f.KVTokens = r.waiting.Total(), r.running.Total(), r.tokens.Total()
	return p.Sample(at, "SGLang", &f)
}

// add takes the value of the sample for its rank.
func (r *Reader) add(to *tally.Parts) {
	v, ok := r.page.Value()
	to.First(rank(&r.page), v, ok)
}

// rank tells data-parallel ranks apart. Servers with one show no label.
func rank(p *page.Page) uint64 {
	label, _ := p.Label("dp_rank")
	return tally.Key(label)
}

// capacity is the size of the cache in tokens that newer servers tell in labels.
func capacity(p *page.Page) (float64, bool) {
	size, ok := p.Count("page_size")
	if !ok {
		return 0, false
	}
	pages, ok := p.Count("num_pages")
	return size * pages, ok
}
