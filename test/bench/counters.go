package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// asked is what an Envoy has sent to what it asks, as it counts itself.
type asked struct {
	messages int64 // of ext_proc, at the door and for attempts
	bytes    int64 // of all kinds: ext_proc, access-log records, and a little that comes by time
}

const askedFilter = `(ext_proc\.stream_msgs_sent|^cluster\.(weir_extproc|processor)\.upstream_cx_tx_bytes_total)$`

func (g *gateway) asked(ctx context.Context) (asked, error) {
	stats, err := g.admin.Stats(ctx, askedFilter)
	if err != nil {
		return asked{}, fmt.Errorf("Envoy does not say what it has asked: %w", err)
	}
	return askedOf(stats), nil
}

func askedOf(stats map[string]uint64) (a asked) {
	for name, n := range stats {
		if strings.HasSuffix(name, "_bytes_total") {
			a.bytes += int64(n)
		} else {
			a.messages += int64(n)
		}
	}
	return a
}

// goroutines of the gateway's Weir; 0 where there is none.
func (g *gateway) goroutines(ctx context.Context) (int, error) {
	if g.metrics == "" {
		return 0, nil
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, g.metrics, nil)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, fmt.Errorf("weir does not show its metrics: %w", err)
	}
	defer resp.Body.Close()
	return goroutinesOf(resp.Body)
}

// goroutinesOf reads go_goroutines out of metrics in Prometheus' text format.
func goroutinesOf(r io.Reader) (int, error) {
	s := bufio.NewScanner(r)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		if value, ok := strings.CutPrefix(s.Text(), "go_goroutines "); ok {
			n, err := strconv.ParseFloat(value, 64)
			return int(n), err
		}
	}
	if err := s.Err(); err != nil {
		return 0, err
	}
	return 0, fmt.Errorf("weir's metrics have no go_goroutines")
}

// redisCalls are how often each command was called.
func (g *gateway) redisCalls(ctx context.Context) (map[string]int64, error) {
	if g.redis == nil {
		return nil, nil
	}
	text, err := g.redis.Info(ctx, "commandstats").Result()
	if err != nil {
		return nil, fmt.Errorf("Redis does not say what it has done: %w", err)
	}
	return commandCalls(text)
}

// commandCalls reads how often each command was called out of INFO commandstats, whose lines are
// "cmdstat_get:calls=1,usec=2,...". INFO itself is left out: only the benchmark uses it.
func commandCalls(text string) (map[string]int64, error) {
	out := map[string]int64{}
	for line := range strings.Lines(text) {
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), "cmdstat_")
		if !ok {
			continue
		}
		name, stats, _ := strings.Cut(rest, ":")
		calls, _, _ := strings.Cut(strings.TrimPrefix(stats, "calls="), ",")
		n, err := strconv.ParseInt(calls, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("INFO commandstats cannot be read: %q", line)
		}
		if name != "info" {
			out[name] = n
		}
	}
	return out, nil
}
