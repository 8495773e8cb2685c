package simulate

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// column of the table.
type column struct {
	name   string
	metric Metric
	show   func(float64) string
}

// columns of reports.
func columns() []column {
	percent := func(v float64) string { return fmt.Sprintf("%.1f %%", v*100) }
	count := func(v float64) string { return fmt.Sprintf("%.0f", v) }
	return []column{
		{"TTFT p50", TTFTP50, seconds}, {"p90", TTFTP90, seconds}, {"p99", TTFTP99, seconds},
		{"ITL p50", ITLP50, seconds}, {"p99", ITLP99, seconds},
		{"tokens/s", Throughput, count}, {"failed", FailedPart, percent}, {"prefix hits", HitRate, percent}, {"weight changes", Changes, count},
	}
}

// seconds shows three digits.
func seconds(v float64) string {
	d := time.Duration(v * float64(time.Second))
	switch {
	case d == 0:
		return "-"
	case d < 100*time.Millisecond:
		return fmt.Sprintf("%.1f ms", v*1e3)
	case d < time.Second:
		return fmt.Sprintf("%.0f ms", v*1e3)
	case d < 10*time.Second:
		return fmt.Sprintf("%.2f s", v)
	}
	return fmt.Sprintf("%.1f s", v)
}

// maxShares is the largest pool whose shares are shown one by one.
const maxShares = 16

// WriteTable writes the report for the eye.
func (r *Report) WriteTable(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n", r.Name)
	if r.Description != "" {
		fmt.Fprintf(&b, "%s\n", strings.TrimSpace(r.Description))
	}
	fmt.Fprintf(&b, "%d seeds; figures are means over them\n\n", len(r.Seeds))
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprint(t, "policy")
	for _, c := range columns() {
		fmt.Fprint(t, "\t", c.name)
	}
	fmt.Fprintln(t, "\tshare per server, %")
	for _, s := range r.Summaries {
		fmt.Fprint(t, s.Policy)
		for _, c := range columns() {
			fmt.Fprint(t, "\t", c.show(s.Figures[c.metric]))
		}
		fmt.Fprintf(t, "\t%s\n", shares(s.Shares))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if len(r.Bars) > 0 {
		fmt.Fprintln(&b)
	}
	for _, v := range r.Bars {
		fmt.Fprintf(&b, "%s  %s\n", v.word(), v.sentence())
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func shares(values []float64) string {
	if len(values) > maxShares {
		low, high := values[0], values[0]
		for _, v := range values {
			low, high = min(low, v), max(high, v)
		}
		return fmt.Sprintf("%.1f to %.1f", low*100, high*100)
	}
	s := make([]string, len(values))
	for i, v := range values {
		s[i] = fmt.Sprintf("%.1f", v*100)
	}
	return strings.Join(s, " ")
}

func (v *Verdict) word() string {
	if v.Pass {
		return "PASS"
	}
	return "MISS"
}

func (v *Verdict) sentence() string {
	bound := ""
	if v.Max > 0 {
		bound = fmt.Sprintf("at most %.4g", v.Max)
	}
	if v.Min > 0 {
		bound = strings.TrimPrefix(bound+" and at least "+fmt.Sprintf("%.4g", v.Min), " and ")
	}
	show := func(f float64) string { return fmt.Sprintf("%.4g", f) }
	for _, c := range columns() {
		if c.metric == v.Metric {
			show = c.show
		}
	}
	return fmt.Sprintf("%s of %s / %s = %.3f, %s (%s against %s; worst seed %.3f)",
		v.Metric, v.Policy, v.Against, v.Ratio, bound, show(v.Value), show(v.AgainstValue), v.Worst)
}

// WriteJSON writes whole reports for programs.
func WriteJSON(w io.Writer, reports []*Report) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(map[string]any{"scenarios": reports})
}
