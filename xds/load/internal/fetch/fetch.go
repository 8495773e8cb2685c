// Package fetch asks the servers of a pool small questions over HTTP: their metrics, and whether they are well. What comes back
// is bounded in time and size, connections are kept, nothing is redirected, and errors quote neither the answer nor the URL.
package fetch

import (
	"compress/flate"
	"compress/gzip"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// The bounds of connections.
const (
	// dialTimeout bounds how long a dial that nobody waits for any more goes on.
	dialTimeout = 5 * time.Second
	// maxIdle is how many connections are kept in all: more than the targets of one process, or each reading would dial.
	maxIdle = 16384
	// maxIdlePerHost suffices for a server's metrics and its health, which are at the same port most of the time.
	maxIdlePerHost = 2
	// idleTimeout is longer than nearly all intervals.
	idleTimeout = 90 * time.Second
	// maxHeader bounds the headers of an answer.
	maxHeader = 64 << 10
	// maxDrain is how much of an answer that nobody reads is taken in to keep its connection. Beyond, a new one is cheaper.
	maxDrain = 64 << 10
)

// NewClient returns a client for servers of pools: no proxy, no redirects, no HTTP/2, connections kept. config is nil for the
// system's certificate authorities and the URL's name. Each client has its own connections: make one for each config.
func NewClient(config *tls.Config) *http.Client {
	return withoutRedirects(&http.Client{Transport: &http.Transport{
		DialContext:            (&net.Dialer{Timeout: dialTimeout, KeepAlive: 15 * time.Second}).DialContext,
		TLSClientConfig:        config,
		TLSHandshakeTimeout:    dialTimeout,
		DisableCompression:     true,
		MaxIdleConns:           maxIdle,
		MaxIdleConnsPerHost:    maxIdlePerHost,
		IdleConnTimeout:        idleTimeout,
		MaxResponseHeaderBytes: maxHeader,
	}})
}

// withoutRedirects returns a client that shares c's connections, takes an answer as it comes and remembers no cookies.
func withoutRedirects(c *http.Client) *http.Client {
	own := *c
	own.Jar = nil
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &own
}

// Fault is the kind of what went wrong, as metrics spell it.
type Fault string

// The faults.
const (
	Timeout     Fault = "timeout"     // no whole answer in time
	Unreachable Fault = "unreachable" // no connection, or it broke
	Refused     Fault = "status"      // answered, but not with success
	TooLarge    Fault = "tooLarge"
	Malformed   Fault = "malformed" // not HTTP, or not what it should be
)

// Error says what went wrong.
type Error struct {
	Fault Fault
	Text  string
}

func (e *Error) Error() string { return e.Text }

// Page is what is asked for, again and again.
type Page struct {
	client *http.Client
	req    *http.Request
	Where  string // the URL without what may be secret in it
}

// NewPage prepares to ask for rawURL with GET. client is nil for a client's default, def. host is the Host header; empty is the
// URL's. accept is the Accept header; empty is none.
func NewPage(rawURL, host, accept string, client, def *http.Client) (*Page, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, errors.New("the URL is not valid") // url's error quotes it
	}
	where := (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
	if (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return nil, fmt.Errorf("the URL %q must begin with http:// or https:// and a host", where)
	}
	if client == nil {
		client = def
	}
	header := http.Header{"User-Agent": {"weir"}}
	if accept != "" {
		header.Set("Accept", accept)
	}
	return &Page{
		client: withoutRedirects(client),
		req:    &http.Request{Method: http.MethodGet, URL: u, Host: host, Header: header, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1},
		Where:  where,
	}, nil
}

// Read asks for the page and hands the body of an answer with status 200 to read, at most limit bytes of it after
// decompression; read should read to the end. It returns how many bytes there were. An error is an *Error, unless ctx, and not
// the timeout, has ended.
func (p *Page) Read(ctx context.Context, timeout time.Duration, limit int64, read func(io.Reader) error) (int64, error) {
	var body *boundedBody
	err := p.ask(ctx, timeout, func(resp *http.Response) error {
		if resp.StatusCode != http.StatusOK {
			return &Error{Refused, fmt.Sprintf("answered with status %d instead of 200", resp.StatusCode)}
		}
		if resp.ContentLength > limit {
			return &Error{TooLarge, fmt.Sprintf("the answer has %d bytes, more than the %d that are read", resp.ContentLength, limit)}
		}
		plain, done, err := decoded(resp)
		if err != nil {
			return err
		}
		defer done()
		body = &boundedBody{r: plain, left: limit}
		err = read(body)
		switch {
		case body.over:
			return &Error{TooLarge, fmt.Sprintf("the answer has more than the %d bytes that are read", limit)}
		case body.err != nil:
			return body.err
		case err != nil:
			return &Error{Malformed, err.Error()}
		}
		return nil
	})
	if body == nil {
		return 0, err
	}
	return limit - body.left, err
}

// Check asks for the page and says whether the answer's status is one of success, 2xx. Errors are like those of Read.
func (p *Page) Check(ctx context.Context, timeout time.Duration) error {
	return p.ask(ctx, timeout, func(resp *http.Response) error {
		if resp.StatusCode < 200 || resp.StatusCode > 299 {
			return &Error{Refused, fmt.Sprintf("answered with status %d", resp.StatusCode)}
		}
		return nil
	})
}

// ask asks, hands the answer on, and brings errors to their form.
func (p *Page) ask(ctx context.Context, timeout time.Duration, use func(*http.Response) error) error {
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	resp, err := p.client.Do(p.req.WithContext(limited))
	if err == nil {
		err = use(resp)
		// What is left is read so that the connection can be used again: most often nothing, or a small page of an error.
		_, _ = io.CopyN(io.Discard, resp.Body, maxDrain)
		_ = resp.Body.Close()
	}
	var known *Error
	switch {
	case err == nil || errors.As(err, &known):
		return err
	case ctx.Err() != nil:
		return ctx.Err()
	case limited.Err() != nil && resp == nil:
		return &Error{Timeout, fmt.Sprintf("no answer within %v", timeout)}
	case limited.Err() != nil:
		return &Error{Timeout, fmt.Sprintf("no whole answer within %v", timeout)}
	}
	return describe(err)
}

// describe says what is wrong with a connection. Only errors that are known not to quote the peer are repeated.
func describe(err error) *Error {
	var wrapped *url.Error // quotes the URL
	if errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	var (
		network  *net.OpError
		names    *net.DNSError
		verify   *tls.CertificateVerificationError
		record   tls.RecordHeaderError
		alert    tls.AlertError
		deflate  flate.CorruptInputError
		late     interface{ Timeout() bool }
		text     = err.Error()
		protocol = strings.Contains(text, "malformed") || strings.Contains(text, "invalid")
	)
	switch {
	case errors.As(err, &network), errors.As(err, &names):
		return &Error{Unreachable, text}
	case errors.As(err, &late) && late.Timeout(): // of the TLS handshake: the others are known above
		return &Error{Unreachable, "no TLS handshake in time"}
	case errors.As(err, &verify):
		return &Error{Unreachable, "its certificate is not accepted: " + verify.Err.Error()}
	case errors.As(err, &record):
		return &Error{Unreachable, "does not speak TLS"}
	case errors.As(err, &alert):
		return &Error{Unreachable, "refused the TLS handshake: " + alert.Error()}
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return &Error{Unreachable, "closed the connection before the end of the answer"}
	case errors.As(err, &deflate), errors.Is(err, gzip.ErrChecksum), errors.Is(err, gzip.ErrHeader):
		return &Error{Malformed, "the answer's gzip compression is broken"}
	case !protocol && strings.Contains(text, "server gave HTTP response to HTTPS client"):
		return &Error{Unreachable, "does not speak TLS"}
	case !protocol && strings.Contains(text, "server response headers exceeded"):
		return &Error{TooLarge, fmt.Sprintf("the headers of the answer have more than %d bytes", maxHeader)}
	}
	return &Error{Malformed, "the answer is not valid HTTP/1"}
}

// boundedBody reads at most so many bytes and remembers what went wrong, whatever becomes of the error that it returns.
type boundedBody struct {
	r    io.Reader
	left int64
	over bool
	err  error // of r
}

var errOver = errors.New("the answer is too large")

func (b *boundedBody) Read(p []byte) (int, error) {
	if b.over {
		return 0, errOver
	}
	// One byte more than is left tells an answer that ends there from one that goes on.
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.r.Read(p)
	if int64(n) > b.left {
		n, b.left, b.over = int(b.left), 0, true
		return n, errOver
	}
	b.left -= int64(n)
	if err != nil && err != io.EOF {
		b.err = err
	}
	return n, err
}

var gzips = sync.Pool{New: func() any { return new(gzip.Reader) }}

// decoded is the body as it was before compression, which is not asked for but may be done all the same.
func decoded(resp *http.Response) (r io.Reader, done func(), err error) {
	switch encoding := strings.ToLower(resp.Header.Get("Content-Encoding")); encoding {
	case "", "identity":
		return resp.Body, func() {}, nil
	case "gzip", "x-gzip":
		z := gzips.Get().(*gzip.Reader)
		if err := z.Reset(resp.Body); err != nil {
			gzips.Put(z)
			if errors.Is(err, gzip.ErrHeader) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return nil, nil, &Error{Malformed, "the answer says that it is compressed with gzip, and is not"}
			}
			return nil, nil, err
		}
		return z, func() { _ = z.Close(); gzips.Put(z) }, nil
	}
	return nil, nil, &Error{Malformed, "the answer is compressed, though nobody asked for it, and not with gzip"}
}
