package pick

import "time"

// Tell tells how a request ended at an endpoint that was not picked for it: one that Envoy placed, or that came to the pool when
// another backend had failed. Pools and endpoints that are not known here are ignored.
func (s *Set) Tell(pool, endpoint string, ok bool, now time.Time) {
	p := s.pool(pool)
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if e := p.byKey[endpoint]; e != nil {
		p.judge(e, nil, ok, now, s.nanos(now))
		p.dispatch(now)
	}
}
