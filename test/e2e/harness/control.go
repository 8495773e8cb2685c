package harness

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// ControlOptions are those of StartControl.
type ControlOptions struct {
	// Args and Env are added to the command line and the environment.
	Args []string
	Env  []string
}

// Control is a control plane (weir control) on ports of its own, which it keeps when it is started again.
type Control struct {
	// Address for gateways, "host:port", and AdminURL without a slash at the end.
	Address, AdminURL string

	t       testing.TB
	opts    ControlOptions
	logs    *logBuffer
	process *process
	killed  bool // it need not end well
}

// StartControl runs `weir control` and waits until it is ready. It must end well when the test ends.
func StartControl(t testing.TB, o ControlOptions) *Control {
	t.Helper()
	c := &Control{t: t, opts: o, logs: &logBuffer{}}
	t.Cleanup(c.cleanup)
	for try := 1; ; try++ {
		c.Address = fmt.Sprintf("127.0.0.1:%d", FreePort(t))
		c.AdminURL = fmt.Sprintf("http://127.0.0.1:%d", FreePort(t))
		err := c.run()
		if err == nil {
			return c
		}
		if try == portTries || !strings.Contains(c.Logs(), "in use") {
			t.Fatal(err)
		}
	}
}

func (c *Control) run() error {
	args := []string{"control", "--listen", c.Address, "--admin", strings.TrimPrefix(c.AdminURL, "http://"), "--log-format", "json"}
	cmd := exec.Command(Binary(c.t), append(args, c.opts.Args...)...)
	cmd.Env = append(os.Environ(), c.opts.Env...)
	cmd.Stdout, cmd.Stderr = c.logs, c.logs
	p, err := startProcess(cmd)
	if err != nil {
		return fmt.Errorf("weir control cannot be started: %w", err)
	}
	c.process, c.killed = p, false
	ready := poll(Patience, func() bool { return !p.running() || answers(c.AdminURL+"/readyz") })
	switch {
	case !p.running():
		c.killed = true // it is said here
		return fmt.Errorf("weir control ended at its start: %w\n%s", errors.Join(p.err), c.Logs())
	case !ready:
		return fmt.Errorf("weir control was not ready after %s", Patience)
	}
	return nil
}

// Logs is what it has said so far.
func (c *Control) Logs() string { return c.logs.String() }

// Kill ends it at once, as kill -9 does, and waits until it is gone. Killing twice is allowed.
func (c *Control) Kill() {
	c.killed = true
	if c.process.running() {
		_ = c.process.cmd.Process.Kill() // it has ended in between
	}
	<-c.process.done
}

// Restart runs it again, on the same ports, after it has ended.
func (c *Control) Restart() {
	c.t.Helper()
	if c.process.running() {
		c.t.Fatal("weir control runs: end it first")
	}
	if err := c.run(); err != nil {
		c.t.Fatal(err)
	}
}

// Metric sums series as Gateway.Metric does.
func (c *Control) Metric(name string, labels ...string) float64 {
	c.t.Helper()
	return metric(c.t, c.AdminURL+"/metrics", name, labels...)
}

func (c *Control) cleanup() {
	if c.process != nil && c.process.running() {
		_ = c.process.cmd.Process.Signal(syscall.SIGTERM) // it has ended in between
		if !poll(stopPatience, func() bool { return !c.process.running() }) {
			c.t.Errorf("weir control did not end within %s of the signal", stopPatience)
			c.Kill()
		}
	}
	if c.process != nil && !c.killed && c.process.cmd.ProcessState.ExitCode() != 0 {
		c.t.Errorf("weir control ended with status %d: %v", c.process.cmd.ProcessState.ExitCode(), c.process.err)
	}
	if c.t.Failed() {
		lines := strings.Split(strings.TrimSpace(c.Logs()), "\n")
		c.t.Logf("the last lines of the control plane's log:\n%s", strings.Join(lines[max(0, len(lines)-logTail):], "\n"))
	}
}
