package pools

import (
	"time"

	"github.com/weir-dev/weir/xds/load/weigh"
)

// How often Envoy is told what is not an event. The times to the first token of a busy pool are never still, and Envoy builds its
// balancer anew for every update.
const (
	driftEvery = time.Second
	moveEvery  = 250 * time.Millisecond
)

// Drifted says whether what drifts is due again that was told at a time. All that drifts is told with the first computation of a second,
// so that many pools make one update.
func Drifted(told, now time.Time) bool { return another(driftEvery, told, now) }

// another says whether now is in another interval than then.
func another(interval time.Duration, then, now time.Time) bool {
	return !then.Truncate(interval).Equal(now.Truncate(interval))
}

// Tell says whether the last results are worth telling Envoy now, and takes them for told if so: an event at once, what warms up a few times
// a second, and what drifts once. event says that more than drift is told. At first everything is.
func (p *Pool) Tell(now time.Time) (tell, event bool) {
	change := weigh.Event
	if p.told != nil {
		change = weigh.Differ(p.told, p.results, p.PublishPercent)
	}
	switch change {
	case weigh.Event:
		tell = true
	case weigh.Moving:
		tell = another(moveEvery, p.toldAt, now)
	case weigh.Drift:
		tell = Drifted(p.toldAt, now)
	case weigh.Same:
	}
	if tell {
		p.told, p.toldAt = p.results, now
	}
	return tell, tell && change != weigh.Drift
}

// Told are the results that Envoy was told last; nil before the first.
func (p *Pool) Told() []weigh.Result { return p.told }

// Forget makes the next results be told whatever they are.
func (p *Pool) Forget() { p.told = nil }
