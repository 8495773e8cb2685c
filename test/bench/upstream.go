package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
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

// answerAll answers the requests of a connection until it ends, and says why it did: io.EOF where the other side closed it.
func answerAll(from io.Reader, c io.Writer) error {
	r := bufio.NewReader(from)
	var m message
	for {
		if err := m.readHead(r); err != nil {
			return err
		}
		if err := m.readBody(r); err != nil {
			return err
		}
		if !bytes.Contains(m.body, []byte(`"stream":true`)) {
			if _, err := c.Write(plainAnswer); err != nil {
				return err
			}
			continue
		}
		if _, err := c.Write(streamHead); err != nil {
			return err
		}
		for _, part := range streamParts {
			if _, err := c.Write(part); err != nil {
				return err
			}
		}
	}
}
