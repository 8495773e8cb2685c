package api

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/weir-dev/weir/console/state"
)

// defaultMinutes are shown.
const defaultMinutes = 60

// shownEvents of all.
const shownEvents = 200

// span is how much of the history is asked for.
type span struct {
	minutes int
	all     bool
}

func parseSpan(q url.Values) (span, error) {
	s := span{minutes: defaultMinutes}
	if v := q.Get("minutes"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 || n > state.Minutes {
			return s, fmt.Errorf("minutes must be a number from 1 to %d, not %q", state.Minutes, v)
		}
		s.minutes = n
	}
	switch v := q.Get("all"); v {
	case "", "false":
	case "true":
		s.all = true
	default:
		return s, fmt.Errorf("all must be true or false, not %q", v)
	}
	return s, nil
}

func (a *API) history(w http.ResponseWriter, r *http.Request) {
	s, err := parseSpan(r.URL.Query())
	if err != nil {
		Fail(w, http.StatusBadRequest, err.Error())
		return
	}
	now := a.Now()
	body := History{At: now.UTC(), Since: a.State.Started.UTC(), Dependencies: []Dependency{}, Events: []Event{}}
	for _, d := range a.State.History.All(now) {
		made := dependencyOf(&d, s.minutes)
		if d.Subject.Kind == state.KindEndpoint && !s.all && quiet(&made, now.Add(-time.Duration(s.minutes)*time.Minute)) {
			continue
		}
		body.Dependencies = append(body.Dependencies, made)
	}
	slices.SortStableFunc(body.Dependencies, func(a, b Dependency) int { return cmp.Compare(trouble(b.State), trouble(a.State)) })
	events, _ := a.State.History.Events(0)
	for i := range events[:min(len(events), shownEvents)] {
		body.Events = append(body.Events, eventOf(&events[i]))
	}
	write(w, body)
}

// quiet says whether there is nothing to tell of a dependency since then.
func quiet(d *Dependency, then time.Time) bool {
	return trouble(d.State) == 0 && !slices.ContainsFunc(d.Failures, func(n uint32) bool { return n > 0 }) &&
		!slices.ContainsFunc(d.Events, func(e Event) bool { return e.At.After(then) })
}

func trouble(s string) int {
	switch s {
	case state.StateDown:
		return 2
	case state.StateDegraded:
		return 1
	}
	return 0
}

func dependencyID(s state.Subject) string { return s.Kind + ":" + s.Name }

func dependencyOf(d *state.Dependency, minutes int) Dependency {
	out := Dependency{
		ID: dependencyID(d.Subject), Kind: d.Subject.Kind, Name: d.Subject.Name, State: d.State, Why: d.Why, Since: d.Since.UTC(),
		FirstMinute: d.FirstMinute.Add(time.Duration(state.Minutes-minutes) * time.Minute), Failures: []uint32{}, Requests: []uint32{}, Events: []Event{},
	}
	if d.Failures != nil {
		out.Failures, out.Requests = d.Failures[state.Minutes-minutes:], d.Requests[state.Minutes-minutes:]
	}
	for i := range d.Events {
		out.Events = append(out.Events, eventOf(&d.Events[i]))
	}
	return out
}

func eventOf(e *state.Event) Event {
	return Event{Seq: e.Seq, At: e.At.UTC(), Dependency: dependencyID(e.Subject), Severity: e.Severity, Type: e.Type, Text: e.Text, Count: e.Count}
}
