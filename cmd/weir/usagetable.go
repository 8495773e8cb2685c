package main

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/weir-dev/weir/usage/ledger"
	"github.com/weir-dev/weir/usage/money"
)

// column is one column of a report.
type column struct {
	name string
	get  func(*ledger.Row) string
	// count is set for numbers and money, which tables leave out if optional and zero in every row.
	count    func(*ledger.Row) int64
	optional bool
}

// columns of a report that is grouped by some dimensions.
func columns(by []ledger.Dimension) []column {
	var cols []column
	for _, d := range ledger.Dimensions() { // the order in which rows are sorted
		for _, want := range by {
			if d == want {
				cols = append(cols, column{name: dimensionName(d), get: func(r *ledger.Row) string { return r.Get(d) }})
			}
		}
	}
	number := func(name string, count func(*ledger.Row) int64) column {
		return column{name: name, count: count, get: func(r *ledger.Row) string { return strconv.FormatInt(count(r), 10) }}
	}
	optional := func(c column) column { c.optional = true; return c }
	cost := func(name string, nano func(*ledger.Row) int64) column {
		return column{name: name, count: nano, get: func(r *ledger.Row) string { return money.Nano(nano(r)).String() }}
	}
	return append(cols,
		number("requests", func(r *ledger.Row) int64 { return r.Requests }),
		number("failed", func(r *ledger.Row) int64 { return r.Failed }),
		number("input", func(r *ledger.Row) int64 { return r.Tokens.Input }),
		number("cache_read", func(r *ledger.Row) int64 { return r.Tokens.CacheRead }),
		number("cache_write", func(r *ledger.Row) int64 { return r.Tokens.CacheWrite }),
		number("output", func(r *ledger.Row) int64 { return r.Tokens.Output }),
		number("reasoning", func(r *ledger.Row) int64 { return r.Tokens.Reasoning }),
		cost("cost", func(r *ledger.Row) int64 { return r.Cost }),
		column{name: "currency", get: func(r *ledger.Row) string { return r.Currency }},
		number("estimated", func(r *ledger.Row) int64 { return r.Estimated }),
		number("estimated_tokens", func(r *ledger.Row) int64 { return r.EstimatedTokens }),
		cost("estimated_cost", func(r *ledger.Row) int64 { return r.EstimatedCost }),
		number("interrupted", func(r *ledger.Row) int64 { return r.Interrupted }),
		number("unpriced", func(r *ledger.Row) int64 { return r.Unpriced }),
		optional(number("aborted", func(r *ledger.Row) int64 { return r.Aborted })),
		optional(number("cut", func(r *ledger.Row) int64 { return r.Cut })),
		optional(number("cached", func(r *ledger.Row) int64 { return r.Cached })),
		optional(number("translated", func(r *ledger.Row) int64 { return r.Translated })),
		optional(number("saved_input", func(r *ledger.Row) int64 { return r.SavedTokens.InputTotal() })),
		optional(number("saved_output", func(r *ledger.Row) int64 { return r.SavedTokens.OutputTotal() })),
		optional(cost("saved_cost", func(r *ledger.Row) int64 { return r.SavedCost })),
	)
}

// dimensionName is how a dimension is called on the command line.
func dimensionName(d ledger.Dimension) string {
	if d == ledger.ByCredential {
		return "key"
	}
	return string(d)
}

func writeReport(format string, out io.Writer, q ledger.Query, name string, r *ledger.Report) error {
	cols := columns(q.GroupBy)
	switch format {
	case "csv":
		w := csv.NewWriter(out)
		record := make([]string, len(cols))
		for i, c := range cols {
			record[i] = c.name
		}
		err := w.Write(record)
		for n := 0; n < len(r.Rows) && err == nil; n++ {
			for i, c := range cols {
				record[i] = csvText(c.get(&r.Rows[n]))
			}
			err = w.Write(record)
		}
		if err != nil {
			return err
		}
		w.Flush()
		return w.Error()
	case "json":
		return writeReportJSON(out, q, name, r)
	}
	if len(r.Rows) == 0 {
		_, err := fmt.Fprintln(out, noEntries(q))
		return err
	}
	return writeReportTable(out, cols, r.Rows)
}

// noEntries says what there are no entries of.
func noEntries(q ledger.Query) string {
	var b strings.Builder
	b.WriteString("no entries")
	if !q.From.IsZero() {
		b.WriteString(" from " + q.From.UTC().Format(time.RFC3339))
	}
	if !q.To.IsZero() {
		b.WriteString(" to " + q.To.UTC().Format(time.RFC3339))
	}
	f := q.Filter
	before := " with "
	for _, p := range [][2]string{
		{"tenant", f.Tenant}, {"namespace", f.Namespace}, {"consumer", f.Consumer}, {"key", f.Credential},
		{"gateway", f.Gateway}, {"route", f.Route}, {"backend", f.Backend}, {"model", f.Model},
	} {
		if p[1] != "" {
			fmt.Fprintf(&b, "%s%s %q", before, p[0], p[1])
			before = ", "
		}
	}
	return b.String()
}

func writeReportTable(out io.Writer, cols []column, rows []ledger.Row) error {
	shown := cols[:0:0]
	for _, c := range cols {
		needed := !c.optional
		for i := range rows {
			needed = needed || c.count(&rows[i]) != 0
		}
		if needed {
			shown = append(shown, c)
		}
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for i, c := range shown {
		cell(w, i, strings.ToUpper(strings.ReplaceAll(c.name, "_", " ")))
	}
	fmt.Fprintln(w)
	for n := range rows {
		for i, c := range shown {
			cell(w, i, c.get(&rows[n]))
		}
		fmt.Fprintln(w)
	}
	return w.Flush()
}

// cell writes one cell of a table. Nothing in it reaches the terminal but what can be seen: callers choose some of
// the texts.
func cell(w io.Writer, i int, text string) {
	if i > 0 {
		fmt.Fprint(w, "\t")
	}
	if text == "" {
		text = "-"
	}
	fmt.Fprint(w, strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '\uFFFD'
		}
		return r
	}, text))
}

// csvText keeps a spreadsheet from taking a text for a formula.
func csvText(s string) string {
	if s != "" && strings.ContainsRune("=+-@\t\r\n", rune(s[0])) {
		return "'" + s
	}
	return s
}

// jsonRow is a row with its money as text too: nobody has to divide.
type jsonRow struct {
	ledger.Row
	CostText          string `json:"cost"`
	EstimatedCostText string `json:"estimatedCost"`
	SavedCostText     string `json:"savedCost,omitempty"`
}

func writeReportJSON(out io.Writer, q ledger.Query, name string, r *ledger.Report) error {
	report := struct {
		Ledger  string     `json:"ledger"`
		From    *time.Time `json:"from,omitempty"`
		To      *time.Time `json:"to,omitempty"`
		Rows    []jsonRow  `json:"rows"`
		Damaged int64      `json:"damaged,omitempty"`
		Doubles int64      `json:"doubles,omitempty"`
	}{Ledger: name, Rows: make([]jsonRow, len(r.Rows)), Damaged: r.Damaged, Doubles: r.Doubles}
	if !q.From.IsZero() {
		report.From = &q.From
	}
	if !q.To.IsZero() {
		report.To = &q.To
	}
	for i, row := range r.Rows {
		report.Rows[i] = jsonRow{Row: row, CostText: money.Nano(row.Cost).String(), EstimatedCostText: money.Nano(row.EstimatedCost).String()}
		if row.SavedCost > 0 {
			report.Rows[i].SavedCostText = money.Nano(row.SavedCost).String()
		}
	}
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	return enc.Encode(report)
}
