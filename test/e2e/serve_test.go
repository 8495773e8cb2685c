package e2e

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weir-dev/weir/envoy"
	"github.com/weir-dev/weir/test/e2e/harness"
	"github.com/weir-dev/weir/test/sim"
)

// notReady is what /readyz says while weir is not ready; "" while it is.
func notReady(t *testing.T, adminURL string) string {
	t.Helper()
	resp, err := http.Get(adminURL + "/readyz")
	if err != nil {
		return "weir does not answer"
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode == http.StatusOK {
		return ""
	}
	return strings.TrimSpace(string(body))
}

// openRequests is the number of requests that have begun and are not in the ledger.
func openRequests(t *testing.T, g *harness.Gateway) int {
	t.Helper()
	resp, err := http.Get(g.AdminURL + "/api/status")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var status struct {
		Ledger struct {
			Open int `json:"openRequests"`
		} `json:"ledger"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&status); err != nil {
		t.Fatal(err)
	}
	return status.Ledger.Open
}

// TestServe runs weir beside an Envoy that is not its own: each of the two dies and comes back while the other goes on.
func TestServe(t *testing.T) {
	t.Parallel()
	up := harness.NewSim(t, sim.Options{Dialect: sim.OpenAI})
	g := harness.Start(t, harness.Options{
		Beside:    true,
		Backends:  []harness.Backend{{Name: "up", Sim: up}},
		Documents: []string{harness.Route("all", "rules: [{backends: [{name: up}]}]")},
	})
	l := lane{name: "direct", dialect: "openai", model: up.Models()[0]}
	served := func() bool { return send(t, g, l.message()).status == http.StatusOK }
	// hang begins a request that the backend does not answer, and returns when it is there.
	hang := func() (ended chan rawReply) {
		up.Configure(sim.Faults{TTFT: sim.Duration(time.Hour)})
		g.WaitFor("requests before are settled", func() bool { return openRequests(t, g) == 0 })
		ended = make(chan rawReply, 1)
		go func() { ended <- send(t, g, l.message()) }()
		g.WaitFor("the request is open", func() bool { return openRequests(t, g) == 1 })
		up.Configure(sim.Faults{})
		return ended
	}
	if !served() {
		t.Fatal("a request is not served")
	}

	t.Run("a second weir is refused", func(t *testing.T) {
		o := weir(t, nil, "", "serve", "-f", g.Dir, "--socket-dir", g.SocketDir(), "--admin", "127.0.0.1:0", "--state-dir", t.TempDir())
		o.mustSay(t, "another weir (process ", g.SocketDir(), "stop it, or give this one another directory")
		if !served() {
			t.Error("the first is disturbed")
		}
	})
	t.Run("weir is killed and started again", func(t *testing.T) {
		pid := g.BesidePID()
		for range 2 {
			g.Kill(syscall.SIGKILL)
			g.Wait()
			if _, err := os.Lstat(filepath.Join(g.SocketDir(), envoy.ExtProcSocketName)); err != nil {
				t.Fatalf("this test is about a socket that is left behind: %v", err)
			}
			if r := send(t, g, l.message()); r.status != http.StatusServiceUnavailable {
				t.Errorf("without weir: status %d: %s", r.status, r.body)
			}
			g.Restart()
			g.WaitFor("requests are served", served)
		}
		if pid != g.BesidePID() || syscall.Kill(pid, 0) != nil {
			t.Error("Envoy was started again")
		}
	})
	t.Run("Envoy is killed and stays away", func(t *testing.T) {
		ended := hang()
		g.KillEnvoy()
		if r := <-ended; r.status != 0 {
			t.Errorf("the request ended with status %d", r.status)
		}
		g.WaitFor("weir says that Envoy is gone", func() bool { return notReady(t, g.AdminURL) == "Envoy is not connected any more" })
		g.WaitFor("the request is settled", func() bool { return openRequests(t, g) == 0 })
		g.StartEnvoy()
		g.WaitFor("weir is ready", func() bool { return notReady(t, g.AdminURL) == "" })
		if !served() {
			t.Error("a request is not served")
		}
	})
	t.Run("Envoy is killed and comes back at once", func(t *testing.T) {
		ended := hang()
		g.KillEnvoy()
		g.StartEnvoy()
		<-ended
		g.WaitFor("the request is settled", func() bool { return openRequests(t, g) == 0 })
		g.WaitFor("weir is ready", func() bool { return notReady(t, g.AdminURL) == "" })
		if !served() {
			t.Error("a request is not served")
		}
	})
	t.Run("both are started again, weir last", func(t *testing.T) {
		g.Kill(syscall.SIGKILL)
		g.Wait()
		g.KillEnvoy()
		g.StartEnvoy()
		g.Restart()
		if !served() {
			t.Error("a request is not served")
		}
	})
	t.Run("weir drains", func(t *testing.T) {
		up.Configure(sim.Faults{TTFT: sim.Duration(2 * time.Second)})
		g.WaitFor("requests before are settled", func() bool { return openRequests(t, g) == 0 })
		ended := make(chan rawReply, 1)
		go func() { ended <- send(t, g, l.message()) }()
		g.WaitFor("the request is open", func() bool { return openRequests(t, g) == 1 })
		g.Kill(syscall.SIGTERM)
		g.WaitFor("weir says so", func() bool { return notReady(t, g.AdminURL) == "stopping" })
		if r := <-ended; r.status != http.StatusOK {
			t.Errorf("a request that had begun ended with status %d: %s", r.status, r.body)
		}
		if code := g.Wait(); code != 0 {
			t.Errorf("weir ended with status %d", code)
		}
		if _, err := os.Lstat(filepath.Join(g.SocketDir(), envoy.ExtProcSocketName)); err == nil {
			t.Error("its socket is left")
		}
		if syscall.Kill(g.BesidePID(), 0) != nil {
			t.Error("Envoy has ended as well")
		}
		up.Configure(sim.Faults{})
		g.Restart()
		if !served() {
			t.Error("a request is not served")
		}
	})
}

// TestServeWaitsForEnvoy: it says so, and goes on to live.
func TestServeWaitsForEnvoy(t *testing.T) {
	t.Parallel()
	up := harness.NewSim(t, sim.Options{Dialect: sim.OpenAI})
	g := harness.Start(t, harness.Options{
		Beside:    true,
		Backends:  []harness.Backend{{Name: "up", Sim: up}},
		Documents: []string{harness.Route("all", "rules: [{backends: [{name: up}]}]")},
	})
	g.Kill(syscall.SIGTERM)
	g.Wait()
	g.KillEnvoy()
	restarted := make(chan struct{})
	go func() {
		defer close(restarted)
		g.Restart() // returns when it is ready
	}()
	g.WaitFor("weir waits", func() bool { return notReady(t, g.AdminURL) == "no Envoy has connected yet" })
	g.StartEnvoy()
	<-restarted
	l := lane{name: "direct", dialect: "openai", model: up.Models()[0]}
	if r := send(t, g, l.message()); r.status != http.StatusOK {
		t.Errorf("status %d: %s", r.status, r.body)
	}
}

func TestServeRefusesToStart(t *testing.T) {
	t.Parallel()
	dir := soundFolder(t)
	weir(t, nil, "", "serve", "-f", dir).mustSay(t, "--socket-dir is missing")
	weir(t, nil, "", "bootstrap").mustSay(t, "--socket-dir is missing")
	deep := filepath.Join(t.TempDir(), strings.Repeat("d", 120))
	weir(t, nil, "", "bootstrap", "--socket-dir", deep).mustSay(t, "unix sockets allow", "shorter path")
	weir(t, nil, "", "serve", "-f", dir, "--admin", "127.0.0.1:0", "--socket-dir", deep).mustSay(t, "unix sockets allow", "shorter path")
}

func TestBootstrapCommand(t *testing.T) {
	t.Parallel()
	o := weir(t, []string{"WEIR_SOCKET_DIR=/run/weir"}, "", "bootstrap", "--max-connections", "77", "--max-heap", "1000000")
	if o.code != 0 || !json.Valid([]byte(o.stdout)) {
		t.Fatalf("%+v", o)
	}
	for _, want := range []string{"/run/weir/" + envoy.ExtProcSocketName, "/run/weir/" + envoy.AdminSocketName, `"77"`, `"1000000"`} {
		if !strings.Contains(o.stdout, want) {
			t.Errorf("%q is not in it:\n%s", want, o.stdout)
		}
	}
}
