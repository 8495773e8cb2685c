package ledger

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
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
