package simulate

import (
	"math"
	"math/rand/v2"
	"time"
)

// Request is one request of the workload.
type Request struct {
	ID     uint64 // from 1 on
	At     time.Duration
	Prompt int // tokens
	Output int // tokens
	// parts of the prompt: tokens of the same key are the same tokens.
	parts []part
}

type part struct {
	key    uint64
	tokens int
}

// Keys of parts: the upper bits say of what, so that they differ.
const (
	keyPrefix = iota + 1
	keyQuestion
	keyPrompt
	keyAnswer
)

func key(kind, number uint64) uint64 { return kind<<56 | number }

// Generate makes the requests of a scenario, in the order of their arrival. It depends on the workload, the duration and the
// seed alone.
func Generate(s *Scenario, seed uint64) []*Request {
	g := generator{
		workload: &s.Workload,
		// Independent streams: a change of the lengths leaves the arrivals alone.
		times:   rand.New(rand.NewPCG(seed, 1)),
		lengths: rand.New(rand.NewPCG(seed, 2)),
		deals:   rand.New(rand.NewPCG(seed, 3)),
	}
	var all []*Request
	end := time.Duration(s.Duration)
	a := s.Workload.Arrivals
	switch {
	case a.Bursts != nil:
		for at := time.Duration(0); at < end; at += time.Duration(a.Bursts.Every) {
			for range a.Bursts.Size {
				all = append(all, g.request(len(all), at))
			}
		}
	default:
		steps := a.Steps
		if a.Poisson != nil {
			steps = []Step{{Rate: a.Poisson.Rate}}
		}
		for i, step := range steps {
			until := end
			if i+1 < len(steps) {
				until = min(end, time.Duration(steps[i+1].At))
			}
			// The process has no memory, so each step may begin anew.
			for at := time.Duration(step.At); ; {
				at += time.Duration(g.times.ExpFloat64() / step.Rate * float64(time.Second))
				if at >= until {
					break
				}
				all = append(all, g.request(len(all), at))
			}
		}
	}
	return all
}

type generator struct {
	workload              *Workload
	times, lengths, deals *rand.Rand
	deck                  []int // pairs of group and question that are still to come in this round
}

func (g *generator) request(i int, at time.Duration) *Request {
	r := &Request{ID: uint64(i) + 1, At: at, Output: g.workload.Output.draw(g.lengths)}
	if p := g.workload.Prefixes; p != nil {
		if len(g.deck) == 0 {
			g.deck = g.deals.Perm(p.Groups * p.Questions)
		}
		card := g.deck[0]
		g.deck = g.deck[1:]
		r.Prompt = p.PrefixTokens + p.QuestionTokens
		r.parts = []part{
			{key(keyPrefix, uint64(card/p.Questions)), p.PrefixTokens},
			{key(keyQuestion, uint64(card)), p.QuestionTokens},
		}
		return r
	}
	r.Prompt = g.workload.Prompt.draw(g.lengths)
	r.parts = []part{{key(keyPrompt, r.ID), r.Prompt}}
	return r
}

// draw is a length of at least one token.
func (l *Distribution) draw(rnd *rand.Rand) int {
	switch {
	case l.Uniform != nil:
		return l.Uniform.Min + rnd.IntN(l.Uniform.Max-l.Uniform.Min+1)
	case l.Lognormal != nil:
		v := l.Lognormal.Median * math.Exp(l.Lognormal.Sigma*rnd.NormFloat64())
		return int(math.Round(min(max(v, float64(l.Lognormal.Min)), float64(l.Lognormal.Max))))
	}
	return l.Fixed
}

// Blocks are chained hashes of the whole blocks of the prompt: requests have equal ones as far as their tokens are the same.
// With the answer, those of the answer follow.
func (r *Request) Blocks(blockTokens int, answer bool) []uint64 {
	parts := r.parts
	total := r.Prompt
	if answer {
		parts = append(parts[:len(parts):len(parts)], part{key(keyAnswer, r.ID), r.Output})
		total += r.Output
	}
	blocks := make([]uint64, 0, total/blockTokens)
	hash := uint64(blockTokens)
	room, offset := blockTokens, 0
	for _, p := range parts {
		for offset = 0; offset < p.tokens; {
			n := min(room, p.tokens-offset)
			hash = mix(mix(mix(hash^p.key)^uint64(offset)) ^ uint64(n))
			offset, room = offset+n, room-n
			if room == 0 {
				blocks, room = append(blocks, hash), blockTokens
			}
		}
	}
	return blocks
}

// mix is the finalizer of SplitMix64: a bijection in which each bit of the argument changes about half of the result's.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
