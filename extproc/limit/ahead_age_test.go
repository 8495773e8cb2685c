package limit

import (
	"testing"
	"time"
)

// What was let in ahead counts from when it comes: a window must not forget it before.
func TestAheadDoesNotAge(t *testing.T) {
	for _, r := range []*Rule{
		rule("sliding", Requests, 100, func(r *Rule) { r.Window = time.Second }),
		rule("bucket", Requests, 100, func(r *Rule) { r.Window, r.Algorithm, r.Burst = time.Second, TokenBucket, 100 }),
	} {
		e, clock := local(t)
		list := everything(t, e, Estimate{}, r)
		clock.pass(3 * time.Second)
		for _, g := range list {
			g.Came()
		}
		n := len(list)
		for {
			_, refusal := e.Admit(t.Context(), []*Rule{r}, Subject{Tenant: "a"}, Estimate{})
			if refusal != nil {
				break
			}
			n++
		}
		if n > 100 {
			t.Errorf("%s: %d requests come at one moment, of 100 a second", r.ID, n)
		}
	}
}
