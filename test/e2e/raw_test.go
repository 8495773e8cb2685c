package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weir-dev/weir/test/e2e/harness"
)

// message is a request that is written byte by byte, so that it may be one that no HTTP library would send.
type message struct {
	method, target, proto string
	host                  string // "-": no such line
	contentType           string // "-": no such line
	credential            []string
	headers               []string // further lines
	body                  string
	length                string // of content-length; "": the body's, "-": no such line
	chunk                 int    // > 0: chunked, in pieces of this many bytes
	raw                   string // instead of everything above
	halfClose             bool   // nothing follows, and the connection says so
}

func (m *message) header(lines ...string) { m.headers = append(m.headers, lines...) }

func (m *message) bytes() []byte {
	if m.raw != "" {
		return []byte(m.raw)
	}
	var b bytes.Buffer
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\r\n", args...) }
	line("%s %s %s", m.method, m.target, m.proto)
	if m.host != "-" {
		line("host: %s", m.host)
	}
	if m.contentType != "-" {
		line("content-type: %s", m.contentType)
	}
	switch {
	case m.chunk > 0:
		line("transfer-encoding: chunked")
	case m.length == "":
		line("content-length: %d", len(m.body))
	case m.length != "-":
		line("content-length: %s", m.length)
	}
	for _, h := range slices.Concat(m.credential, m.headers) {
		line("%s", h)
	}
	b.WriteString("\r\n")
	if m.chunk == 0 {
		b.WriteString(m.body)
		return b.Bytes()
	}
	for piece := range slices.Chunk([]byte(m.body), m.chunk) {
		fmt.Fprintf(&b, "%x\r\n%s\r\n", len(piece), piece)
	}
	b.WriteString("0\r\n\r\n")
	return b.Bytes()
}

// rawReply is what came back.
type rawReply struct {
	status int // 0: the connection ended without an answer
	header http.Header
	body   []byte
}

// response makes the reply one that an SDK can be given.
func (r rawReply) response(req *http.Request) *http.Response {
	return &http.Response{
		StatusCode: r.status, Status: fmt.Sprintf("%d %s", r.status, http.StatusText(r.status)), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: r.header, Body: io.NopCloser(bytes.NewReader(r.body)), ContentLength: int64(len(r.body)), Request: req,
	}
}

// send writes a message on a connection of its own and reads the answer.
func send(t testing.TB, g *harness.Gateway, m *message) rawReply {
	t.Helper()
	conn, err := net.Dial("tcp", address(g))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(harness.Patience)); err != nil {
		t.Fatal(err)
	}
	// An answer may come, and the connection end, before everything is written.
	go func() {
		_, err := conn.Write(m.bytes())
		if err == nil && m.halfClose {
			_ = conn.(*net.TCPConn).CloseWrite() // the answer shows what came of it
		}
	}()
	return receive(t, conn, m.method)
}

// receive reads one answer.
func receive(t testing.TB, conn net.Conn, method string) rawReply {
	t.Helper()
	in := bufio.NewReader(conn)
	for {
		resp, err := http.ReadResponse(in, &http.Request{Method: method})
		if err != nil {
			if silent(err) {
				return rawReply{}
			}
			t.Fatalf("the answer is no HTTP: %v", err)
		}
		if resp.StatusCode < 200 {
			continue
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatalf("the answer (%s) ends early: %v", resp.Status, err)
		}
		return rawReply{resp.StatusCode, resp.Header, body}
	}
}

// silent says whether a read failed because the other side ended the connection.
func silent(err error) bool {
	return strings.Contains(err.Error(), "EOF") || strings.Contains(err.Error(), "connection reset")
}

// address is the "host:port" of the gateway.
func address(g *harness.Gateway) string {
	_, host, _ := strings.Cut(g.URL, "://")
	return host
}
