package ledger

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"time"
)

// someEntries are entries over some days that differ in everything that reports know.
func someEntries(r *rand.Rand, n int) []Entry {
	pick := func(from ...string) string { return from[r.IntN(len(from))] }
	out := make([]Entry, n)
	for i := range out {
		out[i] = Entry{
			ID: fmt.Sprint("e", i), Time: start.Add(time.Duration(r.Int64N(int64(72 * time.Hour)))),
			Tenant: pick("acme", "umbrella"), Namespace: pick("acme", ""), Consumer: pick("a", "b", "c"),
			Credential: pick("k1", "k2"), Gateway: pick("default/a", "default/b", ""), Route: pick("chat", "embed"), Backend: pick("b1", "b2"), Model: pick("m1", "m2", "m3"),
			Currency: pick("USD", "USD", "EUR"), Status: []int{200, 200, 429, 500}[r.IntN(4)],
			Tokens: Tokens{r.Int64N(100), r.Int64N(100), r.Int64N(100), r.Int64N(100), r.Int64N(100)}, Cost: r.Int64N(1e12),
			SavedTokens: Tokens{Input: r.Int64N(100), Output: r.Int64N(100), Reasoning: r.Int64N(100)}, SavedCost: r.Int64N(1e12),
			Flags: Flags{r.IntN(3) == 0, r.IntN(3) == 0, r.IntN(3) == 0, r.IntN(3) == 0, r.IntN(3) == 0, r.IntN(3) == 0, r.IntN(3) == 0},
		}
	}
	return out
}

func put(t testing.TB, l *Ledger, entries ...Entry) {
	t.Helper()
	for _, e := range entries {
		if !l.Begin(Intent{ID: e.ID, Time: e.Time}) || !l.Commit(e) {
			t.Fatalf("%s was refused", e.ID)
		}
	}
	if err := l.Sync(); err != nil {
		t.Fatal(err)
	}
}

// TestSumsAreTheSameHoweverTheyAreMade compares reports over sums, closed segments, open ones, several slots and any
// order of the entries with those of a loop over the entries.
func TestSumsAreTheSameHoweverTheyAreMade(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	entries := someEntries(r, 600)
	dir := t.TempDir()
	c := &clock{start}
	o := manual()
	o.Now, o.SegmentBytes = c.now, 20_000
	replicas := []*Ledger{mustOpen(t, dir, o), mustOpen(t, dir, o), mustOpen(t, dir, o)}
	for i, e := range entries {
		put(t, replicas[r.IntN(3)], e)
		if i == 400 {
			replicas[0].sweep()
			replicas[1].sweep()
		}
	}
	if n := len(glob(t, dir, "*/*.rollup")); n < 4 {
		t.Fatalf("%d segments are closed", n)
	}

	day := start.Truncate(24 * time.Hour)
	bounds := []time.Time{{}, day, day.AddDate(0, 0, 1), day.AddDate(0, 0, 2), start.Add(30 * time.Hour), start.AddDate(0, 0, 10), start.AddDate(0, 0, -10)}
	filters := []Filter{{}, {Tenant: "acme"}, {Model: "m1", Backend: "b2"}, {Credential: "k1"}, {Consumer: "nobody"}, {Gateway: "default/b"}, {Route: "chat", Namespace: "acme", Consumer: "a"}}
	groups := [][]Dimension{nil, {ByDay}, {ByTenant, ByModel}, {ByCredential, ByRoute, ByBackend}, {ByGateway}, Dimensions()}
	some := 0
	for range 300 {
		q := Query{
			From: bounds[r.IntN(len(bounds))], To: bounds[r.IntN(len(bounds))],
			Filter: filters[r.IntN(len(filters))], GroupBy: groups[r.IntN(len(groups))],
		}
		got, err := Read(context.Background(), dir, q)
		if err != nil {
			t.Fatal(err)
		}
		want := NewSummer(q)
		for _, i := range r.Perm(len(entries)) {
			want.Add(&entries[i])
		}
		if w := want.Report(); !reflect.DeepEqual(got, w) {
			t.Fatalf("%+v:\n%+v, want\n%+v", q, got, w)
		}
		some += len(got.Rows)
		n := int64(0)
		if _, err := Each(context.Background(), dir, q, func(*Entry) error { n++; return nil }); err != nil {
			t.Fatal(err)
		}
		for _, row := range got.Rows {
			n -= row.Requests
		}
		if n != 0 {
			t.Fatalf("%+v: the list has %d entries more than the sums", q, n)
		}
	}
	if some == 0 {
		t.Error("no query found anything")
	}
}

func TestSumsStayInRange(t *testing.T) {
	e := entry("x")
	e.Cost, e.Tokens = math.MaxInt64, Tokens{Input: math.MaxInt64, Output: math.MaxInt64}
	e.SavedCost, e.SavedTokens = e.Cost, e.Tokens
	s := NewSummer(Query{})
	s.Add(&e)
	s.Add(&e)
	row := s.Report().Rows[0]
	if row.Cost != math.MaxInt64 || row.Tokens.Total() != math.MaxInt64 || row.SavedCost != row.Cost || row.SavedTokens != row.Tokens || row.Requests != 2 {
		t.Errorf("%+v", row)
	}
}

func TestFlagsAreCounted(t *testing.T) {
	var s Sums
	e := Entry{Status: 500, Cost: 7, Tokens: Tokens{Output: 3}, Flags: Flags{true, true, true, true, true, true, true}}
	s.add(&e)
	s.add(&Entry{Status: 200, Cost: 1, Tokens: Tokens{Input: 1}})
	want := Sums{
		Requests: 2, Tokens: Tokens{Input: 1, Output: 3}, Cost: 8, EstimatedTokens: 3, EstimatedCost: 7,
		Failed: 1, Estimated: 1, Aborted: 1, Interrupted: 1, Unpriced: 1, Translated: 1, Cached: 1, Cut: 1,
	}
	if s != want {
		t.Errorf("%+v", s)
	}
	if got := e.Names(); len(got) != reflect.TypeFor[Flags]().NumField() || !slices.Contains(got, "cut") {
		t.Errorf("%v", got)
	}
}

// TestSavedIsNotSpent: what a cache has saved is summed up beside what was spent, of each tenant and model on each day, and is none of it.
func TestSavedIsNotSpent(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, dir, manual())
	hit := func(id, model string, saved int64) Entry {
		e := entry(id)
		e.Model, e.Cache, e.Flags, e.Backend, e.Tokens, e.Cost = model, "hit", Flags{Cached: true}, "", Tokens{}, 0
		e.SavedTokens, e.SavedCost = Tokens{Input: 10, Output: 25}, saved
		return e
	}
	put(t, l, entry("bought"), hit("h1", "fast", 123), hit("h2", "fast", 120), hit("h3", "slow", 7))
	for name, sum := range map[string]func(context.Context, time.Time, time.Time, ...Dimension) ([]Row, error){"all slots": l.Sum, "its own": l.SumOwn} {
		rows, err := sum(context.Background(), time.Time{}, time.Time{}, ByDay, ByTenant, ByModel)
		if err != nil || len(rows) != 2 {
			t.Fatalf("%s: %+v, %v", name, rows, err)
		}
		fast, slow := rows[0], rows[1]
		if fast.Model != "fast" || fast.Requests != 3 || fast.Cached != 2 || fast.Cost != 123 || fast.Tokens != entry("").Tokens ||
			fast.SavedCost != 243 || fast.SavedTokens != (Tokens{Input: 20, Output: 50}) || fast.EstimatedCost != 0 {
			t.Errorf("%s: %+v", name, fast)
		}
		if slow.Model != "slow" || slow.Cost != 0 || slow.Tokens != (Tokens{}) || slow.SavedCost != 7 || slow.Day != "2026-03-14" || slow.Tenant != "acme" || slow.Currency != "USD" {
			t.Errorf("%s: %+v", name, slow)
		}
	}
}

func TestITL(t *testing.T) {
	e := entry("x") // 25 tokens, 880 ms after the first
	if got := e.ITL(); got != 880*time.Millisecond/24 {
		t.Errorf("%v", got)
	}
	for _, change := range []func(*Entry){
		func(e *Entry) { e.Stream = false }, func(e *Entry) { e.TTFT = 0 }, func(e *Entry) { e.Tokens = Tokens{Output: 1} },
		func(e *Entry) { e.Duration = 0 },
	} {
		e := entry("x")
		change(&e)
		if got := e.ITL(); got != 0 {
			t.Errorf("%+v: %v", e, got)
		}
	}
}

func TestParseDimensions(t *testing.T) {
	got, err := ParseDimensions(" Tenant,key,,tenant,credential")
	if err != nil || !slices.Equal(got, []Dimension{ByTenant, ByCredential}) {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := ParseDimensions("tenant,colour"); err == nil {
		t.Error("there is no colour")
	}
}

// TestOldRollupsAreRead: what was summed up before entries had a gateway is read as it is. Its rows have counts that its
// segment does not have, which tells that they were used.
func TestOldRollupsAreRead(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, dir, manual())
	old := entry("old")
	old.Gateway = ""
	put(t, l, old)
	l.die()
	slot := filepath.Join(dir, ledgerDir, "0")
	if _, err := closeSegment(slot, 0); err != nil {
		t.Fatal(err)
	}
	text := `{"version":1,"lines":1,"first":"2026-03-14T23:59:00Z","last":"2026-03-14T23:59:00Z","rows":1}
{"day":"2026-03-14","tenant":"acme","namespace":"acme","consumer":"acme/ci","credential":"acme/key-1","route":"acme/chat","backend":"acme/openai","model":"fast","currency":"USD","requests":7,"tokens":{"input":49},"costNanos":861}
`
	path := segmentPath(slot, 0, rollupSuffix)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	l = mustOpen(t, dir, manual())
	put(t, l, entry("new"))
	l.sweep()
	r, err := Read(context.Background(), dir, Query{GroupBy: []Dimension{ByGateway, ByRoute}})
	if err != nil || len(r.Rows) != 2 || r.Rows[0].Gateway != "" || r.Rows[0].Requests != 7 || r.Rows[0].Cost != 861 ||
		r.Rows[1].Gateway != "default/gw" || r.Rows[1].Requests != 1 || r.Rows[1].Route != "acme/chat" {
		t.Errorf("%+v, %v", r, err)
	}
	if r, err := Read(context.Background(), dir, Query{Filter: Filter{Gateway: "default/gw"}}); err != nil || len(r.Rows) != 1 || r.Rows[0].Requests != 1 {
		t.Errorf("of one gateway: %+v, %v", r, err)
	}
	if now, err := os.ReadFile(path); err != nil || string(now) != text {
		t.Errorf("the roll-up was made anew: %s, %v", now, err)
	}
}

func TestReadStops(t *testing.T) {
	dir := t.TempDir()
	put(t, mustOpen(t, dir, manual()), someEntries(rand.New(rand.NewPCG(1, 1)), 10)...)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Read(ctx, dir, Query{}); err != context.Canceled {
		t.Errorf("%v", err)
	}
	if r, err := Read(context.Background(), filepath.Join(dir, "nothing"), Query{}); err != nil || len(r.Rows) != 0 {
		t.Errorf("%+v, %v", r, err)
	}
	boom := fmt.Errorf("boom")
	if _, err := Each(context.Background(), dir, Query{}, func(*Entry) error { return boom }); err != boom {
		t.Errorf("%v", err)
	}
}

// BenchmarkRequest is what a request pays: Begin and Commit. What the writer does beside it is in BenchmarkFlush.
func BenchmarkRequest(b *testing.B) {
	l := mustOpen(b, b.TempDir(), manual())
	ids, in, e := benchIDs(), intent(""), entry("")
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if i%len(ids) == 0 {
			b.StopTimer()
			if err := l.Flush(); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
		in.ID = ids[i%len(ids)]
		e.ID = in.ID
		l.Begin(in)
		l.Commit(e)
	}
	if s := l.Stats(); s.DroppedEntries > 0 || s.Doubles > 0 {
		b.Fatalf("%+v", s)
	}
}

// BenchmarkFlush is what the writer does for a request.
func BenchmarkFlush(b *testing.B) {
	l := mustOpen(b, b.TempDir(), manual())
	ids, in, e := benchIDs(), intent(""), entry("")
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if i%len(ids) == 0 {
			b.StopTimer()
			for _, id := range ids {
				in.ID, e.ID = id, id
				l.Begin(in)
				l.Commit(e)
			}
			b.StartTimer()
			if err := l.Flush(); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// benchIDs are as many as a busy gateway has between two flushes.
func benchIDs() []string {
	ids := make([]string, 1024)
	for i := range ids {
		ids[i] = fmt.Sprintf("0123456789abcdef-%d", i)
	}
	return ids
}

func BenchmarkEncode(b *testing.B) {
	e := entry("0123456789abcdef-123")
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = appendEntry(buf[:0], &e)
	}
	b.SetBytes(int64(len(buf)))
}

func BenchmarkDecode(b *testing.B) {
	e := entry("0123456789abcdef-123")
	line := appendEntry(nil, &e)
	b.SetBytes(int64(len(line)))
	b.ReportAllocs()
	for b.Loop() {
		if err := decodeEntry(line, &e); err != nil {
			b.Fatal(err)
		}
	}
}
