package simulate

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"math"
	"strconv"
	"time"

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
	lines := func(title, note string, axis axis, get func(*Timeline) []float64) error {
		var names []string
		var data [][]float64
		for i := range r.Summaries {
			names, data = append(names, r.Summaries[i].Policy), append(data, get(&r.Results[i][0].Series))
		}
		return p.draw(title, note, axis, r.Results[0][0].Bin, names, data)
	}
	const byArrival = "By when requests arrived, on a logarithmic scale."
	err := lines("Time to first token, p99", byArrival, secondsAxis, func(t *Timeline) []float64 { return t.TTFTP99 })
	if err == nil {
		err = lines("Time to first token, median", byArrival, secondsAxis, func(t *Timeline) []float64 { return t.TTFTP50 })
	}
	if err == nil {
		err = lines("Throughput", "Generated tokens a second.", linearAxis, func(t *Timeline) []float64 { return t.Throughput })
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
		err = p.draw("Weights: "+r.Summaries[i].Policy, "1 is the base weight of the server.", linearAxis, r.Results[i][0].Bin, names, weights)
	}
	return p, err
}

const (
	chartWidth  = 960
	chartHeight = 320
)

// axis says how values are drawn.
type axis uint8

const (
	linearAxis  axis = iota // from 0
	secondsAxis             // seconds, logarithmic: the worst policy must not flatten the others
)

// draw adds a chart of values over time. Values below 0 are gaps.
func (p *page) draw(title, note string, axis axis, bin float64, names []string, data [][]float64) error {
	c := chart{Title: title, Note: note}
	for _, drawing := range []struct {
		theme string
		out   *template.HTML
	}{{charts.ThemeVividLight, &c.Light}, {charts.ThemeVividDark, &c.Dark}} {
		svg, err := drawLines(drawing.theme, axis, bin, names, data)
		if err != nil {
			return fmt.Errorf("chart %q: %w", title, err)
		}
		*drawing.out = svg
	}
	p.Charts = append(p.Charts, c)
	return nil
}

func drawLines(theme string, axis axis, bin float64, names []string, data [][]float64) (template.HTML, error) {
	values, y := axis.scale(data)
	opt := charts.NewLineChartOptionWithData(values)
	opt.Theme = charts.GetTheme(theme).WithBackgroundColor(charts.ColorTransparent)
	opt.Padding = charts.NewBoxEqual(8)
	opt.Legend.SeriesNames = names
	opt.Symbol.Shape = charts.SymbolNone
	opt.LineStrokeWidth = 1.8
	opt.XAxis.BoundaryGap = charts.Ptr(false)
	opt.XAxis.LabelCount = 7
	opt.XAxis.Labels = make([]string, len(data[0]))
	for i := range opt.XAxis.Labels {
		opt.XAxis.Labels[i] = strconv.FormatFloat(float64(i)*bin, 'f', -1, 64) + " s"
	}
	opt.YAxis = []charts.YAxisOption{y}
	painter := charts.NewPainter(charts.PainterOptions{OutputFormat: charts.ChartOutputSVG, Width: chartWidth, Height: chartHeight})
	if err := painter.LineChart(opt); err != nil {
		return "", err
	}
	svg, err := painter.Bytes()
	return template.HTML(svg), err // the library's, of numbers and of names that it escapes
}

// scale brings values to the scale of the axis.
func (a axis) scale(data [][]float64) ([][]float64, charts.YAxisOption) {
	const fastest = 1e-3 // seconds; below it nothing is told apart
	values := make([][]float64, len(data))
	low, high := math.Inf(1), math.Inf(-1)
	for i, line := range data {
		values[i] = make([]float64, len(line))
		for j, v := range line {
			if v < 0 {
				values[i][j] = charts.GetNullValue()
				continue
			}
			if a == secondsAxis {
				v = math.Log10(max(v, fastest))
			}
			values[i][j] = v
			low, high = min(low, v), max(high, v)
		}
	}
	if math.IsInf(low, 0) {
		low, high = 0, 1 // nothing but gaps
	}
	if a == secondsAxis {
		low, high = math.Floor(low), max(math.Ceil(high), math.Floor(low)+1)
		return values, charts.YAxisOption{Min: &low, Max: &high, Unit: 1, LabelCount: int(high-low) + 1, ValueFormatter: func(v float64) string {
			return time.Duration(math.Round(math.Pow(10, v)*1e3) * float64(time.Millisecond)).String()
		}}
	}
	digits := 0
	for scale := high; scale > 0 && scale < 20 && digits < 3; scale *= 10 {
		digits++
	}
	return values, charts.YAxisOption{Min: charts.Ptr(0.0), ValueFormatter: func(v float64) string {
		return strconv.FormatFloat(v, 'f', digits, 64)
	}}
}
