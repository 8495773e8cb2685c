package ledger

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
)

// Line is one line of a slot, a whole entry as JSON.
type Line struct {
	// Seq is its number, counted over the life of the slot.
	Seq  uint64
	JSON []byte
}

// Cursor reads the lines of a slot in order. It is not safe for concurrent use.
type Cursor struct {
	slot  string
	next  uint64
	file  io.ReadCloser
	lines *lineReader
	base  uint64 // number of the first line of file
	at    uint64 // number of the line that lines reads next
}

// NewCursor returns one that begins with a line. If that line is gone, it begins with the first one after it.
func NewCursor(slot string, from uint64) *Cursor { return &Cursor{slot: slot, next: from} }

// Next is the number of the line that Read returns first.
func (c *Cursor) Next() uint64 { return c.next }

// Oldest is the number of the first line that a slot still has; next, if it has none.
func Oldest(slot string, next uint64) (uint64, error) {
	files, err := listSlot(slot)
	if err != nil || len(files.segments) == 0 {
		return next, err
	}
	return files.segments[0].base, nil
}

// Read returns lines below the number end, at most limit of them: at least one if there is any.
func (c *Cursor) Read(end uint64, limit int) ([]Line, error) {
	var out []Line
	for len(out) < limit && c.next < end {
		if c.lines == nil {
			if found, err := c.open(end); err != nil || !found {
				return out, err
			}
		}
		line, _, err := c.lines.next()
		switch {
		case err == io.EOF:
			// The end of a segment; its successor has the next line. What is below end has been written whole, so
			// it is not the end of a segment that somebody writes to.
			c.Close()
			if more, err := c.after(); err != nil || !more {
				return out, err
			}
		case err != nil:
			c.Close()
			return out, fmt.Errorf("cannot read line %d of %s: %w", c.at, c.slot, err)
		default:
			seq := c.at
			c.at++
			if seq < c.next {
				continue
			}
			c.next = seq + 1
			out = append(out, Line{Seq: seq, JSON: append([]byte(nil), line...)})
		}
	}
	return out, nil
}

// open opens the segment that the next line stands in.
func (c *Cursor) open(end uint64) (found bool, err error) {
	files, err := listSlot(c.slot)
	if err != nil {
		return false, err
	}
	for i, s := range files.segments {
		if i+1 < len(files.segments) && files.segments[i+1].base <= c.next {
			continue
		}
		if s.base >= end {
			return false, nil
		}
		f, err := openSegment(c.slot, s.base)
		if errors.Is(err, fs.ErrNotExist) {
			continue // retention was faster
		}
		if err != nil {
			return false, err
		}
		c.file, c.lines, c.base, c.at = f, newLineReader(f), s.base, s.base
		c.next = max(c.next, s.base)
		return true, nil
	}
	return false, nil
}

// after moves on to the segment that follows the one that was read last.
func (c *Cursor) after() (more bool, err error) {
	files, err := listSlot(c.slot)
	if err != nil {
		return false, err
	}
	for _, s := range files.segments {
		if s.base > c.base {
			c.next = max(c.next, s.base)
			return true, nil
		}
	}
	return false, nil
}

// Close lets go of the file. The cursor can be used on.
func (c *Cursor) Close() {
	if c.file != nil {
		c.file.Close()
	}
	c.file, c.lines = nil, nil
}

// ParseEntry reads an entry from its line.
func ParseEntry(line []byte, e *Entry) error { return decodeEntry(line, e) }
