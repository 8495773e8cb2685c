package state

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/weir-dev/weir/extproc/breaker"
)

const (
	// Minutes that failures are counted back.
	Minutes = 240
	// maxDependencies that are told apart: the endpoints of the largest pools, and some more.
	maxDependencies = 8192
	// maxEvents are kept of all, and maxOwn of one dependency.
	maxEvents = 500
	maxOwn    = 20
	// sameWithin joins events that repeat.
	sameWithin = time.Minute
	// judged is how many minutes the health of what is not steered is judged by, the present one included.
	judged = 2
	// idleAfter is how many minutes without a request say nothing of it any more.
	idleAfter = 5
	// downAfter requests that fail in a row, a backend is down, whatever came before; and leastAll of them where all that came failed.
	downAfter, leastAll = 5, 3
)

// How dependencies are.
const (
	StateOK       = "ok"
	StateDegraded = "degraded"
	StateDown     = "down"
	StateIdle     = "idle"
)

// Severities of events.
const (
	Info    = "info"
	Warning = "warning"
	Error   = "error"
)

// The kinds of dependencies.
const (
	KindBackend       = "backend"
	KindEndpoint      = "endpoint"
	KindBreaker       = "breaker"
	KindRedis         = "redis"
	KindEnvoy         = "envoy"
	KindIssuer        = "issuer"
	KindConfiguration = "configuration"
	KindLedger        = "ledger"
)

// Subject names a dependency. The name of an endpoint is its backend, "|" and its address.
type Subject struct{ Kind, Name string }

// Event is something that happened to a dependency.
type Event struct {
	// Seq rises with each event, and when one repeats.
	Seq      uint64
	At       time.Time // the last time
	Subject  Subject
	Severity string
	Type     string
	Text     string
	Count    int // how often in a row
}

// Dependency is how something is and was.
type Dependency struct {
	Subject    Subject
	State, Why string
	Since      time.Time
	// FirstMinute is that of the first of Failures and Requests, which are Minutes long, or nil for none.
	FirstMinute        time.Time
	Failures, Requests []uint32
	Events             []Event // the newest first
}

// History remembers how what Weir depends on has failed.
type History struct {
	mu     sync.Mutex
	now    time.Time // of the beginning
	seq    uint64
	deps   map[Subject]*dependency
	events []*Event // the oldest first
	// endpoints are those of deps that requests have ended at, by their two names: to join these for each request costs more than to count it.
	endpoints map[endpoint]*dependency
}

type endpoint struct{ backend, address string }

type dependency struct {
	state, why string
	since      time.Time
	set        bool
	counts     *minutes // nil: nothing was counted
	failure    string   // the last
	verdict    string   // of the requests, when the last of them ended
	inRow      uint32   // failures since the last request that did not fail
	asked      time.Time
	events     []*Event // the oldest first
}

// minutes are counters for the last Minutes.
type minutes struct {
	last               int64 // minute of the newest
	failures, requests [Minutes]uint32
}

// at gives the place of a minute, and clears those that time has passed.
func (m *minutes) at(minute int64) int {
	if minute > m.last {
		for k := max(m.last+1, minute-Minutes+1); k <= minute; k++ {
			m.failures[k%Minutes], m.requests[k%Minutes] = 0, 0
		}
		m.last = minute
	}
	return int(minute % Minutes)
}

// sum adds up the last n minutes before and with the one given.
func (m *minutes) sum(minute int64, n int64) (failures, requests uint32) {
	for k := max(minute-n+1, m.last-Minutes+1); k <= min(minute, m.last); k++ {
		failures += m.failures[k%Minutes]
		requests += m.requests[k%Minutes]
	}
	return failures, requests
}

func newHistory(now time.Time) *History {
	return &History{now: now, deps: map[Subject]*dependency{}, endpoints: map[endpoint]*dependency{}}
}

func minuteOf(t time.Time) int64 { return t.Unix() / 60 }

// get finds a dependency, or makes one. It is nil where there are too many. The lock is held.
func (h *History) get(s Subject, now time.Time) *dependency {
	d := h.deps[s]
	if d == nil && len(h.deps) < maxDependencies {
		d = &dependency{state: StateIdle, since: now}
		h.deps[s] = d
	}
	return d
}

// ended counts how the attempts of a request have ended.
func (h *History) ended(now time.Time, ends []end) {
	if len(ends) == 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range ends {
		e := &ends[i]
		h.counted(h.get(Subject{KindBackend, e.backend}, now), e.backend, e.kind, now)
		if e.endpoint != "" {
			h.counted(h.endpoint(endpoint{e.backend, e.endpoint}, now), "", e.kind, now)
		}
	}
}

// endpoint is get for an endpoint.
func (h *History) endpoint(e endpoint, now time.Time) *dependency {
	d := h.endpoints[e]
	if d == nil {
		if d = h.get(Subject{KindEndpoint, EndpointName(e.backend, e.address)}, now); d != nil {
			h.endpoints[e] = d
		}
	}
	return d
}

// EndpointName is the name of an endpoint as a Subject.
func EndpointName(backend, address string) string { return backend + "|" + address }

// counted counts a request of a dependency, nil for one that is not kept. backend is its name, "" where it is an endpoint.
func (h *History) counted(d *dependency, backend, failure string, now time.Time) {
	if d == nil {
		return
	}
	if d.counts == nil {
		d.counts, d.verdict = &minutes{last: minuteOf(now)}, StateOK
	}
	minute := minuteOf(now)
	if minute <= d.counts.last-Minutes { // the clock was hours ahead: nothing would be counted until it is there again
		*d.counts = minutes{last: minute}
	}
	at := d.counts.at(minute)
	d.counts.requests[at]++
	d.asked = now
	if failure == "" {
		d.inRow = 0
		d.verdict = better(d.verdict, d.judge(d.counts.last)) // a success makes nothing worse
		return
	}
	d.counts.failures[at]++
	d.failure = failure
	d.inRow++
	d.verdict = d.judge(d.counts.last)
	if backend != "" {
		h.note(d, Event{At: now, Subject: Subject{KindBackend, backend}, Severity: Warning, Type: "failure", Text: "Requests fail: " + failure + "."})
	}
}

// note adds an event, or counts it if the dependency has had the same just before. The lock is held.
func (h *History) note(d *dependency, e Event) {
	h.seq++
	e.Seq, e.Count = h.seq, 1
	for _, o := range slices.Backward(d.events) {
		if o.Type == e.Type && o.Text == e.Text && o.Severity == e.Severity {
			if e.At.Sub(o.At) > sameWithin {
				break
			}
			o.Seq, o.At = e.Seq, e.At
			o.Count++
			if !slices.Contains(h.events, o) { // others have taken its place meanwhile
				h.events = keep(h.events, o, maxEvents)
			}
			return
		}
	}
	d.events = keep(d.events, &e, maxOwn)
	h.events = keep(h.events, &e, maxEvents)
}

// keep appends, and forgets the first of too many.
func keep(list []*Event, e *Event, most int) []*Event {
	if len(list) >= most {
		copy(list, list[1:])
		list = list[:len(list)-1]
	}
	return append(list, e)
}

// Note adds an event that changes nothing about how its subject is.
func (h *History) Note(now time.Time, s Subject, severity, kind, text string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if d := h.get(s, now); d != nil {
		h.note(d, Event{At: now, Subject: s, Severity: severity, Type: kind, Text: text})
	}
}

// Fail says that a dependency is down from now on, and adds an event in any case: what was down may fail again.
func (h *History) Fail(now time.Time, s Subject, why, kind string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	d := h.get(s, now)
	if d == nil {
		return
	}
	if d.state != StateDown {
		d.since = now
	}
	d.set, d.state, d.why = true, StateDown, why
	h.note(d, Event{At: now, Subject: s, Severity: Error, Type: kind, Text: sentence("Down", why)})
}

// Set says how a dependency is, and why. A change is an event of this kind, but for the first that is told of it, unless it is down.
func (h *History) Set(now time.Time, s Subject, state, why, kind string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	d := h.get(s, now)
	if d == nil {
		return
	}
	before := d.state
	changed, first := before != state, !d.set
	d.set, d.why = true, why
	if changed {
		d.state, d.since = state, now
	}
	well := func(s string) bool { return s == StateOK || s == StateIdle }
	if !changed || well(before) && well(state) || first && state != StateDown {
		return
	}
	e := Event{At: now, Subject: s, Severity: Info, Type: kind, Text: "Well again."}
	switch state {
	case StateDegraded:
		e.Severity, e.Text = Warning, sentence("Not fully well", why)
	case StateDown:
		e.Severity, e.Text = Error, sentence("Down", why)
	case StateIdle:
		e.Text = "Nothing is known any more: nobody has asked it lately."
	}
	h.note(d, e)
}

func sentence(what, why string) string {
	if why == "" {
		return what + "."
	}
	return what + ": " + why
}

// judge says how something is by the requests of the window that ends with a minute.
func (d *dependency) judge(minute int64) string {
	failures, requests := d.counts.sum(minute, judged)
	switch {
	case failures == requests && failures >= leastAll, min(failures, d.inRow) >= downAfter:
		return StateDown
	case failures > 0 && failures*10 >= requests:
		return StateDegraded
	}
	return StateOK
}

// better is the better of two verdicts.
func better(a, b string) string {
	for _, s := range [...]string{StateOK, StateDegraded} {
		if a == s || b == s {
			return s
		}
	}
	return StateDown
}

// Judge says how something is by the requests of the last minutes, and why. It becomes worse only by a request that fails, and not because
// good ones have become old. While nobody asks, it stays as it was, and is "idle" after idleAfter.
func (h *History) Judge(now time.Time, s Subject) (state, why string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	d := h.deps[s]
	if d == nil || d.counts == nil {
		return StateIdle, ""
	}
	minute := minuteOf(now)
	if _, lately := d.counts.sum(minute, idleAfter); lately == 0 {
		return StateIdle, ""
	}
	if state = d.verdict; d.inRow == 0 {
		state = better(state, d.judge(min(minute, d.counts.last+judged-1)))
	}
	if state == StateOK {
		return state, ""
	}
	failures, requests := d.counts.sum(minute, judged)
	switch {
	case requests == 0:
		why = fmt.Sprintf("no request for %d min; ", max(1, int(now.Sub(d.asked)/time.Minute)))
		switch d.inRow {
		case 0:
			why += "some of the last have failed"
		case 1:
			why += "the last has failed"
		default:
			why += fmt.Sprintf("the last %d have failed", d.inRow)
		}
	case state == StateDown && failures == requests:
		why = "every request of the last two minutes has failed"
	case state == StateDown:
		why = fmt.Sprintf("the last %d requests have failed", d.inRow)
	default:
		why = "requests of the last two minutes have failed"
	}
	return state, why + ": " + d.failure
}

// Breaker adds an event of a circuit breaker's change. One of a LimitPolicy is a dependency of its own, which is as the breaker is.
func (h *History) Breaker(s Subject, c breaker.Change) {
	if c.Forgotten {
		h.mu.Lock()
		if s.Kind == KindBreaker {
			delete(h.deps, s)
		}
		h.mu.Unlock()
		return
	}
	severity, text := Info, "The circuit breaker is "+breakerWords[c.To]+"."
	if c.To == breaker.Open {
		severity = Error
		if c.Requests > 0 {
			text = fmt.Sprintf("The circuit breaker has opened: %d of %d requests failed.", c.Failures, c.Requests)
		} else {
			text = "The circuit breaker has opened again: a trying request failed."
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	d := h.get(s, c.At)
	if d == nil {
		return
	}
	if s.Kind == KindBreaker {
		d.set, d.since = true, c.At
		d.state, d.why = map[breaker.State]string{breaker.Open: StateDown, breaker.HalfOpen: StateDegraded, breaker.WarmingUp: StateDegraded}[c.To], ""
		if d.state == "" {
			d.state = StateOK
		} else {
			d.why = text
		}
	}
	h.note(d, Event{At: c.At, Subject: s, Severity: severity, Type: "breaker", Text: text})
}

// breakerWords say what a breaker has become.
var breakerWords = [...]string{
	breaker.Closed: "closed again", breaker.WarmingUp: "letting requests come back", breaker.HalfOpen: "trying a few requests", breaker.Open: "open",
}

// Drop forgets how dependencies of a kind are that keep does not know any more. Their events stay.
func (h *History) Drop(kind string, keep func(name string) bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for s := range h.deps {
		if s.Kind == kind && !keep(s.Name) {
			delete(h.deps, s)
		}
	}
	if kind == KindEndpoint {
		clear(h.endpoints) // those that are left are found again
	}
}

// copiedAtOnce dependencies keep requests that end from being counted while they are copied: for some 0.1 ms.
const copiedAtOnce = 64

// All is everything, sorted by kind and name.
func (h *History) All(now time.Time) []Dependency {
	h.mu.Lock()
	subjects := slices.Collect(maps.Keys(h.deps))
	h.mu.Unlock()
	slices.SortFunc(subjects, func(a, b Subject) int { return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name)) })
	out := make([]Dependency, 0, len(subjects))
	for some := range slices.Chunk(subjects, copiedAtOnce) {
		out = h.copy(out, some, minuteOf(now))
	}
	return out
}

// copy appends how those of the subjects are that are still known.
func (h *History) copy(out []Dependency, subjects []Subject, minute int64) []Dependency {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range subjects {
		d := h.deps[s]
		if d == nil {
			continue
		}
		o := Dependency{Subject: s, State: d.state, Why: d.why, Since: d.since, FirstMinute: time.Unix((minute-Minutes+1)*60, 0).UTC()}
		for _, e := range slices.Backward(d.events) {
			o.Events = append(o.Events, *e)
		}
		if d.counts != nil {
			o.Failures, o.Requests = make([]uint32, Minutes), make([]uint32, Minutes)
			for i := range int64(Minutes) {
				k := minute - Minutes + 1 + i
				if k > d.counts.last-Minutes && k <= d.counts.last {
					o.Failures[i], o.Requests[i] = d.counts.failures[k%Minutes], d.counts.requests[k%Minutes]
				}
			}
		}
		out = append(out, o)
	}
	return out
}

// Events are those of all after the one that seq is of, the newest first, and the Seq of the newest.
func (h *History) Events(seq uint64) ([]Event, uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []Event
	if seq < h.seq {
		for _, e := range h.events {
			if e.Seq > seq {
				out = append(out, *e)
			}
		}
	}
	slices.SortFunc(out, func(a, b Event) int { return cmp.Compare(b.Seq, a.Seq) })
	return out, h.seq
}
