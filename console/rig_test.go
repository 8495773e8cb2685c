package console

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

const secret = "correct-horse-battery-staple"

// clock is a time that tests move.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	c.t = c.t.Add(d)
	c.mu.Unlock()
}

// logged collects a log.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// rig is a door with a server behind it, and a browser.
type rig struct {
	*Console
	t       *testing.T
	url     string
	clock   *clock
	log     *logged
	browser *http.Client
	// waiting is sent to when /api/wait is asked, whose answer comes when its request ends.
	waiting chan struct{}
}

var (
	here      = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8081}
	elsewhere = &net.TCPAddr{IP: net.IPv4zero, Port: 8081}
)

func newRig(t *testing.T, edit func(*Options)) *rig {
	t.Helper()
	r := &rig{t: t, clock: &clock{t: time.Now()}, log: &logged{}, waiting: make(chan struct{}, 1)}
	o := Options{Address: here, Playground: true, Log: slog.New(slog.NewTextHandler(r.log, nil)), Now: r.clock.now}
	if edit != nil {
		edit(&o)
	}
	var err error
	if r.Console, err = New(o); err != nil {
		t.Fatal(err)
	}
	inner := http.NewServeMux()
	for _, path := range open {
		inner.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "open") })
	}
	inner.HandleFunc("GET /api/status", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"secret":true}`) })
	inner.HandleFunc("POST /api/change", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{}`) })
	inner.HandleFunc("GET /api/wait", func(w http.ResponseWriter, r2 *http.Request) {
		r.waiting <- struct{}{}
		<-r2.Context().Done()
	})
	s := httptest.NewServer(r.Handler(inner))
	t.Cleanup(s.Close)
	r.url = s.URL
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	r.browser = &http.Client{Jar: jar}
	return r
}

func withToken(t *testing.T) func(*Options) {
	return func(o *Options) {
		token, err := NewToken(secret)
		if err != nil {
			t.Fatal(err)
		}
		o.Token = token
	}
}

// reply is an answer that has been read.
type reply struct {
	status int
	header http.Header
	body   string
}

// ask sends a request, whose headers are given as name and value in turn; "host" is the Host header.
func (r *rig) ask(method, path, body string, headers ...string) reply {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, r.url+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("content-type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "host" {
			req.Host = headers[i+1]
			continue
		}
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := r.browser.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return reply{resp.StatusCode, resp.Header, string(text)}
}

func (r *rig) login() reply { return r.ask("POST", "/api/session", `{"token":"`+secret+`"}`) }

func (r *rig) session() sessionBody {
	r.t.Helper()
	var b sessionBody
	if err := json.Unmarshal([]byte(r.ask("GET", "/api/session", "").body), &b); err != nil {
		r.t.Fatal(err)
	}
	return b
}
