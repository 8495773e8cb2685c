package ledger

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"
)

// Read answers a query from the ledger of a state folder, without any lock: processes may be writing it. Closed
// segments are read from their sums where the query allows it.
func Read(ctx context.Context, state string, q Query) (*Report, error) {
	sums := NewSummer(q)
	err := eachSegment(ctx, state, func(slot string, s segmentFiles) error { return sums.addSegment(ctx, slot, s) })
	if err != nil {
		return nil, err
	}
	return sums.Report(), nil
}

// Each calls fn for every entry that a query is about, slot by slot, about in the order in which requests ended. The entry
// is valid until fn returns. The report has no rows.
func Each(ctx context.Context, state string, q Query, fn func(*Entry) error) (*Report, error) {
	report := &Report{}
	err := eachSegment(ctx, state, func(slot string, s segmentFiles) error {
		if s.rollup {
			if h, err := readRollup(slot, s.base, nil); err == nil && q.misses(h) {
				return nil
			}
		}
		found, err := readSegment(ctx, slot, s.base, func(e *Entry) error {
			if !q.Matches(e) {
				return nil
			}
			return fn(e)
		})
		report.Damaged += found.damaged
		report.Doubles += found.doubles
		return err
	})
	return report, err
}

func eachSegment(ctx context.Context, state string, fn func(slot string, s segmentFiles) error) error {
	slots, err := slotDirs(state)
	if err != nil {
		return err
	}
	for _, slot := range slots {
		files, err := listSlot(slot)
		if err != nil {
			return err
		}
		for _, s := range files.segments {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := fn(slot, s); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Summer) addSegment(ctx context.Context, slot string, f segmentFiles) error {
	if f.rollup {
		if done, err := s.addRollup(slot, f.base); done || err != nil {
			return err
		}
	}
	found, err := readSegment(ctx, slot, f.base, func(e *Entry) error { s.Add(e); return nil })
	s.Damaged += found.damaged
	s.Doubles += found.doubles
	return err
}

// addRollup adds a segment's sums if they are enough to answer the query.
func (s *Summer) addRollup(slot string, base uint64) (done bool, err error) {
	h, err := readRollup(slot, base, nil)
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, errRollup):
		return false, nil // the segment itself says all that the roll-up does
	case err != nil:
		return false, err
	case s.query.misses(h):
		return true, nil
	}
	covers := s.query.inTime(h.First) && s.query.inTime(h.Last)
	if !covers && !(wholeDay(s.query.From) && wholeDay(s.query.To)) {
		return false, nil
	}
	var rows []Row
	if h, err = readRollup(slot, base, func(r *Row) { rows = append(rows, *r) }); err != nil {
		return false, nil
	}
	for i := range rows {
		// All entries of a row began on its day, and the query's bounds are between days if it does not cover
		// the segment anyway.
		if !covers {
			day, err := time.Parse(time.DateOnly, rows[i].Day)
			if err != nil {
				return false, nil
			}
			if !s.query.inTime(day) {
				continue
			}
		}
		s.addRow(&rows[i])
	}
	s.Damaged += h.Damaged
	s.Doubles += h.Doubles
	return true, nil
}

// misses reports whether no entry of a segment can be what the query is about.
func (q *Query) misses(h rollup) bool {
	if h.First.IsZero() {
		return h.Lines == 0
	}
	return !q.From.IsZero() && h.Last.Before(q.From) || !q.To.IsZero() && !h.First.Before(q.To)
}

func wholeDay(t time.Time) bool { return t.IsZero() || t.UTC().Truncate(24*time.Hour).Equal(t) }

// readSegment is scanEntries for a segment that may be closed or deleted meanwhile.
func readSegment(ctx context.Context, slot string, base uint64, fn func(*Entry) error) (scan, error) {
	r, err := openSegment(slot, base)
	if errors.Is(err, fs.ErrNotExist) {
		return scan{}, nil // retention was faster
	}
	if err != nil {
		return scan{}, err
	}
	defer r.Close()
	const checkEvery = 1024
	n := 0
	var stopped error
	found, err := scanEntries(r, func(e *Entry) error {
		if n++; n%checkEvery == 0 {
			stopped = ctx.Err()
		}
		if stopped == nil {
			stopped = fn(e)
		}
		return stopped
	})
	if err != nil && err != stopped {
		err = fmt.Errorf("cannot read %s: %w", segmentPath(slot, base, ""), err)
	}
	return found, err
}
