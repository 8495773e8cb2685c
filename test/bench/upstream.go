package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/weir-dev/weir/test/bench/proc"
)

// runUpstream is the process that every variant sends its requests to. It says its address on out, and ends when in does.
func runUpstream(in io.Reader, out io.Writer) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("the upstream cannot listen: %w", err)
	}
	fmt.Fprintln(out, l.Addr())
	go serveUpstream(l)
	_, _ = io.Copy(io.Discard, in)
	return l.Close()
}

// serveUpstream answers until l is closed.
func serveUpstream(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			// A gateway closes its connections as it likes. Whatever else goes wrong its caller sees as well.
			if err := answerAll(c, c); !errors.Is(err, io.EOF) {
				fmt.Fprintln(os.Stderr, "upstream:", err)
			}
		}()
	}
}

// answerAll answers the requests of a connection until it ends, and says why it did: io.EOF where the other side closed it. The path says
// which dialect is spoken.
func answerAll(from io.Reader, c io.Writer) error {
	r := bufio.NewReader(from)
	var m message
	for {
		if err := m.readHead(r); err != nil {
			return err
		}
		if err := m.readBody(r, nil); err != nil {
			return err
		}
		a := openaiAnswers
		if bytes.Contains(m.start, []byte("/messages")) {
			a = anthropicAnswers
		}
		if !bytes.Contains(m.body, []byte(`"stream":true`)) {
			if _, err := c.Write(a.plain); err != nil {
				return err
			}
			continue
		}
		p, err := paceOf(m.body)
		if err != nil {
			return err
		}
		if err := a.stream(c, p); err != nil {
			return err
		}
	}
}

// stream writes one, event by event. Where it has a pace, each with text says when it was sent.
func (a *answers) stream(c io.Writer, p pace) error {
	if _, err := c.Write(streamHead); err != nil {
		return err
	}
	for _, part := range a.begin {
		if _, err := c.Write(part); err != nil {
			return err
		}
	}
	event, start := a.event, time.Now()
	if p.Every > 0 {
		event = bytes.Clone(event)
	}
	for i := range p.Tokens {
		if p.Every > 0 {
			time.Sleep(time.Until(start.Add(time.Duration(i) * p.Every)))
			putStamp(event[a.stampAt:], proc.Monotonic())
		}
		if _, err := c.Write(event); err != nil {
			return err
		}
	}
	for _, part := range a.end {
		if _, err := c.Write(part); err != nil {
			return err
		}
	}
	return nil
}
