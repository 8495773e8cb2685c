package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"

	"github.com/weir-dev/weir/console"
	"github.com/weir-dev/weir/envoy"
)

const (
	// envoyScrapeTimeout is how long Envoy may take for its statistics. It is below the 10 s that Prometheus waits for all of them, and
	// above the second for which a large configuration may hold Envoy's main thread.
	envoyScrapeTimeout = 4 * time.Second
	// maxEnvoyScrape bounds Envoy's statistics, in bytes: some tens of thousands of series for each of a thousand clusters.
	maxEnvoyScrape = 64 << 20
	// maxStatLine bounds a line of them.
	maxStatLine = 64 << 10
	// scrapeTimeout is how long whoever asks for metrics may take to read them.
	scrapeTimeout = 30 * time.Second
)

// metricsHandler serves what Weir counts and what Envoy counts as one page, in Prometheus's text format 0.0.4, which every
// scraper reads. Without Envoy it serves what Weir counts.
type metricsHandler struct {
	weir  prometheus.Gatherer
	envoy func() *envoy.Admin // may return nil
	log   *slog.Logger
	// turn is held by who asks Envoy: its main thread answers, and has other things to do.
	turn chan struct{}

	mu      sync.Mutex
	version string // of the Envoy that answered last; "" is to be asked for
	failed  bool   // the last time, for the log
}

func newMetricsHandler(weir prometheus.Gatherer, admin func() *envoy.Admin, log *slog.Logger) *metricsHandler {
	return &metricsHandler{weir: weir, envoy: admin, log: log, turn: make(chan struct{}, 1)}
}

// ServeHTTP implements http.Handler.
func (h *metricsHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	families, err := h.weir.Gather()
	if err != nil {
		h.log.Error("some metrics cannot be exported; the others are", "error", err)
	}
	format := expfmt.NewFormat(expfmt.TypeTextPlain)
	w.Header().Set("Content-Type", string(format))
	w.Header().Add("Vary", "Accept-Encoding")
	// What cannot be set is the deadline of a connection that is none, in tests.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(scrapeTimeout))
	out := io.Writer(w)
	if console.AcceptsGzip(r.Header) {
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		defer z.Close() // who asked went away, if this fails
		out = z
	}
	b := bufio.NewWriterSize(out, 64<<10)
	enc := expfmt.NewEncoder(b, format)
	for _, f := range families {
		if err := enc.Encode(f); err != nil {
			return // who asked went away
		}
	}
	if r.URL.Query().Get("envoy") != "false" { // for those who scrape Envoy itself
		began := time.Now()
		n, err := h.addEnvoy(r.Context(), b)
		if r.Context().Err() == nil { // else who asked went away, which says nothing of Envoy
			h.note(err)
		}
		h.describe(b, n, time.Since(began), err == nil)
	}
	_ = b.Flush() // who asked went away, if this fails
}

// errNoEnvoy says that there is nobody to ask.
var errNoEnvoy = errors.New("there is no Envoy")

// addEnvoy writes Envoy's statistics, as far as they come, and says how many bytes those are. It writes whole lines only.
func (h *metricsHandler) addEnvoy(ctx context.Context, w io.Writer) (int, error) {
	admin := h.envoy()
	if admin == nil {
		return 0, errNoEnvoy
	}
	ctx, cancel := context.WithTimeout(ctx, envoyScrapeTimeout)
	defer cancel()
	select {
	case h.turn <- struct{}{}:
		defer func() { <-h.turn }()
	case <-ctx.Done():
		return 0, errors.New("Envoy is still being asked for others")
	}
	body, err := admin.Prometheus(ctx)
	if err != nil {
		return 0, err
	}
	defer body.Close()
	n, err := copyStats(w, body)
	if err != nil {
		return n, err
	}
	h.mu.Lock()
	known := h.version != ""
	h.mu.Unlock()
	if !known {
		v, err := admin.Version(ctx)
		if err != nil {
			return n, err
		}
		h.mu.Lock()
		h.version = v.String()
		h.mu.Unlock()
	}
	return n, nil
}

// copyStats copies families whose names begin with envoy_, each once. Envoy has no others, but names that it was not asked for must
// not make the whole page invalid.
func copyStats(w io.Writer, r io.Reader) (written int, err error) {
	in := bufio.NewReaderSize(r, maxStatLine)
	seen, wanted, family := map[string]bool{}, false, ""
	for {
		line, err := in.ReadSlice('\n')
		switch {
		case errors.Is(err, io.EOF) && len(line) == 0:
			return written, nil
		case errors.Is(err, io.EOF):
			return written, errors.New("Envoy's statistics end in the middle of a line")
		case err != nil:
			return written, fmt.Errorf("Envoy's statistics cannot be read to their end: %w", err)
		}
		if name, ok := described(line); ok {
			if name != family {
				wanted = strings.HasPrefix(name, "envoy_") && !seen[name]
				family = name
				seen[name] = true
			}
		} else if !bytes.HasPrefix(line, []byte(family)) {
			continue // an empty line, or a series of no family
		}
		if !wanted {
			continue
		}
		if written += len(line); written > maxEnvoyScrape {
			return written - len(line), fmt.Errorf("Envoy's statistics are larger than %d MiB", maxEnvoyScrape>>20)
		}
		if _, err := w.Write(line); err != nil {
			return written, err
		}
	}
}

// described is the family that a line describes: "# TYPE name counter", "# HELP name text".
func described(line []byte) (name string, ok bool) {
	rest, ok := bytes.CutPrefix(line, []byte("# TYPE "))
	if !ok {
		if rest, ok = bytes.CutPrefix(line, []byte("# HELP ")); !ok {
			return "", false
		}
	}
	first, _, _ := bytes.Cut(bytes.TrimRight(rest, "\n"), []byte(" "))
	return string(first), true
}

// note logs when Envoy's statistics are lost and when they are back.
func (h *metricsHandler) note(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err != nil {
		h.version = "" // the next may be another
	}
	switch failed := err != nil; {
	case failed && !h.failed:
		h.log.Warn("/metrics is without Envoy's statistics", "error", err)
	case !failed && h.failed:
		h.log.Info("/metrics has Envoy's statistics again")
	}
	h.failed = err != nil
}

// describe writes how it went.
func (h *metricsHandler) describe(w io.Writer, n int, took time.Duration, ok bool) {
	success := 0
	if ok {
		success = 1
	}
	gauge := func(name, help, labels string, value any) {
		fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s gauge\n%s%s %v\n", name, help, name, name, labels, value)
	}
	gauge("weir_envoy_scrape_success", "1 if all of Envoy's own metrics are on this page.", "", success)
	gauge("weir_envoy_scrape_duration_seconds", "Time that it took to get them.", "", took.Seconds())
	gauge("weir_envoy_scrape_size_bytes", "Bytes of them.", "", n)
	h.mu.Lock()
	version := h.version
	h.mu.Unlock()
	if version != "" {
		gauge("weir_envoy_info", "The Envoy that serves.", fmt.Sprintf("{version=%q}", version), 1)
	}
}
