package pick

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// TestQueue runs scripts: "a1" joins a request of tenant a and priority 1, "go" serves the head, "-a1" takes the first of these out.
func TestQueue(t *testing.T) {
	for name, c := range map[string]struct {
		places int
		script string
		want   string // who was served, "!" who was refused, "<" who had to go for another
	}{
		"in the order of coming":        {9, "a0 a0 go go", "a0 a0"},
		"tenants take turns":            {9, "a0 a0 a0 b0 c0 go go go go go", "a0 b0 c0 a0 a0"},
		"priorities first":              {9, "a0 b5 a0 b5 c-3 c9 go go go go go go", "c9 b5 b5 a0 a0 c-3"},
		"who leaves keeps the turn":     {9, "a0 a0 b0 -a0 go go", "a0 b0"},
		"the last of a tenant leaves":   {9, "a0 b0 -a0 go", "b0"},
		"no room":                       {2, "a0 a0 a0 go go", "!a0 a0 a0"},
		"no room at all":                {0, "a5 go", "!a5"},
		"who has most gives way":        {3, "a0 a0 a0 b0 b0 go go go", "<a0 !b0 a0 b0 a0"},
		"one more is not much":          {2, "a0 b0 b0", "!b0"},
		"lower priorities give way":     {2, "a0 b0 c1 c1 c1 go go", "<a0 <b0 !c1 c1 c1"},
		"higher ones do not":            {2, "a1 a1 b0 go", "!b0 a1"},
		"the turn comes back":           {9, "a0 a0 b0 go a0 go go go", "a0 b0 a0 a0"},
		"nobody":                        {9, "go", ""},
		"a lower one with most of them": {3, "a0 a0 b-1 c0 go", "<b-1 a0"},
	} {
		t.Run(name, func(t *testing.T) {
			var q queue
			var got []string
			waiting := map[string][]*waiter{}
			label := func(w *waiter) string { return fmt.Sprintf("%s%d", w.request.Tenant, w.request.Priority) }
			gone := func(w *waiter) {
				waiting[label(w)] = slices.DeleteFunc(waiting[label(w)], func(o *waiter) bool { return o == w })
			}
			for _, step := range strings.Fields(c.script) {
				switch {
				case step == "go":
					if w := q.head(); w != nil {
						q.leave(w, true)
						gone(w)
						got = append(got, label(w))
					}
				case step[0] == '-':
					w := waiting[step[1:]][0]
					q.leave(w, false)
					gone(w)
				default:
					w := &waiter{request: &Request{Tenant: step[:1]}}
					if _, err := fmt.Sscan(step[1:], &w.request.Priority); err != nil {
						t.Fatal(err)
					}
					out, ok := q.join(w, c.places)
					if out != nil {
						gone(out)
						got = append(got, "<"+label(out))
					}
					if !ok {
						got = append(got, "!"+label(w))
					} else {
						waiting[label(w)] = append(waiting[label(w)], w)
					}
				}
			}
			if g := strings.Join(got, " "); g != c.want {
				t.Errorf("%s, want %s", g, c.want)
			}
		})
	}
}

// TestQueueProperties: nobody is lost or served twice, priorities hold, and no tenant waits for more than a round.
func TestQueueProperties(t *testing.T) {
	for seed := range uint64(30) {
		rnd := rand.New(rand.NewPCG(seed, 3))
		var q queue
		in := map[*waiter]bool{}
		places := rnd.IntN(30) + 1
		for range 3000 {
			if rnd.IntN(2) == 0 {
				w := &waiter{request: &Request{Tenant: fmt.Sprint(rnd.IntN(5)), Priority: int32(rnd.IntN(3))}}
				out, ok := q.join(w, places)
				if out != nil {
					if !in[out] || !ok {
						t.Fatal("one that is not there had to go")
					}
					if out.request.Priority > w.request.Priority {
						t.Fatal("a higher one had to go for a lower one")
					}
					delete(in, out)
				}
				if ok {
					in[w] = true
				}
			} else if w := q.head(); w != nil {
				for o := range in {
					if o.request.Priority > w.request.Priority {
						t.Fatal("a lower one is first")
					}
				}
				if rnd.IntN(4) == 0 {
					for o := range in {
						w = o
						break
					}
				}
				if !in[w] {
					t.Fatal("one that is not there is first")
				}
				q.leave(w, rnd.IntN(2) == 0)
				delete(in, w)
			}
			sum := 0
			for i, l := range q.levels {
				if i > 0 && q.levels[i-1].priority <= l.priority || l.turns.Len() == 0 || l.turns.Len() != len(l.of) {
					t.Fatal("the levels are not in order")
				}
				for e := l.turns.Front(); e != nil; e = e.Next() {
					sum += e.Value.(*turn).line.Len()
				}
			}
			if q.n != len(in) || q.n != sum || q.n > places {
				t.Fatalf("%d wait, %d by count of the lines, want %d of at most %d", q.n, sum, len(in), places)
			}
		}
	}
}
