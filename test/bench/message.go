package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// maxMessageBody bounds a body, in bytes: longer than the longest prompt, and than a stream of some thousand events.
const maxMessageBody = 4 << 20

// errMessage is a message that is not HTTP/1.1 as the benchmark's two ends speak it.
var errMessage = errors.New("not an HTTP/1.1 message that the benchmark understands")

// message is a request or an answer of HTTP/1.1, read with as little work as can be: what the two ends of the benchmark cost
// is taken from what is measured between them.
type message struct {
	start  []byte // the first line, without its end
	body   []byte
	length int64 // of the body; -1 where it is chunked
	closes bool  // the connection ends after it
}

// readHead reads up to the empty line. What it returns of the message is valid until the next one is read into it.
func (m *message) readHead(r *bufio.Reader) error {
	line, err := readLine(r)
	if err != nil {
		return err
	}
	m.start = append(m.start[:0], line...)
	m.body, m.length, m.closes = m.body[:0], 0, false
	for {
		line, err := readLine(r)
		if err != nil {
			return unexpected(err)
		}
		if len(line) == 0 {
			return nil
		}
		name, value, ok := bytes.Cut(line, []byte(":"))
		if !ok {
			return fmt.Errorf("%w: the header line %q", errMessage, line)
		}
		value = bytes.TrimSpace(value)
		switch {
		case bytes.EqualFold(name, []byte("content-length")):
			if m.length, err = strconv.ParseInt(string(value), 10, 64); err != nil || m.length < 0 || m.length > maxMessageBody {
				return fmt.Errorf("%w: a content-length of %q", errMessage, value)
			}
		case bytes.EqualFold(name, []byte("transfer-encoding")):
			if !bytes.EqualFold(value, []byte("chunked")) {
				return fmt.Errorf("%w: the transfer-encoding %q", errMessage, value)
			}
			m.length = -1
		case bytes.EqualFold(name, []byte("connection")):
			m.closes = bytes.EqualFold(value, []byte("close"))
		}
	}
}

// readBody reads the body that the head announced. Of one in chunks it calls each, unless that is nil, after every chunk.
func (m *message) readBody(r *bufio.Reader, each func(body []byte)) error {
	if m.length >= 0 {
		return unexpected(m.take(r, m.length))
	}
	for {
		line, err := readLine(r)
		if err != nil {
			return unexpected(err)
		}
		digits, _, _ := bytes.Cut(line, []byte(";"))
		size, err := strconv.ParseInt(string(digits), 16, 64)
		if err != nil || size < 0 || int64(len(m.body))+size > maxMessageBody {
			return fmt.Errorf("%w: the chunk size %q", errMessage, line)
		}
		if err := m.take(r, size); err != nil {
			return unexpected(err)
		}
		line, err = readLine(r)
		switch {
		case err != nil:
			return unexpected(err)
		case len(line) > 0: // trailers are not spoken here
			return fmt.Errorf("%w: %q after a chunk", errMessage, line)
		case size == 0:
			return nil
		}
		if each != nil {
			each(m.body)
		}
	}
}

func (m *message) take(r *bufio.Reader, n int64) error {
	at := len(m.body)
	m.body = append(m.body, make([]byte, n)...)
	_, err := io.ReadFull(r, m.body[at:])
	return err
}

// status is the status of an answer; 0 where the first line has none.
func (m *message) status() int {
	_, rest, _ := bytes.Cut(m.start, []byte(" "))
	code, _, _ := bytes.Cut(rest, []byte(" "))
	n, err := strconv.Atoi(string(code))
	if err != nil || len(code) != 3 {
		return 0
	}
	return n
}

// readLine reads a line, and returns it without its end. It is valid until the next read.
func readLine(r *bufio.Reader) ([]byte, error) {
	line, err := r.ReadSlice('\n')
	if err != nil {
		if len(line) > 0 {
			err = unexpected(err)
		}
		return nil, err
	}
	return bytes.TrimSuffix(line[:len(line)-1], []byte("\r")), nil
}

// unexpected makes the end of the input inside of a message an error.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
