package session

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/weir-dev/weir/adapters/canon"
)

// Call is a request that names a session.
type Call struct {
	Address Address
	// Dialect of the caller.
	Dialect *canon.Dialect
	// Body as the caller sent it. It does not change until the turn has ended.
	Body []byte
	// Headers of the request; credentials among them are not looked at.
	Headers http.Header
	// Request is what Body says, for dialects whose messages cannot be added to in place, and with OwnHistory. Else Body is parsed here.
	Request *canon.Request
	// OwnHistory says that somebody else keeps and adds the turns: only rules, states and instructions are wanted.
	OwnHistory bool
	// Caller asks models; nil: none is asked.
	Caller Caller
}

// What a caller is told about its session, in the header x-weir-session-state.
const (
	StateOK   = "ok"
	StateNew  = "new"
	StateLost = "lost" // it could not be read, so the request went on without it, or was refused
)

// Turn is one request in a session. It ends with Commit or Abort. It is used by one goroutine at a time.
type Turn struct {
	m      *Manager
	policy *Policy
	call   Call
	state  string
	id     string

	body    []byte
	layout  *layout         // of the caller's body; nil for dialects that cannot be added to
	request *canon.Request  // of body; nil: not parsed yet
	talk    []canon.Message // the caller's, without system prompts
	fresh   []canon.Message
	user    *said
	model   string
	sticky  string
	add     []canon.Message
	added   int  // turns
	summed  bool // a summary of what was before them goes with them

	base    *Session // as it was; nil: there was none, or it could not be read
	last    *seen    // what was there when the turn looked last; nil: that is not known
	erasure string   // the last one that this turn knows of
	changed bool     // what the user said has been written already
	found   found    // by rules in what the user said
	done    bool
}

const codeUnavailable = "session_unavailable"

// Begin reads the session of a request and adds what the policy says to it. Where the request is refused after that was tried there is a turn
// beside the error: its State is what the caller is told, and it is to be aborted.
func (m *Manager) Begin(ctx context.Context, p *Policy, c Call) (*Turn, *canon.Error) {
	t := &Turn{m: m, policy: p, call: c, state: StateOK, id: newID()}
	if err := t.parse(); err != nil {
		return nil, err
	}
	found, lost := m.fetch(ctx, p, c.Address)
	s := t.knows(found)
	if lost == nil {
		lost = t.plan(s)
	}
	if lost != nil {
		m.failed("read", lost)
		if p.Deny {
			m.metrics.requests.WithLabelValues(p.ID, "denied").Inc()
			t.state, t.done = StateLost, true
			return t, &canon.Error{Kind: canon.ErrOverloaded, Code: codeUnavailable, RetryAfter: time.Second,
				Message: "The session of the request cannot be read now; try again in a moment."}
		}
		s = t.knows(nil)
		_ = t.plan(s) // there is nothing in it that could not be read
		t.state = StateLost
	}
	if p.Sticky {
		t.sticky = strings.Join([]string{c.Address.Tenant, c.Address.Consumer, c.Address.ID}, "\x00")
	}
	t.listen(ctx, s)
	if err := t.write(s); err != nil {
		return t, err
	}
	m.metrics.requests.WithLabelValues(p.ID, t.state).Inc()
	return t, nil
}

// fetch reads what is at an address, a note that it was erased included.
func (m *Manager) fetch(ctx context.Context, p *Policy, a Address) (*seen, error) {
	began := m.now()
	s, v, err := m.load(ctx, p, a)
	m.metrics.seconds.WithLabelValues("read").Observe(m.now().Sub(began).Seconds())
	if err != nil {
		return nil, err
	}
	return &seen{s, v}, nil
}

// knows notes what was found, nil where that is not known, and gives the session to work with.
func (t *Turn) knows(found *seen) *Session {
	t.base, t.last, t.erasure, t.state = nil, found, "", StateNew
	if found != nil && found.session != nil {
		t.erasure = found.session.Erasure
		if !found.session.Erased {
			t.base, t.state = found.session, StateOK
			return t.base.clone()
		}
	}
	return t.m.start(t.policy, t.call.Address, nil)
}

// parse reads the request.
func (t *Turn) parse() *canon.Error {
	c := &t.call
	if c.OwnHistory || shapeOf(c.Dialect.Name) == noShape {
		t.request = c.Request
	} else {
		var err *canon.Error
		if t.layout, err = layoutOf(c.Body); err != nil {
			return err
		}
		if t.request, err = t.layout.parse(c.Dialect, shapeOf(c.Dialect.Name)); err != nil {
			return err
		}
	}
	if t.request == nil {
		return &canon.Error{Kind: canon.ErrInternal, Message: "The dialect " + c.Dialect.Name + " cannot hold a session here."}
	}
	t.model = strings.Clone(t.request.Model)
	t.talk = make([]canon.Message, 0, len(t.request.Messages))
	for _, m := range t.request.Messages {
		if !isSystem(m.Role) {
			t.talk = append(t.talk, m)
		}
	}
	return nil
}

// plan decides what is added to the request. Its error is of turns that cannot be read.
func (t *Turn) plan(s *Session) error {
	t.fresh = unmarked(t.talk[answered(t.talk):])
	if !t.call.OwnHistory {
		plan, err := planOf(s.Turns, t.talk, bounds{t.policy.HistoryTurns, t.policy.HistoryTokens})
		if err != nil {
			return err
		}
		t.fresh, t.add, t.added = unmarked(plan.fresh), plan.add, plan.turns
		t.summed = plan.all || plan.turns > 0
		if shapeOf(t.call.Dialect.Name) == noShape {
			t.request = withMessages(t.call.Request, plan.add)
		}
		t.m.metrics.added.WithLabelValues(t.policy.ID).Add(float64(tokensOf(plan.add)))
	}
	t.user = saidOf(t.fresh, canon.RoleUser)
	t.user.text = strings.Clone(t.user.text)
	return nil
}

// withMessages is a request with messages before what the caller says.
func withMessages(r *canon.Request, add []canon.Message) *canon.Request {
	out := *r
	at := 0
	for at < len(r.Messages) && isSystem(r.Messages[at].Role) {
		at++
	}
	out.Messages = slices.Concat(r.Messages[:at], add, r.Messages[at:])
	return &out
}

// listen finds what the user says, and moves the state. Where that changes something it is written at once, so that others see it; if it
// cannot be now, it is written with the answer.
func (t *Turn) listen(ctx context.Context, s *Session) {
	m, p := t.m, t.policy
	now := m.now()
	t.found = m.apply(p, s, User, t.user.text, t.call.Headers, now)
	if x := p.Extraction; x != nil && x.Before && t.call.Caller != nil && t.user.text != "" {
		more := m.extract(ctx, p, s, t.call.Caller, t.user.text, "")
		t.found.intent = cmpOr(more.intent, t.found.intent)
		t.found.slots = append(t.found.slots, more.slots...)
		t.found.entities = append(t.found.entities, more.entities...)
	}
	if p.Machine == nil && t.found.empty() {
		return
	}
	before := s.clone()
	t.userSays(s, now, func(Event) {})
	if t.state == StateLost || before.State == s.State && before.Entered.Equal(s.Entered) && t.found.empty() {
		return
	}
	written, err := m.changeFrom(ctx, p, t.call.Address, t.last, func(s *Session, there bool, tell func(Event)) (bool, error) {
		t.restore(s, there)
		if t.erased(s) {
			return false, ErrErased
		}
		t.userSays(s, now, tell)
		return true, nil
	})
	if err != nil {
		t.last = nil
		m.failed("write", err)
		return
	}
	t.changed, t.last = true, &written
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// userSays applies what the user says to a session.
func (t *Turn) userSays(s *Session, now time.Time, tell func(Event)) {
	p := t.policy
	t.m.over(p, t.found.apply(s))
	if p.Machine == nil {
		return
	}
	p.Machine.begin(s, now)
	p.Machine.expire(s, now, tell)
	p.Machine.step(s, User, t.user, &facts{s: s, text: t.user.text, headers: t.call.Headers}, now, tell, t.m.ruleFailed(p))
}

// over notes slots that a session has no room for.
func (m *Manager) over(p *Policy, n int) {
	if n > 0 {
		m.metrics.failures.WithLabelValues("slots").Add(float64(n))
		m.log.Warn("a session has no room for a slot", "policy", p.ID, "slots", maxSlots, "bytes", maxSlotBytes)
	}
}

func (m *Manager) ruleFailed(p *Policy) func(error) {
	return func(error) { m.metrics.ruleErrors.WithLabelValues(p.ID).Inc() } // the error may quote what was said
}

// apply finds by rules what is said, and gives it to the session for those that follow.
func (m *Manager) apply(p *Policy, s *Session, from Speaker, text string, headers http.Header, now time.Time) (all found) {
	f := &facts{s: s.clone(), text: text, headers: headers}
	for _, r := range p.Rules {
		if r.From != from || text == "" {
			continue
		}
		one, err := r.run(f, Slot{Source: FromRule, At: now})
		if err != nil {
			m.ruleFailed(p)(err)
			continue
		}
		one.apply(f.s)
		all.intent = cmpOr(one.intent, all.intent)
		all.slots = append(all.slots, one.slots...)
		all.entities = append(all.entities, one.entities...)
	}
	return all
}

// write makes the body that is sent on.
func (t *Turn) write(s *Session) *canon.Error {
	var system []string
	if t.base != nil && t.base.Summary != nil && t.summed {
		system = append(system, summaryHead+t.base.Summary.Text)
	}
	if t.policy.Machine != nil {
		if text := t.policy.Machine.instructions(s); text != "" {
			system = append(system, text)
		}
	}
	c := &t.call
	form := shapeOf(c.Dialect.Name)
	if c.OwnHistory || form == noShape {
		if len(system) > 0 {
			var add []canon.Message
			for _, text := range system {
				add = append(add, canon.Message{Role: canon.RoleSystem, Parts: []canon.Part{{Text: text}}})
			}
			t.request = withMessages(t.request, add)
		}
		t.body = c.Body
		return nil
	}
	elements, err := printed(c.Dialect, t.add)
	if err != nil {
		return err
	}
	t.body = c.Body
	if len(elements) > 0 || len(system) > 0 {
		t.body = t.layout.into(form, system, elements)
	}
	t.request = nil
	return nil
}

// Body is what is sent on: the caller's bytes, with what was added. For a dialect whose bytes cannot be added to it is the caller's, and
// Request says all.
func (t *Turn) Body() []byte { return t.body }

// Request is what Body says, with what was added.
func (t *Turn) Request() (*canon.Request, *canon.Error) {
	if t.request == nil {
		var err *canon.Error
		if t.request, err = t.call.Dialect.In.ParseRequest(t.body); err != nil {
			return nil, err
		}
	}
	return t.request, nil
}

// State is what the caller is told.
func (t *Turn) State() string { return t.state }

// Added says how many turns were added.
func (t *Turn) Added() int { return t.added }

// Sticky is what keeps the requests of the session at one endpoint (pick.Request.Session); "" where the policy does not want that.
func (t *Turn) Sticky() string { return t.sticky }

// Commit writes the answer. It may be called when the caller has gone: ctx gives values and no end.
func (t *Turn) Commit(ctx context.Context, r *canon.Response) error {
	if t.done {
		return nil
	}
	t.done = true
	m, p := t.m, t.policy
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
	defer cancel()
	now := m.now()
	output := Messages{{Role: canon.RoleAssistant, Parts: r.Parts}}
	answer := saidOf(output, canon.RoleAssistant)
	entry := Said{ID: t.id, At: now, Input: t.fresh, Output: output, Model: t.model}
	entry.Tokens = tokensOf(entry.Input) + tokensOf(entry.Output)
	kept, err := m.changeFrom(ctx, p, t.call.Address, t.last, func(s *Session, there bool, tell func(Event)) (bool, error) {
		restored := t.restore(s, there)
		if t.erased(s) {
			return false, ErrErased
		}
		if slices.ContainsFunc(s.Turns, func(o Said) bool { return o.ID == t.id }) {
			return false, nil // the outcome of a write was not known, and it was done
		}
		if !t.changed || restored {
			t.userSays(s, now, tell)
		}
		heard := m.apply(p, s, Assistant, answer.text, t.call.Headers, now)
		m.over(p, heard.apply(s))
		if p.Machine != nil {
			p.Machine.begin(s, now)
			p.Machine.step(s, Assistant, answer, &facts{s: s, text: answer.text, headers: t.call.Headers}, now, tell, m.ruleFailed(p))
		}
		if !t.call.OwnHistory && len(output[0].Parts) > 0 {
			return true, s.append(entry)
		}
		return true, nil
	})
	if err != nil {
		if !errors.Is(err, ErrErased) {
			m.failed("write", err)
		}
		return err
	}
	t.after(kept.session, strings.Clone(answer.text))
	return nil
}

// erased says whether what the turn knows was erased since. A note of it that has expired says nothing.
func (t *Turn) erased(s *Session) bool { return s.Erasure != "" && s.Erasure != t.erasure }

// restore brings back what the store has lost and this turn still knows.
func (t *Turn) restore(s *Session, there bool) bool {
	if there || t.base == nil || t.erased(s) {
		return false
	}
	*s = *t.base.clone()
	return true
}

// Abort ends a turn that got no answer. event says why: EventFailed, or EventAborted where the caller did not wait for it.
func (t *Turn) Abort(ctx context.Context, event string) {
	if t.done {
		return
	}
	t.done = true
	m, p := t.m, t.policy
	if p.Machine == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
	defer cancel()
	_, err := m.change(ctx, p, t.call.Address, func(s *Session, there bool, tell func(Event)) (bool, error) { // what is there, for it may not change
		if !there || t.erased(s) {
			return false, nil
		}
		f := &facts{s: s, headers: t.call.Headers}
		return p.Machine.fire(s, event, f, m.now(), tell, m.ruleFailed(p)), nil
	})
	if err != nil {
		m.failed("write", err)
	}
}

// after asks models about what was said, when the answer has been given.
func (t *Turn) after(s *Session, answer string) {
	m, p := t.m, t.policy
	caller, a, erasure := t.call.Caller, t.call.Address, t.erasure
	if caller == nil {
		return
	}
	if x := p.Extraction; x != nil && !x.Before && t.user.text != "" {
		user := t.user.text
		m.askLater(p, PurposeExtraction, func(ctx context.Context) {
			f := m.extract(ctx, p, s, caller, user, answer)
			if f.empty() {
				return
			}
			_, err := m.change(ctx, p, a, func(s *Session, there bool, _ func(Event)) (bool, error) {
				if !there || s.Erasure != erasure {
					return false, nil
				}
				m.over(p, f.apply(s))
				return true, nil
			})
			if err != nil {
				m.failed("write", err)
			}
		})
	}
	if p.Summary != nil && p.Summary.split(s) > 0 {
		at := a.Ref()
		if _, busy := m.sums.LoadOrStore(at, true); busy {
			return // a turn before this one has begun it, and turns come faster than a model sums up
		}
		begun := m.askLater(p, PurposeSummary, func(ctx context.Context) {
			defer m.sums.Delete(at)
			m.sumUp(ctx, p, a, s, caller)
		})
		if !begun {
			m.sums.Delete(at)
		}
	}
}

// askLater says whether there is room for another question.
func (m *Manager) askLater(p *Policy, purpose Purpose, what func(ctx context.Context)) bool {
	begun := m.later(what)
	if !begun {
		m.metrics.asks.WithLabelValues(p.ID, string(purpose), "skipped").Inc()
	}
	return begun
}

// ask asks a model and counts how that went.
func (m *Manager) ask(ctx context.Context, p *Policy, caller Caller, a Ask, timeout time.Duration) (*canon.Response, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	r, err := caller.Call(ctx, a)
	if err == nil && r == nil {
		err = errors.New("the model gave no answer")
	}
	return r, err
}

func (m *Manager) asked(p *Policy, purpose Purpose, err error) {
	outcome := "ok"
	if err != nil {
		outcome = "failed"
		m.log.Warn("a model that was asked about a session gave nothing to use", "policy", p.ID, "purpose", string(purpose), "error", err)
	}
	m.metrics.asks.WithLabelValues(p.ID, string(purpose), outcome).Inc()
}

// extract asks the model of a policy what was said.
func (m *Manager) extract(ctx context.Context, p *Policy, s *Session, caller Caller, user, assistant string) (f found) {
	x := p.Extraction
	r, err := m.ask(ctx, p, caller, Ask{PurposeExtraction, x.request(s, user, assistant)}, x.Timeout)
	if err == nil {
		f, err = x.read(r, m.now())
	}
	m.asked(p, PurposeExtraction, err)
	return f
}

// sumUp sums up the oldest turns of a session, and puts the summary in their place if they are still there.
func (m *Manager) sumUp(ctx context.Context, p *Policy, a Address, s *Session, caller Caller) {
	n := p.Summary.split(s)
	if n == 0 {
		return
	}
	old := slices.Clone(s.Turns[:n])
	if err := openAll(old); err != nil {
		m.failed("read", err)
		return
	}
	r, err := m.ask(ctx, p, caller, Ask{PurposeSummary, p.Summary.request(s.Summary, old)}, p.Summary.Timeout)
	text := ""
	if err == nil {
		if text = strings.Clone(strings.TrimSpace(textOfResponse(r))); text == "" {
			err = fmt.Errorf("the model %s summed up nothing", p.Summary.Model)
		}
	}
	m.asked(p, PurposeSummary, err)
	if err != nil {
		return
	}
	gone := 0
	_, err = m.change(ctx, p, a, func(now *Session, there bool, _ func(Event)) (bool, error) {
		if gone = 0; !there || now.Erasure != s.Erasure || !sameSummary(now.Summary, s.Summary) || len(now.Turns) < n {
			return false, nil
		}
		for i := range old {
			if now.Turns[i].ID != old[i].ID {
				return false, nil // somebody has summed up, or forgotten, or a result came in between
			}
		}
		if n < len(now.Turns) && now.Turns[n].Continues {
			return false, nil
		}
		before := now.Forgotten
		now.forget(n)
		gone = now.Forgotten - before
		sum := &Summary{Text: text, Turns: gone, Tokens: textTokens(text), At: m.now()}
		if now.Summary != nil {
			sum.Turns += now.Summary.Turns
		}
		now.Summary = sum
		return true, nil
	})
	if err != nil {
		m.failed("write", err)
		return
	}
	m.metrics.forgotten.WithLabelValues(p.ID, "summary").Add(float64(gone))
}

func sameSummary(a, b *Summary) bool {
	return a == nil && b == nil || a != nil && b != nil && a.At.Equal(b.At) && a.Text == b.Text
}
