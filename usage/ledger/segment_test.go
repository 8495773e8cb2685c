package ledger

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

func TestRotation(t *testing.T) {
	dir := t.TempDir()
	o := manual()
	o.SegmentBytes = 3000
	c := &clock{start}
	o.Now = c.now
	l := mustOpen(t, dir, o)
	var want []string
	batch := func() {
		for range 5 {
			id := fmt.Sprintf("%03d", len(want))
			want = append(want, id)
			add(t, l, id)
		}
		if err := l.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	for range 6 {
		batch()
	}
	if got := glob(t, dir, "0/entries-*"); len(got) < 3 {
		t.Errorf("by size there are only %v", got)
	}
	before := len(glob(t, dir, "0/entries-*.jsonl"))
	c.t = c.t.Add(time.Hour) // over midnight
	batch()
	if n := len(glob(t, dir, "0/entries-*.jsonl")); n != before+1 {
		t.Errorf("midnight began %d segments", n-before)
	}
	l.sweep()
	plain, zipped, rollups := glob(t, dir, "0/entries-*.jsonl"), glob(t, dir, "0/entries-*.gz"), glob(t, dir, "0/entries-*.rollup")
	if len(plain) != 1 || len(zipped) < 3 || len(zipped) != len(rollups) {
		t.Errorf("after closing: %v %v %v", plain, zipped, rollups)
	}
	wantIDs(t, dir, want...)
	// An idle day ends its segment as well, so that retention can reach it.
	c.t = c.t.Add(24 * time.Hour)
	l.sweep()
	if plain := glob(t, dir, "0/entries-*.jsonl"); len(plain) != 0 {
		t.Errorf("yesterday's segment is still open: %v", plain)
	}
	batch()
	l.die()
	l = mustOpen(t, dir, o)
	batch()
	l.Close()
	wantIDs(t, dir, want...)
	if temps := glob(t, dir, "0/*.tmp"); len(temps) > 0 {
		t.Errorf("left behind: %v", temps)
	}
}

// TestClosingCanBeInterrupted leaves every state behind that a crash while closing a segment can.
func TestClosingCanBeInterrupted(t *testing.T) {
	for _, state := range []string{"temp", "both", "both with rollup", "no rollup", "bad rollup"} {
		t.Run(state, func(t *testing.T) {
			dir := t.TempDir()
			l := mustOpen(t, dir, manual())
			add(t, l, "a", "b")
			l.Flush()
			l.die()
			slot := filepath.Join(dir, ledgerDir, "0")
			plain, zipped, rollup := segmentPath(slot, 0, plainSuffix), segmentPath(slot, 0, gzipSuffix), segmentPath(slot, 0, rollupSuffix)
			was, _ := os.ReadFile(plain)
			if _, err := closeSegment(slot, 0); err != nil {
				t.Fatal(err)
			}
			must := func(errs ...error) {
				if err := errors.Join(errs...); err != nil {
					t.Fatal(err)
				}
			}
			switch state {
			case "temp":
				must(os.Rename(zipped, zipped+tempSuffix), os.Remove(rollup), os.WriteFile(plain, was, fileMode))
			case "both":
				must(os.Remove(rollup), os.WriteFile(plain, was, fileMode))
			case "both with rollup":
				must(os.WriteFile(plain, was, fileMode))
			case "no rollup":
				must(os.Remove(rollup))
			case "bad rollup":
				must(os.WriteFile(rollup, []byte(`{"version":1,"lines":2,"rows":7}`+"\n{}\n"), fileMode))
			}
			sum := func() int64 {
				r, err := Read(context.Background(), dir, Query{})
				if err != nil || len(r.Rows) != 1 {
					t.Fatalf("%+v, %v", r, err)
				}
				return r.Rows[0].Requests
			}
			if n := sum(); n != 2 {
				t.Errorf("before the repair there are %d", n)
			}
			l = mustOpen(t, dir, manual())
			add(t, l, "c")
			l.Close()
			if n := sum(); n != 3 {
				t.Errorf("after the repair there are %d", n)
			}
			wantIDs(t, dir, "a", "b", "c")
			if left := glob(t, dir, "0/*"+tempSuffix); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func TestRetention(t *testing.T) {
	dir := t.TempDir()
	c := &clock{start}
	o := manual()
	o.Now, o.Retention = c.now, 10*24*time.Hour
	l := mustOpen(t, dir, o)
	put := func(id string) {
		e := entry(id)
		e.Time = c.t
		l.Begin(Intent{ID: id, Time: c.t})
		l.Commit(e)
		if err := l.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	put("old")
	c.t = c.t.AddDate(0, 0, 5)
	put("young")
	slot, id := l.Slot()
	if err := WriteShipped(slot, Shipped{Slot: id, Next: 0}); err != nil {
		t.Fatal(err)
	}
	c.t = start.AddDate(0, 0, 10).Add(time.Second)
	l.sweep()
	wantIDs(t, dir, "young")
	if s := l.Stats(); s.Deleted != 1 || s.Unshipped != 1 {
		t.Errorf("%+v", s)
	}
	c.t = c.t.AddDate(1, 0, 0)
	l.SetRetention(0)
	l.sweep()
	wantIDs(t, dir, "young")
	l.SetRetention(24 * time.Hour)
	if err := WriteShipped(slot, Shipped{Slot: id, Next: 2}); err != nil {
		t.Fatal(err)
	}
	l.sweep()
	wantIDs(t, dir)
	if s := l.Stats(); s.Deleted != 2 || s.Unshipped != 1 {
		t.Errorf("%+v", s)
	}
	// Numbers are not used again, though no entry is left.
	l.Close()
	l = mustOpen(t, dir, o)
	if n := l.Opened(); n != 2 {
		t.Errorf("the next line is %d", n)
	}
	put("new")
	wantIDs(t, dir, "new")
}

func TestCursor(t *testing.T) {
	dir := t.TempDir()
	o := manual()
	o.SegmentBytes = 2000
	l := mustOpen(t, dir, o)
	slot, _ := l.Slot()
	c := NewCursor(slot, 0)
	defer c.Close()
	var got []string
	read := func() {
		t.Helper()
		for {
			lines, err := c.Read(l.Durable(), 3)
			if err != nil {
				t.Fatal(err)
			}
			if len(lines) == 0 {
				return
			}
			for _, line := range lines {
				var e Entry
				if err := ParseEntry(line.JSON, &e); err != nil || line.Seq != uint64(len(got)) {
					t.Fatalf("line %d: %s, %v", line.Seq, line.JSON, err)
				}
				got = append(got, e.ID)
			}
		}
	}
	var want []string
	for i := range 40 {
		id := fmt.Sprint(i)
		want = append(want, id)
		add(t, l, id)
		if i%4 == 0 {
			l.Flush() // written, not durable
			read()
			l.Sync()
			read()
		}
		if i%16 == 0 {
			l.sweep()
		}
	}
	l.Sync()
	read()
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
	late := NewCursor(slot, 35)
	defer late.Close()
	if lines, err := late.Read(l.Durable(), 100); err != nil || len(lines) != 5 || lines[0].Seq != 35 {
		t.Errorf("%d lines, %v", len(lines), err)
	}
	if n, err := Oldest(slot, 99); n != 0 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if err := os.Remove(segmentPath(slot, 0, gzipSuffix)); err != nil {
		t.Fatal(err)
	}
	first, _ := Oldest(slot, 99)
	gap := NewCursor(slot, 0)
	defer gap.Close()
	if lines, err := gap.Read(l.Durable(), 1); err != nil || len(lines) != 1 || lines[0].Seq != first || first == 0 {
		t.Errorf("%v, %v, first %d", lines, err, first)
	}
}
