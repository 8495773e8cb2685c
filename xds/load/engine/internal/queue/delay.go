// Package queue says how long requests wait in an engine before it works on them.
//
// The histogram that most engines publish is not enough: vLLM, TGI and trtllm-serve enter a request when it is finished, so a queue
// that grows now shows in it after a whole generation. What shows at once is that requests which waited then are waiting still.
package queue

import (
	"time"

	"github.com/weir-dev/weir/xds/load/engine/internal/tally"
)

// Counts is what one page says about the queue.
type Counts struct {
	Waiting  tally.Sum // requests in the queue
	Running  tally.Sum // requests that left it and are not finished
	Finished tally.Sum // requests that ever finished, in whatever way: a counter
	Seconds  tally.Sum // waited by all requests that the histogram has: a counter
	Entered  tally.Sum // requests that the histogram has: a counter
}

// Delay remembers what earlier pages said. The zero value has seen none.
type Delay struct {
	seconds, entered tally.Sum
	finished         tally.Sum
	mean             tally.Max // of the requests that entered the histogram last, in seconds; as long as requests wait

	marks [marks]mark // oldest first; each has a request that has waited ever since
	n     int
}

const marks = 16

// mark is one earlier page: waiting requests stood in the queue when left had ever left it.
type mark struct {
	at            time.Time
	waiting, left float64
}

// Update is how long requests wait by the page that was read at that time, after all pages before: the mean wait of those that
// entered the histogram since the page before, but at least how long some request that waits now has been seen waiting. With an
// empty queue and nothing new in the histogram it is 0. It is false while that cannot be said: at first, and without such metrics.
func (d *Delay) Update(at time.Time, c Counts) (time.Duration, bool) {
	mean, moved := d.sinceLast(c)
	age, seen := d.age(at, c)
	if !c.Waiting.Known {
		return seconds(mean), moved
	}
	if c.Waiting.Value == 0 {
		d.mean = tally.Max{}
		return seconds(mean), true
	}
	if moved {
		d.mean = tally.Max{Value: mean, Known: true}
	}
	// What the last requests waited still counts while none enters and others wait.
	if d.mean.Known {
		return max(seconds(d.mean.Value), age), true
	}
	return age, seen
}

// sinceLast is the mean wait of the requests that entered the histogram since the page before, in seconds.
func (d *Delay) sinceLast(c Counts) (mean float64, moved bool) {
	was, wasEntered := d.seconds, d.entered
	d.seconds, d.entered = c.Seconds, c.Entered
	if !was.Known || !wasEntered.Known || !c.Seconds.Known || !c.Entered.Known {
		return 0, false
	}
	sum, n := c.Seconds.Value-was.Value, c.Entered.Value-wasEntered.Value
	if n < 0 || sum < 0 { // the server began anew
		d.mean = tally.Max{}
		return 0, false
	}
	if n == 0 {
		return 0, false
	}
	return sum / n, true
}

// age is how long some request that waits now has been seen waiting. Of the requests that waited at a mark, no more than left the
// queue since then can have left it, whatever the order in which the engine takes them. It is false without a page to compare with.
func (d *Delay) age(at time.Time, c Counts) (age time.Duration, seen bool) {
	was := d.finished
	d.finished = c.Finished
	if !c.Waiting.Known || !c.Running.Known || !c.Finished.Known {
		d.finished, d.n = tally.Sum{}, 0
		return 0, false
	}
	if c.Finished.Value < was.Value { // the server began anew
		was, d.n = tally.Sum{}, 0
	}
	if c.Waiting.Value == 0 {
		d.n = 0
		return 0, was.Known
	}
	left := c.Running.Value + c.Finished.Value
	gone := 0
	for gone < d.n && left-d.marks[gone].left >= d.marks[gone].waiting {
		gone++
	}
	copy(d.marks[:], d.marks[gone:d.n])
	d.n -= gone
	if d.n == marks { // keep the oldest, and of the others every second
		for i := 1; i < marks/2; i++ {
			d.marks[i] = d.marks[2*i]
		}
		d.n = marks / 2
	}
	d.marks[d.n] = mark{at: at, waiting: c.Waiting.Value, left: left}
	d.n++
	return max(at.Sub(d.marks[0].at), 0), was.Known
}

// seconds is s as a duration; more than a day does not matter.
func seconds(s float64) time.Duration {
	return time.Duration(min(s, 86400) * float64(time.Second))
}
