package ledger

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// remindEvery is how often a problem that lasts is logged.
const remindEvery = time.Minute

// problem is what is wrong with one kind of work.
type problem struct {
	err    error
	since  time.Time
	logged time.Time
}

// health is what is wrong now.
type health struct {
	mu                 sync.Mutex
	write, sync, sweep problem
}

// set notes how a piece of work went, and logs when that changes, and from time to time while it stays bad.
func (h *health) set(p *problem, err error, log *slog.Logger, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case err == nil && p.err != nil:
		log.Info("the ledger works again", "after", now.Sub(p.since))
		*p = problem{}
		return
	case err == nil:
		return
	case p.err == nil:
		p.since = now
	}
	if p.err == nil || now.Sub(p.logged) >= remindEvery {
		log.Error("the ledger has a problem", "error", err, "since", p.since)
		p.logged = now
	}
	p.err = err
}

// Health says what is wrong with the ledger now: nil when everything is written in time. Requests are served all the
// same; what cannot be written is kept in memory up to a bound.
func (l *Ledger) Health() error {
	l.health.mu.Lock()
	errs := []error{l.health.write.err, l.health.sync.err, l.health.sweep.err}
	l.health.mu.Unlock()
	err := errors.Join(errs...)
	if err == nil {
		return nil
	}
	if s := l.Stats(); s.DroppedEntries > 0 {
		err = fmt.Errorf("%w\n%d entries were dropped since the start because there was no room to keep them", err, s.DroppedEntries)
	}
	return err
}

// Stats are counts since Open, and some states.
type Stats struct {
	// Open requests: begun and not ended.
	Open int
	// Waiting lines to be written now, not counting what came since the last flush.
	Waiting int64
	// Flushes of the buffers, and Written entries.
	Flushes, Written int64
	// Dropped because there was no room in memory while they could not be written.
	DroppedEntries, DroppedIntents int64
	// Doubles are calls of Begin and Commit that were refused.
	Doubles int64
	// Torn lines were cut off, Damaged ones passed over, Interrupted requests entered, when slots were taken over.
	Torn, Damaged, Interrupted int64
	// Deleted entries by retention; Unshipped of those had not been sent yet.
	Deleted, Unshipped int64
}

// Stats returns them.
func (l *Ledger) Stats() Stats {
	s := Stats{
		Torn: l.counts.torn.Load(), Damaged: l.counts.damaged.Load(), Interrupted: l.counts.interrupted.Load(),
		Deleted: l.counts.deleted.Load(), Unshipped: l.counts.unshipped.Load(),
	}
	for i := range l.buffers.shards {
		b := &l.buffers.shards[i]
		b.mu.Lock()
		s.Open += len(b.open)
		s.DroppedEntries += b.droppedEntries
		s.DroppedIntents += b.droppedIntents
		s.Doubles += b.doubles
		b.mu.Unlock()
	}
	l.writing.Lock()
	defer l.writing.Unlock()
	s.Flushes, s.Written, s.Waiting = l.w.flushes, l.w.written, int64(l.w.pendingLines)
	return s
}

// collector exports Stats.
type collector struct {
	ledger *Ledger
	descs  []*prometheus.Desc
}

// metrics are the names in the order of values.
func metrics() [][2]string {
	return [][2]string{
		{"weir_ledger_healthy", "1 while the ledger is written in time."},
		{"weir_ledger_open_requests", "Requests that have begun and not ended."},
		{"weir_ledger_entries_total", "Entries written."},
		{"weir_ledger_dropped_entries_total", "Entries dropped because there was no room while they could not be written."},
		{"weir_ledger_dropped_intents_total", "Requests that are unprotected against a crash for the same reason."},
		{"weir_ledger_refused_total", "Entries and beginnings refused because they would have been there twice."},
		{"weir_ledger_torn_lines_total", "Lines cut off when a slot was taken over."},
		{"weir_ledger_damaged_lines_total", "Lines of journals that could not be read when a slot was taken over."},
		{"weir_ledger_interrupted_total", "Requests of dead processes that were entered with their estimate."},
		{"weir_ledger_deleted_entries_total", "Entries deleted by retention."},
		{"weir_ledger_deleted_unshipped_entries_total", "Entries deleted by retention before they were sent to the shared ledger."},
	}
}

// Collector exports the ledger's state and counts to Prometheus.
func (l *Ledger) Collector() prometheus.Collector {
	c := &collector{ledger: l}
	for _, m := range metrics() {
		c.descs = append(c.descs, prometheus.NewDesc(m[0], m[1], nil, nil))
	}
	return c
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	s := c.ledger.Stats()
	values := []int64{
		count(c.ledger.Health() == nil), int64(s.Open), s.Written, s.DroppedEntries, s.DroppedIntents, s.Doubles,
		s.Torn, s.Damaged, s.Interrupted, s.Deleted, s.Unshipped,
	}
	for i, v := range values {
		kind := prometheus.CounterValue
		if i < 2 {
			kind = prometheus.GaugeValue
		}
		ch <- prometheus.MustNewConstMetric(c.descs[i], kind, float64(v))
	}
}
