package main

import (
	"testing"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
)

func TestMeter(t *testing.T) {
	brings := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: "type.googleapis.com/some.Kind", Nonce: "1", Resources: []*discoveryv3.Resource{{Name: "a"}, {Name: "b"}}}
	takes := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: "type.googleapis.com/some.Kind", Nonce: "2", RemovedResources: []string{"a"}}
	answer := func(nonce string) *discoveryv3.DeltaDiscoveryRequest {
		return &discoveryv3.DeltaDiscoveryRequest{ResponseNonce: nonce}
	}
	for removals, want := range map[bool]int{false: 1, true: 2} {
		m := newMeter(removals)
		m.response(0, brings, 100)
		m.response(1, takes, 10)
		if r := m.read(); r.clients != 0 || r.last.IsZero() {
			t.Errorf("before the answers: %+v", r)
		}
		m.request(0, answer("2")) // which was sent to somebody else
		m.request(0, answer(""))
		if r := m.read(); r.clients != 0 {
			t.Errorf("after answers to nothing: %+v", r)
		}
		m.request(0, answer("1"))
		m.request(1, answer("2"))
		r := m.read()
		if r.clients != want || r.at.IsZero() {
			t.Errorf("%d clients, want %d", r.clients, want)
		}
		if all := (pushed{Bytes: 110, Resources: 2, Removed: 1, Responses: 2}); r.pushed != all || r.By["Kind"] != all {
			t.Errorf("%+v", r)
		}
		m.reset()
		if r := m.read(); r.clients != 0 || r.pushed != (pushed{}) || !r.at.IsZero() {
			t.Errorf("after the reset: %+v", r)
		}
		m.response(0, brings, 100)
		refusal := answer("1")
		refusal.ErrorDetail = &status.Status{Message: "not this"}
		m.request(0, refusal)
		if r := m.read(); r.refusal != "not this" || r.clients != 0 {
			t.Errorf("after a refusal: %+v", r)
		}
	}
}
