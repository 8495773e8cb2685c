package ledger

import (
	"bufio"
	"io"
)

// lineReader reads lines that end in a line feed. What stands after the last one is torn: it was being written when
// its process died, or is being written now.
type lineReader struct {
	r *bufio.Reader
	// torn is set at the end if there was something after the last line feed.
	torn bool
	// long holds a line that did not fit into the buffer of r.
	long []byte
}

func newLineReader(r io.Reader) *lineReader {
	return &lineReader{r: bufio.NewReaderSize(r, 64<<10)}
}

// next returns the next line without its line feed, valid until the next call, and the bytes that it took in the
// file. A line longer than maxLine comes as nil: it is damaged, but counts. At the end it returns io.EOF.
func (l *lineReader) next() (line []byte, size int64, err error) {
	l.long = l.long[:0]
	tooLong := false
	for {
		part, err := l.r.ReadSlice('\n')
		size += int64(len(part))
		switch err {
		case nil:
			if tooLong {
				return nil, size, nil
			}
			part = part[:len(part)-1]
			if len(l.long) == 0 {
				return part, size, nil
			}
			if l.long = append(l.long, part...); len(l.long) > maxLine {
				return nil, size, nil
			}
			return l.long, size, nil
		case bufio.ErrBufferFull:
			if tooLong = tooLong || len(l.long)+len(part) > maxLine; !tooLong {
				l.long = append(l.long, part...)
			}
		case io.EOF:
			l.torn = size > 0
			return nil, 0, io.EOF
		default:
			return nil, 0, err
		}
	}
}
