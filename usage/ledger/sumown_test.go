package ledger

import (
	"context"
	"testing"
	"time"
)

// TestSumOwn: two processes share a state folder, and each has entered its own; so had the one before in its slot.
func TestSumOwn(t *testing.T) {
	dir := t.TempDir()
	before := mustOpen(t, dir, manual())
	add(t, before, "a", "b")
	if err := before.Close(); err != nil {
		t.Fatal(err)
	}
	l, other := mustOpen(t, dir, manual()), mustOpen(t, dir, manual())
	add(t, l, "c")
	add(t, other, "d", "e", "f", "g")
	if err := other.Flush(); err != nil {
		t.Fatal(err)
	}
	requests := func(rows []Row, err error) int64 {
		t.Helper()
		if err != nil || len(rows) > 1 {
			t.Fatalf("%+v, %v", rows, err)
		}
		if len(rows) == 0 {
			return 0
		}
		return rows[0].Requests
	}
	ctx := context.Background()
	for _, x := range []struct {
		l        *Ledger
		from     time.Time
		all, own int64
	}{{l, time.Time{}, 7, 3}, {other, time.Time{}, 7, 4}, {l, start.Add(1), 0, 0}} {
		all, own := requests(x.l.Sum(ctx, x.from, time.Time{}, ByTenant)), requests(x.l.SumOwn(ctx, x.from, time.Time{}, ByTenant))
		if all != x.all || own != x.own {
			t.Errorf("%d requests in all slots and %d in this one, not %d and %d", all, own, x.all, x.own)
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := l.SumOwn(ctx, time.Time{}, time.Time{}); err == nil {
		t.Error("the caller went, and it read on")
	}
}
