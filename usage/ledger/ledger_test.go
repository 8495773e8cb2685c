package ledger

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestWhatWasFlushedSurvives(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, dir, manual())
	add(t, l, "a", "b")
	l.Begin(intent("open"))
	if err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	add(t, l, "late")
	l.Begin(intent("late and open"))
	if l.Begin(intent("open")) || l.Commit(entry("a")) || l.Commit(entry("never begun")) {
		t.Error("an ID was taken twice, or ended without a beginning")
	}
	if s := l.Stats(); s.Doubles != 3 || s.Open != 2 || s.Written != 2 {
		t.Errorf("%+v", s)
	}
	wantIDs(t, dir, "a", "b")
	l.die()

	l = mustOpen(t, dir, manual())
	wantIDs(t, dir, "a", "b", "open")
	if e := all(t, dir)["open"]; !e.Interrupted || e.Cost != 1000 || !e.Time.Equal(start) {
		t.Errorf("interrupted: %+v", e)
	}
	if s := l.Stats(); s.Interrupted != 1 || s.Torn != 0 {
		t.Errorf("%+v", s)
	}
	// The same ID could come again only from a caller that does not make unique ones; nothing else gets confused.
	add(t, l, "c")
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	wantIDs(t, dir, "a", "b", "open", "c")
	if got := glob(t, dir, "*/intents-*"); len(got) > 0 {
		t.Errorf("after a clean end there is %v", got)
	}
}

// TestTimers relies on nothing but the timers.
func TestTimers(t *testing.T) {
	dir := t.TempDir()
	o := manual()
	o.FlushEvery, o.SyncEvery, o.SweepEvery = time.Millisecond, time.Millisecond, time.Millisecond
	c := &clock{start}
	o.Now = c.now
	l := mustOpen(t, dir, o)
	add(t, l, "a")
	for len(all(t, dir)) == 0 || l.Durable() == 0 {
		runtime.Gosched()
	}
}

func TestEntryWinsOverIntent(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, dir, manual())
	l.Begin(intent("a"))
	l.Begin(intent("b"))
	l.Flush()
	if n := len(glob(t, dir, "0/intents-*")); n != 1 {
		t.Fatalf("%d journals", n)
	}
	l.Commit(entry("a"))
	l.Flush()
	l.die()
	for range 3 { // however often it is repaired
		mustOpen(t, dir, manual()).die()
		found := all(t, dir)
		if len(found) != 2 || found["a"].Interrupted || !found["b"].Interrupted {
			t.Fatalf("%+v", found)
		}
	}
}

// TestRepairFindsEveryEntry has every entry in a segment of its own, of which a repair reads only those it needs.
func TestRepairFindsEveryEntry(t *testing.T) {
	dir := t.TempDir()
	o := manual()
	o.SegmentBytes = 1
	l := mustOpen(t, dir, o)
	var want []string
	for i := range 12 {
		id := fmt.Sprint(i)
		want = append(want, id)
		l.Begin(intent(id))
		l.Flush()
		if i >= 4 && i%4 != 3 {
			l.Commit(entry(fmt.Sprint(i - 4)))
			l.Flush()
		}
	}
	l.sweep()
	l.die()
	mustOpen(t, dir, o)
	wantIDs(t, dir, want...)
	for id, e := range all(t, dir) {
		if left := id > "7" || len(id) > 1 || id == "3" || id == "7"; e.Interrupted != left {
			t.Errorf("%s: %+v", id, e.Flags)
		}
	}
}

// TestRepairIsRepeatable stops a repair between entering the interrupted requests and deleting the journals.
func TestRepairIsRepeatable(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, dir, manual())
	l.Begin(intent("a"))
	l.Begin(intent("b"))
	l.Flush()
	l.die()
	slot := filepath.Join(dir, ledgerDir, "0")
	journal := glob(t, dir, "0/intents-*")[0]
	was, err := os.ReadFile(filepath.Join(dir, ledgerDir, journal))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := recoverSlot(slot); err != nil {
			t.Fatal(err)
		}
		wantIDs(t, dir, "a", "b")
		if err := os.WriteFile(filepath.Join(dir, ledgerDir, journal), was, fileMode); err != nil {
			t.Fatal(err)
		}
	}
	// And one that got half of the way.
	segment := segmentPath(slot, 0, plainSuffix)
	data, _ := os.ReadFile(segment)
	first := strings.IndexByte(string(data), '\n') + 1
	if err := os.WriteFile(segment, data[:first+20], fileMode); err != nil {
		t.Fatal(err)
	}
	mustOpen(t, dir, manual())
	wantIDs(t, dir, "a", "b")
}

func TestTornLine(t *testing.T) {
	for name, tail := range map[string]string{
		"half a line": `{"id":"x","time":"2026-`, "zeros of a power failure": "\x00\x00\x00", "no line feed": `{"id":"x","time":"2026-01-01T00:00:00Z"}`,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			l := mustOpen(t, dir, manual())
			add(t, l, "a")
			l.Begin(intent("open"))
			l.Flush()
			l.die()
			for _, f := range []string{"0/entries-*", "0/intents-*"} {
				appendTo(t, filepath.Join(dir, ledgerDir, glob(t, dir, f)[0]), tail)
			}
			wantIDs(t, dir, "a") // a reader that comes before the repair
			l = mustOpen(t, dir, manual())
			if n := l.Stats().Torn; n != 1 {
				t.Errorf("%d lines were cut off", n)
			}
			add(t, l, "b")
			l.Close()
			wantIDs(t, dir, "a", "b", "open")
		})
	}
}

func TestDamageIsCountedAndPassedOver(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, dir, manual())
	add(t, l, "a")
	l.Flush()
	l.die()
	path := segmentPath(filepath.Join(dir, ledgerDir, "0"), 0, plainSuffix)
	dup, _ := os.ReadFile(path)
	appendTo(t, path, "garbage\n"+string(dup))
	l = mustOpen(t, dir, manual())
	add(t, l, "b")
	l.Flush()
	for _, closed := range []bool{false, true} {
		r, err := Read(context.Background(), dir, Query{})
		if err != nil || r.Damaged != 1 || r.Doubles != 1 || r.Rows[0].Requests != 2 {
			t.Errorf("closed %v: %+v, %v", closed, r, err)
		}
		l.die()
		if !closed {
			if _, err := closeSegment(filepath.Dir(path), 0); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestSlots(t *testing.T) {
	dir := t.TempDir()
	a, b := mustOpen(t, dir, manual()), mustOpen(t, dir, manual())
	dirA, idA := a.Slot()
	dirB, idB := b.Slot()
	if filepath.Base(dirA) != "0" || filepath.Base(dirB) != "1" || idA == idB || !validID(idA) {
		t.Errorf("%s %s, %s %s", dirA, idA, dirB, idB)
	}
	add(t, a, "a")
	add(t, b, "b")
	b.Begin(intent("b open"))
	b.Flush()
	b.die()
	a.Begin(intent("a open"))
	a.Flush()
	wantIDs(t, dir, "a", "b")
	// Whoever opens looks after the dead one's requests, and leaves those of the living alone.
	c := mustOpen(t, dir, manual())
	if got, id := c.Slot(); got != dirB || id != idB {
		t.Errorf("the third one has %s %s", got, id)
	}
	wantIDs(t, dir, "a", "b", "b open")
	c.Begin(intent("c open"))
	c.Flush()
	c.die()
	a.sweep()
	if err := a.Health(); err != nil {
		t.Fatal(err)
	}
	wantIDs(t, dir, "a", "b", "b open", "c open")
	if !a.Commit(entry("a open")) {
		t.Error("a living request was ended by somebody else")
	}
	a.Close()
	wantIDs(t, dir, "a", "a open", "b", "b open", "c open")
}

func TestJournalsGo(t *testing.T) {
	dir := t.TempDir()
	o := manual()
	o.journalBytes = 2000
	l := mustOpen(t, dir, o)
	journals := func() int { return len(glob(t, dir, "0/intents-*")) }
	cycle := func() {
		t.Helper()
		for range 3 { // a journal is deleted by the sync after the flush after its last entry
			if err := l.Sync(); err != nil {
				t.Fatal(err)
			}
		}
	}
	// Requests that begin and end between two flushes need none.
	add(t, l, "quick")
	cycle()
	if n := journals(); n != 0 {
		t.Errorf("%d journals for nothing", n)
	}
	var open []string
	for i := range 40 {
		id := fmt.Sprint("r", i)
		l.Begin(intent(id))
		open = append(open, id)
		l.Flush()
	}
	if n := journals(); n < 5 {
		t.Errorf("only %d journals", n)
	}
	// All but the first end; its journal stays, and what it says.
	for _, id := range open[1:] {
		l.Commit(entry(id))
	}
	cycle()
	if n := journals(); n > 2 {
		t.Errorf("%d journals are left", n)
	}
	l.die()
	l = mustOpen(t, dir, o)
	if e := all(t, dir)["r0"]; !e.Interrupted || len(all(t, dir)) != 41 {
		t.Errorf("%+v", all(t, dir))
	}
}

// TestSlowRequestsDoNotKeepJournals has one request in every journal that goes on for long.
func TestSlowRequestsDoNotKeepJournals(t *testing.T) {
	dir := t.TempDir()
	o := manual()
	o.journalBytes = 4000
	l := mustOpen(t, dir, o)
	var slow []string
	for i := range 60 {
		for j := range 20 {
			l.Begin(intent(fmt.Sprint("r", i, "-", j)))
		}
		if err := l.Flush(); err != nil {
			t.Fatal(err)
		}
		for j := range 19 {
			l.Commit(entry(fmt.Sprint("r", i, "-", j)))
		}
		if err := l.Sync(); err != nil {
			t.Fatal(err)
		}
		slow = append(slow, fmt.Sprint("r", i, "-19"))
	}
	if n := len(glob(t, dir, "0/intents-*")); n > 25 {
		t.Errorf("%d journals for %d slow requests", n, len(slow))
	}
	for _, id := range slow[:30] {
		if !l.Commit(entry(id)) {
			t.Fatalf("%s is not open any more", id)
		}
	}
	l.Flush()
	l.die()
	mustOpen(t, dir, o)
	found := all(t, dir)
	if len(found) != 60*20 {
		t.Errorf("%d entries", len(found))
	}
	for i, id := range slow {
		if found[id].Interrupted != (i >= 30) {
			t.Errorf("%s: %+v", id, found[id].Flags)
		}
	}
}

// TestCompactionLosesNothing dies right after intents were moved to another journal, before they are written there.
func TestCompactionLosesNothing(t *testing.T) {
	dir := t.TempDir()
	o := manual()
	o.journalBytes = 4000
	l := mustOpen(t, dir, o)
	n := 0
	for ; len(l.w.finished) == 0; n++ {
		l.Begin(intent(fmt.Sprint("slow", n)))
		for j := range 20 {
			l.Begin(intent(fmt.Sprint("r", n, "-", j)))
		}
		l.Flush()
		moved := len(l.w.finished) > 0
		if !moved {
			for j := range 20 {
				l.Commit(entry(fmt.Sprint("r", n, "-", j)))
			}
			// Everything but the slow ones ends, so that each journal keeps one.
			l.w.flush()
			l.sync()
		}
		if n > 1000 {
			t.Fatal("nothing is ever moved")
		}
	}
	if l.w.intents.pending() == 0 {
		t.Fatal("nothing was moved")
	}
	if err := l.sync(); err != nil {
		t.Fatal(err)
	}
	l.die()
	mustOpen(t, dir, manual())
	found := all(t, dir)
	for i := range n {
		if !found[fmt.Sprint("slow", i)].Interrupted {
			t.Errorf("slow%d is %+v", i, found[fmt.Sprint("slow", i)])
		}
	}
}

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

func TestRemovedFolder(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, dir, manual())
	add(t, l, "gone")
	l.Begin(intent("open"))
	l.Sync()
	if err := os.RemoveAll(filepath.Join(dir, ledgerDir)); err != nil {
		t.Fatal(err)
	}
	add(t, l, "a")
	if err := l.Sync(); err != nil { // writes to what is gone, and notices
		t.Fatal(err)
	}
	add(t, l, "b")
	l.Commit(entry("open"))
	if err := l.Sync(); err != nil {
		t.Fatal(err)
	}
	wantIDs(t, dir, "b", "open")
	if other := mustOpen(t, dir, manual()); other.slotDir() == l.slotDir() {
		t.Error("two processes have one slot")
	}
}

func TestOpenSaysWhatIsWrong(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(file, manual()); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("%v", err)
	}
}

func TestDefaultDir(t *testing.T) {
	for _, c := range []struct {
		env  map[string]string
		want string
	}{
		{map[string]string{"WEIR_STATE_DIR": "/w", "XDG_STATE_HOME": "/x", "HOME": "/h"}, "/w"},
		{map[string]string{"XDG_STATE_HOME": "/x", "HOME": "/h"}, "/x/weir"},
		{map[string]string{"XDG_STATE_HOME": "x", "HOME": "/h"}, "/h/.local/state/weir"},
		{nil, ""},
	} {
		got, err := DefaultDir(func(k string) string { return c.env[k] })
		if got != c.want || (err != nil) != (c.want == "") {
			t.Errorf("%v: %q, %v", c.env, got, err)
		}
	}
}

// TestConcurrent has many writers, a flusher, readers and segments that close, and counts at the end.
func TestConcurrent(t *testing.T) {
	dir := t.TempDir()
	o := manual()
	o.FlushEvery, o.SyncEvery, o.SweepEvery, o.SegmentBytes = time.Millisecond, time.Millisecond, time.Millisecond, 20_000
	o.journalBytes = 5000
	l := mustOpen(t, dir, o)
	const workers, each = 8, 300
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range each {
				id := fmt.Sprintf("%d-%d", w, i)
				l.Begin(intent(id))
				if i%3 == 0 {
					_ = l.Flush()
				}
				l.Commit(entry(id))
				if l.Commit(entry(id)) {
					t.Errorf("%s was entered twice", id)
				}
			}
		})
	}
	stop := make(chan struct{})
	var readers sync.WaitGroup
	readers.Go(func() {
		last := int64(0)
		for {
			rows, err := l.Sum(context.Background(), time.Time{}, time.Time{})
			if err != nil {
				t.Error(err)
				return
			}
			if len(rows) > 0 {
				if rows[0].Requests < last {
					t.Errorf("after %d entries there are %d", last, rows[0].Requests)
				}
				last = rows[0].Requests
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	wg.Wait()
	close(stop)
	readers.Wait()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if n := len(all(t, dir)); n != workers*each {
		t.Errorf("%d entries of %d", n, workers*each)
	}
	if left := glob(t, dir, "0/intents-*"); len(left) > 0 {
		t.Errorf("journals are left: %v", left)
	}
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
