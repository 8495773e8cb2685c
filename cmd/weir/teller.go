package main

import (
	"context"
	"log/slog"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/rest"

	"github.com/weir-dev/weir/xds/accept"
	"github.com/weir-dev/weir/xds/fleet"
	"github.com/weir-dev/weir/xds/serve"
	"github.com/weir-dev/weir/xds/source"
	"github.com/weir-dev/weir/xds/status"
)

// teller has the status of objects written in the cluster: it reports what Envoys serve, and one teller of all writes.
type teller struct {
	tracker *status.Tracker
	leases  *status.Leases
	writer  *status.Writer
}

func newTeller(config *rest.Config, o *kubernetesOptions, log *slog.Logger, registry prometheus.Registerer) (*teller, error) {
	name, err := podName()
	if err != nil {
		return nil, err
	}
	t := &teller{tracker: status.NewTracker()}
	if t.leases, err = status.NewLeases(status.LeasesOptions{
		Config: config, Namespace: podNamespace(), Install: o.install, Identity: name, Log: log,
	}); err != nil {
		return nil, err
	}
	t.writer, err = status.NewWriter(status.Options{
		Config: config, Namespace: podNamespace(), Install: o.install, Identity: name, Watched: o.namespaces,
		Reports: t.leases.Reports, Log: log, Registry: registry,
	})
	return t, err
}

// run reports and writes until ctx ends.
func (t *teller) run(ctx context.Context) {
	var both sync.WaitGroup
	both.Go(func() { t.leases.Run(ctx) })
	both.Go(func() { t.writer.Run(ctx) })
	both.Wait()
}

// accepted takes what is valid of a reading. What is only tried is nothing to write.
func (t *teller) accepted(objs *source.Objects, r accept.Result) {
	t.tracker.Compiled(objs, r)
	if !r.Trial {
		t.writer.Update(objs, r)
	}
}

// one reports what the Envoy of this process serves.
func (t *teller) one(s serve.State) {
	refused := map[string]status.Refusal{}
	if s.Rejected != "" {
		refused[s.Rejected] = status.Refusal{Replicas: 1, Reason: s.Reason}
	}
	t.leases.Set(t.tracker.Report(map[string]int{s.Serving: 1}, refused))
}

// many reports what the Envoys of the gateways of a control plane serve.
func (t *teller) many(clients []fleet.ClientState) {
	serving, refused := map[string]int{}, map[string]status.Refusal{}
	var partly []status.Partly
	for i := range clients {
		c := &clients[i]
		if len(c.Refused) > 0 {
			partly = append(partly, status.Partly{Version: c.Serving.Digest, Replicas: 1, Refused: make([]status.Refused, len(c.Refused))})
			for j, r := range c.Refused {
				partly[len(partly)-1].Refused[j] = status.Refused(r)
			}
		} else {
			serving[c.Serving.Digest]++
		}
		if c.Rejected.Number != 0 && (len(c.Refused) == 0 || c.Rejected != c.Serving) {
			refused[c.Rejected.Digest] = status.Refusal{Replicas: refused[c.Rejected.Digest].Replicas + 1, Reason: c.Reason}
		}
	}
	t.leases.Set(t.tracker.Report(serving, refused, partly...))
}
