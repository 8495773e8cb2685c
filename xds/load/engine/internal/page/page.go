// Package page is what the readers of all engines have in common: the walk over a page, and the sample of what was found on it.
package page

import (
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/weir-dev/weir/xds/load/engine/internal/queue"
	"github.com/weir-dev/weir/xds/load/engine/internal/tally"
	"github.com/weir-dev/weir/xds/load/promtext"
	"github.com/weir-dev/weir/xds/load/signal"
)

// Page walks over one page after the other, and remembers what the delay of the queue needs. The zero value has seen none.
type Page struct {
	promtext.Scanner
	own, other bool // kinds of metrics that the page holds
	delay      queue.Delay
}

// Found is what one page says.
type Found struct {
	queue.Counts
	KVCache   tally.Max // used part, 0..1
	KVTokens  tally.Sum // size of the cache
	BlockSize tally.Max // tokens; used where KVTokens is not known
	Blocks    tally.Sum // in the cache, likewise
	GPU       tally.Max // busy part, 0..1
	GPUMemory tally.Max // used part, 0..1
}

// Begin begins a page.
func (p *Page) Begin(src io.Reader) {
	p.own, p.other = false, false
	p.Reset(src)
}

// Own goes to the next sample whose metric's name begins with the prefix, and gives the rest of the name; at the page's end false.
func (p *Page) Own(prefix string) ([]byte, bool) {
	for p.Next() {
		if name, ok := tally.Own(p.Name(), prefix); ok {
			p.own = true
			return name, true
		}
		p.other = true
	}
	return nil, false
}

// Sample ends a page. Servers that have answered nothing yet may show no metric at all, but those that show only others' are not
// what they were taken for: that is an error.
func (p *Page) Sample(at time.Time, engine string, f *Found) (signal.Sample, error) {
	if err := p.Err(); err != nil {
		return signal.Sample{}, err
	}
	if p.other && !p.own {
		return signal.Sample{}, fmt.Errorf("the metrics hold none of %s: is it the right type?", engine)
	}
	s := signal.Sample{At: at}
	set := func(m signal.Metric, to *float64, v float64, known bool) {
		if known {
			*to, s.Has = v, s.Has.With(m)
		}
	}
	set(signal.Waiting, &s.Waiting, f.Waiting.Value, f.Waiting.Known)
	set(signal.Running, &s.Running, f.Running.Value, f.Running.Known)
	set(signal.KVCache, &s.KVCache, f.KVCache.Part(), f.KVCache.Known)
	set(signal.GPUUtilization, &s.GPUUtilization, f.GPU.Part(), f.GPU.Known)
	set(signal.GPUMemory, &s.GPUMemory, f.GPUMemory.Part(), f.GPUMemory.Known)
	if !f.KVTokens.Known {
		f.KVTokens.Add(f.BlockSize.Value*f.Blocks.Value, f.BlockSize.Known && f.Blocks.Known)
	}
	set(signal.KVTokens, &s.KVTokens, f.KVTokens.Value, f.KVTokens.Known && f.KVTokens.Value > 0)
	if d, ok := p.delay.Update(at, f.Counts); ok {
		s.QueueDelay, s.Has = d, s.Has.With(signal.QueueDelay)
	}
	return s, nil
}

// Count is the value of the sample's label that counts something, not 0. What a server has not measured yet is "None" in some.
func (p *Page) Count(label string) (float64, bool) {
	text, ok := p.Label(label)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(string(text), 10, 62)
	return float64(n), err == nil && n > 0
}
