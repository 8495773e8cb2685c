package ledger

import (
	"fmt"
	"time"
)

// ParsePeriod reads the bounds of a report: from <= t < to. Without first it begins with this month, without last it has no end.
// Where last is a day, that day is part of the report. The error begins with the name of the bound, from or to.
func ParsePeriod(first, last string, now time.Time) (from, to time.Time, err error) {
	now = now.UTC()
	from = time.Date(now.Year(), now.Month(), 1, 0, 0, 0, 0, time.UTC)
	if first != "" {
		if from, _, err = ParseWhen(first); err != nil {
			return from, to, fmt.Errorf("from %w", err)
		}
	}
	if last == "" {
		return from, to, nil
	}
	to, day, err := ParseWhen(last)
	if err != nil {
		return from, to, fmt.Errorf("to %w", err)
	}
	if day {
		to = to.AddDate(0, 0, 1)
	}
	if !from.Before(to) {
		return from, to, fmt.Errorf("to %s is before the beginning, %s", last, from.Format(time.RFC3339))
	}
	return from, to, nil
}

// ParseWhen reads a day, which begins at midnight in UTC, or a time.
func ParseWhen(s string) (t time.Time, day bool, err error) {
	if t, err = time.Parse(time.DateOnly, s); err == nil {
		return t, true, nil
	}
	if t, err = time.Parse(time.RFC3339, s); err == nil {
		return t, false, nil
	}
	return t, false, fmt.Errorf("%q is neither a day such as 2026-03-01 nor a time such as 2026-03-01T12:00:00Z", s)
}
