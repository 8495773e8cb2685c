package reading

import "time"

// Burst says when a burst of events is over: after Quiet without a further event, at the latest Limit
// after the first one.
type Burst struct {
	Quiet, Limit time.Duration

	first, last time.Time // zero: nothing has happened since the last Reset
}

// Event notes something that happened at now.
func (b *Burst) Event(now time.Time) {
	if b.first.IsZero() {
		b.first = now
	}
	b.last = now
}

// Pending says whether a burst is going on.
func (b *Burst) Pending() bool { return !b.first.IsZero() }

// Began is the time of the first event.
func (b *Burst) Began() time.Time { return b.first }

// Wait is the time from now until the burst counts as over; 0 or less means it does.
func (b *Burst) Wait(now time.Time) time.Duration {
	end := b.last.Add(b.Quiet)
	if latest := b.first.Add(b.Limit); latest.Before(end) {
		end = latest
	}
	return end.Sub(now)
}

// Reset ends the burst.
func (b *Burst) Reset() { b.first, b.last = time.Time{}, time.Time{} }
