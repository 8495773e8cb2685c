package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"slices"
	"time"
)

// report is the JSON file.
type report struct {
	Time    time.Time `json:"time"`
	Cores   int       `json:"cores"`
	Go      string    `json:"go"`
	Envoy   string    `json:"envoyVersion,omitempty"`
	Clients int       `json:"clients"`
	// Debounce is how long, in milliseconds, everything must be quiet until the control plane hands a change on. It is in every time.
	Debounce float64           `json:"debounceMillis"`
	Kinds    map[string]string `json:"kinds"`
	Sizes    []*size           `json:"sizes"`
}

// debounce of the Kubernetes source. Nothing else waits: the sidecars' source hands on at once.
const debounce = 50

func newReport(o *options, b *build) *report {
	r := &report{Time: time.Now(), Cores: runtime.NumCPU(), Go: runtime.Version(), Clients: o.clients, Debounce: debounce, Kinds: map[string]string{}}
	if b.envoy.Path != "" {
		r.Envoy = b.envoy.Version.String()
	}
	for _, k := range changeKinds {
		r.Kinds[k.name] = k.what
	}
	return r
}

// save writes the report into a file; "" is none.
func (r *report) save(path string) error {
	if path == "" {
		return nil
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}

// line of the table: a figure for each size.
type line struct {
	name   string
	format string
	figure func(*size) float64 // NaN where there is none
}

// figure is one of a change; NaN where there is none.
type figure func(*change) float64

func clientsAcked(c *change) float64 { return orNone(c.Clients) }

func envoyAcked(name string) figure {
	return func(c *change) float64 { return orNone(c.Sidecars[name].Acked) }
}

func envoyBytes(name string) figure {
	return func(c *change) float64 { return float64(c.Sidecars[name].Bytes) }
}

func (r *report) clientBytes(c *change) float64 { return float64(c.Fleet.Bytes) / float64(r.Clients) }

func cpuOf(name string) figure {
	return func(c *change) float64 {
		if v, ok := c.CPU[name]; ok {
			return v
		}
		return math.NaN()
	}
}

// orNone takes zero for nothing.
func orNone(v float64) float64 {
	if v == 0 {
		return math.NaN()
	}
	return v
}

// over is a quantile of a figure over the changes of a kind; "" is every kind.
func over(kind string, q float64, f figure) func(*size) float64 {
	return func(s *size) float64 {
		var values []float64
		for _, c := range s.Changes {
			if v := f(c); (kind == "" || c.Kind == kind) && !math.IsNaN(v) {
				values = append(values, v)
			}
		}
		return quantile(values, q)
	}
}

// mean of a figure over all changes.
func mean(f figure) func(*size) float64 {
	return func(s *size) float64 {
		sum := 0.0
		for _, c := range s.Changes {
			sum += f(c)
		}
		return sum / float64(len(s.Changes))
	}
}

// quantile is the smallest value that at least the share q of all does not exceed.
func quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	slices.Sort(values)
	return values[max(0, int(math.Ceil(q*float64(len(values))))-1)]
}

func resident(name string) func(*size) float64 {
	return func(s *size) float64 {
		for _, p := range s.Processes {
			if p.Name == name {
				return float64(p.After) / (1 << 20)
			}
		}
		return math.NaN()
	}
}

func (r *report) lines() []line {
	processes := []string{nameControl, nameImitated, nameReal, nameEnvoy, nameAPIServer, nameEtcd}
	out := []line{
		{"PATCH at the API server alone, ms, p50", "%.0f", over("", .5, func(c *change) float64 { return c.Applied })},
		{"until all clients have acknowledged, ms, p50", "%.0f", over("", .5, clientsAcked)},
		{"  p99", "%.0f", over("", .99, clientsAcked)},
		{"until the imitation of Envoy has, ms, p50", "%.0f", over("", .5, envoyAcked(nameImitated))},
		{"  p99", "%.0f", over("", .99, envoyAcked(nameImitated))},
		{"until Envoy has, ms, p50", "%.0f", over("", .5, envoyAcked(nameReal))},
		{"  p99", "%.0f", over("", .99, envoyAcked(nameReal))},
		{"bytes to each client, mean", "%.0f", mean(r.clientBytes)},
		{"  p99", "%.0f", over("", .99, r.clientBytes)},
		{"bytes to an Envoy, mean", "%.0f", mean(envoyBytes(nameImitated))},
		{"  p99", "%.0f", over("", .99, envoyBytes(nameImitated))},
	}
	for _, name := range processes {
		out = append(out, line{"CPU of " + name + ", ms, p50", "%.1f", over("", .5, cpuOf(name))}, line{"  mean", "%.1f", mean(cpuOf(name))})
	}
	for _, name := range processes {
		out = append(out, line{"memory of " + name + ", MiB", "%.0f", resident(name)})
	}
	return append(out,
		line{"first set for a client, KiB", "%.0f", func(s *size) float64 { return float64(s.FirstBytes) / 1024 }},
		line{"first set for an Envoy, KiB", "%.0f", func(s *size) float64 { return float64(s.FirstToEnvoy.Bytes) / 1024 }},
		line{"statuses written for each change", "%.1f", func(s *size) float64 { return s.StatusesChanges / float64(len(s.Changes)) }},
		line{"load average before", "%.1f", func(s *size) float64 { return s.LoadBefore }},
		line{"load average after", "%.1f", func(s *size) float64 { return s.LoadAfter }},
	)
}

// kindLines are figures by kind of change.
func (r *report) kindLines(title, format string, f figure) []line {
	out := []line{{name: title}}
	for _, k := range changeKinds {
		out = append(out, line{"  " + k.name, format, over(k.name, .5, f)})
	}
	return out
}

// table writes what was measured, a column for each size, and how the largest compares with the smallest.
func (r *report) table(w io.Writer) error {
	lines := r.lines()
	lines = append(lines, r.kindLines("until all clients have acknowledged, ms, p50 by kind", "%.0f", clientsAcked)...)
	lines = append(lines, r.kindLines("until the imitation of Envoy has, ms, p50 by kind", "%.0f", envoyAcked(nameImitated))...)
	lines = append(lines, r.kindLines("bytes to each client, p50 by kind", "%.0f", r.clientBytes)...)
	lines = append(lines, r.kindLines("bytes to an Envoy, p50 by kind", "%.0f", envoyBytes(nameImitated))...)
	lines = append(lines, r.kindLines("CPU of weir control, ms, p50 by kind", "%.1f", cpuOf(nameControl))...)
	lines = append(lines, r.kindLines("CPU of weir serve, ms, p50 by kind", "%.1f", cpuOf(nameImitated))...)
	smallest, largest := slices.MinFunc(r.Sizes, byRoutes), slices.MaxFunc(r.Sizes, byRoutes)
	b := &printer{w: w}
	b.printf("%d clients; times include the debounce of %d ms\n\n%-54s", r.Clients, debounce, "routes")
	for _, s := range r.Sizes {
		b.printf("%10d", s.Routes)
	}
	b.printf("%10s\n", "ratio")
	for _, l := range lines {
		b.printf("%-54s", l.name)
		if l.figure == nil {
			b.printf("\n")
			continue
		}
		for _, s := range r.Sizes {
			b.printf("%10s", shown(l.format, l.figure(s)))
		}
		b.printf("%10s\n", shown("%.1f", l.figure(largest)/l.figure(smallest)))
	}
	return b.err
}

func byRoutes(a, b *size) int { return cmp.Compare(a.Routes, b.Routes) }

func shown(format string, v float64) string {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return ""
	}
	return fmt.Sprintf(format, v)
}

// printer keeps the first error.
type printer struct {
	w   io.Writer
	err error
}

func (p *printer) printf(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format, args...)
	}
}
