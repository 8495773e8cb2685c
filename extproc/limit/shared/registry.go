package shared

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// registryExpiry is how long the registry outlives the last replica.
const registryExpiry = time.Hour

// replicasKey is where the registry is, after the prefix.
const replicasKey = ":limit:{replicas}"

// registry is what is known of the other replicas and of the store.
type registry struct {
	mu      sync.Mutex // one beat at a time
	epoch   string     // the last seen; "" before the first beat
	unsaid  bool       // totals have to be written again, and that has not succeeded yet
	suspect atomic.Bool
	moved   atomic.Bool   // to another place, of which no beat has been answered yet
	kick    chan struct{} // asks Run for a beat at once
	until   atomic.Int64  // restoring until then, Unix nanoseconds by Remote.now
}

// Run shows that this replica lives, learns how many others do, and writes its totals again where Redis lost them. It
// returns when ctx ends, after it has taken the replica out of the registry.
func (r *Remote) Run(ctx context.Context) {
	ticker := time.NewTicker(r.beat)
	defer ticker.Stop()
	for {
		_ = r.beatOnce(ctx) // the connection's Health keeps the error
		select {
		case <-ctx.Done():
			r.leave()
			return
		case <-ticker.C:
		case <-r.registry.kick:
		}
	}
}

// Ping says whether counting works now: it writes to the registry. While lost counters are put together again the error
// is ErrRestoring.
func (r *Remote) Ping(ctx context.Context) error {
	if err := r.beatOnce(ctx); err != nil {
		return err
	}
	if r.restoring() {
		return ErrRestoring
	}
	return nil
}

// beatOnce shows that this replica lives and does what follows from the answer.
func (r *Remote) beatOnce(ctx context.Context) error {
	g := &r.registry
	g.mu.Lock()
	defer g.mu.Unlock()
	broken := ""
	if g.suspect.Load() {
		broken = g.epoch
	}
	at := r.place.Load()
	values, err := r.run(ctx, &call{
		script: r.scripts.registry, keys: []string{replicasKey, replicasKey + ":epoch"},
		args: []any{r.id, r.stale.Milliseconds(), registryExpiry.Milliseconds(), broken, rand.Text()},
	})
	if err != nil {
		return err
	}
	if at != r.place.Load() { // the answer is of where the counters were
		return errMoved
	}
	if len(values) != 2 {
		return errors.New("counting in Redis: the registry's answer is not understood")
	}
	n, _ := values[0].(int64)
	epoch, _ := values[1].(string)
	g.suspect.Store(false)
	r.replicas.Store(max(1, n))
	if g.epoch != "" && g.epoch != epoch {
		if g.moved.Load() {
			r.log.Info("the counters are in another Redis now: the replicas write what they have counted there", slog.String("epoch", epoch))
		} else {
			r.log.Warn("Redis has lost counters: the replicas write what they have counted again", slog.String("epoch", epoch))
		}
		r.restore()
		g.unsaid = true
		r.doubt()
	}
	g.epoch = epoch
	g.moved.Store(false)
	if r.sayAll(ctx) {
		g.unsaid = false
	} else if g.unsaid {
		r.restore()
	}
	return nil
}

// leave takes this replica out of the registry.
func (r *Remote) leave() {
	at := r.place.Load()
	ctx, cancel := context.WithTimeout(context.Background(), at.conn.Timeout())
	defer cancel()
	_ = at.conn.ZRem(ctx, at.prefix+replicasKey, r.id).Err()
}

// lost notes that Redis has lost a field, and has all replicas write theirs.
func (r *Remote) lost() {
	r.restore()
	if r.registry.suspect.CompareAndSwap(false, true) {
		r.kick()
	}
}

// kick asks Run for a beat at once.
func (r *Remote) kick() {
	select {
	case r.registry.kick <- struct{}{}:
	default:
	}
}

func (r *Remote) restore() {
	r.registry.until.Store(r.now().Add(beatsToRestore * r.beat).UnixNano())
}

func (r *Remote) restoring() bool {
	until := r.registry.until.Load()
	return until != 0 && r.now().UnixNano() < until
}

// doubt makes every share one that has to be written again.
func (r *Remote) doubt() {
	for _, s := range r.all() {
		s.mu.Lock()
		s.unsure = s.unsure || s.adopted
		s.mu.Unlock()
	}
}

func (r *Remote) all() []*share {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]*share, 0, len(r.shares))
	for _, s := range r.shares {
		out = append(out, s)
	}
	return out
}

// sayAll forgets the shares that have ended and writes those that have to be: because their fields may be wrong, because
// they were restored and not said yet, or because they would be taken for those of a dead replica. It tells whether all could be.
func (r *Remote) sayAll(ctx context.Context) bool {
	now := r.now()
	var due []*share
	for _, s := range r.all() {
		s.mu.Lock()
		idle := s.underway == 0 && s.adopting == nil
		switch {
		case idle && s.ended(now, r.stale):
			s.gone = true
			r.mu.Lock()
			delete(r.shares, s.key)
			r.mu.Unlock()
		case s.unsure, !s.adopted && (s.used() > 0 || s.owed != 0),
			s.kind == kindConcurrent && s.used() > 0 && now.Sub(s.said) >= r.stale/4:
			if idle {
				due = append(due, s)
			}
		}
		s.mu.Unlock()
	}
	ok := true
	for len(due) > 0 {
		// As many at once as a pipeline holds; the batcher puts them together.
		part := due[:min(batchSize, len(due))]
		due = due[len(part):]
		var wg sync.WaitGroup
		var failed atomic.Bool
		for _, s := range part {
			wg.Go(func() {
				if r.say(ctx, s) != nil {
					failed.Store(true)
				}
			})
		}
		wg.Wait()
		if failed.Load() {
			return false
		}
	}
	return ok
}

// ended tells whether nothing of the share has to be known any more. s.mu is held.
func (s *share) ended(now time.Time, stale time.Duration) bool {
	if s.kind == kindConcurrent {
		return s.used() == 0 && s.owed == 0 && !s.unsure && now.Sub(s.said) > stale
	}
	return now.After(s.ends.Add(lateness))
}

// State is what a Remote knows of its surroundings, for status pages and metrics.
type State struct {
	Replicas  int  // live ones, as last seen
	Restoring bool // lost counters are being put together again
	Shares    int  // budgets and counters of concurrent requests that this replica takes part in
}

// State of the Remote.
func (r *Remote) State() State {
	r.mu.Lock()
	n := len(r.shares)
	r.mu.Unlock()
	return State{Replicas: r.Replicas(), Restoring: r.restoring(), Shares: n}
}
