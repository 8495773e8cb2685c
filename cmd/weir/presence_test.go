package main

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-dev/weir/test/bubble"
)

func TestPresence(t *testing.T) {
	type watched struct {
		*presence
		gone []time.Duration // how long after the start of the test it had gone, of each that is gone
	}
	inBubble := func(name string, test func(t *testing.T, w *watched)) {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				start := time.Now()
				w := &watched{}
				w.presence = &presence{gone: func(then time.Time) { w.gone = append(w.gone, then.Sub(start)) }}
				test(t, w)
			})
		})
	}
	pass := func(d time.Duration) {
		time.Sleep(d) // of the bubble's clock
		synctest.Wait()
	}
	expect := func(t *testing.T, w *watched, missing string, gone ...time.Duration) {
		t.Helper()
		if got := w.missing(); got != missing {
			t.Errorf("missing is %q, want %q", got, missing)
		}
		if !slices.Equal(w.gone, gone) {
			t.Errorf("gone at %v, want %v", w.gone, gone)
		}
	}
	const left = "Envoy is not connected any more"

	inBubble("none has come", func(t *testing.T, w *watched) {
		pass(time.Hour)
		expect(t, w, "no Envoy has connected yet")
	})
	inBubble("it comes back in time", func(t *testing.T, w *watched) {
		w.came(true)
		expect(t, w, "")
		pass(time.Second)
		w.went()
		expect(t, w, left)
		pass(absence - time.Millisecond)
		w.came(false)
		pass(time.Hour)
		expect(t, w, "")
	})
	inBubble("it does not come back", func(t *testing.T, w *watched) {
		w.came(true)
		pass(time.Second)
		w.went()
		pass(absence)
		expect(t, w, left, time.Second)
		w.came(true)
		pass(time.Hour)
		expect(t, w, "", time.Second) // once
	})
	inBubble("another comes in its place", func(t *testing.T, w *watched) {
		w.came(false)
		pass(time.Second)
		w.went()
		pass(absence / 2)
		w.came(true)
		expect(t, w, "", time.Second) // before it has requests
		pass(time.Hour)
		expect(t, w, "", time.Second)
	})
	inBubble("another comes before it is known to be gone", func(t *testing.T, w *watched) {
		w.came(true)
		w.came(true)
		pass(time.Hour)
		expect(t, w, "")
	})
	inBubble("the gateway ends", func(t *testing.T, w *watched) {
		w.came(true)
		w.went()
		w.stop()
		pass(time.Hour)
		w.came(true)
		w.went()
		pass(time.Hour)
		expect(t, w, left)
	})
}
