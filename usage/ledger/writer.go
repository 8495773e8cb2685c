package ledger

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"
)

// file is what the writer needs of an *os.File.
type file interface {
	Write([]byte) (int, error)
	Sync() error
	Close() error
	Stat() (os.FileInfo, error)
}

// openFunc opens a file to append to; it is os.OpenFile but in tests.
type openFunc func(path string) (file, error)

func openAppend(path string) (file, error) {
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, fileMode)
}

// output is a file with the lines that are to be written to it. After an error it goes on where the file ends.
type output struct {
	path  string
	file  file
	buf   []byte
	start int // of buf; what is before has been written
	size  int64
	dirty bool // since the last sync
}

func (o *output) pending() int { return len(o.buf) - o.start }

// write writes all that is pending, or returns why it could not.
func (o *output) write(open openFunc) error {
	if o.pending() == 0 {
		return nil
	}
	if o.file == nil {
		f, err := open(o.path)
		if err != nil {
			return err
		}
		o.file = f
	}
	n, err := o.file.Write(o.buf[o.start:])
	o.start += n
	o.size += int64(n)
	o.dirty = o.dirty || n > 0
	if err != nil {
		return err
	}
	const most = 4 << 20
	if cap(o.buf) > most {
		o.buf = nil
	}
	o.buf, o.start = o.buf[:0], 0
	return nil
}

// journal is a journal that still has open requests.
type journal struct {
	n    uint64
	size int64
	// total intents it has, and how many of their requests are open.
	total, open int
}

// live is about how many bytes of it are of open requests.
func (j *journal) live() int64 { return j.size * int64(j.open) / int64(max(j.total, 1)) }

// finished is a journal that can be deleted once everything that was in the buffers at the flush is durable.
type finished struct {
	journal uint64
	flush   int64
}

// writer moves lines from the buffers to the files of a slot. It is not safe for concurrent use; Ledger.writing
// guards it.
type writer struct {
	slot     string
	buffers  *buffers
	openFile openFunc
	now      func() time.Time

	segmentBytes, journalBytes int64
	// maxPending is the most bytes that may wait to be written, for entries; a quarter of it for intents.
	maxPending int

	// entries is the active segment; base is the number of its first line, lines how many it has, day when it
	// was begun.
	entries     output
	base, lines uint64
	day         string
	// pendingLines and pendingJournals are the lines in entries.buf, and the journals of their intents.
	pendingLines    uint64
	pendingJournals []uint64

	intents  output
	journal  uint64              // number of the one that is written now
	journals map[uint64]*journal // by number, the current one included
	finished []finished

	// retired segments are complete; they are synced once more and closed.
	retired []file

	flushes, written int64
}

func dayOf(t time.Time) string { return t.UTC().Format(time.DateOnly) }

// flush takes what the buffers hold and writes it. On an error the rest stays and is tried again by the next call.
func (w *writer) flush() error {
	w.take()
	// Intents first: of a request that has both, the entry counts whatever else is there.
	errIntents := w.writeIntents()
	errEntries := w.writeEntries()
	w.flushes++
	return errors.Join(errIntents, errEntries)
}

// take encodes what the shards hold, as long as there is room for it. What there is no room for stays with them,
// whose own limits then apply.
func (w *writer) take() {
	for i := range w.buffers.shards {
		if len(w.entries.buf) > w.maxPending {
			return
		}
		s := &w.buffers.shards[i]
		bs, es := s.take(w.journal, len(w.intents.buf) < w.maxPending/4)
		for i := range bs {
			if in := &bs[i]; !in.done {
				w.addIntent(&in.Intent)
			}
		}
		for i := range es {
			e := &es[i]
			w.entries.buf = append(appendEntry(w.entries.buf, &e.Entry), '\n')
			w.pendingLines++
			if e.journal != 0 {
				w.pendingJournals = append(w.pendingJournals, e.journal)
			}
		}
		s.giveBack(bs, es)
	}
}

func (w *writer) addIntent(in *Intent) {
	w.intents.buf = append(appendIntent(w.intents.buf, in), '\n')
	w.countIntent()
}

func (w *writer) countIntent() {
	j := w.journals[w.journal]
	j.open++
	j.total++
}

// beginJournal makes the next journal the current one. Its file is made when there is something to write.
func (w *writer) beginJournal(n uint64) {
	w.journal = n
	w.journals[n] = &journal{n: n}
	w.intents.path, w.intents.size = journalPath(w.slot, n), 0
	// Whatever is entered from now on comes after what has been written so far.
	head, _ := json.Marshal(journalHead{Entries: w.base + w.lines}) // cannot fail
	w.intents.buf = append(append(w.intents.buf[:0], head...), '\n')
	w.intents.start = 0
}

func (w *writer) writeIntents() error {
	current := w.journals[w.journal]
	if current.open == 0 && w.intents.file == nil {
		return nil // only the head is there
	}
	isNew := w.intents.file == nil
	if err := w.intents.write(w.openFile); err != nil {
		return fmt.Errorf("cannot write %s: %w", w.intents.path, err)
	}
	current.size = w.intents.size
	if isNew {
		if err := syncDir(w.slot); err != nil {
			return err
		}
	}
	if w.intents.size < w.journalBytes {
		return nil
	}
	w.retire(&w.intents)
	w.beginJournal(w.journal + 1)
	if current.open == 0 {
		w.finish(current)
	}
	return nil
}

// retire gives a complete file to the next sync.
func (w *writer) retire(o *output) {
	if o.file != nil {
		w.retired = append(w.retired, o.file)
	}
	o.file, o.size, o.dirty = nil, 0, false
}

func (w *writer) writeEntries() error {
	if w.pendingLines > 0 && w.entries.start == 0 && w.lines > 0 &&
		(w.entries.size >= w.segmentBytes || w.day != dayOf(w.now())) {
		w.rotate()
	}
	if w.lines == 0 {
		w.day = dayOf(w.now())
	}
	isNew := w.entries.file == nil && w.entries.pending() > 0
	if err := w.entries.write(w.openFile); err != nil {
		return fmt.Errorf("cannot write %s: %w", w.entries.path, err)
	}
	if w.pendingLines == 0 {
		return nil
	}
	w.lines += w.pendingLines
	w.written += int64(w.pendingLines)
	w.pendingLines = 0
	for _, n := range w.pendingJournals {
		j := w.journals[n]
		if j == nil {
			continue
		}
		if j.open--; j.open == 0 && n != w.journal {
			w.finish(j)
		}
	}
	w.pendingJournals = w.pendingJournals[:0]
	if isNew {
		return syncDir(w.slot)
	}
	return nil
}

func (w *writer) finish(j *journal) {
	delete(w.journals, j.n)
	w.finished = append(w.finished, finished{j.n, w.flushes})
}

// rotate ends the active segment; the next one begins with the next line.
func (w *writer) rotate() {
	w.retire(&w.entries)
	w.base += w.lines
	w.lines = 0
	w.entries.path = segmentPath(w.slot, w.base, plainSuffix)
}

// compactJournals moves the few requests that have been open for long out of the oldest journal, so that it can be
// deleted. Without this, one slow request in each would keep every journal there ever was.
func (w *writer) compactJournals() error {
	var oldest *journal
	var size, live int64
	for _, j := range w.journals {
		size += j.size
		live += j.live()
		if j.n != w.journal && (oldest == nil || j.n < oldest.n) {
			oldest = j
		}
	}
	if oldest == nil || size < 8*w.journalBytes || size < 4*live {
		return nil
	}
	f, err := os.Open(journalPath(w.slot, oldest.n))
	if err != nil {
		return err
	}
	defer f.Close()
	_, _, err = readJournal(f, func(line []byte, in *Intent) {
		if w.buffers.move(in.ID, oldest.n, w.journal) {
			w.intents.buf = append(append(w.intents.buf, line...), '\n')
			w.countIntent()
		}
	})
	if err != nil {
		return err
	}
	// What was not moved has ended; its entry is durable before the journal is deleted.
	w.finish(oldest)
	return nil
}

// snapshot is what a sync is about to make durable.
type snapshot struct {
	files    []file // to sync
	retired  []file // of those, to close
	next     uint64 // number of the line after the last one written
	finished []finished
	base     uint64 // of the active segment: those before it are complete
}

// snapshot hands out what has been written since the last one.
func (w *writer) snapshot() snapshot {
	s := snapshot{next: w.base + w.lines, base: w.base, retired: w.retired}
	s.files = append(s.files, w.retired...)
	w.retired = nil
	for _, o := range [...]*output{&w.intents, &w.entries} {
		if o.dirty {
			s.files = append(s.files, o.file)
			o.dirty = false
		}
	}
	if w.pendingLines > 0 || w.intents.pending() > 0 && w.journals[w.journal].open > 0 {
		return s // something that a journal may be needed for is only in memory
	}
	late := w.finished[:0]
	for _, f := range w.finished {
		if f.flush < w.flushes-1 {
			s.finished = append(s.finished, f)
		} else {
			late = append(late, f)
		}
	}
	w.finished = late
	return s
}

// restore puts back what could not be made durable.
func (w *writer) restore(s snapshot) {
	w.retired = append(s.retired, w.retired...)
	w.finished = append(s.finished, w.finished...)
	w.intents.dirty, w.entries.dirty = w.intents.file != nil, w.entries.file != nil
}

// lost reports whether somebody removed the files that are written to.
func (w *writer) lost() bool {
	for _, o := range [...]*output{&w.intents, &w.entries} {
		if o.file == nil {
			continue
		}
		is, errIs := o.file.Stat()
		at, errAt := os.Stat(o.path)
		if errIs == nil && (errAt != nil || !os.SameFile(is, at)) {
			return true
		}
	}
	return false
}

// startOver goes on with new files after the old ones have been removed. Nothing protects the requests that are open
// now any more: if the process dies before they end, they are in no journal.
func (w *writer) startOver() {
	w.rotate()
	w.entries.start = 0 // what had been written in part is written again as a whole
	w.retire(&w.intents)
	w.journals, w.finished, w.pendingJournals = map[uint64]*journal{}, nil, w.pendingJournals[:0]
	w.beginJournal(w.journal + 1)
}

// close closes the files, which have been synced.
func (w *writer) close() error {
	var err error
	for _, f := range w.retired {
		err = errors.Join(err, f.Close())
	}
	for _, o := range [...]*output{&w.intents, &w.entries} {
		if o.file != nil {
			err = errors.Join(err, o.file.Close())
		}
		o.file = nil
	}
	return err
}
