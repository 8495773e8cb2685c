package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weir-dev/weir/envoy"
	"github.com/weir-dev/weir/test/bench/proc"
	"github.com/weir-dev/weir/test/kubetest"
)

// Names of processes.
const (
	nameControl   = "weir control"
	nameImitated  = "weir serve"
	nameReal      = "weir serve, Envoy"
	nameEnvoy     = "envoy"
	nameAPIServer = "kube-apiserver"
	nameEtcd      = "etcd"
)

// world is everything that runs for one number of routes.
type world struct {
	objects
	build   *build
	dir     string
	api     *kubetest.Program
	control struct {
		process        *proc.Process
		address, admin string
	}
	pki      *pki
	clients  *clients
	sidecars []*sidecar
	pids     []namedPID
	children []*proc.Process
	closers  []func() // in the order of starting
}

type namedPID struct {
	name string
	pid  int
}

// sidecar is a weir serve and its Envoy.
type sidecar struct {
	name  string
	meter *meter
	err   func() error // why its Envoy has ended; nil for an Envoy that is a process
}

// newWorld makes the objects and starts everything, until every client and every Envoy has all. It must be closed, also when it fails.
func newWorld(ctx context.Context, o *options, b *build, n int, tell func(string, ...any)) (w *world, err error) {
	w = &world{objects: objectsOf(n), build: b, dir: filepath.Join(b.dir, strconv.Itoa(n))}
	if err := os.Mkdir(w.dir, 0o700); err != nil {
		return w, err
	}
	w.onClose(func() { _ = os.RemoveAll(w.dir) })
	if w.api, err = kubetest.Open(); err != nil {
		return w, err
	}
	w.onClose(func() { w.api.Close(false) })
	apiserver, etcd := w.api.PIDs()
	if err := w.create(ctx, w.api.Client, tell); err != nil {
		return w, err
	}
	if w.pki, err = newPKI(w.dir); err != nil {
		return w, err
	}
	if err := w.startControl(ctx); err != nil {
		return w, err
	}
	tell("the control plane has read them")
	if err := w.startSidecar(ctx, nameImitated, false); err != nil {
		return w, err
	}
	if o.envoy {
		if err := w.startSidecar(ctx, nameReal, true); err != nil {
			return w, err
		}
	}
	tell("%d sidecars are ready", len(w.sidecars))
	if w.clients, err = connect(ctx, o.clients, w.control.address, w.pki); err != nil {
		return w, err
	}
	w.onClose(w.clients.close)
	tell("%d clients are connected", o.clients)
	w.pids = append(w.pids, namedPID{nameAPIServer, apiserver}, namedPID{nameEtcd, etcd})
	return w, nil
}

func (w *world) onClose(f func()) { w.closers = append(w.closers, f) }

// close ends everything, the last first.
func (w *world) close() {
	for _, f := range slices.Backward(w.closers) {
		f()
	}
}

// start starts a child with what the environment says of Weir and of telemetry taken out.
func (w *world) start(name string, cmd *exec.Cmd, env ...string) (*proc.Process, error) {
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, "WEIR_") || strings.HasPrefix(s, "OTEL_") }), env...)
	p, err := proc.Start(name, cmd)
	if err != nil {
		return nil, err
	}
	w.onClose(p.Stop)
	w.children = append(w.children, p)
	w.pids = append(w.pids, namedPID{name, p.PID()})
	return p, nil
}

// identity is what a pod knows of itself.
func identity(name string) []string { return []string{"POD_NAMESPACE=" + system, "POD_NAME=" + name} }

func (w *world) startControl(ctx context.Context) (err error) {
	kubeconfig := filepath.Join(w.dir, "kubeconfig")
	if err := w.api.Kubeconfig(kubeconfig); err != nil {
		return err
	}
	var err1, err2 error
	w.control.address, err1 = proc.FreeAddress()
	w.control.admin, err2 = proc.FreeAddress()
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	cmd := exec.Command(w.build.weir, "control", "--kubeconfig", kubeconfig, "--listen", w.control.address, "--admin", w.control.admin,
		"--tls-cert", w.pki.cert, "--tls-key", w.pki.key, "--client-ca", w.pki.ca, "--log-level", "warn")
	if w.control.process, err = w.start(nameControl, cmd, identity("control-0")...); err != nil {
		return err
	}
	return w.control.process.Await(ctx, w.answers(w.control.admin))
}

// answers asks a weir whether it is ready.
func (w *world) answers(admin string) func() bool {
	return func() bool {
		resp, err := http.Get("http://" + admin + "/readyz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	}
}

// startSidecar starts a weir serve with an Envoy, or with an imitation of one.
func (w *world) startSidecar(ctx context.Context, name string, real bool) error {
	dir := filepath.Join(w.dir, strconv.Itoa(len(w.sidecars)))
	listen, err1 := proc.FreeAddress()
	admin, err2 := proc.FreeAddress()
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	cmd := exec.Command(w.build.weir, "serve", "--control", w.control.address, "--control-ca", w.pki.ca, "--control-cert", w.pki.cert, "--control-key", w.pki.key,
		"--socket-dir", dir, "--listen", listen, "--admin", admin, "--state-dir", dir+".state", "--simulate=false", "--access-log", "off", "--log-level", "warn",
		"--drain-timeout", "1s")
	p, err := w.start(name, cmd, identity(fmt.Sprintf("gateway-%d", len(w.sidecars)))...)
	if err != nil {
		return err
	}
	socket := filepath.Join(dir, envoy.ExtProcSocketName)
	if err := p.Await(ctx, func() bool { _, err := os.Stat(socket); return err == nil }); err != nil {
		return err
	}
	s := &sidecar{name: name, meter: newMeter(false)}
	w.sidecars = append(w.sidecars, s)
	if real {
		err = w.startEnvoy(dir, socket, s)
	} else {
		err = w.startImitation(ctx, dir, s)
	}
	if err != nil {
		return err
	}
	return p.Await(ctx, w.answers(admin))
}

func (w *world) startImitation(ctx context.Context, dir string, s *sidecar) error {
	e, err := imitate(ctx, dir, s.meter)
	if err != nil {
		return err
	}
	w.onClose(e.close)
	s.err = e.failed
	return nil
}

func (w *world) startEnvoy(dir, socket string, s *sidecar) error {
	between := filepath.Join(dir, "tap.sock")
	t, err := newTap(between, socket, s.meter)
	if err != nil {
		return err
	}
	w.onClose(t.close)
	boot, err := envoy.Bootstrap(envoy.BootstrapOptions{AdminSocket: filepath.Join(dir, envoy.AdminSocketName), XDSSocket: between, ExtProcSocket: socket})
	if err != nil {
		return err
	}
	path := dir + ".envoy.json"
	if err := os.WriteFile(path, boot, 0o600); err != nil {
		return err
	}
	_, err = w.start(nameEnvoy, exec.Command(w.build.envoy.Path, "--config-path", path, "--disable-hot-restart", "--concurrency", "2", "--log-level", "error"))
	return err
}

// failed tells of processes and clients that are no more.
func (w *world) failed() error {
	all := []error{w.clients.failed()}
	for _, p := range w.children {
		select {
		case <-p.Done():
			all = append(all, fmt.Errorf("%s has ended:\n%s", p.Name, p.Said()))
		default:
		}
	}
	for _, s := range w.sidecars {
		if s.err != nil {
			all = append(all, s.err())
		}
	}
	return errors.Join(all...)
}

// statuses is how many statuses the control plane has written.
func (w *world) statuses() (float64, error) {
	resp, err := http.Get("http://" + w.control.admin + "/metrics")
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, `weir_status_writes_total{result="ok"} `); ok {
			return strconv.ParseFloat(strings.TrimSpace(value), 64)
		}
	}
	return 0, errors.New("the control plane does not say how many statuses it has written")
}

// firstStatus is how long it may take until the first status is written: somebody has to be elected for it.
const firstStatus = 2 * time.Minute

// settle waits until no status has been written for a while, and returns how many were.
func (w *world) settle(ctx context.Context, still time.Duration) (written float64, err error) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	began := time.Now()
	for since := began; time.Since(since) < still; {
		n, err := w.statuses()
		if err = errors.Join(err, w.failed()); err != nil {
			return 0, err
		}
		if n == 0 && time.Since(began) > firstStatus {
			return 0, fmt.Errorf("the control plane has not written a status within %s", firstStatus)
		}
		if n != written || n == 0 {
			written, since = n, time.Now()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	return written, nil
}
