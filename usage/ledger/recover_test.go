package ledger

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

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
