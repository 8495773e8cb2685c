package extproc

import (
	"context"
	"time"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/extproc/breaker"
	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/extproc/limit"
	"github.com/weir-dev/weir/extproc/pick"
	"github.com/weir-dev/weir/extproc/table"
)

// dry makes a decision one that is only explained. The decision runs through the same code as every other; the few steps that would take,
// count or tell something look instead, below.
type dry struct {
	// id is the caller where no credential says so; nil: the credential does.
	id *identity.Identity
	// asked is the request once it has a rule; nil before.
	asked *asked
	// caller is who calls; nil where that was refused.
	caller *identity.Identity
	// order is whom attempts would ask; nil where Envoy chooses, or the request got no place.
	order []*table.Candidate
	// keys are the Envoy routes of a request that got a place.
	keys table.Keys
	// err is the refusal; nil where there is none.
	err *canon.Error
	// limits is what was foreseen of them; nil where the decision did not come so far.
	limits *limit.Preview
}

// identify says who calls.
func (d *decision) identify(ctx context.Context, t *table.Table, r *request, now time.Time) (*identity.Identity, *canon.Error) {
	if d.fill != nil {
		return d.fill.Identity, nil // the door has let it in
	}
	if d.dry == nil {
		return t.Auth.Authenticate(ctx, r.credentials, r.source, now)
	}
	if d.dry.id != nil {
		d.dry.caller = d.dry.id
		return d.dry.id, nil
	}
	id, err := t.Auth.Recognise(ctx, r.credentials, r.source, now)
	d.dry.caller = id
	return id, err
}

// refused notes a refusal.
func (d *decision) refused(e *canon.Error) *canon.Error {
	if d.fill != nil {
		d.fill.Refuse(e)
	}
	return d.dry.refused(e)
}

// refused notes a refusal. It may be called on nil.
func (x *dry) refused(e *canon.Error) *canon.Error {
	if x != nil {
		x.err = e
	}
	return e
}

// tryBreaker asks a circuit breaker.
func (d *decision) tryBreaker(s *Server, rule *breaker.Rule, subject string, now time.Time) (breaker.Pass, *breaker.Refusal) {
	if d.dry != nil {
		_, refused, _ := s.opts.Breakers.Preview(rule, subject, now)
		return breaker.Pass{}, refused
	}
	pass, refused := s.opts.Breakers.Allow(rule, subject, now)
	if pass.Shadowed() {
		s.opts.Metrics.BreakerShadowed(rule.Name)
	}
	return pass, refused
}

// reserve asks the limits.
func (d *decision) reserve(ctx context.Context, s *Server, rules []*limit.Rule, subject limit.Subject, est limit.Estimate) (*limit.Grant, *limit.Refusal) {
	if d.dry == nil {
		return s.opts.Limits.Admit(ctx, rules, subject, est)
	}
	p := s.opts.Limits.Preview(ctx, rules, subject, est)
	d.dry.limits = &p
	return p.Grant, p.Refusal
}

// pickAt picks endpoints. patient says that the request may wait for room.
func (d *decision) pickAt(ctx context.Context, s *Server, r *pick.Request, patient bool) (*pick.Pick, *pick.Refusal) {
	now := s.opts.Now()
	switch {
	case d.dry != nil:
		p, refused, _ := s.opts.Picker.Preview(r, now)
		return p, refused
	case patient:
		return s.opts.Picker.Pick(ctx, r, now)
	}
	return s.opts.Picker.TryPick(r, now)
}

// heaviest is the candidate that is drawn most often; nil where none can be.
func heaviest(v *table.Variant, weights *[table.MaxCandidates]float64) (out *table.Candidate) {
	most := 0.0
	for i, c := range v.Candidates {
		if weights[i] > most {
			out, most = c, weights[i]
		}
	}
	return out
}
