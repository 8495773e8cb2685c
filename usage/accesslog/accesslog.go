// Package accesslog writes a line for every request that is over. Lines are JSON (docs/logs.md has the fields), or text where a person
// reads them. They hold no text of a prompt or an answer, no credential and no query.
package accesslog

import (
	"bufio"
	"context"
	"io"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-dev/weir/usage"
)

const (
	// queue is how many lines may wait to be written: some 4 MiB.
	queue = 4096
	// buffer is how much is written at once, in bytes.
	buffer = 64 << 10
	// largeLine is the largest buffer of a line that is kept for another, in bytes.
	largeLine = 8 << 10
)

// Options are what a Log needs.
type Options struct {
	// Out takes whole lines.
	Out io.Writer
	// Text writes lines for people instead of JSON.
	Text bool
	// Registry takes the metrics.
	Registry prometheus.Registerer
}

// Log writes lines. Nobody waits for it: where Out does not keep up, lines are dropped and counted. It is safe for concurrent use.
type Log struct {
	encode  func([]byte, *usage.Finished) []byte
	out     io.Writer
	off     atomic.Bool
	lines   chan *line
	free    sync.Pool // of *line
	written prometheus.Counter
	full    prometheus.Counter
	failed  prometheus.Counter

	closing sync.Once
	closed  chan struct{} // from then on lines are dropped
	done    chan struct{} // closed when the last line is written
}

type line struct{ b []byte }

// New makes a Log and starts it. Close it.
func New(o Options) *Log {
	dropped := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "weir_access_log_dropped_total",
		Help: "Lines of the access log that were not written: because standard output did not keep up (full), or took nothing (write).",
	}, []string{"reason"})
	l := &Log{
		encode: appendJSON, out: o.Out,
		lines: make(chan *line, queue), free: sync.Pool{New: func() any { return &line{} }},
		written: prometheus.NewCounter(prometheus.CounterOpts{Name: "weir_access_log_lines_total", Help: "Lines of the access log that were written."}),
		full:    dropped.WithLabelValues("full"), failed: dropped.WithLabelValues("write"),
		closed: make(chan struct{}), done: make(chan struct{}),
	}
	if o.Text {
		l.encode = appendText
	}
	o.Registry.MustRegister(dropped, l.written)
	go l.run()
	return l
}

// SetEnabled turns the log on or off. It begins on.
func (l *Log) SetEnabled(on bool) { l.off.Store(!on) }

// Finished writes the line of a request, some time. It is a usage.FinishedSink.
func (l *Log) Finished(f *usage.Finished) {
	if l.off.Load() || !f.Own() {
		return
	}
	x := l.free.Get().(*line)
	x.b = l.encode(x.b[:0], f)
	select {
	case <-l.closed:
		l.full.Inc()
		return
	default:
	}
	select {
	case l.lines <- x:
	default:
		l.full.Inc()
		l.free.Put(x)
	}
}

// Close writes the lines that wait, for as long as ctx allows. Those that come later are dropped.
func (l *Log) Close(ctx context.Context) {
	l.closing.Do(func() { close(l.closed) })
	select {
	case <-l.done:
	case <-ctx.Done():
	}
}

// run writes lines as they come, and lets none wait while no other comes.
func (l *Log) run() {
	defer close(l.done)
	w := &counted{Log: l}
	out := bufio.NewWriterSize(w, buffer)
	put := func(x *line) {
		if len(x.b) > out.Available() {
			w.flush(out) // whole lines only: others may write to the same place
		}
		w.waiting++
		_, _ = out.Write(x.b) // what fails is counted by flush
		if cap(x.b) <= largeLine {
			l.free.Put(x)
		}
	}
	for {
		select {
		case x := <-l.lines:
			put(x)
			continue
		default:
		}
		w.flush(out)
		select {
		case x := <-l.lines:
			put(x)
		case <-l.closed:
			for {
				select {
				case x := <-l.lines:
					put(x)
					continue
				default:
				}
				w.flush(out)
				return
			}
		}
	}
}

// counted counts the lines that are written and those that are not.
type counted struct {
	*Log
	waiting int  // lines in the buffer
	torn    bool // the last that was written is half a line
}

// Write implements io.Writer.
func (c *counted) Write(b []byte) (int, error) {
	if c.torn {
		if _, err := c.out.Write([]byte("\n")); err != nil {
			return 0, err
		}
		c.torn = false
	}
	n, err := c.out.Write(b)
	c.torn = err != nil && n > 0 && b[n-1] != '\n'
	return n, err
}

// flush writes the lines of a buffer, or drops them.
func (c *counted) flush(out *bufio.Writer) {
	if c.waiting == 0 {
		return
	}
	if err := out.Flush(); err != nil {
		c.failed.Add(float64(c.waiting))
		out.Reset(c) // it would take nothing more
	} else {
		c.written.Add(float64(c.waiting))
	}
	c.waiting = 0
}
