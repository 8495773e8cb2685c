package fetch

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-dev/weir/test/freeport"
)

// ample is a timeout that no test reaches unless something is wrong.
const ample = 30 * time.Second

// secret is in the URL and in what servers answer, and may be in no error.
const secret = "s3cr3t"

func page(t *testing.T, url string, client *http.Client) *Page {
	t.Helper()
	own := NewClient(nil)
	t.Cleanup(own.CloseIdleConnections)
	p, err := NewPage(url, "", "text/plain", client, own)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// all reads a page to the end.
func all(t *testing.T, p *Page, timeout time.Duration, limit int64) (string, int64, error) {
	t.Helper()
	var body []byte
	n, err := p.Read(t.Context(), timeout, limit, func(r io.Reader) (err error) {
		body, err = io.ReadAll(r)
		return err
	})
	return string(body), n, err
}

func serve(t *testing.T, h http.HandlerFunc) *httptest.Server {
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

// raw is a server that says the same bytes to everybody and closes.
func raw(t *testing.T, answer string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer c.Close()
				_, _ = c.Read(make([]byte, 4096))
				_, _ = io.WriteString(c, answer)
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); conns.Wait() })
	return l.Addr().String()
}

func zipped(text string) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = io.WriteString(z, text)
	_ = z.Close()
	return b.Bytes()
}

func TestRead(t *testing.T) {
	long := strings.Repeat("0123456789", 1000)
	for _, tt := range []struct {
		name   string
		answer http.HandlerFunc
		limit  int64
		want   string
		fault  Fault
		text   string // of the error
	}{
		{name: "a page", answer: func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "metric 1\n") }, want: "metric 1\n"},
		{name: "an empty page", answer: func(http.ResponseWriter, *http.Request) {}},
		{name: "exactly the limit", answer: func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, long) }, limit: 10000, want: long},
		{name: "in pieces, exactly the limit", answer: func(w http.ResponseWriter, _ *http.Request) { pieces(w, long) }, limit: 10000, want: long},
		{name: "announced beyond the limit", answer: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "10000")
			io.WriteString(w, long)
		}, limit: 9999, fault: TooLarge, text: "10000 bytes, more than the 9999"},
		{name: "in pieces beyond the limit", answer: func(w http.ResponseWriter, _ *http.Request) { pieces(w, long) }, limit: 9999, want: long[:9999], fault: TooLarge, text: "more than the 9999 bytes"},
		{name: "gzip", answer: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			w.Write(zipped(long))
		}, limit: 10000, want: long},
		{name: "gzip beyond the limit", answer: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			w.Write(zipped(long))
		}, limit: 5000, want: long[:5000], fault: TooLarge, text: "more than the 5000 bytes"},
		{name: "gzip that is none", answer: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			io.WriteString(w, secret+long)
		}, fault: Malformed, text: "compressed with gzip, and is not"},
		{name: "gzip that is empty", answer: func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Encoding", "gzip") },
			fault: Malformed, text: "compressed with gzip, and is not"},
		{name: "gzip that breaks", answer: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			z := zipped(long)
			z[len(z)-5] ^= 0xff // of the checksum
			w.Write(z)
		}, want: long, fault: Malformed, text: "gzip compression is broken"},
		{name: "another compression", answer: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", secret)
			io.WriteString(w, long)
		}, fault: Malformed, text: "not with gzip"},
		{name: "not found", answer: func(w http.ResponseWriter, _ *http.Request) { http.Error(w, secret, 404) }, fault: Refused, text: "status 404 instead of 200"},
		{name: "no content", answer: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }, fault: Refused, text: "status 204"},
		{name: "a redirect", answer: func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere?key="+secret, 302) }, fault: Refused, text: "status 302"},
		{name: "cut short", answer: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			io.WriteString(w, "half")
		}, want: "half", fault: Unreachable, text: "closed the connection before the end"},
		{name: "died", answer: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, fault: Unreachable, text: "closed the connection before the end"},
		{name: "too many headers", answer: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Long", strings.Repeat(secret, maxHeader/4))
		}, fault: TooLarge, text: "headers of the answer have more than 65536 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.limit == 0 {
				tt.limit = 1 << 20
			}
			s := serve(t, tt.answer)
			got, n, err := all(t, page(t, s.URL+"/metrics?key="+secret, nil), ample, tt.limit)
			if got != tt.want || n != int64(len(tt.want)) {
				t.Errorf("%d bytes, %.100q; want %d", n, got, len(tt.want))
			}
			expect(t, err, tt.fault, tt.text)
		})
	}
}

func pieces(w http.ResponseWriter, text string) {
	for i := 0; i < len(text); i += 1000 {
		io.WriteString(w, text[i:i+1000])
		w.(http.Flusher).Flush()
	}
}

func expect(t *testing.T, err error, fault Fault, text string) {
	t.Helper()
	if fault == "" {
		if err != nil {
			t.Errorf("%v", err)
		}
		return
	}
	var known *Error
	if !errors.As(err, &known) || known.Fault != fault || !strings.Contains(known.Text, text) {
		t.Errorf("%v (%+v); want %s: %s", err, known, fault, text)
	}
	if err != nil && (strings.Contains(err.Error(), secret) || len(err.Error()) > 200) {
		t.Errorf("the error says too much: %v", err)
	}
}

// TestReaderErrors shows whose error is told when the reader of a page has one of its own.
func TestReaderErrors(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.(http.Flusher).Flush() // does not announce its length
		io.WriteString(w, strings.Repeat("x", 100))
	})
	p := page(t, s.URL, nil)
	n, err := p.Read(t.Context(), ample, 1000, func(r io.Reader) error {
		_, _ = r.Read(make([]byte, 10))
		return errors.New("line 1: no value")
	})
	expect(t, err, Malformed, "line 1: no value")
	if n != 10 {
		t.Errorf("%d bytes; want those that were read", n)
	}
	_, err = p.Read(t.Context(), ample, 50, func(r io.Reader) error {
		_, err := io.ReadAll(r)
		return fmt.Errorf("line 7: %v", err) // hides it
	})
	expect(t, err, TooLarge, "50 bytes")
	_, err = p.Read(t.Context(), ample, 50, func(r io.Reader) error {
		_, _ = io.ReadAll(r)
		_, err := r.Read(make([]byte, 1)) // again
		if err == nil {
			t.Error("a body goes on beyond its limit")
		}
		return nil // hides it altogether
	})
	expect(t, err, TooLarge, "50 bytes")
}

func TestConnections(t *testing.T) {
	refusing := freeport.Addr(t)
	plain := serve(t, func(http.ResponseWriter, *http.Request) {})
	secure := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") }))
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	t.Cleanup(secure.Close)
	pool := x509.NewCertPool()
	pool.AddCert(secure.Certificate())
	for _, tt := range []struct {
		name, url string
		config    *tls.Config
		fault     Fault
		text      string
	}{
		{"nobody listens", "http://" + refusing, nil, Unreachable, "connection refused"},
		{"a name that does not exist", "http://no-such-host.invalid", nil, Unreachable, "lookup no-such-host.invalid"},
		{"not HTTP", "http://" + raw(t, secret+" is what I say\r\n\r\n"), nil, Malformed, "not valid HTTP"},
		{"HTTP with a bad header", "http://" + raw(t, "HTTP/1.1 200 OK\r\n"+secret+"\r\n\r\n"), nil, Malformed, "not valid HTTP"},
		{"HTTP with a bad length", "http://" + raw(t, "HTTP/1.1 200 OK\r\nContent-Length: "+secret+"\r\n\r\n"), nil, Malformed, "not valid HTTP"},
		{"HTTP with a bad chunk", "http://" + raw(t, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"+secret+"\r\n"), nil, Malformed, "not valid HTTP"},
		{"says nothing", "http://" + raw(t, ""), nil, Unreachable, "closed the connection"},
		{"TLS, accepted", secure.URL, &tls.Config{RootCAs: pool}, "", ""},
		{"TLS, unknown authority", secure.URL, &tls.Config{}, Unreachable, "certificate is not accepted"},
		{"TLS, another name", secure.URL, &tls.Config{RootCAs: pool, ServerName: "weir.test"}, Unreachable, "certificate is not accepted"},
		{"no TLS there", strings.Replace(plain.URL, "http:", "https:", 1), nil, Unreachable, "does not speak TLS"},
		{"TLS there", strings.Replace(secure.URL, "https:", "http:", 1), nil, Refused, "status 400"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			client := NewClient(tt.config)
			t.Cleanup(client.CloseIdleConnections)
			client.Transport.(*http.Transport).TLSHandshakeTimeout = ample // a busy machine takes seconds to read all authorities
			_, _, err := all(t, page(t, tt.url+"/metrics?key="+secret, client), ample, 1000)
			expect(t, err, tt.fault, tt.text)
		})
	}
	t.Run("TLS, no handshake", func(t *testing.T) {
		silent, err := net.Listen("tcp", "127.0.0.1:0") // what connects is never answered
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = silent.Close() })
		client := NewClient(nil)
		client.Transport.(*http.Transport).TLSHandshakeTimeout = time.Millisecond
		_, _, err = all(t, page(t, "https://"+silent.Addr().String(), client), ample, 1000)
		expect(t, err, Unreachable, "no TLS handshake in time")
	})
}

func TestTimeouts(t *testing.T) {
	release := make(chan struct{})
	// Connections to a listener that accepts nothing are made by the kernel, and never answered.
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = silent.Close() })
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/half" {
			io.WriteString(w, "half")
			w.(http.Flusher).Flush()
		}
		if r.URL.Path == "/error" {
			w.WriteHeader(500)
			w.(http.Flusher).Flush()
		}
		<-release
	})
	t.Cleanup(func() { close(release) })
	const timeout = 20 * time.Millisecond
	for _, tt := range []struct {
		name, url string
		answers   bool // begins to
		fault     Fault
		text      string
	}{
		{"no connection is taken", "http://" + silent.Addr().String(), false, Timeout, "no answer within TIMEOUT"},
		{"no answer", s.URL + "/", false, Timeout, "no answer within TIMEOUT"},
		{"half an answer", s.URL + "/half", true, Timeout, "no whole answer within TIMEOUT"},
		{"an error whose body does not end", s.URL + "/error", true, Refused, "status 500"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			// A busy machine may take longer to answer at all: then there is more time.
			for timeout := timeout; ; timeout *= 4 {
				_, _, err := all(t, page(t, tt.url, nil), timeout, 1000)
				var late *Error
				if tt.answers && timeout < ample && errors.As(err, &late) && late.Text == fmt.Sprintf("no answer within %v", timeout) {
					continue
				}
				expect(t, err, tt.fault, strings.ReplaceAll(tt.text, "TIMEOUT", timeout.String()))
				return
			}
		})
	}
	t.Run("no longer wanted", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), timeout)
		defer cancel()
		_, err := page(t, s.URL+"/half", nil).Read(ctx, ample, 1000, func(r io.Reader) error { _, err := io.ReadAll(r); return err })
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v; want that the caller's context ended", err)
		}
	})
}

func TestCheck(t *testing.T) {
	var followed atomic.Bool
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/200", "/204", "/299":
			w.WriteHeader(map[string]int{"/200": 200, "/204": 204, "/299": 299}[r.URL.Path])
		case "/302":
			http.Redirect(w, r, "/other", 302)
		case "/other":
			followed.Store(true)
		default:
			http.Error(w, secret, 503)
		}
	})
	for path, text := range map[string]string{
		"/200": "", "/204": "", "/299": "", "/302": "answered with status 302", "/503": "answered with status 503",
	} {
		fault := Fault("")
		if text != "" {
			fault = Refused
		}
		// A client that would follow redirects does not here.
		expect(t, page(t, s.URL+path, s.Client()).Check(t.Context(), ample), fault, text)
	}
	if followed.Load() {
		t.Error("a redirect was followed")
	}
}

// TestConnectionsAreKept shows that pages, also of errors, share one connection, and that one which the server has closed
// meanwhile is no error.
func TestConnectionsAreKept(t *testing.T) {
	var conns atomic.Int64
	var agent, host, accept, encoding atomic.Value
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		agent.Store(r.UserAgent())
		host.Store(r.Host)
		accept.Store(r.Header.Get("Accept"))
		encoding.Store(r.Header.Get("Accept-Encoding"))
		if r.URL.Path == "/error" {
			w.WriteHeader(500)
		}
		io.WriteString(w, strings.Repeat("x", 20000))
	}))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			conns.Add(1)
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	client := NewClient(nil)
	good := page(t, s.URL, client)
	bad := page(t, s.URL+"/error", client)
	for range 10 {
		if _, _, err := all(t, good, ample, 1<<20); err != nil {
			t.Fatal(err)
		}
		_, _, err := all(t, bad, ample, 1<<20)
		expect(t, err, Refused, "status 500")
		if err := good.Check(t.Context(), ample); err != nil {
			t.Fatal(err)
		}
	}
	if n := conns.Load(); n != 1 {
		t.Errorf("%d connections; want one", n)
	}
	if agent.Load() != "weir" || host.Load() != s.Listener.Addr().String() || accept.Load() != "text/plain" || encoding.Load() != "" {
		t.Errorf("asked as %v at %v for %v in %v", agent.Load(), host.Load(), accept.Load(), encoding.Load())
	}
	s.CloseClientConnections()
	if err := good.Check(t.Context(), ample); err != nil {
		t.Errorf("after the server closed an idle connection: %v", err)
	}
}

func TestNewPage(t *testing.T) {
	for url, want := range map[string]string{
		"http://10.0.0.1:8000/metrics":   "",
		"https://[fd00::1]:8000/m":       "",
		"ftp://10.0.0.1/" + "?" + secret: `the URL "ftp://10.0.0.1/" must begin with http:// or https://`,
		"10.0.0.1:8000":                  "the URL",
		"http:///metrics":                "and a host",
		"":                               "must begin with",
		"http://user:" + secret + "@\x7f/metrics": "the URL is not valid",
	} {
		p, err := NewPage(url, "", "", nil, NewClient(nil))
		if want == "" {
			if err != nil || p.Where != url {
				t.Errorf("%s: %v, %+v", url, err, p)
			}
		} else if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %v; want %s", url, err, want)
		}
	}
	p, err := NewPage("http://user:"+secret+"@h/m?key="+secret+"#"+secret, "", "", nil, NewClient(nil))
	if err != nil || p.Where != "http://h/m" {
		t.Errorf("%v, %+v", err, p)
	}
	// The Host header is another than the address.
	var host atomic.Value
	s := serve(t, func(_ http.ResponseWriter, r *http.Request) { host.Store(r.Host) })
	if p, err = NewPage(s.URL, "model.test", "", nil, NewClient(nil)); err != nil {
		t.Fatal(err)
	}
	if err := p.Check(t.Context(), ample); err != nil || host.Load() != "model.test" {
		t.Errorf("%v; host %v", err, host.Load())
	}
}
