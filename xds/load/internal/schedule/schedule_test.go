package schedule

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-dev/weir/test/bubble"
)

// middle makes every random time the middle of its range, so that intervals are exact.
func middle() float64 { return 0.5 }

// start runs s until the test ends.
func start(t *testing.T, s *Scheduler) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); s.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
}

// journal notes when a task began, since the test did.
type journal struct {
	start time.Time

	mu    sync.Mutex
	times []time.Duration
}

func newJournal() *journal { return &journal{start: time.Now()} }

func (j *journal) note() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.times = append(j.times, time.Since(j.start))
}

func (j *journal) taken() []time.Duration {
	synctest.Wait()
	j.mu.Lock()
	defer j.mu.Unlock()
	got := j.times
	j.times = nil
	return got
}

// expect says what the journal should have, to the grain of the scheduler.
func (j *journal) expect(t *testing.T, want ...time.Duration) {
	t.Helper()
	got := j.taken()
	same := slices.EqualFunc(got, want, func(g, w time.Duration) bool { return g >= w && g <= w+grain })
	if !same {
		t.Errorf("began at %v; want %v", got, want)
	}
}

func every(interval time.Duration, j *journal, takes time.Duration) Task {
	return func(ctx context.Context, _ time.Duration) Outcome {
		j.note()
		if takes > 0 {
			select {
			case <-time.After(takes):
			case <-ctx.Done():
			}
		}
		return Outcome{After: interval}
	}
}

const ms = time.Millisecond

func TestRhythm(t *testing.T) {
	for _, tt := range []struct {
		name            string
		interval, takes time.Duration
		want            []time.Duration // in the first two seconds
	}{
		{"short tasks", 500 * ms, 0, []time.Duration{250 * ms, 750 * ms, 1250 * ms, 1750 * ms}},
		{"the interval counts from the beginning", 500 * ms, 300 * ms, []time.Duration{250 * ms, 750 * ms, 1250 * ms, 1750 * ms}},
		{"longer than the interval: never twice at a time", 500 * ms, 700 * ms, []time.Duration{250 * ms, 950 * ms, 1650 * ms}},
		{"a long interval begins soon", time.Hour, 0, []time.Duration{250 * ms}},
		{"a short interval begins within it", 800 * ms, 0, []time.Duration{250 * ms, 1050 * ms, 1850 * ms}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				s := New(Options{Rand: middle})
				start(t, s)
				synctest.Wait() // it sleeps without anything to do
				j := newJournal()
				s.Add(tt.interval, every(tt.interval, j, tt.takes))
				time.Sleep(2*time.Second - ms)
				j.expect(t, tt.want...)
			})
		})
	}
}

func TestSpread(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := New(Options{Rand: seeded(1)})
		start(t, s)
		const tasks, buckets = 1000, 10
		var first, tenth [buckets]atomic.Int64
		began := time.Now()
		for range tasks {
			runs := 0
			s.Add(time.Second, func(context.Context, time.Duration) Outcome {
				runs++
				switch at := time.Since(began); runs {
				case 1:
					first[min(buckets-1, at/(firstWithin/buckets))].Add(1)
				case 10:
					tenth[at%time.Second/(time.Second/buckets)].Add(1)
				}
				return Outcome{After: time.Second}
			})
		}
		time.Sleep(15 * time.Second)
		for i := range buckets {
			if n := first[i].Load(); n < tasks/buckets/2 || n > tasks/buckets*2 {
				t.Errorf("%d of %d tasks begin in tenth %d of the first half second", n, tasks, i)
			}
			// Jitter has spread over the whole interval what began in half of it.
			if n := tenth[i].Load(); n < tasks/buckets/3 {
				t.Errorf("%d of %d tasks run for the tenth time in tenth %d of an interval", n, tasks, i)
			}
		}
	})
}

func seeded(seed uint64) func() float64 {
	var mu sync.Mutex
	r := rand.New(rand.NewPCG(seed, 2))
	return func() float64 {
		mu.Lock()
		defer mu.Unlock()
		return r.Float64()
	}
}

func TestWorkersAreBounded(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := New(Options{Workers: 3, Rand: middle})
		start(t, s)
		var now, most, runs, late atomic.Int64
		for range 9 {
			s.Add(time.Hour, func(_ context.Context, l time.Duration) Outcome {
				most.Store(max(most.Load(), now.Add(1)))
				time.Sleep(time.Second)
				now.Add(-1)
				runs.Add(1)
				late.Store(max(late.Load(), int64(l)))
				return Outcome{After: time.Hour}
			})
		}
		time.Sleep(250*ms + grain)
		synctest.Wait()
		if got := s.Stats(); got != (Stats{Tasks: 9, Running: 3, Ready: 6}) {
			t.Errorf("%+v", got)
		}
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if most.Load() != 3 || runs.Load() != 9 {
			t.Errorf("%d ran, %d at a time; want all 9, 3 at a time", runs.Load(), most.Load())
		}
		if l := time.Duration(late.Load()); l < 2*time.Second || l > 2*time.Second+2*grain {
			t.Errorf("the last were %v late; want 2 s", l)
		}
		if got := s.Stats(); got != (Stats{Tasks: 9}) {
			t.Errorf("%+v", got)
		}
	})
}

// TestSuspectsKeepNobodyWaiting has far more servers that hang than there are workers.
func TestSuspectsKeepNobodyWaiting(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := New(Options{Workers: 8, Rand: middle})
		start(t, s)
		var hanging, most atomic.Int64
		for range 100 {
			known := false
			s.Add(100*ms, func(context.Context, time.Duration) Outcome {
				if known {
					most.Store(max(most.Load(), hanging.Add(1)))
					defer hanging.Add(-1)
				}
				known = true
				time.Sleep(2 * time.Second)
				return Outcome{After: 100 * ms, Suspect: true}
			})
		}
		time.Sleep(time.Minute) // each has been found out
		j := newJournal()
		s.Add(500*ms, every(500*ms, j, 10*ms))
		time.Sleep(2*time.Second - ms)
		j.expect(t, 250*ms, 750*ms, 1250*ms, 1750*ms)
		if most.Load() != 4 {
			t.Errorf("%d suspects at a time; want half of the workers, no more and no less", most.Load())
		}
	})
}

func TestSuspectsAreTrustedAgain(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := New(Options{Workers: 2, Rand: middle})
		start(t, s)
		var well atomic.Bool
		var together, most atomic.Int64
		for range 2 {
			s.Add(100*ms, func(context.Context, time.Duration) Outcome {
				if well.Load() {
					most.Store(max(most.Load(), together.Add(1)))
					defer together.Add(-1)
				}
				time.Sleep(90 * ms)
				return Outcome{After: 100 * ms, Suspect: !well.Load()}
			})
		}
		time.Sleep(time.Second)
		well.Store(true)
		time.Sleep(time.Second)
		if most.Load() != 2 {
			t.Errorf("%d at a time; want both, now that they are well", most.Load())
		}
	})
}

func TestHurry(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := New(Options{Workers: 1, Rand: middle})
		start(t, s)
		j := newJournal()
		e := s.Add(10*time.Second, every(10*time.Second, j, 100*ms))
		time.Sleep(time.Second)
		j.expect(t, 250*ms)
		e.Hurry(30 * ms)
		e.Hurry(20 * time.Second) // later than planned: nothing
		time.Sleep(49 * ms)       // it runs
		j.expect(t, 1030*ms)
		e.Hurry(300 * ms)
		e.Hurry(200 * ms) // the sooner counts
		e.Hurry(400 * ms)
		time.Sleep(time.Second - 49*ms)
		j.expect(t, 1249*ms)
		time.Sleep(9249 * ms) // then its own interval again
		j.expect(t, 11249*ms)
		time.Sleep(time.Second)

		e.Hurry(0)
		time.Sleep(50 * ms)
		e.Hurry(0) // at its end
		time.Sleep(time.Second)
		if got := j.taken(); len(got) != 2 || got[1]-got[0] != 100*ms {
			t.Errorf("began at %v; want one after the other", got)
		}

		e.Remove()
		e.Hurry(0)
		time.Sleep(time.Minute)
		j.expect(t)
	})
}

func TestRemove(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := New(Options{Workers: 1, Rand: middle})
		start(t, s)
		j := newJournal()
		waiting := s.Add(10*time.Second, every(time.Second, j, 0))
		waiting.Remove()
		waiting.Remove() // once more does nothing

		var cut atomic.Int64
		running := s.Add(time.Second, func(ctx context.Context, _ time.Duration) Outcome {
			<-ctx.Done()
			cut.Add(1)
			return Outcome{After: time.Second}
		})
		time.Sleep(400 * ms)
		ready := s.Add(200*ms, every(time.Second, j, 0))
		other := s.Add(200*ms, every(time.Hour, j, 0))
		time.Sleep(400 * ms)
		if got := s.Stats(); got != (Stats{Tasks: 3, Running: 1, Ready: 2}) {
			t.Errorf("%+v", got)
		}
		ready.Remove()
		running.Remove()
		time.Sleep(time.Minute)
		synctest.Wait()
		if cut.Load() != 1 {
			t.Errorf("the task that ran was ended %d times", cut.Load())
		}
		j.expect(t, 800*ms) // the one behind, as soon as it could
		if got := s.Stats(); got != (Stats{Tasks: 1}) {
			t.Errorf("%+v", got)
		}
		other.Remove()
	})
}

func TestRunWaitsForTasks(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := New(Options{Workers: 2, Rand: middle})
		ctx, cancel := context.WithCancel(t.Context())
		var over, begun atomic.Int64
		for range 5 {
			s.Add(time.Second, func(ctx context.Context, _ time.Duration) Outcome {
				begun.Add(1)
				<-ctx.Done()
				time.Sleep(time.Second) // it takes its time to end
				over.Add(1)
				return Outcome{}
			})
		}
		go func() { time.Sleep(time.Second); cancel() }()
		s.Run(ctx)
		if begun.Load() != 2 || over.Load() != 2 {
			t.Errorf("Run returned when %d tasks had begun and %d were over; want 2 and 2", begun.Load(), over.Load())
		}
	})
}

// TestRandom does everything at random and checks what must always hold.
func TestRandom(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				random := seeded(seed)
				workers := 1 + int(random()*10)
				s := New(Options{Workers: workers, Rand: random})
				start(t, s)
				var running, runs atomic.Int64
				type task struct {
					entry   *Entry
					busy    atomic.Bool
					removed atomic.Bool
				}
				var tasks []*task
				for range 2000 {
					switch p := random(); {
					case p < 0.3 || len(tasks) == 0:
						own := &task{}
						interval := time.Duration(random() * float64(time.Second))
						own.entry = s.Add(interval, func(ctx context.Context, late time.Duration) Outcome {
							if own.busy.Swap(true) {
								t.Error("a task runs twice at a time")
							}
							if own.removed.Load() && ctx.Err() == nil {
								t.Error("a task runs that was removed")
							}
							if n := running.Add(1); n > int64(workers) {
								t.Errorf("%d tasks at a time; want at most %d", n, workers)
							}
							if late < 0 {
								t.Errorf("a task is %v early", -late)
							}
							runs.Add(1)
							select {
							case <-time.After(time.Duration(random() * float64(50*ms))):
							case <-ctx.Done():
							}
							running.Add(-1)
							own.busy.Store(false)
							return Outcome{After: interval, Suspect: random() < 0.3}
						})
						tasks = append(tasks, own)
					case p < 0.5:
						i := int(random() * float64(len(tasks)))
						tasks[i].entry.Remove()
						tasks[i].removed.Store(true)
						tasks = slices.Delete(tasks, i, i+1)
					case p < 0.7:
						tasks[int(random()*float64(len(tasks)))].entry.Hurry(time.Duration(random() * float64(100*ms)))
					default:
						time.Sleep(time.Duration(random() * float64(20*ms)))
					}
				}
				if got := s.Stats().Tasks; got != len(tasks) {
					t.Errorf("%d tasks; want %d", got, len(tasks))
				}
				for _, task := range tasks {
					task.entry.Remove()
				}
				time.Sleep(time.Second)
				if got := s.Stats(); got != (Stats{}) {
					t.Errorf("all are removed, and there is %+v", got)
				}
				before := runs.Load()
				if before < 100 {
					t.Errorf("only %d runs", before)
				}
				time.Sleep(time.Minute)
				if runs.Load() != before {
					t.Error("removed tasks run on")
				}
			})
		})
	}
}
