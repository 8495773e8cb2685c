package scrape

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-dev/weir/test/freeport"
	"github.com/weir-dev/weir/xds/load/engine"
	"github.com/weir-dev/weir/xds/load/internal/fetch"
	"github.com/weir-dev/weir/xds/load/signal"
)

// waitAtMost bounds waits of these tests. It is never the measure of anything.
const waitAtMost = 30 * time.Second

// live is a Scraper over real connections.
type live struct {
	*Scraper
	readings chan Reading
}

func newLive(t *testing.T) *live {
	l := &live{readings: make(chan Reading, 100)}
	client := NewClient(nil)
	l.Scraper = New(Options{Client: client, Sink: func(r Reading) { l.readings <- r }})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); l.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		for {
			select {
			case <-l.readings: // a Sink may wait for room
			case <-done:
				client.CloseIdleConnections()
				return
			}
		}
	})
	return l
}

// next waits for the next reading that is as asked for.
func (l *live) next(t *testing.T, what string, is func(Reading) bool) Reading {
	t.Helper()
	late := time.After(waitAtMost)
	for {
		select {
		case r := <-l.readings:
			if is(r) {
				return r
			}
		case <-late:
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

func fine(r Reading) bool              { return r.Err == nil }
func fault(f Fault) func(Reading) bool { return func(r Reading) bool { return r.Fault == f } }

func vllm(t testing.TB) engine.Engine {
	t.Helper()
	e, ok := engine.Find("VLLM")
	if !ok {
		t.Fatal("there is no VLLM engine")
	}
	return e
}

// vllmPage is a page as vLLM sends it, of some 20 KB: two gauges that matter among histograms that do not.
func vllmPage(waiting, running int) string {
	const labels = `{engine="0",model_name="Qwen/Qwen3-32B"`
	var b strings.Builder
	gauge := func(name, help string, value any) {
		fmt.Fprintf(&b, "# HELP vllm:%s %s\n# TYPE vllm:%s gauge\nvllm:%s%s} %v\n", name, help, name, name, labels, value)
	}
	histogram := func(name, help string) {
		fmt.Fprintf(&b, "# HELP vllm:%s %s\n# TYPE vllm:%s histogram\n", name, help, name)
		for i, le := range []string{"0.001", "0.005", "0.01", "0.02", "0.04", "0.06", "0.08", "0.1", "0.25", "0.5", "0.75", "1.0", "2.5", "5.0", "7.5", "10.0", "20.0", "40.0", "80.0", "160.0", "640.0", "2560.0", "+Inf"} {
			fmt.Fprintf(&b, "vllm:%s_bucket%s,le=%q} %d.0\n", name, labels, le, i*10)
		}
		fmt.Fprintf(&b, "vllm:%s_count%s} 220.0\nvllm:%s_sum%s} 12.5\n", name, labels, name, labels)
	}
	gauge("num_requests_running", "Number of requests in model execution batches.", float64(running))
	gauge("num_requests_waiting", "Number of requests waiting to be processed.", float64(waiting))
	gauge("kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.", 0.375)
	for _, name := range []string{
		"time_to_first_token_seconds", "inter_token_latency_seconds", "e2e_request_latency_seconds", "request_queue_time_seconds",
		"request_inference_time_seconds", "request_prefill_time_seconds", "request_decode_time_seconds", "iteration_tokens_total",
	} {
		histogram(name, "Histogram of "+name+".")
	}
	return b.String()
}

func TestVLLM(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, vllmPage(3, 5)) }))
	t.Cleanup(s.Close)
	l := newLive(t)
	must(t, l.Set([]Target{{Pool: "p", Endpoint: "e", URL: s.URL + "/metrics", Engine: vllm(t), Interval: 10 * ms, Timeout: waitAtMost}}))
	r := l.next(t, "a reading", func(Reading) bool { return true })
	if r.Err != nil || !r.Sample.Has.Has(signal.Waiting) || !r.Sample.Has.Has(signal.KVCache) || r.Sample.Waiting != 3 || r.Sample.Running != 5 || r.Sample.KVCache != 0.375 {
		t.Errorf("%+v", r)
	}
	if r.Bytes < 18_000 || r.Bytes > 25_000 || r.Took <= 0 || r.Sample.At.Before(r.Began) {
		t.Errorf("%+v", r)
	}
}

// TestServerDiesAndReturns shows what a target's readings are while its server dies, is gone, hangs and is back.
func TestServerDiesAndReturns(t *testing.T) {
	address := freeport.Addr(t) // which nobody takes while the server is away
	listener, err := net.Listen("tcp", address)
	must(t, err)
	serve := func(l net.Listener, h http.HandlerFunc) *httptest.Server {
		s := &httptest.Server{Listener: l, Config: &http.Server{Handler: h}}
		s.Start()
		return s
	}
	s := serve(listener, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "1") })
	l := newLive(t)
	target := Target{Pool: "p", Endpoint: address, URL: "http://" + address + "/metrics", Engine: counting, Interval: 5 * ms, Timeout: waitAtMost}
	must(t, l.Set([]Target{target}))
	l.next(t, "a reading", fine)
	s.CloseClientConnections()
	s.Close()
	l.next(t, "that the server is gone", fault(fetch.Unreachable))

	// It is back, and does not finish its answers.
	again := func() net.Listener {
		l, err := net.Listen("tcp", address)
		must(t, err)
		return l
	}
	hang := make(chan struct{})
	s = serve(again(), func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "1")
		w.(http.Flusher).Flush()
		<-hang
	})
	target.Timeout = 20 * ms
	must(t, l.Set([]Target{target}))
	l.next(t, "that the server hangs", fault(fetch.Timeout))
	close(hang)
	s.CloseClientConnections()
	s.Close()

	s = serve(again(), func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "2") })
	defer s.Close()
	target.Timeout = waitAtMost
	must(t, l.Set([]Target{target}))
	r := l.next(t, "a reading", func(r Reading) bool { return r.Err == nil && r.Sample.Waiting == 2 })
	if r.Sample.Running < 2 {
		t.Errorf("the Reader has forgotten: %+v", r.Sample)
	}
}

func TestTLS(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "1") }))
	t.Cleanup(s.Close)
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	client := NewClient(&tls.Config{RootCAs: pool, ServerName: "example.com"}) // the name in httptest's certificate
	t.Cleanup(client.CloseIdleConnections)
	l := newLive(t)
	target := Target{Pool: "p", Endpoint: "e", URL: s.URL, Engine: counting, Interval: 10 * ms, Timeout: waitAtMost, Client: client}
	must(t, l.Set([]Target{target}))
	l.next(t, "a reading", fine)
}

// TestConcurrentUse changes the targets and hurries them while they are read; the readers panic if a target is read twice at a time.
func TestConcurrentUse(t *testing.T) {
	var slow atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if slow.Add(1)%20 == 0 {
			<-r.Context().Done() // until the reading's timeout
			return
		}
		io.WriteString(w, "1")
	}))
	t.Cleanup(s.Close)
	l := newLive(t)
	var wg sync.WaitGroup
	for seed := range uint64(4) {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(seed, 7))
			for range 100 {
				var targets []Target
				for i := range 50 {
					if random.IntN(3) == 0 {
						continue
					}
					targets = append(targets, Target{
						Pool: "p", Endpoint: strconv.Itoa(i), URL: s.URL + "/" + strconv.Itoa(random.IntN(2)), Engine: counting,
						Interval: time.Duration(1+random.IntN(5)) * ms, Timeout: 50 * ms,
					})
				}
				if err := l.Set(targets); err != nil {
					t.Error(err)
				}
				l.Hurry("p", strconv.Itoa(random.IntN(50)))
				l.Stats()
				l.next(t, "a reading", func(Reading) bool { return true })
			}
		})
	}
	wg.Wait()
	must(t, l.Set([]Target{{Pool: "p", Endpoint: "last", URL: s.URL, Engine: counting, Interval: ms, Timeout: 50 * ms}}))
	l.next(t, "the last target", func(r Reading) bool { return r.Target.Endpoint == "last" && r.Err == nil })
}

// pageServer is set in the process that serves the pages of the benchmark, whose cost must not count as that of reading.
const pageServer = "WEIR_TEST_PAGE_SERVER"

func TestMain(m *testing.M) {
	if os.Getenv(pageServer) != "" {
		servePages()
		return
	}
	os.Exit(m.Run())
}
