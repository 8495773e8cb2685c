package harness

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/weir-dev/weir/test/sim"
)

// SimProcess is a simulator in a process of its own (weir sim), which can be killed in the middle of its answers.
type SimProcess struct {
	// URL is what a Backend of its dialect takes.
	URL string

	t       testing.TB
	process *process
	logs    *logBuffer
}

// StartSim runs `weir sim` with further arguments on a port of its own, and kills it when the test ends.
func StartSim(t testing.TB, d sim.Dialect, args ...string) *SimProcess {
	t.Helper()
	s := &SimProcess{t: t, logs: &logBuffer{}}
	for try := 1; ; try++ {
		addr := fmt.Sprintf("127.0.0.1:%d", FreePort(t))
		cmd := exec.Command(Binary(t), append([]string{"sim", string(d), "--listen", addr}, args...)...)
		cmd.Env = os.Environ()
		cmd.Stdout, cmd.Stderr = s.logs, s.logs
		p, err := startProcess(cmd)
		if err != nil {
			t.Fatalf("weir sim cannot be started: %v", err)
		}
		s.process, s.URL = p, "http://"+addr+basePath(d)
		up := poll(Patience, func() bool { return !p.running() || answers("http://"+addr+"/_sim/stats") })
		if up && p.running() {
			t.Cleanup(s.Kill)
			return s
		}
		s.Kill()
		if try == portTries || !strings.Contains(s.logs.String(), "in use") {
			t.Fatalf("weir sim does not come up:\n%s", s.logs)
		}
	}
}

func answers(url string) bool {
	resp, err := http.Get(url)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// Kill ends the process at once, as kill -9 does, and waits until it is gone. Killing twice is allowed.
func (s *SimProcess) Kill() {
	if s.process.running() {
		_ = s.process.cmd.Process.Kill() // it has ended in between
	}
	<-s.process.done
}
