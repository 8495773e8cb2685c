package status

import (
	"context"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	// startQPS is how many writes there are each second at first, and leastQPS how many there are however slow the API server is.
	startQPS, leastQPS = 50, 10
	// burst is how many writes may come at once.
	burst = 200
	// quick is how long a write takes at an API server that could take more of them, and strained how long at one that has too many: its own
	// objective is a second. Both are for all of a write; an API server that refuses one for now has it waiting here, too.
	quick, strained = 100 * time.Millisecond, 500 * time.Millisecond
	// relief is how long a slower pace is given to take effect.
	relief = time.Second
)

// pace is how fast statuses are written: faster while the API server takes each in a moment, and half as fast when it does not. It is safe
// for concurrent use.
type pace struct {
	most    rate.Limit
	limiter *rate.Limiter

	mu  sync.Mutex
	cut time.Time // when it became slower last
}

func newPace(most float64) *pace {
	return &pace{most: rate.Limit(most), limiter: rate.NewLimiter(rate.Limit(min(startQPS, most)), max(1, int(min(burst, 4*most))))}
}

// wait waits until the next write may begin.
func (p *pace) wait(ctx context.Context) error { return p.limiter.Wait(ctx) }

// done takes how a write fared.
func (p *pace) done(now time.Time, took time.Duration, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch is := p.limiter.Limit(); {
	case err != nil || took > strained:
		if now.Sub(p.cut) >= relief {
			p.cut = now
			p.limiter.SetLimit(max(min(leastQPS, p.most), is/2))
		}
	case took < quick:
		p.limiter.SetLimit(min(p.most, is+1))
	}
}
