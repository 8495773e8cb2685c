package reading

import (
	"testing"
	"time"
)

func TestBurst(t *testing.T) {
	start := time.Unix(1000, 0)
	at := func(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }
	for _, tc := range []struct {
		name   string
		events []int // ms
		now    int
		want   int // ms to wait from now
	}{
		{"one event", []int{0}, 0, 50},
		{"quiet for a while", []int{0}, 30, 20},
		{"over", []int{0}, 50, 0},
		{"a second event begins the wait again", []int{0, 40}, 40, 50},
		{"the limit counts from the first event", []int{0, 40, 80, 120, 160, 200, 240}, 240, 10},
		{"late", []int{0, 40}, 500, -410},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := Burst{Quiet: 50 * time.Millisecond, Limit: 250 * time.Millisecond}
			if b.Pending() {
				t.Error("pending before any event")
			}
			for _, e := range tc.events {
				b.Event(at(e))
			}
			if got := b.Wait(at(tc.now)); !b.Pending() || got != time.Duration(tc.want)*time.Millisecond {
				t.Errorf("wait is %v, want %d ms", got, tc.want)
			}
			if b.Reset(); b.Pending() {
				t.Error("pending after reset")
			}
		})
	}
}
