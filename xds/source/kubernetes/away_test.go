package kubernetes

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/client-go/rest"

	"github.com/weir-dev/weir/test/kubetest"
)

// awaitHealth waits until the source is connected or not, and returns the reason.
func (w *watched) awaitHealth(connected bool) string {
	w.t.Helper()
	poll(w.t, "the connection is not seen as it is", func() (bool, string) {
		h := w.source.Health()
		return h.Connected == connected, h.Reason
	})
	return w.source.Health().Reason
}

// While the API server is away, what was read last holds; afterwards nothing that has changed is missed.
func TestServerAway(t *testing.T) {
	c := kubetest.Shared(t)
	ns := c.Namespace(t)
	apply(t, c, ns, consumer("a", "one")+secret("provider", "value", "first")+backend("b", withSecret("{name: provider}"))+
		backend("pool", "service: {name: vllm, port: 80}")+"---\napiVersion: v1\nkind: Service\nmetadata: {name: vllm}\nspec: {clusterIP: None, ports: [{name: http, port: 80}]}\n")
	put(t, c, sliceOf(ns, "one", discoveryv1.AddressTypeIPv4, 8000, at("10.0.0.1", "a")))
	log, text := logged()
	opts := quick(c.Config, ns)
	opts.Log = log
	w := follow(t, opts)
	everything := func(r snapshot) string { return tenants(r) + "; " + r.secrets() + "; " + r.servers(ns, "pool") }
	value := "; Secret " + ns + "/provider, key value="
	before := w.await("a=one"+value+"first; 10.0.0.1:8000", everything)
	connected := w.source.Health()
	opts = quick(c.Config, ns)
	leaving := follow(t, opts)
	leaving.awaitHealth(true)

	c.StopAPIServer()
	if reason := w.awaitHealth(false); !strings.Contains(reason, "refused") && !strings.Contains(reason, "EOF") && !strings.Contains(reason, "reset") {
		t.Errorf("the reason is %s", reason)
	}
	if since := w.source.Health().Since; !since.After(connected.Since) {
		t.Error("the moment has not moved")
	}
	if r, _, _ := w.last(); everything(r) != everything(before) || r.said() != before.said() {
		t.Errorf("what is served has changed: %s %s", everything(r), r.said())
	}
	// Ending while the server is away does not wait for it.
	leaving.awaitHealth(false)
	leaving.stop()
	if h := leaving.source.Health(); h.Connected || h.Reason == "" {
		t.Errorf("health after the end is %+v", h)
	}
	// A server that is away when Weir starts is waited for.
	late := follow(t, opts)
	poll(t, "health does not say why", func() (bool, string) {
		h := late.source.Health()
		return !h.Connected && strings.Contains(h.Reason, "refused"), h.Reason
	})
	if _, n, _ := late.last(); n != 0 {
		t.Error("objects were handed on before any were read")
	}

	c.StartAPIServer()
	apply(t, c, ns, consumer("a", "two")+consumer("new", "three")+secret("provider", "value", "second"))
	put(t, c, sliceOf(ns, "one", discoveryv1.AddressTypeIPv4, 8000, at("10.0.0.1", "a"), at("10.0.0.2", "b")))
	after := w.await("a=two new=three"+value+"second; 10.0.0.1:8000 10.0.0.2:8000", everything)
	w.awaitHealth(true)
	if before.objects.Backends[0] != after.objects.Backends[0] {
		t.Error("an object that did not change has another pointer")
	}
	if got := text(); strings.Count(got, "cannot be followed") != 1 || strings.Count(got, "followed again") != 1 || strings.Count(got, "\n") != 2 {
		t.Errorf("the log is\n%s", got)
	}
	late.await(everything(after), everything)
	late.awaitHealth(true)
}

// A backup that is restored brings old resource versions and the generations of before a second time.
func TestServerRestored(t *testing.T) {
	c := kubetest.Shared(t)
	ns := c.Namespace(t)
	apply(t, c, ns, consumer("a", "one")+consumer("b", "same"))
	w := follow(t, quick(c.Config, ns))
	first := w.await("a=one b=same", tenants)
	backup := c.Snapshot()
	apply(t, c, ns, consumer("a", "two")+consumer("c", "new"))
	w.await("a=two b=same c=new", tenants)
	c.Restore(backup)
	r := w.await("a=one b=same", tenants)
	if first.objects.Consumers[1] != r.objects.Consumers[1] {
		t.Error("an object that did not change has another pointer")
	}
	apply(t, c, ns, consumer("a", "three"))
	w.await("a=three b=same", tenants)
	w.awaitHealth(true)
}

// Kinds that the cluster does not have are said to be missing, and are read once they are there. When kinds vanish under objects, it is the
// cluster that is broken: the objects stay.
func TestMissingKinds(t *testing.T) {
	c := kubetest.Shared(t)
	apply(t, c, "default", consumer("a", "one"))
	w := follow(t, quick(c.Config, "default"))
	w.await("a=one", tenants)
	c.WipeEtcd()
	poll(t, "the kind is not missed", func() (bool, string) {
		h := w.source.Health()
		return !h.Connected && strings.Contains(h.Reason, "could not find the requested resource"), h.Reason
	})
	fresh := follow(t, quick(c.Config))
	r := fresh.awaitSaid("LimitPolicy: warning: the cluster has no kind LimitPolicy", "limitpolicies.weir.dev", "[Unsupported]")
	if len(r.problems) != len(kinds) || r.names() != "" || !fresh.source.Health().Connected {
		t.Errorf("%s%s %+v", r.said(), r.names(), fresh.source.Health())
	}
	if r, _, _ := w.last(); tenants(r) != "a=one" {
		t.Errorf("left is %s", tenants(r))
	}
	c.InstallCRDs()
	fresh.await("", snapshot.said)
	w.await("", tenants) // an answer: there is none
	w.awaitHealth(true)
	ns := c.Namespace(t)
	apply(t, c, ns, consumer("b", "two"))
	fresh.await("b=two", tenants)
}

// front is a proxy in front of the API server. Requests that handle says it has dealt with do not get there.
func front(t *testing.T, c *kubetest.Cluster, handle func(http.ResponseWriter, *http.Request) bool) *rest.Config {
	t.Helper()
	target, err := url.Parse(c.Config.Host)
	if err != nil {
		t.Fatal(err)
	}
	transport, err := rest.TransportFor(c.Config)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.Transport, proxy.FlushInterval = transport, -1
	server := httptest.NewServer(http.HandlerFunc(func(out http.ResponseWriter, in *http.Request) {
		if !handle(out, in) {
			proxy.ServeHTTP(out, in)
		}
	}))
	t.Cleanup(server.Close)
	return &rest.Config{Host: server.URL}
}

// API servers before Kubernetes 1.32 do not stream lists; they are asked for pages.
func TestOldServer(t *testing.T) {
	c := kubetest.Shared(t)
	ns := c.Namespace(t)
	apply(t, c, ns, consumer("a", "one")+consumer("b", "two"))
	var refused, listed atomic.Int64
	w := follow(t, quick(front(t, c, func(out http.ResponseWriter, in *http.Request) bool {
		if in.URL.Query().Has("sendInitialEvents") {
			refused.Add(1)
			out.Header().Set("Content-Type", "application/json")
			out.WriteHeader(http.StatusUnprocessableEntity)
			_, _ = out.Write([]byte(`{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Invalid","code":422,"message":"sendInitialEvents is forbidden for watch"}`))
			return true
		}
		if !in.URL.Query().Has("watch") {
			listed.Add(1)
		}
		return false
	}), ns))
	first := w.await("a=one b=two", tenants)
	apply(t, c, ns, consumer("b", "three"))
	next := w.await("a=one b=three", tenants)
	if first.objects.Consumers[0] != next.objects.Consumers[0] {
		t.Error("an object that did not change has another pointer")
	}
	if refused.Load() == 0 || listed.Load() < int64(len(kinds)) {
		t.Errorf("%d refused, %d lists", refused.Load(), listed.Load())
	}
	w.awaitHealth(true)
}

// A server that hangs keeps its connections, and its watches say as little as those of one where nothing happens. It is noticed, and so is that it
// goes on.
func TestServerHangs(t *testing.T) {
	c := kubetest.Shared(t)
	ns := c.Namespace(t)
	apply(t, c, ns, consumer("a", "one"))
	var hangs atomic.Bool
	w := follow(t, quick(front(t, c, func(_ http.ResponseWriter, in *http.Request) bool {
		if hangs.Load() {
			<-in.Context().Done()
			return true
		}
		return false
	}), ns))
	w.await("a=one", tenants)
	w.awaitHealth(true)
	hangs.Store(true)
	if reason := w.awaitHealth(false); !strings.Contains(reason, "has not answered for") {
		t.Errorf("the reason is %s", reason)
	}
	hangs.Store(false)
	w.awaitHealth(true)
}

// A question about a Secret or servers that is never answered holds nothing up for long, and the answer counts once it comes.
func TestNoAnswer(t *testing.T) {
	c := kubetest.Shared(t)
	ns := c.Namespace(t)
	apply(t, c, ns, consumer("a", "one")+secret("provider", "value", "first")+backend("b", withSecret("{name: provider}"))+
		backend("pool", "selector: {matchLabels: {app: vllm}, port: 80}"))
	answer := make(chan struct{})
	opts := quick(front(t, c, func(_ http.ResponseWriter, in *http.Request) bool {
		if strings.Contains(in.URL.Path, "/secrets") || strings.Contains(in.URL.Path, "/pods") {
			select {
			case <-answer:
			case <-in.Context().Done():
			}
		}
		return false
	}), ns)
	opts.LookupWait = 200 * time.Millisecond
	w := follow(t, opts)
	w.awaitSaid("Backend "+ns+"/b: spec.credential.secretRef.name: Secret "+ns+"/provider could not be read yet: the API server has not answered", "[SecretUnavailable]")
	r := w.awaitSaid("Backend "+ns+"/pool: spec.selector: the Pods with app=vllm could not be read yet", "[RefNotFound]")
	if _, n, _ := w.last(); n != 1 || tenants(r) != "a=one" || r.servers(ns, "pool") != "?" {
		t.Errorf("%d readings: %s, %s", n, tenants(r), r.servers(ns, "pool"))
	}
	apply(t, c, ns, consumer("a", "two"))
	w.await("a=two", tenants)
	close(answer)
	w.await("Secret "+ns+"/provider, key value=first, none", func(r snapshot) string { return r.secrets() + ", " + r.servers(ns, "pool") + r.said() })
}
