package ship

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/weir-dev/weir/test/redistest"
	"github.com/weir-dev/weir/usage/ledger"
)

const prefix = "test"

var start = time.Date(2026, 3, 14, 12, 0, 0, 0, time.UTC)

// clock is a clock that tests move.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// rig is one replica.
type rig struct {
	t       testing.TB
	dir     string
	clock   *clock
	client  redis.UniversalClient
	ledger  *ledger.Ledger
	shipper *Shipper
}

func newRig(t testing.TB, s *redistest.Server, dir string) *rig {
	r := &rig{t: t, dir: dir, clock: &clock{t: start}, client: client(t, s)}
	r.open()
	return r
}

// client gives up fast and repeats nothing, as the gateway's does.
func client(t testing.TB, s *redistest.Server) redis.UniversalClient {
	c := redis.NewClient(&redis.Options{Addr: s.Addr, ContextTimeoutEnabled: true, MaxRetries: -1, DialerRetries: 1})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func (r *rig) open() {
	r.t.Helper()
	const never = time.Hour
	l, err := ledger.Open(r.dir, ledger.Options{
		Now: r.clock.now, Log: quiet(), FlushEvery: never, SyncEvery: never, SweepEvery: never, SegmentBytes: 5000,
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = l.Close() })
	r.ledger = l
	r.shipper, err = New(l, r.client, Options{Prefix: prefix, Now: r.clock.now, Log: quiet(), Batch: 7, Timeout: 2 * time.Second})
	if err != nil {
		r.t.Fatal(err)
	}
}

// reopen ends the process well and begins another.
func (r *rig) reopen() {
	r.t.Helper()
	if err := r.ledger.Close(); err != nil {
		r.t.Fatal(err)
	}
	r.open()
}

func (r *rig) add(ids ...string) {
	r.t.Helper()
	for _, id := range ids {
		in := ledger.Intent{ID: id, Time: r.clock.now()}
		e := ledger.Entry{ID: id, Time: in.Time, Tenant: "acme", Model: "m", Cost: 10, Currency: "USD", Tokens: ledger.Tokens{Input: 3}}
		if !r.ledger.Begin(in) || !r.ledger.Commit(e) {
			r.t.Fatalf("%s was refused", id)
		}
	}
	if err := r.ledger.Sync(); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) ship() {
	r.t.Helper()
	if err := r.shipper.Ship(context.Background()); err != nil {
		r.t.Fatal(err)
	}
}

// want checks what the stream says, and that nothing is in it twice.
func (r *rig) want(ids ...string) {
	r.t.Helper()
	var got []string
	report, err := Each(context.Background(), r.client, prefix, ledger.Query{}, func(e *ledger.Entry) error {
		got = append(got, e.ID)
		return nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
	slices.Sort(got)
	slices.Sort(ids)
	if !slices.Equal(got, ids) || report.Damaged != 0 || report.Doubles != 0 {
		r.t.Errorf("the stream has %v and %+v, want %v", got, report, ids)
	}
}

func names(from, to int) []string {
	var out []string
	for i := from; i < to; i++ {
		out = append(out, fmt.Sprint("e", i))
	}
	return out
}

func TestShip(t *testing.T) {
	s := redistest.Start(t)
	r := newRig(t, s, t.TempDir())
	r.ship() // nothing to send
	r.add(names(0, 30)...)
	r.ship()
	r.want(names(0, 30)...)
	r.ship()
	r.add(names(30, 31)...)
	r.ship()
	r.want(names(0, 31)...)
	r.reopen()
	r.add(names(31, 40)...)
	r.ship()
	r.want(names(0, 40)...)
	if n := r.shipper.Shipped(); n != 9 {
		t.Errorf("the second process sent %d", n)
	}
	dir, id := r.ledger.Slot()
	if done, _ := ledger.ReadShipped(dir); done != (ledger.Shipped{Slot: id, Next: 40}) {
		t.Errorf("%+v", done)
	}
	report, err := Read(context.Background(), r.client, prefix, ledger.Query{GroupBy: []ledger.Dimension{ledger.ByTenant}})
	if err != nil || len(report.Rows) != 1 || report.Rows[0].Requests != 40 || report.Rows[0].Cost != 400 || report.Rows[0].Tenant != "acme" {
		t.Errorf("%+v, %v", report, err)
	}
}

// TestOnlyDurableLinesAreSent keeps a power failure from taking away here what Redis has.
func TestOnlyDurableLinesAreSent(t *testing.T) {
	s := redistest.Start(t)
	r := newRig(t, s, t.TempDir())
	r.add("a")
	r.ledger.Begin(ledger.Intent{ID: "b", Time: start})
	r.ledger.Commit(ledger.Entry{ID: "b", Time: start})
	if err := r.ledger.Flush(); err != nil {
		t.Fatal(err)
	}
	r.ship()
	r.want("a")
	r.ledger.Sync()
	r.ship()
	r.want("a", "b")
}

func TestFleet(t *testing.T) {
	s := redistest.Start(t)
	dir := t.TempDir()
	a, b, c := newRig(t, s, dir), newRig(t, s, dir), newRig(t, s, t.TempDir())
	a.add(names(0, 10)...)
	b.add(names(10, 20)...)
	c.add(names(20, 30)...)
	a.ship()
	c.ship()
	a.want(append(names(0, 10), names(20, 30)...)...)
	// b dies without having sent anything; a finds its slot.
	b.ledger.Close()
	a.ship()
	a.want(append(names(0, 10), names(20, 30)...)...) // not at once
	a.clock.add(lookEvery)
	a.ship()
	a.want(names(0, 30)...)
	b.open()
	b.add("late")
	b.ship()
	a.want(append(names(0, 30), "late")...)
}

// TestLostAnswers lets Redis do what it is asked while the answer never comes.
func TestLostAnswers(t *testing.T) {
	s := redistest.Start(t)
	r := newRig(t, s, t.TempDir())
	deaf := &deafHook{}
	r.client.(*redis.Client).AddHook(deaf)
	for i := range 40 {
		r.add(fmt.Sprint("x", i), fmt.Sprint("y", i))
		deaf.every = i % 3
		err := r.shipper.Ship(context.Background())
		if (err != nil) != (r.shipper.Health() != nil) {
			t.Fatalf("%v; %v", err, r.shipper.Health())
		}
		if i%7 == 0 {
			r.reopen()
		}
	}
	if deaf.lost == 0 {
		t.Fatal("no answer was lost")
	}
	deaf.every = 0
	r.ship()
	var all []string
	for i := range 40 {
		all = append(all, fmt.Sprint("x", i), fmt.Sprint("y", i))
	}
	r.want(all...)
}

// deafHook loses the answer of every n-th script.
type deafHook struct{ every, n, lost int }

func (*deafHook) DialHook(next redis.DialHook) redis.DialHook { return next }
func (*deafHook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (h *deafHook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		if err == nil && strings.HasPrefix(cmd.Name(), "eval") && h.every > 0 {
			if h.n++; h.n%h.every == 0 {
				h.lost++
				err = errors.New("the answer was lost")
				cmd.SetErr(err)
			}
		}
		return err
	}
}

func TestRedisDown(t *testing.T) {
	s := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
	r := newRig(t, s, t.TempDir())
	r.add(names(0, 5)...)
	r.ship()
	s.Kill()
	r.add(names(5, 20)...)
	if err := r.shipper.Ship(context.Background()); err == nil || r.shipper.Health() == nil {
		t.Error("nobody says that Redis is down")
	}
	s.Restart()
	r.ship()
	if r.shipper.Health() != nil {
		t.Error(r.shipper.Health())
	}
	r.want(names(0, 20)...)

	// One that hangs: the batch may or may not be done when it goes on.
	r.shipper.opts.Timeout = 50 * time.Millisecond
	s.Pause()
	r.add(names(20, 25)...)
	if err := r.shipper.Ship(context.Background()); err == nil {
		t.Error("a server that hangs took entries")
	}
	s.Resume()
	r.shipper.opts.Timeout = time.Minute
	r.ship()
	r.want(names(0, 25)...)
}

func TestRedisEmptied(t *testing.T) {
	s := redistest.Start(t)
	r := newRig(t, s, t.TempDir())
	ctx := context.Background()
	r.add(names(0, 20)...)
	r.ship()
	if err := r.client.FlushAll(ctx).Err(); err != nil {
		t.Fatal(err)
	}
	r.add("new")
	r.ship()
	r.want(append(names(0, 20), "new")...)
	r.ship()
	r.want(append(names(0, 20), "new")...)

	// Without anything new it is noticed too, some time later.
	s.Restart() // without persistence
	r.ship()
	r.want()
	r.clock.add(lookEvery)
	r.ship()
	r.want(append(names(0, 20), "new")...)
}

// TestNumberLost removes only the number, as a Redis that evicts keys may.
func TestNumberLost(t *testing.T) {
	s := redistest.Start(t)
	r, other := newRig(t, s, t.TempDir()), newRig(t, s, t.TempDir())
	r.add(names(0, 20)...)
	r.ship()
	other.add("other")
	other.ship()
	_, numbers := Keys(prefix)
	if err := r.client.Del(context.Background(), numbers).Err(); err != nil {
		t.Fatal(err)
	}
	r.add("new")
	r.ship()
	other.add("other 2")
	other.ship()
	r.want(append(names(0, 20), "new", "other", "other 2")...)
}

// TestFailover sets Redis back to an earlier state, as a failover to a replica that lagged does.
func TestFailover(t *testing.T) {
	s := redistest.Start(t)
	ctx := context.Background()
	r := newRig(t, s, t.TempDir())
	stream, numbers := Keys(prefix)
	r.add(names(0, 10)...)
	r.ship()
	dumps := map[string]string{}
	for _, key := range []string{stream, numbers} {
		dumps[key] = r.client.Dump(ctx, key).Val()
	}
	r.add(names(10, 30)...)
	r.ship()
	for key, dump := range dumps {
		if err := r.client.RestoreReplace(ctx, key, 0, dump).Err(); err != nil {
			t.Fatal(err)
		}
	}
	r.want(names(0, 10)...)
	r.add("new")
	r.ship()
	r.want(append(names(0, 30), "new")...)
}

// TestFolderSetBack restores an old copy of the folder: its next lines have numbers that Redis has seen.
func TestFolderSetBack(t *testing.T) {
	s := redistest.Start(t)
	dir := t.TempDir()
	r := newRig(t, s, dir)
	r.add(names(0, 10)...)
	r.ship()
	r.ledger.Close()
	old := t.TempDir()
	if err := os.CopyFS(old, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	r.open()
	r.add(names(10, 20)...)
	r.ship()
	r.ledger.Close()

	r.dir = old
	r.open()
	r.add("after")
	r.ship()
	r.want(append(names(0, 20), "after")...)
	r.reopen()
	r.add("after 2")
	r.ship()
	r.want(append(names(0, 20), "after", "after 2")...)
}

// TestCopiesInUse has two processes that think they are the same slot.
func TestCopiesInUse(t *testing.T) {
	s := redistest.Start(t)
	a := newRig(t, s, t.TempDir())
	a.add(names(0, 10)...)
	a.ship()
	a.ledger.Close()
	copied := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(copied, os.DirFS(a.dir)); err != nil {
		t.Fatal(err)
	}
	a.open()
	b := newRig(t, s, copied)
	a.ship()
	b.ship()
	var want []string
	for i := range 5 {
		a.add(fmt.Sprint("a", i))
		a.ship()
		b.add(fmt.Sprint("b", i))
		b.ship()
		want = append(want, fmt.Sprint("a", i), fmt.Sprint("b", i))
	}
	a.want(append(names(0, 10), want...)...)
}

func TestTrim(t *testing.T) {
	s := redistest.Start(t)
	ctx := context.Background()
	r := newRig(t, s, t.TempDir())
	stream, _ := Keys(prefix)
	// Items have the server's time, so the clock is put ahead of it instead of waiting. A stream is trimmed by whole
	// nodes, of 100 items.
	r.add(names(0, 250)...)
	r.ship()
	r.clock.mu.Lock()
	r.clock.t = time.Now().Add(2 * time.Hour)
	r.clock.mu.Unlock()
	r.ship()
	if n := r.client.XLen(ctx, stream).Val(); n != 250 {
		t.Errorf("without retention %d are left", n)
	}
	r.shipper.SetRetention(time.Hour)
	r.clock.add(lookEvery)
	r.ship()
	if n := r.client.XLen(ctx, stream).Val(); n >= 100 {
		t.Errorf("%d are left", n)
	}
	// What was trimmed is not sent again, though the folder has it.
	r.add("new")
	r.clock.add(lookEvery)
	r.ship()
	if n := r.client.XLen(ctx, stream).Val(); n >= 101 {
		t.Errorf("%d are left", n)
	}
}

// TestDoublesInTheStream reads a stream in which lines are twice.
func TestDoublesInTheStream(t *testing.T) {
	s := redistest.Start(t)
	ctx := context.Background()
	c := s.Client()
	stream, _ := Keys(prefix)
	line := func(id string) string { return fmt.Sprintf(`{"id":%q,"time":"2026-03-14T12:00:00Z"}`, id) }
	for _, item := range [][]any{
		{"slot", "a", "seq", 0, "entry", line("a0")}, {"slot", "a", "seq", 1, "entry", line("a1")},
		{"slot", "b", "seq", 0, "entry", line("b0")}, {"slot", "a", "seq", 0, "entry", line("a0")},
		{"slot", "a", "seq", 1, "entry", line("a1")}, {"slot", "a", "seq", 2, "entry", line("a2")},
		{"slot", "a", "seq", "x", "entry", line("?")}, {"slot", "a", "entry", line("?")}, {"slot", "c", "seq", 5, "entry", "{"},
	} {
		if err := c.XAdd(ctx, &redis.XAddArgs{Stream: stream, Values: item}).Err(); err != nil {
			t.Fatal(err)
		}
	}
	report, err := Read(ctx, c, prefix, ledger.Query{})
	if err != nil || report.Rows[0].Requests != 4 || report.Doubles != 2 || report.Damaged != 3 {
		t.Errorf("%+v, %v", report, err)
	}
}

func TestNewSaysWhatIsMissing(t *testing.T) {
	for _, o := range []Options{
		{Now: time.Now, Log: quiet()}, {Prefix: "a{b}", Now: time.Now, Log: quiet()}, {Prefix: "a", Log: quiet()}, {Prefix: "a", Now: time.Now},
	} {
		if _, err := New(nil, nil, o); err == nil {
			t.Errorf("%+v is taken", o)
		}
	}
}

// TestRun relies on the timer.
func TestRun(t *testing.T) {
	s := redistest.Start(t)
	r := newRig(t, s, t.TempDir())
	r.shipper.opts.Every = time.Millisecond
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { r.shipper.Run(ctx); close(done) }()
	r.add(names(0, 10)...)
	for r.shipper.Shipped() < 10 {
		time.Sleep(time.Millisecond)
	}
	r.ledger.Begin(ledger.Intent{ID: "last", Time: start})
	r.ledger.Commit(ledger.Entry{ID: "last", Time: start})
	cancel()
	<-done
	r.want(append(names(0, 10), "last")...)
	if r.shipper.Health() != nil {
		t.Error(r.shipper.Health())
	}
}

// TestCluster has a client that asks several nodes: both keys have to be on one.
func TestCluster(t *testing.T) {
	s := redistest.Start(t, "--cluster-enabled", "yes")
	ctx := context.Background()
	node := s.Client()
	if err := node.Do(ctx, "cluster", "addslotsrange", 0, 16383).Err(); err != nil {
		t.Fatal(err)
	}
	for !strings.Contains(node.ClusterInfo(ctx).Val(), "cluster_state:ok") {
		time.Sleep(time.Millisecond)
	}
	c := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{s.Addr}})
	t.Cleanup(func() { _ = c.Close() })
	r := &rig{t: t, dir: t.TempDir(), clock: &clock{t: start}, client: c}
	r.open()
	r.add(names(0, 20)...)
	r.ship()
	r.want(names(0, 20)...)
}
