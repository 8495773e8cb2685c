package extproc

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/weir-dev/weir/extproc/pick"
	"github.com/weir-dev/weir/extproc/table"
	"github.com/weir-dev/weir/extproc/wire"
	"github.com/weir-dev/weir/usage"
)

// claims are what a request has taken and must give back. They are its stream's until the desk has them.
type claims struct {
	grant    usage.Grant
	outcomes []usage.Outcome
	hold     usage.Hold
}

// giveBack gives back what there is; a second call finds nothing.
func (c *claims) giveBack() {
	had := *c
	*c = claims{}
	if had.hold != nil {
		had.hold.Free()
	}
	for _, o := range had.outcomes {
		o.Drop()
	}
	if had.grant != nil {
		had.grant.Cancel()
	}
}

// hold is the place of a request whose backends are steered, and tells the breakers of endpoints how it ended.
type hold struct {
	server  *Server
	variant *table.Variant
	backend *table.Backend     // of the pick
	order   []*table.Candidate // whom attempts ask; empty where all ask the backend
	pick    *pick.Pick         // nil where Envoy chose the backend, or nobody counts what it has in flight
	named   []string           // the endpoints that attempts at the backend go to, as far as they are named
	left    atomic.Bool        // another backend is asked after it
}

// watch is the hold of a request of which nothing is picked; nil where nobody wants to know how it ends.
func (s *Server) watch(v *table.Variant) usage.Hold {
	for _, c := range v.Candidates {
		if c.Backend.Pick != nil {
			return &hold{server: s, variant: v}
		}
	}
	return nil
}

// names is how many endpoints are named: one for each attempt at the backend, up to the first attempt at another one that reads the
// list. Envoy has one list for all attempts, and that one would use up what follows without finding an endpoint of its own; it
// chooses by weights instead, and so does an attempt that comes back after it.
func (h *hold) names() (n int) {
	if len(h.order) == 0 {
		return pick.MaxEndpoints
	}
	for _, c := range h.order {
		if c.Backend == h.backend {
			n++
		} else if c.Backend.Named {
			break
		}
	}
	return n
}

// own is how many of the first n attempts are at the backend.
func (h *hold) own(n int) (own int) {
	if len(h.order) == 0 {
		return n
	}
	for _, c := range h.order[:min(n, len(h.order))] {
		if c.Backend == h.backend {
			own++
		}
	}
	return own
}

// Asked implements usage.Hold. Of an attempt whose connection fails at once nobody may tell, so n says little.
func (h *hold) Asked(n int, backend string) {
	switch {
	case h.pick == nil:
	case backend != h.backend.ID:
		if h.left.CompareAndSwap(false, true) {
			h.pick.Move("")
		}
	case n > 1 && !h.left.Load():
		next := ""
		if i := h.own(n) - 1; i < len(h.named) {
			next = h.named[i]
		} else if !h.backend.Named {
			next = key(h.backend, "")
		}
		h.pick.Move(next)
	}
}

// leave ends the pick, all of whose attempts have failed: another backend has answered, or this one when it was asked once more.
func (h *hold) leave(e *usage.Ending) {
	failed := h.own(e.Attempts)
	if e.Backend == h.backend.ID {
		failed--
	}
	h.pick.Done(pick.Ending{At: e.At, Attempts: max(1, failed), Elsewhere: true, Refused: h.refused(e)})
}

// refused are the endpoints of the backend that answered 4xx where Envoy tried elsewhere: that says nothing about them.
func (h *hold) refused(e *usage.Ending) (out []string) {
	for k, text := range e.Answers {
		if l, ok := wire.ParseLoad(k, text); ok && l.Backend == h.backend.ID && l.Status[0] == '4' {
			out = append(out, key(h.backend, l.Endpoint))
		}
	}
	return out
}

// Free implements usage.Hold.
func (h *hold) Free() {
	if h.pick != nil {
		h.pick.Drop()
	}
}

// Ended implements usage.Hold.
func (h *hold) Ended(e usage.Ending) {
	h.tellFailed(&e)
	switch {
	case h.pick == nil:
		h.tell(&e)
	case e.Backend != "" && e.Backend != h.backend.ID || h.own(e.Attempts) < min(e.Attempts, len(h.order)): // it may have been asked once more, which was not picked
		h.leave(&e)
		h.tell(&e)
	case e.Attempts == 0 || e.Backend == "" && !e.Bad:
		h.pick.Drop()
	default:
		h.pick.Done(pick.Ending{
			At: e.At, Attempts: h.own(e.Attempts), Endpoint: key(h.backend, e.Endpoint), OK: e.Good, Failed: e.Bad, TTFT: e.TTFT, Refused: h.refused(&e),
			InputTokens: e.Tokens.InputTotal(), CachedTokens: e.Tokens.CacheRead, OutputTokens: e.Tokens.OutputTotal(),
		})
	}
}

// tell tells of an endpoint that was not picked how the request ended there.
func (h *hold) tell(e *usage.Ending) {
	if e.Good || e.Bad {
		h.report(e.Backend, e.Endpoint, e.Good, e.At)
	}
}

// tellFailed tells of the endpoints that were not picked and answered 5xx, so that Envoy tried elsewhere. What was picked is judged by
// its list.
func (h *hold) tellFailed(e *usage.Ending) {
	picked := h.pick != nil && len(h.pick.Endpoints) > 0
	for k, text := range e.Answers {
		l, ok := wire.ParseLoad(k, text)
		if ok && l.Status[0] == '5' && (l.Backend != e.Backend || l.Endpoint != e.Endpoint) && !(picked && l.Backend == h.backend.ID) {
			h.report(l.Backend, l.Endpoint, false, e.At)
		}
	}
}

// report tells the breaker of an endpoint of one of the variant's backends how it answered.
func (h *hold) report(backend, endpoint string, ok bool, at time.Time) {
	i := slices.IndexFunc(h.variant.Candidates, func(c *table.Candidate) bool { return c.Backend.ID == backend })
	if i < 0 {
		return
	}
	b := h.variant.Candidates[i].Backend
	h.server.opts.Picker.Tell(b.ID, key(b, endpoint), ok, at)
}

// key is what the picker and the breakers know an endpoint by that Envoy has asked. What a name resolved to they know by the name.
func key(b *table.Backend, asked string) string {
	if !b.Named && len(b.Endpoints) == 1 {
		return b.Endpoints[0]
	}
	return asked
}
