//go:build linux || darwin

package lane

import (
	"bytes"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
)

// clock is moved by tests.
type clock struct{ ns atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.ns.Store(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC).UnixNano())
	return c
}

func (c *clock) now() time.Time                 { return time.Unix(0, c.ns.Load()) }
func (c *clock) add(d time.Duration)            { c.ns.Add(int64(d)) }
func (c *clock) unixMilli() float64             { return float64(c.now().UnixMilli()) }
func (c *clock) from(d time.Duration) time.Time { return c.now().Add(d) }

// claim is a grant that knows what became of it.
type claim struct{ begun, cancelled atomic.Int32 }

func (*claim) Settle(_, _, _ int64) {}
func (*claim) Cancel()              {}
func (*claim) Void()                {}

// desk is a Maker that writes down what it is told.
type desk struct {
	mu       sync.Mutex
	room     int // how many more it admits
	claims   []*claim
	begun    []string
	limits   Limits
	inside   atomic.Int32 // calls at this moment
	overlaps atomic.Int32 // calls that came while there was another
	onAdmit  func()
	onCancel func()
}

func newDesk(room int) *desk {
	return &desk{room: room, limits: Limits{Requests: math.NaN(), Tokens: math.NaN()}}
}

func (d *desk) enter() func() {
	if d.inside.Add(1) > 1 {
		d.overlaps.Add(1)
	}
	d.mu.Lock()
	return func() { d.mu.Unlock(); d.inside.Add(-1) }
}

func (d *desk) Admit() (Claim, bool) {
	if d.onAdmit != nil {
		d.onAdmit()
	}
	defer d.enter()()
	if d.room == 0 {
		return Claim{}, false
	}
	d.room--
	c := &claim{}
	d.claims = append(d.claims, c)
	return Claim{Grant: c}, true
}

func (d *desk) Begin(id string, c Claim) {
	defer d.enter()()
	c.Grant.(*claim).begun.Add(1)
	d.begun = append(d.begun, id)
}

func (d *desk) Cancel(c Claim) {
	if d.onCancel != nil {
		d.onCancel()
	}
	defer d.enter()()
	c.Grant.(*claim).cancelled.Add(1)
	d.room++
}

func (d *desk) Limits() Limits {
	defer d.enter()()
	return d.limits
}

func (d *desk) maker() Maker { return d }

// counts says what became of the claims, and fails where one was both begun and cancelled, or one of them twice.
func (d *desk) counts(t *testing.T) (open, begun, cancelled int) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, c := range d.claims {
		b, x := c.begun.Load(), c.cancelled.Load()
		if b+x > 1 {
			t.Errorf("claim %d was begun %d times and cancelled %d times", i, b, x)
		}
		begun += int(b)
		cancelled += int(x)
	}
	if n := d.overlaps.Load(); n > 0 {
		t.Errorf("%d calls of a lane's maker came while there was another", n)
	}
	return len(d.claims) - begun - cancelled, begun, cancelled
}

// want checks the counts.
func (d *desk) want(t *testing.T, open, begun, cancelled int) {
	t.Helper()
	if o, b, x := d.counts(t); o != open || b != begun || x != cancelled {
		t.Errorf("claims: %d open, %d begun, %d cancelled; want %d, %d, %d", o, b, x, open, begun, cancelled)
	}
}

// rig is a Set without Run, and the file as Envoy sees it.
type rig struct {
	*clock
	path string
	set  *Set
	reg  *prometheus.Registry
	log  *bytes.Buffer
	mem  memory
}

func newRig(t testing.TB, change ...func(*Options)) *rig {
	t.Helper()
	r := &rig{clock: newClock(), path: filepath.Join(t.TempDir(), "lanes"), reg: prometheus.NewRegistry(), log: &bytes.Buffer{}}
	o := Options{Path: r.path, Prefix: "w", Now: r.now, Registry: r.reg, Generation: 37, Log: slog.New(slog.NewTextHandler(r.log, nil))}
	for _, c := range change {
		c(&o)
	}
	set, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	r.set = set
	t.Cleanup(set.Close)
	r.mem = mapAsEnvoy(t, r.path)
	return r
}

// mapAsEnvoy maps the file a second time.
func mapAsEnvoy(t testing.TB, path string) memory {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	mem, err := unix.Mmap(int(f.Fd()), 0, fileSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(mem) })
	return mem
}

// look is what Run does every 5 ms.
func (r *rig) look() {
	r.add(lookEvery)
	r.set.step(r.now(), nil)
}

// offer makes a lane, which must work.
func (r *rig) offer(t testing.TB, key string, d *desk) *lua {
	t.Helper()
	ticket, ok := r.set.Offer(key, d.maker, time.Time{})
	if !ok {
		t.Fatalf("there is no lane for %q", key)
	}
	return newLua(t, r.mem, ticket)
}

// metric gives the samples of a metric, as text without comments.
func (r *rig) metric(t *testing.T, name string) string {
	t.Helper()
	all, err := r.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, f := range all {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			s := ""
			for _, l := range m.GetLabel() {
				s += l.GetValue() + "="
			}
			v := m.GetCounter().GetValue() + m.GetGauge().GetValue()
			if v != 0 || s == "" {
				out = append(out, s+strconv.FormatFloat(v, 'f', -1, 64))
			}
		}
	}
	return strings.Join(out, " ")
}

// lua is a ticket in the hands of a Lua state: it does what lane.lua does.
type lua struct {
	mem        memory
	slot       int
	generation uint32
	prefix     string
	yield      func() // between steps
}

func newLua(t testing.TB, mem memory, ticket string) *lua {
	t.Helper()
	part := strings.SplitN(ticket, ":", 3)
	if len(part) != 3 {
		t.Fatalf("ticket %q", ticket)
	}
	slot, err1 := strconv.Atoi(part[0])
	generation, err2 := strconv.ParseUint(part[1], 10, 32)
	if err1 != nil || err2 != nil {
		t.Fatalf("ticket %q", ticket)
	}
	return &lua{mem: mem, slot: slot, generation: uint32(generation), prefix: part[2], yield: func() {}}
}

// use gives the ID of one more use; void says that it came too late; "" that Weir has to be asked.
func (l *lua) use() (id string, void bool) {
	n := l.mem.used(l.slot).Load() + 1
	if l.mem.generation(l.slot).Load() != l.generation || n > l.mem.granted(l.slot).Load() {
		return "", false
	}
	l.yield()
	l.mem.used(l.slot).Store(n)
	l.yield()
	id = l.prefix + strconv.FormatUint(uint64(n), 10)
	return id, l.mem.generation(l.slot).Load() != l.generation || l.mem.granted(l.slot).Load() < n
}

// times uses the lane so often, which must work.
func (l *lua) times(t testing.TB, n int) (ids []string) {
	t.Helper()
	for range n {
		id, void := l.use()
		if id == "" || void {
			t.Fatalf("use %d of %d: %q, void %v", len(ids)+1, n, id, void)
		}
		ids = append(ids, id)
	}
	return ids
}

func (l *lua) granted() int { return int(l.mem.granted(l.slot).Load()) }

func equal[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func equalIDs(t *testing.T, d *desk, want []string) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	if !slices.Equal(d.begun, want) {
		t.Errorf("begun: %q, want %q", d.begun, want)
	}
}
