package pick

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestSessionsAgainstModel: a list in the order of use does the same, more slowly.
func TestSessionsAgainstModel(t *testing.T) {
	type session struct {
		name string
		id   uint16
		used int64
	}
	for seed := range uint64(10) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		const limit, idle = 20, 50
		s := newSessions(limit)
		var m []session // the latest first
		for now := int64(1); now < 3000; now++ {
			name := fmt.Sprint(rnd.IntN(60))
			at := slices.IndexFunc(m, func(x session) bool { return x.name == name })
			want := uint16(0)
			if at >= 0 && m[at].used >= now-idle {
				want = m[at].id
			}
			if got := s.get(name, now-idle); got != want {
				t.Fatalf("seed %d, at %d: session %s is at %d, want %d", seed, now, name, got, want)
			}
			if rnd.IntN(3) > 0 {
				continue
			}
			id := uint16(rnd.IntN(5) + 1)
			s.put(name, id, now, now-idle)
			if at >= 0 {
				m = slices.Delete(m, at, at+1)
			} else {
				for range 2 {
					if n := len(m); n > 0 && m[n-1].used < now-idle {
						m = m[:n-1]
					}
				}
				m = m[:min(len(m), limit-1)]
			}
			m = slices.Insert(m, 0, session{name, id, now})
			if s.size() != len(m) || len(s.at) != len(m) || s.size() > limit {
				t.Fatalf("seed %d, at %d: %d sessions, %d names, want %d", seed, now, s.size(), len(s.at), len(m))
			}
		}
	}
}
