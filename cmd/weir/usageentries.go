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

	"github.com/weir-dev/weir/usage/ledger"
	"github.com/weir-dev/weir/usage/money"
)

// entryWriter lists single entries.
type entryWriter struct {
	write func(*ledger.Entry) error
	end   func() error
}

func newEntryWriter(format string, out io.Writer, q ledger.Query) entryWriter {
	switch format {
	case "json": // one object a line, as in the ledger
		enc := json.NewEncoder(out)
		return entryWriter{write: func(e *ledger.Entry) error { return enc.Encode(e) }, end: func() error { return nil }}
	case "csv":
		w := csv.NewWriter(out)
		names := make([]string, 0, len(entryColumns()))
		for _, c := range entryColumns() {
			names = append(names, c.name)
		}
		failed := w.Write(names)
		cols, record := entryColumns(), make([]string, len(names))
		return entryWriter{
			write: func(e *ledger.Entry) error {
				for i, c := range cols {
					record[i] = csvText(c.get(e))
				}
				if failed == nil {
					failed = w.Write(record)
				}
				return failed
			},
			end: func() error { w.Flush(); return w.Error() },
		}
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	cols := entryColumns()
	n := 0
	line := func(get func(entryColumn) string) {
		i := 0
		for _, c := range cols {
			if c.table {
				cell(w, i, get(c))
				i++
			}
		}
		fmt.Fprintln(w)
	}
	return entryWriter{
		write: func(e *ledger.Entry) error {
			if n++; n == 1 {
				line(func(c entryColumn) string { return strings.ToUpper(strings.ReplaceAll(c.name, "_", " ")) })
			}
			line(func(c entryColumn) string { return c.get(e) })
			return nil
		},
		end: func() error {
			if n == 0 {
				fmt.Fprintln(w, noEntries(q))
			}
			return w.Flush()
		},
	}
}

// entryColumn is a column of the list of entries; tables show only the more important ones.
type entryColumn struct {
	name  string
	table bool
	get   func(*ledger.Entry) string
}

func entryColumns() []entryColumn {
	number := func(n int64) string { return strconv.FormatInt(n, 10) }
	return []entryColumn{
		{"time", true, func(e *ledger.Entry) string { return e.Time.UTC().Format("2006-01-02T15:04:05.000Z") }},
		{"id", true, func(e *ledger.Entry) string { return e.ID }},
		{"request_id", false, func(e *ledger.Entry) string { return e.RequestID }},
		{"tenant", true, func(e *ledger.Entry) string { return e.Tenant }},
		{"namespace", false, func(e *ledger.Entry) string { return e.Namespace }},
		{"consumer", true, func(e *ledger.Entry) string { return e.Consumer }},
		{"key", true, func(e *ledger.Entry) string { return e.Credential }},
		{"gateway", false, func(e *ledger.Entry) string { return e.Gateway }},
		{"route", false, func(e *ledger.Entry) string { return e.Route }},
		{"backend", true, func(e *ledger.Entry) string { return e.Backend }},
		{"model", true, func(e *ledger.Entry) string { return e.Model }},
		{"upstream_model", false, func(e *ledger.Entry) string { return e.UpstreamModel }},
		{"operation", false, func(e *ledger.Entry) string { return e.Operation }},
		{"dialect", false, func(e *ledger.Entry) string { return e.Dialect }},
		{"stream", false, func(e *ledger.Entry) string { return strconv.FormatBool(e.Stream) }},
		{"status", true, func(e *ledger.Entry) string { return strconv.Itoa(e.Status) }},
		{"attempts", false, func(e *ledger.Entry) string { return strconv.Itoa(e.Attempts) }},
		{"input", true, func(e *ledger.Entry) string { return number(e.Tokens.Input) }},
		{"cache_read", true, func(e *ledger.Entry) string { return number(e.Tokens.CacheRead) }},
		{"cache_write", true, func(e *ledger.Entry) string { return number(e.Tokens.CacheWrite) }},
		{"output", true, func(e *ledger.Entry) string { return number(e.Tokens.Output) }},
		{"reasoning", true, func(e *ledger.Entry) string { return number(e.Tokens.Reasoning) }},
		{"cost", true, func(e *ledger.Entry) string { return money.Nano(e.Cost).String() }},
		{"currency", true, func(e *ledger.Entry) string { return e.Currency }},
		{"price_version", false, func(e *ledger.Entry) string { return e.PriceVersion }},
		{"ttft_ms", true, func(e *ledger.Entry) string { return millis(e.TTFT) }},
		{"itl_ms", false, func(e *ledger.Entry) string { return millis(e.ITL()) }},
		{"duration_ms", true, func(e *ledger.Entry) string { return millis(e.Duration) }},
		{"cache", false, func(e *ledger.Entry) string { return e.Cache }},
		{"purpose", false, func(e *ledger.Entry) string { return e.Purpose }},
		{"flags", true, func(e *ledger.Entry) string { return strings.Join(e.Names(), " ") }},
	}
}

// millis writes a duration in milliseconds with three decimals; nothing for zero, which means unknown.
func millis(d time.Duration) string {
	if d == 0 {
		return ""
	}
	us := d.Microseconds()
	return fmt.Sprintf("%d.%03d", us/1000, us%1000)
}
