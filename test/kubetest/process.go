package kubetest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// process is one run of a server.
type process struct {
	name string
	log  string
	cmd  *exec.Cmd
	done chan struct{} // closed when it has been waited for
}

// startProcess starts a program whose output is added to the file log. It does not outlive the test binary, on Linux not
// even one that was killed.
func startProcess(program, log string, args ...string) (*process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close() // the child has its own
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = sysProcAttr()
	p := &process{name: filepath.Base(program), log: log, cmd: cmd, done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		// The parent-death signal is tied to the thread that starts the child, so that thread waits for it as well.
		unlock := lockThread()
		defer unlock()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// kill ends the process at once, and returns when it is gone. A nil process is gone already.
func (p *process) kill() {
	if p == nil {
		return
	}
	_ = p.cmd.Process.Kill()
	<-p.done
}

// freeze stops the process where it is, and returns when each of its threads stands still; thaw lets it go on.
func (p *process) freeze() error {
	pid := p.cmd.Process.Pid
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		return fmt.Errorf("%s cannot be stopped: %w", p.name, err)
	}
	for {
		var status syscall.WaitStatus
		_, err := syscall.Wait4(pid, &status, syscall.WUNTRACED, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return fmt.Errorf("%s cannot be waited for: %w", p.name, err)
		case !status.Stopped():
			return fmt.Errorf("%s has ended: %s", p.name, p.tail())
		default:
			return nil
		}
	}
}

func (p *process) thaw() { _ = syscall.Kill(p.cmd.Process.Pid, syscall.SIGCONT) }

// errEnded is in the chain of await's error when the process has ended.
var errEnded = errors.New("ended while it started")

// await asks ready now and then until it says yes.
func (p *process) await(ready func() error) error {
	deadline := time.Now().Add(startTimeout)
	for {
		err := ready()
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("%s %w:\n%s", p.name, errEnded, p.tail())
		case <-time.After(20 * time.Millisecond): // between two questions
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s was not ready in %s (%w):\n%s", p.name, startTimeout, err, p.tail())
		}
	}
}

// startTimeout bounds how long a server may take until it is ready. It takes two or three seconds; only a broken one, or one
// on a machine that does ten other things, takes this long.
const startTimeout = 2 * time.Minute

// tail is the end of the log.
func (p *process) tail() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-20):], "\n")
}
