package scrape

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-dev/weir/xds/load/engine"
	"github.com/weir-dev/weir/xds/load/internal/fetch"
	"github.com/weir-dev/weir/xds/load/internal/schedule"
	"github.com/weir-dev/weir/xds/load/signal"
)

const (
	// hurryLeast and hurryMost are between which times after Hurry an endpoint is read: late enough for an engine to have made
	// a few steps, and soon enough for two readings in a row across a line within a tick.
	hurryLeast = 25 * time.Millisecond
	hurryMost  = 50 * time.Millisecond
	// maxHurries in a row bound what Hurry may cost: after them comes a reading at its regular time.
	maxHurries = 3
	// patience is how many readings in a row may fail before a target is read no more often than every slow: its figures are
	// stale then, and its return should be seen soon all the same.
	patience = 3
	slow     = 2 * time.Second
	// logEvery bounds how often one target is complained about.
	logEvery = time.Minute
)

// job reads one target.
type job struct {
	opts   *Options
	page   *fetch.Page
	entry  *schedule.Entry
	target atomic.Pointer[Target]

	hurryMu sync.Mutex
	hurried bool // the next reading is one that Hurry asked for
	inHaste int  // such readings since the last regular one

	// Of the one run at a time:
	reader     engine.Reader
	failures   int       // in a row
	complained bool      // the log knows of them
	told       time.Time // when the log was last told of failures
}

func (j *job) hurry() {
	j.hurryMu.Lock()
	defer j.hurryMu.Unlock()
	if j.hurried || j.inHaste >= maxHurries {
		return
	}
	j.hurried = true
	random := time.Duration(j.opts.Rand() * float64(hurryMost-hurryLeast))
	j.entry.Hurry(hurryLeast + random)
}

// began notes that a reading begins.
func (j *job) began() {
	j.hurryMu.Lock()
	defer j.hurryMu.Unlock()
	if j.hurried {
		j.hurried = false
		j.inHaste++
	} else {
		j.inHaste = 0
	}
}

// run reads the target once.
func (j *job) run(ctx context.Context, late time.Duration) schedule.Outcome {
	j.began()
	t := j.target.Load()
	r := Reading{Target: t, Began: j.opts.Now(), Late: late}
	r.Bytes, r.Err = j.page.Read(ctx, t.Timeout, MaxPage, func(page io.Reader) (err error) {
		r.Sample, err = j.reader.Read(page, j.opts.Now())
		return err
	})
	r.Took = j.opts.Now().Sub(r.Began)
	if ctx.Err() != nil {
		return schedule.Outcome{} // the target is gone
	}
	answered := r.Err == nil
	var known *fetch.Error
	switch {
	case errors.As(r.Err, &known):
		r.Fault = known.Fault
	case r.Err == nil && r.Sample.Has == 0:
		r.Err, r.Fault = fmt.Errorf("the page has none of the metrics of %s", t.Engine.Name), Empty
	}
	if r.Err != nil {
		r.Sample = signal.Sample{}
	}
	j.note(t, r.Err)
	j.opts.Sink(r)
	after := t.Interval
	if !answered && j.failures >= patience {
		after = max(after, slow)
	}
	// A server that answers in time, with whatever, takes nobody's place.
	return schedule.Outcome{After: after, Suspect: r.Fault == fetch.Timeout}
}

// note counts failures and tells the log when they begin to matter and when they are over.
func (j *job) note(t *Target, err error) {
	log := func() *slog.Logger {
		return j.opts.Log.With("backend", t.Pool, "endpoint", t.Endpoint, "engine", t.Engine.Name, "url", j.page.Where)
	}
	if err == nil {
		if j.complained {
			log().Info("the metrics of an endpoint can be read again")
		}
		j.failures, j.complained = 0, false
		return
	}
	j.failures++
	if now := j.opts.Now(); j.failures >= patience && !j.complained && (j.told.IsZero() || now.Sub(j.told) >= logEvery) {
		j.told, j.complained = now, true
		log().Warn("the metrics of an endpoint cannot be read", "failures", j.failures, "error", err)
	}
}
