package ledger

import (
	"context"
	"testing"
	"time"
)

// TestVoid: a request that was no request is in no sum and no list, nor entered as interrupted, wherever its intent stood.
func TestVoid(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, dir, manual())
	void := func(id string) {
		t.Helper()
		if !l.Commit(Entry{ID: id, Time: start, Void: true}) {
			t.Fatalf("%s was refused", id)
		}
	}
	for _, id := range []string{"early", "late", "real", "open"} {
		if !l.Begin(intent(id)) {
			t.Fatal(id)
		}
	}
	void("early") // its intent has not been written
	if err := l.Sync(); err != nil {
		t.Fatal(err)
	}
	void("late")
	if l.Commit(entry("late")) {
		t.Error("it was entered after all")
	}
	if !l.Commit(entry("real")) {
		t.Fatal("the real one was refused")
	}
	if err := l.Sync(); err != nil {
		t.Fatal(err)
	}
	l.die()
	l = mustOpen(t, dir, manual())
	got := all(t, dir)
	if len(got) != 2 || got["real"].Cost != 123 || !got["open"].Interrupted {
		t.Errorf("%+v", got)
	}
	for name, sum := range map[string]func(context.Context, time.Time, time.Time, ...Dimension) ([]Row, error){"all slots": l.Sum, "its own": l.SumOwn} {
		if rows, err := sum(context.Background(), time.Time{}, time.Time{}); err != nil || len(rows) != 1 || rows[0].Requests != 2 || rows[0].Interrupted != 1 {
			t.Errorf("%s: %+v, %v", name, rows, err)
		}
	}
}
