package main

import (
	"context"
	_ "embed" // of the configurations
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"text/template"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/weir-dev/weir/envoy"
	"github.com/weir-dev/weir/extproc/identity"
)

var (
	//go:embed bare.yaml
	bareText string
	//go:embed weir.yaml
	weirText string
)

// callerKey lets the caller in.
const callerKey = "bench-key-0123456789"

// variant is one way from the load generator to the upstream.
type variant struct {
	name, what string
	before     int // index of the variant that does one thing less
	weir       bool
	sharing    string // of limits and budget: Local, Lease, Exact; "" for none of them
	redis      bool
}

// variants in the order of the report. All are compared with the first, and each with the one before it.
var variants = []variant{
	{name: "envoy", what: "Envoy as a proxy, without Weir"},
	{name: "weir", what: "Weir with identity and accounting, and no limits", before: 0, weir: true},
	{name: "limits", what: "also three limits and a budget, in memory", before: 1, weir: true, sharing: "Local"},
	{name: "lease", what: "the same, shared through Redis by leases", before: 2, weir: true, sharing: "Lease", redis: true},
	{name: "exact", what: "the same, asking Redis on every request", before: 2, weir: true, sharing: "Exact", redis: true},
}

// fleet is everything that runs: one gateway for each variant, one upstream and one load generator.
type fleet struct {
	dir      string // of files, removed at the end
	envoyBin envoy.Binary
	load     *worker
	upstream *worker
	gateways []*gateway
	closers  []func() // in the order of starting
}

// gateway is a running variant.
type gateway struct {
	variant
	address  string
	envoyPID int
	weirPID  int // 0 where there is none
	redisPID int
	redis    *redis.Client // nil where there is none
}

// startFleet starts everything. It must be closed, also when it fails.
func startFleet(ctx context.Context, weirBin string, progress func(string, ...any)) (_ *fleet, err error) {
	f := &fleet{}
	defer func() {
		if err != nil {
			f.close()
		}
	}()
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	// Short: the path of a unix socket in it must be.
	if f.dir, err = os.MkdirTemp("", "weir-bench-"); err != nil {
		return nil, err
	}
	f.closers = append(f.closers, func() { _ = os.RemoveAll(f.dir) }) // the system clears its temporary files some day
	if f.envoyBin, err = envoy.Ensure(ctx, envoy.FindOptions{Progress: os.Stderr}); err != nil {
		return nil, err
	}
	if weirBin == "" {
		progress("building weir")
		weirBin = filepath.Join(f.dir, "program")
		out, err := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", weirBin, "github.com/weir-dev/weir/cmd/weir").CombinedOutput()
		if err != nil {
			return nil, fmt.Errorf("weir cannot be built: %w\n%s", err, out)
		}
	}
	if f.upstream, err = startWorker(self, roleUpstream); err != nil {
		return nil, err
	}
	f.closers = append(f.closers, f.upstream.stop)
	var upstream string
	if _, err := fmt.Fscanln(f.upstream.out, &upstream); err != nil {
		return nil, fmt.Errorf("the upstream does not come up: %w\n%s", err, f.upstream.said)
	}
	if f.load, err = startWorker(self, roleLoad); err != nil {
		return nil, err
	}
	f.closers = append(f.closers, f.load.stop)
	for _, v := range variants {
		progress("starting %q: %s", v.name, v.what)
		g, err := f.start(ctx, v, weirBin, upstream)
		if err != nil {
			return nil, fmt.Errorf("variant %s: %w", v.name, err)
		}
		f.gateways = append(f.gateways, g)
	}
	return f, nil
}

// close stops everything, the last first.
func (f *fleet) close() {
	for _, stop := range slices.Backward(f.closers) {
		stop()
	}
}

func (f *fleet) start(ctx context.Context, v variant, weirBin, upstream string) (*gateway, error) {
	dir := filepath.Join(f.dir, v.name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	g := &gateway{variant: v}
	var err error
	if g.address, err = freeAddress(); err != nil {
		return nil, err
	}
	if !v.weir {
		return g, f.startBare(ctx, g, dir, upstream)
	}
	redisAddress := ""
	if v.redis {
		if redisAddress, err = f.startRedis(ctx, g, dir); err != nil {
			return nil, err
		}
	}
	return g, f.startWeir(ctx, g, dir, weirBin, upstream, redisAddress)
}

func (f *fleet) startBare(ctx context.Context, g *gateway, dir, upstream string) error {
	var d struct{ AdminSocket, Host, Port, UpstreamHost, UpstreamPort string }
	var err1, err2 error
	d.AdminSocket = filepath.Join(dir, "admin.sock")
	d.Host, d.Port, err1 = net.SplitHostPort(g.address)
	d.UpstreamHost, d.UpstreamPort, err2 = net.SplitHostPort(upstream)
	path := filepath.Join(dir, "envoy.yaml")
	if err := errors.Join(err1, err2, render(path, bareText, d)); err != nil {
		return err
	}
	p, err := start("Envoy", exec.Command(f.envoyBin.Path, "--config-path", path, "--disable-hot-restart",
		"--concurrency", workerThreads(), "--log-level", "warn"))
	if err != nil {
		return err
	}
	f.closers = append(f.closers, p.stop)
	g.envoyPID = p.pid()
	admin := envoy.NewAdmin(d.AdminSocket)
	return p.await(ctx, func() bool { return admin.Ready(ctx) == nil })
}

func (f *fleet) startWeir(ctx context.Context, g *gateway, dir, weirBin, upstream, redisAddress string) error {
	objects, state := filepath.Join(dir, "objects"), filepath.Join(dir, "state")
	if err := os.Mkdir(objects, 0o700); err != nil {
		return err
	}
	admin, err := freeAddress()
	if err != nil {
		return err
	}
	d := struct{ Redis, KeyHash, Upstream, Model, Sharing string }{redisAddress, identity.HashKey(callerKey), upstream, model, g.sharing}
	if err := errors.Join(
		render(filepath.Join(objects, "bench.yaml"), weirText, d),
		os.WriteFile(filepath.Join(objects, "provider-key.txt"), []byte("upstream-key\n"), 0o600),
	); err != nil {
		return err
	}
	cmd := exec.Command(weirBin, "run", "--file", objects, "--listen", g.address, "--admin", admin, "--state-dir", state,
		"--simulate=false", "--drain-timeout", "5s", "--concurrency", workerThreads())
	// What the environment says of Weir is for other gateways.
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, "WEIR_") }), "ENVOY_PATH="+f.envoyBin.Path)
	p, err := start("weir", cmd)
	if err != nil {
		return err
	}
	f.closers = append(f.closers, p.stop)
	g.weirPID = p.pid()
	ready := func() bool {
		resp, err := http.Get("http://" + admin + "/readyz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	}
	if err := p.await(ctx, ready); err != nil {
		return err
	}
	if g.envoyPID = child(g.weirPID, "envoy"); g.envoyPID == 0 {
		return errors.New("weir is ready, but its Envoy cannot be found among its children")
	}
	return nil
}

// startRedis starts a redis-server, which keeps nothing on disk, and returns its address.
func (f *fleet) startRedis(ctx context.Context, g *gateway, dir string) (string, error) {
	bin, err := exec.LookPath("redis-server")
	if err != nil {
		return "", errors.New("redis-server is not on the PATH: install it, for example with apt-get install redis-server")
	}
	address, err := freeAddress()
	if err != nil {
		return "", err
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", err
	}
	p, err := start("redis-server", exec.Command(bin, "--bind", host, "--port", port, "--dir", dir, "--save", "", "--appendonly", "no", "--daemonize", "no"))
	if err != nil {
		return "", err
	}
	f.closers = append(f.closers, p.stop)
	g.redisPID, g.redis = p.pid(), redis.NewClient(&redis.Options{Addr: address, DialTimeout: time.Second, ContextTimeoutEnabled: true})
	f.closers = append(f.closers, func() { _ = g.redis.Close() })
	return address, p.await(ctx, func() bool { return g.redis.Ping(ctx).Err() == nil })
}

// workerThreads of every Envoy, as Weir gives its own by default.
func workerThreads() string { return fmt.Sprint(runtime.GOMAXPROCS(0)) }

func render(path, text string, data any) error {
	t, err := template.New(filepath.Base(path)).Option("missingkey=error").Parse(text)
	if err != nil {
		return err
	}
	var b strings.Builder
	if err := t.Execute(&b, data); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(b.String()), 0o600)
}
