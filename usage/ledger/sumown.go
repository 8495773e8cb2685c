package ledger

import (
	"context"
	"time"
)

// SumOwn is Sum of this process's slot alone: what it has entered, and what earlier processes of the slot have. It is
// what this replica has spent where each tells the others its part.
func (l *Ledger) SumOwn(ctx context.Context, from, to time.Time, by ...Dimension) ([]Row, error) {
	_ = l.Flush()
	slot := l.slotDir()
	files, err := listSlot(slot)
	if err != nil {
		return nil, err
	}
	sums := NewSummer(Query{From: from, To: to, GroupBy: by})
	for _, f := range files.segments {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := sums.addSegment(ctx, slot, f); err != nil {
			return nil, err
		}
	}
	return sums.Report().Rows, nil
}
