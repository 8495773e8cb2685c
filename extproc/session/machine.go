package session

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/weir-dev/weir/adapters/canon"
)

// Machine is a finite state machine. Make it with NewMachine.
type Machine struct {
	Initial     string
	States      map[string]*State
	Transitions []*Transition
	// Events that are found in what is said, in the order in which they are tried.
	Events []*EventRule
}

// State is one state.
type State struct {
	Name string
	// Timeout after which it is left for OnTimeout; 0: never.
	Timeout      time.Duration
	OnTimeout    string
	Instructions string
	OnEnter      []string
}

// Transition leads from some states, or from any, to one.
type Transition struct {
	From  []string // none: any
	To    string
	On    string
	Guard *Expression // nil: none
}

// EventRule finds an event: by a pattern, an expression or a function.
type EventRule struct {
	Name       string
	From       Speaker
	Pattern    *regexp.Regexp
	Expression *Expression
	builtin    func(*said) bool
}

// said is what events are found in.
type said struct {
	text  string
	lower string // text in lower case; "" until it is asked for
	calls bool   // the model calls a tool
	tools bool   // the user's side gives results of tools
}

// Names of the events that are not found in words.
const (
	EventFailed  = "failed"  // a request got no answer
	EventAborted = "aborted" // its caller went away before the answer was whole
	EventTimeout = "timeout"
)

// Problem is what is wrong with a part of a Machine.
type Problem struct {
	Field string // below the machine: "transitions[2].to"
	Err   error
}

// NewMachine checks a machine, and adds the built-in events that it does not have itself. Without states it is the built-in one.
func NewMachine(initial string, states []*State, transitions []*Transition, events []*EventRule) (*Machine, []Problem) {
	var problems []Problem
	wrong := func(field, format string, args ...any) {
		problems = append(problems, Problem{field, fmt.Errorf(format, args...)})
	}
	if len(states) == 0 {
		initial, states, transitions = builtinTable()
	}
	m := &Machine{Initial: initial, States: map[string]*State{}, Transitions: transitions}
	for i, s := range states {
		if m.States[s.Name] != nil {
			wrong(fmt.Sprintf("states[%d].name", i), "there are two states %s", s.Name)
		}
		m.States[s.Name] = s
	}
	for i, e := range events {
		if e.Name == EventFailed || e.Name == EventAborted || e.Name == EventTimeout {
			wrong(fmt.Sprintf("events[%d].name", i), "%s is not found in words: Weir tells it", e.Name)
		}
		if !slices.ContainsFunc(builtinEvents(), func(b *EventRule) bool { return b.Name == e.Name }) {
			m.Events = append(m.Events, e)
		}
	}
	known := map[string]bool{EventFailed: true, EventAborted: true, EventTimeout: true}
	for _, b := range builtinEvents() {
		if i := slices.IndexFunc(events, func(e *EventRule) bool { return e.Name == b.Name }); i >= 0 {
			if events[i].From != b.From {
				wrong(fmt.Sprintf("events[%d].from", i), "the built-in event %s is of the other speaker: give this one another name", b.Name)
			}
			b = events[i]
		}
		m.Events = append(m.Events, b)
	}
	for _, e := range m.Events {
		known[e.Name] = true
	}
	if m.States[initial] == nil {
		wrong("initial", "there is no state %s", initial)
	}
	for i, s := range states {
		if s.OnTimeout != "" && m.States[s.OnTimeout] == nil {
			wrong(fmt.Sprintf("states[%d].onTimeout", i), "there is no state %s", s.OnTimeout)
		}
	}
	for i, t := range transitions {
		field := fmt.Sprintf("transitions[%d]", i)
		for k, from := range t.From {
			if m.States[from] == nil {
				wrong(fmt.Sprintf("%s.from[%d]", field, k), "there is no state %s", from)
			}
		}
		if m.States[t.To] == nil {
			wrong(field+".to", "there is no state %s", t.To)
		}
		switch {
		case t.On == EventTimeout:
			wrong(field+".event", "what a time-out leads to is said by the state: onTimeout")
		case !known[t.On]:
			wrong(field+".event", "there is no event %s: declare it in events, or use a built-in one", t.On)
		}
	}
	if len(problems) > 0 {
		return nil, problems
	}
	for _, lost := range m.unreachable() {
		i := slices.IndexFunc(states, func(s *State) bool { return s.Name == lost })
		problems = append(problems, Problem{fmt.Sprintf("states[%d].name", i), fmt.Errorf("%w: nothing leads to the state %s", ErrUnreachable, lost)})
	}
	return m, problems
}

// ErrUnreachable is a Problem that does not keep a machine from working.
var ErrUnreachable = errors.New("the state is never entered, but by the API")

// unreachable are the states that nothing leads to.
func (m *Machine) unreachable() []string {
	seen := map[string]bool{m.Initial: true}
	for grown := true; grown; {
		grown = false
		reach := func(to string) {
			if !seen[to] {
				seen[to], grown = true, true
			}
		}
		for name := range seen {
			if s := m.States[name]; s.OnTimeout != "" {
				reach(s.OnTimeout)
			}
			for _, t := range m.Transitions {
				if t.leaves(name) {
					reach(t.To)
				}
			}
		}
	}
	var out []string
	for name := range m.States {
		if !seen[name] {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

func (t *Transition) leaves(state string) bool {
	return len(t.From) == 0 || slices.Contains(t.From, state)
}

// found tells whether an event is in what was said.
func (e *EventRule) found(w *said, f *facts) (bool, error) {
	switch {
	case e.Pattern != nil:
		return e.Pattern.MatchString(w.text), nil
	case e.Expression != nil:
		return e.Expression.holds(f)
	}
	return e.builtin(w), nil
}

// begin gives a session its first state. One whose state is not there any more, because the policy was changed, begins anew.
func (m *Machine) begin(s *Session, now time.Time) {
	if m.States[s.State] == nil {
		s.State, s.Entered = m.Initial, now
	}
}

// expire leaves the states whose time is over, as of when it was: at most each state once, so that two that lead to each other end.
func (m *Machine) expire(s *Session, now time.Time, tell func(Event)) (left bool) {
	for range m.States {
		due, ok := m.due(s)
		if !ok || now.Before(due) {
			return left
		}
		m.enter(s, EventTimeout, m.States[s.State].OnTimeout, due, tell)
		left = true
	}
	return left
}

// due is when the state of a session is over.
func (m *Machine) due(s *Session) (time.Time, bool) {
	if state := m.States[s.State]; state != nil && state.Timeout > 0 {
		return s.Entered.Add(state.Timeout), true
	}
	return time.Time{}, false
}

// step takes the first transition that an event of one who speaks allows. failed is told expressions that could not be evaluated.
func (m *Machine) step(s *Session, from Speaker, w *said, f *facts, now time.Time, tell func(Event), failed func(error)) {
	for _, e := range m.Events {
		if e.From != from {
			continue
		}
		f.event = ""
		yes, err := e.found(w, f)
		if err != nil {
			failed(err)
		}
		if yes && m.fire(s, e.Name, f, now, tell, failed) {
			return
		}
	}
}

// fire takes the first transition that the event allows, and says whether there is one.
func (m *Machine) fire(s *Session, event string, f *facts, now time.Time, tell func(Event), failed func(error)) bool {
	f.event = event
	for _, t := range m.Transitions {
		if t.On != event || !t.leaves(s.State) {
			continue
		}
		if t.Guard != nil {
			yes, err := t.Guard.holds(f)
			if err != nil {
				failed(err)
			}
			if !yes {
				continue
			}
		}
		m.enter(s, event, t.To, now, tell)
		return true
	}
	return false
}

func (m *Machine) enter(s *Session, event, to string, at time.Time, tell func(Event)) {
	from := s.State
	s.State, s.Entered = to, at
	tell(Event{At: at, Name: event, From: from, To: to})
	if from != to {
		for _, name := range m.States[to].OnEnter {
			tell(Event{At: at, Name: name, From: to, To: to})
		}
	}
}

// said of messages.
func saidOf(list []canon.Message, role canon.Role) *said {
	w := &said{text: textOf(list, role)}
	for i := range list {
		w.tools = w.tools || list[i].Role == canon.RoleTool
		for j := range list[i].Parts {
			w.calls = w.calls || list[i].Parts[j].Call != nil
		}
	}
	return w
}

// instructions of the state of a session, with the values of its slots.
func (m *Machine) instructions(s *Session) string {
	state := m.States[s.State]
	if state == nil || state.Instructions == "" {
		return ""
	}
	return slotRef.ReplaceAllStringFunc(state.Instructions, func(r string) string {
		slot, ok := s.Slots[strings.TrimSpace(r[2:len(r)-2])]
		if !ok {
			return ""
		}
		return strings.Join(words(slot.Value), ", ")
	})
}
