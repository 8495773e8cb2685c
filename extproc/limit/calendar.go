package limit

import "time"

// PeriodAt is the period of a Calendar rule that t is in: from start, up to and without end. Both are zero for other rules.
func (r *Rule) PeriodAt(t time.Time) (start, end time.Time) {
	if r.Algorithm != Calendar || r.Unit == Concurrent {
		return time.Time{}, time.Time{}
	}
	return periodAt(t, r.Period, r.Location)
}

// periodAt finds the period's first and last day by the calendar, and the instants at which those days begin.
func periodAt(t time.Time, p Period, loc *time.Location) (start, end time.Time) {
	if loc == nil {
		loc = time.UTC
	}
	y, m, d := t.In(loc).Date()
	switch p {
	case Week:
		monday := d - (int(t.In(loc).Weekday())+6)%7
		return dayStart(y, m, monday, loc), dayStart(y, m, monday+7, loc)
	case Month:
		return dayStart(y, m, 1, loc), dayStart(y, m+1, 1, loc)
	case Day:
	}
	return dayStart(y, m, d, loc), dayStart(y, m, d+1, loc)
}

// dayStart is the first instant whose date in loc is the given one or a later one. That is midnight where the clocks show
// midnight once; where they are put forward over midnight it is when they are, and where midnight comes twice the first.
// time.Date promises neither.
func dayStart(y int, m time.Month, d int, loc *time.Location) time.Time {
	utc := time.Date(y, m, d, 0, 0, 0, 0, time.UTC)
	near := time.Date(y, m, d, 0, 0, 0, 0, loc)
	from, to := near.ZoneBounds()
	var found time.Time
	// The zones that may hold around that midnight: the one there, the one before and the one after.
	for _, at := range []time.Time{from.Add(-1), near, to} {
		if at.Year() < y-2 || at.Year() > y+2 { // the zone has no bound on that side, or none that matters
			continue
		}
		_, offset := at.In(loc).Zone()
		midnight := utc.Add(-time.Duration(offset) * time.Second).In(loc)
		if midnight.Hour() == 0 && midnight.Minute() == 0 && midnight.Second() == 0 && sameDate(midnight, utc) &&
			(found.IsZero() || midnight.Before(found)) {
			found = midnight
		}
	}
	if !found.IsZero() {
		return found
	}
	// No clock shows that midnight: the day begins with the change that skips it.
	for _, change := range []time.Time{from, to} {
		if !change.IsZero() && !before(change.In(loc), utc) && before(change.Add(-1).In(loc), utc) {
			return change.In(loc)
		}
	}
	return near
}

// sameDate says whether two times show the same date where they are.
func sameDate(a, b time.Time) bool {
	ay, am, ad := a.Date()
	by, bm, bd := b.Date()
	return ay == by && am == bm && ad == bd
}

// before says whether a shows an earlier date than b, each where it is.
func before(a, b time.Time) bool {
	ay, am, ad := a.Date()
	by, bm, bd := b.Date()
	if ay != by {
		return ay < by
	}
	if am != bm {
		return am < bm
	}
	return ad < bd
}
