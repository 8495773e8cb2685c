// Package promtext reads the text in which Prometheus exporters tell their metrics, and the OpenMetrics form of it, line by line as
// it arrives. A page has thousands of lines of which a reader wants ten: what is not asked for is not looked at beyond the name of
// its metric, and no line allocates.
//
// Sources: prometheus.io/docs/instrumenting/exposition_formats, the OpenMetrics 1.0 specification, and Prometheus 3's quoted names.
package promtext

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"strconv"
)

const (
	// MaxLine is the longest line, in bytes. vLLM's cache_config_info, the longest in use, has about 2 KiB.
	MaxLine = 256 << 10
	// MaxPage is the longest page, in bytes. vLLM's has about 100 KiB.
	MaxPage = 8 << 20

	firstBuffer = 4 << 10 // holds nearly every line; what does not fit makes it grow
	keptBuffer  = 64 << 10
	idleReads   = 100 // reads without a byte in a row before a source counts as broken
)

// Scanner goes through one page after the other. The zero value is ready for Reset. It is not safe for concurrent use.
type Scanner struct {
	src   io.Reader
	buf   []byte
	r, w  int // unread part of buf
	eof   bool
	line  int // of the current sample, from 1
	bytes int // of the page so far
	err   error

	name []byte // of the metric; in buf or in unquoted
	rest []byte // of the line behind the name; with a quoted name: behind the brace
	in   bool   // rest begins within the braces

	unquoted []byte // holds a name with escapes
	value    []byte // holds a label's value with escapes
}

// Reset begins a page. The buffers of earlier pages are used again, if no very long line made them large.
func (s *Scanner) Reset(src io.Reader) {
	if s.buf == nil || len(s.buf) > keptBuffer {
		s.buf = make([]byte, firstBuffer)
	}
	s.src, s.r, s.w, s.eof, s.line, s.bytes, s.err = src, 0, 0, false, 0, 0, nil
	s.name, s.rest, s.in = nil, nil, false
}

// Next goes to the next sample. After false, Err says why the page ended.
func (s *Scanner) Next() bool {
	for s.err == nil {
		line, ok := s.read()
		if !ok {
			break
		}
		line = trim(line)
		if len(line) == 0 {
			continue
		}
		if line[0] == '#' {
			if string(line) == "# EOF" {
				s.eof, s.r, s.w = true, 0, 0 // what follows does not belong to the page
				break
			}
			continue
		}
		if s.split(line) {
			return true
		}
	}
	s.name, s.rest, s.src = nil, nil, nil
	return false
}

// Err is nil when the page was read to its end. It names the line, but not what stands there: pages of the wrong kind may hold anything.
func (s *Scanner) Err() error { return s.err }

// Name is the name of the sample's metric. It is valid until Next.
func (s *Scanner) Name() []byte { return s.name }

// Value is the number of the sample. It is false for NaN, which is how exporters say that they do not know, and for what is not a
// number: then the page ends here and Err says so.
func (s *Scanner) Value() (float64, bool) {
	if s.err != nil {
		return 0, false
	}
	rest, ok := s.behindLabels()
	if !ok {
		return 0, false
	}
	token, rest := word(rest)
	v, ok := number(token)
	if !ok {
		s.fail("the value is not a number")
		return 0, false
	}
	// A timestamp may follow, and behind it an exemplar, which begins with "#".
	if token, rest = word(rest); len(token) > 0 && token[0] != '#' {
		if _, ok := number(token); !ok {
			s.fail("the timestamp is not a number")
			return 0, false
		}
		token, _ = word(rest)
	}
	if len(token) > 0 && token[0] != '#' {
		s.fail("something follows the value and its timestamp")
		return 0, false
	}
	return v, !math.IsNaN(v)
}

// read is the next line without its end.
func (s *Scanner) read() ([]byte, bool) {
	from := s.r // where the search for the line's end goes on
	idle := 0
	for {
		if i := bytes.IndexByte(s.buf[from:s.w], '\n'); i >= 0 {
			line := s.buf[s.r : from+i]
			s.r = from + i + 1
			s.line++
			return line, true
		}
		from = s.w
		if s.eof {
			line := s.buf[s.r:s.w]
			s.r = s.w
			s.line++
			return line, len(line) > 0
		}
		if s.w-s.r >= MaxLine {
			s.line++
			s.fail("the line is longer than " + strconv.Itoa(MaxLine) + " bytes")
			return nil, false
		}
		from -= s.room()
		n, err := s.src.Read(s.buf[s.w:])
		if n < 0 || n > len(s.buf)-s.w {
			s.err = fmt.Errorf("reading metrics: the source says that it read %d bytes where %d fit", n, len(s.buf)-s.w)
			return nil, false
		}
		s.w += n
		if s.bytes += n; s.bytes > MaxPage {
			s.err = fmt.Errorf("the metrics are longer than %d bytes: read the server itself, not an aggregate of many", MaxPage)
			return nil, false
		}
		switch {
		case err == io.EOF:
			s.eof = true
		case err != nil:
			s.err = fmt.Errorf("reading metrics: %w", err)
			return nil, false
		case n > 0:
			idle = 0
		default:
			if idle++; idle >= idleReads {
				s.err = fmt.Errorf("reading metrics: %w", io.ErrNoProgress)
				return nil, false
			}
		}
	}
}

// room makes place for reading, and says by how much the unread part moved towards the beginning.
func (s *Scanner) room() int {
	moved := 0
	if s.r > 0 && (s.r == s.w || s.w == len(s.buf)) {
		moved = s.r
		copy(s.buf, s.buf[s.r:s.w])
		s.w -= s.r
		s.r = 0
	}
	if s.w == len(s.buf) {
		grown := make([]byte, min(2*len(s.buf), MaxLine))
		copy(grown, s.buf[:s.w])
		s.buf = grown
	}
	return moved
}

// split finds the name of the sample on the line.
func (s *Scanner) split(line []byte) bool {
	if line[0] == '{' { // {"a name of any characters",label="value"} 1
		rest := skip(line[1:])
		name, rest, ok := quoted(rest, &s.unquoted)
		if rest = skip(rest); !ok || len(rest) == 0 || rest[0] != ',' && rest[0] != '}' {
			return s.fail(notMetrics)
		}
		if rest[0] == ',' {
			rest = rest[1:]
		}
		s.name, s.rest, s.in = name, rest, true
		return true
	}
	n := 0
	for n < len(line) && nameByte(line[n], n) {
		n++
	}
	if n == 0 || n == len(line) || line[n] != '{' && line[n] != ' ' && line[n] != '\t' {
		return s.fail(notMetrics)
	}
	s.name, s.rest, s.in = line[:n], skip(line[n:]), false
	if len(s.rest) > 0 && s.rest[0] == '{' {
		s.rest, s.in = s.rest[1:], true
	}
	return true
}

const notMetrics = "this is not a line of Prometheus metrics; is the path the right one?"

func (s *Scanner) fail(what string) bool {
	if s.err == nil {
		s.err = fmt.Errorf("line %d of the metrics: %s", s.line, what)
	}
	return false
}

// nameByte says whether c may stand at place i of a metric's or label's name.
func nameByte(c byte, i int) bool {
	return c|0x20-'a' < 26 || c == '_' || c == ':' || i > 0 && c-'0' < 10
}

func trim(b []byte) []byte {
	for len(b) > 0 && (b[len(b)-1] == '\r' || b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return skip(b)
}

// skip goes over the blanks that begin b.
func skip(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	return b
}

// word is what stands before the next blank, and what follows.
func word(b []byte) (token, rest []byte) {
	b = skip(b)
	for i, c := range b {
		if c == ' ' || c == '\t' {
			return b[:i], b[i:]
		}
	}
	return b, nil
}

// number reads a value: what Go reads, without its hexadecimal and underscored forms. It does not allocate for up to 32 bytes.
func number(b []byte) (float64, bool) {
	// Most values are short whole numbers.
	if n := len(b); n > 0 && n <= 15 {
		v := int64(0)
		for i, c := range b {
			if c-'0' > 9 {
				if string(b[i:]) == ".0" && i > 0 { // as Python prints them
					return float64(v), true
				}
				v = -1
				break
			}
			v = 10*v + int64(c-'0')
		}
		if v >= 0 {
			return float64(v), true
		}
	}
	for _, c := range b {
		if c == 'x' || c == 'X' || c == 'p' || c == 'P' || c == '_' {
			return 0, false
		}
	}
	v, err := strconv.ParseFloat(string(b), 64)
	if err != nil && math.IsInf(v, 0) { // too large for 64 bits: as good as infinite
		return v, true
	}
	return v, err == nil
}
