package api

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weir-dev/weir/console/state"
	"github.com/weir-dev/weir/extproc/limit"
	"github.com/weir-dev/weir/usage"
	"github.com/weir-dev/weir/usage/ledger"
)

// How candidates fared.
const (
	answered = "answered"
	failed   = "failed"
	asked    = "asked"
	notAsked = "not asked"
)

// detail is all that is known of a request that is over.
func (a *API) detail(r *state.Request) *Request {
	c := &r.Record
	out := &Request{
		RequestSummary: summaryOf(r), Gateway: r.Entry.Gateway, Method: c.Method, Path: c.Path, Caller: c.Caller, BytesIn: c.BytesIn, BytesOut: c.BytesOut,
		Tried: attempts(r), Timeline: timeline(r), Tokens: tokensOf(r.Entry.Tokens), Flags: append([]string{}, r.Entry.Names()...), Envoy: c.Details, EnvoyFlags: c.Flags,
	}
	l := a.layouts.of(c.Version)
	out.Decision = Decision{
		Version: c.Version, Consumer: c.Consumer, Tenant: c.Tenant, Credential: c.Credential, Route: c.Route, Matched: matched(l, c.Route),
		Limits: limitsAsked(r.Limits), Candidates: candidates(l, c.Route, r.Candidates), Endpoints: split(c.Endpoints),
	}
	fared(out.Decision.Candidates, out.Tried)
	out.Decision.Steps = steps(out)
	return out
}

// runningDetail is all that is known of a request that goes on.
func (a *API) runningDetail(o *usage.Open, now time.Time) *Request {
	out := &Request{
		RequestSummary: a.runningSummary(o, now), Gateway: o.Gateway, Tried: []Attempt{}, Timeline: []Moment{{"decided", seconds(o.Begun().Sub(o.Time))}}, Flags: []string{},
	}
	list := o.Attempts()
	for i, t := range list {
		x := Attempt{N: i + 1, Backend: t.Backend, Model: t.UpstreamModel, StartSeconds: seconds(t.At.Sub(o.Time)), Failed: i < len(list)-1, Last: i == len(list)-1}
		until := now
		if !x.Last {
			until = list[i+1].At
		}
		x.DurationSeconds = seconds(until.Sub(t.At))
		out.Tried = append(out.Tried, x)
	}
	if o.Unasked && len(o.Candidates) > 1 {
		out.Tried = a.untold(o, now)
	}
	l := a.layouts.now()
	out.Decision = Decision{
		Version: l.version, Consumer: o.Consumer, Tenant: o.Tenant, Credential: o.Credential, Route: o.Route, Matched: matched(l, o.Route),
		Limits: limitsAsked(state.LimitsOf(o)), Candidates: candidates(l, o.Route, o.Candidates), Endpoints: []string{},
	}
	fared(out.Decision.Candidates, out.Tried)
	out.Decision.Steps = steps(out)
	return out
}

// untold are the attempts of a request that goes on which Envoy prepares by itself: those that it has told of, because they failed, and the
// one that follows them, if it is known where that is.
func (a *API) untold(o *usage.Open, now time.Time) []Attempt {
	out := []Attempt{}
	model := func(backend string) string {
		if i := slices.IndexFunc(o.Candidates, func(c usage.Candidate) bool { return c.Backend == backend }); i >= 0 {
			return o.Candidates[i].UpstreamModel
		}
		return ""
	}
	n, since := 0, o.Begun()
	failed := a.Desk.Tried(o)
	for i := range failed {
		f := &failed[i]
		n, since = f.N, f.Start.Add(f.Duration)
		out = append(out, Attempt{
			N: f.N, Backend: f.Backend, Model: model(f.Backend), Endpoint: f.Endpoint, StartSeconds: seconds(f.Start.Sub(o.Time)), DurationSeconds: f.Duration.Seconds(),
			Status: f.Status, Flags: f.Flags, Reason: why(f), Failed: true,
		})
	}
	if at := a.Desk.At(o); at != "" {
		out = append(out, Attempt{N: n + 1, Backend: at, Model: model(at), StartSeconds: seconds(since.Sub(o.Time)), DurationSeconds: seconds(now.Sub(since)), Last: true})
	}
	return out
}

func seconds(d time.Duration) float64 { return max(0, d.Seconds()) }

func split(list string) []string {
	if list == "" {
		return []string{}
	}
	return strings.Split(list, ",")
}

func tokensOf(t ledger.Tokens) Tokens {
	return Tokens{Input: t.Input, CacheRead: t.CacheRead, CacheWrite: t.CacheWrite, Output: t.Output, Reasoning: t.Reasoning}
}

// matched is what a route matches; nothing where that is not known any more.
func matched(l *layout, route string) []string {
	r := l.routes().by[route]
	if r == nil {
		return []string{}
	}
	return r.Matches
}

func limitsAsked(h limit.Headers) []LimitAsked {
	out := []LimitAsked{}
	for _, s := range [...]limit.State{h.Requests, h.Tokens} {
		if s.Rule != nil {
			out = append(out, LimitAsked{Name: s.Rule.Name, Unit: s.Rule.Unit.String(), Limit: s.Limit, Remaining: max(0, s.Remaining), ResetSeconds: s.Reset.Seconds()})
		}
	}
	return out
}

// candidates in the order in which they would be asked: by priority, and by weight among equals.
func candidates(l *layout, route string, list []usage.Candidate) []Candidate {
	out := []Candidate{}
	var targets []RouteBackend // those that are left: candidates are in their order
	if r := l.routes().by[route]; r != nil {
		targets = r.Targets
	}
	for _, c := range list {
		made := Candidate{Backend: c.Backend, Model: c.UpstreamModel, Translated: c.Translated, Outcome: notAsked}
		if i := slices.IndexFunc(targets, func(t RouteBackend) bool { return t.Backend == c.Backend }); i >= 0 {
			made.Weight, made.Priority = targets[i].Weight, targets[i].Priority
			targets = targets[i+1:]
		}
		out = append(out, made)
	}
	slices.SortStableFunc(out, func(a, b Candidate) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(b.Weight, a.Weight))
	})
	return out
}

// fared notes how each candidate has fared, and puts those first that were asked.
func fared(list []Candidate, tried []Attempt) {
	first := map[string]int{}
	for _, t := range tried {
		for i := range list {
			c := &list[i]
			if c.Backend != t.Backend || t.Model != "" && c.Model != t.Model {
				continue
			}
			switch {
			case t.Failed:
				c.Outcome = failed
			case t.Last && t.Status > 0:
				c.Outcome = answered
			default:
				c.Outcome = asked
			}
			if first[c.Backend+" "+c.Model] == 0 {
				first[c.Backend+" "+c.Model] = t.N
			}
			break
		}
	}
	slices.SortStableFunc(list, func(a, b Candidate) int {
		x, y := first[a.Backend+" "+a.Model], first[b.Backend+" "+b.Model]
		switch {
		case (x == 0) != (y == 0):
			return cmp.Compare(y, x)
		}
		return cmp.Compare(x, y)
	})
}

// attempts are those of a request that is over. Where Envoy has not told of one, what Weir has prepared for it is all that is known.
func attempts(r *state.Request) []Attempt {
	c := &r.Record
	out := []Attempt{}
	n := max(c.Attempts, r.Entry.Attempts, len(r.Prepared))
	for i := range r.Tries {
		n = max(n, r.Tries[i].N) // of a request that was lost, it may be all that tells how many there were
	}
	known := map[int]bool{}
	for i := range r.Tries {
		f := &r.Tries[i]
		known[f.N] = true
		out = append(out, Attempt{
			N: f.N, Backend: f.Backend, Endpoint: f.Endpoint, StartSeconds: seconds(f.Start.Sub(r.Began)), DurationSeconds: f.Duration.Seconds(), Status: f.Status,
			Flags: f.Flags, Reason: why(f), Failed: true, Last: f.N == n,
		})
	}
	for i := 1; i < n && len(r.Prepared) == n; i++ {
		if p := &r.Prepared[i-1]; !known[i] {
			known[i] = true
			out = append(out, Attempt{
				N: i, Backend: p.Backend, StartSeconds: seconds(p.At.Sub(r.Began)), DurationSeconds: seconds(r.Prepared[i].At.Sub(p.At)), Failed: true,
				Reason: "Envoy has not told what became of it",
			})
		}
	}
	if n > 0 && !known[n] && r.Backend() != "" {
		start := c.Timing.BackendSent.Seconds()
		if len(r.Prepared) == n {
			start = seconds(r.Prepared[n-1].At.Sub(r.Began))
		}
		end := c.Timing.BackendLast.Seconds()
		if end < start {
			end = c.Duration.Seconds()
		}
		out = append(out, Attempt{
			N: n, Backend: r.Backend(), Endpoint: c.Endpoint, StartSeconds: start, DurationSeconds: max(0, end-start), Status: c.Status, Flags: c.Flags,
			Failed: r.Outcome == state.Failed, Last: true, Reason: lastReason(r),
		})
	}
	slices.SortFunc(out, func(a, b Attempt) int { return cmp.Compare(a.N, b.N) })
	for i := range out {
		t := &out[i]
		if len(r.Prepared) == n && r.Prepared[t.N-1].Backend == t.Backend {
			t.Model = r.Prepared[t.N-1].UpstreamModel
		} else if t.Last && r.Entry.Backend == t.Backend {
			t.Model = r.Entry.UpstreamModel
		}
	}
	return out
}

func lastReason(r *state.Request) string {
	if r.Outcome == state.Failed {
		return r.Reason
	}
	return ""
}

// why an attempt failed.
func why(f *usage.Failed) string {
	kind := state.FailureOf(f.Status, f.Flags)
	if kind == "" && f.Status > 0 {
		kind = "status " + strconv.Itoa(f.Status)
	}
	if f.Reason == "" || kind == "" {
		return kind + f.Reason
	}
	return kind + ": " + f.Reason
}

// timeline are the moments that are known, in order.
func timeline(r *state.Request) []Moment {
	c, t := &r.Record, &r.Record.Timing
	out := []Moment{}
	add := func(name string, at time.Duration) {
		if at > 0 {
			out = append(out, Moment{name, at.Seconds()})
		}
	}
	add("received", t.Received)
	if !r.Decided.IsZero() {
		add("decided", r.Decided.Sub(r.Began))
	}
	add("sent", t.BackendSent)
	add("sentAll", t.BackendSentLast)
	add("firstByte", t.BackendFirst)
	add("firstToken", r.TTFT())
	add("lastByte", t.BackendLast)
	add("done", c.Duration)
	slices.SortStableFunc(out, func(a, b Moment) int { return cmp.Compare(a.AtSeconds, b.AtSeconds) })
	return out
}

// cacheSteps tell what came of the cache.
var cacheSteps = map[string]string{
	"hit":      "The answer was in the cache: it cost nothing.",
	"stale":    "The answer was in the cache and past its TTL: it cost nothing, and was bought again in the background.",
	"negative": "The cache had the provider's refusal of the same request.",
	"shared":   "Somebody else was buying the same answer: it was shared, and cost nothing.",
	"miss":     "The cache did not have the answer: it was bought.",
	"bypass":   "The cache may do nothing for the request.",
}

// steps tell a decision in sentences.
func steps(r *Request) []string {
	d := &r.Decision
	out := []string{}
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	switch {
	case d.Consumer != "" && d.Credential != "":
		say("Consumer %s of tenant %s was let in by %s.", d.Consumer, orNobody(d.Tenant), d.Credential)
	case d.Consumer != "" || d.Tenant != "":
		say("Consumer %s of tenant %s was let in.", orNobody(d.Consumer), orNobody(d.Tenant))
	}
	if d.Route != "" {
		text := strings.Join(d.Matched, "; or ")
		if text == "" {
			text = "how it matches is not known any more, the configuration has changed since"
		}
		say("Route %s serves the model %s: %s.", d.Route, strconv.Quote(r.Model), text)
	}
	for _, l := range d.Limits {
		say("The limit %s was asked: %d of %d %s remained.", l.Name, l.Remaining, l.Limit, strings.ToLower(l.Unit))
	}
	if n := len(d.Candidates); n > 0 {
		names := make([]string, n)
		for i, c := range d.Candidates {
			names[i] = fmt.Sprintf("%s (priority %d, weight %d)", c.Backend, c.Priority, c.Weight)
		}
		say("It could be served by %s.", strings.Join(names, ", "))
	}
	if len(d.Endpoints) > 0 {
		say("Weir picked the endpoint %s.", strings.Join(d.Endpoints, ", then "))
	}
	for _, t := range r.Tried {
		at := t.Backend
		if t.Endpoint != "" {
			at += " at " + t.Endpoint
		}
		switch {
		case t.Failed:
			say("Attempt %d, %s, failed: %s.", t.N, at, t.Reason)
		case t.Status > 0:
			say("Attempt %d, %s, answered %d.", t.N, at, t.Status)
		default:
			say("Attempt %d, %s, was under way.", t.N, at)
		}
	}
	if text := cacheSteps[r.Cache]; text != "" {
		say("%s", text)
	}
	if r.SavedCost != "" {
		say("It would have cost %s %s at the prices of the time.", r.SavedCost, r.Currency)
	}
	if r.Purpose != "" {
		say("Weir asked by itself, on behalf of the consumer: %s.", r.Purpose)
	}
	switch r.Outcome {
	case state.Refused:
		say("Refused with %d: %s", r.Status, r.Reason)
	case state.Aborted, state.Interrupted:
		say("It ended early: %s.", r.Reason)
	}
	return out
}
