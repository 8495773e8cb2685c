// Package kubernetes reads Weir's objects, and what they point to, from the API of a Kubernetes cluster, and watches it.
//
// Each kind is one list and watch. An object is validated as the API server does, by the schema of this binary; one that does not
// pass is left out, with Problems. Secrets, Services, EndpointSlices, Pods and InferencePools are watched one by one, only where an
// object names them: Weir asks for no list of all Secrets. When the API server is away, what was read last holds.
package kubernetes

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"

	"github.com/weir-dev/weir/api/schema"
	"github.com/weir-dev/weir/xds/source"
)

// Options of a Source. Config is required; the zero values of the others are good.
type Options struct {
	// Config says how to reach the API server.
	Config *rest.Config
	// Namespaces whose objects are read. Empty: all of them, which needs a ClusterRole.
	Namespaces []string
	// Gateways are the LLMGateways that are read; others are ignored. Empty: all of them.
	Gateways []types.NamespacedName
	// LocalSecrets are the namespaces whose objects may point to files and environment variables of this process. Empty: none may.
	LocalSecrets []string
	// Env looks up an environment variable, as os.LookupEnv does. Default: there are none.
	Env func(name string) (value string, found bool)
	// Overlay are objects that count as if they had been applied to the cluster; nothing is. They must be valid.
	Overlay []source.Object
	// Debounce is how long everything must be quiet before a change is handed on. Default 50 ms.
	Debounce time.Duration
	// MaxDelay is the longest time that constant change can put that off. Default 250 ms.
	MaxDelay time.Duration
	// LookupWait is how long a change waits for the first answer about a Secret or about servers that it names. Default 5 s.
	LookupWait time.Duration
	// LateWait is how long a change waits where a Route begins to name a Backend that is not there, or where a Backend goes that a Route
	// names: the other half of the change may be on its way. Default 1 s.
	LateWait time.Duration
	// Poll is how often files that objects point to are looked at. Default 2 s.
	Poll time.Duration
	// RetryDelay is the longest pause, jitter aside, between attempts to reach the API server. Default 5 s; Secrets that may not
	// be read are asked for at a sixth of that rate.
	RetryDelay time.Duration
	// Clock tells the time. Default: the system's.
	Clock clock.WithTicker
	// Log hears of the connection, and at debug level what the client library says. Default: nobody.
	Log *slog.Logger
	// Registry gets the metrics. Default: none.
	Registry prometheus.Registerer
}

func (o Options) withDefaults() Options {
	if o.Env == nil {
		o.Env = func(string) (string, bool) { return "", false }
	}
	for _, d := range []struct {
		value     *time.Duration
		otherwise time.Duration
	}{
		{&o.Debounce, 50 * time.Millisecond}, {&o.MaxDelay, 250 * time.Millisecond}, {&o.LookupWait, 5 * time.Second},
		{&o.LateWait, time.Second},
		{&o.Poll, 2 * time.Second}, {&o.RetryDelay, 5 * time.Second},
	} {
		if *d.value <= 0 {
			*d.value = d.otherwise
		}
	}
	if o.Clock == nil {
		o.Clock = clock.RealClock{}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.Namespaces = slices.Compact(slices.Sorted(slices.Values(o.Namespaces)))
	return o
}

// Source is the API of a cluster as a source.Source.
type Source struct {
	opts      Options
	http      *http.Client
	version   string // the URL of the API server's version
	client    dynamic.Interface
	validator *schema.Validator
	health    *health
	metrics   *metrics
}

// New prepares a source. It does not speak to the API server yet.
func New(opts Options) (*Source, error) {
	opts = opts.withDefaults()
	if opts.Config == nil {
		return nil, errors.New("the Kubernetes source has no configuration of the API server")
	}
	validator, err := schema.New()
	if err != nil {
		return nil, fmt.Errorf("the program's own schemas are broken: %w", err)
	}
	s := &Source{opts: opts, validator: validator}
	config := clientConfig(opts.Config, opts.Log)
	if s.http, err = rest.HTTPClientFor(config); err != nil {
		return nil, fmt.Errorf("the configuration of the API server cannot be used: %w", err)
	}
	if s.client, err = dynamic.NewForConfigAndClient(config, s.http); err != nil {
		return nil, fmt.Errorf("the configuration of the API server cannot be used: %w", err)
	}
	host, _, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return nil, fmt.Errorf("the configuration of the API server cannot be used: %w", err)
	}
	s.version = host.JoinPath("version").String()
	s.health = newHealth(opts.Clock, opts.Log)
	if s.metrics, err = newMetrics(opts.Registry, s.health); err != nil {
		return nil, err
	}
	return s, nil
}

// How soon a connection is found dead whose other end is gone without a word: about 11 s, as a server that hangs (see probe). One that closes it is
// noticed at once.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 2 * time.Second, Count: 3}

// clientConfig makes a configuration for long watches out of the given one.
func clientConfig(given *rest.Config, log *slog.Logger) *rest.Config {
	c := rest.CopyConfig(given)
	c.Timeout = 0 // it would end watches; single calls have timeouts of their own
	if c.QPS == 0 {
		c.QPS = -1 // the API server's priority and fairness decides: a limit here makes a thousand Secrets wait for minutes
	}
	c.UserAgent = cmp.Or(c.UserAgent, "weir")
	if c.Dial == nil {
		c.Dial = (&net.Dialer{Timeout: 10 * time.Second, KeepAliveConfig: keepAlive}).DialContext
	}
	c.WarningHandler, c.WarningHandlerWithContext = nil, warnings{log}
	return c
}

// Watch implements source.Source. The first call comes when every kind was read, and each Secret and server that the objects name has
// been asked for. It returns when everything that it started has ended.
func (s *Source) Watch(ctx context.Context, fn func(*source.Objects, []source.Problem)) {
	w := newWatcher(s, fn)
	probing, stop := context.WithCancel(ctx)
	var probes sync.WaitGroup
	probes.Go(func() { s.probe(probing) })
	w.run(ctx)
	stop()
	probes.Wait()
	utilnet.CloseIdleConnectionsFor(s.http.Transport)
	s.health.stopped()
}

// Health implements source.Source.
func (s *Source) Health() source.Health { return s.health.health() }

// String implements source.Source.
func (s *Source) String() string {
	switch len(s.opts.Namespaces) {
	case 0:
		return "Kubernetes"
	case 1:
		return "Kubernetes, namespace " + s.opts.Namespaces[0]
	}
	return "Kubernetes, namespaces " + strings.Join(s.opts.Namespaces, ", ")
}
