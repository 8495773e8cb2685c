package main

import (
	"bufio"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestMessage(t *testing.T) {
	for _, c := range []struct {
		name, in string
		status   int
		body     string
		closes   bool
		err      error
	}{
		{name: "length", in: "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", status: 200, body: "abc"},
		{name: "no body", in: "HTTP/1.1 204 No Content\r\nserver: x\r\n\r\n", status: 204},
		{name: "chunks", in: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n", status: 200, body: "ab0123456789"},
		{name: "last", in: "HTTP/1.1 429 Too Many Requests\r\nconnection: close\r\ncontent-length: 0\r\n\r\n", status: 429, closes: true},
		{name: "a request", in: "POST /v1/chat/completions HTTP/1.1\ncontent-length: 2\n\n{}", body: "{}"},
		{name: "nothing", err: io.EOF},
		{name: "half a line", in: "HTTP/1.1 20", err: io.ErrUnexpectedEOF},
		{name: "half a head", in: "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n", err: io.ErrUnexpectedEOF},
		{name: "half a body", in: "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nab", err: io.ErrUnexpectedEOF},
		{name: "half a chunk", in: "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab", err: io.ErrUnexpectedEOF},
		{name: "no last chunk", in: "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n", err: io.ErrUnexpectedEOF},
		{name: "no size", in: "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n", err: errMessage},
		{name: "a size below zero", in: "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n-1\r\n", err: errMessage},
		{name: "a chunk too large", in: "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n7fffffffffffffff\r\n", err: errMessage},
		{name: "no end of a chunk", in: "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nab\r\n", err: errMessage},
		{name: "a length below zero", in: "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n", err: errMessage},
		{name: "a length too large", in: "HTTP/1.1 200 OK\r\ncontent-length: 4194305\r\n\r\n", err: errMessage},
		{name: "compressed", in: "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n", err: errMessage},
		{name: "no header", in: "HTTP/1.1 200 OK\r\nhello\r\n\r\n", err: errMessage},
	} {
		t.Run(c.name, func(t *testing.T) {
			var m message
			r := bufio.NewReader(strings.NewReader(c.in))
			err := m.readHead(r)
			if err == nil {
				err = m.readBody(r, nil)
			}
			if !errors.Is(err, c.err) {
				t.Fatalf("the error is %v, want %v", err, c.err)
			}
			if err != nil {
				return
			}
			if m.status() != c.status || string(m.body) != c.body || m.closes != c.closes {
				t.Errorf("status %d, body %q, closes %v; want %d, %q, %v", m.status(), m.body, m.closes, c.status, c.body, c.closes)
			}
			if _, err := r.ReadByte(); err != io.EOF {
				t.Errorf("something of the message was left behind (%v)", err)
			}
		})
	}
}

// FuzzMessage: no bytes make it panic, read without end or keep more than the largest body.
func FuzzMessage(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcHTTP/1.1 200 OK\r\n\r\n"))
	f.Add([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"))
	f.Add([]byte("POST / HTTP/1.1\r\nconnection: close\r\n\r\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bufio.NewReader(strings.NewReader(string(in)))
		var m message
		for range len(in) + 1 {
			if m.readHead(r) != nil || m.readBody(r, nil) != nil {
				return
			}
			if len(m.body) > maxMessageBody || len(m.body) > len(in) {
				t.Fatalf("a body of %d bytes out of %d", len(m.body), len(in))
			}
			m.status()
		}
		t.Fatal("more messages than bytes")
	})
}
