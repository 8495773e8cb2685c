package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/weir-dev/weir/envoy"
	"github.com/weir-dev/weir/extproc/identity"
)

// someEnvoy answers /stats/prometheus as stats does, and /server_info.
func someEnvoy(t *testing.T, stats http.HandlerFunc) *envoy.Admin {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("/stats/prometheus", stats)
	mux.HandleFunc("/server_info", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"version": "d79f6e8d453ee260e9094093b8dd31af0056e67b/1.40.0/Clean/RELEASE/BoringSSL"}`)
	})
	socket := filepath.Join(t.TempDir(), "a.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: mux}
	go s.Serve(l) //nolint:errcheck // it ends with the test
	t.Cleanup(func() { s.Close() })
	return envoy.NewAdmin(socket)
}

// weirRegistry has one counter.
func weirRegistry() *prometheus.Registry {
	reg := prometheus.NewRegistry()
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: "weir_requests_total", Help: "Requests."})
	c.Add(3)
	reg.MustRegister(c)
	return reg
}

func families(t *testing.T, body io.Reader) map[string]*dto.MetricFamily {
	t.Helper()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	f, err := parser.TextToMetricFamilies(body)
	if err != nil {
		t.Fatalf("the page is not valid: %v", err)
	}
	return f
}

func write(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, text) } //nolint:errcheck // Weir went away
}

// TestMetricsPage: one valid page, whatever becomes of Envoy.
func TestMetricsPage(t *testing.T) {
	const good = "# TYPE envoy_a counter\nenvoy_a{x=\"1\"} 5\nenvoy_a{x=\"2\"} 6\n# TYPE envoy_b gauge\nenvoy_b 1\n"
	for _, c := range []struct {
		name    string
		stats   http.HandlerFunc // nil: there is no Envoy
		success float64
		envoy   map[string]int // families of Envoy, with the number of series
	}{
		{"all is well", write(good), 1, map[string]int{"envoy_a": 2, "envoy_b": 1}},
		{"nothing yet", write(""), 1, nil},
		{"empty lines", write("\n" + good + "\n\n"), 1, map[string]int{"envoy_a": 2, "envoy_b": 1}},
		{"help texts", write("# HELP envoy_a What # TYPE is.\n" + good), 1, map[string]int{"envoy_a": 2, "envoy_b": 1}},
		{"a family twice", write(good + "# TYPE envoy_a counter\nenvoy_a{x=\"1\"} 7\n"), 1, map[string]int{"envoy_a": 2, "envoy_b": 1}},
		{"a family of Weir's", write("# TYPE weir_requests_total counter\nweir_requests_total 99\n" + good), 1, map[string]int{"envoy_a": 2, "envoy_b": 1}},
		{"a series of no family", write("envoy_c 1\n" + good), 1, map[string]int{"envoy_a": 2, "envoy_b": 1}},
		{"ends in a line", write(good + "envoy_b{x=\"unfin"), 0, map[string]int{"envoy_a": 2, "envoy_b": 1}},
		{"an endless line", write(good + "envoy_b{x=\"" + strings.Repeat("x", maxStatLine)), 0, map[string]int{"envoy_a": 2, "envoy_b": 1}},
		{"an error", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusServiceUnavailable) }, 0, nil},
		{"breaks off", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000000")
			io.WriteString(w, good) //nolint:errcheck // Weir went away
		}, 0, map[string]int{"envoy_a": 2, "envoy_b": 1}},
		{"no Envoy", nil, 0, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			var admin *envoy.Admin
			if c.stats != nil {
				admin = someEnvoy(t, c.stats)
			}
			var log bytes.Buffer
			h := newMetricsHandler(weirRegistry(), func() *envoy.Admin { return admin }, slog.New(slog.NewTextHandler(&log, nil)))
			for range 2 {
				w := httptest.NewRecorder()
				h.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
				if got := w.Header().Get("Content-Type"); !strings.HasPrefix(got, "text/plain; version=0.0.4") {
					t.Errorf("content-type %q", got)
				}
				got := families(t, w.Body)
				if v := got["weir_requests_total"].GetMetric()[0].GetCounter().GetValue(); v != 3 {
					t.Errorf("Weir's own counter is %v, want 3", v)
				}
				if v := got["weir_envoy_scrape_success"].GetMetric()[0].GetGauge().GetValue(); v != c.success {
					t.Errorf("weir_envoy_scrape_success is %v, want %v", v, c.success)
				}
				if info := got["weir_envoy_info"]; (info != nil) != (c.success == 1) || info != nil && info.GetMetric()[0].GetLabel()[0].GetValue() != "1.40.0" {
					t.Errorf("weir_envoy_info: %v", info)
				}
				for name, f := range got {
					if n, ok := c.envoy[name]; strings.HasPrefix(name, "envoy_") && (!ok || n != len(f.GetMetric())) {
						t.Errorf("%s has %d series, want %d", name, len(f.GetMetric()), n)
					}
				}
				for name := range c.envoy {
					if got[name] == nil {
						t.Errorf("%s is missing", name)
					}
				}
			}
			if told := strings.Count(log.String(), "\n"); told != 1-int(c.success) {
				t.Errorf("%d lines in the log, want %d: %s", told, 1-int(c.success), &log)
			}
		})
	}
}

// TestMetricsPageOfNobody: who does not wait for the page says nothing of Envoy.
func TestMetricsPageOfNobody(t *testing.T) {
	ctx, leave := context.WithCancel(t.Context())
	admin := someEnvoy(t, func(_ http.ResponseWriter, r *http.Request) {
		leave()
		<-r.Context().Done()
	})
	var log bytes.Buffer
	h := newMetricsHandler(weirRegistry(), func() *envoy.Admin { return admin }, slog.New(slog.NewTextHandler(&log, nil)))
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/metrics", nil).WithContext(ctx))
	if log.Len() > 0 {
		t.Errorf("the log says %s", &log)
	}
}

// TestMetricsPageOfHungEnvoy: it costs whoever asks a while, and nothing else.
func TestMetricsPageOfHungEnvoy(t *testing.T) {
	asked := make(chan struct{})
	admin := someEnvoy(t, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "# TYPE envoy_a counter\nenvoy_a 5\n") //nolint:errcheck // Weir went away
		w.(http.Flusher).Flush()
		asked <- struct{}{}
		<-r.Context().Done()
	})
	h := newMetricsHandler(weirRegistry(), func() *envoy.Admin { return admin }, slog.New(slog.DiscardHandler))
	ctx, enough := context.WithCancel(t.Context())
	defer enough()
	pages := make(chan *httptest.ResponseRecorder, 2)
	page := func() {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(ctx, "GET", "/metrics", nil))
		pages <- w
	}
	go page()
	<-asked
	go page() // this one does not reach Envoy while the first has it
	enough()
	seen := 0
	for range 2 {
		got := families(t, (<-pages).Body)
		if got["weir_requests_total"] == nil || got["weir_envoy_scrape_success"].GetMetric()[0].GetGauge().GetValue() != 0 {
			t.Errorf("the page has %v", got)
		}
		if got["envoy_a"] != nil {
			seen++
		}
	}
	if seen > 1 {
		t.Errorf("Envoy was asked by both at once")
	}
}

func TestMetricsPageWithoutEnvoy(t *testing.T) {
	h := newMetricsHandler(weirRegistry(), func() *envoy.Admin { t.Error("Envoy was asked"); return nil }, slog.New(slog.DiscardHandler))
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/metrics?envoy=false", nil))
	if got := families(t, w.Body); len(got) != 1 || got["weir_requests_total"] == nil {
		t.Errorf("the page has %v", got)
	}
}

// TestMetricsPageOfHugeEnvoy: what is too much is left out, at the end of a line.
func TestMetricsPageOfHugeEnvoy(t *testing.T) {
	line := "envoy_a{x=\"" + strings.Repeat("x", 60<<10) + "\"} 1\n"
	var in strings.Builder
	in.WriteString("# TYPE envoy_a counter\n")
	for in.Len() < maxEnvoyScrape+1 {
		in.WriteString(line)
	}
	var out strings.Builder
	n, err := copyStats(&out, strings.NewReader(in.String()))
	if err == nil || !strings.Contains(err.Error(), "larger than 64 MiB") {
		t.Errorf("error %v", err)
	}
	if n != out.Len() || n > maxEnvoyScrape || n < maxEnvoyScrape-len(line) || !strings.HasSuffix(out.String(), "1\n") {
		t.Errorf("%d bytes are said to be written, %d were", n, out.Len())
	}
}

func TestMetricsPageIsCompressed(t *testing.T) {
	admin := someEnvoy(t, write("# TYPE envoy_a counter\nenvoy_a 5\n"))
	h := newMetricsHandler(weirRegistry(), func() *envoy.Admin { return admin }, slog.New(slog.DiscardHandler))
	for accept, compressed := range map[string]bool{
		"": false, "gzip": true, "deflate, GZIP;q=0.5": true, "gzip;q=0": false, "gzip; q=0.000": false, "br": false, "gzipped": false,
	} {
		r := httptest.NewRequest("GET", "/metrics", nil)
		r.Header.Set("Accept-Encoding", accept)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		body := io.Reader(w.Body)
		if got := w.Header().Get("Content-Encoding") == "gzip"; got != compressed {
			t.Errorf("accept-encoding %q: compressed %v", accept, got)
			continue
		}
		if compressed {
			z, err := gzip.NewReader(body)
			if err != nil {
				t.Fatal(err)
			}
			body = z
		}
		if got := families(t, body); got["weir_requests_total"] == nil || got["envoy_a"] == nil {
			t.Errorf("accept-encoding %q: the page has %v", accept, got)
		}
	}
}

// FuzzCopyStats: whatever comes from Envoy, only lines of families of Envoy's are passed on, each family once.
func FuzzCopyStats(f *testing.F) {
	f.Add("# TYPE envoy_a counter\nenvoy_a{x=\"1\"} 5\n\n# TYPE envoy_b gauge\nenvoy_b 1\n# TYPE envoy_a counter\nenvoy_a 1\n")
	f.Add("# HELP weir_x y\n# TYPE weir_x counter\nweir_x 1\nenvoy_a 1\n# TYPE \n1")
	f.Fuzz(func(t *testing.T, in string) {
		var out strings.Builder
		n, err := copyStats(&out, strings.NewReader(in))
		if n != out.Len() {
			t.Errorf("%d bytes are said to be written, %d were", n, out.Len())
		}
		if err != nil && n > 0 && !strings.HasSuffix(out.String(), "\n") {
			t.Errorf("the copy ends in a line: %q", out.String())
		}
		described := map[string]bool{}
		for line := range strings.Lines(out.String()) {
			if name, ok := strings.CutPrefix(line, "# TYPE "); ok {
				name, _, _ = strings.Cut(strings.TrimSpace(name), " ")
				described[name] = true
			}
			name := strings.TrimPrefix(strings.TrimPrefix(line, "# TYPE "), "# HELP ")
			if !strings.HasPrefix(name, "envoy_") {
				t.Errorf("the copy of %q has the line %q", in, line)
			}
		}
	})
}

// TestSigningKeyMetrics: addresses that look alike without their secrets are one series, of the one that fails.
func TestSigningKeyMetrics(t *testing.T) {
	ch := make(chan prometheus.Metric, 16)
	signingKeys(exporter(ch), []identity.SourceState{
		{URL: "https://user:secret@id.example/keys?token=secret", Keys: 2, Attempted: time.Unix(1000, 0), UsableTo: time.Unix(1000, 0)},
		{URL: "https://id.example/keys?token=other", Keys: 1, Attempted: time.Unix(1000, 0), Err: "refused"},
	})
	close(ch)
	var got []string
	for m := range ch {
		var d dto.Metric
		if err := m.Write(&d); err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprint(d.GetLabel()[0].GetValue(), " ", d.GetGauge().GetValue()))
	}
	if want := []string{"https://id.example/keys 1", "https://id.example/keys 0"}; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
