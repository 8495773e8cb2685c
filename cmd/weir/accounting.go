package main

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-dev/weir/extproc/breaker"
	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/extproc/lane"
	"github.com/weir-dev/weir/extproc/limit"
	"github.com/weir-dev/weir/extproc/table"
	"github.com/weir-dev/weir/usage"
	"github.com/weir-dev/weir/usage/ledger"
	"github.com/weir-dev/weir/xds/compile"
)

// accounting is everything that counts: limits and breakers before a request, the desk and the ledger after it.
type accounting struct {
	log       *slog.Logger
	ledger    *ledger.Ledger
	estimator *usage.Estimator
	desk      *usage.Desk
	limits    *limit.Engine
	breakers  *breaker.Set
	shared    *sharedState
	// breakerChanged is told of every change of a circuit breaker, if it is set; it must be before a request comes.
	breakerChanged func(breaker.Change)

	restoring sync.Mutex
	newest    atomic.Pointer[table.Table] // that budgets are to be restored for
}

// storeTimeout bounds a call to the shared state. It is above every LLMGateway.spec.sharedState.redis.timeout, which bounds
// each command.
const storeTimeout = 3 * time.Second

// newAccounting opens the ledger in a directory. finished takes requests that are over, nil for nobody.
func newAccounting(state string, stored *identity.StoredKeys, lanes *lane.Set, log *slog.Logger, reg prometheus.Registerer, finished usage.FinishedSink) (*accounting, error) {
	a := &accounting{log: log, estimator: usage.NewEstimator()}
	var err error
	if a.ledger, err = ledger.Open(state, ledger.Options{Now: time.Now, Log: log}); err != nil {
		return nil, err
	}
	reg.MustRegister(a.ledger.Collector())
	a.desk = usage.NewDesk(usage.DeskOptions{Ledger: a.ledger, Estimator: a.estimator, Registry: reg, Now: time.Now, Begun: lanes.Begun, Finished: finished})
	a.shared = &sharedState{log: log, ledger: a.ledger, keys: stored}
	m := newLimitMetrics(reg)
	a.limits = limit.New(limit.Options{Remote: a.shared, Timeout: storeTimeout, Log: log, Metrics: m, Reclaimer: lanes})
	a.breakers = breaker.New(breaker.Options{OnChange: func(c breaker.Change) {
		m.change(c)
		if a.breakerChanged != nil {
			a.breakerChanged(c)
		}
		if c.Forgotten {
			return
		}
		go lanes.Renew() // requests that were let in ahead were let in by a breaker in another state
		log.Warn("a circuit breaker has changed", "policy", c.Rule.Name, "subject", c.Key, "from", c.From.String(), "to", c.To.String(),
			"requests", c.Requests, "failures", c.Failures)
	}})
	reg.MustRegister(stateCollector{a})
	return a, nil
}

// apply makes what the process shares and keeps what the configuration says.
func (a *accounting) apply(set compile.Settings) {
	a.ledger.SetRetention(set.Retention)
	if set.Shared == nil {
		a.limits.Detach() // first, so that nobody asks for what is gone
	}
	a.shared.apply(set)
	if set.Shared != nil {
		a.limits.Attach()
	}
}

// sweep settles what has no record any more, and forgets breakers that nobody asks.
func (a *accounting) sweep(now time.Time) {
	if n := a.desk.Sweep(now); n > 0 {
		a.log.Warn("requests ended without a record; they are in the ledger as interrupted", "requests", n)
	}
	a.breakers.Sweep(now)
}

// close settles what is left and writes everything. Envoy has ended.
func (a *accounting) close() {
	if n := a.desk.Lost(time.Now()); n > 0 {
		a.log.Warn("requests were cut; they are in the ledger as interrupted", "requests", n)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	a.limits.Close(ctx)
	a.shared.close()
	if err := a.ledger.Close(); err != nil {
		a.log.Error("the ledger could not be closed", "error", err)
	}
}
