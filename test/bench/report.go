package main

import (
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"strings"
	"time"
)

// report is the JSON file.
type report struct {
	Time     time.Time         `json:"time"`
	Machine  machine           `json:"machine"`
	Envoy    string            `json:"envoyVersion"`
	Rounds   int               `json:"rounds"`
	Seconds  float64           `json:"secondsPerRound"`
	Variants map[string]string `json:"variants"` // name to description
	Outcomes []*outcome        `json:"scenarios"`
}

type machine struct {
	Cores int    `json:"cores"`
	OS    string `json:"os"`
	Arch  string `json:"arch"`
	Go    string `json:"go"`
}

func cores() int { return runtime.NumCPU() }

// write writes the report as JSON.
func (r *report) write(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}

// summary is a cell in figures: medians over its rounds.
type summary struct {
	perSecond, p50, p99, envoy, weir, scripts, commands, load, others float64
	first, before                                                     difference
}

// difference of a cell to another one: medians of what differs, round by round.
type difference struct{ p50, p99, ratio50, ratio99, ratioCPU float64 }

// medianOf is the median of a figure over the rounds.
func (c *cell) medianOf(figure func(*sample) float64) float64 {
	values := make([]float64, len(c.Samples))
	for i := range c.Samples {
		values[i] = figure(&c.Samples[i])
	}
	return median(values)
}

func (c *cell) summary(first, before *cell) summary {
	return summary{
		perSecond: c.medianOf(func(s *sample) float64 { return s.PerSecond }),
		p50:       c.medianOf(func(s *sample) float64 { return s.Latency.P50 }),
		p99:       c.medianOf(func(s *sample) float64 { return s.Latency.P99 }),
		envoy:     c.medianOf(func(s *sample) float64 { return s.CPU.Envoy }),
		weir:      c.medianOf(func(s *sample) float64 { return s.CPU.Weir }),
		scripts:   c.medianOf(func(s *sample) float64 { return s.RedisScripts }),
		commands:  c.medianOf(func(s *sample) float64 { return s.RedisCommands }),
		load:      c.medianOf(func(s *sample) float64 { return s.LoadAverage }),
		others:    c.medianOf(func(s *sample) float64 { return s.Others }),
		first:     c.against(first), before: c.against(before),
	}
}

// gatewayCPU is what Envoy and Weir use together, in microseconds for a request.
func (s *sample) gatewayCPU() float64 { return s.CPU.Envoy + s.CPU.Weir }

func (c *cell) against(other *cell) difference {
	var p50, p99, ratio50, ratio99, ratioCPU []float64
	for i := range c.Samples {
		a, b := &c.Samples[i].Latency, &other.Samples[i].Latency
		p50, p99 = append(p50, a.P50-b.P50), append(p99, a.P99-b.P99)
		ratio50, ratio99 = append(ratio50, a.P50/b.P50), append(ratio99, a.P99/b.P99)
		ratioCPU = append(ratioCPU, c.Samples[i].gatewayCPU()/other.Samples[i].gatewayCPU())
	}
	return difference{median(p50), median(p99), median(ratio50), median(ratio99), median(ratioCPU)}
}

// The columns of the table.
const (
	headFormat = "  %-7s %7s %7s %7s  %16s %18s  %16s  %11s  %15s  %5s %6s\n"
	rowFormat  = "  %-7s %7.0f %7.0f %7.0f  %16s %18s  %16s  %11s  %15s  %5.2f %6s\n"
)

// table writes the figures for people.
func (r *report) table(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, `Medians of %d rounds of %g s on %d cores; the open loop takes twice as long. Times are microseconds.
  added    to p50 and p99 against the first row, and (added) against the row in parentheses below
  times    p50, p99 and CPU of the first row
  CPU      microseconds for a request: Envoy, Weir
  Redis    for a request: scripts (each is a round trip), and commands, those in scripts included
  load     average of the last minute; others: share of the machine that had nothing to do with this
`, r.Rounds, r.Seconds, r.Machine.Cores)
	for i, v := range variants {
		fmt.Fprintf(&b, "  %-8s %s", v.name, v.what)
		if i > 0 {
			fmt.Fprintf(&b, " (%s)", variants[v.before].name)
		}
		b.WriteByte('\n')
	}
	for _, o := range r.Outcomes {
		fmt.Fprintf(&b, "\n%s%s\n", o.Scenario.Name, o.lateness())
		fmt.Fprintf(&b, headFormat, "", "req/s", "p50", "p99", "added", "times", "(added)", "CPU", "Redis", "load", "others")
		for i, c := range o.Cells {
			s := c.summary(o.Cells[0], o.Cells[variants[i].before])
			var added, times, before, redis string
			cpu := fmt.Sprintf("%.0f %4s", s.envoy, "")
			if i > 0 {
				added, before = s.first.String(), s.before.String()
				times = fmt.Sprintf("%.2f %6.2f %5.1f", s.first.ratio50, s.first.ratio99, s.first.ratioCPU)
				cpu = fmt.Sprintf("%.0f %4.0f", s.envoy, s.weir)
			}
			if variants[i].redis {
				redis = fmt.Sprintf("%.4f %8.4f", s.scripts, s.commands)
			}
			fmt.Fprintf(&b, rowFormat, c.Variant, s.perSecond, s.p50, s.p99, added, times, before, cpu, redis, s.load, fmt.Sprintf("%.0f%%", 100*s.others))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
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

func (d difference) String() string { return fmt.Sprintf("%+.0f %+8.0f", d.p50, d.p99) }
