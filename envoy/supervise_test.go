package envoy

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestSupervisedEnvoyServes(t *testing.T) {
	f := newFixture(t, nil)
	f.startReady()
	ctx := testContext(t)

	resp, err := http.Get(f.url("/"))
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if resp.StatusCode != 200 || string(body) != "ok" {
		t.Fatalf("got %d %q through Envoy", resp.StatusCode, body)
	}

	if v, err := f.admin.Version(ctx); err != nil || !v.AtLeast(minVersion) {
		t.Errorf("Version() = %v, %v", v, err)
	}
	if n, err := f.admin.Warming(ctx); err != nil || n != 0 {
		t.Errorf("Warming() = %d, %v", n, err)
	}
	if n, err := f.admin.ActiveRequests(ctx); err != nil || n != 0 {
		t.Errorf("ActiveRequests() = %d, %v", n, err)
	}
	for _, endpoints := range []bool{false, true} {
		dump, err := f.admin.ConfigDump(ctx, endpoints)
		if err != nil || !json.Valid(dump) {
			t.Fatalf("ConfigDump(%v): %v, valid JSON: %v", endpoints, err, json.Valid(dump))
		}
		if got := strings.Contains(string(dump), "EndpointsConfigDump"); got != endpoints {
			t.Errorf("ConfigDump(%v) has endpoints: %v", endpoints, got)
		}
	}

	stats, err := f.admin.Stats(ctx, "")
	if err != nil || stats["http.gateway.downstream_rq_total"] != 1 {
		t.Errorf("Stats() counts %d requests, %v", stats["http.gateway.downstream_rq_total"], err)
	}
	for name := range stats {
		if strings.Contains(name, ".worker_") {
			t.Errorf("the bootstrap should leave out per-worker statistics such as %s", name)
		}
	}

	for name, want := range map[string]os.FileMode{AdminSocketName: 0o600, configName: 0o600} {
		fi, err := os.Stat(filepath.Join(f.dir.Path(), name))
		if err != nil || fi.Mode().Perm() != want {
			t.Errorf("%s: mode %v, %v; want %v", name, fi.Mode().Perm(), err, want)
		}
	}

	if err := f.sup.Stop(ctx); err != nil {
		t.Errorf("Stop: %v", err)
	}
	if got, want := f.events.kinds(), "Started Ready Exited"; got != want {
		t.Errorf("events: %s; want %s", got, want)
	}
	if exit := f.events.all()[2].(Exited); !exit.Expected || exit.Code != 0 || exit.Signal != 0 {
		t.Errorf("exit: %+v", exit)
	}
	if err := f.sup.Start(ctx); err == nil {
		t.Error("a stopped supervisor started again")
	}
}

func TestKilledEnvoyIsRestarted(t *testing.T) {
	f := newFixture(t, nil)
	f.startReady()
	first := f.sup.PID()
	if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "Envoy is ready a second time", func() bool {
		return f.events.kinds() == "Started Ready Exited Restarting Started Ready"
	})
	events := f.events.all()
	if exit := events[2].(Exited); exit.Signal != syscall.SIGKILL || exit.PID != first || exit.Expected {
		t.Errorf("exit: %+v", exit)
	}
	if r := events[3].(Restarting); r.In != backoffFirst || r.Attempt != 1 {
		t.Errorf("restart: %+v", r)
	}
	if second := events[4].(Started).PID; second == first || second != f.sup.PID() {
		t.Errorf("second process: %d after %d, PID() = %d", second, first, f.sup.PID())
	}
	resp, err := http.Get(f.url("/"))
	if err != nil {
		t.Fatalf("the restarted Envoy does not serve: %v", err)
	}
	resp.Body.Close()
}

// stoppedClock never lets a back-off end.
type stoppedClock struct{ waiting chan time.Duration }

func (stoppedClock) Now() time.Time { return time.Time{} }
func (c stoppedClock) After(d time.Duration) <-chan time.Time {
	c.waiting <- d
	return nil
}

func TestStopDuringBackoff(t *testing.T) {
	clock := stoppedClock{waiting: make(chan time.Duration, 1)}
	f := newFixture(t, func(o *SupervisorOptions) { o.Clock = clock })
	f.startReady()
	pid := f.sup.PID()
	if err := syscall.Kill(pid, syscall.SIGSEGV); err != nil {
		t.Fatal(err)
	}
	if d := <-clock.waiting; d != backoffFirst {
		t.Errorf("back-off %v", d)
	}
	if f.sup.PID() != 0 {
		t.Errorf("PID() = %d between two processes", f.sup.PID())
	}
	if err := f.sup.Stop(testContext(t)); err != nil {
		t.Errorf("Stop: %v", err)
	}
	if got, want := f.events.kinds(), "Started Ready Exited Restarting"; got != want {
		t.Errorf("events: %s; want %s", got, want)
	}
	if !strings.Contains(f.logs.String(), "Caught Segmentation fault") {
		t.Error("Envoy's stack trace did not reach the log")
	}
}

func TestKilledSupervisorLeavesNoEnvoy(t *testing.T) {
	bin := realEnvoy(t)
	dir, err := NewRuntimeDir(RuntimeDirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	admin, err := dir.Socket(AdminSocketName)
	if err != nil {
		t.Fatal(err)
	}
	boot := filepath.Join(dir.Path(), "static.json")
	if err := os.WriteFile(boot, staticBootstrap(t, admin, freeAddress(t)), 0o600); err != nil {
		t.Fatal(err)
	}
	// With a low soft limit on open files, as login shells and systemd have it: Weir relies on Envoy to lift
	// its own. exec keeps the process id.
	cmd := exec.Command("sh", "-c", `ulimit -Sn 256; exec "$0"`, os.Args[0])
	cmd.Env = append(os.Environ(), helperVariable+"=supervise",
		"HELPER_DIR="+dir.Path(), "HELPER_BOOTSTRAP="+boot, "HELPER_BINARY="+bin.Path, "HELPER_ADMIN="+admin)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the helper said nothing: %v", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	if processGone(pid) {
		t.Fatal("Envoy does not run to begin with")
	}
	if pgid, err := syscall.Getpgid(pid); err != nil || pgid != pid {
		t.Errorf("Envoy's process group is %d, %v; a terminal's Ctrl-C would reach it", pgid, err)
	}
	limits, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "limits"))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`Max open files\s+(\S+)\s+(\S+)`).FindStringSubmatch(string(limits))
	if m == nil || m[1] != m[2] || m[2] == "256" {
		t.Errorf("Envoy's limit on open files: %q; want the soft limit to be the hard one", m)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	eventually(t, "Envoy ends with its supervisor", func() bool { return processGone(pid) })
}

func TestStartFailures(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	self, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	inUseByUs := taken.Addr().String() + " is already in use by " + strings.TrimSpace(string(self)) + " (pid " + strconv.Itoa(os.Getpid()) + ")"

	tests := []struct {
		name string
		edit func(*SupervisorOptions)
		want string
		// ran: Envoy itself failed, so there is its log.
		ran bool
	}{
		{
			name: "port taken, found before the start",
			edit: func(o *SupervisorOptions) { o.Listen = []string{taken.Addr().String()} },
			want: inUseByUs,
		},
		{
			name: "port taken, found by Envoy",
			edit: func(o *SupervisorOptions) {
				o.Listen = nil
				o.Bootstrap = staticBootstrap(t, o.AdminSocket, taken.Addr().String())
			},
			want: inUseByUs,
			ran:  true,
		},
		{
			name: "bootstrap that is not JSON",
			edit: func(o *SupervisorOptions) { o.Bootstrap = []byte("{") },
			want: "Envoy refused its bootstrap: ",
			ran:  true,
		},
		{
			name: "bootstrap against the rules",
			edit: func(o *SupervisorOptions) { o.Bootstrap = staticBootstrap(t, o.AdminSocket, "127.0.0.1:99999") },
			want: "SocketAddressValidationError.PortValue",
			ran:  true,
		},
		{
			name: "binary missing",
			edit: func(o *SupervisorOptions) { o.Binary = "/nowhere/envoy" },
			want: "cannot start Envoy: fork/exec /nowhere/envoy: no such file or directory",
		},
		{
			name: "binary that ends at once",
			edit: func(o *SupervisorOptions) {
				o.Binary = filepath.Join(t.TempDir(), "envoy")
				if err := os.WriteFile(o.Binary, []byte("#!/bin/sh\necho cannot go on >&2\nexit 3\n"), 0o755); err != nil {
					t.Fatal(err)
				}
			},
			want: "ended with exit code 3 before it had started; the last it said: cannot go on",
			ran:  true,
		},
		{
			name: "binary that another system built",
			edit: func(o *SupervisorOptions) {
				o.Binary = filepath.Join(t.TempDir(), "envoy")
				if err := os.WriteFile(o.Binary, []byte("#!/bin/sh\necho \"envoy: /lib/libm.so.6: version \\`GLIBC_2.99' not found\" >&2\nexit 1\n"), 0o755); err != nil {
					t.Fatal(err)
				}
			},
			want: "Envoy does not run on this system: envoy: /lib/libm.so.6: version `GLIBC_2.99' not found",
			ran:  true,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t, tt.edit)
			err := f.sup.Start(testContext(t))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("Start: %v\nwant: %s", err, tt.want)
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("more than one line: %q", err)
			}
			var start *StartError
			if tt.ran && (!errors.As(err, &start) || len(start.Tail) == 0) {
				t.Errorf("no tail of Envoy's log in %#v", err)
			}
			<-f.sup.Done()
			if strings.Contains(f.events.kinds(), "Restarting") {
				t.Errorf("events: %s", f.events.kinds())
			}
			if err := f.sup.Stop(testContext(t)); err != nil {
				t.Errorf("Stop after a failed start: %v", err)
			}
		})
	}
}

func TestStartIsGivenUp(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	f := newFixture(t, func(o *SupervisorOptions) {
		record := o.OnEvent
		o.OnEvent = func(e Event) {
			record(e)
			if _, ok := e.(Started); ok {
				cancel()
			}
		}
		// A process that lives and never answers.
		o.Binary = filepath.Join(t.TempDir(), "envoy")
		if err := os.WriteFile(o.Binary, []byte("#!/bin/sh\nexec sleep 600\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	})
	if err := f.sup.Start(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Start: %v", err)
	}
	<-f.sup.Done()
	if got := f.events.kinds(); got != "Started Exited" {
		t.Errorf("events: %s", f.events.kinds())
	}
}

func TestNotReadyWithoutConfiguration(t *testing.T) {
	f := newFixture(t, func(o *SupervisorOptions) {
		boot, err := Bootstrap(BootstrapOptions{AdminSocket: o.AdminSocket, XDSSocket: filepath.Join(o.RuntimeDir, "nobody.sock")})
		if err != nil {
			t.Fatal(err)
		}
		o.Bootstrap = boot
	})
	if err := f.sup.Start(testContext(t)); err != nil {
		t.Fatalf("Start must not wait for the configuration: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	waited := make(chan error)
	go func() { waited <- f.sup.WaitReady(ctx) }()
	var notReady *NotReadyError
	if err := f.admin.Ready(testContext(t)); !errors.As(err, &notReady) || !strings.Contains(notReady.State, "INITIALIZING") {
		t.Errorf("Ready: %v", err)
	}
	cancel()
	if err := <-waited; !errors.Is(err, context.Canceled) {
		t.Errorf("WaitReady: %v", err)
	}
}

func TestConnectionLimit(t *testing.T) {
	f := newFixture(t, func(o *SupervisorOptions) {
		boot, err := Bootstrap(BootstrapOptions{
			AdminSocket: o.AdminSocket, XDSSocket: filepath.Join(o.RuntimeDir, XDSSocketName),
			NodeID: "test-node", MaxConnections: 1,
		})
		if err != nil {
			t.Fatal(err)
		}
		o.Bootstrap = boot
	})
	f.startReady()
	resp := f.openStream()
	if second, err := http.Get(f.url("/")); err == nil {
		second.Body.Close()
		t.Errorf("a second connection was served with %d", second.StatusCode)
	}
	if n, err := f.admin.ActiveRequests(testContext(t)); err != nil || n != 1 {
		t.Errorf("the admin interface is not reachable at the limit: %d, %v", n, err)
	}
	f.backend.finish()
	if rest, err := io.ReadAll(resp.Body); err != nil || string(rest) != streamLast {
		t.Errorf("the first connection ended with %q, %v", rest, err)
	}
}

func TestCredentialsStayOutOfTheLog(t *testing.T) {
	f := newFixture(t, func(o *SupervisorOptions) { o.LogLevel = slog.LevelDebug })
	f.startReady()
	req, err := http.NewRequest(http.MethodGet, f.url("/v1beta/models/m:generateContent?key=secret-in-query&alt=sse"), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range []string{"Authorization", "X-Api-Key", "Api-Key", "X-Goog-Api-Key", "Cookie"} {
		req.Header.Set(h, "secret-in-"+h)
	}
	req.Header.Set("X-Harmless", "marker-of-this-request")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if err := f.sup.Stop(testContext(t)); err != nil {
		t.Fatal(err)
	}
	log := f.logs.String()
	if !strings.Contains(log, "marker-of-this-request") || !strings.Contains(log, "[redacted]") {
		t.Error("the request is not in the debug log: this test proves nothing")
	}
	if i := strings.Index(log, "secret-in"); i >= 0 {
		t.Errorf("a credential is in the log: %s", log[max(0, i-100):min(len(log), i+50)])
	}
}

func TestNewSupervisorChecksItsOptions(t *testing.T) {
	good := SupervisorOptions{Binary: "b", Bootstrap: []byte("{}"), RuntimeDir: "d", AdminSocket: "s"}
	for name, edit := range map[string]func(*SupervisorOptions){
		"Binary":      func(o *SupervisorOptions) { o.Binary = "" },
		"Bootstrap":   func(o *SupervisorOptions) { o.Bootstrap = nil },
		"RuntimeDir":  func(o *SupervisorOptions) { o.RuntimeDir = "" },
		"AdminSocket": func(o *SupervisorOptions) { o.AdminSocket = "" },
		"negative":    func(o *SupervisorOptions) { o.Concurrency = -1 },
	} {
		o := good
		edit(&o)
		if _, err := NewSupervisor(o); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	sup, err := NewSupervisor(good)
	if err != nil {
		t.Fatal(err)
	}
	if err := sup.Stop(t.Context()); err != nil {
		t.Errorf("Stop before Start: %v", err)
	}
	<-sup.Done()
	if err := sup.Start(t.Context()); err == nil {
		t.Error("Start after Stop")
	}
}

func TestBackoff(t *testing.T) {
	var b backoff
	ms := time.Millisecond
	for i, step := range []struct {
		healthy, delay time.Duration
		attempt        int
	}{
		{0, 100 * ms, 1},
		{0, 200 * ms, 2},
		{backoffReset - 1, 400 * ms, 3},
		{0, 800 * ms, 4},
		{0, 1600 * ms, 5},
		{0, 3200 * ms, 6},
		{0, 6400 * ms, 7},
		{0, 10 * time.Second, 8},
		{0, 10 * time.Second, 9},
		{backoffReset, 100 * ms, 1},
		{0, 200 * ms, 2},
	} {
		if delay, attempt := b.next(step.healthy); delay != step.delay || attempt != step.attempt {
			t.Errorf("death %d: %v, %d; want %v, %d", i, delay, attempt, step.delay, step.attempt)
		}
	}
}
