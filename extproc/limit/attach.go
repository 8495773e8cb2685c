package limit

// Detach says that there is no store any more, and that none is to come back: every rule is Local until Attach. What pools
// hold and what the store has not been told is forgotten with it; the requests that run are counted here all the same.
// An engine without a Remote is detached for ever.
func (e *Engine) Detach() {
	s := e.store
	if s == nil || s.detached.Swap(true) {
		return
	}
	s.era.Add(1)
	e.reg.each(func(c *counter) {
		c.pool = nil
		c.queue.kick()
	})
	s.failures.Store(0)
	s.pause.Store(0)
	s.down.Store(false)
}

// Attach says that there is a store again, or another one than before Detach. Concurrent requests and reservations of budgets
// that were counted here alone are told to it when their counter is used next.
func (e *Engine) Attach() {
	if e.store != nil {
		e.store.detached.Store(false)
	}
}
