package main

import (
	"net/url"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/xds/source"
)

// gatewayCollector exports how the process, its configuration and what it depends on stand when it is asked.
type gatewayCollector struct{ g *gateway }

var (
	buildDesc       = prometheus.NewDesc("weir_build_info", "What runs.", []string{"version", "revision", "goversion"}, nil)
	configDesc      = prometheus.NewDesc("weir_config_info", "The configuration that requests are decided by.", []string{"version"}, nil)
	configSinceDesc = prometheus.NewDesc("weir_config_live_timestamp_seconds", "When that configuration went live.", nil, nil)
	configsDesc     = prometheus.NewDesc("weir_config_versions_total", "Configuration versions that have gone live.", nil, nil)
	nacksDesc       = prometheus.NewDesc("weir_config_nacks_total", "Configuration versions that Envoy has refused.", nil, nil)
	rejectedDesc    = prometheus.NewDesc("weir_config_rejected", "1 while the newest configuration is not in use because it was refused: by weir, as invalid, or by envoy.", []string{"by"}, nil)
	refusalsDesc    = prometheus.NewDesc("weir_config_refused_objects", "Objects that Envoy refuses as they are: their last good generation is served, or they are left out.", nil, nil)
	retainedDesc    = prometheus.NewDesc("weir_config_retained", "Configuration versions whose resources Envoy has.", nil, nil)
	connectedDesc   = prometheus.NewDesc("weir_envoy_connected", "1 while Envoy is connected to the control plane.", nil, nil)
	exitsDesc       = prometheus.NewDesc("weir_envoy_exits_total", "Times that an Envoy has ended.", nil, nil)
	exchangesDesc   = prometheus.NewDesc("weir_exchanges", "Requests in flight that something is kept for.", nil, nil)
	keptDesc        = prometheus.NewDesc("weir_exchange_bytes", "Bytes of request bodies kept for attempts.", nil, nil)
	keysDesc        = prometheus.NewDesc("weir_signing_keys", "Usable signing keys of token issuers.", []string{"url"}, nil)
	keysUpDesc      = prometheus.NewDesc("weir_signing_keys_up", "1 if the last fetch of signing keys succeeded.", []string{"url"}, nil)
	keysUntilDesc   = prometheus.NewDesc("weir_signing_keys_usable_until_timestamp_seconds", "When signing keys stop being used unless a fetch succeeds.", []string{"url"}, nil)
	redisDesc       = prometheus.NewDesc("weir_redis_up", "1 while Redis does what it is asked for; absent without one.", nil, nil)
	settingsDesc    = prometheus.NewDesc("weir_shared_state_configured", "0 while the shared state cannot be used as it is configured; absent without one.", nil, nil)
	storedDesc      = prometheus.NewDesc("weir_stored_keys", "API keys in Redis that this process knows.", nil, nil)
	shippedDesc     = prometheus.NewDesc("weir_ledger_shipped_entries_total", "Entries of the ledger sent to Redis.", nil, nil)
	shippingDesc    = prometheus.NewDesc("weir_ledger_shipping_up", "1 while entries of the ledger are sent to Redis in time; absent where they are not sent.", nil, nil)
	endpointsDesc   = prometheus.NewDesc("weir_endpoint_breaker_state", "Circuit breakers of a Backend's endpoints in a state; absent for those that nobody has asked yet.", []string{"backend", "state"}, nil)
)

// Describe implements prometheus.Collector.
func (*gatewayCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		buildDesc, configDesc, configSinceDesc, configsDesc, nacksDesc, rejectedDesc, refusalsDesc, retainedDesc, connectedDesc, exitsDesc, exchangesDesc, keptDesc,
		keysDesc, keysUpDesc, keysUntilDesc, redisDesc, settingsDesc, storedDesc, shippedDesc, shippingDesc, endpointsDesc,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *gatewayCollector) Collect(ch chan<- prometheus.Metric) {
	out := exporter(ch)
	out.gauge(buildDesc, 1, buildVersion(), revision(), runtime.Version())
	c.configuration(out)
	requests, bytes := c.g.ext.InFlight()
	out.gauge(exchangesDesc, float64(requests))
	out.gauge(keptDesc, float64(bytes))
	signingKeys(out, c.g.jwks.States())
	c.shared(out)
	type state struct{ backend, state string }
	breakers := map[state]float64{}
	for _, b := range c.g.endpointBreakers.States(time.Now()) {
		breakers[state{b.Rule.Name, b.State.String()}]++
	}
	for s, n := range breakers {
		out.gauge(endpointsDesc, n, s.backend, s.state)
	}
}

func (c *gatewayCollector) configuration(out exporter) {
	s := c.g.publisher.State()
	if s.Serving != "" {
		out.gauge(configDesc, 1, s.Serving)
		out.gauge(configSinceDesc, seconds(s.Since))
	}
	out.counter(configsDesc, float64(s.Versions))
	out.counter(nacksDesc, float64(s.Rejects))
	problems := c.g.problems.Load()
	out.flag(rejectedDesc, problems != nil && source.HasErrors(*problems), "weir")
	out.flag(rejectedDesc, s.Rejected != "", "envoy")
	out.gauge(refusalsDesc, float64(c.g.refusals.Load()))
	out.gauge(retainedDesc, float64(s.Retained))
	out.flag(connectedDesc, s.Connected)
	out.counter(exitsDesc, float64(c.g.envoyExits.Load()))
}

// signingKeys exports the key sets by their URLs, without what might be secret in those.
func signingKeys(out exporter, sets []identity.SourceState) {
	done := map[string]bool{}
	for _, failed := range []bool{true, false} { // where URLs look alike, one that fails is shown
		for i := range sets {
			s := &sets[i]
			at := shownURL(s.URL)
			if (s.Err != "") != failed || done[at] {
				continue
			}
			done[at] = true
			out.gauge(keysDesc, float64(s.Keys), at)
			if !s.Attempted.IsZero() {
				out.flag(keysUpDesc, s.Err == "", at)
			}
			if !s.UsableTo.IsZero() {
				out.gauge(keysUntilDesc, seconds(s.UsableTo), at)
			}
		}
	}
}

// shownURL is an address without user information and query.
func shownURL(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return "invalid"
	}
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	return u.String()
}

func (c *gatewayCollector) shared(out exporter) {
	s := c.g.acct.shared.status()
	if s == nil {
		return
	}
	out.flag(settingsDesc, s.Problem == "")
	if c.g.acct.shared.remote.Load() == nil {
		return // nothing is connected
	}
	out.flag(redisDesc, s.Error == "")
	if s.Keys != nil {
		out.gauge(storedDesc, float64(s.Keys.Keys))
	}
	if s.ShipsLedger {
		out.flag(shippingDesc, s.Shipping == "")
		out.counter(shippedDesc, float64(s.Shipped))
	}
}

// exporter takes metrics of descriptions.
type exporter chan<- prometheus.Metric

func (ch exporter) gauge(d *prometheus.Desc, v float64, labels ...string) {
	ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func (ch exporter) counter(d *prometheus.Desc, v float64, labels ...string) {
	ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
}

// flag is a gauge of 1 or 0.
func (ch exporter) flag(d *prometheus.Desc, set bool, labels ...string) {
	v := 0.0
	if set {
		v = 1
	}
	ch.gauge(d, v, labels...)
}

func seconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

// revision is the commit that the program was built of; "" where that is unknown.
func revision() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value
		}
	}
	return ""
}

var _ prometheus.Collector = (*gatewayCollector)(nil)
