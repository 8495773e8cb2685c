package simulate

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"strconv"
	"strings"

	"github.com/go-analyze/charts"
)

//go:embed report.html.tmpl
var pageText string

// page is one report as the template wants it.
type page struct {
	*Report
	Columns []string
	Rows    []row
	Verdict []verdict
	Charts  []chart
}

type row struct {
	Policy string
	Cells  []string
}

type verdict struct {
	Word, Sentence string
	Pass           bool
}

// chart is drawn twice, and the page shows the one that fits.
type chart struct {
	Title, Note string
	Light, Dark template.HTML
}

// WriteHTML writes a page that needs nothing else: tables, bars, and charts over time of the first seed.
func WriteHTML(w io.Writer, reports []*Report) error {
	t, err := template.New("report").Parse(pageText)
	if err != nil {
		return err
	}
	var pages []page
	for _, r := range reports {
		p, err := r.page()
		if err != nil {
			return err
		}
		pages = append(pages, p)
	}
	return t.Execute(w, pages)
}

func (r *Report) page() (page, error) {
	p := page{Report: r}
	for _, c := range columns() {
		p.Columns = append(p.Columns, c.name)
	}
	for _, s := range r.Summaries {
		cells := row{Policy: s.Policy}
		for _, c := range columns() {
			cells.Cells = append(cells.Cells, c.show(s.Figures[c.metric]))
		}
		cells.Cells = append(cells.Cells, shares(s.Shares))
		p.Rows = append(p.Rows, cells)
	}
	for i := range r.Bars {
		v := &r.Bars[i]
		p.Verdict = append(p.Verdict, verdict{v.word(), v.sentence(), v.Pass})
	}
	lines := func(title, note, unit string, get func(*Timeline) []float64) error {
		var names []string
		var data [][]float64
		for i := range r.Summaries {
			names, data = append(names, r.Summaries[i].Policy), append(data, get(&r.Results[i][0].Series))
		}
		return p.draw(title, note, unit, r.Results[0][0].Bin, names, data)
	}
	err := lines("Time to first token, p99", "Seconds, by when requests arrived.", "s", func(t *Timeline) []float64 { return t.TTFTP99 })
	if err == nil {
		err = lines("Time to first token, median", "Seconds, by when requests arrived.", "s", func(t *Timeline) []float64 { return t.TTFTP50 })
	}
	if err == nil {
		err = lines("Throughput", "Generated tokens a second.", "", func(t *Timeline) []float64 { return t.Throughput })
	}
	for i := range r.Summaries {
		weights := r.Results[i][0].Series.Weights
		if err != nil || weights == nil || len(weights) > maxShares {
			continue
		}
		names := make([]string, len(weights))
		for server := range names {
			names[server] = "server " + strconv.Itoa(server)
		}
		err = p.draw("Weights: "+r.Summaries[i].Policy, "1 is the base weight of the server.", "", r.Results[i][0].Bin, names, weights)
	}
	return p, err
}

const (
	chartWidth  = 960
	chartHeight = 320
)

// draw adds a chart of values over time. Values below 0 are gaps.
func (p *page) draw(title, note, unit string, bin float64, names []string, data [][]float64) error {
	c := chart{Title: title, Note: note}
	for theme, out := range map[string]*template.HTML{charts.ThemeVividLight: &c.Light, charts.ThemeVividDark: &c.Dark} {
		svg, err := drawLines(theme, unit, bin, names, data)
		if err != nil {
			return fmt.Errorf("chart %q: %w", title, err)
		}
		*out = svg
	}
	p.Charts = append(p.Charts, c)
	return nil
}

func drawLines(theme, unit string, bin float64, names []string, data [][]float64) (template.HTML, error) {
	values := make([][]float64, len(data))
	length, highest := 0, 0.0
	for i, line := range data {
		values[i] = make([]float64, len(line))
		length = max(length, len(line))
		for j, v := range line {
			if values[i][j] = v; v < 0 {
				values[i][j] = charts.GetNullValue()
			}
			highest = max(highest, v)
		}
	}
	opt := charts.NewLineChartOptionWithData(values)
	opt.Theme = charts.GetTheme(theme).WithBackgroundColor(charts.ColorTransparent)
	opt.Padding = charts.NewBoxEqual(8)
	opt.Legend.SeriesNames = names
	opt.Symbol.Shape = charts.SymbolNone
	opt.LineStrokeWidth = 1.8
	opt.XAxis.BoundaryGap = charts.Ptr(false)
	opt.XAxis.LabelCount = 12
	for i := range length {
		opt.XAxis.Labels = append(opt.XAxis.Labels, strconv.FormatFloat(float64(i)*bin, 'f', -1, 64)+" s")
	}
	digits := 0
	for scale := highest; scale > 0 && scale < 20 && digits < 3; scale *= 10 {
		digits++
	}
	opt.YAxis = []charts.YAxisOption{{Min: charts.Ptr(0.0), ValueFormatter: func(v float64) string {
		return strings.TrimSpace(strconv.FormatFloat(v, 'f', digits, 64) + " " + unit)
	}}}
	painter := charts.NewPainter(charts.PainterOptions{OutputFormat: charts.ChartOutputSVG, Width: chartWidth, Height: chartHeight})
	if err := painter.LineChart(opt); err != nil {
		return "", err
	}
	svg, err := painter.Bytes()
	return template.HTML(svg), err // of the library, from numbers and escaped names
}
