package kubernetes

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"

	eventsv1 "k8s.io/api/events/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/test/e2e/harness"
)

// port is a port that is free, and held: Envoy cannot bind to it until the listener is closed.
func port(t *testing.T) (string, net.Listener) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { l.Close() })
	_, port, err := net.SplitHostPort(l.Addr().String())
	must(t, err)
	return port, l
}

// TestEnvoyRefusesAnObject: a listener on a port of another process is valid for Weir, and Envoy refuses it. That holds up nobody else: its older
// generation goes on, all that comes with it and after it is served, and its status says why.
func TestEnvoyRefusesAnObject(t *testing.T) {
	t.Parallel()
	t.Run("direct", func(t *testing.T) {
		r := newRig(t)
		refusesAnObject(t, r, func() *harness.Gateway { return r.serve("weir-0", harness.Options{}) })
	})
	t.Run("fleet", func(t *testing.T) {
		p := newPlanes(t)
		refusesAnObject(t, p.rig, func() *harness.Gateway {
			p.start("control-0")
			return p.sidecar("weir-0")
		})
	})
}

func refusesAnObject(t *testing.T, r *rig, start func() *harness.Gateway) {
	up := newSim(t, "gpt-4o")
	r.secret("key-up", map[string]string{"value": "upstream-secret"})
	objects := r.apply(basics(), backend("up", up), route("all", "all", "{name: up, model: gpt-4o}"))
	g := start()
	r.awaitProgrammed(objects)
	taken := func(port string) string {
		return harness.Document("LLMGateway", "taken", "listeners: [{name: other, address: 127.0.0.1, port: "+port+"}]")
	}
	gateway := r.object("LLMGateway", "taken")
	serves := func(model, url string) {
		t.Helper()
		eventually(t, model+" is served", func() (bool, string) {
			got := ask{model: model}.once(t, url)
			return got.status == http.StatusOK, fmt.Sprint(got.status, " ", string(got.body))
		})
	}
	refused := func(port string) {
		t.Helper()
		r.awaitCondition(gateway, "Accepted", "RefusedByEnvoy", port)
		r.awaitCondition(gateway, "Programmed", "Rejected", "programmed on 0 of 1 replica; not on 1: Envoy refuses it")
		if n := g.Metric("weir_config_refused_objects"); n != 1 {
			t.Errorf("weir_config_refused_objects is %v", n)
		}
	}

	// What came with it is served, and what comes later.
	held, _ := port(t)
	objects = append(objects, r.apply(taken(held), route("with", "with", "{name: up, model: gpt-4o}"))[1:]...)
	refused(held)
	serves("with", g.URL)
	objects = append(objects, r.apply(route("later", "later", "{name: up, model: gpt-4o}"))...)
	serves("later", g.URL)
	r.awaitProgrammed(objects)
	eventually(t, "an event tells of it", func() (bool, string) {
		var list eventsv1.EventList
		must(t, r.cluster.Client.List(t.Context(), &list, client.InNamespace(r.ns)))
		for _, e := range list.Items {
			if e.Regarding.Name == "taken" && e.Reason == "RefusedByEnvoy" && e.Type == "Warning" && strings.Contains(e.Note, held) {
				return true, ""
			}
		}
		return false, fmt.Sprint(len(list.Items), " events")
	})

	// A later generation is tried, and goes on when the next is refused.
	free, l := port(t)
	l.Close()
	r.apply(taken(free))
	r.awaitProgrammed(append(objects, gateway))
	other := "http://127.0.0.1:" + free
	serves("later", other)
	r.apply(taken(held), route("more", "more", "{name: up, model: gpt-4o}"))
	refused(held)
	serves("more", g.URL)
	serves("more", other)

	// Another Envoy is given what was served, and nothing of what was refused.
	g.KillEnvoy()
	g.StartEnvoy()
	eventually(t, "the next Envoy listens", func() (bool, string) {
		c, err := net.Dial("tcp", "127.0.0.1:"+free)
		if err != nil {
			return false, err.Error()
		}
		return c.Close() == nil && g.Ready(), ""
	})
	serves("more", other)
	r.apply(route("last", "last", "{name: up, model: gpt-4o}"))
	serves("last", g.URL)
	refused(held)

	// Without it all is as it should be.
	r.delete("LLMGateway", "taken")
	eventually(t, "nothing is refused", func() (bool, string) {
		n := g.Metric("weir_config_refused_objects")
		return n == 0, fmt.Sprint(n)
	})
	r.awaitProgrammed(objects)
}
