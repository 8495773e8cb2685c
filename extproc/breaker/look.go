package breaker

import "time"

// State is what the breaker would do now, without asking it: nothing is counted, no place is taken, nothing changes. One that
// has been Open for long enough is HalfOpen here, and one that nobody has asked for yet is Closed.
func (s *Set) State(rule *Rule, key string, now time.Time) State {
	c := s.find(s.hash(rule.ID, key), rule.ID, key)
	if c == nil {
		return Closed
	}
	switch p := c.phase.Load(); {
	case p.state == Open && now.Sub(p.since) >= rule.OpenFor:
		return HalfOpen
	case p.state == WarmingUp && now.Sub(p.since) >= rule.WarmUp, p.state == gone:
		return Closed
	default:
		return p.state
	}
}
