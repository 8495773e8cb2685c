package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/weir-dev/weir/test/e2e/harness"
)

// frames is an HTTP/2 connection (prior knowledge, RFC 9113 section 3.3) that is written frame by frame.
type frames struct {
	t    *testing.T
	conn net.Conn
	*http2.Framer
	headers bytes.Buffer
	encoder *hpack.Encoder
}

func dialFrames(t *testing.T, g *harness.Gateway) *frames {
	t.Helper()
	conn, err := net.Dial("tcp", address(g))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(harness.Patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	f := &frames{t: t, conn: conn, Framer: http2.NewFramer(conn, conn)}
	f.AllowIllegalWrites = true
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	f.encoder = hpack.NewEncoder(&f.headers)
	f.must(f.WriteSettings())
	return f
}

func (f *frames) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

// block encodes header fields, given as names and values in turn.
func (f *frames) block(pairs ...string) []byte {
	f.headers.Reset()
	for i := 0; i < len(pairs); i += 2 {
		f.must(f.encoder.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]}))
	}
	return f.headers.Bytes()
}

// request opens a stream with these fields, and sends the body, if there is one.
func (f *frames) request(stream uint32, body string, pairs ...string) {
	f.must(f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: f.block(pairs...), EndHeaders: true, EndStream: body == ""}))
	if body != "" {
		f.must(f.WriteData(stream, true, []byte(body)))
	}
}

// end is what became of a stream: the status of its answer, or the code it or the connection was ended with.
type end struct {
	status string
	body   string
	code   http2.ErrCode
}

func (e end) String() string {
	if e.status != "" {
		return "status " + e.status + ": " + e.body
	}
	return e.code.String()
}

// await reads until the stream, or the connection, has ended.
func (f *frames) await(t *testing.T, stream uint32) end {
	t.Helper()
	var e end
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			if errors.Is(err, io.EOF) || silent(err) {
				e.code = http2.ErrCodeConnect // the connection is gone
				return e
			}
			t.Fatal(err)
		}
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				_ = f.WriteSettingsAck() // the connection may be closing
			}
		case *http2.GoAwayFrame:
			if frame.ErrCode != http2.ErrCodeNo {
				e.code = frame.ErrCode
				return e
			}
		case *http2.RSTStreamFrame:
			if frame.StreamID == stream {
				e.code = frame.ErrCode
				return e
			}
		case *http2.MetaHeadersFrame:
			if frame.StreamID == stream {
				e.status = frame.PseudoValue("status")
				if frame.StreamEnded() {
					return e
				}
			}
		case *http2.DataFrame:
			if frame.StreamID == stream {
				e.body += string(frame.Data())
				if frame.StreamEnded() {
					return e
				}
			}
		}
	}
}

// TestMalformedHTTP2 breaks the rules of HTTP/2. A request that breaks them is never answered as if it had not, and costs
// at most its own connection.
func TestMalformedHTTP2(t *testing.T) {
	t.Parallel()
	g, sims := malformedGateway(t)
	envoy := g.EnvoyPID()
	l := lanes[0]
	body := l.fields().String()
	base := func(more ...string) []string {
		return append([]string{":method", "POST", ":scheme", "http", ":authority", "gateway.test", ":path", l.path(),
			"authorization", "Bearer " + g.Key, "content-type", "application/json"}, more...)
	}
	without := func(name string, more ...string) []string {
		pairs := base(more...)
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return append(pairs[:i:i], pairs[i+2:]...)
			}
		}
		return pairs
	}
	// Envoy holds a broken connection for a second before it closes it, so all are opened first, and looked at afterwards.
	requests := []struct {
		name   string
		pairs  []string
		body   string
		status string // "": anything but 200, a broken stream included
	}{
		{"sound", base(), body, "200"},
		{"sound with its length", base("content-length", fmt.Sprint(len(body))), body, "200"},
		{"cookie in pieces", base("cookie", "a=b", "cookie", "c=d"), body, "200"},
		{"te trailers", base("te", "trailers"), body, "200"},
		{"broken JSON", base(), "{", "400"},
		{"no body", base(), "", "400"},
		{"no credential", without("authorization"), body, "401"},
		{"unknown path", append([]string{":path", "/nothing"}, without(":path")...), body, "404"},
		{"extended CONNECT", base(":protocol", "websocket"), "", ""},
		{"no method", without(":method"), body, ""},
		{"no path", without(":path"), body, ""},
		{"empty path", append([]string{":path", ""}, without(":path")...), body, ""},
		{"path without a slash", append([]string{":path", "v1/chat/completions"}, without(":path")...), body, ""},
		{"two paths", append([]string{":path", "/v1/messages"}, base()...), body, ""},
		{"two methods", append([]string{":method", "GET"}, base()...), body, ""},
		{"unknown pseudo-header", append([]string{":x", "y"}, base()...), body, ""},
		{"pseudo-header behind", base(":authority", "other.test"), body, ""},
		// The authority counts (RFC 9113 section 8.3.1), and nothing is decided by either.
		{"host beside authority", base("host", "other.test"), body, "200"},
		{"two hosts in authority", append([]string{":authority", "a.test, b.test"}, without(":authority")...), body, ""},
		{"name in upper case", base("X-A", "b"), body, ""},
		{"name with a space", base("x a", "b"), body, ""},
		{"empty name", base("", "b"), body, ""},
		{"value with CR LF", base("x-a", "b\r\nx-weir-rule: c"), body, ""},
		{"value with NUL", base("x-a", "b\x00"), body, ""},
		{"connection", base("connection", "close"), body, ""},
		{"transfer-encoding", base("transfer-encoding", "chunked"), body, ""},
		{"upgrade", base("upgrade", "websocket"), body, ""},
		{"length too small", base("content-length", "3"), body, ""},
		{"length too large", base("content-length", "3000"), body, ""},
		{"two lengths", base("content-length", "3", "content-length", "4"), body, ""},
		{"two keys", base("x-api-key", unknownKey), body, "401"},
		{"authorization twice", base("authorization", "Bearer "+unknownKey), body, "401"},
		{"Weir's own headers", base("x-weir-rule", "x", "x-weir-path", "/evil"), body, "200"},
	}
	// These are wrong below the level of requests; the connection is lost, and must be.
	connections := []struct {
		name  string
		write func(f *frames)
	}{
		{"noise after the preface", func(f *frames) { _, _ = f.conn.Write(bytes.Repeat([]byte{0xff}, 100)) }},
		{"data on a stream that was never opened", func(f *frames) { f.must(f.WriteData(5, true, []byte("x"))) }},
		{"stream with an even number", func(f *frames) { f.request(2, body, base()...) }},
		{"settings for a stream", func(f *frames) { f.must(f.WriteRawFrame(http2.FrameSettings, 0, 3, nil)) }},
		{"ping of 3 bytes", func(f *frames) { f.must(f.WriteRawFrame(http2.FramePing, 0, 0, []byte("abc"))) }},
		{"window past its limit", func(f *frames) {
			f.must(f.WriteWindowUpdate(0, 1<<31-1))
			f.must(f.WriteWindowUpdate(0, 1<<31-1))
		}},
		{"continuation of nothing", func(f *frames) { f.must(f.WriteContinuation(1, true, f.block(base()...))) }},
		{"broken header compression", func(f *frames) {
			f.must(f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: bytes.Repeat([]byte{0xff}, 40), EndHeaders: true}))
		}},
		{"headers that never end", func(f *frames) {
			f.must(f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: f.block(base()...)}))
			for range 10_000 { // CVE-2024-30255
				if f.WriteContinuation(1, false, f.block("x-a", strings.Repeat("a", 100))) != nil {
					return
				}
			}
		}},
		{"streams opened and reset at once", func(f *frames) {
			for i := range uint32(20_000) { // CVE-2023-44487
				id := 2*i + 1
				if f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: f.block(base()...), EndHeaders: true}) != nil ||
					f.WriteRSTStream(id, http2.ErrCodeCancel) != nil {
					return
				}
			}
		}},
	}
	var opened []*frames
	for _, c := range requests {
		f := dialFrames(t, g)
		f.request(1, c.body, c.pairs...)
		opened = append(opened, f)
	}
	for _, c := range connections {
		f := dialFrames(t, g)
		c.write(f)
		opened = append(opened, f)
	}
	for i, c := range requests {
		t.Run(c.name, func(t *testing.T) {
			e := opened[i].await(t, 1)
			if c.status != "" && e.status != c.status {
				t.Errorf("%s, want status %s", e, c.status)
			}
			if c.status == "" && strings.HasPrefix(e.status, "2") {
				t.Errorf("it was answered: %s", e)
			}
			if e.status != "" && e.status != "200" && !strings.Contains(e.body, `"message"`) {
				t.Errorf("an error without a message: %s", e)
			}
		})
	}
	for i, c := range connections {
		t.Run(c.name, func(t *testing.T) {
			if e := opened[len(requests)+i].await(t, 1); e.status != "" {
				t.Errorf("it was answered: %s", e)
			}
		})
	}

	t.Run("a reader that takes nothing", func(t *testing.T) {
		f := dialFrames(t, g)
		f.must(f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0}))
		f.request(1, body, base()...)
		f.request(3, l.fields().set("stream", "true").String(), base()...)
		// The others are served meanwhile.
		if r := send(t, g, l.message()); r.status != http.StatusOK {
			t.Errorf("status %d", r.status)
		}
	})

	if r := send(t, g, l.message()); r.status != http.StatusOK {
		t.Errorf("afterwards: %d: %s", r.status, r.body)
	}
	if now := g.EnvoyPID(); now != envoy {
		t.Errorf("Envoy was process %d and is %d now: it has died", envoy, now)
	}
	checkArrived(t, sims)
}
