package main

import (
	"bytes"
	"encoding/json"
	"math"
	"os"
	"strings"
	"testing"
)

func readReport(t *testing.T, path string) *report {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	r := &report{}
	if err := json.Unmarshal(text, r); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestQuantile(t *testing.T) {
	values := []float64{5, 1, 4, 2, 3}
	for q, want := range map[float64]float64{.5: 3, .99: 5, .2: 1, .21: 2} {
		if got := quantile(values, q); got != want {
			t.Errorf("quantile %v: %v, want %v", q, got, want)
		}
	}
	if got := quantile(nil, .5); !math.IsNaN(got) {
		t.Errorf("of nothing: %v", got)
	}
}

// sample is a size whose changes cost as much as times says.
func sample(routes int, times float64) *size {
	s := &size{Routes: routes, Backends: routes / 10, FirstBytes: int64(routes) * 1024, Processes: []*processUsage{{Name: nameControl, After: int64(routes) << 20}}}
	for _, kind := range changeKinds {
		c := &change{Kind: kind.name, Applied: 5, Clients: 60 * times, Fleet: pushed{Bytes: 400, Resources: 2, Responses: 2}, CPU: map[string]float64{nameControl: 7 * times},
			Sidecars: map[string]envoyTaken{nameImitated: {}}}
		if kind.told {
			c.Sidecars[nameImitated] = envoyTaken{Acked: 80 * times, pushed: pushed{Bytes: 1000, Resources: 1, Responses: 1}}
		}
		s.Changes = append(s.Changes, c)
	}
	return s
}

func TestTable(t *testing.T) {
	r := &report{Clients: 2, Sizes: []*size{sample(100, 1), sample(1000, 2)}}
	var b bytes.Buffer
	if err := r.table(&b); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	title := ""
	for line := range strings.Lines(b.String()) {
		name, figures := line[:min(len(line), 54)], line[min(len(line), 54):]
		if !strings.HasPrefix(name, " ") {
			title = strings.TrimSpace(name)
		}
		if name = strings.TrimSpace(name); name != title {
			name = title + "/" + name
		}
		got[name] = strings.Join(strings.Fields(figures), " ")
	}
	for name, want := range map[string]string{
		"routes": "100 1000 ratio",
		"until all clients have acknowledged, ms, p50":               "60 120 2.0",
		"until all clients have acknowledged, ms, p50/p99":           "60 120 2.0",
		"until the imitation of Envoy has, ms, p50":                  "80 160 2.0",
		"until Envoy has, ms, p50":                                   "", // there is none
		"bytes to each client, mean":                                 "200 200 1.0",
		"CPU of weir control, ms, p50":                               "7.0 14.0 2.0",
		"memory of weir control, MiB":                                "100 1000 10.0",
		"first set for a client, KiB":                                "100 1000 10.0",
		"until the imitation of Envoy has, ms, p50 by kind/weight":   "80 160 2.0",
		"until the imitation of Envoy has, ms, p50 by kind/model":    "", // Envoy is not told
		"until all clients have acknowledged, ms, p50 by kind/model": "60 120 2.0",
	} {
		if text, there := got[name]; !there || text != want {
			t.Errorf("%s: %q, want %q", name, text, want)
		}
	}
}
