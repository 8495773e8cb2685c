package console

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"
)

const (
	// playgroundBody is the largest body of a request of the playground, in bytes, with what is around it.
	playgroundBody = 4 << 20
	// playgroundTime is the longest that one may take.
	playgroundTime = 10 * time.Minute
	// playgroundAnswer is the longest answer that is passed on, in bytes.
	playgroundAnswer = 64 << 20
	// playgroundHeaders a request may have of its own.
	playgroundHeaders = 32
	// playgroundAtOnce is how many may run.
	playgroundAtOnce = 16
)

// Headers of the playground's answer.
const (
	// StatusHeader is the status that the gateway answered with. That of the answer itself says how the playground fared.
	StatusHeader = "x-weir-playground-status"
)

// PlaygroundOptions are what a Playground needs. All fields are required.
type PlaygroundOptions struct {
	// Base is the URL of this gateway's own listener, "http://127.0.0.1:8080"; "" while there is none.
	Base func() string
	// Serves says whether the gateway has an endpoint at a path, which has no query.
	Serves func(method, path string) bool
	Log    *slog.Logger
}

// Playground sends requests of the page through this gateway, to no other host, and streams their answers back as they come. The
// caller's key is used for that one request: it is neither kept nor logged.
type Playground struct {
	opts   PlaygroundOptions
	client *http.Client
	places chan struct{}
}

// NewPlayground makes a Playground. Register it for POST /api/playground behind a Console.
func NewPlayground(o PlaygroundOptions) *Playground {
	return &Playground{
		opts:   o,
		places: make(chan struct{}, playgroundAtOnce),
		client: &http.Client{
			Transport: &http.Transport{
				Proxy: nil, // the listener is here
				// The listener is one of this process, reached by an address of this machine, and its certificate is for other names.
				TLSClientConfig:    &tls.Config{InsecureSkipVerify: true},
				DisableCompression: true, // the answer is passed on as it is
				DialContext:        (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
				DisableKeepAlives:  true,
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

// playgroundRequest is the body of POST /api/playground.
type playgroundRequest struct {
	// Path of the gateway, with or without a query: "/v1/chat/completions".
	Path string `json:"path"`
	// Key is the caller's API key or token.
	Key string `json:"key"`
	// Headers of the request; those that say who calls, or how the connection is used, are not taken.
	Headers map[string]string `json:"headers"`
	// Body is sent as it is, by POST. Without it the request is a GET.
	Body json.RawMessage `json:"body"`
}

// unsent are headers that the page cannot set: the caller is who has the key, and the rest is the connection's or the gateway's.
var unsent = []string{
	"authorization", "x-api-key", "api-key", "x-goog-api-key", "cookie", "host", "connection", "content-length", "transfer-encoding", "te",
	"trailer", "upgrade", "keep-alive", "expect", "forwarded", "x-real-ip", "accept-encoding", "content-encoding",
}

func sendable(name string) bool {
	for _, prefix := range []string{"x-weir-", "x-envoy-", "x-forwarded-", "proxy-", "sec-", ":"} {
		if strings.HasPrefix(name, prefix) {
			return false
		}
	}
	return httpguts.ValidHeaderFieldName(name) && !slices.Contains(unsent, name)
}

// passed are the headers of an answer that the page is shown, and prefixes of them that end with a hyphen.
var passed = []string{"x-request-id", "retry-after", "traceparent", "x-weir-", "x-ratelimit-", "anthropic-ratelimit-", "anthropic-version", "x-should-retry", "openai-processing-ms"}

func isPassed(name string) bool {
	return slices.ContainsFunc(passed, func(p string) bool { return name == p || strings.HasSuffix(p, "-") && strings.HasPrefix(name, p) })
}

// ServeHTTP sends one request.
func (p *Playground) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	select {
	case p.places <- struct{}{}:
		defer func() { <-p.places }()
	default:
		w.Header().Set("retry-after", "1")
		refuse(w, r, http.StatusTooManyRequests, "Busy", "As many requests of the playground run as may; wait until one has ended.")
		return
	}
	var in playgroundRequest
	if !readJSON(w, r, playgroundBody, &in) {
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), playgroundTime)
	defer cancel()
	out, problem := p.request(ctx, &in)
	if problem != "" {
		refuse(w, r, http.StatusBadRequest, "This cannot be sent", problem)
		return
	}
	resp, err := p.client.Do(out)
	if err != nil {
		if r.Context().Err() != nil {
			return // the page has gone
		}
		p.opts.Log.Warn("a request of the playground got no answer", "error", cause(err))
		refuse(w, r, http.StatusBadGateway, "No answer", "The gateway's own listener does not answer: "+plain(cause(err).Error())+".")
		return
	}
	defer resp.Body.Close()
	p.answer(w, resp)
}

// cause is why a request failed, without its URL.
func cause(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// request makes the request to the gateway; problem is what is wrong with what the page asked for, in words for it.
func (p *Playground) request(ctx context.Context, in *playgroundRequest) (out *http.Request, problem string) {
	base := p.opts.Base()
	if base == "" {
		return nil, "The gateway has no listener yet."
	}
	rest, query, hasQuery := strings.Cut(in.Path, "?")
	at, err := url.ParseRequestURI(rest)
	if err != nil || !strings.HasPrefix(rest, "/") || at.Host != "" || at.Path != path.Clean(at.Path) || strings.ContainsAny(in.Path, "#\\ ") {
		return nil, "path must be one of the gateway, such as /v1/chat/completions."
	}
	method, body := http.MethodGet, []byte(nil)
	if len(in.Body) > 0 && !bytes.Equal(in.Body, []byte("null")) {
		method, body = http.MethodPost, in.Body
	}
	if !p.opts.Serves(method, rest) {
		return nil, "The gateway has no endpoint for " + method + " " + plain(rest) + "."
	}
	if hasQuery {
		rest += "?" + query
	}
	target, err := url.Parse(base + rest)
	if err != nil {
		return nil, "path must be one of the gateway, such as /v1/chat/completions."
	}
	out, err = http.NewRequestWithContext(ctx, method, target.String(), bytes.NewReader(body))
	if err != nil {
		return nil, "path must be one of the gateway, such as /v1/chat/completions."
	}
	if len(in.Headers) > playgroundHeaders {
		return nil, "These are more than " + strconv.Itoa(playgroundHeaders) + " headers."
	}
	if body != nil {
		out.Header.Set("content-type", "application/json")
	}
	out.Header.Set("user-agent", "weir-playground")
	for name, value := range in.Headers {
		name = strings.ToLower(name)
		if !sendable(name) || !httpguts.ValidHeaderFieldValue(value) {
			return nil, "The header " + plain(name) + " cannot be sent from here."
		}
		out.Header.Set(name, value)
	}
	if in.Key != "" {
		if !httpguts.ValidHeaderFieldValue(in.Key) {
			return nil, "The key has characters that no header can hold."
		}
		out.Header.Set("authorization", "Bearer "+in.Key)
	}
	return out, ""
}

// answer passes the gateway's answer on, byte by byte as it comes.
func (p *Playground) answer(w http.ResponseWriter, resp *http.Response) {
	h := w.Header()
	for name, values := range resp.Header {
		if isPassed(strings.ToLower(name)) {
			h[name] = values
		}
	}
	h.Set(StatusHeader, strconv.Itoa(resp.StatusCode))
	h.Set("content-type", harmless(resp.Header.Get("content-type")))
	h.Set("cache-control", "no-store")
	w.WriteHeader(http.StatusOK)
	flush := http.NewResponseController(w)
	_ = flush.Flush()
	buf := make([]byte, 32<<10)
	for left := playgroundAnswer; left > 0; {
		n, err := resp.Body.Read(buf[:min(len(buf), left)])
		if n > 0 {
			left -= n
			if _, err := w.Write(buf[:n]); err != nil {
				return // the page has gone
			}
			if err := flush.Flush(); err != nil {
				return
			}
		}
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			break
		}
	}
	// What was passed on is not all of it: the page must see the answer break off, as a caller does.
	panic(http.ErrAbortHandler)
}

// harmless is a content type that a browser shows nothing of by itself.
func harmless(kind string) string {
	base, _, _ := strings.Cut(kind, ";")
	switch base = strings.ToLower(strings.TrimSpace(base)); base {
	case "application/json", "text/event-stream":
		return base
	}
	return "text/plain; charset=utf-8"
}
