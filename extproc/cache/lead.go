package cache

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"time"
)

// leaseFor is how long a replica that died keeps the others from buying what it was buying.
const leaseFor = 10 * time.Second

// How often a replica asks whether another has bought what it waits for.
const (
	leadFirst = 10 * time.Millisecond
	leadMost  = 200 * time.Millisecond
)

// lease says that this replica buys an answer. nil is a lease that nobody needs.
type lease struct {
	r       *remote
	key     string
	token   string
	stop    context.CancelFunc
	stopped chan struct{}
	awaited func() // what to do where others wait, before they learn that it is over
}

// lead takes the lease for what the flight buys, or waits for the replica that has it. It returns the record that another has
// bought; or a lease; or neither, where Redis cannot tell or the wait is over: then this replica buys as if it were alone.
func (r *remote) lead(ctx context.Context, f *flight) (*lease, *record) {
	a := &f.ask
	shard := r.shard(a.Key[0])
	name := nameOf(a.Policy.ID, a.Policy.Scope, a.Tenant, a.Key)
	lock := shard + "l:" + name
	var random [16]byte
	_, _ = rand.Read(random[:]) // never fails
	token := hex.EncodeToString(random[:])
	ignore := "" // stamp of a record that is too old for this caller
	began, wait := r.c.now(), leadFirst
	waited := false
	for {
		out, err := r.script(ctx, r.scripts.lead, []string{shard + "e:" + name, lock}, token, leaseFor.Milliseconds(), ignore).Slice()
		if err != nil || len(out) == 0 {
			if err != nil {
				r.failed("lock", err)
			}
			return nil, nil
		}
		switch state, _ := out[0].(int64); state {
		case 1:
			l := &lease{r: r, key: lock, token: token, stopped: make(chan struct{})}
			renewing, stop := context.WithCancel(context.WithoutCancel(ctx))
			l.stop = stop
			go l.renew(renewing)
			return l, nil
		case 2:
			raw, _ := out[1].(string)
			if x := r.read([]byte(raw), a); x != nil {
				if fr, _, _ := x.judge(a, r.c.now(), 1); fr == fresh {
					if waited {
						r.c.metrics.shared.WithLabelValues(a.Policy.ID).Inc()
					}
					return nil, x
				}
			}
			if len(raw) < 1+stampLen || ignore == raw[1:1+stampLen] {
				return nil, nil
			}
			ignore = raw[1 : 1+stampLen]
			continue
		}
		if f.refresh && f.alone() || r.c.now().Sub(began) >= a.Policy.MaxWait || !r.up.Load() {
			if !f.refresh {
				r.c.metrics.waits.WithLabelValues(a.Policy.ID).Inc()
			}
			return nil, nil
		}
		waited = true
		timer := time.NewTimer(min(wait, a.Policy.MaxWait))
		wait = min(2*wait, leadMost)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, nil
		}
	}
}

// renew keeps the lease until it is stopped.
func (l *lease) renew(ctx context.Context) {
	defer close(l.stopped)
	ticker := time.NewTicker(leaseFor / 3)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if _, err := l.call(ctx, leaseFor, false); err != nil {
			l.r.failed("lock", err)
		}
	}
}

// call keeps the lease for d, or gives it back with 0.
func (l *lease) call(ctx context.Context, d time.Duration, force bool) (int64, error) {
	return l.r.script(ctx, l.r.scripts.lease, []string{l.key}, l.token, d.Milliseconds(), flag(force)).Int64()
}

// release gives the lease back; where others wait for the answer and it is kept, it is in Redis before they know.
func (l *lease) release(ctx context.Context) {
	if l == nil {
		return
	}
	l.stop()
	<-l.stopped
	state, err := l.call(ctx, 0, l.awaited == nil)
	if err == nil && state == 2 {
		l.awaited()
		_, err = l.call(ctx, 0, true)
	}
	if err != nil {
		l.r.failed("lock", err)
	}
}

// announced is when a record that is about to be written was said to the filters.
type announced struct {
	at    int64 // Unix nanoseconds; 0: there is no filter
	alone bool  // nobody else has one
}

// wait until all filters that are asked know what was announced.
func (a announced) wait(r *remote) {
	if a.at == 0 || a.alone {
		return
	}
	if d := time.Duration(a.at + int64(freshFor) - r.c.now().UnixNano()); d > 0 {
		time.Sleep(min(d, freshFor))
	}
}

func (a announced) old(r *remote) bool {
	return a.at != 0 && r.c.now().UnixNano()-a.at > int64(r.grace)
}
