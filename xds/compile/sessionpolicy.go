package compile

import (
	"fmt"
	"regexp"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/extproc/session"
	"github.com/weir-dev/weir/xds/source"
)

// sessionCompiler compiles one SessionPolicy.
type sessionCompiler struct {
	*compiler
	ref source.ObjectRef
	env *session.Env
	ok  bool
}

// sessionPolicy compiles a SessionPolicy, but for its targets.
func (c *compiler) sessionPolicy(o *v1alpha1.SessionPolicy) (*session.Policy, bool) {
	s := &sessionCompiler{compiler: c, ref: source.ObjectRef{Kind: "SessionPolicy", Namespace: o.Namespace, Name: o.Name}, ok: true}
	spec := &o.Spec
	var err error
	if s.env, err = session.NewEnv(); err != nil {
		s.wrong("", "expressions cannot be compiled: %v", err)
		return nil, false
	}
	p := &session.Policy{
		ID: o.Namespace + "/" + o.Name, PerTenant: spec.Scope == v1alpha1.SessionPerTenant,
		HistoryTurns: 3, HistoryTokens: spec.History.MaxTokens, KeepTurns: 100,
		Idle:     v1alpha1.DurationOr(spec.Keep.IdleTimeout, 24*time.Hour),
		Absolute: v1alpha1.DurationOr(spec.Keep.AbsoluteTimeout, 720*time.Hour),
		Deny:     spec.Store.OnFailure == v1alpha1.SessionFailDeny,
		Sticky:   spec.Sticky == nil || *spec.Sticky,
	}
	if spec.History.Turns != nil {
		p.HistoryTurns = int(*spec.History.Turns)
	}
	if spec.Keep.Turns > 0 {
		p.KeepTurns = int(spec.Keep.Turns)
	}
	if p.HistoryTurns > p.KeepTurns {
		c.warnf(s.ref, "spec.history.turns", "%d turns are added to a request, but spec.keep.turns keeps %d: no more than these can be added", p.HistoryTurns, p.KeepTurns)
	}
	p.KeepBytes = s.bytes("spec.keep.bytes", spec.Keep.Bytes, 1<<20, 4<<10, 64<<20)
	p.MemoryBytes = s.bytes("spec.store.memoryBytes", spec.Store.MemoryBytes, 64<<20, 1<<20, 64<<30)
	s.headers(p, spec.Headers)
	p.Redis = s.redis(spec.Store.Type)
	s.keys(p, spec.Store.EncryptionKeys)
	s.rules(p, spec.Rules)
	s.summary(p, spec.Summary)
	s.extraction(p, spec.Extraction)
	s.machine(p, spec.StateMachine)
	if !s.ok {
		return nil, false
	}
	return p, true
}

// wrong tells what is wrong with the policy.
func (s *sessionCompiler) wrong(field, format string, args ...any) {
	s.ok = false
	s.errorf(s.ref, field, format, args...)
}

// bytes reads an amount of bytes.
func (s *sessionCompiler) bytes(field string, q *resource.Quantity, otherwise, least, most int64) int64 {
	if q == nil {
		return otherwise
	}
	n := q.Value()
	if n < least || n > most {
		s.wrong(field, "%s is not from %s to %s", q, resource.NewQuantity(least, resource.BinarySI), resource.NewQuantity(most, resource.BinarySI))
	}
	return n
}

// headers that name a session. Those that hold credentials would put them into the names of sessions.
func (s *sessionCompiler) headers(p *session.Policy, names []string) {
	if len(names) == 0 {
		names = []string{session.DefaultHeader}
	}
	seen := map[string]bool{}
	for i, name := range names {
		field := fmt.Sprintf("spec.headers[%d]", i)
		name = strings.ToLower(name)
		switch {
		case seen[name]:
			s.wrong(field, "the header %s is named twice", name)
		case session.HoldsCredential(name):
			s.wrong(field, "the header %s holds a credential, which is no name of a session", name)
		case strings.HasPrefix(name, "x-weir-") && name != session.DefaultHeader, strings.HasPrefix(name, "x-envoy-"):
			s.wrong(field, "the header %s is taken off requests at the door; only %s of this kind may be a caller's", name, session.DefaultHeader)
		}
		seen[name] = true
		p.Headers = append(p.Headers, name)
	}
}

// redis says whether sessions are kept in Redis.
func (s *sessionCompiler) redis(t v1alpha1.SessionStoreType) bool {
	if t == v1alpha1.SessionStoreMemory {
		return false
	}
	if s.asks(&s.counting.cell); s.counting.is {
		return true
	}
	if t == v1alpha1.SessionStoreRedis {
		s.wrong("spec.store.type", "no LLMGateway has sharedState, so there is no Redis: give it one, or set the type to Auto or Memory")
	}
	return false
}

// keys that encrypt.
func (s *sessionCompiler) keys(p *session.Policy, list []v1alpha1.SessionKey) {
	for i := range list {
		field := fmt.Sprintf("spec.store.encryptionKeys[%d].secretRef", i)
		secret, found := s.secret(s.ref, field, list[i].SecretRef, "the key that encrypts sessions")
		if !found {
			s.ok = false
			continue
		}
		k, err := session.NewKey(strings.TrimSpace(secret.Reveal()))
		if err != nil {
			s.wrong(field, "%v", err)
			continue
		}
		for _, other := range p.Keys {
			if other.Same(k) {
				s.wrong(field, "it is the same key as one before it")
			}
		}
		p.Keys = append(p.Keys, k)
	}
}

func speaker(v v1alpha1.SessionSpeaker) session.Speaker {
	if v == v1alpha1.SessionAssistant {
		return session.Assistant
	}
	return session.User
}

// finds compiles a pattern or an expression; yes says that an expression must be true or false.
func (s *sessionCompiler) finds(field, pattern, expression string, yes bool) (re *regexp.Regexp, e *session.Expression) {
	var err error
	if pattern != "" {
		if re, err = session.Pattern(pattern); err != nil {
			s.wrong(field+".pattern", "%v", err)
		}
		return re, nil
	}
	if e, err = s.env.Compile(expression, yes); err != nil {
		s.wrong(field+".expression", "%v", err)
	}
	return nil, e
}

func (s *sessionCompiler) rules(p *session.Policy, list []v1alpha1.SessionRule) {
	for i := range list {
		r := &list[i]
		field := fmt.Sprintf("spec.rules[%d]", i)
		out := &session.Rule{Name: string(r.Name), From: speaker(r.From), Slot: string(r.Slot), Entity: string(r.Entity), Intent: string(r.Intent)}
		out.Pattern, out.Expression = s.finds(field, r.Pattern, r.Expression, r.Intent != "")
		if out.Pattern != nil && r.Slot == "" && r.Entity == "" && r.Intent == "" && strings.Join(out.Pattern.SubexpNames(), "") == "" {
			s.wrong(field+".pattern", "it finds nothing: give a named group such as (?P<order>[0-9]+), or a slot, an entity or an intent")
		}
		p.Rules = append(p.Rules, out)
	}
}

func (s *sessionCompiler) summary(p *session.Policy, spec *v1alpha1.SessionSummary) {
	if spec == nil {
		return
	}
	p.Summary = &session.SummaryPolicy{
		Model: string(spec.Model), AfterTokens: orDefault(spec.AfterTokens, 4000), KeepTurns: max(1, p.HistoryTurns), MaxTokens: orDefault(spec.MaxTokens, 512),
		Instructions: spec.Instructions, Timeout: v1alpha1.DurationOr(spec.Timeout, 30*time.Second),
	}
	if spec.KeepTurns != nil {
		p.Summary.KeepTurns = int(*spec.KeepTurns)
	}
	if p.Summary.KeepTurns >= p.KeepTurns {
		s.warnf(s.ref, "spec.summary", "%d turns stay as they were said and spec.keep.turns is %d: turns are forgotten before they are summed up", p.Summary.KeepTurns, p.KeepTurns)
	}
}

func orDefault(v, otherwise int64) int64 {
	if v == 0 {
		return otherwise
	}
	return v
}

func (s *sessionCompiler) extraction(p *session.Policy, spec *v1alpha1.SessionExtraction) {
	if spec == nil {
		return
	}
	x := &session.Extraction{
		Model: string(spec.Model), Before: spec.When == v1alpha1.SessionBefore, Instructions: spec.Instructions,
		MaxTokens: orDefault(spec.MaxTokens, 512), Timeout: v1alpha1.DurationOr(spec.Timeout, 5*time.Second),
	}
	for i := range spec.Slots {
		slot := &spec.Slots[i]
		t := session.Term{Name: string(slot.Name), Description: slot.Description, Type: session.SlotType(slot.Type), Values: slot.Values}
		if t.Type == "" {
			t.Type = session.TypeString
		}
		if len(t.Values) > 0 && t.Type != session.TypeString {
			s.wrong(fmt.Sprintf("spec.extraction.slots[%d].values", i), "values are for slots of the type string, and this one is of the type %s", t.Type)
		}
		x.Slots = append(x.Slots, t)
	}
	x.Intents, x.Entities = terms(spec.Intents), terms(spec.Entities)
	p.Extraction = x
}

func terms(list []v1alpha1.SessionTerm) (out []session.Term) {
	for i := range list {
		out = append(out, session.Term{Name: string(list[i].Name), Description: list[i].Description})
	}
	return out
}

func (s *sessionCompiler) machine(p *session.Policy, spec *v1alpha1.SessionStateMachine) {
	if spec == nil {
		return
	}
	const field = "spec.stateMachine"
	var states []*session.State
	for i := range spec.States {
		v := &spec.States[i]
		states = append(states, &session.State{
			Name: string(v.Name), Timeout: duration(v.Timeout), OnTimeout: string(v.OnTimeout), Instructions: v.Instructions, OnEnter: words(v.OnEnter),
		})
	}
	var transitions []*session.Transition
	for i := range spec.Transitions {
		v := &spec.Transitions[i]
		t := &session.Transition{From: words(v.From), To: string(v.To), On: string(v.Event)}
		if v.Guard != "" {
			var err error
			if t.Guard, err = s.env.Compile(v.Guard, true); err != nil {
				s.wrong(fmt.Sprintf("%s.transitions[%d].guard", field, i), "%v", err)
			}
		}
		transitions = append(transitions, t)
	}
	var events []*session.EventRule
	for i := range spec.Events {
		v := &spec.Events[i]
		e := &session.EventRule{Name: string(v.Name), From: speaker(v.From)}
		e.Pattern, e.Expression = s.finds(fmt.Sprintf("%s.events[%d]", field, i), v.Pattern, v.Expression, true)
		events = append(events, e)
	}
	machine, problems := session.NewMachine(string(spec.Initial), states, transitions, events)
	for _, problem := range problems {
		if machine != nil {
			s.warnf(s.ref, field+"."+problem.Field, "%v", problem.Err)
			continue
		}
		s.wrong(field+"."+problem.Field, "%v", problem.Err)
	}
	p.Machine = machine
}

func words(list []v1alpha1.SessionWord) (out []string) {
	for _, w := range list {
		out = append(out, string(w))
	}
	return out
}
