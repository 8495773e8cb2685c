package extproc

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/extproc/pick"
	"github.com/weir-dev/weir/extproc/table"
	"github.com/weir-dev/weir/usage"
)

// The codes of refusals for want of an endpoint.
const (
	codeOverloaded  = "backend_overloaded"
	codeUnavailable = "backend_unavailable"
)

// Steering knows what backends can take.
type Steering interface {
	// Share is what a backend should get of its weight, and whether it can take requests at all; 1 and true where nobody steers it.
	Share(backend string) (share float64, usable bool)
}

type noSteering struct{}

func (noSteering) Share(string) (float64, bool) { return 1, true }

// placement is where a request goes first.
type placement struct {
	keys table.Keys
	// endpoints are those of the first attempts, "ip:port,ip:port"; "" leaves them to Envoy.
	endpoints string
	hold      usage.Hold // nil where no endpoint was picked
}

// ended gives the placement back, of a request that does not go on.
func (p *placement) ended() {
	if p.hold != nil {
		p.hold.Free()
	}
}

// readsPrompt says whether the placement of a request depends on its prompt.
func (a *asked) readsPrompt() bool {
	if !a.table.Prompts || a.operation != canon.OpChat {
		return false
	}
	for _, c := range a.variant.Candidates {
		if p := c.Backend.Pick; p != nil && p.Prefix != nil && p.Mode == pick.LeastLoad {
			return true
		}
	}
	return false
}

// place chooses the backend that is asked first, and the endpoint there. prompt is nil where it was not read. Where Envoy chooses all
// by itself, the placement is the variant's own.
func (s *Server) place(ctx context.Context, a *asked, prompt *canon.Request) (placement, *canon.Error) {
	v := a.variant
	own := table.Keys{Direct: v.DirectKey, Chain: v.ChainKey}
	if v.First == nil && (len(v.Candidates) > 1 || v.Candidates[0].Backend.Pick == nil) {
		return placement{keys: own}, nil
	}
	var out, full table.Mask // candidates that cannot take it, and those of them that have no room
	retry := time.Duration(0)
	for {
		c, others := s.choose(v, out)
		wait := false
		if c == nil && full != 0 {
			c, _ = s.choose(v, ^full)
			wait = true
		}
		if c == nil {
			return placement{}, unavailable(v, retry)
		}
		keys, ok := v.First[c]
		if !ok {
			keys = own
		}
		b := c.Backend
		if b.Pick == nil {
			return placement{keys: keys}, nil
		}
		r := a.pickRequest(b, prompt)
		var p *pick.Pick
		var refused *pick.Refusal
		if others && !wait {
			p, refused = s.opts.Picker.TryPick(&r, s.opts.Now())
		} else {
			p, refused = s.opts.Picker.Pick(ctx, &r, s.opts.Now())
		}
		switch {
		case refused == nil:
			// Envoy does not look at the endpoints of a backend whose name it resolves by itself.
			return placement{keys: keys, endpoints: strings.Join(p.Endpoints, ","), hold: &hold{pick: p, backend: b.ID}}, nil
		case refused.Reason == pick.NoPool:
			return placement{keys: keys}, nil
		case refused.Reason == pick.Full && others && !wait:
			full |= c.Bit
		case refused.Reason != pick.Unavailable:
			return placement{}, overloaded(b.ID, refused)
		}
		if refused.RetryAfter > 0 && (retry == 0 || refused.RetryAfter < retry) {
			retry = refused.RetryAfter
		}
		out |= c.Bit
		if wait {
			full &^= c.Bit
		}
	}
}

// choose draws one of the candidates that are not out, by weight, among those of the lowest priority number of which some can take
// requests. Where none can, those count that are only asked to be left alone. others says that there is a choice.
func (s *Server) choose(v *table.Variant, out table.Mask) (chosen *table.Candidate, others bool) {
	var buf [table.MaxCandidates]float64
	for _, blocked := range [...]bool{false, true} {
		sum, n := 0.0, 0
		var lowest int32
		for i, c := range v.Candidates {
			buf[i] = 0
			if out&c.Bit != 0 || c.Weight == 0 {
				continue
			}
			share, usable := s.opts.Steering.Share(c.Backend.ID)
			if !usable || share <= 0 && !blocked {
				continue
			}
			if share <= 0 {
				share = 1
			}
			switch {
			case n == 0 || c.Priority < lowest:
				clear(buf[:i])
				lowest, sum, n = c.Priority, 0, 0
			case c.Priority > lowest:
				continue
			}
			buf[i] = float64(c.Weight) * share
			sum += buf[i]
			n++
		}
		if n == 0 {
			continue
		}
		at := rand.Float64() * sum
		for i, c := range v.Candidates {
			if buf[i] == 0 {
				continue
			}
			chosen = c
			if at -= buf[i]; at < 0 {
				break
			}
		}
		return chosen, n > 1
	}
	return nil, false
}

// pickRequest is the request as the picker sees it.
func (a *asked) pickRequest(b *table.Backend, prompt *canon.Request) pick.Request {
	r := pick.Request{Pool: b.ID, Tokens: max(1, a.input), Tenant: a.id.Tenant, Priority: b.Pick.Admission.PriorityOf(a.id.Labels)}
	if s := b.Pick.Session; s != nil {
		if v := a.request.headerValue(strings.ToLower(s.Header)); v != "" {
			// Sessions of two consumers are two, whatever they call them.
			r.Session = a.id.ConsumerID + "\x00" + v
		}
	}
	if p := b.Pick.Prefix; p != nil && prompt != nil {
		r.Blocks = pick.AppendBlocks(nil, a.model, prompt, p.BlockTokens)
	}
	return r
}

// overloaded refuses a request that found no room.
func overloaded(backend string, r *pick.Refusal) *canon.Error {
	e := &canon.Error{Kind: canon.ErrRateLimit, Code: codeOverloaded, RetryAfter: max(time.Second, r.RetryAfter)}
	switch r.Reason {
	case pick.TimedOut:
		e.Message = fmt.Sprintf("Every endpoint of the backend %s is busy, and none came free while the request waited %s s.", backend, seconds(r.Waited))
	default:
		e.Message = fmt.Sprintf("Every endpoint of the backend %s is busy, and there is no room to wait.", backend)
	}
	e.Message += " Try again in " + seconds(e.RetryAfter) + " s."
	return e
}

// unavailable refuses a request that no backend can take.
func unavailable(v *table.Variant, retry time.Duration) *canon.Error {
	names := make([]string, len(v.Candidates))
	for i, c := range v.Candidates {
		names[i] = c.Backend.ID
	}
	retry = max(time.Second, retry)
	return &canon.Error{Kind: canon.ErrOverloaded, Code: codeUnavailable, RetryAfter: retry,
		Message: fmt.Sprintf("No endpoint of %s is well enough to take the request; try again in %s s.", strings.Join(names, ", "), seconds(retry))}
}

// hold makes a pick what a request occupies.
type hold struct {
	pick    *pick.Pick
	backend string
}

// Free implements usage.Hold.
func (h *hold) Free() { h.pick.Drop() }

// Ended implements usage.Hold.
func (h *hold) Ended(e usage.Ending) {
	switch {
	case e.Attempts == 0 || e.Backend == "" && !e.Bad:
		h.pick.Drop()
	case e.Backend != "" && e.Backend != h.backend:
		// Another backend has answered, so this one has failed.
		h.pick.Done(pick.Ending{At: e.At, Attempts: 1, Failed: true})
	default:
		h.pick.Done(pick.Ending{
			At: e.At, Attempts: e.Attempts, Endpoint: e.Endpoint, OK: e.Good, Failed: e.Bad, TTFT: e.TTFT,
			InputTokens: e.Tokens.InputTotal(), CachedTokens: e.Tokens.CacheRead, OutputTokens: e.Tokens.OutputTotal(),
		})
	}
}
