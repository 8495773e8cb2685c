package queue_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/weir-dev/weir/xds/load/engine/internal/queue"
	"github.com/weir-dev/weir/xds/load/engine/internal/tally"
)

const unknown = -1

// reading is one page: what is unknown is -1, and so is a delay that cannot be said.
type reading struct {
	ms                         int // since the start
	waiting, running, finished float64
	seconds, entered           float64
	want                       int // ms
}

func known(v float64) tally.Sum { return tally.Sum{Value: max(v, 0), Known: v >= 0} }

func TestDelay(t *testing.T) {
	const u = unknown
	for name, story := range map[string][]reading{
		"nothing is told": {{0, u, u, u, u, u, u}, {500, u, u, u, u, u, u}},
		"the histogram": {
			{0, u, u, u, 100, 1000, u},
			{500, u, u, u, 104, 1010, 400},
			{1000, u, u, u, 104, 1010, u}, // nothing new
			{1500, u, u, u, 109, 1012, 2500},
		},
		"the histogram began anew": {
			{0, 0, u, u, 100, 1000, 0},
			{500, 4, u, u, 110, 1010, 1000},
			{1000, 4, u, u, 1, 2, u}, // what was known is void
			{1500, 4, u, u, 3, 4, 1000},
		},
		"the histogram went away": {{0, u, u, u, 100, 1000, u}, {500, u, u, u, u, u, u}, {1000, u, u, u, 200, 1010, u}, {1500, u, u, u, 201, 1011, 1000}},
		"an empty queue":          {{0, 0, 3, 10, 5, 10, 0}, {500, 0, 3, 10, 5, 10, 0}, {1000, 0, 3, 11, 7, 11, 2000}, {1500, 0, 3, 11, 7, 11, 0}},
		"none leaves the queue": {
			{0, 0, 8, 10, u, u, 0},
			{500, 3, 8, 10, u, u, 0}, // came since the page before
			{1000, 3, 8, 10, u, u, 500},
			{1500, 5, 8, 10, u, u, 1000},
			{2000, 0, 8, 18, u, u, 0}, // all left
			{2500, 2, 8, 18, u, u, 0},
		},
		"as many leave as waited": {
			{0, 3, 8, 10, u, u, u},
			{500, 3, 8, 12, u, u, 500},  // one of the first three waits
			{1000, 3, 8, 13, u, u, 500}, // now one of those of the second page
			{1500, 3, 8, 16, u, u, 0},   // all of those left
			{2000, 3, 8, 18, u, u, 500},
		},
		"running ones go back to wait": {
			{0, 2, 8, 10, u, u, u},
			{500, 4, 6, 10, u, u, 500},
			{1000, 4, 6, 10, u, u, 1000},
		},
		"the last mean holds while others wait, until they waited longer": {
			{0, 4, 8, 10, 20, 10, u},
			{500, 4, 8, 20, 34, 20, 1400},
			{1000, 4, 8, 20, 34, 20, 1400},
			{1500, 4, 8, 20, 34, 20, 1400},
			{2000, 4, 8, 20, 34, 20, 1500},
			{2500, 0, 8, 24, 34, 20, 0},
			{3000, 1, 8, 24, 34, 20, 0},
		},
		"the server began anew while requests wait": {
			{0, 4, 8, 1000, u, u, u},
			{500, 4, 8, 1000, u, u, 500},
			{1000, 4, 8, 0, u, u, u}, // whoever waits now does not wait since then
			{1500, 4, 8, 0, u, u, 500},
		},
		"an absurd mean": {{0, u, u, u, 0, 0, u}, {500, u, u, u, 1e300, 1, 86400_000}},
	} {
		t.Run(name, func(t *testing.T) {
			var d queue.Delay
			start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
			for i, r := range story {
				got, ok := d.Update(start.Add(time.Duration(r.ms)*time.Millisecond), queue.Counts{
					Waiting: known(r.waiting), Running: known(r.running), Finished: known(r.finished),
					Seconds: known(r.seconds), Entered: known(r.entered),
				})
				ms := int(got.Round(time.Millisecond).Milliseconds())
				if !ok {
					ms = unknown
				}
				if ms != r.want {
					t.Errorf("reading %d: %d ms, want %d", i, ms, r.want)
				}
			}
		})
	}
}

// TestNeverTooLong simulates queues, first come first served and not, whose every request's wait is known: what Delay says without a
// histogram is never longer than what the longest waiting request waited.
func TestNeverTooLong(t *testing.T) {
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		var (
			d                 queue.Delay
			waiting           []time.Time // since when
			running, finished int
			said              int
		)
		now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		for range 300 {
			now = now.Add(time.Duration(1+rnd.IntN(900)) * time.Millisecond)
			for range rnd.IntN(6) {
				waiting = append(waiting, now)
			}
			for n := rnd.IntN(7); n > 0 && len(waiting) > 0; n-- {
				i := 0
				if seed%2 == 1 {
					i = rnd.IntN(len(waiting))
				}
				waiting = append(waiting[:i], waiting[i+1:]...)
				if running++; rnd.IntN(10) == 0 { // left the queue by giving up
					running--
					finished++
				}
			}
			for n := rnd.IntN(7); n > 0 && running > 0; n-- {
				running--
				finished++
			}
			longest := time.Duration(0)
			for _, since := range waiting {
				longest = max(longest, now.Sub(since))
			}
			got, ok := d.Update(now, queue.Counts{
				Waiting: known(float64(len(waiting))), Running: known(float64(running)), Finished: known(float64(finished)),
			})
			if got > longest {
				t.Fatalf("seed %d: %v, but the longest wait is %v", seed, got, longest)
			}
			if ok && got > 0 {
				said++
			}
		}
		if said == 0 {
			t.Errorf("seed %d: never a delay", seed)
		}
	}
}
