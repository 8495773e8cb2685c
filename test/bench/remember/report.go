package main

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// report is everything that was measured.
type report struct {
	Requests     int           `json:"requests"`
	Prompts      int           `json:"prompts"`
	Exponent     float64       `json:"zipf"`
	Callers      int           `json:"callers"`
	Load         float64       `json:"load"` // average of the last minute, at the end
	Workloads    []workload    `json:"workloads"`
	Stampedes    []stampede    `json:"stampedes"`
	Penetrations []penetration `json:"penetrations"`
}

// table prints it for people.
func (r *report) table(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	line := func(format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) } // Flush says what failed
	line("%d requests of %d prompts, Zipf %.4g, %d callers; load %.1f", r.Requests, r.Prompts, r.Exponent, r.Callers, r.Load)
	line("caching\thits\tideal\tbought\ttokens\tcost\trequests/s\thit p50 ms\tp99\tmiss p50 ms\tp99\t")
	for _, x := range r.Workloads {
		line("%s\t%.2f %%\t%.2f %%\t%d\t%d\t%s\t%.0f\t%.2f\t%.2f\t%.2f\t%.2f\t", x.Way, 100*x.Hits, 100*x.Ideal, x.Upstream, x.Tokens, x.Cost, x.PerSecond,
			x.Hit.P50, x.Hit.P99, x.Miss.P50, x.Miss.P99)
	}
	line("")
	line("equal requests at once\trequests\tbought\tp50 ms\tp99\tmax\t")
	for _, x := range r.Stampedes {
		line("%s\t%d\t%d\t%.0f\t%.0f\t%.0f\t", x.Kind, x.Requests, x.Upstream, x.Took.P50, x.Took.P99, x.Took.Max)
	}
	line("")
	line("never cached\trequests\tGETs of Redis\ta request\tconfigured\thits of %d afterwards\trequests/s\t", cachedKeys)
	for _, x := range r.Penetrations {
		line("%s\t%d\t%d\t%.4f\t%.4g\t%d\t%.0f\t", x.Way, x.Requests, x.Gets, x.Share, x.Configured, x.Again, x.PerSecond)
	}
	return w.Flush()
}
