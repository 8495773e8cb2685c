package main

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/weir-dev/weir/console/api"
)

// topOrder is what rows are sorted by.
type topOrder byte

// The orders, by their keys.
const (
	byRate     topOrder = 'r'
	byErrors   topOrder = 'e'
	byLatency  topOrder = 'l'
	byTokens   topOrder = 't'
	byInFlight topOrder = 'f'
	byName     topOrder = 'n'
)

func topOrders() []topOrder {
	return []topOrder{byRate, byErrors, byLatency, byTokens, byInFlight, byName}
}

func (o topOrder) String() string {
	return map[topOrder]string{
		byRate: "rate", byErrors: "errors", byLatency: "latency", byTokens: "tokens", byInFlight: "in-flight", byName: "name",
	}[o]
}

func topOrderNames() (out []string) {
	for _, o := range topOrders() {
		out = append(out, o.String())
	}
	return out
}

func topOrderNamed(name string) (topOrder, bool) {
	for _, o := range topOrders() {
		if o.String() == name {
			return o, true
		}
	}
	return 0, false
}

// topScreen is what weir top shows.
type topScreen struct {
	at       string // the admin address
	order    topOrder
	topology api.Topology
	running  []api.RequestSummary
	trouble  string // why what is shown is old
}

// press takes a key, and says whether that changes what is shown.
func (s *topScreen) press(k byte) bool {
	o := topOrder(k | 0x20) // in lower case
	if !slices.Contains(topOrders(), o) || o == s.order {
		return false
	}
	s.order = o
	return true
}

// topRow is a route, a backend or an endpoint.
type topRow struct {
	name  string
	rates api.Rates
	ttft  float64 // seconds; 0: not known
	cells []string
}

// topTable is a part of the screen.
type topTable struct {
	head []string
	rows [][]string
}

func add(to *api.Rates, r api.Rates) {
	to.Requests += r.Requests
	to.Errors += r.Errors
	to.Tokens += r.Tokens
	to.InFlight += r.InFlight
}

// tables are the parts of the screen, in order.
func (s *topScreen) tables() []topTable {
	t := &s.topology
	routes, backends, endpoints := map[string]*api.Rates{}, map[string]*api.Rates{}, map[string]*api.Rates{}
	for i := range t.Edges {
		e := &t.Edges[i]
		of := map[string]map[string]*api.Rates{"client": routes, "route": backends, "backend": endpoints}[e.Kind]
		if of == nil {
			continue
		}
		if of[e.To] == nil {
			of[e.To] = &api.Rates{}
		}
		add(of[e.To], e.Rates)
	}
	at := func(of map[string]*api.Rates, id string) api.Rates {
		if r := of[id]; r != nil {
			return *r
		}
		return api.Rates{}
	}
	var r, b, e []topRow
	if refused := at(routes, "-"); refused != (api.Rates{}) {
		r = append(r, topRow{name: "(no route)", rates: refused, cells: []string{"refused before a route was found"}})
	}
	for i := range t.Routes {
		x := &t.Routes[i]
		r = append(r, topRow{name: x.ID, rates: at(routes, x.ID), cells: []string{targets(x.Targets)}})
	}
	for i := range t.Backends {
		x := &t.Backends[i]
		row := topRow{name: x.ID, rates: at(backends, x.ID)}
		row.rates.InFlight = max(row.rates.InFlight, int(x.InFlight))
		known := 0.0
		for j := range x.Endpoints {
			y := &x.Endpoints[j]
			one := topRow{name: x.ID + " " + y.Address, rates: at(endpoints, y.ID), cells: endpointCells(y)}
			one.rates.InFlight = max(one.rates.InFlight, int(y.InFlight))
			if y.TTFTSeconds != nil {
				one.ttft = *y.TTFTSeconds
				row.ttft += one.ttft
				known++
			}
			e = append(e, one)
		}
		if known > 0 {
			row.ttft /= known
		}
		row.cells = []string{x.Health, percentOf(x.Share), strconv.Itoa(x.Waiting), x.Why}
		b = append(b, row)
	}
	return []topTable{
		s.table(r, "ROUTE", "BACKENDS"), s.table(b, "BACKEND", "HEALTH", "SHARE", "WAITING", "WHY"),
		s.table(e, "ENDPOINT", "STATUS", "WEIGHT", "GPU", "KV", "QUEUE", "WHY"), s.slowest(),
	}
}

// targets are the backends of a route with their weights as they are now.
func targets(list []api.RouteBackend) string {
	parts := make([]string, len(list))
	for i, b := range list {
		weight := float64(b.Weight)
		if b.LiveWeight != nil {
			weight = *b.LiveWeight
		}
		if parts[i] = b.Backend; len(list) > 1 {
			parts[i] += " " + strconv.FormatFloat(weight, 'f', -1, 64)
		}
		if b.Priority > 0 {
			parts[i] += fmt.Sprintf(" (priority %d)", b.Priority)
		}
	}
	return strings.Join(parts, ", ")
}

func endpointCells(y *api.Endpoint) []string {
	part := func(v *float64) string {
		if v == nil {
			return "-"
		}
		return percentOf(*v)
	}
	queue, why := "-", y.Why
	if y.Queue != nil {
		queue = short(*y.Queue)
	}
	if y.SignalError != "" {
		why = strings.TrimPrefix(why+"; "+y.SignalError, "; ")
	}
	return []string{y.Status, strconv.FormatUint(uint64(y.Weight), 10), part(y.GPU), part(y.KVCache), queue, why}
}

// table sorts rows and puts their rates between the name and the other cells.
func (s *topScreen) table(rows []topRow, name string, head ...string) topTable {
	slices.SortStableFunc(rows, func(a, b topRow) int {
		byValue := map[topOrder]int{
			byRate: cmp.Compare(b.rates.Requests, a.rates.Requests), byErrors: cmp.Compare(b.rates.Errors, a.rates.Errors),
			byLatency: cmp.Compare(b.ttft, a.ttft), byTokens: cmp.Compare(b.rates.Tokens, a.rates.Tokens),
			byInFlight: cmp.Compare(b.rates.InFlight, a.rates.InFlight),
		}[s.order]
		return cmp.Or(byValue, strings.Compare(a.name, b.name))
	})
	t := topTable{head: append([]string{name, "REQ/S", "ERR/S", "TTFT", "TOK/S", "IN FLIGHT"}, head...)}
	for _, r := range rows {
		t.rows = append(t.rows, append([]string{
			r.name, short(r.rates.Requests), short(r.rates.Errors), latency(r.ttft), short(r.rates.Tokens), strconv.Itoa(r.rates.InFlight),
		}, r.cells...))
	}
	return t
}

// slowest are the requests that have run for longest, with what is known of them before they end.
func (s *topScreen) slowest() topTable {
	list := slices.Clone(s.running)
	slices.SortStableFunc(list, func(a, b api.RequestSummary) int { return cmp.Compare(b.DurationSeconds, a.DurationSeconds) })
	t := topTable{head: []string{"SLOWEST REQUESTS", "RUNS FOR", "TOKENS IN", "TRY", "TENANT", "MODEL", "ROUTE", "BACKEND"}}
	for i := range list {
		r, tokens := &list[i], "-"
		if r.InputTokens > 0 {
			tokens = strconv.FormatInt(r.InputTokens, 10)
		}
		t.rows = append(t.rows, []string{
			cmp.Or(r.RequestID, r.ID), secondsText(r.DurationSeconds), tokens,
			strconv.Itoa(r.Attempts), r.Tenant, r.Model, r.Route, r.Backend,
		})
	}
	return t
}

// latency is a time to the first token.
func latency(s float64) string {
	switch {
	case s <= 0:
		return "-"
	case s < 9.95:
		return strconv.FormatFloat(s*1000, 'f', 0, 64) + " ms"
	}
	return strconv.FormatFloat(s, 'f', 1, 64) + " s"
}

// header says what is shown.
func (s *topScreen) header() []string {
	t := &s.topology.Totals
	cost := ""
	if t.CostPerHour != "" && t.CostPerHour != "0" {
		cost = fmt.Sprintf(", %s %s an hour", t.CostPerHour, t.Currency)
	}
	lines := []string{
		fmt.Sprintf("weir at %s, configuration %s, %s", s.at, s.topology.Version, s.topology.At.UTC().Format(time.TimeOnly+" UTC")),
		fmt.Sprintf("%s requests/s, %s errors/s, %s tokens/s, %d in flight, time to first token %s%s",
			short(t.Requests), short(t.Errors), short(t.Tokens), t.InFlight, latency(t.TTFTSeconds), cost),
	}
	if s.trouble != "" {
		lines = append(lines, "NOT UP TO DATE: "+s.trouble)
	}
	return lines
}

// plain is everything, for output that is no terminal.
func (s *topScreen) plain() []string {
	lines := s.header()
	for _, t := range s.tables() {
		lines = append(append(lines, ""), t.lines(len(t.rows))...)
	}
	return lines
}

// footer tells the keys.
func (s *topScreen) footer() string {
	var keys []string
	for _, o := range topOrders() {
		text := string(o) + " " + o.String()
		if o == s.order {
			text = "[" + text + "]"
		}
		keys = append(keys, text)
	}
	return "q quits; sort by " + strings.Join(keys, ", ")
}

// frame is what makes a terminal of that size show it all, as far as there is room.
func (s *topScreen) frame(width, height int) string {
	lines, tables := s.header(), s.tables()
	room := rowsFor(tables, height-len(lines)-1)
	for i, t := range tables {
		if room[i] >= 0 {
			lines = append(append(lines, ""), t.lines(room[i])...)
		}
	}
	if len(lines) > height-1 {
		lines = lines[:max(0, height-1)]
	}
	for len(lines) < height-1 {
		lines = append(lines, "")
	}
	lines = append(lines, s.footer())
	var b strings.Builder
	b.WriteString("\x1b[H")
	for i, l := range lines {
		if i > 0 {
			b.WriteString("\r\n")
		}
		b.WriteString(cut(l, width))
		b.WriteString("\x1b[K")
	}
	b.WriteString("\x1b[J")
	return b.String()
}

// rowsFor shares so many lines among tables, each of which has an empty line and a head besides: each gets a row while there is room, and
// then they get more in turn. -1 is for a table that has no place at all.
func rowsFor(tables []topTable, height int) []int {
	out := make([]int, len(tables))
	for i := range tables {
		first := min(1, len(tables[i].rows))
		if out[i] = -1; height >= 2+first {
			out[i] = first
			height -= 2 + first
		}
	}
	for given := true; given; {
		given = false
		for i := range tables {
			if out[i] >= 0 && out[i] < len(tables[i].rows) && height > 0 {
				out[i]++
				height--
				given = true
			}
		}
	}
	return out
}

// lines are the head and the first rows, in columns.
func (t *topTable) lines(rows int) []string {
	shown := append([][]string{t.head}, t.rows[:min(rows, len(t.rows))]...)
	widths := make([]int, len(t.head))
	for _, r := range shown {
		for i, c := range r {
			widths[i] = max(widths[i], utf8.RuneCountInString(clean(c)))
		}
	}
	out := make([]string, len(shown))
	for n, r := range shown {
		var b strings.Builder
		for i, c := range r {
			c = clean(c)
			b.WriteString(c)
			if i < len(r)-1 {
				b.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c)+2))
			}
		}
		out[n] = strings.TrimRight(b.String(), " ")
	}
	return out
}

// clean takes out what a terminal would obey: names of models come from callers.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

// cleanText is clean for a text of several lines, without spaces at their ends.
func cleanText(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(clean(lines[i]), " ")
	}
	return strings.Join(lines, "\n")
}

// cut shortens a line to the width of the terminal.
func cut(s string, width int) string {
	s = clean(s)
	if utf8.RuneCountInString(s) <= width {
		return s
	}
	return string([]rune(s)[:max(0, width)])
}
