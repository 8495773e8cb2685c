package limit

import (
	"context"
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"
)

// randomRules are some rules of every kind.
func randomRules(rnd *rand.Rand) (out []*Rule) {
	for i := range 1 + rnd.IntN(5) {
		r := rule(fmt.Sprint("r", i), Unit(rnd.IntN(6)), 1+rnd.Int64N(60), func(r *Rule) {
			r.Algorithm, r.Per = Algorithm(rnd.IntN(3)), Scope(rnd.IntN(4))
			r.Window = time.Duration(1+rnd.IntN(60)) * time.Second
			r.Shadow, r.WarnOnly = rnd.IntN(8) == 0, rnd.IntN(8) == 0
			r.WarnAt = rnd.Int64N(2) * r.Limit / 2
			r.CutStreams = r.Unit == Cost && rnd.IntN(2) == 0
			if r.Algorithm == TokenBucket {
				r.Burst = rnd.Int64N(2) * (r.Limit + rnd.Int64N(20))
			}
		})
		out = append(out, r)
	}
	return out
}

func randomEstimate(rnd *rand.Rand) Estimate {
	return Estimate{
		Input: rnd.Int64N(12), Output: rnd.Int64N(12), HasMax: rnd.IntN(2) == 0, Cost: rnd.Int64N(12), OutputPrice: rnd.Int64N(2_000_000),
		Cuttable: rnd.IntN(2) == 0,
	}
}

// TestPreviewEqualsAdmit sends requests through random rules. Before each it looks: that changes nothing, and says what the request is then
// told, its headers and warnings included.
func TestPreviewEqualsAdmit(t *testing.T) {
	refusals := map[Kind]int{}
	for seed := range uint64(400) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		e, c := local(t)
		rules := randomRules(rnd)
		var open []*Grant
		for i := range 60 {
			c.pass(time.Duration(rnd.Int64N(int64(4 * time.Second))))
			s := Subject{Tenant: choose(rnd, "a", "b"), Consumer: choose(rnd, "x", "y"), Credential: choose(rnd, "k", "l")}
			est := randomEstimate(rnd)
			before := e.States(1000)
			p := e.Preview(t.Context(), rules, s, est)
			if after := e.States(1000); !reflect.DeepEqual(before, after) {
				t.Fatalf("seed %d, request %d: looking changed\n%+v\nto\n%+v", seed, i, before, after)
			}
			g, no := e.Admit(t.Context(), rules, s, est)
			if !reflect.DeepEqual(no, p.Refusal) && !tie(no, p.Refusal) {
				t.Fatalf("seed %d, request %d: told\n%s\nforeseen\n%s", seed, i, inFull(no), inFull(p.Refusal))
			}
			if no != nil {
				refusals[no.Kind]++
			} else {
				if got, want := g.Headers(), p.Grant.Headers(); !alike(got.Requests, want.Requests) || !alike(got.Tokens, want.Tokens) {
					t.Fatalf("seed %d, request %d: headers %+v, foreseen %+v", seed, i, got, want)
				}
				if got, want := g.Warnings(), p.Grant.Warnings(); !reflect.DeepEqual(got, want) {
					t.Fatalf("seed %d, request %d: warnings %+v, foreseen %+v", seed, i, got, want)
				}
				open = append(open, g)
			}
			p.Grant.Settle(Amounts{Input: 1000, Cost: 1000}) // does nothing
			if len(p.Standings) != len(rules) {
				t.Fatalf("seed %d: %d of %d rules stand somehow", seed, len(p.Standings), len(rules))
			}
			for len(open) > rnd.IntN(4) {
				open[0].Settle(Amounts{Input: rnd.Int64N(15), Output: rnd.Int64N(15), Cost: rnd.Int64N(15)})
				open = open[1:]
			}
		}
	}
	for _, k := range []Kind{Limited, BudgetSpent, TooLarge} {
		if refusals[k] < 100 {
			t.Errorf("refusals of the kind %d came %d times: the test says little", k, refusals[k])
		}
	}
}

// alike compares what headers say of a limit, but for the time until it is whole: that is the one of before, as the amount that is looked
// for is not taken. Of two rules that have as little left either may be named, as in tie.
func alike(got, want State) bool {
	return got.Remaining == want.Remaining && (got.Rule != want.Rule || got.Limit == want.Limit)
}

// tie says that two rules refuse alike, so that either may be named: the one whose counter is older, and one that says nothing may have been
// forgotten and made anew.
func tie(a, b *Refusal) bool {
	return a != nil && b != nil && a.Rule != b.Rule && a.Kind == b.Kind && a.RetryAfter == b.RetryAfter
}

// inFull is a refusal with all that it carries.
func inFull(r *Refusal) string {
	if r == nil {
		return "let in"
	}
	type plain Refusal
	return fmt.Sprintf("%+v: %+v", r, (*plain)(r))
}

func choose[T any](rnd *rand.Rand, list ...T) T { return list[rnd.IntN(len(list))] }

// TestPreviewOfSharedRules: what is left is what the store says, also where this replica has never counted; nothing is leased.
func TestPreviewOfSharedRules(t *testing.T) {
	for _, mode := range []Mode{Lease, Exact} {
		for _, r := range []*Rule{
			rule("window", Requests, 10), rule("at once", Concurrent, 10), budget("budget", 10),
			rule("bucket", InputTokens, 10, func(r *Rule) { r.Algorithm = TokenBucket }),
		} {
			r.Sharing = mode
			t.Run(fmt.Sprintf("%s, %d", r.Name, mode), func(t *testing.T) {
				store := newFakeStore(t, 2)
				one := New(Options{Remote: store})
				other := New(Options{Remote: store})
				t.Cleanup(func() { one.Close(context.Background()); other.Close(context.Background()) })
				est := Estimate{Input: 1, Cost: 1, HasMax: true}
				look := func(e *Engine) Standing {
					t.Helper()
					p := e.Preview(t.Context(), []*Rule{r}, Subject{}, est)
					if (p.Refusal == nil) != (p.Standings[0].Answer == Fits) || (p.Refusal == nil) != (p.Grant != nil) {
						t.Fatalf("refusal %+v of %+v", p.Refusal, p.Standings[0])
					}
					return p.Standings[0]
				}
				if s := look(one); s.Answer != Fits || s.Remaining != 10 || s.Mode != mode || s.Unasked {
					t.Errorf("at first: %+v", s)
				}
				for range 9 {
					admitted(t, other, Subject{}, est, r)
				}
				held := store.held(r.ID)
				if s := look(one); s.Remaining != 10-held {
					t.Errorf("the store counts %d: %+v", held, s)
				}
				if s := look(other); s.Remaining != 1 || s.Answer != Fits {
					t.Errorf("to the replica that has used 9: %+v", s)
				}
				if now := store.held(r.ID); now != held {
					t.Errorf("looking took %d", now-held)
				}
				admitted(t, other, Subject{}, est, r)
				if s := look(other); s.Remaining > 0 || s.Answer != NoRoom || s.RetryAfter <= 0 {
					t.Errorf("when all is used: %+v", s)
				}
				if n := len(one.States(1)); n != 0 {
					t.Errorf("looking made %d counters", n)
				}
				store.fail(errAway)
				if s := look(one); !s.Unasked {
					t.Errorf("while the store is away: %+v", s)
				}
			})
		}
	}
}
