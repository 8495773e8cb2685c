package kubernetes

import (
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"testing"

	"github.com/weir-dev/weir/test/e2e/harness"
	"github.com/weir-dev/weir/test/kubetest"
)

// outage is a gateway under load while the API server has trouble.
type outage struct {
	*rig
	g        *harness.Gateway
	l        *load
	objects  []*object
	a, b     *harness.Sim
	toSecond bool
}

// toggle changes the Route "moving" from one Backend to the other, and returns the name of the new one.
func (o *outage) toggle() string {
	o.t.Helper()
	o.toSecond = !o.toSecond
	name := map[bool]string{false: "a", true: "b"}[o.toSecond]
	o.apply(route("moving", "moving", "{name: "+name+", model: gpt-4o}"))
	return o.ns + "/" + name
}

// mustArrive changes something and waits until requests obey.
func (o *outage) mustArrive(what string) {
	o.t.Helper()
	want := o.toggle()
	took := eventually(o.t, what+": a change arrives", func() (bool, string) {
		got := ask{model: "moving"}.once(o.t, o.g.URL)
		return got.status == http.StatusOK && got.backend == want, fmt.Sprint(got.status, " from ", got.backend)
	})
	o.t.Logf("%s: a change was served %v after it was made", what, took)
	o.awaitProgrammed(append(o.objects, o.object("Route", "moving")))
}

// awaitConnected waits until weir says so of the API server.
func (o *outage) awaitConnected(is float64) {
	o.t.Helper()
	took := eventually(o.t, fmt.Sprintf("weir_source_connected is %v", is), func() (bool, string) {
		now := o.g.Metric("weir_source_connected")
		return now == is, fmt.Sprint(now)
	})
	o.t.Logf("weir_source_connected was %v after %v", is, took)
}

// mustGoOn checks that nothing is lost while the API server is away: requests are served, and the replica is ready.
func (o *outage) mustGoOn() {
	o.t.Helper()
	o.l.more(200)
	if !o.g.Ready() {
		o.t.Error("the replica is not ready, though it serves")
	}
}

func newOutage(t *testing.T) *outage {
	r := newRigOn(t, kubetest.Start(t))
	o := &outage{rig: r, a: newSim(t, "gpt-4o"), b: newSim(t, "gpt-4o")}
	r.secret("key-a", map[string]string{"value": "secret-of-a"})
	r.secret("key-b", map[string]string{"value": "secret-of-b"})
	o.objects = r.apply(basics(), backend("a", o.a), backend("b", o.b), route("steady", "steady", "{name: a, model: gpt-4o}"),
		route("moving", "moving", "{name: a, model: gpt-4o}"))
	o.g = r.serve("weir-0", harness.Options{})
	r.awaitProgrammed(o.objects)
	o.l = startLoad(t, o.g.URL, 4, ask{model: "steady"}, ask{model: "moving", stream: true})
	o.awaitConnected(1)
	return o
}

// TestAPIServerAway kills the API server and starts it again, then empties etcd and restores it, while requests run. Its servers are its own.
func TestAPIServerAway(t *testing.T) {
	t.Parallel()
	o := newOutage(t)
	o.cluster.StopAPIServer()
	o.awaitConnected(0)
	o.mustGoOn()
	o.cluster.StartAPIServer()
	o.awaitConnected(1)
	o.mustArrive("the API server is back")

	saved := o.cluster.Snapshot()
	o.toggle() // which the snapshot does not have
	o.cluster.WipeEtcd()
	o.awaitConnected(0)
	o.mustGoOn()
	o.cluster.Restore(saved)
	o.awaitConnected(1)
	o.toSecond = !o.toSecond // as it was
	want := o.ns + "/" + map[bool]string{false: "a", true: "b"}[o.toSecond]
	eventually(t, "what was restored is served", func() (bool, string) {
		got := ask{model: "moving"}.once(t, o.g.URL)
		return got.backend == want, fmt.Sprint(got.status, " from ", got.backend)
	})
	o.mustArrive("etcd is restored")
	o.mustGoOn()
	o.l.mustHaveServed()

	// A replica, and its Envoy, that start while the API server is away serve what was served last.
	o.cluster.StopAPIServer()
	o.awaitConnected(0)
	o.g.Kill(syscall.SIGTERM)
	if code := o.g.Wait(); code != 0 {
		t.Errorf("weir ended with status %d", code)
	}
	o.g.KillEnvoy()
	o.g.StartEnvoy()
	o.g.Restart()
	took := eventually(t, "what was served last is served", func() (bool, string) { return o.g.Ready(), "" })
	t.Logf("started without the API server in %v", took)
	ask{model: "steady"}.mustServe(t, o.g.URL)
	o.awaitConnected(0)
	o.cluster.StartAPIServer()
	o.awaitConnected(1)
	o.mustArrive("the API server is back, after a start without it")
	for _, secret := range []string{"secret-of-a", "secret-of-b"} {
		if strings.Contains(o.g.Logs(), secret) {
			t.Error("the log shows a secret")
		}
	}
}
