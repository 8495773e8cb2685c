package files

import "time"

// debouncer says when a burst of events is over: after quiet without a further event, at the latest limit
// after the first one.
type debouncer struct {
	quiet, limit time.Duration
	first, last  time.Time // zero: nothing has happened since the last reset
}

// event notes something that happened at now.
func (d *debouncer) event(now time.Time) {
	if d.first.IsZero() {
		d.first = now
	}
	d.last = now
}

// pending says whether a burst is going on.
func (d *debouncer) pending() bool { return !d.first.IsZero() }

// wait is the time from now until the burst counts as over; 0 or less means it does.
func (d *debouncer) wait(now time.Time) time.Duration {
	end := d.last.Add(d.quiet)
	if latest := d.first.Add(d.limit); latest.Before(end) {
		end = latest
	}
	return end.Sub(now)
}

// reset ends the burst.
func (d *debouncer) reset() { d.first, d.last = time.Time{}, time.Time{} }
