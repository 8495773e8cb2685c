package ledger

import (
	"fmt"
	"testing"
)

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
