package breaker

import (
	"testing"
	"time"
)

// TestState: looking tells what asking would, and changes nothing.
func TestState(t *testing.T) {
	r := newRig(t, busy(nil))
	look := func(want State) {
		t.Helper()
		for range 3 {
			if got := r.State(r.rule, r.key, r.now); got != want {
				t.Fatalf("state %s, want %s", got, want)
			}
		}
	}
	look(Closed)
	if n, _ := r.Size(); n != 0 {
		t.Errorf("looking made %d breakers", n)
	}
	r.do("ok, fail, fail, fail")
	look(Open)
	r.do("+4999ms, no Open 1ms, +1ms")
	look(HalfOpen)
	if s := r.state(); s.State != Open {
		t.Errorf("looking made it %s", s.State)
	}
	r.do("a=, b=, c=, no HalfOpen 5s")
	look(HalfOpen)
	r.do("a:ok, b:ok, c:ok")
	look(WarmingUp)
	r.now = r.now.Add(10 * time.Second)
	look(Closed)
	if s := r.state(); s.State != WarmingUp {
		t.Errorf("looking made it %s", s.State)
	}
	r.Retain(func(string) bool { return false }, r.now)
	look(Closed)
}
