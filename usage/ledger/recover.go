package ledger

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// recovered is what a slot looked like when it was taken.
type recovered struct {
	// next is the number of the next line.
	next uint64
	// active is the segment to go on with; nil when a new one is due.
	active *activeSegment
	// torn lines were cut off; damaged ones of journals were passed over.
	torn, damaged int64
	// interrupted requests were entered.
	interrupted int64
	// journal is a number above that of any journal there was.
	journal uint64
}

// activeSegment is a segment that lines may still be added to.
type activeSegment struct {
	base  uint64
	lines int64
	size  int64
}

// recoverSlot repairs a locked slot and enters the requests that its last process left open. It may be interrupted
// and called again at any point.
func recoverSlot(slot string) (recovered, error) {
	var out recovered
	files, err := listSlot(slot)
	if err != nil {
		return out, err
	}
	for _, name := range files.temps {
		if err := remove(filepath.Join(slot, name)); err != nil {
			return out, err
		}
	}
	for i, s := range files.segments {
		newest := i == len(files.segments)-1
		if s.gzip {
			if s.plain || newest { // closing was interrupted, or the number of its lines is needed
				h, err := closeSegment(slot, s.base)
				if err != nil {
					return out, err
				}
				out.next = s.base + uint64(h.Lines)
			}
			continue
		}
		a, torn, err := repairSegment(slot, s.base)
		if err != nil {
			return out, err
		}
		out.torn += torn
		out.next = s.base + uint64(a.lines)
		if newest {
			out.active = &a
		}
	}
	if n := len(files.journals); n > 0 {
		out.journal = files.journals[n-1] + 1
	}
	return out, enterInterrupted(slot, files, &out)
}

// repairSegment cuts off what stands after the last line feed, and counts lines.
func repairSegment(slot string, base uint64) (a activeSegment, torn int64, err error) {
	a.base = base
	f, err := os.OpenFile(segmentPath(slot, base, plainSuffix), os.O_RDWR, 0)
	if err != nil {
		return a, 0, err
	}
	defer f.Close()
	lines := newLineReader(f)
	for {
		_, size, err := lines.next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return a, 0, err
		}
		a.lines++
		a.size += size
	}
	if !lines.torn {
		return a, 0, nil
	}
	if err := f.Truncate(a.size); err != nil {
		return a, 0, err
	}
	return a, 1, f.Sync()
}

// journalHead is the first line of a journal.
type journalHead struct {
	// Entries is the number of the first line that may be the entry of one of the journal's requests.
	Entries uint64 `json:"entries"`
}

// readJournal calls fn for every intent of a journal.
func readJournal(r io.Reader, fn func(line []byte, i *Intent)) (h journalHead, damaged int64, err error) {
	lines := newLineReader(r)
	var in Intent
	for n := 0; ; n++ {
		line, _, err := lines.next()
		switch {
		case err == io.EOF:
			return h, damaged, nil
		case err != nil:
			return h, damaged, err
		case n == 0:
			// Without the head every segment is searched, which is slow and right.
			if json.Unmarshal(line, &h) != nil {
				h.Entries = 0
				damaged++
			}
		case decodeIntent(line, &in) != nil:
			damaged++
		default:
			fn(line, &in)
		}
	}
}

// enterInterrupted enters the requests of a dead process that have no entry, and deletes its journals.
func enterInterrupted(slot string, files slotFiles, out *recovered) error {
	if len(files.journals) == 0 {
		return nil
	}
	open := map[string]Intent{}
	var order []string
	first := ^uint64(0)
	for _, n := range files.journals {
		f, err := os.Open(journalPath(slot, n))
		if err != nil {
			return err
		}
		h, damaged, err := readJournal(f, func(_ []byte, i *Intent) {
			if _, known := open[i.ID]; !known {
				order = append(order, i.ID)
			}
			open[i.ID] = *i
		})
		f.Close()
		if err != nil {
			return err
		}
		out.damaged += damaged
		first = min(first, h.Entries)
	}
	if len(open) > 0 {
		if err := forgetEntered(slot, files, first, open); err != nil {
			return err
		}
	}
	if len(open) > 0 {
		if err := appendInterrupted(slot, order, open, out); err != nil {
			return err
		}
	}
	// The entries are durable now; only then may the journals go.
	for _, n := range files.journals {
		if err := remove(journalPath(slot, n)); err != nil {
			return err
		}
	}
	return syncDir(slot)
}

// forgetEntered removes the requests from open that have an entry in line first or a later one.
func forgetEntered(slot string, files slotFiles, first uint64, open map[string]Intent) error {
	for i, s := range files.segments {
		if i+1 < len(files.segments) && files.segments[i+1].base <= first {
			continue
		}
		r, err := openSegment(slot, s.base)
		if err != nil {
			return err
		}
		_, err = scanEntries(r, func(e *Entry) error { delete(open, e.ID); return nil })
		r.Close()
		if err != nil {
			return fmt.Errorf("cannot read %s: %w", segmentPath(slot, s.base, ""), err)
		}
	}
	return nil
}

func appendInterrupted(slot string, order []string, open map[string]Intent, out *recovered) error {
	if out.active == nil {
		out.active = &activeSegment{base: out.next}
	}
	var lines []byte
	n := 0
	for _, id := range order {
		if in, ok := open[id]; ok {
			e := in.Interrupted()
			lines = append(appendEntry(lines, &e), '\n')
			n++
		}
	}
	f, err := os.OpenFile(segmentPath(slot, out.active.base, plainSuffix), os.O_WRONLY|os.O_CREATE|os.O_APPEND, fileMode)
	if err != nil {
		return err
	}
	_, err = f.Write(lines)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	out.active.lines += int64(n)
	out.active.size += int64(len(lines))
	out.next += uint64(n)
	out.interrupted += int64(n)
	return nil
}
