package fleet

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/xds/source"
)

func TestOneChangeIsOneResponse(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		reg, clientReg := prometheus.NewRegistry(), prometheus.NewRegistry()
		server := r.control("control:1", func(o *ServerOptions) { o.Registry = reg })
		defer server.stop()
		first := world(t, []source.Object{gateway("a", "g"), backend("a", "x", 1), backend("a", "y", 1), route("a", "r", 1)}, map[string]string{"a x": "secret-x", "a y": ""})
		first.Endpoints[source.ObjectRef{Kind: "Backend", Namespace: "a", Name: "x"}] = []v1alpha1.Endpoint{{Address: "10.0.0.1", Port: 80, Weight: 1}}
		first.Endpoints[source.ObjectRef{Kind: "Backend", Namespace: "a", Name: "y"}] = nil
		problems := []source.Problem{
			{Object: source.ObjectRef{Kind: "Route", Namespace: "a", Name: "r"}, Field: "spec", Message: "odd", Severity: source.Warning, Reason: source.ReasonConflict},
			{Message: "all is odd", File: "x.yaml", Line: 3},
		}
		server.Set(first, problems)
		client := r.sidecar(func(o *ClientOptions) { o.Registry = clientReg }, nil)
		defer client.stop()
		settle()
		objs, got, calls := client.got()
		requireEqual(t, objs, first)
		requireProblems(t, got, problems)
		if list, ok := objs.Endpoints[source.ObjectRef{Kind: "Backend", Namespace: "a", Name: "y"}]; !ok || len(list) != 0 {
			t.Error("endpoints of which none is ready have become unknown")
		}

		// Three objects change: one call, and what has not changed is the same pointer.
		second := world(t, []source.Object{first.Gateways[0], first.Backends[0], backend("a", "y", 2), route("a", "new", 1)}, map[string]string{"a x": "secret-2"})
		server.Set(second, nil)
		settle()
		after, got, callsAfter := client.got()
		requireEqual(t, after, second)
		requireProblems(t, got, nil)
		if callsAfter != calls+1 {
			t.Errorf("%d calls for one change", callsAfter-calls)
		}
		if after.Backends[0] != objs.Backends[0] || after.Backends[1] == objs.Backends[1] {
			t.Error("objects that have not changed are other pointers, or changed ones the same")
		}

		// A status that is written is no change, nor is a new copy of an object.
		third := *second
		same := second.Backends[0].DeepCopy()
		same.ResourceVersion, same.Status.ObservedGeneration = "7", 2
		third.Backends = []*v1alpha1.Backend{same, second.Backends[1]}
		server.Set(&third, nil)
		settle()
		if _, _, n := client.got(); n != callsAfter {
			t.Error("a written status reached the client")
		}
		state := server.Clients()[0]
		if state.Node.ID != "team-a/gateway-0" || state.Node.Version != "1.2.3" || state.Identity != "gateway.team-a.svc" || state.Bytes == 0 ||
			state.Serving != (Set{2, second.Digest()}) || state.Sent != state.Serving || state.Rejected != (Set{}) {
			t.Errorf("the client is %+v", state)
		}
		if h := client.Health(); !h.Connected || h.Reason != "" {
			t.Errorf("health is %+v", h)
		}
		if err := testutil.GatherAndCompare(reg, strings.NewReader(`
# HELP weir_fleet_clients Clients that are connected to the control plane.
# TYPE weir_fleet_clients gauge
weir_fleet_clients 1
# HELP weir_fleet_pushes_total Responses that were sent to clients of the control plane.
# TYPE weir_fleet_pushes_total counter
weir_fleet_pushes_total 2
# HELP weir_fleet_rejects_total Sets of objects that the Envoy of a client refused.
# TYPE weir_fleet_rejects_total counter
weir_fleet_rejects_total 0
`), "weir_fleet_clients", "weir_fleet_pushes_total", "weir_fleet_rejects_total"); err != nil {
			t.Error(err)
		}
		if err := testutil.GatherAndCompare(clientReg, strings.NewReader(`
# HELP weir_fleet_connected 1 while the control plane is connected, 0 while it is away.
# TYPE weir_fleet_connected gauge
weir_fleet_connected 1
`)); err != nil {
			t.Error(err)
		}
		if strings.Contains(r.logs.String(), "secret-") {
			t.Errorf("a value is in the log:\n%s", r.logs)
		}
	})
}

func TestRefusedSet(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		server := r.control("control:1", nil)
		defer server.stop()
		good := world(t, []source.Object{backend("a", "x", 1)}, nil)
		bad := world(t, []source.Object{backend("a", "x", 2)}, nil)
		server.Set(good, nil)
		client := r.sidecar(nil, func(objs *source.Objects) string {
			if objs.Backends[0].Generation == 2 {
				return "cluster x: no such thing"
			}
			return ""
		})
		defer client.stop()
		settle()
		server.Set(bad, nil)
		settle()
		report := server.Report()
		if report.Serving[good.Digest()] != 1 || report.Rejected[bad.Digest()] != (Refusal{1, "cluster x: no such thing"}) || len(report.Serving) != 1 {
			t.Errorf("the report is %+v", report)
		}

		// The refusal is told again on another connection, without asking Envoy again.
		_, _, calls := client.got()
		server.stop()
		again := r.control("control:1", nil)
		again.Set(bad, nil)
		defer again.stop()
		time.Sleep(time.Minute)
		settle()
		if report := again.Report(); report.Rejected[bad.Digest()] != (Refusal{1, "cluster x: no such thing"}) || report.Serving[""] != 1 {
			t.Errorf("after the restart the report is %+v", report)
		}
		if _, _, n := client.got(); n != calls {
			t.Error("the same objects were handed on again")
		}

		// What mends it is a difference to what was refused.
		server = again
		mended := world(t, []source.Object{backend("a", "x", 3)}, nil)
		server.Set(mended, nil)
		settle()
		if state := server.Clients()[0]; state.Serving.Digest != mended.Digest() || state.Rejected != (Set{}) || state.Reason != "" {
			t.Errorf("the client is %+v", state)
		}
	})
}

// A client that does not answer gets the sum of what changed, once, and what mends a set that its Envoy never answers for.
func TestClientThatDoesNotAnswer(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		reg := prometheus.NewRegistry()
		server := r.control("control:1", func(o *ServerOptions) { o.Registry = reg })
		defer server.stop()
		var last *source.Objects
		set := func(generation int64) {
			last = world(t, []source.Object{backend("a", "x", generation), backend("a", "y", 1)}, nil)
			server.Set(last, nil)
		}
		set(1)
		client := r.sidecar(nil, func(objs *source.Objects) string { return "silent" })
		defer client.stop()
		settle()
		for i := range 100 {
			set(int64(i + 2))
			settle()
		}
		if got, _, calls := client.got(); calls != 1 || got.Backends[0].Generation != 1 {
			t.Errorf("%d sets were sent to a client that does not answer", calls)
		}
		time.Sleep(patience)
		settle()
		got, _, calls := client.got()
		requireEqual(t, got, last)
		if calls != 2 {
			t.Errorf("%d calls", calls)
		}
		state := server.Clients()[0]
		if state.Serving != (Set{}) || state.Sent.Number != 101 {
			t.Errorf("the client is %+v", state)
		}
		client.Serving(got)
		settle()
		if state := server.Clients()[0]; state.Serving.Number != 101 || state.Serving.Digest != last.Digest() {
			t.Errorf("the client is %+v", state)
		}
	})
}

// While a set is being compiled, others wait, and one call tells of all.
func TestSlowCompile(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		server := r.control("control:1", nil)
		defer server.stop()
		server.Set(world(t, []source.Object{backend("a", "x", 1)}, nil), nil)
		client := r.sidecar(nil, nil)
		defer client.stop()
		hold := make(chan struct{})
		client.mu.Lock()
		client.hold = hold
		client.mu.Unlock()
		settle()
		var last *source.Objects
		for i := range 50 {
			last = world(t, []source.Object{backend("a", "x", int64(i+2))}, nil)
			server.Set(last, nil)
			time.Sleep(patience + time.Second)
			settle()
		}
		client.mu.Lock()
		client.hold = nil
		client.mu.Unlock()
		close(hold)
		settle()
		got, _, calls := client.got()
		requireEqual(t, got, last)
		if calls != 2 {
			t.Errorf("%d calls", calls)
		}
		if state := server.Clients()[0]; state.Serving.Number != 51 {
			t.Errorf("the client is %+v", state)
		}
	})
}

func TestReconnect(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		var objects []source.Object
		for _, n := range strings.Split(strings.Repeat("abcdefghij", 20), "") {
			objects = append(objects, backend("ns", n+"-"+string(rune('a'+len(objects)%26))+string(rune('a'+len(objects)/26)), 1))
		}
		first := world(t, objects, nil)
		one, two := r.control("control:1", nil), r.control("control:2", nil)
		one.Set(first, nil)
		two.Set(first, nil)
		client := r.sidecar(func(o *ClientOptions) { o.Addresses = []string{"control:1", "control:2"} }, nil)
		defer client.stop()
		settle()
		whole := one.Clients()[0].Bytes
		before, _, calls := client.got()
		requireEqual(t, before, first)

		// Another replica has the same: nothing travels, nothing is handed on, and it hears what is served.
		one.stop()
		settle()
		if client.Health().Connected {
			t.Error("the client says that it is connected")
		}
		time.Sleep(time.Second)
		settle()
		state := two.Clients()[0]
		if _, _, n := client.got(); n != calls || state.Serving.Digest != first.Digest() {
			t.Errorf("%d calls, %+v", n-calls, state)
		}
		if state.Bytes*10 > whole {
			t.Errorf("%d bytes were sent to a client that has everything, %d to one that had nothing", state.Bytes, whole)
		}
		if !client.Health().Connected {
			t.Errorf("health is %+v", client.Health())
		}

		// And one that has other objects sends the difference.
		second := world(t, append(slices.Clone(objects[5:]), backend("ns", "new", 1)), nil)
		three := r.control("control:1", nil)
		defer three.stop()
		three.Set(second, nil)
		two.stop()
		time.Sleep(time.Second)
		settle()
		after, _, n := client.got()
		requireEqual(t, after, second)
		if n != calls+1 || !slices.Contains(before.Backends, after.Backends[0]) {
			t.Error("more than the difference was handed on")
		}
	})
}

// A control plane that has not read anything must not empty a gateway; one that is away is told, with its address.
func TestControlPlaneThatIsNotThere(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		server := r.control("control:1", nil)
		client := r.sidecar(nil, nil)
		defer client.stop()
		time.Sleep(time.Minute)
		settle()
		if _, _, calls := client.got(); calls != 0 {
			t.Error("something was handed on")
		}
		if h := client.Health(); h.Connected || !strings.Contains(h.Reason, "control:1: the control plane has not read its objects yet") {
			t.Errorf("health is %+v", h)
		}
		server.stop()
		time.Sleep(time.Minute)
		if h := client.Health(); h.Connected || !strings.Contains(h.Reason, "refused") {
			t.Errorf("health is %+v", h)
		}
		server = r.control("control:1", nil)
		defer server.stop()
		server.Set(world(t, nil, nil), nil)
		time.Sleep(time.Minute)
		settle()
		if objs, _, calls := client.got(); calls != 1 || objs.Len() != 0 || !client.Health().Connected {
			t.Errorf("%d calls, %+v", calls, client.Health())
		}
	})
}

// Endpoints and values change the set, and not the digest.
func TestSetAndDigest(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		server := r.control("control:1", nil)
		defer server.stop()
		objects := []source.Object{backend("a", "x", 1)}
		server.Set(world(t, objects, map[string]string{"a x": "one"}), nil)
		client := r.sidecar(nil, nil)
		defer client.stop()
		settle()
		before := server.Clients()[0].Serving
		next := world(t, objects, map[string]string{"a x": "two"})
		server.Set(next, nil)
		settle()
		after := server.Clients()[0].Serving
		if before.Digest != after.Digest || before.Number != 1 || after.Number != 2 {
			t.Errorf("%+v, then %+v", before, after)
		}
		objs, _, _ := client.got()
		requireEqual(t, objs, next)
	})
}

// A server or a client that is gone without a word is noticed within 20 seconds, and the client goes elsewhere.
func TestSilence(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		objs := world(t, []source.Object{backend("a", "x", 1)}, nil)
		one, two := r.control("control:1", nil), r.control("control:2", nil)
		defer one.stop()
		defer two.stop()
		one.Set(objs, nil)
		two.Set(objs, nil)
		client := r.sidecar(func(o *ClientOptions) { o.Addresses = []string{"control:1", "control:2"} }, nil)
		defer client.stop()
		time.Sleep(time.Hour)
		settle()
		if !client.Health().Connected || len(one.Clients()) != 1 {
			t.Fatal("a quiet connection was given up")
		}
		r.cut()
		time.Sleep(pingAfter + pingTimeout + time.Second)
		settle()
		if len(one.Clients()) != 0 {
			t.Error("the server has not noticed")
		}
		if !client.Health().Connected || len(two.Clients()) != 1 {
			t.Errorf("the client has not noticed: %+v", client.Health())
		}
	})
}
