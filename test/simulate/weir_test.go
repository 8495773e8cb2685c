package simulate

import (
	"testing"
	"time"

	"github.com/weir-dev/weir/api/v1alpha1"
)

// TestFirstTokenOfTheLastAttempt: that a server was slow to fail says nothing about the one that answered.
func TestFirstTokenOfTheLastAttempt(t *testing.T) {
	s := newSteering(&environment{base: []float64{1, 1}, policy: &v1alpha1.LoadPolicy{}})
	c := &call{Request: &Request{At: time.Second}, tried: []int{0, 1}, began: 9 * time.Second, first: 9100 * time.Millisecond, started: true}
	s.closed(c, succeeded, 10*time.Second)
	if got := s.pool.Endpoints[1].Feedback.State(at(10 * time.Second)); got.TTFTCount != 1 || got.TTFT != 100*time.Millisecond {
		t.Errorf("the second server has %v of %d", got.TTFT, got.TTFTCount)
	}
	if got := s.pool.Endpoints[0].Feedback.State(at(10 * time.Second)); got.TTFTCount != 0 {
		t.Errorf("the first server has %v", got.TTFT)
	}
}
