package main

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/weir-dev/weir/test/bench/proc"
)

// caller is one connection of the load generator.
type caller struct {
	conn    net.Conn
	r       *bufio.Reader
	m       message
	request []byte
	check   func(body []byte) string
	follow  *follower     // of a stream with a pace; else nil
	stagger time.Duration // it begins later

	latency, first []time.Duration
}

// reset forgets what was measured.
func (c *caller) reset() {
	c.latency, c.first = c.latency[:0], c.first[:0]
	if c.follow != nil {
		*c.follow = follower{delays: c.follow.delays[:0]}
	}
}

// do sends one request, due at a time, and reads its answer. It calls begun, unless that is nil, when the first text of a stream
// with a pace is there.
func (c *caller) do(due time.Time, begun func()) error {
	if _, err := c.conn.Write(c.request); err != nil {
		return fmt.Errorf("a request could not be sent: %w", err)
	}
	if err := c.m.readHead(c.r); err != nil {
		return fmt.Errorf("an answer could not be read: %w", err)
	}
	first := time.Since(due)
	var each func([]byte)
	if c.follow != nil {
		c.follow.begin()
		each = func(body []byte) {
			if c.follow.look(body, proc.Monotonic(), time.Since(due)) && begun != nil {
				begun()
			}
		}
	}
	if err := c.m.readBody(c.r, each); err != nil {
		return fmt.Errorf("an answer could not be read to its end: %w", err)
	}
	latency := time.Since(due)
	if c.m.status() != 200 {
		return fmt.Errorf("an answer with the first line %q: %.300s", c.m.start, slices.Clone(c.m.body))
	}
	if missing := c.check(c.m.body); missing != "" {
		return fmt.Errorf("an answer of %d bytes is not whole, %s: %.300s", len(c.m.body), missing, slices.Clone(c.m.body))
	}
	if c.m.closes {
		return errors.New("the gateway asks to close a connection")
	}
	if c.follow != nil {
		first = c.follow.first
	}
	c.first, c.latency = append(c.first, first), append(c.latency, latency)
	return nil
}
