package ledger

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"time"
)

// openSegment opens a segment, closed or not. The error is fs.ErrNotExist when it is gone.
func openSegment(slot string, base uint64) (io.ReadCloser, error) {
	// While a segment is being closed there are both, then only the compressed one. So whoever finds the plain one
	// gone must look for the other.
	f, err := os.Open(segmentPath(slot, base, plainSuffix))
	if !errors.Is(err, fs.ErrNotExist) {
		return f, err
	}
	if f, err = os.Open(segmentPath(slot, base, gzipSuffix)); err != nil {
		return nil, err
	}
	z, err := gzip.NewReader(f)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%s is damaged: %w", f.Name(), err)
	}
	return &gzipFile{Reader: z, file: f}, nil
}

type gzipFile struct {
	*gzip.Reader
	file *os.File
}

func (g *gzipFile) Close() error { return g.file.Close() }

// scan is what was met in a segment.
type scan struct {
	lines, damaged, doubles int64
	// size in bytes of the whole lines.
	size int64
	torn bool
	// first and last are the earliest and the latest time of an entry.
	first, last time.Time
}

// scanEntries calls fn for every entry of a segment, once for each ID. The entry is valid until fn returns. It goes on
// as far as the data can be read: the error says why the rest could not.
func scanEntries(r io.Reader, fn func(*Entry) error) (scan, error) {
	var s scan
	var e Entry
	lines := newLineReader(r)
	seen := map[string]struct{}{}
	for {
		line, size, err := lines.next()
		if err == io.EOF {
			s.torn = lines.torn
			return s, nil
		}
		if err != nil {
			return s, err
		}
		s.lines++
		s.size += size
		if decodeEntry(line, &e) != nil {
			s.damaged++
			continue
		}
		if _, double := seen[e.ID]; double {
			s.doubles++
			continue
		}
		seen[e.ID] = struct{}{}
		if s.first.IsZero() || e.Time.Before(s.first) {
			s.first = e.Time
		}
		if e.Time.After(s.last) {
			s.last = e.Time
		}
		if err := fn(&e); err != nil {
			return s, err
		}
	}
}

// rollup is the head of a roll-up file; its rows follow, one a line.
type rollup struct {
	Version int   `json:"version"`
	Lines   int64 `json:"lines"`
	Damaged int64 `json:"damaged,omitempty"`
	Doubles int64 `json:"doubles,omitempty"`
	// First and Last are the earliest and the latest time of an entry.
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
	// Rows that follow.
	Rows int `json:"rows"`
}

// rollupVersion changes when rows mean something else. A roll-up of another version is made anew. It does not change
// when entries get another field: rows of before lack it, and so do their entries.
const rollupVersion = 1

// readRollup reads the head of a roll-up and, if row is not nil, calls it for every row.
func readRollup(slot string, base uint64, row func(*Row)) (rollup, error) {
	path := segmentPath(slot, base, rollupSuffix)
	f, err := os.Open(path)
	if err != nil {
		return rollup{}, err
	}
	defer f.Close()
	h, err := parseRollup(f, row)
	if err != nil {
		err = fmt.Errorf("%s: %w", path, err)
	}
	return h, err
}

var errRollup = errors.New("is no roll-up of this version")

func parseRollup(r io.Reader, row func(*Row)) (rollup, error) {
	var h rollup
	lines := newLineReader(r)
	line, _, err := lines.next()
	if err != nil || json.Unmarshal(line, &h) != nil || h.Version != rollupVersion || h.Rows < 0 {
		return rollup{}, errRollup
	}
	if row == nil {
		return h, nil
	}
	// Everything is read before anything is reported: half of a roll-up must not be added up.
	var rows []Row
	for {
		line, _, err := lines.next()
		if err == io.EOF {
			break
		}
		var one Row
		if err != nil || json.Unmarshal(line, &one) != nil {
			return rollup{}, errRollup
		}
		rows = append(rows, one)
	}
	if len(rows) != h.Rows {
		return rollup{}, errRollup
	}
	for i := range rows {
		row(&rows[i])
	}
	return h, nil
}

// closeSegment compresses a segment to which nothing will be added, and sums it up. It may be interrupted and called
// again at any point.
func closeSegment(slot string, base uint64) (rollup, error) {
	gzPath, plainPath := segmentPath(slot, base, gzipSuffix), segmentPath(slot, base, plainSuffix)
	_, err := os.Stat(gzPath)
	compressed := err == nil
	if h, err := readRollup(slot, base, nil); err == nil && compressed {
		return h, remove(plainPath)
	}

	in, err := openSegment(slot, base)
	if err != nil {
		return rollup{}, err
	}
	defer in.Close()
	var source io.Reader = in
	var out *os.File
	var zip *gzip.Writer
	if !compressed {
		if out, err = os.OpenFile(gzPath+tempSuffix, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, fileMode); err != nil {
			return rollup{}, err
		}
		zip, _ = gzip.NewWriterLevel(out, gzip.BestSpeed) // the level is a valid one
		source = io.TeeReader(in, zip)
	}
	sums := NewSummer(Query{GroupBy: Dimensions()})
	s, err := scanEntries(source, func(e *Entry) error { sums.Add(e); return nil })
	if out != nil {
		if err == nil {
			err = zip.Close()
		}
		err = finish(out, gzPath, err)
	}
	if err != nil {
		return rollup{}, fmt.Errorf("cannot close the segment %s: %w", plainPath, err)
	}
	rows := sums.Report().Rows
	h := rollup{
		Version: rollupVersion, Lines: s.lines, Damaged: s.damaged, Doubles: s.doubles,
		First: s.first, Last: s.last, Rows: len(rows),
	}
	if err := writeRollup(slot, base, h, rows); err != nil {
		return rollup{}, err
	}
	return h, remove(plainPath)
}

func writeRollup(slot string, base uint64, h rollup, rows []Row) error {
	path := segmentPath(slot, base, rollupSuffix)
	f, err := os.OpenFile(path+tempSuffix, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, fileMode)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(f)
	enc := json.NewEncoder(w)
	err = enc.Encode(h)
	for i := 0; i < len(rows) && err == nil; i++ {
		err = enc.Encode(&rows[i])
	}
	if err == nil {
		err = w.Flush()
	}
	return finish(f, path, err)
}

// remove removes files; those that are gone already are fine.
func remove(paths ...string) error {
	for _, path := range paths {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// deleteOld deletes the closed segments of a slot whose entries all began before a time. It returns the ranges of
// lines that are gone.
func deleteOld(slot string, before time.Time) (gone []lineRange, err error) {
	files, err := listSlot(slot)
	if err != nil {
		return nil, err
	}
	if len(files.segments) == 0 {
		return nil, nil
	}
	newest := files.segments[len(files.segments)-1].base
	closed := slices.DeleteFunc(files.segments, func(s segmentFiles) bool { return !s.gzip })
	for _, s := range closed {
		h, err := readRollup(slot, s.base, nil)
		if err != nil {
			if h, err = closeSegment(slot, s.base); err != nil {
				return gone, err
			}
		}
		last := h.Last
		if last.IsZero() && h.Lines > 0 { // only damaged lines, which say nothing about their age
			info, err := os.Stat(segmentPath(slot, s.base, gzipSuffix))
			if err != nil {
				return gone, err
			}
			last = info.ModTime()
		}
		if !last.Before(before) {
			break // segments are in the order in which requests ended, so the next ones are younger
		}
		end := s.base + uint64(h.Lines)
		if s.base == newest {
			// The number of the next line must not be forgotten with the last segment.
			if err := keepNumber(slot, end); err != nil {
				return gone, err
			}
		}
		// The segment first: a segment without a roll-up would be summed up again, a roll-up alone is ignored.
		if err := remove(segmentPath(slot, s.base, gzipSuffix), segmentPath(slot, s.base, rollupSuffix)); err != nil {
			return gone, err
		}
		gone = append(gone, lineRange{s.base, end})
	}
	return gone, nil
}

// lineRange is from..to-1.
type lineRange struct{ from, to uint64 }

// keepNumber makes an empty segment that begins with a line.
func keepNumber(slot string, next uint64) error {
	f, err := os.OpenFile(segmentPath(slot, next, plainSuffix), os.O_WRONLY|os.O_CREATE, fileMode)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return syncDir(slot)
}
