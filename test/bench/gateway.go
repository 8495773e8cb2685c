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
	"github.com/weir-dev/weir/test/bench/proc"
)

var (
	//go:embed bare.yaml
	bareText string
	//go:embed floor.yaml
	floorText string
	//go:embed weir.yaml
	weirText string
)

// callerKey lets the caller in.
const callerKey = "bench-key-0123456789"

// gateway is a running program.
type gateway struct {
	program
	address  string
	process  *proc.Process // Envoy, or the weir whose child it is
	envoyPID int
	otherPID int // of weir, or of the floor's processor; 0 where there is none
	redisPID int
	redis    *redis.Client // nil where there is none
	admin    *envoy.Admin
	metrics  string // URL of Weir's own; "" where there is none

	foot footprint
}

func (f *fleet) start(ctx context.Context, p program) (*gateway, error) {
	dir := filepath.Join(f.dir, p.name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	g := &gateway{program: p, foot: footprint{Variant: p.name}}
	var err error
	if g.address, err = proc.FreeAddress(); err != nil {
		return nil, err
	}
	if !p.weir {
		return g, f.startBare(ctx, g, dir)
	}
	redisAddress := ""
	if p.redis {
		if redisAddress, err = f.startRedis(ctx, g, dir); err != nil {
			return nil, err
		}
	}
	return g, f.startWeir(ctx, g, dir, redisAddress)
}

func (f *fleet) startBare(ctx context.Context, g *gateway, dir string) error {
	var d struct{ AdminSocket, Host, Port, UpstreamHost, UpstreamPort, Processor string }
	text := bareText
	if g.name == floorName {
		text = floorText
		p, address, err := f.worker(roleFloor)
		if err != nil {
			return err
		}
		d.Processor, g.otherPID = address, p.PID()
	}
	var err1, err2 error
	d.AdminSocket = filepath.Join(dir, "admin.sock")
	d.Host, d.Port, err1 = net.SplitHostPort(g.address)
	d.UpstreamHost, d.UpstreamPort, err2 = net.SplitHostPort(f.upstreamAt)
	path := filepath.Join(dir, "envoy.yaml")
	if err := errors.Join(err1, err2, render(path, text, d)); err != nil {
		return err
	}
	began := time.Now()
	p, err := proc.Start("Envoy", exec.Command(f.envoyBin.Path, "--config-path", path, "--disable-hot-restart",
		"--concurrency", workerThreads(), "--log-level", "warn"))
	if err != nil {
		return err
	}
	f.closers = append(f.closers, p.Stop)
	g.process, g.envoyPID, g.admin = p, p.PID(), envoy.NewAdmin(d.AdminSocket)
	if err := p.Await(ctx, func() bool { return g.admin.Ready(ctx) == nil }); err != nil {
		return err
	}
	g.foot.live(time.Since(began))
	return nil
}

// Where Weir has its own address.
const (
	readyPath   = "/readyz"
	metricsPath = "/metrics"
)

func (f *fleet) startWeir(ctx context.Context, g *gateway, dir, redisAddress string) error {
	objects, sockets := filepath.Join(dir, "objects"), filepath.Join(dir, "run")
	admin, err := proc.FreeAddress()
	if err != nil {
		return err
	}
	d := struct{ Redis, KeyHash, Upstream, Lane, Sharing, Plain, Fallback, Translated string }{
		redisAddress, identity.HashKey(callerKey), f.upstreamAt, g.lane, g.sharing, modelPlain, modelFallback, modelTranslated}
	if err := errors.Join(
		os.Mkdir(objects, 0o700), os.Mkdir(sockets, 0o700),
		render(filepath.Join(objects, "bench.yaml"), weirText, d),
		os.WriteFile(filepath.Join(objects, "provider-key.txt"), []byte("upstream-key\n"), 0o600),
	); err != nil {
		return err
	}
	cmd := exec.Command(f.weirBin, "run", "--file", objects, "--listen", g.address, "--admin", admin, "--state-dir", filepath.Join(dir, "state"),
		"--runtime-dir", sockets, "--simulate=false", "--drain-timeout", "5s", "--concurrency", workerThreads())
	// What the environment says of Weir and of telemetry is for other gateways.
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, "WEIR_") || strings.HasPrefix(s, "OTEL_") }),
		"ENVOY_PATH="+f.envoyBin.Path, "OTEL_EXPORTER_OTLP_ENDPOINT=http://"+f.sinkAt)
	began := time.Now()
	p, err := proc.Start("weir", cmd)
	if err != nil {
		return err
	}
	f.closers = append(f.closers, p.Stop)
	g.process, g.otherPID, g.metrics = p, p.PID(), "http://"+admin+metricsPath
	live := func() bool {
		if g.admin == nil {
			// The folder of sockets has a name that is made up at the start.
			found, _ := filepath.Glob(filepath.Join(sockets, "*", envoy.AdminSocketName))
			if len(found) == 0 {
				return false
			}
			g.admin = envoy.NewAdmin(found[0])
		}
		return g.admin.Ready(ctx) == nil
	}
	if err := p.Await(ctx, live); err != nil {
		return err
	}
	g.foot.live(time.Since(began))
	ready := func() bool {
		resp, err := http.Get("http://" + admin + readyPath)
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	}
	if err := p.Await(ctx, ready); err != nil {
		return err
	}
	g.foot.ready(time.Since(began))
	if g.envoyPID = proc.Child(g.otherPID, "envoy"); g.envoyPID == 0 {
		return errors.New("weir is ready, but its Envoy cannot be found among its children")
	}
	return nil
}

// startRedis starts the Redis server of a gateway, and returns its address.
func (f *fleet) startRedis(ctx context.Context, g *gateway, dir string) (string, error) {
	pid, address, client, stop, err := proc.StartRedis(ctx, dir)
	if err != nil {
		return "", err
	}
	f.closers = append(f.closers, stop)
	g.redisPID, g.redis = pid, client
	return address, nil
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
