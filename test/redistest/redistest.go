// Package redistest gives tests a Redis server of their own.
package redistest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/weir-dev/weir/test/freeport"
)

// Server is a redis-server that ends with its test.
type Server struct {
	// Addr is host:port; it stays over Kill and Restart.
	Addr string

	t    testing.TB
	bin  string
	dir  string
	args []string
	runs int

	mu   sync.Mutex
	proc *process
}

// process is one run of redis-server.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has been waited for
}

// startTimeout bounds how long a server may take until it answers; only a broken one takes this long.
const startTimeout = time.Minute

// Start starts a redis-server without persistence on a free port. The args are added to its command line, such as
// "--requirepass", "x". The test fails if there is no redis-server.
func Start(t testing.TB, args ...string) *Server {
	t.Helper()
	bin, err := exec.LookPath("redis-server")
	if err != nil {
		t.Fatal("this test needs redis-server on the PATH: install it, for example with apt-get install redis-server or brew install redis")
	}
	s := &Server{t: t, bin: bin, dir: t.TempDir(), args: args}
	t.Cleanup(s.Kill)
	for range 10 {
		// Somebody who asks for this very port may be faster, and Redis may want others beside it.
		s.Addr = freeport.Addr(t)
		if err = s.start(); err == nil {
			return s
		}
	}
	t.Fatal(err)
	return nil
}

// start runs the server on Addr and waits until it answers.
func (s *Server) start() error {
	host, port, err := net.SplitHostPort(s.Addr)
	if err != nil {
		return err
	}
	// A log of its own for every run: what answers on the address may be somebody else.
	s.runs++
	logFile := filepath.Join(s.dir, fmt.Sprintf("redis-%d.log", s.runs))
	args := []string{
		"--bind", host, "--port", port, "--dir", s.dir, "--logfile", logFile,
		"--save", "", "--appendonly", "no", "--daemonize", "no", "--enable-debug-command", "local",
	}
	cmd := exec.Command(s.bin, append(args, s.args...)...)
	// Nothing of a terminal's signals reaches the server, and it does not outlive a killed test binary.
	cmd.SysProcAttr = sysProcAttr()
	p := &process{cmd: cmd, done: make(chan struct{})}
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
		return err
	}
	s.mu.Lock()
	s.proc = p
	s.mu.Unlock()

	deadline := time.Now().Add(startTimeout)
	for {
		select {
		case <-p.done:
			text, _ := os.ReadFile(logFile)
			return fmt.Errorf("redis-server ended at once: %s", text)
		default:
		}
		if text, _ := os.ReadFile(logFile); bytes.Contains(text, []byte("Ready to accept connections")) {
			return nil
		}
		if time.Now().After(deadline) {
			s.Kill()
			return errors.New("redis-server did not get ready")
		}
		time.Sleep(2 * time.Millisecond) // between two looks at the log
	}
}

// Pause stops the process where it is: connections stay open, nothing is answered.
func (s *Server) Pause() { s.signal(syscall.SIGSTOP) }

// Resume lets a paused server go on.
func (s *Server) Resume() { s.signal(syscall.SIGCONT) }

func (s *Server) signal(sig syscall.Signal) {
	s.t.Helper()
	s.mu.Lock()
	p := s.proc
	s.mu.Unlock()
	if p == nil {
		s.t.Fatal("the Redis server is not running")
	}
	if err := p.cmd.Process.Signal(sig); err != nil {
		s.t.Fatalf("cannot send %v to redis-server: %v", sig, err)
	}
}

// Kill ends the server with SIGKILL and returns when it is gone. Its data are lost unless args asked for persistence.
func (s *Server) Kill() {
	s.mu.Lock()
	p := s.proc
	s.proc = nil
	s.mu.Unlock()
	if p == nil {
		return
	}
	_ = p.cmd.Process.Kill() // works on a paused process as well
	<-p.done
}

// Restart kills the server if it runs, and starts it again on the same address.
func (s *Server) Restart() {
	s.t.Helper()
	s.Kill()
	if err := s.start(); err != nil {
		s.t.Fatal(err)
	}
}

// Client is a client of the server that is closed with the test. It heeds the deadlines of contexts.
func (s *Server) Client() *redis.Client {
	c := redis.NewClient(&redis.Options{Addr: s.Addr, ContextTimeoutEnabled: true})
	s.t.Cleanup(func() { _ = c.Close() })
	return c
}

// Commands counts the commands that the server has processed, this one included.
func (s *Server) Commands(ctx context.Context, c redis.UniversalClient) int64 {
	s.t.Helper()
	stats, err := c.InfoMap(ctx, "stats").Result()
	if err != nil {
		s.t.Fatal(err)
	}
	n, err := strconv.ParseInt(stats["Stats"]["total_commands_processed"], 10, 64)
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}
