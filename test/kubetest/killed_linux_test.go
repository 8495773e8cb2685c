package kubetest_test

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weir-dev/weir/test/kubetest"
)

// killedVariable makes this test binary the one that is killed.
const killedVariable = "WEIR_KUBETEST_KILLED"

// The servers of a test binary that is killed end with it.
func TestKilled(t *testing.T) {
	if os.Getenv(killedVariable) != "" {
		c := kubetest.Start(t)
		fmt.Printf("\naddress %s\n", c.Config.Host)
		select {} // until it is killed
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestKilled$")
	cmd.Env = append(os.Environ(), killedVariable+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var said []string
	var address string
	for lines := bufio.NewScanner(out); address == "" && lines.Scan(); {
		said = append(said, lines.Text())
		address, _ = strings.CutPrefix(lines.Text(), "address ")
		if address == lines.Text() {
			address = ""
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // a signal ends it
	u, err := url.Parse(address)
	if err != nil || u.Host == "" {
		t.Fatalf("no cluster was started:\n%s", strings.Join(said, "\n"))
	}
	deadline := time.Now().Add(time.Minute)
	for {
		conn, err := net.Dial("tcp", u.Host)
		if errors.Is(err, syscall.ECONNREFUSED) {
			return
		}
		if err == nil {
			_ = conn.Close()
		}
		if time.Now().After(deadline) {
			t.Fatalf("the API server still listens: %v", err)
		}
		time.Sleep(10 * time.Millisecond) // between two questions
	}
}
