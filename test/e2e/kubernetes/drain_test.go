package kubernetes

import (
	"errors"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weir-dev/weir/test/e2e/harness"
	"github.com/weir-dev/weir/test/sim"
)

// TestDrain ends Envoy as a Pod does: its preStop hook makes the file "drain" and waits for "drained". Streams that run then finish, and those
// that come while others do not know yet are served.
func TestDrain(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	up := harness.NewSim(t, sim.Options{Dialect: sim.OpenAI, Models: []string{"gpt-4o"}})
	r.secret("key-up", map[string]string{"value": "upstream-secret"})
	objects := r.apply(basics(), backend("up", up), route("all", "all", "{name: up, model: gpt-4o}"))
	const delay = 2 * time.Second
	g := r.serve("weir-0", harness.Options{Args: []string{"--drain-delay", delay.String()}})
	r.awaitProgrammed(objects)
	drain, drained := filepath.Join(g.SocketDir(), "drain"), filepath.Join(g.SocketDir(), "drained")
	written := func() bool {
		_, err := os.Stat(drained)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		return err == nil
	}
	ready := func() (int, string) {
		resp, err := http.Get(g.AdminURL + "/readyz")
		must(t, err)
		defer resp.Body.Close()
		text := make([]byte, 200)
		n, _ := resp.Body.Read(text)
		return resp.StatusCode, strings.TrimSpace(string(text[:n]))
	}

	for round := range 2 {
		// Streams that take longer than the delay.
		up.Configure(sim.Faults{TTFT: sim.Duration(4 * time.Second)})
		const streams = 6
		before := len(up.Requests())
		results := make(chan error, streams)
		for range streams {
			go func() {
				client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
				out, err := ask{model: "all", stream: true}.send(t.Context(), client, g.URL)
				if err == nil && out.status != http.StatusOK {
					err = errors.New(string(out.body))
				}
				results <- err
			}()
		}
		eventually(t, "the streams run", func() (bool, string) { return len(up.Requests()) == before+streams, "" })
		up.Configure(sim.Faults{})
		must(t, os.WriteFile(drain, nil, 0o600))
		began := time.Now()
		eventually(t, "the replica is not ready", func() (bool, string) {
			status, text := ready()
			return status == http.StatusServiceUnavailable && strings.Contains(text, "draining"), text
		})
		unready := time.Since(began)
		if written() {
			t.Error("it is drained although nobody can know yet that nothing more is wanted")
		}
		// Until others know, they still send requests here.
		served := 0
		for time.Since(began) < delay/2 {
			ask{model: "all"}.mustServe(t, g.URL)
			served++
		}
		var refused time.Duration
		for done := 0; done < streams; {
			select {
			case err := <-results:
				if done++; err != nil {
					t.Errorf("a stream did not finish: %v", err)
				}
			case <-time.After(pollInterval):
				if written() {
					t.Fatalf("round %d: drained, and %d streams still run", round, streams-done)
				}
				if conn, err := net.Dial("tcp", strings.TrimPrefix(g.URL, "http://")); err == nil {
					conn.Close()
				} else if refused == 0 {
					refused = time.Since(began)
				}
			}
		}
		ended := time.Since(began)
		eventually(t, "it is drained", func() (bool, string) { return written(), "" })
		t.Logf("round %d: unready after %v, %d requests served meanwhile, connections refused after %v, %d streams ended after %v, drained after %v",
			round, unready, served, refused, streams, ended, time.Since(began))
		if refused == 0 {
			t.Error("new connections were taken to the end")
		}
		if up.Ended(); g.Metric("weir_source_connected") != 1 {
			t.Error("the source is not connected")
		}
		// Envoy ends, as it would when its hook has. Another takes its place, and the files of the last drain are gone.
		g.KillEnvoy()
		g.StartEnvoy()
		eventually(t, "the replica is ready again", func() (bool, string) { status, text := ready(); return status == http.StatusOK, text })
		for _, file := range []string{drain, drained} {
			if _, err := os.Stat(file); err == nil {
				t.Errorf("%s is still there", filepath.Base(file))
			}
		}
		ask{model: "all"}.mustServe(t, g.URL)
	}
}
