package kubernetes

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/test/e2e/harness"
	"github.com/weir-dev/weir/test/sim"
)

// model that the servers of pools have.
const poolModel = "qwen3-14b"

// server is one Pod of a pool: a simulator on an address of its own.
type server struct {
	name string
	addr netip.AddrPort
	sim  *sim.Server
	http *http.Server
}

// startServer starts one on a free port of an address, or on a port that is given.
func startServer(t *testing.T, name string, addr netip.AddrPort) *server {
	t.Helper()
	// Answers that take a moment, so that some run whenever a server goes.
	pace := sim.Faults{TTFT: sim.Duration(5 * time.Millisecond), IntervalMin: sim.None, IntervalMax: sim.Duration(2 * time.Millisecond)}
	answers, err := sim.New(sim.Options{Dialect: sim.OpenAI, Models: []string{poolModel}, Faults: pace})
	must(t, err)
	l, err := net.Listen("tcp", addr.String())
	must(t, err)
	s := &server{name: name, sim: answers, http: &http.Server{Handler: answers}, addr: netip.MustParseAddrPort(l.Addr().String())}
	go func() { _ = s.http.Serve(l) }() // it ends when stop says so
	t.Cleanup(func() { s.http.Close() })
	return s
}

// stop ends it as an inference server ends at SIGTERM: requests that run have their time.
func (s *server) stop(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	must(t, s.http.Shutdown(ctx))
}

func (s *server) requests() int { return int(s.sim.Stats().Requests) }

// way is how the servers of a pool are made known.
type way interface {
	// spec of the Backend.
	spec() string
	// at is the address of server i.
	at(i int) netip.AddrPort
	// put makes a server known, in a state; and take removes it.
	put(s *server, state podState)
	take(s *server)
}

type podState int

const (
	podReady podState = iota
	podTerminating
)

// byService makes them known as a Service's EndpointSlices, one for each server: a slice has one port for all.
type byService struct {
	*rig
	host netip.Addr
}

func (byService) spec() string            { return "service: {name: vllm, port: http}" }
func (w byService) at(int) netip.AddrPort { return netip.AddrPortFrom(w.host, 0) }
func (w byService) slice(s *server) *discoveryv1.EndpointSlice {
	family := discoveryv1.AddressTypeIPv4
	if s.addr.Addr().Is6() {
		family = discoveryv1.AddressTypeIPv6
	}
	return &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: s.name, Labels: map[string]string{discoveryv1.LabelServiceName: "vllm"}}, AddressType: family,
		Ports: []discoveryv1.EndpointPort{{Name: ptr.To("http"), Port: ptr.To(int32(s.addr.Port()))}},
	}
}

func (w byService) put(s *server, state podState) {
	slice := w.slice(s)
	ready := state == podReady
	slice.Endpoints = []discoveryv1.Endpoint{{
		Addresses: []string{s.addr.Addr().String()}, TargetRef: &corev1.ObjectReference{Kind: "Pod", Name: s.name},
		Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: ptr.To(true), Terminating: ptr.To(!ready)},
	}}
	w.upsert(slice)
}

func (w byService) take(s *server) {
	must(w.t, w.cluster.Client.Delete(w.t.Context(), w.slice(s)))
}

// bySelector makes them known as Pods.
type bySelector struct {
	*rig
	port uint16 // of all
}

func (w bySelector) spec() string {
	return fmt.Sprintf("selector: {matchLabels: {app: vllm}, port: %d}", w.port)
}

func (w bySelector) at(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, byte(1 + i)}), w.port)
}

func (w bySelector) pod(s *server) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: s.name, Labels: map[string]string{"app": "vllm"}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "vllm", Image: "vllm"}}}}
}

func (w bySelector) put(s *server, state podState) {
	pod := w.pod(s)
	if state == podTerminating {
		// With the grace of a Pod it stays until the kubelet has it ended; of a Pod without a node the API server would not wait for that.
		must(w.t, w.cluster.Client.Delete(w.t.Context(), pod, client.GracePeriodSeconds(60)))
		return
	}
	pod.Spec.NodeName = "node"
	must(w.t, w.cluster.Client.Create(w.t.Context(), pod))
	ip := s.addr.Addr().String()
	pod.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}},
		Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}
	must(w.t, w.cluster.Client.Status().Update(w.t.Context(), pod))
}

func (w bySelector) take(s *server) {
	must(w.t, w.cluster.Client.Delete(w.t.Context(), w.pod(s), client.GracePeriodSeconds(0)))
}

// upsert makes an object, or replaces it.
func (r *rig) upsert(o client.Object) {
	r.t.Helper()
	now := o.DeepCopyObject().(client.Object)
	err := r.cluster.Client.Get(r.t.Context(), client.ObjectKeyFromObject(o), now)
	if apierrors.IsNotFound(err) {
		must(r.t, r.cluster.Client.Create(r.t.Context(), o))
		return
	}
	must(r.t, err)
	o.SetResourceVersion(now.GetResourceVersion())
	must(r.t, r.cluster.Client.Update(r.t.Context(), o))
}

// ownAddress is an address of this machine that EndpointSlices may have in them: no loopback address. It is not valid where there is none.
func ownAddress(t *testing.T) netip.Addr {
	t.Helper()
	all, err := net.InterfaceAddrs()
	must(t, err)
	for _, a := range all {
		prefix, err := netip.ParsePrefix(a.String())
		if err == nil && prefix.Addr().Is4() && prefix.Addr().IsGlobalUnicast() {
			return prefix.Addr()
		}
	}
	return netip.Addr{}
}

// TestPoolUnderLoad scales pools from two servers to six and to one while requests run. As in a real cluster a server that is to end is first
// taken out of what is known as ready, and ends when Envoy has learned of that.
func TestPoolUnderLoad(t *testing.T) {
	if host := ownAddress(t); host.IsValid() {
		t.Run("service", func(t *testing.T) { scale(t, func(r *rig) way { return byService{r, host} }) })
	} else {
		t.Log("this machine has no address but the loopback one, which EndpointSlices may not have: only Pods are tried")
	}
	t.Run("selector", func(t *testing.T) {
		scale(t, func(r *rig) way { return bySelector{r, uint16(harness.FreePort(t))} })
	})
}

func scale(t *testing.T, choose func(*rig) way) {
	t.Parallel()
	r := newRig(t)
	w := choose(r)
	servers := map[int]*server{}
	start := func(from, to int) {
		for i := from; i < to; i++ {
			servers[i] = startServer(t, fmt.Sprintf("vllm-%d", i), w.at(i))
			w.put(servers[i], podReady)
		}
	}
	must(t, r.cluster.Client.Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: r.ns, Name: "vllm"},
		Spec:       corev1.ServiceSpec{ClusterIP: "None", Ports: []corev1.ServicePort{{Name: "http", Port: 80}}},
	}))
	r.secret("key", map[string]string{"value": "upstream-secret"})
	objects := r.apply(basics(), harness.Document("Backend", "pool", "dialect: openai\nbasePath: /v1\ncredential: {secretRef: {name: key}}\n"+w.spec()),
		route("pool", poolModel, "{name: pool}"))
	g := r.serve("weir-0", harness.Options{})
	r.awaitProgrammed(objects)
	a := ask{model: poolModel}
	if got := a.once(t, g.URL); got.status != http.StatusServiceUnavailable {
		t.Errorf("a pool without servers answers %d: %s", got.status, got.body)
	}
	start(0, 2)
	eventually(t, "the pool serves", func() (bool, string) { got := a.once(t, g.URL); return got.status == http.StatusOK, string(got.body) })

	l := startLoad(t, g.URL, 6, a, ask{model: poolModel, stream: true})
	busy := func(what string, which ...int) {
		t.Helper()
		before := map[int]int{}
		for _, i := range which {
			before[i] = servers[i].requests()
		}
		took := eventually(t, what, func() (bool, string) {
			now := "requests of each:"
			ok := true
			for _, i := range which {
				n := servers[i].requests() - before[i]
				ok, now = ok && n > 0, now+" "+strconv.Itoa(n)
			}
			return ok, now
		})
		t.Logf("%s: %v after the change", what, took)
	}
	busy("two servers serve", 0, 1)
	start(2, 6)
	busy("six servers serve", 0, 1, 2, 3, 4, 5)
	for _, i := range []int{1, 2, 3, 4, 5} {
		w.put(servers[i], podTerminating)
	}
	began := time.Now()
	for _, i := range []int{1, 2, 3, 4, 5} {
		// It is quiet, and would be so: more requests have gone by than could miss it.
		eventually(t, "nobody asks a server that is to end", func() (bool, string) {
			before := servers[i].requests()
			l.more(60)
			return servers[i].requests() == before, fmt.Sprint(i)
		})
	}
	t.Logf("one server serves: %v after the change", time.Since(began))
	for _, i := range []int{1, 2, 3, 4, 5} {
		w.take(servers[i])
		servers[i].stop(t)
	}
	l.more(60)
	l.mustHaveServed()
	for _, i := range slices.Sorted(maps.Keys(servers)) {
		t.Logf("server %d had %d requests", i, servers[i].requests())
	}
	if s := r.status(r.object("Backend", "pool")); s.generation != 1 {
		t.Errorf("the Backend itself has changed: %s", s.String())
	}
	r.awaitProgrammed(objects)
}
