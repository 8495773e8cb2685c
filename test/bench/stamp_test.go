package main

import (
	"math"
	"slices"
	"testing"
	"time"
)

func stamped(nanos int64) string {
	b := make([]byte, stampBytes)
	putStamp(b, nanos)
	return string(b)
}

func TestStamp(t *testing.T) {
	for _, n := range []int64{0, 1, 46129421586146, math.MaxInt64 - 100} {
		for _, text := range []string{stamped(n), "a@b@" + stamped(n) + "@", "@000@" + stamped(n), stamped(n) + stamped(5)} {
			got, _, ok := takeStamp([]byte(text))
			if !ok || got != n {
				t.Errorf("%q: %d, %v, want %d", text, got, ok, n)
			}
		}
	}
	for text, rest := range map[string]string{
		"":                        "",
		"no stamp in here":        "",
		"words @00":               "@00",
		"@000000000000000000x":    "@000000000000000000x", // one byte too few to tell
		"@000000000000000000x@":   "@",
		stamped(5)[:stampBytes-1]: stamped(5)[:stampBytes-1],
		"@9999999999999999999@":   "@",
	} {
		if n, r, ok := takeStamp([]byte(text)); ok || string(r) != rest {
			t.Errorf("%q: %d, %v, rest %q, want %q", text, n, ok, r, rest)
		}
	}
}

// TestFollower: events are found however they are cut.
func TestFollower(t *testing.T) {
	body := []byte("data: " + stamped(100) + " a\n\ndata: " + stamped(200) + " b\n\ndata: " + stamped(900) + " c\n\n")
	for _, step := range []int{1, 7, len(body)} {
		var f follower
		for range 2 { // streams
			f.begin()
			begun := 0
			for n := step; ; n += step {
				n = min(n, len(body))
				// All that has been sent by now, at the time of the latest.
				now := int64(100)
				for _, at := range []int64{200, 900} {
					if n >= len("data: "+stamped(0)+" a\n\n")*map[int64]int{200: 1, 900: 2}[at]+len("data: "+stamped(0)) {
						now = at
					}
				}
				if f.look(body[:n], now+10, time.Duration(n)) {
					begun++
				}
				if n == len(body) {
					break
				}
			}
			if begun != 1 || f.stamps != 3 {
				t.Errorf("by %d: begun %d times, %d events", step, begun, f.stamps)
			}
		}
		if step < len(body) && (!slices.Equal(f.delays, []time.Duration{10, 10, 10, 10, 10, 10}) || f.longest != 700) {
			t.Errorf("by %d: delays %v, longest gap %v", step, f.delays, f.longest)
		}
		if step == len(body) && f.longest != 0 {
			t.Errorf("at once: longest gap %v", f.longest)
		}
	}
}

// FuzzTakeStamp: no bytes make it read without end or past the end.
func FuzzTakeStamp(f *testing.F) {
	f.Add([]byte(stamped(5) + "@0"))
	f.Add([]byte("@@@@@@@@@@@@@@@@@@@@@@@@@@"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for range len(b) + 1 {
			n, rest, ok := takeStamp(b)
			if n < 0 || len(rest) > len(b) || !ok && len(rest) >= stampBytes {
				t.Fatalf("%d, %d bytes left of %d", n, len(rest), len(b))
			}
			if !ok {
				return
			}
			b = rest
		}
		t.Fatal("more stamps than bytes")
	})
}
