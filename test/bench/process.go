package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"time"
)

// process is a child.
type process struct {
	name string
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	said *tail
}

const (
	// stopPatience is how long a child may take to end when it is asked to.
	stopPatience = 15 * time.Second
	// startPatience is how long one may take until it serves.
	startPatience = 60 * time.Second
)

// start runs a command in a process group of its own. Its standard error, and its output where nobody reads that, is kept
// to be shown when it fails.
func start(name string, cmd *exec.Cmd) (*process, error) {
	p := &process{name: name, cmd: cmd, done: make(chan struct{}), said: &tail{}}
	cmd.Stderr = p.said
	if cmd.Stdout == nil {
		cmd.Stdout = p.said
	}
	cmd.SysProcAttr = childAttributes()
	started := make(chan error)
	go func() {
		// The kernel sends the death signal of childAttributes when the thread that forked ends.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		_ = cmd.Wait() // how it ended is told by its words
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("%s cannot be started: %w", name, err)
	}
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// await looks until ready is true. The process must not end meanwhile.
func (p *process) await(ctx context.Context, ready func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	tick := time.NewTicker(time.Millisecond) // the start is timed by it
	defer tick.Stop()
	for {
		if ready() {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("%s has ended:\n%s", p.name, p.said)
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w\n%s", p.name, context.Cause(ctx), p.said)
		case <-tick.C:
		}
	}
}

// stop interrupts it, and kills it if it does not end.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(os.Interrupt) // it may have ended
	select {
	case <-p.done:
	case <-time.After(stopPatience):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

// worker is this program in another role, which reads its standard input.
type worker struct {
	*process
	in  io.WriteCloser
	out io.Reader
}

// startWorker starts it. It ends when its input does.
func startWorker(self, role string) (*worker, error) {
	cmd := exec.Command(self, role)
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	// Not StdoutPipe, which Wait closes, read or not.
	out, theirs, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.Stdout = theirs
	p, err := start(role, cmd)
	theirs.Close()
	if err != nil {
		out.Close()
		return nil, err
	}
	return &worker{p, in, out}, nil
}

func (w *worker) stop() {
	_ = w.in.Close() // it may have ended
	w.process.stop()
}

// tail keeps the end of what a child says.
type tail struct {
	mu sync.Mutex
	b  []byte
}

const tailBytes = 16 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if len(t.b) > 2*tailBytes {
		t.b = bytes.Clone(t.b[len(t.b)-tailBytes:])
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.b[max(0, len(t.b)-tailBytes):])
}

// freeAddress is an address of this machine that nobody listened on a moment ago.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("no free port: %w", err)
	}
	defer l.Close()
	return l.Addr().String(), nil
}
