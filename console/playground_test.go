package console

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// upstream is what a gateway does in these tests.
type upstream func(http.ResponseWriter, *http.Request)

// playgroundRig serves a Playground in front of a gateway.
func playgroundRig(t *testing.T, serve upstream) (url string, log *logged) {
	t.Helper()
	gateway := httptest.NewServer(http.HandlerFunc(serve))
	t.Cleanup(gateway.Close)
	log = &logged{}
	p := NewPlayground(PlaygroundOptions{
		Base: func() string { return gateway.URL },
		Serves: func(method, path string) bool {
			return method == "POST" && path == "/v1/chat/completions" || method == "GET" && path == "/v1/models"
		},
		Log: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	s := httptest.NewServer(p)
	t.Cleanup(s.Close)
	return s.URL, log
}

func play(t *testing.T, url, body string) reply {
	t.Helper()
	resp, err := http.Post(url, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply{resp.StatusCode, resp.Header, string(text)}
}

func TestPlayground(t *testing.T) {
	var got *http.Request
	var sent string
	url, log := playgroundRig(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got, sent = r, string(b)
		w.Header().Set("content-type", "application/json; charset=utf-8")
		w.Header().Set("x-request-id", "req-1")
		w.Header().Set("x-weir-backend", "default/openai")
		w.Header().Set("x-ratelimit-remaining-requests", "7")
		w.Header().Set("set-cookie", "a=b")
		w.Header().Set("content-security-policy", "none")
		w.WriteHeader(http.StatusTooManyRequests)
		io.WriteString(w, `{"error":{"message":"slow down"}}`)
	})
	a := play(t, url, `{"path":"/v1/chat/completions?a=b","key":"caller-key","headers":{"X-Team":"a","anthropic-version":"2023-06-01"},"body":{"model": "m",  "n":1.0}}`)
	if a.status != 200 || a.header.Get(StatusHeader) != "429" || a.body != `{"error":{"message":"slow down"}}` {
		t.Errorf("%d, gateway %s: %s", a.status, a.header.Get(StatusHeader), a.body)
	}
	for name, want := range map[string]string{
		"x-request-id": "req-1", "x-weir-backend": "default/openai", "x-ratelimit-remaining-requests": "7", "content-type": "application/json", "set-cookie": "", "content-security-policy": "",
	} {
		if a.header.Get(name) != want {
			t.Errorf("%s is %q, want %q", name, a.header.Get(name), want)
		}
	}
	if got.Method != "POST" || got.URL.String() != "/v1/chat/completions?a=b" || got.Header.Get("authorization") != "Bearer caller-key" || got.Header.Get("x-team") != "a" || sent != `{"model": "m",  "n":1.0}` {
		t.Errorf("the gateway was sent %s %s %v %s", got.Method, got.URL, got.Header, sent)
	}
	a = play(t, url, `{"path":"/v1/models","key":"caller-key"}`)
	if a.status != 200 || got.Method != "GET" || sent != "" || got.Header.Get("content-type") != "" {
		t.Errorf("a GET: %d, %s %q", a.status, got.Method, sent)
	}
	if strings.Contains(log.String(), "caller-key") {
		t.Errorf("the log shows the key: %s", log)
	}
}

func TestPlaygroundRefuses(t *testing.T) {
	asked := 0
	url, log := playgroundRig(t, func(http.ResponseWriter, *http.Request) { asked++ })
	many := map[string]string{}
	for i := range playgroundHeaders + 1 {
		many[fmt.Sprint("x-", i)] = "v"
	}
	tooMany, _ := json.Marshal(map[string]any{"path": "/v1/models", "headers": many})
	for body, want := range map[string]int{
		`{"path":""}`: 400, `{"path":"v1/models"}`: 400, `{"path":"http://other.example/v1/models"}`: 400, `{"path":"//other.example/v1/models"}`: 400,
		`{"path":"/v1/../v1/models"}`: 400, `{"path":"/v1/models#x"}`: 400, `{"path":"\\\\other\\v1"}`: 400, `{"path":"@other.example/v1/models"}`: 400,
		`{"path":"/v1/unknown"}`: 400, `{"path":"/v1/models","body":{}}`: 400, `{"path":"/v1/models\r\nx: y"}`: 400, `{"path":"/v1/mod els"}`: 400, `{"path":"/v1/models?a b"}`: 400,
		`{"path":"/v1/models","headers":{"host":"other"}}`: 400, `{"path":"/v1/models","headers":{"Authorization":"Bearer k"}}`: 400,
		`{"path":"/v1/models","headers":{"x-forwarded-for":"1.2.3.4"}}`: 400, `{"path":"/v1/models","headers":{"x-weir-rule":"r"}}`: 400,
		`{"path":"/v1/models","headers":{"a":"b\nc"}}`: 400, `{"path":"/v1/models","headers":{"a b":"c"}}`: 400, string(tooMany): 400,
		`{"path":"/v1/models","key":"a\r\nx-evil: 1"}`: 400, `not json`: 400, `{"path":5}`: 400,
		`{"path":"/v1/chat/completions","body":"` + strings.Repeat("x", playgroundBody) + `"}`: 413,
	} {
		if a := play(t, url, body); a.status != want || a.header.Get(StatusHeader) != "" || !strings.Contains(a.body, `{"error":"`) {
			t.Errorf("%.80s: status %d, want %d: %s", body, a.status, want, a.body)
		}
	}
	if asked != 0 {
		t.Errorf("the gateway was asked %d times", asked)
	}
	if log.String() != "" {
		t.Errorf("the log: %s", log)
	}
}

// TestPlaygroundStreams: each part comes when the gateway sends it.
func TestPlaygroundStreams(t *testing.T) {
	next := make(chan string)
	url, _ := playgroundRig(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("content-type", "text/event-stream")
		for part := range next {
			io.WriteString(w, part)
			w.(http.Flusher).Flush()
		}
	})
	type result struct {
		resp *http.Response
		err  error
	}
	answered := make(chan result, 1)
	go func() {
		resp, err := http.Post(url, "application/json", strings.NewReader(`{"path":"/v1/chat/completions","body":{"stream":true}}`))
		answered <- result{resp, err}
	}()
	next <- "data: 1\n\n" // the handler is there
	r := <-answered
	if r.err != nil {
		t.Fatal(r.err)
	}
	defer r.resp.Body.Close()
	buf := make([]byte, 64)
	for _, want := range []string{"data: 1\n\n", "data: 2\n\n", "data: 3\n\n"} {
		if want != "data: 1\n\n" {
			next <- want
		}
		n, err := io.ReadAtLeast(r.resp.Body, buf[:len(want)], len(want))
		if err != nil || string(buf[:n]) != want {
			t.Fatalf("got %q, %v; want %q", buf[:n], err, want)
		}
	}
	close(next)
	if rest, err := io.ReadAll(r.resp.Body); err != nil || len(rest) > 0 {
		t.Errorf("%q, %v", rest, err)
	}
}

// TestPlaygroundBreaksOff as the gateway's answer does.
func TestPlaygroundBreaksOff(t *testing.T) {
	url, _ := playgroundRig(t, func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "data: half")
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	resp, err := http.Post(url, "application/json", strings.NewReader(`{"path":"/v1/chat/completions","body":{}}`))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if text, err := io.ReadAll(resp.Body); err == nil {
		t.Errorf("the answer ends as if it were whole: %q", text)
	}
}

// TestPlaygroundEndsWithThePage: the gateway sees the caller leave.
func TestPlaygroundEndsWithThePage(t *testing.T) {
	begun, ended := make(chan struct{}), make(chan struct{})
	url, log := playgroundRig(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.ReadAll(r.Body)
		close(begun)
		<-r.Context().Done()
		close(ended)
	})
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(`{"path":"/v1/chat/completions","body":{}}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("content-type", "application/json")
	go func() {
		<-begun
		cancel()
	}()
	if resp, err := http.DefaultClient.Do(req); err == nil {
		resp.Body.Close()
		t.Error("there is an answer")
	}
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Fatal("the gateway goes on for nobody")
	}
	if log.String() != "" {
		t.Errorf("the log: %s", log)
	}
}

func TestPlaygroundWithoutGateway(t *testing.T) {
	gone := httptest.NewServer(nil)
	gone.Close()
	for base, want := range map[string]int{"": 400, gone.URL: 502} {
		p := NewPlayground(PlaygroundOptions{Base: func() string { return base }, Serves: func(string, string) bool { return true }, Log: slog.New(slog.DiscardHandler)})
		s := httptest.NewServer(p)
		if a := play(t, s.URL, `{"path":"/v1/models","key":"caller-key"}`); a.status != want || strings.Contains(a.body, "caller-key") {
			t.Errorf("%q: %d %s", base, a.status, a.body)
		}
		s.Close()
	}
}

// TestPlaygroundIsBounded: so many at once, and no more.
func TestPlaygroundIsBounded(t *testing.T) {
	begun, end := make(chan struct{}), make(chan struct{})
	url, _ := playgroundRig(t, func(http.ResponseWriter, *http.Request) {
		begun <- struct{}{}
		<-end
	})
	done := make(chan int, playgroundAtOnce)
	for range playgroundAtOnce {
		go func() {
			resp, err := http.Post(url, "application/json", strings.NewReader(`{"path":"/v1/models"}`))
			if err != nil {
				done <- 0
				return
			}
			resp.Body.Close()
			done <- resp.StatusCode
		}()
		<-begun
	}
	if a := play(t, url, `{"path":"/v1/models"}`); a.status != 429 || a.header.Get("retry-after") == "" {
		t.Errorf("one too many: %d", a.status)
	}
	close(end)
	for range playgroundAtOnce {
		if got := <-done; got != 200 {
			t.Errorf("status %d", got)
		}
	}
}
