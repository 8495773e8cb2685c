package kubernetes

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weir-dev/weir/test/e2e/harness"
)

// planes are two control planes of one fleet.
type planes struct {
	*rig
	dir    string // of certificates
	planes map[string]*harness.Control
}

func newPlanes(t *testing.T) *planes {
	p := &planes{rig: newRig(t), dir: t.TempDir(), planes: map[string]*harness.Control{}}
	ca := newIssuer(t)
	p.write("ca.pem", ca.pem)
	for _, name := range []string{"control", "gateway"} {
		cert, key := ca.issue(t, name+".test")
		p.write(name+".pem", cert)
		p.write(name+".key", key)
	}
	return p
}

func (p *planes) path(name string) string { return filepath.Join(p.dir, name) }

func (p *planes) write(name, content string) {
	must(p.t, os.WriteFile(p.path(name), []byte(content), 0o600))
}

// start starts a control plane.
func (p *planes) start(name string) {
	p.planes[name] = harness.StartControl(p.t, harness.ControlOptions{
		Args: []string{"--kubeconfig", p.kubeconfig, "--namespace", p.ns, "--tls-cert", p.path("control.pem"), "--tls-key", p.path("control.key"),
			"--client-ca", p.path("ca.pem"), "--allow", "gateway.test"},
		Env: p.replica(name),
	})
}

// sidecar runs `weir serve --control` beside an Envoy.
func (p *planes) sidecar(name string) *harness.Gateway {
	p.t.Helper()
	var addresses []string
	for _, c := range p.planes {
		addresses = append(addresses, c.Address)
	}
	return harness.Start(p.t, harness.Options{
		Bare: true, Beside: true,
		Args: []string{"--control", strings.Join(addresses, ","), "--control-ca", p.path("ca.pem"), "--control-cert", p.path("gateway.pem"),
			"--control-key", p.path("gateway.key"), "--control-name", "control.test", "--namespace", p.ns, "--access-log", "off"},
		Env: p.replica(name),
	})
}

// TestFleet: two control planes, two sidecars. The leading control plane is killed, then both are; a sidecar that is started again meanwhile serves
// what it had; and when a control plane is back, changes arrive.
func TestFleet(t *testing.T) {
	t.Parallel()
	p := newPlanes(t)
	up := newSim(t, "gpt-4o")
	p.secret("key-up", map[string]string{"value": "upstream-secret"})
	objects := p.apply(basics(), backend("up", up), route("all", "all", "{name: up, model: gpt-4o}"))
	p.start("control-0")
	p.start("control-1")
	sidecars := []*harness.Gateway{p.sidecar("weir-0"), p.sidecar("weir-1")}
	p.awaitProgrammed(objects)
	message := func() (string, string) {
		s := p.status(p.object("LLMGateway", "e2e"))
		return s.condition("Programmed").Message, s.String()
	}
	counted := func(n string) {
		t.Helper()
		eventually(t, n+" are counted", func() (bool, string) { m, all := message(); return m == "programmed on "+n, all })
	}
	counted("2 of 2 replicas")
	loads := []*load{startLoad(t, sidecars[0].URL, 2, ask{model: "all"}, ask{model: "all", stream: true}), startLoad(t, sidecars[1].URL, 2, ask{model: "all"})}
	// served waits until all sidecars serve a model.
	served := func(what, model string) {
		t.Helper()
		began := time.Now()
		for _, g := range sidecars {
			eventually(t, what, func() (bool, string) {
				got := ask{model: model}.once(t, g.URL)
				return got.status == http.StatusOK, fmt.Sprint(got.status, " ", string(got.body))
			})
		}
		t.Logf("%s: after %v", what, time.Since(began))
	}
	connected := func(is float64, which ...*harness.Gateway) {
		t.Helper()
		for _, g := range which {
			eventually(t, fmt.Sprintf("weir_fleet_connected is %v", is), func() (bool, string) {
				now := g.Metric("weir_fleet_connected")
				return now == is, fmt.Sprint(now)
			})
		}
	}
	connected(1, sidecars...)
	p.apply(route("first", "first", "{name: up, model: gpt-4o}"))
	served("a change is served by both", "first")

	leads := p.leader()
	if p.planes[leads] == nil {
		t.Fatalf("%q leads", leads)
	}
	p.planes[leads].Kill()
	began := time.Now()
	p.apply(route("second", "second", "{name: up, model: gpt-4o}"), route("bad", "bad", "{name: nobody}"))
	served("a change after the leader's death is served by both", "second")
	p.awaitCondition(p.object("Route", "bad"), "ResolvedRefs", "RefNotFound", "spec.rules[0].backends[0].name")
	took := time.Since(began)
	t.Logf("a status was written %v after the leader was killed", took)
	if took > 2*takeover {
		t.Errorf("another control plane took %v to write a status", took)
	}
	p.awaitProgrammed([]*object{p.object("Route", "second")})
	t.Logf("a new Route was programmed %v after the leader was killed", time.Since(began))
	counted("2 of 2 replicas")

	for _, c := range p.planes {
		c.Kill()
	}
	connected(0, sidecars...)
	for i, g := range sidecars {
		loads[i].more(100)
		if !g.Ready() {
			t.Error("a sidecar that serves is not ready")
		}
	}
	// One is started again, its Envoy too: all it has is the file that it kept.
	loads[1].stop()
	sidecars[1].Kill(syscall.SIGTERM)
	sidecars[1].Wait()
	sidecars[1].KillEnvoy()
	sidecars[1].StartEnvoy()
	began = time.Now()
	sidecars[1].Restart()
	t.Logf("without a control plane a sidecar was ready %v after its start", time.Since(began))
	ask{model: "second"}.mustServe(t, sidecars[1].URL)
	connected(0, sidecars...)

	p.apply(route("third", "third", "{name: up, model: gpt-4o}"))
	p.planes[leads].Restart()
	served("the control plane is back and a change is served by both", "third")
	connected(1, sidecars...)
	p.awaitProgrammed([]*object{p.object("Route", "third")})
	counted("2 of 2 replicas")
	for _, l := range loads {
		l.mustHaveServed()
	}
	for _, g := range sidecars {
		if strings.Contains(g.Logs(), "upstream-secret") {
			t.Error("the log shows a secret")
		}
	}
}
