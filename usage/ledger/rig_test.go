package ledger

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// never is an interval at which nothing happens by itself in a test.
const never = time.Hour

var start = time.Date(2026, 3, 14, 23, 59, 0, 0, time.UTC)

// clock is a clock that tests move.
type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// manual are options with which nothing happens but what the test calls.
func manual() Options {
	return Options{
		Now: func() time.Time { return start }, Log: quiet(),
		FlushEvery: never, SyncEvery: never, SweepEvery: never,
	}
}

func mustOpen(t testing.TB, dir string, o Options) *Ledger {
	t.Helper()
	l, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// die ends a ledger as kill -9 would: what was not flushed is gone, and the lock with the process.
func (l *Ledger) die() {
	l.closing.Do(func() {
		l.stop()
		l.wg.Wait()
		_ = l.w.close()
		l.lock.release()
	})
}

func intent(id string) Intent {
	return Intent{
		ID: id, Time: start, Tenant: "acme", Consumer: "acme/ci", Credential: "acme/key-1", Gateway: "default/gw", Route: "acme/chat",
		Model: "fast", Tokens: Tokens{Input: 10, Output: 100}, Cost: 1000, Currency: "USD", PriceVersion: "v1",
	}
}

func entry(id string) Entry {
	return Entry{
		ID: id, Time: start, RequestID: "r-" + id, Tenant: "acme", Namespace: "acme", Consumer: "acme/ci",
		Credential: "acme/key-1", Gateway: "default/gw", Route: "acme/chat", Backend: "acme/openai", Model: "fast", UpstreamModel: "gpt-x",
		Operation: "chat", Dialect: "openai", Stream: true, Status: 200, Attempts: 1,
		Tokens: Tokens{Input: 7, CacheRead: 3, Output: 20, Reasoning: 5}, Cost: 123, Currency: "USD", PriceVersion: "v1",
		TTFT: 120 * time.Millisecond, Duration: time.Second,
	}
}

func add(t testing.TB, l *Ledger, ids ...string) {
	t.Helper()
	for _, id := range ids {
		if !l.Begin(intent(id)) || !l.Commit(entry(id)) {
			t.Fatalf("entry %s was refused", id)
		}
	}
}

// all reads every entry of a state folder by its ID.
func all(t testing.TB, dir string) map[string]Entry {
	t.Helper()
	found := map[string]Entry{}
	r, err := Each(context.Background(), dir, Query{}, func(e *Entry) error {
		if _, double := found[e.ID]; double {
			return fmt.Errorf("%s is there twice", e.ID)
		}
		found[e.ID] = *e
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if r.Damaged > 0 || r.Doubles > 0 {
		t.Fatalf("%d damaged lines and %d doubles", r.Damaged, r.Doubles)
	}
	return found
}

func ids(m map[string]Entry) []string { return slices.Sorted(maps.Keys(m)) }

func wantIDs(t testing.TB, dir string, want ...string) {
	t.Helper()
	slices.Sort(want)
	if got := ids(all(t, dir)); !slices.Equal(got, want) {
		t.Errorf("entries are %v, want %v", got, want)
	}
}

func glob(t testing.TB, dir, pattern string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, ledgerDir, pattern))
	if err != nil {
		t.Fatal(err)
	}
	for i := range names {
		names[i], _ = filepath.Rel(filepath.Join(dir, ledgerDir), names[i])
	}
	return names
}

func appendTo(t testing.TB, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
}
