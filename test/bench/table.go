package main

import (
	"fmt"
	"io"
	"strings"
)

// row is what a line of the table is made of.
type row struct{ cell, bare, floor *cell }

// column of a table. A text of "" is left empty.
type column struct {
	head  string
	width int
	text  func(r row) string
}

// Figures that columns show.
func perSecond(s *sample) float64 { return s.PerSecond }
func p50(s *sample) float64       { return s.Latency.P50 }
func p99(s *sample) float64       { return s.Latency.P99 }
func ttft(s *sample) float64      { return s.FirstByte.P50 }
func chunk50(s *sample) float64   { return s.Chunk.P50 }
func chunk99(s *sample) float64   { return s.Chunk.P99 }

// is shows the median of a figure.
func is(format string, f figure) func(row) string {
	return func(r row) string { return fmt.Sprintf(format, r.cell.medianOf(f)) }
}

// added shows by how much it is more than bare Envoy's.
func added(f figure) func(row) string {
	return func(r row) string {
		if r.bare == nil || r.bare == r.cell {
			return ""
		}
		return fmt.Sprintf("%+.0f", r.cell.against(r.bare, f, minus))
	}
}

// times shows a multiple of what another cell has.
func times(f figure, other func(row) *cell) func(row) string {
	return func(r row) string {
		o := other(r)
		if o == nil || o == r.cell {
			return ""
		}
		return fmt.Sprintf("%.2f", r.cell.against(o, f, ratio))
	}
}

func bareCell(r row) *cell  { return r.bare }
func floorCell(r row) *cell { return r.floor }

var (
	cpuColumns = []column{
		{"Envoy", 7, is("%.0f", func(s *sample) float64 { return s.CPU.Envoy })},
		{"other", 6, is("%.0f", func(s *sample) float64 { return s.CPU.Other })},
		{"x envoy", 8, times((*sample).gatewayCPU, bareCell)},
		{"x floor", 8, times((*sample).gatewayCPU, floorCell)},
	}
	askedColumns = []column{
		{"msgs", 6, is("%.2f", func(s *sample) float64 { return s.Messages })},
		{"KB", 7, is("%.1f", func(s *sample) float64 { return s.Bytes / 1024 })},
	}
	machineColumns = []column{
		{"load", 6, is("%.1f", func(s *sample) float64 { return s.LoadAverage })},
		{"others", 7, is("%.0f%%", func(s *sample) float64 { return 100 * s.Others })},
	}
	columnsOf = map[kind][]column{
		closedLoad: join([]column{{"req/s", 7, is("%.0f", perSecond)}, {"x floor", 8, times(perSecond, floorCell)}, {"p50", 8, is("%.0f", p50)}, {"p99", 8, is("%.0f", p99)}},
			cpuColumns, askedColumns, machineColumns),
		openLoad: join([]column{{"p50", 8, is("%.0f", p50)}, {"added", 8, added(p50)}, {"p99", 8, is("%.0f", p99)}, {"added", 8, added(p99)}},
			cpuColumns, askedColumns, machineColumns),
		pacedLoad: join([]column{{"TTFT", 7, is("%.0f", ttft)}, {"added", 8, added(ttft)}, {"event", 7, is("%.0f", chunk50)}, {"added", 8, added(chunk50)},
			{"p99", 7, is("%.0f", chunk99)}, {"added", 8, added(chunk99)}}, cpuColumns, askedColumns[:1], machineColumns),
		heldLoad: join([]column{
			{"Envoy KB", 9, is("%.1f", perStream(func(h *held) float64 { return float64(h.EnvoyBytes) / 1024 }))},
			{"other KB", 9, is("%.1f", perStream(func(h *held) float64 { return float64(h.OtherBytes) / 1024 }))},
			{"goroutines", 11, is("%.2f", perStream(func(h *held) float64 { return float64(h.Goroutines) }))},
			{"Envoy cores", 12, is("%.3f", func(s *sample) float64 { return s.Held.EnvoyCPU })},
			{"other cores", 12, is("%.3f", func(s *sample) float64 { return s.Held.OtherCPU })},
		}, machineColumns),
	}
)

func join(lists ...[]column) (out []column) {
	for _, l := range lists {
		out = append(out, l...)
	}
	return out
}

func perStream(f func(*held) float64) figure {
	return func(s *sample) float64 { return f(s.Held) / float64(s.Held.Streams) }
}

const legend = `  req/s         requests a second, and as a multiple of the floor's
  p50, p99      time of a request to the end of its answer; in an open loop from when it was due
  TTFT, event   median time to the first text of a stream, and of an event from the upstream to the caller
  added         against envoy
  Envoy, other  CPU time of a request: of Envoy, and of weir or the floor's processor; both as multiples of envoy's and the floor's
  msgs, KB      what Envoy sends weir for a request: messages of ext_proc, and everything, records of the access log included
  idle streams  memory for each that is open, and the cores that all of them keep busy
  load, others  average of the last minute, and the share of the machine that had nothing to do with this
`

// table writes the figures for people.
func (r *report) table(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "Medians of %d rounds with turns of %g s, on %d cores. Times are microseconds; ratios and differences are taken within rounds.\n%s",
		r.Rounds, r.Seconds, r.Machine.Cores, legend)
	for _, v := range variants {
		fmt.Fprintf(&b, "  %-12s  %s\n", v.name, v.what)
	}
	for _, o := range r.Outcomes {
		o.table(&b)
	}
	footprintTable(&b, r.Footprints)
	_, err := io.WriteString(w, b.String())
	return err
}

func (o *outcome) table(b *strings.Builder) {
	columns := columnsOf[o.Scenario.Kind]
	fmt.Fprintf(b, "\n%s%s\n  %-10s", o.Scenario.Name, o.lateness(), "")
	for _, c := range columns {
		fmt.Fprintf(b, "%*s", c.width, c.head)
	}
	b.WriteByte('\n')
	for _, c := range o.Cells {
		fmt.Fprintf(b, "  %-10s", c.Variant)
		for _, col := range columns {
			fmt.Fprintf(b, "%*s", col.width, col.text(row{c, o.cell(bareName), o.cell(floorName)}))
		}
		b.WriteByte('\n')
	}
	for _, c := range o.Cells {
		if scripts := c.medianOf(func(s *sample) float64 { return s.RedisScripts }); scripts > 0 {
			fmt.Fprintf(b, "  %s asks Redis %.3f times for a request, with %.3f commands and %.0f us of its CPU time\n", c.Variant, scripts,
				c.medianOf(func(s *sample) float64 { return s.RedisCommands }), c.medianOf(func(s *sample) float64 { return s.CPU.Redis }))
		}
	}
}

// lateness says how exact the load generator kept the time of an open loop; the median over everything.
func (o *outcome) lateness() string {
	if o.Scenario.Rate == 0 {
		return ""
	}
	var late []float64
	for _, c := range o.Cells {
		for i := range c.Samples {
			late = append(late, c.Samples[i].Late.P99)
		}
	}
	return fmt.Sprintf("; the generator was late by %.0f at p99", median(late))
}

func footprintTable(b *strings.Builder, list []footprint) {
	if len(list) == 0 {
		return
	}
	fmt.Fprintf(b, "\nstart-up in ms, and memory in MB before the first request and after the last\n  %-10s%9s%9s%12s%7s%12s%7s%12s\n", "",
		"Envoy", "ready", "idle: Envoy", "other", "end: Envoy", "other", "goroutines")
	for _, f := range list {
		ready, goroutines := "", ""
		if f.ReadyMillis > 0 {
			ready, goroutines = fmt.Sprintf("%.0f", f.ReadyMillis), fmt.Sprintf("%d to %d", f.Idle.Goroutines, f.Loaded.Goroutines)
		}
		fmt.Fprintf(b, "  %-10s%9.0f%9s%12.0f%7.0f%12.0f%7.0f%12s\n", f.Variant, f.LiveMillis, ready,
			mega(f.Idle.Envoy), mega(f.Idle.Other), mega(f.Loaded.Envoy), mega(f.Loaded.Other), goroutines)
	}
}

func mega(bytes int64) float64 { return float64(bytes) / (1 << 20) }
