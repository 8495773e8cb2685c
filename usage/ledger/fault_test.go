package ledger

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// disk is a disk that tests fill up and break.
type disk struct {
	mu sync.Mutex
	// room is how many bytes still fit; negative is no bound.
	room int
	sync error
	// stuck holds writes up until it is closed.
	stuck chan struct{}
	// entered is closed when the first one is.
	entered chan struct{}
	once    sync.Once
}

func (d *disk) set(room int, sync error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.room, d.sync = room, sync
}

func (d *disk) open(path string) (file, error) {
	f, err := openAppend(path)
	if err != nil {
		return nil, err
	}
	return &brittleFile{file: f, disk: d}, nil
}

type brittleFile struct {
	file
	disk *disk
}

func (f *brittleFile) Write(b []byte) (int, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if f.disk.stuck != nil {
		f.disk.once.Do(func() { close(f.disk.entered) })
		<-f.disk.stuck
	}
	if f.disk.room < 0 || len(b) <= f.disk.room {
		n, err := f.file.Write(b)
		if f.disk.room >= 0 {
			f.disk.room -= n
		}
		return n, err
	}
	n, _ := f.file.Write(b[:f.disk.room])
	f.disk.room = 0
	return n, &os.PathError{Op: "write", Path: "the disk", Err: syscall.ENOSPC}
}

func (f *brittleFile) Sync() error {
	f.disk.mu.Lock()
	err := f.disk.sync
	f.disk.mu.Unlock()
	if err != nil {
		return err
	}
	return f.file.Sync()
}

// TestDiskFull lets the disk take some bytes at a time: nothing is lost and nothing is there twice.
func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	d := &disk{room: 700}
	o := manual()
	o.open = d.open
	l := mustOpen(t, dir, o)
	add(t, l, "a", "b", "c", "d", "e")
	l.Begin(intent("slow"))
	err := l.Flush()
	if !errors.Is(err, syscall.ENOSPC) || !errors.Is(l.Health(), syscall.ENOSPC) {
		t.Fatalf("%v; %v", err, l.Health())
	}
	seen := -1
	for i := 0; l.Health() != nil; i++ {
		d.set(90, nil)
		add(t, l, fmt.Sprint("f", i))
		_ = l.Flush()
		if n := len(all(t, dir)); n < seen {
			t.Fatalf("of %d entries %d are left", seen, n)
		} else if seen = n; i == 5 {
			d.set(1<<20, nil)
			_ = l.Flush()
		}
	}
	if err := l.Sync(); err != nil {
		t.Fatal(err)
	}
	l.Commit(entry("slow"))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	want := []string{"a", "b", "c", "d", "e", "slow"}
	for i := range 6 {
		want = append(want, fmt.Sprint("f", i))
	}
	wantIDs(t, dir, want...)
	if left := glob(t, dir, "0/intents-*"); len(left) > 0 {
		t.Errorf("journals are left: %v", left)
	}
	l = mustOpen(t, dir, manual())
	if s := l.Stats(); s.Torn != 0 || s.Interrupted != 0 || l.Opened() != uint64(len(want)) {
		t.Errorf("%+v, next is %d", s, l.Opened())
	}
}

// TestDeathOnAFullDisk leaves a line behind that was written in part.
func TestDeathOnAFullDisk(t *testing.T) {
	dir := t.TempDir()
	d := &disk{room: -1}
	o := manual()
	o.open = d.open
	l := mustOpen(t, dir, o)
	for i := range 3 {
		l.Begin(intent(fmt.Sprint(i)))
	}
	if err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		l.Commit(entry(fmt.Sprint(i)))
	}
	d.set(len(appendEntry(nil, &Entry{}))+800, nil)
	if l.Flush() == nil {
		t.Fatal("everything fit")
	}
	exact := len(all(t, dir))
	if exact == 0 || exact == 3 {
		t.Fatalf("%d lines fit", exact)
	}
	l.die()
	l = mustOpen(t, dir, manual())
	found := all(t, dir)
	interrupted := 0
	for _, e := range found {
		interrupted += int(count(e.Interrupted))
	}
	if s := l.Stats(); len(found) != 3 || interrupted != 3-exact || s.Torn != 1 {
		t.Errorf("%d entries, %d interrupted of %d that did not fit, %+v", len(found), interrupted, 3-exact, s)
	}
}

// TestBufferIsBounded fills the memory while the disk is full: what is dropped is counted, and what is kept is written.
func TestBufferIsBounded(t *testing.T) {
	dir := t.TempDir()
	d := &disk{}
	o := manual()
	o.open = d.open
	o.MaxBuffered = 512 << 10
	l := mustOpen(t, dir, o)
	const n = 5000
	for i := range n {
		id := fmt.Sprint(i)
		if !l.Begin(intent(id)) || !l.Commit(entry(id)) {
			t.Fatalf("request %d was refused", i)
		}
		if i%100 == 0 {
			_ = l.Flush()
		}
	}
	_ = l.Flush()
	s := l.Stats()
	if s.DroppedEntries == 0 || s.DroppedEntries >= n || s.Open != 0 {
		t.Fatalf("%+v", s)
	}
	if err := l.Health(); err == nil || !strings.Contains(err.Error(), fmt.Sprint(s.DroppedEntries, " entries were dropped")) {
		t.Errorf("%v", err)
	}
	if size := cap(l.w.entries.buf) + cap(l.w.intents.buf); size > 2*int(o.MaxBuffered) {
		t.Errorf("%d bytes are kept", size)
	}
	d.set(-1, nil)
	add(t, l, "after")
	for range 3 {
		if err := l.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	if l.Health() != nil {
		t.Error(l.Health())
	}
	// Nobody enters what was dropped, so it is interrupted if its beginning got into a journal.
	if got := int64(len(all(t, dir))); got != n-l.Stats().DroppedEntries+1 {
		t.Errorf("%d entries, %d dropped of %d", got, l.Stats().DroppedEntries, n+1)
	}
}

// TestStuckDisk has a write that does not return: requests go on.
func TestStuckDisk(t *testing.T) {
	d := &disk{room: -1, stuck: make(chan struct{}), entered: make(chan struct{})}
	o := manual()
	o.open = d.open
	o.MaxBuffered = 256 << 10
	dir := t.TempDir()
	l := mustOpen(t, dir, o)
	l.Begin(intent("first"))
	flushed := make(chan error)
	go func() { flushed <- l.Flush() }()
	<-d.entered
	dropped := func() int64 { n, _ := l.buffers.dropped(); return n }
	i := 0
	for ; dropped() == 0; i++ { // ends, so the buffers are bounded without a flush too
		add(t, l, fmt.Sprint(i))
	}
	close(d.stuck)
	if err := <-flushed; err != nil {
		t.Fatal(err)
	}
	l.Commit(entry("first"))
	lost := dropped()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if n := int64(len(all(t, dir))); n != int64(i)+1-lost {
		t.Errorf("%d entries of %d, %d dropped", n, i+1, lost)
	}
}

func TestSyncFails(t *testing.T) {
	dir := t.TempDir()
	d := &disk{room: -1, sync: syscall.EIO}
	o := manual()
	o.open = d.open
	l := mustOpen(t, dir, o)
	l.Begin(intent("slow"))
	l.Flush()
	l.Commit(entry("slow"))
	add(t, l, "a")
	for range 4 {
		if err := l.Sync(); !errors.Is(err, syscall.EIO) || !errors.Is(l.Health(), syscall.EIO) {
			t.Fatalf("%v; %v", err, l.Health())
		}
	}
	if l.Durable() != 0 {
		t.Errorf("%d lines count as durable", l.Durable())
	}
	d.set(-1, nil)
	if err := l.Sync(); err != nil || l.Health() != nil || l.Durable() != 2 {
		t.Errorf("%v, %v, %d", err, l.Health(), l.Durable())
	}
}

func TestCollector(t *testing.T) {
	l := mustOpen(t, t.TempDir(), manual())
	add(t, l, "a", "b")
	l.Begin(intent("open"))
	l.Flush()
	want := `
		# HELP weir_ledger_entries_total Entries written.
		# TYPE weir_ledger_entries_total counter
		weir_ledger_entries_total 2
		# HELP weir_ledger_healthy 1 while the ledger is written in time.
		# TYPE weir_ledger_healthy gauge
		weir_ledger_healthy 1
		# HELP weir_ledger_open_requests Requests that have begun and not ended.
		# TYPE weir_ledger_open_requests gauge
		weir_ledger_open_requests 1
	`
	err := testutil.CollectAndCompare(l.Collector(), strings.NewReader(want), "weir_ledger_entries_total", "weir_ledger_healthy", "weir_ledger_open_requests")
	if err != nil {
		t.Error(err)
	}
	if problems, err := testutil.CollectAndLint(l.Collector()); err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
	prometheus.NewPedanticRegistry().MustRegister(l.Collector())
}
