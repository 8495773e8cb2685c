package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/weir-dev/weir/extproc"
)

// printExplanation writes an explanation for people: first what comes of the request, then why.
func printExplanation(w io.Writer, x *extproc.Explanation) error {
	p := &explanationPrinter{x: x}
	p.outcome()
	p.request()
	p.rules()
	p.guards()
	p.candidates()
	for _, n := range x.Notes {
		p.linef("\nNote: %s", n)
	}
	_, err := io.WriteString(w, cleanText(p.text.String()))
	return err
}

type explanationPrinter struct {
	x    *extproc.Explanation
	text strings.Builder
}

func (p *explanationPrinter) linef(format string, args ...any) {
	fmt.Fprintf(&p.text, format+"\n", args...)
}

// table writes rows of cells, the first of which is the head.
func (p *explanationPrinter) table(rows [][]string) {
	t := tabwriter.NewWriter(&p.text, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		fmt.Fprintln(t, "  "+strings.Join(r, "\t"))
	}
	_ = t.Flush() // a strings.Builder takes everything
}

func (p *explanationPrinter) outcome() {
	o := &p.x.Outcome
	switch {
	case o.Served && o.By == "weir":
		p.linef("SERVED by Weir itself, with status %d", o.Status)
	case o.Served:
		p.linef("SERVED by %s", p.first())
		if len(o.Endpoints) > 0 {
			p.linef("  endpoints: %s", strings.Join(o.Endpoints, ", then "))
		}
		if len(o.Then) > 0 {
			p.linef("  if that fails: %s, as far as spec.rules[].retry allows", strings.Join(o.Then, ", then "))
		}
		if r := p.x.Relay; r != nil && r.Relayed {
			p.linef("  by the relay, which answers from what it keeps or asks as above: %s", r.Why)
		} else if r != nil {
			p.linef("  not by the relay: %s", r.Why)
		}
		if l := p.x.Lane; l != nil && l.Native {
			p.linef("  native lane: Envoy may let further requests like this one through without asking Weir")
		} else if l != nil {
			p.linef("  native lane: no, Weir decides each such request: %s", l.Why)
		}
	default:
		kind := o.Kind
		if o.Code != "" {
			kind += ", " + o.Code
		}
		p.linef("REFUSED with status %d (%s)", o.Status, kind)
		p.linef("  %s", o.Message)
		for _, name := range slices.Sorted(maps.Keys(o.Headers)) {
			p.linef("  %s: %s", name, o.Headers[name])
		}
		if o.WaitsSeconds > 0 {
			p.linef("  unless there is room within %s, for which the request would wait", secondsText(o.WaitsSeconds))
		}
	}
}

// first is the backend that is asked first, and how likely that is where others may be as well.
func (p *explanationPrinter) first() string {
	text := p.x.Outcome.By
	for _, c := range p.x.Candidates {
		if c.Backend != p.x.Outcome.By {
			continue
		}
		if c.UpstreamModel != "" && c.UpstreamModel != p.x.Request.Model {
			text += " as " + c.UpstreamModel
		}
		if c.Chance > 0 && c.Chance < 1 {
			text += fmt.Sprintf(" (%s of such requests)", percentOf(c.Chance))
		}
		break
	}
	return text
}

func (p *explanationPrinter) request() {
	r := &p.x.Request
	p.linef("\nRequest   %s %s", r.Method, r.Path)
	if r.Operation != "" {
		text := fmt.Sprintf("%s, %s dialect", r.Operation, r.Dialect)
		if r.Model != "" {
			text += fmt.Sprintf(", model %s", r.Model)
		}
		if r.Stream {
			text += ", streamed"
		}
		p.linef("          %s", text)
	}
	text := fmt.Sprintf("body of %d bytes", r.BodyBytes)
	if r.MediaParts > 0 {
		text += fmt.Sprintf(", %d of them media in %d pieces", r.MediaBytes, r.MediaParts)
	}
	if e := p.x.Estimate; e != nil {
		text += fmt.Sprintf("; about %d tokens in", e.InputTokens)
		if e.OutputTokens != nil {
			text += fmt.Sprintf(", at most %d out", *e.OutputTokens)
		} else if e.AssumedOutputTokens > 0 {
			text += fmt.Sprintf(", %d out as budgets assume (it asks for no largest output)", e.AssumedOutputTokens)
		}
		switch {
		case e.Cost != "":
			text += fmt.Sprintf("; %s %s for the input, %s %s with that output", e.InputCost, e.Currency, e.Cost, e.Currency)
		case e.InputCost != "":
			text += fmt.Sprintf("; %s %s for the input, and more for the output, of which it asks for no largest", e.InputCost, e.Currency)
		}
	}
	p.linef("          %s", text)
	c := p.x.Caller
	if c == nil {
		p.linef("Caller    not known")
		return
	}
	name := "tenant " + c.Tenant
	if c.Consumer != "" {
		name = fmt.Sprintf("consumer %s/%s of tenant %s", c.Namespace, c.Consumer, c.Tenant)
	}
	if c.Credential != "" {
		name += " by " + c.Credential
	}
	p.linef("Caller    %s", name)
	var more []string
	for _, k := range slices.Sorted(maps.Keys(c.Labels)) {
		more = append(more, "label "+k+"="+c.Labels[k])
	}
	if len(c.Scopes) > 0 {
		more = append(more, "scopes "+strings.Join(c.Scopes, " "))
	}
	for _, list := range c.AllowedModels {
		more = append(more, "models "+strings.Join(list, ", "))
	}
	if len(more) > 0 {
		p.linef("          %s", strings.Join(more, "; "))
	}
	version := "by the running configuration " + p.x.Version
	if !p.x.Live {
		version = "by the files, version " + p.x.Version
	}
	p.linef("Judged    %s", version)
}

func (p *explanationPrinter) rules() {
	if len(p.x.Rules) == 0 {
		return
	}
	p.linef("\nRules, in the order in which they are tried")
	rows := [][]string{{"", "ROUTE", "FOR", "WHY"}}
	for _, r := range p.x.Rules {
		mark := map[string]string{extproc.RuleChosen: "->", extproc.RuleBehind: "ok"}[r.Result]
		rows = append(rows, []string{mark, r.Route, r.Match, r.Why})
	}
	p.table(rows)
	if p.x.RulesMore > 0 {
		p.linef("  and %d more that do not match", p.x.RulesMore)
	}
	if r := p.x.Route; r != nil && len(r.RequiredScopes) > 0 {
		p.linef("  the rule wants the scopes %s", strings.Join(r.RequiredScopes, " "))
	}
}

func (p *explanationPrinter) guards() {
	if len(p.x.Limits) > 0 {
		p.linef("\nLimits and budgets")
		rows := [][]string{{"", "NAME", "WHOSE", "LIMIT", "LEFT", "NEEDS", "WHOLE IN", ""}}
		for i := range p.x.Limits {
			rows = append(rows, limitRow(&p.x.Limits[i], p.currency()))
		}
		p.table(rows)
	}
	if len(p.x.Breakers) == 0 {
		return
	}
	p.linef("\nCircuit breakers")
	rows := [][]string{{"", "POLICY", "WHOSE", "STATE", "FAILED", ""}}
	for _, b := range p.x.Breakers {
		mark, text := "ok", ""
		switch {
		case b.Refuses:
			mark, text = "NO", "lets nobody in for "+secondsText(b.RetryAfterSeconds)
		case b.Shadow:
			text = "would refuse, but is in shadow mode"
		}
		rows = append(rows, []string{mark, b.Policy, whose(b.Subject), b.State, fmt.Sprintf("%d of %d", b.Failures, b.Requests), text})
	}
	p.table(rows)
}

func (p *explanationPrinter) currency() string {
	if e := p.x.Estimate; e != nil {
		return e.Currency
	}
	return ""
}

func limitRow(l *extproc.ExplainedLimit, currency string) []string {
	number := func(n int64, money string) string {
		if l.Money != nil {
			return strings.TrimSpace(money + " " + currency)
		}
		return strconv.FormatInt(n, 10)
	}
	var m extproc.ExplainedMoney
	if l.Money != nil {
		m = *l.Money
	}
	limit := number(l.Limit, m.Limit)
	if l.Money == nil {
		limit += " " + l.Unit
	}
	if l.Per != "" {
		limit += " per " + perText(l.Per)
	}
	mark, text := "ok", ""
	switch l.Result {
	case extproc.LimitFull:
		mark, text = "NO", "no room for "+secondsText(l.RetryAfterSeconds)
	case extproc.LimitTooLarge:
		mark, text = "NO", "more than it ever holds"
	case extproc.LimitUnknown:
		mark, text = "NO", "the shared state is away, and the limit denies then"
	}
	if l.Shadow {
		mark, text = "ok", strings.TrimSpace(text+" (in shadow mode)")
	}
	if l.WarnOnly {
		text = strings.TrimSpace(text + " (only warns)")
	}
	if l.Unknown {
		text = strings.TrimSpace(text + " (the shared state did not answer: as this replica knows it)")
	}
	if l.Waiting > 0 {
		text = strings.TrimSpace(fmt.Sprintf("%s (%d wait)", text, l.Waiting))
	}
	return []string{mark, l.Name, whose(l.Subject), limit, number(l.Remaining, m.Remaining), number(l.Needs, m.Needs), secondsText(l.ResetSeconds), text}
}

// perText writes a window as people do.
func perText(per string) string {
	if d, err := time.ParseDuration(per); err == nil {
		switch d {
		case time.Second:
			return "second"
		case time.Minute:
			return "minute"
		case time.Hour:
			return "hour"
		}
		text := d.String() // "1h0m0s"
		for _, zero := range []string{"m0s", "h0m"} {
			if short, ok := strings.CutSuffix(text, zero); ok {
				text = short + zero[:1]
			}
		}
		return text
	}
	return per
}

func whose(subject string) string {
	if subject == "" {
		return "all"
	}
	return subject
}

// secondsText rounds to what one wants to read: "0.5 s", "12 s", "3 min", "7 h", "12 days".
func secondsText(s float64) string {
	switch {
	case s <= 0:
		return "0 s"
	case s < 9.95:
		return strconv.FormatFloat(s, 'f', 1, 64) + " s"
	case s < 120:
		return strconv.FormatFloat(s, 'f', 0, 64) + " s"
	case s < 2*3600:
		return strconv.FormatFloat(s/60, 'f', 0, 64) + " min"
	case s < 2*86400:
		return strconv.FormatFloat(s/3600, 'f', 0, 64) + " h"
	}
	return strconv.FormatFloat(s/86400, 'f', 0, 64) + " days"
}

func percentOf(v float64) string { return strconv.FormatFloat(100*v, 'f', 0, 64) + "%" }

func (p *explanationPrinter) candidates() {
	if len(p.x.Candidates) == 0 {
		return
	}
	p.linef("\nBackends of the rule")
	rows := [][]string{{"", "BACKEND", "PRIORITY", "WEIGHT", "FIRST", "MODEL THERE", "PRICE IN/OUT", "INPUT COSTS", "WITH OUTPUT", ""}}
	for i := range p.x.Candidates {
		rows = append(rows, p.candidate(&p.x.Candidates[i]))
	}
	p.table(rows)
	for i := range p.x.Candidates {
		if c := &p.x.Candidates[i]; c.Pool != nil {
			p.pool(c)
		}
	}
}

func (p *explanationPrinter) candidate(c *extproc.ExplainedCandidate) []string {
	mark, first, price, input, cost := "ok", percentOf(c.Chance), "-", "-", "-"
	var notes []string
	if c.Excluded != "" {
		mark, first = "--", "-"
		notes = append(notes, c.Excluded)
	}
	if c.Translated {
		notes = append(notes, "translated to "+c.Dialect)
	}
	if len(c.Dropped) > 0 {
		notes = append(notes, "loses "+strings.Join(c.Dropped, ", "))
	}
	if c.Error != "" {
		mark = "NO"
		notes = append(notes, c.Error)
	}
	switch {
	case !c.Usable:
		notes = append(notes, "can take no requests now")
	case c.Share != 1:
		notes = append(notes, "has "+percentOf(c.Share)+" of its weight")
	}
	if c.Price != nil {
		price = c.Price.Input + "/" + c.Price.Output
	}
	if c.InputCost != "" {
		input = c.InputCost
	}
	if c.Cost != "" {
		cost = c.Cost
	}
	model := c.UpstreamModel
	if model == "" {
		model = "-"
	}
	return []string{
		mark, c.Backend, strconv.Itoa(int(c.Priority)), strconv.FormatUint(uint64(c.Weight), 10), first, model, price, input, cost,
		strings.Join(notes, "; "),
	}
}

func (p *explanationPrinter) pool(c *extproc.ExplainedCandidate) {
	l := c.Pool
	text := fmt.Sprintf("\nEndpoints of %s: ", c.Backend)
	switch {
	case len(l.Picked) > 0:
		text += fmt.Sprintf("picked %s, by %s", l.Picked[0], l.Reason)
	case l.Reason == "weights":
		text += "Envoy chooses, by their weights"
	default:
		text += "none can be picked: " + l.Reason
	}
	if l.CachedTokens > 0 {
		text += fmt.Sprintf("; about %d tokens of the prompt are cached there", l.CachedTokens)
	}
	if l.Waiting > 0 {
		text += fmt.Sprintf("; requests that wait: %d", l.Waiting)
	}
	p.linef("%s", text)
	rows := [][]string{{"", "ENDPOINT", "IN FLIGHT", "TOKENS", "SCORE", "SPEED", "WEIGHT", "WHY"}}
	for i := range l.Endpoints {
		e := &l.Endpoints[i]
		mark, score, why := "", strconv.FormatFloat(e.Score, 'f', 0, 64), e.Why
		if n := slices.Index(l.Picked, e.Endpoint); n >= 0 {
			mark = strconv.Itoa(n + 1)
		}
		if e.Score == 0 {
			score = "-"
		}
		if e.Cannot != "" {
			mark, why = "--", strings.TrimSuffix(e.Cannot+"; "+why, "; ")
		}
		rows = append(rows, []string{mark, e.Endpoint, strconv.FormatInt(e.Requests, 10), strconv.FormatInt(e.Tokens, 10), score,
			decimalOf(e.Speed), strconv.FormatUint(uint64(e.Weight), 10), why})
	}
	p.table(rows)
	if l.EndpointsMore > 0 {
		p.linef("  and %d more", l.EndpointsMore)
	}
}
