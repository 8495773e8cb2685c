package feedback

import (
	"math"
	"sync"
	"testing"
	"time"
)

var t0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func TestFirstToken(t *testing.T) {
	e := NewEndpoint(time.Second)
	if s := e.State(t0); s.TTFTCount != 0 || s.TTFT != 0 {
		t.Errorf("nothing was noted: %+v", s)
	}
	for _, d := range []time.Duration{100, 200, 300} { // the first ones weigh the same
		e.FirstToken(d*time.Millisecond, t0)
	}
	if s := e.State(t0); s.TTFTCount != 3 || math.Abs(s.TTFT.Seconds()-0.2) > 1e-9 {
		t.Errorf("got %+v", s)
	}
	for range 200 {
		e.FirstToken(time.Second, t0.Add(time.Minute))
	}
	e.FirstToken(time.Second, t0) // an old one does not make the average older
	if s := e.State(t0); math.Abs(s.TTFT.Seconds()-1) > 1e-6 || !s.TTFTAt.Equal(t0.Add(time.Minute)) {
		t.Errorf("got %+v", s)
	}
}

func TestErrorRate(t *testing.T) {
	e := NewEndpoint(16 * time.Second)
	at := func(s int) time.Time { return t0.Add(time.Duration(s) * time.Second) }
	for i := range minRequests - 1 {
		e.Results(0, 1, at(i))
	}
	if s := e.State(at(3)); s.ErrorRate >= 0 {
		t.Errorf("%d requests are too few: %+v", minRequests-1, s)
	}
	for range 4 {
		e.Results(1, 0, at(4))
	}
	if s := e.State(at(4)); s.ErrorRate != 0.5 || s.Requests != 8 || s.Failures != 4 {
		t.Errorf("got %+v", s)
	}
	e.Results(1, 0, at(4))
	if s := e.State(at(16)); s.ErrorRate != 3.0/8 { // the first has left the window
		t.Errorf("got %+v", s)
	}
	e.Results(0, 1, at(4)) // a late one of a part that is in the window still
	if s := e.State(at(16)); s.ErrorRate != 4.0/9 {
		t.Errorf("got %+v", s)
	}
	e.Results(0, 1, at(60))
	e.Results(0, 1, at(60-16)) // its part of the window is another's by now
	if s := e.State(at(60)); s.ErrorRate >= 0 {
		t.Errorf("all but one have left the window: %+v", s)
	}
}

func TestBlockAndReset(t *testing.T) {
	e := NewEndpoint(time.Second)
	e.Block(5*time.Second, t0)
	e.Block(2*time.Second, t0)
	if s := e.State(t0); !s.BlockedUntil.Equal(t0.Add(5 * time.Second)) {
		t.Errorf("got %+v", s)
	}
	for range 10 {
		e.Results(0, 1, t0)
		e.FirstToken(time.Second, t0)
	}
	e.Reset()
	if s := e.State(t0); s.TTFTCount != 0 || s.ErrorRate >= 0 || !s.BlockedUntil.Equal(t0.Add(5*time.Second)) || s.Requests != 10 {
		t.Errorf("got %+v", s)
	}
}

func TestWindowChanges(t *testing.T) {
	e := NewEndpoint(time.Second)
	for range 10 {
		e.Results(0, 1, t0)
	}
	e.SetWindow(time.Second)
	if s := e.State(t0); s.ErrorRate != 1 {
		t.Errorf("the same window forgets: %+v", s)
	}
	e.SetWindow(time.Minute)
	if s := e.State(t0); s.ErrorRate >= 0 {
		t.Errorf("another window must begin anew: %+v", s)
	}
}

func TestConcurrently(t *testing.T) {
	e := NewEndpoint(time.Minute)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 1000 {
				e.Results(uint64(i%2), uint64(1-i%2), t0)
				e.FirstToken(time.Second, t0)
				_ = e.State(t0)
			}
		})
	}
	wg.Wait()
	if s := e.State(t0); s.Requests != 8000 || s.ErrorRate != 0.5 || s.TTFTCount != 8000 {
		t.Errorf("got %+v", s)
	}
}
