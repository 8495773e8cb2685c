package relay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/weir-dev/weir/adapters"
	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/extproc/cache"
	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/extproc/table"
	"github.com/weir-dev/weir/extproc/wire"
	"github.com/weir-dev/weir/internal/trace"
	"github.com/weir-dev/weir/usage"
)

// rig is a relay between a caller and what stands for Envoy's inner listener and a backend.
type rig struct {
	t       *testing.T
	server  *Server
	flights *Flights
	client  *http.Client
	// answer is what the backend does, and refuse what the inner decision says; nil lets everything through.
	answer http.HandlerFunc
	refuse func(*Fill) *canon.Error
	fills  atomic.Int64
	// candidates are those of fills.
	candidates []usage.Candidate
	door       *http.Server // the inner listener
}

func overSocket(path string) *http.Transport {
	p := &http.Protocols{}
	p.SetHTTP1(true)
	return &http.Transport{Protocols: p, DisableCompression: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}}
}

func newRig(t *testing.T, answer http.HandlerFunc) *rig {
	t.Helper()
	dir, err := os.MkdirTemp("", "relay-") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	dialects, err := adapters.NewSet(adapters.Catalog()...)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, flights: NewFlights(time.Now), answer: answer}
	listen := func(name string) net.Listener {
		l, err := net.Listen("unix", filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	protocols := &http.Protocols{}
	protocols.SetHTTP1(true)
	inner := &http.Server{Handler: http.HandlerFunc(r.inner), Protocols: protocols, ErrorLog: log.New(io.Discard, "", 0)}
	r.door = inner
	r.server = New(Options{
		Flights: r.flights, Dialects: dialects, Inner: filepath.Join(dir, "inner"), Log: slog.New(slog.DiscardHandler),
		Registry: prometheus.NewRegistry(), Cache: cache.New(cache.Options{}),
	})
	var running sync.WaitGroup
	backend, door := listen("inner"), listen("door")
	running.Go(func() { _ = inner.Serve(backend) })
	running.Go(func() {
		if err := r.server.Serve(door); err != nil {
			t.Errorf("the relay ended: %v", err)
		}
	})
	transport := overSocket(filepath.Join(dir, "door"))
	r.client = &http.Client{Transport: transport}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		r.server.Close(ctx)
		inner.Close()
		running.Wait()
	})
	return r
}

// inner decides as the inner listener does, and answers as a backend.
func (r *rig) inner(w http.ResponseWriter, req *http.Request) {
	fill := r.flights.TakeFill(req.Header.Get(wire.FlightHeader))
	if fill == nil {
		http.Error(w, "no fill", http.StatusTeapot)
		return
	}
	r.fills.Add(1)
	body, _ := io.ReadAll(req.Body) // else net/http does not notice that the relay has left
	req.Body = io.NopCloser(bytes.NewReader(body))
	if r.refuse != nil {
		if e := r.refuse(fill); e != nil {
			fill.Refuse(e)
			w.Header().Set("content-type", "application/json")
			w.WriteHeader(e.HTTPStatus())
			_, _ = w.Write(fill.Dialect.In.AppendError(nil, e, "req"))
			return
		}
	}
	if !fill.Began(&usage.Open{ID: fill.ID, Fill: true, Candidates: r.candidates}) {
		http.Error(w, "taken", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set(wire.BackendHeader, "default/b")
	r.answer(w, req)
}

// flight is a request of demo's that has been let in.
func (r *rig) flight(p *cache.Policy, change ...func(*Flight)) *Flight {
	d, _ := r.server.opts.Dialects.Get("openai")
	f := &Flight{
		ID: NewID(), Gateway: "default/gw", Identity: &identity.Identity{Tenant: "acme", ConsumerID: "default/demo"},
		Rule: &table.Rule{Name: "default/r", Timeout: time.Minute}, Dialect: &d, Endpoint: &canon.Endpoint{Op: canon.OpChat, Method: "POST", Path: "/chat/completions"},
		Model: "m", RequestID: "req", Open: &usage.Open{ID: "open", Relayed: true}, Begun: time.Now(), Expires: time.Now().Add(time.Minute),
	}
	if p != nil {
		f.Cache = &table.Kept[table.CachePolicy]{Name: p.ID, Policy: p}
	}
	for _, c := range change {
		c(f)
	}
	r.flights.Put(f)
	return f
}

const plainAsk = `{"model":"m","temperature":0,"messages":[{"role":"user","content":"Hello"}]}`

const plainAnswer = `{"id":"c1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"Hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}`

func (r *rig) send(ctx context.Context, f *Flight, body string, headers ...string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, "POST", "http://relay/v1/chat/completions?x=1", strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("content-type", "application/json")
	req.Header.Set(wire.FlightHeader, f.ID)
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	return r.client.Do(req)
}

// ask sends a request and reads the answer.
func (r *rig) ask(f *Flight, headers ...string) (int, http.Header, string) {
	r.t.Helper()
	resp, err := r.send(r.t.Context(), f, plainAsk, headers...)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(body)
}

func plainly(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("content-type", "application/json")
	_, _ = io.WriteString(w, plainAnswer)
}

func policyOf() *cache.Policy {
	return &cache.Policy{ID: "default/c", TTL: time.Minute, MaxEntryBytes: 1 << 20, MemoryBytes: 1 << 20}
}

// waitFor waits until something is so.
func waitFor(t *testing.T, what string, is func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !is() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: it did not come to pass", what)
		}
		runtime.Gosched()
	}
}

// A request that nobody let in, or that comes twice, is told so in its caller's dialect.
func TestUnknownFlight(t *testing.T) {
	r := newRig(t, plainly)
	f := r.flight(nil)
	if status, _, _ := r.ask(f); status != 200 {
		t.Fatalf("status %d", status)
	}
	status, _, body := r.ask(f)
	if status != 503 || !strings.Contains(body, `"error"`) || r.fills.Load() != 1 {
		t.Errorf("once more: %d %s, %d fills", status, body, r.fills.Load())
	}
}

// What no policy has anything to do with passes as it is, without what only the relay and Envoy say to each other.
func TestPasses(t *testing.T) {
	var got http.Header
	var path, body string
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		got, path = req.Header.Clone(), req.URL.RequestURI()
		b, _ := io.ReadAll(req.Body)
		body = string(b)
		w.Header().Set("x-ratelimit-remaining-tokens", "7")
		w.Header().Set("x-ratelimit-remaining-requests", "8")
		w.Header().Set("openai-version", "2020")
		plainly(w, req)
	})
	f := r.flight(nil, func(f *Flight) { f.Trace = trace.Begin("", func(string) bool { return true }) })
	status, header, answer := r.ask(f, "authorization", "Bearer secret", "x-api-key", "secret", "cookie", "secret", "x-weir-session", "s",
		"x-envoy-upstream-rq-timeout-ms", "5", "x-custom", "kept", "traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	if status != 200 || answer != plainAnswer || path != "/v1/chat/completions?x=1" || body != plainAsk {
		t.Errorf("%d %s, asked %s %s", status, answer, path, body)
	}
	if header.Get("x-ratelimit-remaining-tokens") != "7" || header.Get("x-ratelimit-remaining-requests") != "" || header.Get("openai-version") != "2020" ||
		header.Get("x-weir-backend") != "default/b" || header.Get("x-weir-cache") != "" {
		t.Errorf("the answer's header: %v", header)
	}
	for name, values := range got {
		if strings.Contains(strings.Join(values, " "), "secret") || strings.HasPrefix(name, "X-Envoy") || name == "X-Weir-Session" {
			t.Errorf("the fill has the header %s: %q", name, values)
		}
	}
	if got.Get("x-custom") != "kept" || got.Get("authorization") == "" || got.Get("traceparent") != f.Trace.Header()+"0"+f.Trace.Flags() {
		t.Errorf("the fill's header: %v", got)
	}
}

// Each piece of a stream reaches the caller when it comes, and one that breaks off is no whole one.
func TestStreams(t *testing.T) {
	goOn := make(chan bool)
	r := newRig(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("content-type", "text/event-stream")
		flush := http.NewResponseController(w)
		for whole := range goOn {
			if !whole {
				panic(http.ErrAbortHandler)
			}
			_, _ = io.WriteString(w, "data: piece\n\n")
			_ = flush.Flush()
		}
	})
	resp, err := func() (*http.Response, error) {
		go func() { goOn <- true }()
		return r.send(t.Context(), r.flight(nil), plainAsk)
	}()
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	buf := make([]byte, 100)
	for i := range 3 {
		if n, err := resp.Body.Read(buf); string(buf[:n]) != "data: piece\n\n" || err != nil {
			t.Fatalf("piece %d: %q %v", i, buf[:n], err)
		}
		goOn <- i < 2 // the provider waits for this: what was read has come before the end
	}
	if n, err := resp.Body.Read(buf); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("a stream that broke off ends with %q %v", buf[:n], err)
	}
}

// Equal requests make one fill; the caller who began it may leave.
func TestFollowers(t *testing.T) {
	begun, goOn := make(chan struct{}, 8), make(chan struct{})
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		begun <- struct{}{}
		<-goOn
		plainly(w, req)
	})
	p := policyOf()
	leader, leave := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	go func() {
		_, err := r.send(leader, r.flight(p), plainAsk)
		gone <- err
	}()
	<-begun
	const many = 20
	outcomes := make(chan string, many)
	for range many {
		go func() {
			resp, err := r.send(t.Context(), r.flight(p), plainAsk)
			if err != nil {
				outcomes <- err.Error()
				return
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			outcomes <- fmt.Sprintf("%d %s %v %v", resp.StatusCode, resp.Header.Get(wire.CacheHeader), string(body) == plainAnswer, err)
		}()
	}
	waitFor(t, "all are there", func() bool { return testutil.ToFloat64(r.server.metrics.running) == many+1 })
	leave()
	if err := <-gone; err == nil {
		t.Error("the leader got an answer")
	}
	close(goOn)
	for range many {
		if got := <-outcomes; got != "200 shared true <nil>" && got != "200 hit true <nil>" {
			t.Errorf("a follower: %s", got)
		}
	}
	if n := r.fills.Load(); n != 1 {
		t.Errorf("%d fills, want 1", n)
	}
	if _, h, body := r.ask(r.flight(p)); h.Get(wire.CacheHeader) != "hit" || body != plainAnswer || h.Get("age") != "0" {
		t.Errorf("later: %q, age %q", h.Get(wire.CacheHeader), h.Get("age"))
	}
}

// A refusal that is one caller's own is no answer for the others.
func TestOwnRefusal(t *testing.T) {
	r := newRig(t, plainly)
	r.refuse = func(f *Fill) *canon.Error {
		if f.Identity.ConsumerID == "default/poor" {
			return &canon.Error{Kind: canon.ErrBilling, Status: 429, Policy: "default/budget", Message: "The budget is spent."}
		}
		return nil
	}
	p := policyOf()
	poor := r.flight(p, func(f *Flight) { f.Identity = &identity.Identity{Tenant: "acme", ConsumerID: "default/poor"} })
	if status, h, body := r.ask(poor); status != 429 || h.Get(wire.CacheHeader) != "miss" || !strings.Contains(body, "budget is spent") {
		t.Errorf("the poor one: %d %v %s", status, h, body)
	}
	if status, h, _ := r.ask(r.flight(p)); status != 200 || h.Get(wire.CacheHeader) != "miss" {
		t.Errorf("the next one: %d %v", status, h)
	}
}

// Where the first who asks is refused, the others ask at once. One of them buys; the rest were nobody's, and have not failed.
func TestLosersAreNobody(t *testing.T) {
	r := newRig(t, plainly)
	waiting, both := make(chan struct{}), make(chan struct{}, 2)
	r.refuse = func(f *Fill) *canon.Error {
		if f.Identity.ConsumerID == "default/poor" {
			<-waiting
			return &canon.Error{Kind: canon.ErrBilling, Status: 429, Policy: "default/budget", Message: "The budget is spent."}
		}
		both <- struct{}{}
		for len(both) < cap(both) { // until the other is here
			runtime.Gosched()
		}
		return nil
	}
	p := policyOf()
	done := make(chan int, 3)
	ask := func(f *Flight) {
		resp, err := r.send(t.Context(), f, plainAsk)
		if err != nil {
			t.Error(err)
			done <- 0
			return
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		done <- resp.StatusCode
	}
	go ask(r.flight(p, func(f *Flight) { f.Identity = &identity.Identity{Tenant: "acme", ConsumerID: "default/poor"} }))
	waitFor(t, "the first has asked", func() bool { return r.fills.Load() == 1 })
	for range 2 {
		go ask(r.flight(p))
	}
	waitFor(t, "the others wait", func() bool { return testutil.ToFloat64(r.server.metrics.running) == 3 })
	r.server.opts.Cache.Use([]*cache.Policy{p})
	waitFor(t, "they share", func() bool { return r.server.opts.Cache.Stats().Policies[0].Shared == 2 })
	close(waiting)
	got := map[int]int{}
	for range 3 {
		got[<-done]++
	}
	if got[200] != 2 || got[429] != 1 {
		t.Errorf("answers: %v", got)
	}
	count := func(outcome string) float64 {
		return testutil.ToFloat64(r.server.metrics.fills.WithLabelValues(wire.FillAnswer, outcome))
	}
	waitFor(t, "the loser has ended", func() bool { return count("taken")+count("failed")+count("error") > 0 })
	if count("ok") != 1 || count("refused") != 1 || count("taken") != 1 || count("failed") != 0 || count("error") != 0 {
		t.Errorf("ok %v, refused %v, taken %v, failed %v, error %v", count("ok"), count("refused"), count("taken"), count("failed"), count("error"))
	}
}

// An answer that is not whole is nobody's later.
func TestHalfAnswersAreNotKept(t *testing.T) {
	half := true
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		if half {
			w.Header().Set("content-type", "text/event-stream")
			_, _ = io.WriteString(w, `data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":null}]}`+"\n\n")
			return // an end without [DONE], nor a reason
		}
		plainly(w, req)
	})
	p := policyOf()
	stream := func(f *Flight) { f.Stream = true }
	resp, err := r.send(t.Context(), r.flight(p, stream), strings.Replace(plainAsk, `"temperature":0`, `"temperature":0,"stream":true`, 1))
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.ReadAll(resp.Body)
	resp.Body.Close()
	half = false
	if status, h, body := r.ask(r.flight(p)); status != 200 || h.Get(wire.CacheHeader) != "miss" || body != plainAnswer {
		t.Errorf("after half an answer: %d %q %s", status, h.Get(wire.CacheHeader), body)
	}
}

// What the caller says of the cache that makes no sense, and what cannot be asked, is told.
func TestRefusals(t *testing.T) {
	r := newRig(t, plainly)
	for name, c := range map[string]struct {
		headers []string
		status  int
	}{
		"a directive":            {[]string{wire.CacheControlHeader, "max-age=never"}, 400},
		"only what is kept":      {[]string{wire.CacheControlHeader, "only-if-cached"}, 504},
		"too many tags":          {[]string{wire.CacheTagsHeader, strings.Repeat("t,", 17)}, 400},
		"a long tag":             {[]string{wire.CacheTagsHeader, strings.Repeat("t", 65)}, 400},
		"as many tags as may be": {[]string{wire.CacheTagsHeader, strings.Repeat("t, ", 16)}, 200},
	} {
		p := policyOf()
		p.ID = name
		f := r.flight(p)
		if status, _, body := r.ask(f, c.headers...); status != c.status {
			t.Errorf("%s: %d %s, want %d", name, status, body, c.status)
		}
	}
}

// A request whose time is over, or whose inner listener is not there, is told so.
func TestNoAnswer(t *testing.T) {
	release := make(chan struct{})
	r := newRig(t, func(_ http.ResponseWriter, req *http.Request) {
		select {
		case <-req.Context().Done():
		case <-release:
		}
	})
	defer close(release)
	late := func(f *Flight) { f.Expires = time.Now().Add(10 * time.Millisecond) }
	if status, _, body := r.ask(r.flight(nil, late)); status != 504 {
		t.Errorf("late: %d %s", status, body)
	}
	r.server.inner = newInner(filepath.Join(t.TempDir(), "none"))
	for name, f := range map[string]*Flight{"passed": r.flight(nil), "cached": r.flight(policyOf())} {
		if status, h, body := r.ask(f); status != 503 || h.Get("retry-after") != "1" {
			t.Errorf("%s: %d %v %s", name, status, h, body)
		}
	}
}

// Callers who leave, and a server that closes, leave nothing running.
func TestNothingIsLeft(t *testing.T) {
	before := runtime.NumGoroutine()
	t.Run("requests", func(t *testing.T) {
		waiting := make(chan struct{}, 64)
		r := newRig(t, func(_ http.ResponseWriter, req *http.Request) {
			waiting <- struct{}{}
			<-req.Context().Done()
		})
		for i := range 20 {
			ctx, leave := context.WithCancel(t.Context())
			var p *cache.Policy
			if i%2 == 0 {
				p = policyOf()
				p.ID, p.MemoryBytes = fmt.Sprint("default/", i), 0
			}
			done := make(chan struct{})
			go func() {
				defer close(done)
				if resp, err := r.send(ctx, r.flight(p), plainAsk); err == nil {
					resp.Body.Close()
				}
			}()
			<-waiting
			leave()
			<-done
		}
		waitFor(t, "the relay has nothing to do", func() bool { return testutil.ToFloat64(r.server.metrics.running) == 0 })
	})
	defer func() {
		if t.Failed() {
			buf := make([]byte, 1<<20)
			t.Logf("%s", buf[:runtime.Stack(buf, true)])
		}
	}()
	waitFor(t, "all goroutines have ended", func() bool { return runtime.NumGoroutine() <= before })
}

func TestNoStore(t *testing.T) {
	for value, want := range map[string]bool{"": false, "no-store": true, "max-age=3, No-Store": true, "no-stores": false, "no-cache": false} {
		if got := NoStore(value); got != want {
			t.Errorf("%q: %v", value, got)
		}
	}
}
