package ledger

import (
	"errors"
	"fmt"
	"time"
)

// sweep closes segments that are complete, applies retention, and looks after the slots that nobody uses.
func (l *Ledger) sweep() {
	l.noteDropped()
	l.health.set(&l.health.sweep, l.trySweep(), l.log, l.now())
}

// noteDropped logs what was dropped since the last time.
func (l *Ledger) noteDropped() {
	entries, intents := l.buffers.dropped()
	n, m := entries-l.counts.loggedEntries.Swap(entries), intents-l.counts.loggedIntents.Swap(intents)
	if n > 0 || m > 0 {
		l.log.Error("the ledger could not be written and there was no room to keep more: entries are lost, or requests are unprotected against a crash",
			"entries", n, "requestsUnprotected", m)
	}
}

func (l *Ledger) trySweep() error {
	l.writing.Lock()
	if l.w.lines > 0 && len(l.w.entries.buf) == 0 && l.w.day != dayOf(l.now()) {
		l.w.rotate() // nothing is written today so far, and yesterday is over
	}
	l.writing.Unlock()
	err := l.sync()
	err = errors.Join(err, l.tidy(l.slotDir(), l.closed.Load()))
	return errors.Join(err, l.EachIdle(func(dir, _ string, next uint64) error { return l.tidy(dir, next) }))
}

// EachIdle takes every slot that no process uses, enters the requests that its last process left open, and calls fn
// while it holds the slot. What is in it is durable; next is the number of its next line.
func (l *Ledger) EachIdle(fn func(dir, id string, next uint64) error) error {
	l.idling.Lock()
	defer l.idling.Unlock()
	dirs, err := slotDirs(l.state)
	if err != nil {
		return err
	}
	var errs []error
	for _, dir := range dirs {
		if dir == l.slotDir() {
			continue
		}
		if err := l.idle(dir, fn); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", dir, err))
		}
	}
	return errors.Join(errs...)
}

func (l *Ledger) idle(dir string, fn func(dir, id string, next uint64) error) error {
	lock, err := lockSlot(dir)
	if lock == nil {
		return err
	}
	defer lock.release()
	id, err := slotID(dir)
	if err != nil {
		return err
	}
	was, err := recoverSlot(dir)
	l.note(dir, was)
	if err != nil {
		return err
	}
	if a := was.active; a != nil {
		if err := syncSegment(segmentPath(dir, a.base, plainSuffix)); err != nil {
			return err
		}
	}
	return fn(dir, id, was.next)
}

// tidy closes the segments of a slot that begin before a line, and deletes those that are too old.
func (l *Ledger) tidy(dir string, before uint64) error {
	files, err := listSlot(dir)
	if err != nil {
		return err
	}
	for _, s := range files.segments {
		if s.plain && s.base < before {
			if _, err := closeSegment(dir, s.base); err != nil {
				return err
			}
		}
	}
	keep := time.Duration(l.retention.Load())
	if keep <= 0 {
		return nil
	}
	gone, err := deleteOld(dir, l.now().Add(-keep))
	for _, g := range gone {
		l.noteDeleted(dir, g)
	}
	return err
}

// noteDeleted says so when entries were deleted that have not been sent to where they should be.
func (l *Ledger) noteDeleted(dir string, g lineRange) {
	l.counts.deleted.Add(int64(g.to - g.from))
	shipped, ever := ReadShipped(dir)
	if !ever || shipped.Next >= g.to {
		return
	}
	n := int64(g.to - max(g.from, shipped.Next))
	l.counts.unshipped.Add(n)
	l.log.Error("entries became too old and were deleted before they could be sent to the shared ledger; it lacks them for ever",
		"folder", dir, "entries", n)
}
