//go:build linux || darwin

package lane

import (
	"bytes"
	"context"
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestOpenMakesTheFile(t *testing.T) {
	defer unix.Umask(unix.Umask(0o077))
	r := newRig(t)
	st, err := os.Stat(r.path)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "mode", st.Mode(), os.FileMode(0o600))
	equal(t, "size", st.Size(), 64+64*4096)
}

func TestOpenWithoutAPath(t *testing.T) {
	s, err := Open(Options{})
	if s != nil || err != nil {
		t.Errorf("%v, %v", s, err)
	}
}

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	write := func(name string, b []byte) string {
		if err := os.WriteFile(path(name), b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path(name)
	}
	if err := os.Symlink(write("target", nil), path("link")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(path("pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	held, err := Open(Options{Path: path("held")})
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	other := binary.NativeEndian.AppendUint32(binary.NativeEndian.AppendUint32(nil, fileMagic), fileLayout+1)
	for _, c := range []struct{ name, path, says string }{
		{"no such folder", path("none/lanes"), "cannot be opened: no such file or directory"},
		{"a folder", dir, "cannot be opened: is a directory"},
		{"a symbolic link", path("link"), "cannot be opened: too many levels of symbolic links"},
		{"a pipe", path("pipe"), "is not a regular file"},
		{"another weir has it", path("held"), "is in use by another weir"},
		{"a text", write("text", []byte("dear diary")), "holds something else"},
		{"a short text", write("short", []byte("hi")), "holds something else"},
		{"another layout", write("layout", other), "holds something else"},
	} {
		t.Run(c.name, func(t *testing.T) {
			before, _ := os.Lstat(c.path)
			s, err := Open(Options{Path: c.path})
			if err == nil {
				s.Close()
				t.Fatal("no error")
			}
			if !strings.Contains(err.Error(), c.says) || !strings.HasPrefix(err.Error(), "the lane file "+c.path+" ") || strings.Count(err.Error(), c.path) != 1 {
				t.Errorf("%q; want it to name the path and say %q", err, c.says)
			}
			if after, _ := os.Lstat(c.path); before != nil && (after.Size() != before.Size() || after.Mode() != before.Mode()) {
				t.Error("it was changed")
			}
		})
	}
}

// A process that dies leaves lanes that Envoy knows of.
func TestOpenAfterAnotherProcess(t *testing.T) {
	r := newRig(t)
	d := newDesk(100)
	l := r.offer(t, "a", d)
	l.times(t, 3)
	r.look()
	// The file as it was when the process died, under the eyes of Envoy.
	died := append([]byte(nil), r.mem...)
	r.set.Close()
	copy(r.mem, died)
	if l.granted() == 0 || r.mem.number(atAlive).Load() == 0 {
		t.Fatal("nothing is left of the process before")
	}
	inode := func() uint64 {
		var st unix.Stat_t
		if err := unix.Stat(r.path, &st); err != nil {
			t.Fatal(err)
		}
		return st.Ino
	}
	was := inode()
	s, err := Open(Options{Path: r.path, Prefix: "x", Now: r.now, Generation: 900})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	equal(t, "inode", inode(), was)
	if id, _ := l.use(); id != "" {
		t.Errorf("the old ticket is good for %s", id)
	}
	equal(t, "alive", r.mem.number(atAlive).Load(), 0)
	// Its slot rests: a Lua may be about to write.
	if ticket, _ := s.Offer("a", d.maker, time.Time{}); ticket != "1:900:x-L1.p0." {
		t.Errorf("ticket %q", ticket)
	}
	for range slotCount - 2 {
		s.free.take(r.now())
	}
	if _, ok := s.Offer("b", d.maker, time.Time{}); ok {
		t.Error("a lane has the slot of the process before at once")
	}
	r.add(slotRest)
	ticket, _ := s.Offer("b", d.maker, time.Time{})
	b := newLua(t, r.mem, ticket)
	equal(t, "slot", b.slot, 0)
	b.times(t, 8)
}

// What is longer stays longer, and what is shorter becomes as long as it must be.
func TestOpenSizes(t *testing.T) {
	for name, size := range map[string]int{"empty": 0, "half made": 1000, "longer": fileSize + 100} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "lanes")
			if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
				t.Fatal(err)
			}
			s, err := Open(Options{Path: path})
			if err != nil {
				t.Fatal(err)
			}
			s.Close()
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			equal(t, "size", len(b), max(size, fileSize))
			if !bytes.HasPrefix(b, []byte{0x57, 0x45, 0x49, 0x52, 1, 0, 0, 0}) && !bytes.HasPrefix(b, []byte{0x52, 0x49, 0x45, 0x57, 0, 0, 0, 1}) {
				t.Errorf("begins with % x", b[:8])
			}
		})
	}
}

func TestClose(t *testing.T) {
	r := newRig(t)
	d := newDesk(100)
	l := r.offer(t, "a", d)
	r.look()
	ids := l.times(t, 2)
	if r.mem.number(atAlive).Load() == 0 {
		t.Fatal("it was never alive")
	}
	r.set.Close()
	equalIDs(t, d, ids)
	d.want(t, 0, 2, 6)
	equal(t, "alive", r.mem.number(atAlive).Load(), 0)
	if _, ok := r.set.Offer("b", d.maker, time.Time{}); ok {
		t.Error("a lane begins")
	}
	equal(t, "Begun", r.set.Begun(ids[0]), true)
	equal(t, "Begun of one that was cancelled", r.set.Begun(l.prefix+"3"), false)
	r.set.Revoke()
	r.set.Renew()
	r.look()
	r.add(time.Hour)
	if _, ok := r.set.Offer("b", d.maker, time.Time{}); ok {
		t.Error("a lane begins after an hour")
	}
	r.set.Close()
	equal(t, "weir_lane_revocations_total", r.metric(t, "weir_lane_revocations_total"), "")
	// Another process may have it now.
	s, err := Open(Options{Path: r.path})
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
}

// running is a rig with Run, which looks when it is told to.
func running(t *testing.T) (r *rig, look func(time.Duration), done <-chan struct{}, cancel func()) {
	t.Helper()
	ticks := make(chan time.Time)
	r = newRig(t, func(o *Options) { o.Tick = ticks })
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r.set.Run(ctx)
	}()
	t.Cleanup(func() { cancel(); <-ended })
	return r, func(d time.Duration) {
		r.add(d)
		ticks <- time.Time{}
		ticks <- time.Time{} // it has done with the first
	}, ended, cancel
}

func TestRunBeats(t *testing.T) {
	r, look, _, _ := running(t)
	alive := func() float64 { return math.Float64frombits(r.mem.number(atAlive).Load()) - r.unixMilli() }
	look(0)
	equal(t, "without lanes", r.mem.number(atAlive).Load(), 0)
	d := newDesk(1 << 20)
	r.offer(t, "a", d)
	look(0)
	equal(t, "with one", alive(), 250)
	look(45 * time.Millisecond)
	equal(t, "45 ms later", alive(), 205)
	look(5 * time.Millisecond)
	equal(t, "50 ms later", alive(), 250)
	look(70 * time.Millisecond)
	equal(t, "120 ms later", alive(), 250)
	r.set.Renew()
	look(0)
	was := alive()
	look(time.Second)
	equal(t, "a second later, without lanes", alive(), was-1000)
	// And again.
	r.offer(t, "a", d)
	look(0)
	equal(t, "with another", alive(), 250)
}

func TestRunLooks(t *testing.T) {
	r, look, done, cancel := running(t)
	d := newDesk(1 << 20)
	l := r.offer(t, "a", d)
	ids := l.times(t, 5)
	look(lookEvery)
	equalIDs(t, d, ids)
	equal(t, "granted", l.granted(), 5+10)
	ids = append(ids, l.times(t, 1)...)
	look(idleAfter - lookEvery)
	equalIDs(t, d, ids)
	look(idleAfter)
	equal(t, "Live", r.set.Live(), 0)
	l = r.offer(t, "a", d)
	look(0)
	ids = append(ids, l.times(t, 1)...)
	cancel()
	<-done
	equalIDs(t, d, ids)
	if open, _, _ := d.counts(t); open != 0 {
		t.Errorf("%d claims are open", open)
	}
	equal(t, "alive", r.mem.number(atAlive).Load(), 0)
	if _, ok := r.set.Offer("a", d.maker, time.Time{}); ok {
		t.Error("a lane begins that nobody looks at")
	}
}

// Run looks by itself where nobody makes it.
func TestRunByTheClock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lanes")
	s, err := Open(Options{Path: path, Prefix: "w"})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.Run(t.Context())
	}()
	mem := mapAsEnvoy(t, path)
	d := newDesk(1 << 20)
	seen := make(chan string, 1)
	ticket, ok := s.Offer("a", func() Maker { return &telling{d, seen} }, time.Time{})
	if !ok {
		t.Fatal("no lane")
	}
	id := newLua(t, mem, ticket).times(t, 1)[0]
	equal(t, "begun", <-seen, id)
	s.Close()
	<-ended
	d.want(t, 0, 1, len(d.claims)-1)
}

// telling is a desk that tells what it begins.
type telling struct {
	*desk
	begun chan<- string
}

func (t *telling) Begin(id string, c Claim) {
	t.desk.Begin(id, c)
	t.begun <- id
}
