package ledger

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

// What Options mean when they are zero.
const (
	DefaultFlushEvery   = 50 * time.Millisecond
	DefaultSyncEvery    = time.Second
	DefaultSweepEvery   = time.Minute
	DefaultSegmentBytes = 64 << 20
	DefaultMaxBuffered  = 64 << 20
)

// journalBytes is the size at which another journal is begun.
const journalBytes = 1 << 20

// Options are what a ledger needs. Zero values mean the defaults above.
type Options struct {
	// Now is the clock that tells the day and the age of entries; required.
	Now func() time.Time
	// Log gets what an operator should know; required.
	Log *slog.Logger
	// FlushEvery is the most that kill -9 loses.
	FlushEvery time.Duration
	// SyncEvery is the most that a power failure loses.
	SyncEvery time.Duration
	// SweepEvery is how often retention is applied and other slots are looked after.
	SweepEvery time.Duration
	// SegmentBytes is the size at which another segment is begun; a new UTC day begins one as well.
	SegmentBytes int64
	// MaxBuffered is the most memory for what cannot be written, in bytes. What comes then is dropped and counted.
	MaxBuffered int64
	// Retention is how long entries are kept. Zero: for ever.
	Retention time.Duration

	// open replaces opening files to write, in tests.
	open openFunc
	// journalBytes replaces the constant, in tests.
	journalBytes int64
}

// Ledger is one process's part of the ledger of a state folder. It is safe for concurrent use.
type Ledger struct {
	state   string
	log     *slog.Logger
	now     func() time.Time
	buffers *buffers

	retention atomic.Int64

	lock *slotLock // guarded by syncing
	// id of the slot; opened is the number of the next line when it was opened.
	id     atomic.Pointer[string]
	opened uint64

	// writing guards w. It is never held while a disk is waited for, except for write.
	writing sync.Mutex
	w       *writer
	// syncing is held while files are made durable.
	syncing sync.Mutex
	durable atomic.Uint64
	closed  atomic.Uint64 // base of the first segment that is not complete and durable

	// idling is held while other slots are looked after.
	idling sync.Mutex

	health health
	counts counts

	stop     context.CancelFunc
	wg       sync.WaitGroup
	closing  sync.Once
	closeErr error
}

// counts are what happened since Open.
type counts struct {
	torn, damaged, interrupted, unshipped, deleted atomic.Int64
	// What was dropped, as far as it has been logged.
	loggedEntries, loggedIntents atomic.Int64
}

// Open takes the first free slot of a state folder, repairs it, and enters the requests that dead processes left open,
// in this slot and in others that nobody uses. Close must be called.
func Open(state string, o Options) (*Ledger, error) {
	o = o.withDefaults()
	lock, err := lockFreeSlot(state)
	if err != nil {
		return nil, fmt.Errorf("cannot open the ledger in %s: %w", state, err)
	}
	l, err := open(state, lock, o)
	if err != nil {
		lock.release()
		return nil, fmt.Errorf("cannot open the ledger in %s: %w", lock.dir, err)
	}
	return l, nil
}

func (o Options) withDefaults() Options {
	o.FlushEvery = orDefault(o.FlushEvery, DefaultFlushEvery)
	o.SyncEvery = orDefault(o.SyncEvery, DefaultSyncEvery)
	o.SweepEvery = orDefault(o.SweepEvery, DefaultSweepEvery)
	o.SegmentBytes = orDefault(o.SegmentBytes, DefaultSegmentBytes)
	o.MaxBuffered = orDefault(o.MaxBuffered, DefaultMaxBuffered)
	o.journalBytes = orDefault(o.journalBytes, journalBytes)
	if o.open == nil {
		o.open = openAppend
	}
	return o
}

func orDefault[T ~int64](v, d T) T {
	if v <= 0 {
		return d
	}
	return v
}

func open(state string, lock *slotLock, o Options) (*Ledger, error) {
	l := &Ledger{state: state, log: o.Log, now: o.Now, lock: lock, buffers: newBuffers(o.MaxBuffered / 2)}
	l.retention.Store(int64(o.Retention))
	id, err := slotID(lock.dir)
	if err != nil {
		return nil, err
	}
	l.id.Store(&id)
	was, err := recoverSlot(lock.dir)
	if err != nil {
		return nil, err
	}
	l.note(lock.dir, was)
	l.opened = was.next

	w := &writer{
		slot: lock.dir, buffers: l.buffers, openFile: o.open, now: o.Now,
		segmentBytes: o.SegmentBytes, journalBytes: o.journalBytes, maxPending: int(o.MaxBuffered / 2),
		base: was.next, journals: map[uint64]*journal{},
	}
	if a := was.active; a != nil {
		path := segmentPath(lock.dir, a.base, plainSuffix)
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		w.base, w.lines, w.entries.size, w.day = a.base, uint64(a.lines), a.size, dayOf(info.ModTime())
	}
	w.entries.path = segmentPath(lock.dir, w.base, plainSuffix)
	w.beginJournal(max(was.journal, 1)) // 0 means none
	l.w = w
	// What was found is made durable once, so that it counts as such from now on.
	if err := syncSegment(w.entries.path); err != nil {
		return nil, err
	}
	l.durable.Store(was.next)
	l.closed.Store(w.base)
	l.sweep()

	ctx, stop := context.WithCancel(context.Background())
	l.stop = stop
	l.every(ctx, o.FlushEvery, func() { _ = l.Flush() })
	l.every(ctx, o.SyncEvery, func() { _ = l.sync() })
	l.every(ctx, o.SweepEvery, l.sweep)
	return l, nil
}

func syncSegment(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func (l *Ledger) every(ctx context.Context, d time.Duration, do func()) {
	l.wg.Go(func() {
		t := time.NewTicker(d)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				do()
			case <-ctx.Done():
				return
			}
		}
	})
}

// note logs and counts what a slot looked like.
func (l *Ledger) note(dir string, r recovered) {
	l.counts.torn.Add(r.torn)
	l.counts.damaged.Add(r.damaged)
	l.counts.interrupted.Add(r.interrupted)
	if r.torn > 0 || r.damaged > 0 {
		l.log.Warn("the ledger was repaired: its last process did not end well", "folder", dir, "linesCutOff", r.torn, "linesUnreadable", r.damaged)
	}
	if r.interrupted > 0 {
		l.log.Warn("requests were open when their process died; they are entered with their estimate, flagged as interrupted", "folder", dir, "requests", r.interrupted)
	}
}

// Begin notes that a request was let in. It does not wait for the disk. It returns false if a request with this ID
// is open already; nothing is noted then.
func (l *Ledger) Begin(in Intent) bool { return l.buffers.begin(&in) }

// Commit enters a request that Begin was called for. It does not wait for the disk. It returns false if no request
// with this ID is open: it has been entered already, or has never begun; nothing is entered then.
func (l *Ledger) Commit(e Entry) bool { return l.buffers.commit(&e) }

// Flush writes what Begin and Commit have noted so far. After it, kill -9 loses none of that. On an error nothing is
// lost yet: it is tried again every FlushEvery.
func (l *Ledger) Flush() error {
	l.writing.Lock()
	defer l.writing.Unlock()
	err := l.w.flush()
	if err == nil {
		err = l.w.compactJournals()
	}
	l.health.set(&l.health.write, err, l.log, l.now())
	return err
}

// Sync makes everything that Begin and Commit have noted so far durable. After it, a power failure loses none of that.
func (l *Ledger) Sync() error { return errors.Join(l.Flush(), l.sync()) }

// sync makes what has been written durable, and deletes the journals that are not needed any more.
func (l *Ledger) sync() error {
	l.syncing.Lock()
	defer l.syncing.Unlock()
	err := l.syncLocked()
	l.health.set(&l.health.sync, err, l.log, l.now())
	return err
}

func (l *Ledger) syncLocked() error {
	l.writing.Lock()
	lost := l.w.lost() || !l.lock.intact()
	l.writing.Unlock()
	if lost {
		if err := l.startOver(); err != nil {
			return err
		}
	}
	l.writing.Lock()
	s := l.w.snapshot()
	l.writing.Unlock()
	for _, f := range s.files {
		if err := f.Sync(); err != nil {
			l.writing.Lock()
			l.w.restore(s)
			l.writing.Unlock()
			return fmt.Errorf("cannot make the ledger durable: %w", err)
		}
	}
	l.durable.Store(s.next)
	l.closed.Store(s.base)
	var err error
	for _, f := range s.retired {
		err = errors.Join(err, f.Close())
	}
	for _, f := range s.finished {
		err = errors.Join(err, remove(journalPath(l.lock.dir, f.journal)))
	}
	return err
}

// startOver makes the slot again after somebody has removed it.
func (l *Ledger) startOver() error {
	l.log.Error("files of the ledger were removed while it is in use; it goes on with new ones, and what was in the old ones is lost", "folder", l.lock.dir)
	lock, err := lockSlot(l.lock.dir)
	switch {
	case err != nil:
		return err
	case lock == nil && !l.lock.intact():
		return fmt.Errorf("%s was removed and is used by another process now; restart this one", l.lock.dir)
	case lock != nil:
		l.lock.release()
		l.lock = lock
	}
	id, err := slotID(l.lock.dir)
	if err != nil {
		return err
	}
	l.id.Store(&id)
	l.writing.Lock()
	defer l.writing.Unlock()
	l.w.startOver()
	return nil
}

// Close writes everything, makes it durable, and lets go of the slot. Requests that are still open are entered as
// interrupted by the next Open.
func (l *Ledger) Close() error {
	l.closing.Do(func() {
		l.stop()
		l.wg.Wait()
		_ = l.Flush()
		// Twice: a journal is deleted after the flush that follows the last of its entries.
		err := errors.Join(l.Flush(), l.sync())
		l.syncing.Lock()
		defer l.syncing.Unlock()
		l.writing.Lock()
		defer l.writing.Unlock()
		l.noteDropped()
		l.closeErr = errors.Join(err, l.w.close(), l.removeIdleJournals())
		l.lock.release()
	})
	return l.closeErr
}

// removeIdleJournals removes the journals in which no request is open.
func (l *Ledger) removeIdleJournals() error {
	if l.w.pendingLines > 0 {
		return nil
	}
	var err error
	for n, j := range l.w.journals {
		if j.open == 0 {
			err = errors.Join(err, remove(journalPath(l.lock.dir, n)))
		}
	}
	return err
}

// Slot returns the folder of this process's slot and its ID, which names it for ever and everywhere.
func (l *Ledger) Slot() (dir, id string) { return l.slotDir(), *l.id.Load() }

func (l *Ledger) slotDir() string { return l.w.slot }

// Opened is the number of the first line that this process could write.
func (l *Ledger) Opened() uint64 { return l.opened }

// Durable is the number of the first line that a power failure could still take away: those before it are for ever.
func (l *Ledger) Durable() uint64 { return l.durable.Load() }

// RenewID gives the slot another ID.
func (l *Ledger) RenewID() (string, error) {
	id, err := RenewID(l.slotDir())
	if err == nil {
		l.id.Store(&id)
	}
	return id, err
}

// SetRetention changes how long entries are kept. Zero: for ever.
func (l *Ledger) SetRetention(d time.Duration) { l.retention.Store(int64(d)) }

// Sum adds up the entries of all slots whose requests began in from <= time < to; zero means no bound. What other
// processes have not written yet is missing, and what this one cannot write; Health tells.
func (l *Ledger) Sum(ctx context.Context, from, to time.Time, by ...Dimension) ([]Row, error) {
	_ = l.Flush()
	r, err := Read(ctx, l.state, Query{From: from, To: to, GroupBy: by})
	if err != nil {
		return nil, err
	}
	return r.Rows, nil
}

// Dir is where the slots of a state folder are.
func Dir(state string) string { return filepath.Join(state, ledgerDir) }
