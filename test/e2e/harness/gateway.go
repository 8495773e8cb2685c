package harness

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Options say what a gateway serves. The zero value serves nothing but 404.
type Options struct {
	// Listener has further fields of the LLMGateway as YAML.
	Listener string
	// Backends and their secrets.
	Backends []Backend
	// Documents beside the gateway, the backends and the consumer "app" with DefaultKey.
	Documents []string
	// Files are written as they are: name in the folder to content.
	Files map[string]string
	// Bare leaves out what the harness adds by itself: gateway, consumer and key.
	Bare bool
	// Beside runs `weir serve` beside an Envoy that the harness runs with what `weir bootstrap` prints: see StartEnvoy and
	// KillEnvoy.
	Beside bool
	// BootstrapArgs are added to the command line of `weir bootstrap`.
	BootstrapArgs []string
	// Args and Env are added to the command line and the environment of weir.
	Args []string
	Env  []string
}

// Gateway is a running weir with its Envoy.
type Gateway struct {
	// URL of the listener and AdminURL of weir, without a slash at the end.
	URL, AdminURL string
	// Dir is the folder that is served and watched.
	Dir string
	// Key lets the consumer "app" in.
	Key string

	t       testing.TB
	opts    Options
	runtime string // where weir makes its directory for sockets
	state   string // where weir keeps its ledger, over restarts
	logs    *logBuffer
	process *process
	beside  *process       // the Envoy beside weir; nil where weir has one of its own
	envoys  map[int]string // every process below weir that was seen
	killed  bool           // it need not end well
}

// drainTimeout is the time requests have when a test ends. There are none then, as a rule.
const drainTimeout = "5s"

// stopPatience is the time weir has to end after a signal.
const stopPatience = 15 * time.Second

// portTries is how often other ports are tried when somebody else was faster.
const portTries = 5

// Start writes the objects into a folder, runs weir on it, and waits until it is ready. When the test ends, weir is
// interrupted and must end with status 0, and leave no process and no socket behind.
func Start(t testing.TB, o Options) *Gateway {
	t.Helper()
	g := &Gateway{t: t, opts: o, Dir: t.TempDir(), state: t.TempDir(), Key: DefaultKey, logs: &logBuffer{}, envoys: map[int]string{}}
	g.write()
	// Not t.TempDir: its names are long, and the path of a unix socket must be short.
	dir, err := os.MkdirTemp("", "weir-e2e-")
	if err != nil {
		t.Fatal(err)
	}
	g.runtime = dir
	t.Cleanup(g.cleanup)
	for try := 1; ; try++ {
		g.URL = fmt.Sprintf("http://127.0.0.1:%d", FreePort(t))
		g.AdminURL = fmt.Sprintf("http://127.0.0.1:%d", FreePort(t))
		err := g.run()
		if err == nil {
			return g
		}
		if try == portTries || !strings.Contains(g.Logs(), "in use") {
			t.Fatal(err)
		}
	}
}

func (g *Gateway) write() {
	if !g.opts.Bare {
		g.WriteFile("gateway.yaml", Listener(g.opts.Listener))
		g.WriteFile("consumer.yaml", Consumer("app", DefaultKey, ""))
	}
	for _, b := range g.opts.Backends {
		g.WriteBackend(b)
	}
	for i, d := range g.opts.Documents {
		g.WriteFile(fmt.Sprintf("document-%02d.yaml", i), d)
	}
	for name, content := range g.opts.Files {
		g.WriteFile(name, content)
	}
}

// run starts weir and waits until it is ready.
func (g *Gateway) run() error {
	path, err := envoyBinary()
	if err != nil {
		return err
	}
	args := []string{"run", "--runtime-dir", g.runtime}
	if g.opts.Beside {
		args = []string{"serve", "--socket-dir", g.SocketDir()}
		if g.beside == nil {
			g.StartEnvoy()
		}
	}
	if !slices.Contains(g.opts.Args, "--kubernetes") && !slices.Contains(g.opts.Args, "--control") {
		args = append(args, "-f", g.Dir)
	}
	args = append(args,
		"--listen", strings.TrimPrefix(g.URL, "http://"), "--admin", strings.TrimPrefix(g.AdminURL, "http://"),
		"--log-format", "json", "--simulate=false", "--drain-timeout", drainTimeout, "--state-dir", g.state,
	)
	cmd := exec.Command(Binary(g.t), append(args, g.opts.Args...)...)
	cmd.Env = append(append(os.Environ(), "ENVOY_PATH="+path), g.opts.Env...)
	cmd.Stdout, cmd.Stderr = g.logs, g.logs
	p, err := startProcess(cmd)
	if err != nil {
		return fmt.Errorf("weir cannot be started: %w", err)
	}
	g.process, g.killed = p, false
	ready := poll(Patience, func() bool { return !p.running() || g.Ready() })
	switch {
	case !p.running():
		g.killed = true // it is said here
		return fmt.Errorf("weir ended at its start: %w\n%s", errors.Join(p.err), g.Logs())
	case !ready:
		return fmt.Errorf("weir was not ready after %s", Patience)
	}
	g.note()
	return nil
}

// Ready says whether /readyz answers 200.
func (g *Gateway) Ready() bool {
	resp, err := http.Get(g.AdminURL + "/readyz")
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// note remembers the processes below weir, so that none is missed at the end.
func (g *Gateway) note() { maps.Copy(g.envoys, descendants(g.PID())) }

// PID is the process id of weir.
func (g *Gateway) PID() int { return g.process.pid() }

// EnvoyPID is the process id of the Envoy that runs now, or 0.
func (g *Gateway) EnvoyPID() int {
	g.note()
	for pid, name := range descendants(g.PID()) {
		if strings.HasPrefix(name, "envoy") {
			return pid
		}
	}
	return 0
}

// Logs is what weir and Envoy have said so far.
func (g *Gateway) Logs() string { return g.logs.String() }

// WriteFile writes a file into the served folder at once: no reader sees half of it.
func (g *Gateway) WriteFile(name, content string) {
	g.t.Helper()
	path := filepath.Join(g.Dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		g.t.Fatal(err)
	}
	// A hidden name is no configuration, and a rename replaces the file in one step.
	early := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".new")
	if err := os.WriteFile(early, []byte(content), 0o644); err != nil {
		g.t.Fatal(err)
	}
	if err := os.Rename(early, path); err != nil {
		g.t.Fatal(err)
	}
}

// WriteBackend writes a backend and its secret, as Start does.
func (g *Gateway) WriteBackend(b Backend) {
	g.t.Helper()
	if b.key() != "-" {
		g.WriteFile(b.SecretFile(), b.key()+"\n")
	}
	g.WriteFile("backend-"+b.Name+".yaml", b.YAML())
}

// Remove removes a file of the served folder.
func (g *Gateway) Remove(name string) {
	g.t.Helper()
	if err := os.Remove(filepath.Join(g.Dir, name)); err != nil {
		g.t.Fatal(err)
	}
}

// Kill sends a signal to weir. After SIGKILL and the like it need not end with status 0 any more.
func (g *Gateway) Kill(sig syscall.Signal) {
	g.t.Helper()
	g.note()
	g.killed = g.killed || sig != syscall.SIGINT && sig != syscall.SIGTERM
	if err := g.process.cmd.Process.Signal(sig); err != nil {
		g.t.Fatalf("weir cannot be sent signal %v: %v", sig, err)
	}
}

// Wait waits until weir has ended, and returns its exit status; -1 if a signal ended it.
func (g *Gateway) Wait() int {
	g.t.Helper()
	if !poll(stopPatience, func() bool { return !g.process.running() }) {
		g.t.Fatalf("weir still runs after %s", stopPatience)
	}
	return g.process.cmd.ProcessState.ExitCode()
}

// Restart runs weir again, on the same folder and ports, after it has ended.
func (g *Gateway) Restart() {
	g.t.Helper()
	if g.process.running() {
		g.t.Fatal("weir runs: end it first")
	}
	if err := g.run(); err != nil {
		g.t.Fatal(err)
	}
}

// Leftovers are the processes that weir has started and that still live, after weir has ended.
func (g *Gateway) Leftovers() []string {
	var left []string
	if pid := g.PID(); alive(-pid) {
		left = append(left, "process group "+strconv.Itoa(pid))
	}
	for pid, name := range g.envoys {
		if alive(pid) {
			left = append(left, fmt.Sprintf("%s (%d)", name, pid))
		}
	}
	slices.Sort(left)
	return left
}

// Stop interrupts weir, unless it has ended, and checks what it leaves.
func (g *Gateway) Stop() {
	g.t.Helper()
	if g.process == nil {
		return
	}
	if g.process.running() {
		g.note()
		g.Kill(syscall.SIGINT)
	}
	if !poll(stopPatience, func() bool { return !g.process.running() }) {
		g.t.Errorf("weir did not end within %s of the interrupt", stopPatience)
		_ = g.process.cmd.Process.Kill()
		<-g.process.done
	} else if code := g.process.cmd.ProcessState.ExitCode(); code != 0 && !g.killed {
		g.t.Errorf("weir ended with status %d: %v", code, g.process.err)
	}
	if !poll(5*time.Second, func() bool { return len(g.Leftovers()) == 0 }) {
		g.t.Errorf("weir has ended and left behind: %s", strings.Join(g.Leftovers(), ", "))
		for pid := range g.envoys {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(g.runtime, "*")); len(left) > 0 && !g.killed && !g.opts.Beside {
		g.t.Errorf("weir has ended and left behind: %v", left)
	}
}

// logTail is how many lines of the logs a failed test shows.
const logTail = 200

func (g *Gateway) cleanup() {
	g.Stop()
	g.KillEnvoy()
	if err := os.RemoveAll(g.runtime); err != nil {
		g.t.Error(err)
	}
	if g.t.Failed() {
		lines := strings.Split(strings.TrimSpace(g.Logs()), "\n")
		g.t.Logf("the last lines of weir's log:\n%s", strings.Join(lines[max(0, len(lines)-logTail):], "\n"))
	}
}
