package gpu

import (
	"bytes"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

// pageType is the media type of the Prometheus text format.
const pageType = "text/plain; version=0.0.4; charset=utf-8"

// page writes metrics as Python's Prometheus client does: labels sorted, numbers as floats, and a time of creation for
// everything that only grows.
type page struct {
	bytes.Buffer
	labels  string // of every sample: engine="0",model_name="..."; "le" sorts between them
	model   string
	created float64 // seconds since 1970
}

func newPage(model string, created float64) *page {
	return &page{labels: `engine="0",model_name="` + escape(model) + `"`, model: escape(model), created: created}
}

func (p *page) head(name, help, kind string) {
	fmt.Fprintf(p, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
}

func (p *page) gauge(name, help string, v float64) {
	p.head(name, help, "gauge")
	fmt.Fprintf(p, "%s{%s} %s\n", name, p.labels, float(v))
}

func (p *page) counter(name, help string, v uint64) {
	p.head(name+"_total", help, "counter")
	fmt.Fprintf(p, "%s_total{%s} %s\n", name, p.labels, float(float64(v)))
	p.head(name+"_created", help, "gauge")
	fmt.Fprintf(p, "%s_created{%s} %s\n", name, p.labels, float(p.created))
}

func (p *page) counters(name, help, label string, values map[string]uint64) {
	p.head(name+"_total", help, "counter")
	for _, k := range slices.Sorted(maps.Keys(values)) {
		fmt.Fprintf(p, "%s_total{engine=\"0\",%s=%q,model_name=\"%s\"} %s\n", name, label, k, p.model, float(float64(values[k])))
	}
}

func (p *page) histogram(name, help string, h *histogram) {
	p.head(name, help, "histogram")
	sum := uint64(0)
	for i, n := range h.counts {
		bound := math.Inf(1)
		if i < len(h.bounds) {
			bound = h.bounds[i]
		}
		sum += n
		fmt.Fprintf(p, "%s_bucket{engine=\"0\",le=\"%s\",model_name=\"%s\"} %s\n", name, float(bound), p.model, float(float64(sum)))
	}
	fmt.Fprintf(p, "%s_count{%s} %s\n", name, p.labels, float(float64(sum)))
	fmt.Fprintf(p, "%s_sum{%s} %s\n", name, p.labels, float(h.sum))
	p.head(name+"_created", help, "gauge")
	fmt.Fprintf(p, "%s_created{%s} %s\n", name, p.labels, float(p.created))
}

// float is v as Python's Prometheus client spells it: 0.0, 0.25, 1e+06, +Inf.
func float(v float64) string {
	if math.IsInf(v, 1) {
		return "+Inf"
	}
	s := strconv.FormatFloat(v, 'g', -1, 64)
	if !strings.ContainsAny(s, ".eNI") {
		s += ".0"
	}
	return s
}

// escape is v as the value of a label.
func escape(v string) string {
	return strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`).Replace(v)
}
