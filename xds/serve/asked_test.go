package serve

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"

	"github.com/weir-dev/weir/xds/compile"
)

// sealed is a version with clusters that stay, and one certificate.
func sealed(id, certificate string) *compile.Version {
	return version(id, content{
		clusters: []string{"c"}, routes: []string{"r"}, door: "d", retain: time.Minute,
		secrets: map[string]string{"certificate": certificate},
	})
}

// value is what Envoy has of the certificate.
func (r *rig) value() string {
	return r.envoy.secret("certificate").GetGenericSecret().GetSecret().GetInlineString()
}

// TestNewCertificateIsAwaited: nothing but a secret changes, under the name that it had.
func TestNewCertificateIsAwaited(t *testing.T) {
	inRig(t, Options{}, func(t *testing.T, r *rig) {
		r.envoy.connect()
		r.publish(sealed("a", "first"))
		r.expect("a")
		r.envoy.received()
		r.envoy.judgeBy(holding(resourcev3.SecretType))
		r.publish(sealed("b", "second"))
		if got := r.envoy.received(); got != "Secret +1 -0" {
			t.Errorf("sent %q", got)
		}
		pass(warmLimit + time.Second)
		r.expect()
		if s := r.State(); s.Pending != "b" {
			t.Errorf("state: %+v", s)
		}
		r.envoy.judgeBy(nil)
		r.envoy.release("", "")
		r.expect("b")
	})
}

func TestRefusedCertificate(t *testing.T) {
	inRig(t, Options{}, func(t *testing.T, r *rig) {
		r.envoy.connect()
		r.publish(sealed("a", "first"))
		r.envoy.judgeBy(func(resp *discoveryv3.DeltaDiscoveryResponse) verdict {
			if resp.GetTypeUrl() == resourcev3.SecretType && r.State().Rejects == 0 {
				return verdict{refuse: "only P-256, P-384 or P-521 ECDSA certificates are supported"}
			}
			return verdict{}
		})
		r.publish(sealed("b", "second"))
		r.expect("a")
		s := r.State()
		if s.Serving != "a" || s.Rejected != "b" || s.Pending != "" || s.Rejects != 1 || !strings.HasPrefix(s.Reason, "Secret: only P-256") {
			t.Errorf("state: %+v", s)
		}
		if got := r.value(); got != "first" {
			t.Errorf("Envoy has the certificate %q", got)
		}

		r.publish(sealed("c", "third"))
		r.expect("c")
		if s := r.State(); s.Rejected != "" || s.Reason != "" || r.value() != "third" {
			t.Errorf("state: %+v, certificate %q", s, r.value())
		}
	})
}

// TestFirstCertificateRefused: Envoy asks for it only after it has taken the listener, and then keeps that warming.
func TestFirstCertificateRefused(t *testing.T) {
	inRig(t, Options{}, func(t *testing.T, r *rig) {
		r.envoy.judgeBy(holding(resourcev3.SecretType))
		r.envoy.connect()
		r.publish(sealed("a", "first"))
		r.expect()
		r.envoy.judgeBy(nil)
		r.envoy.release(resourcev3.SecretType, "no")
		pass(2 * warmLimit)
		r.expect()
		if s := r.State(); s.Serving != "" || s.Rejected != "a" || s.Reason != "Secret: no" || s.Rejects != 1 {
			t.Errorf("state: %+v", s)
		}
		r.publish(sealed("b", "second"))
		r.expect("b")
	})
}

// TestCertificateAskedForWhileWarming: the listener that needs it was acknowledged before.
func TestCertificateAskedForWhileWarming(t *testing.T) {
	var w warmth
	inRig(t, Options{Warming: w.warming}, func(t *testing.T, r *rig) {
		w.Store(1)
		r.envoy.judgeBy(holding(resourcev3.SecretType))
		r.envoy.connect()
		r.publish(sealed("a", "first"))
		pass(warmLimit + time.Second) // Envoy stays cold, and has not answered
		r.expect()
		w.Store(0)
		r.envoy.judgeBy(nil)
		r.envoy.release("", "")
		r.expect("a")
	})
}

func TestRefusedEndpoints(t *testing.T) {
	inRig(t, Options{}, func(t *testing.T, r *rig) {
		r.envoy.connect()
		r.publish(one("a"))
		r.envoy.judgeBy(refusingOf(resourcev3.EndpointType, "malformed IP address: localhost"))
		b := version("b", content{clusters: []string{"cluster-a", "new"}, routes: []string{"r"}, door: "a"})
		r.publish(b)
		r.expect("a")
		if s := r.State(); s.Serving != "a" || s.Rejected != "b" || s.Rejects != 1 || s.Reason != "ClusterLoadAssignment: malformed IP address: localhost" {
			t.Errorf("state: %+v", s)
		}
		r.expectNames(resourcev3.EndpointType, "cluster-a")
		r.expectNames(resourcev3.ClusterType, "cluster-a")
	})
}

// TestMovedPool: endpoints that change in place are awaited, and refused ones are not served.
func TestMovedPool(t *testing.T) {
	moved := func(id string, priority uint32) *compile.Version {
		v := sealed(id, "first")
		v.Endpoints["c"].Endpoints = []*endpointv3.LocalityLbEndpoints{{Priority: priority}}
		return v
	}
	inRig(t, Options{}, func(t *testing.T, r *rig) {
		r.envoy.connect()
		r.publish(moved("a", 0))
		r.envoy.received()
		r.envoy.judgeBy(holding(resourcev3.EndpointType))
		r.publish(moved("b", 1))
		if got := r.envoy.received(); got != "ClusterLoadAssignment +1 -0" {
			t.Errorf("sent %q", got)
		}
		r.expect("a")
		r.envoy.judgeBy(nil)
		r.envoy.release("", "priority 1 without priority 0")
		r.expect()
		if s := r.State(); s.Rejected != "b" || s.Serving != "a" {
			t.Errorf("state: %+v", s)
		}
		r.publish(moved("c", 0))
		r.expect("c")
	})
}

// TestLateRefusalIsTold: another Envoy refuses what is served already.
func TestLateRefusalIsTold(t *testing.T) {
	inRig(t, Options{}, func(t *testing.T, r *rig) {
		r.envoy.connect()
		r.publish(sealed("a", "first"))
		r.expect("a")
		r.envoy.disconnect()
		r.envoy.restart()
		r.envoy.judgeBy(refusing("certificate", "no"))
		r.envoy.connect()
		r.expect()
		if s := r.State(); s.Serving != "a" || s.Rejected != "a" || s.Reason != "Secret: no" || s.Rejects != 1 {
			t.Errorf("state: %+v", s)
		}
		// A version that has the same certificate gets no other answer.
		r.publish(version("b", content{clusters: []string{"d"}, routes: []string{"r"}, door: "d", secrets: map[string]string{"certificate": "first"}}))
		pass(2 * warmLimit)
		r.expect()
		if s := r.State(); s.Serving != "a" || s.Rejected != "b" || s.Reason != "Secret: no" {
			t.Errorf("state: %+v", s)
		}
		r.envoy.judgeBy(nil)
		r.publish(sealed("c", "second"))
		r.expect("c")
	})
}

// TestRefusalOfAnOlderVersionDoesNotEndTheNext: Envoy answers slowly, for what was given up already.
func TestRefusalOfAnOlderVersionDoesNotEndTheNext(t *testing.T) {
	inRig(t, Options{}, func(t *testing.T, r *rig) {
		r.envoy.connect()
		r.publish(sealed("a", "first"))
		r.envoy.judgeBy(holding(resourcev3.SecretType, resourcev3.ScopedRouteType))
		b := version("b", content{clusters: []string{"c"}, routes: []string{"bad"}, door: "d", secrets: map[string]string{"certificate": "bad"}})
		r.publish(b, sealed("c", "third"))
		r.envoy.release(resourcev3.ScopedRouteType, "no such route")
		r.envoy.judgeBy(nil)
		r.envoy.release(resourcev3.SecretType, "no such curve")
		r.envoy.release("", "")
		r.expect("a", "c")
		if s := r.State(); s.Rejects != 1 || s.Rejected != "" || r.value() != "third" {
			t.Errorf("state: %+v, certificate %q", s, r.value())
		}
	})
}

// TestEndpointsOfAnOldVersionHoldNothingUp: Envoy still asks for what only the old version has, and has refused it.
func TestEndpointsOfAnOldVersionHoldNothingUp(t *testing.T) {
	var envoy atomic.Pointer[fakeEnvoy]
	// Of the clusters whose endpoints are missing only the new one warms: the old one is used by nothing any more.
	warming := func(context.Context) (int, error) {
		if e := envoy.Load(); e != nil && slices.Contains(e.names(resourcev3.ClusterType), "new") && !slices.Contains(e.names(resourcev3.EndpointType), "new") {
			return 1, nil
		}
		return 0, nil
	}
	inRig(t, Options{Warming: warming}, func(t *testing.T, r *rig) {
		envoy.Store(r.envoy)
		r.envoy.connect()
		r.publish(version("a", content{clusters: []string{"old"}, routes: []string{"r"}, door: "a", retain: time.Minute}))
		r.expect("a")
		r.envoy.disconnect()
		r.envoy.restart()
		r.envoy.judgeBy(refusingOf(resourcev3.EndpointType, "no"))
		r.envoy.connect()
		r.envoy.judgeBy(nil)
		r.publish(version("b", content{clusters: []string{"new"}, routes: []string{"r"}, door: "a"}))
		r.expect("b")
		r.expectNames(resourcev3.EndpointType, "new")
	})
}
