package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/weir-dev/weir/adapters"
	"github.com/weir-dev/weir/xds/accept"
	"github.com/weir-dev/weir/xds/compile"
	"github.com/weir-dev/weir/xds/fleet"
	"github.com/weir-dev/weir/xds/load"
	"github.com/weir-dev/weir/xds/source"
	"github.com/weir-dev/weir/xds/source/kubernetes"
)

// planeOptions are the flags of the control plane.
type planeOptions struct {
	kubernetesOptions
	logOptions
	listen string
	admin  string
	tls    fleet.Files
	allow  []string
	peers  []string
}

func (o *planeOptions) bind(f *pflag.FlagSet) {
	o.kubernetesOptions.bind(f)
	o.logOptions.bind(f)
	f.StringVar(&o.listen, "listen", ":18000", "address and port for gateways")
	f.StringVar(&o.admin, "admin", "127.0.0.1:8081", "address and port of /healthz, /readyz and /metrics")
	f.StringVar(&o.tls.Cert, "tls-cert", "", "file with the certificate that gateways are shown, PEM; read anew when it changes")
	f.StringVar(&o.tls.Key, "tls-key", "", "file with its private key, PEM")
	f.StringVar(&o.tls.CA, "client-ca", "", "file with the authorities that gateways' certificates are signed by, PEM")
	f.StringSliceVar(&o.allow, "allow", nil, "DNS name, *.suffix of one, or SPIFFE ID of gateways that may connect; repeatable (default: all whose certificate is signed by --client-ca)")
	f.StringSliceVar(&o.peers, "peers", nil, "host:port of all control planes, of which each reads a part of the endpoints; a name stands for all its addresses, as that of a headless Service; repeatable (default: this one reads all)")
}

func controlCommand() *cobra.Command {
	var o planeOptions
	c := &cobra.Command{
		Use:   "control",
		Short: "Read objects from the Kubernetes API server for a fleet of gateways",
		Long: `Read objects from the Kubernetes API server for a fleet of gateways, and write their status.

Gateways are "weir serve --control HOST:PORT", each beside its Envoy. They get the objects that they are to serve, what these point to,
and every change, over mutual TLS, and go on with what they have while no control plane is there. Run two or more: each serves, and one of
them, by a Lease, writes status.

The control plane reads the metrics of endpoints and checks their health, for all its gateways. With --peers the replicas share that.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return runControl(c.Context(), o) },
	}
	o.bind(c.Flags())
	return c
}

// plane is a control plane.
type plane struct {
	log      *slog.Logger
	registry *prometheus.Registry
	source   *kubernetes.Source
	server   *fleet.Server
	reader   *load.Reader // of endpoints, for gateways
	teller   *teller
	compile  accept.CompileFunc
	keeper   *accept.Keeper
	problems map[source.Problem]bool // that were logged
	read     atomic.Bool             // everything was read once
	stopping atomic.Bool
}

func runControl(ctx context.Context, o planeOptions) error {
	p, err := newPlane(&o)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", o.listen)
	if err != nil {
		return fmt.Errorf("the address %s cannot be listened on: %w", o.listen, err)
	}
	defer l.Close()
	admin, err := p.adminServer(o.admin)
	if err != nil {
		return err
	}
	defer admin.Close()
	p.log.Info("the control plane reads objects for its gateways", "version", buildVersion(), "listen", l.Addr().String(), "objects", p.source.String())
	running, stop := context.WithCancel(ctx)
	defer stop()
	var wg sync.WaitGroup
	wg.Go(func() { p.source.Watch(running, p.reload) })
	wg.Go(func() { p.teller.run(running) })
	wg.Go(func() { p.report(running) })
	wg.Go(func() { p.reader.Run(running) })
	wg.Go(func() { p.share(running, o.peers, l.Addr()) })
	err = p.server.Serve(ctx, l)
	p.stopping.Store(true)
	stop()
	wg.Wait()
	return err
}

func newPlane(o *planeOptions) (*plane, error) {
	log, _, err := o.logger()
	if err != nil {
		return nil, err
	}
	p := &plane{log: log, registry: prometheus.NewRegistry(), keeper: accept.NewKeeper()}
	p.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	dialects, err := adapters.NewSet(adapters.Catalog()...)
	if err != nil {
		return nil, err
	}
	p.compile = checking(dialects, compile.NewCompiler(), o.routes)
	if o.tls.Cert == "" || o.tls.Key == "" || o.tls.CA == "" {
		return nil, errors.New("secrets travel to gateways, so both sides must be known: give --tls-cert, --tls-key and --client-ca")
	}
	config, err := o.config()
	if err != nil {
		return nil, err
	}
	if p.source, err = o.kubernetesOptions.open(config, log, p.registry, nil); err != nil {
		return nil, err
	}
	if p.teller, err = newTeller(config, &o.kubernetesOptions, log, p.registry); err != nil {
		return nil, err
	}
	if err := checkPeers(o.peers); err != nil {
		return nil, err
	}
	if p.server, err = fleet.NewServer(fleet.ServerOptions{TLS: o.tls, Allow: o.allow, Log: log, Registry: p.registry}); err != nil {
		return nil, err
	}
	p.reader = load.NewReader(load.ReaderOptions{Board: p.server.Signals(), Registry: p.registry, Log: log}, rand.Uint64())
	return p, nil
}

// checkPeers checks the flag --peers.
func checkPeers(addresses []string) error {
	for _, address := range addresses {
		if host, port, err := net.SplitHostPort(address); err != nil || host == "" || port == "" {
			return fmt.Errorf("--peers %q is no address of control planes: write HOST:PORT", address)
		}
	}
	return nil
}

// share shares reading endpoints with other replicas, until ctx ends.
func (p *plane) share(ctx context.Context, peers []string, listen net.Addr) {
	if len(peers) == 0 {
		return
	}
	fleet.WatchPeers(ctx, fleet.PeersOptions{Addresses: peers, Self: func(address string) bool { return ownAddress(address, listen) }, Log: p.log}, func(now fleet.Replicas) {
		p.reader.Own(now.Owns)
		p.server.Signals().Replicas(now)
	})
}

// ownAddress says whether an address is that of a listener of this machine.
func ownAddress(address string, listen net.Addr) bool {
	at, err := netip.ParseAddrPort(address)
	tcp, ok := listen.(*net.TCPAddr)
	if err != nil || !ok || int(at.Port()) != tcp.Port {
		return false
	}
	own, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	return slices.ContainsFunc(own, func(a net.Addr) bool {
		prefix, ok := a.(*net.IPNet)
		return ok && prefix.IP.Equal(at.Addr().AsSlice())
	})
}

// reload hands on what is valid of the objects. A gateway that starts then gets the last good generation of an object too, which it has never seen.
func (p *plane) reload(objs *source.Objects, problems []source.Problem) {
	r := p.keeper.Compile(objs, problems, p.compile)
	p.problems = logProblems(p.log, p.problems, r.Problems)
	p.teller.accepted(objs, r)
	if r.Version != nil {
		p.server.Set(r.Objects, nil)
		p.reader.Use(r.Version.Pools)
	}
	p.read.Store(true)
}

// reportEvery is how often is looked what gateways have said.
const reportEvery = 200 * time.Millisecond

// report tells what the gateways of this process serve.
func (p *plane) report(ctx context.Context) {
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	for {
		p.teller.many(p.server.Clients())
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// adminServer serves probes and metrics.
func (p *plane) adminServer(address string) (*http.Server, error) {
	l, err := listenAdmin(address)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", alive)
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		switch {
		case p.stopping.Load():
			http.Error(w, "stopping", http.StatusServiceUnavailable)
		case !p.read.Load():
			http.Error(w, "the API server has not been read yet", http.StatusServiceUnavailable)
		default:
			fmt.Fprintln(w, "ready")
		}
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(p.registry, promhttp.HandlerOpts{}))
	s := newAdminServer(mux, nil, p.log)
	go serveAdmin(s.Serve, l, p.log)
	return s, nil
}
