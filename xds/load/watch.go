package load

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/xds/compile"
	"github.com/weir-dev/weir/xds/load/engine"
	"github.com/weir-dev/weir/xds/load/probe"
	"github.com/weir-dev/weir/xds/load/scrape"
	"github.com/weir-dev/weir/xds/load/signal"
)

// What a Backend that does not say otherwise is asked, and how often: what its reference says, of health checks the defaults of its schema.
const (
	readEvery    = 500 * time.Millisecond
	readTimeout  = 2 * time.Second
	checkEvery   = time.Second
	checkTimeout = time.Second
	checkPath    = "/health"
)

// watcher reads the metrics of endpoints of pools and checks their health.
type watcher struct {
	scraper *scrape.Scraper
	prober  *probe.Prober
	clients map[string]client // by Backend ID, of pools behind TLS
}

// newWatcher makes a watcher that hands on what it reads. It does nothing before run.
func newWatcher(read func(scrape.Reading), checked func(probe.Result), now func() time.Time, log *slog.Logger) *watcher {
	return &watcher{
		scraper: scrape.New(scrape.Options{Sink: read, Now: now, Log: log}),
		prober:  probe.New(probe.Options{Sink: checked, Now: now}),
	}
}

// run watches until ctx ends.
func (w *watcher) run(ctx context.Context) {
	var both sync.WaitGroup
	both.Go(func() { w.scraper.Run(ctx) })
	both.Go(func() { w.prober.Run(ctx) })
	both.Wait()
}

// asked says which sources of the endpoints of a Backend are to be asked; source is signal.Health for health checks.
type asked func(backend, endpoint string, source int) bool

// set makes these pools the ones that are watched, as far as ask says so. Calls must not overlap.
func (w *watcher) set(pools map[string]*compile.Pool, ask asked) error {
	before := w.clients
	targets, checks := w.sources(pools, ask)
	err := errors.Join(w.scraper.Set(targets), w.prober.Set(checks))
	for id, k := range before {
		if w.clients[id].http != k.http {
			k.http.CloseIdleConnections()
		}
	}
	return err
}

// sources are what must be read of the pools, and checked.
func (w *watcher) sources(pools map[string]*compile.Pool, ask asked) (targets []scrape.Target, checks []probe.Check) {
	old := w.clients
	w.clients = map[string]client{}
	for id, p := range pools {
		var own *http.Client
		if p.TLS != nil {
			w.clients[id] = clientOf(old[id], p.TLS)
			own = w.clients[id].http
		}
		for _, e := range p.Endpoints {
			for i := range p.Metrics {
				m := &p.Metrics[i]
				url, kind := page(p, &e, m)
				if url == "" || !ask(id, e.Key, i) {
					continue
				}
				targets = append(targets, scrape.Target{
					Pool: id, Endpoint: e.Key, Source: i, Engine: kind, Host: p.Host, Client: own, URL: url,
					Interval: v1alpha1.DurationOr(m.Interval, readEvery), Timeout: v1alpha1.DurationOr(m.Timeout, readTimeout),
				})
			}
			if h := p.Health; h != nil && ask(id, e.Key, signal.Health) {
				checks = append(checks, probe.Check{
					Pool: id, Endpoint: e.Key, Host: p.Host, Client: own, URL: question(p, &e),
					Interval: v1alpha1.DurationOr(h.Interval, checkEvery), Timeout: v1alpha1.DurationOr(h.Timeout, checkTimeout),
				})
			}
		}
	}
	return targets, checks
}

// targetPrint and checkPrint name what is asked, for processes that share answers.
func targetPrint(kind, url, host string) uint64 { return signal.Fingerprint(kind, url, host) }

func checkPrint(url, host string) uint64 { return signal.Fingerprint("", url, host) }

// page is where a source of metrics is read, and how; "" for what comes with the answers.
func page(p *compile.Pool, e *compile.PoolEndpoint, m *v1alpha1.MetricsSource) (string, engine.Engine) {
	kind, ok := engine.Find(string(m.Type))
	if !ok {
		return "", engine.Engine{}
	}
	return address(p, e, cmp.Or(uint32(m.Port), uint32(kind.DefaultPort), e.Port), cmp.Or(m.Path, kind.DefaultPath)), kind
}

// question is where an endpoint is asked whether it is well; "" where nobody asks.
func question(p *compile.Pool, e *compile.PoolEndpoint) string {
	if p.Health == nil {
		return ""
	}
	return address(p, e, cmp.Or(uint32(p.Health.Port), e.Port), cmp.Or(p.Health.Path, checkPath))
}

func address(p *compile.Pool, e *compile.PoolEndpoint, port uint32, path string) string {
	scheme := "http"
	if p.TLS != nil {
		scheme = "https"
	}
	return scheme + "://" + net.JoinHostPort(e.Host, strconv.FormatUint(uint64(port), 10)) + path
}

// client is how the endpoints of one pool are asked over TLS.
type client struct {
	config *tls.Config
	http   *http.Client
}

// clientOf is the one of before where it trusts the same: it has connections, and a target with another one begins anew.
func clientOf(before client, config *tls.Config) client {
	if k := before.config; k != nil && k.ServerName == config.ServerName && k.InsecureSkipVerify == config.InsecureSkipVerify &&
		k.MinVersion == config.MinVersion && k.RootCAs.Equal(config.RootCAs) {
		return before
	}
	return client{config, scrape.NewClient(config)}
}
