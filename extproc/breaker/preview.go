package breaker

import "time"

// Preview is what Allow would say, without asking: nothing is counted, no place is taken, and nothing changes. A breaker that nobody
// has asked for yet is Closed. shadowed says that a rule in shadow mode would have refused the request; the refusal is nil then.
func (s *Set) Preview(rule *Rule, key string, now time.Time) (st Status, refused *Refusal, shadowed bool) {
	st = Status{Rule: rule, Key: key}
	c := s.find(s.hash(rule.ID, key), rule.ID, key)
	if c == nil {
		return st, nil, false
	}
	p := c.phase.Load()
	st.State, st.Since, st.Refused, st.Shadowed = p.state, p.since, c.refused.Load(), c.shadowed.Load()
	if p.ring != nil && p.ring.window == rule.Window {
		st.Requests, st.Failures = p.ring.sum(now)
	}
	retry, ok := p.would(rule, now, c.set.nanos(now))
	switch {
	case p.state == gone:
		st.State = Closed
	case p.state == WarmingUp && now.Sub(p.since) >= rule.WarmUp:
		st.State = Closed
	case p.state == Open && now.Sub(p.since) >= rule.OpenFor:
		st.State = HalfOpen
	case p.state == Open, p.state == WarmingUp:
		st.RetryAfter = retry
	}
	switch {
	case ok:
		return st, nil, false
	case rule.Shadow:
		return st, nil, true
	}
	return st, &Refusal{Rule: rule, State: st.State, RetryAfter: retry}, false
}

// would says whether the phase lets a request in now, and if not when trying again makes sense: as allow does.
func (p *phase) would(rule *Rule, now time.Time, at int64) (retry time.Duration, ok bool) {
	age := now.Sub(p.since)
	switch p.state {
	case WarmingUp:
		if age >= rule.WarmUp {
			return 0, true
		}
		share := shareOf(age, rule.WarmUp)
		sum := p.share.Load() + share
		return min(warmRetry, rule.WarmUp-age), sum/shareWhole != (sum-share)/shareWhole
	case Open:
		left := rule.OpenFor - age
		return min(left, rule.OpenFor), left <= 0
	case HalfOpen:
		retry, ok = p.free(at, int64(max(rule.OpenFor, time.Millisecond)))
		return retry, ok
	}
	return 0, true
}

// free says whether there is a place for a request that tries, or when the next comes free.
func (p *phase) free(now, limit int64) (retry time.Duration, ok bool) {
	retry = time.Duration(limit)
	for i := range p.places {
		held := p.places[i].Load()
		if held == placeDone {
			continue
		}
		left := held + limit - now
		if held == placeFree || left <= 0 {
			return 0, true
		}
		retry = min(retry, time.Duration(left))
	}
	return max(retry, time.Millisecond), false
}
