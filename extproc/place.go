package extproc

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/extproc/pick"
	"github.com/weir-dev/weir/extproc/table"
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

// place chooses the backend that is asked first, and the endpoints there: those of the first attempts, "ip:port,ip:port", or "" where
// Envoy chooses them. What the request occupies is d's from then on. prompt is nil where it was not read.
//
// A request waits for room in a pool only while no other backend of its rule can take it, whatever that one's priority.
func (s *Server) place(ctx context.Context, d *decision, a *asked, prompt *canon.Request) (keys table.Keys, endpoints string, _ *canon.Error) {
	v := a.variant
	keys = table.Keys{Direct: v.DirectKey, Chain: v.ChainKey, Order: v.Order}
	if v.First == nil && (len(v.Candidates) > 1 || v.Candidates[0].Backend.Pick == nil) {
		d.hold = s.watch(v)
		return keys, "", nil
	}
	var out, full table.Mask // candidates that cannot take it, and those of them that have no room
	var retry time.Duration  // the least that was asked for
	for {
		c, others := s.choose(d, v, out, false)
		wait := c == nil && full != 0
		switch {
		case wait:
			if c, _ = s.choose(d, v, ^full, true); c == nil {
				full = 0
				continue
			}
		case c == nil:
			if c, others = s.choose(d, v, out, true); c == nil {
				return keys, "", unavailable(v, retry)
			}
		}
		if first, ok := v.First[c]; ok {
			keys = first
		}
		b := c.Backend
		if b.Pick == nil {
			d.hold = s.watch(v)
			return keys, "", nil
		}
		p, refused := d.pickAt(ctx, s, a.pickRequest(b, prompt), !others || wait)
		if refused == nil {
			d.waited += p.Waited
			d.open.Waited += p.Waited
			h := &hold{server: s, variant: v, backend: b, order: keys.Order, pick: p}
			d.hold = h
			if b.Named {
				h.named = p.Endpoints[:min(len(p.Endpoints), h.names())]
			}
			return keys, strings.Join(h.named, ","), nil
		}
		d.waited += refused.Waited
		if refused.RetryAfter > 0 && (retry == 0 || refused.RetryAfter < retry) {
			retry = refused.RetryAfter
		}
		out |= c.Bit
		switch refused.Reason {
		case pick.NoPool: // a version that is not in use any more has it
			d.hold = s.watch(v)
			return keys, "", nil
		case pick.Unavailable:
			full &^= c.Bit
		case pick.Full:
			if others && !wait {
				full |= c.Bit
				continue
			}
			if full &^= c.Bit; full == 0 {
				return keys, "", overloaded(b.ID, refused)
			}
		default:
			return keys, "", overloaded(b.ID, refused)
		}
	}
}

// choose draws one of the candidates that are not out, by weight, among those of the lowest priority number of which some can take
// requests. Those that ask to be left alone count where reluctant says so. others says that there is a choice, now or further down.
func (s *Server) choose(d *decision, v *table.Variant, out table.Mask, reluctant bool) (chosen *table.Candidate, others bool) {
	var weights [table.MaxCandidates]float64
	sum, usable := s.weigh(v, out, reluctant, &weights)
	if d.dry != nil {
		return heaviest(v, &weights), usable > 1
	}
	at := rand.Float64() * sum
	for i, c := range v.Candidates {
		if weights[i] == 0 {
			continue
		}
		chosen = c
		if at -= weights[i]; at < 0 {
			break
		}
	}
	return chosen, usable > 1
}

// weigh fills in the weight with which choose draws each candidate, and gives their sum, and how many can take requests, whatever their
// priority.
func (s *Server) weigh(v *table.Variant, out table.Mask, reluctant bool, weights *[table.MaxCandidates]float64) (sum float64, usable int) {
	var lowest int32
	for i, c := range v.Candidates {
		if out&c.Bit != 0 {
			continue
		}
		share, ok := s.opts.Steering.Share(c.Backend.ID)
		if share <= 0 && reluctant {
			share = 1
		}
		if !ok || share <= 0 {
			continue
		}
		if usable++; usable == 1 || c.Priority < lowest {
			clear(weights[:i])
			lowest, sum = c.Priority, 0
		}
		if c.Priority == lowest {
			weights[i] = float64(c.Weight) * share
			sum += weights[i]
		}
	}
	return sum, usable
}

// expect says whom the attempts of a request ask that Envoy prepares by itself: places in the variant's candidates, nil where Envoy chooses
// the first, and that of the likeliest first.
func expect(v *table.Variant, order []*table.Candidate) (places []uint8, likely uint8) {
	if len(v.Candidates) == 1 {
		return nil, 0
	}
	for i, c := range v.Candidates {
		if first := v.Candidates[likely]; c.Priority < first.Priority || c.Priority == first.Priority && c.Weight > first.Weight {
			likely = uint8(i)
		}
	}
	if len(order) == 0 {
		return nil, likely
	}
	places = make([]uint8, len(order))
	for i, c := range order {
		places[i] = uint8(slices.Index(v.Candidates, c))
	}
	return places, places[0]
}

// pickRequest is the request as the picker sees it.
func (a *asked) pickRequest(b *table.Backend, prompt *canon.Request) *pick.Request {
	r := &pick.Request{Pool: b.ID, Tokens: max(1, a.input), Tenant: a.id.Tenant, Priority: b.Pick.Admission.PriorityOf(a.id.Labels)}
	if s := b.Pick.Session; s != nil && a.sticky != "" {
		r.Session = "\x00" + a.sticky // which says whose it is: of a consumer, or of a tenant
	} else if s != nil {
		if v := a.request.headerValue(strings.ToLower(s.Header)); v != "" {
			// Sessions of two consumers are two, whatever they call them.
			r.Session = a.id.ConsumerID + "\x00" + v
		}
	}
	if p := b.Pick.Prefix; p != nil && prompt != nil {
		r.Blocks = pick.AppendBlocks(make([]uint64, 0, int(r.Tokens)/p.BlockTokens+1), a.model, prompt, p.BlockTokens)
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
