package envoy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// termGrace is how long Envoy has between SIGTERM and SIGKILL. It needs some 10 ms.
const termGrace = 2 * time.Second

// pipeGrace is how long the log pipe may stay open after the process ended. Envoy starts no children,
// but a wrapper script that ENVOY_PATH names may have.
const pipeGrace = time.Second

// child is one Envoy process from its start to its reaping.
type child struct {
	process *os.Process
	tail    logTail
	// done is closed when the process has ended, was reaped, and its log is read to the end.
	done chan struct{}
	exit Exited // valid after done
}

// startChild starts the binary and returns when it runs. Its log goes to log.
func startChild(binary string, args []string, log *slog.Logger) (*child, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("cannot make a pipe for Envoy's log: %w", err)
	}
	cmd := exec.Command(binary, args...)
	cmd.Stdout, cmd.Stderr = w, w
	cmd.SysProcAttr = childAttributes()
	c := &child{done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The kernel sends the child its death signal when this thread ends, so the goroutine keeps it
		// until the child is gone (childAttributes).
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		w.Close()
		if err != nil {
			r.Close()
			started <- err
			return
		}
		c.process = cmd.Process
		started <- nil
		read := make(chan struct{})
		go func() {
			defer close(read)
			forwardLogs(r, log, &c.tail)
		}()
		waitErr := cmd.Wait()
		// A failed SetReadDeadline can only mean that the pipe is closed already.
		_ = r.SetReadDeadline(time.Now().Add(pipeGrace))
		<-read
		r.Close()
		c.exit = exitOf(cmd, waitErr)
		// Otherwise the tail holds what it lived with, such as a rejected update of hours ago.
		if c.exit.Code != 0 {
			c.exit.Reason = Explain(c.tail.snapshot()...)
		}
		close(c.done)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("cannot start Envoy: %w", err)
	}
	return c, nil
}

func exitOf(cmd *exec.Cmd, err error) Exited {
	e := Exited{PID: cmd.Process.Pid}
	var ee *exec.ExitError
	if errors.As(err, &ee) {
		e.Code = ee.ExitCode()
	}
	if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		e.Code, e.Signal = 0, ws.Signal()
	}
	return e
}

// terminate ends the process: SIGTERM, and SIGKILL if it takes longer than termGrace. It returns when
// the process is gone.
func (c *child) terminate() {
	// Signalling fails only for a process that has ended, which is what we want of it.
	_ = c.process.Signal(syscall.SIGTERM)
	timer := time.NewTimer(termGrace)
	defer timer.Stop()
	select {
	case <-c.done:
		return
	case <-timer.C:
	}
	_ = c.process.Kill()
	<-c.done
}

// watchReady asks until Envoy is ready, calls ready once, and returns; or returns when ctx ends.
func watchReady(ctx context.Context, admin *Admin, ready func()) {
	if pollUntil(ctx, func() bool { return admin.Ready(ctx) == nil }) == nil {
		ready()
	}
}

// The intervals at which an answer is asked for: often at first, when it is about to come.
const (
	pollFirst = 10 * time.Millisecond
	pollMax   = 250 * time.Millisecond
)

// pollUntil calls done at growing intervals until it returns true or ctx ends.
func pollUntil(ctx context.Context, done func() bool) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for interval := pollFirst; ; interval = min(interval*3/2, pollMax) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		}
		if done() {
			return nil
		}
		timer.Reset(interval)
	}
}
