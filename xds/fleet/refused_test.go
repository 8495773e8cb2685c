package fleet

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weir-dev/weir/xds/source"
)

// TestPartOfASet: a client whose Envoy refuses one object serves the rest of the set, and says so: also on another connection, and until it is mended.
func TestPartOfASet(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		server := r.control("control:1", nil)
		defer server.stop()
		good := world(t, []source.Object{backend("a", "x", 1)}, nil)
		server.Set(good, nil)
		client := r.sidecar(nil, nil)
		defer client.stop()
		settle()
		client.mu.Lock()
		client.envoy = func(*source.Objects) string { return "cluster x: no such thing" }
		client.mu.Unlock()
		bad := world(t, []source.Object{backend("a", "x", 2), backend("a", "y", 1)}, nil)
		server.Set(bad, nil)
		settle()
		whole := server.Clients()[0]
		if whole.Serving.Digest != good.Digest() || whole.Rejected.Digest != bad.Digest() || whole.Refused != nil {
			t.Fatalf("the client is %+v", whole)
		}
		objs, _, _ := client.got()
		refused := []Refused{{source.ObjectRef{Kind: "Backend", Namespace: "a", Name: "x"}, "uid", 2, 1, "Envoy refuses it: cluster x: no such thing"}}
		client.Partly(objs, refused)
		settle()
		expect := func(s *control) {
			t.Helper()
			is := s.Clients()[0]
			if is.Serving.Digest != bad.Digest() || is.Rejected != is.Serving || !reflect.DeepEqual(is.Refused, refused) || !strings.Contains(is.Reason, "Backend a/x: Envoy refuses it") {
				t.Errorf("the client is %+v", is)
			}
		}
		expect(server)
		server.stop()
		again := r.control("control:1", nil)
		defer again.stop()
		again.Set(bad, nil)
		time.Sleep(time.Minute)
		settle()
		expect(again)

		client.mu.Lock()
		client.envoy = nil
		client.mu.Unlock()
		mended := world(t, []source.Object{backend("a", "x", 3), backend("a", "y", 1)}, nil)
		again.Set(mended, nil)
		settle()
		if is := again.Clients()[0]; is.Serving.Digest != mended.Digest() || is.Rejected != (Set{}) || is.Refused != nil || is.Reason != "" {
			t.Errorf("the client is %+v", is)
		}
	})
}

func TestTooManyRefused(t *testing.T) {
	var many []Refused
	for i := range maxRefused + 1 {
		many = append(many, Refused{Object: source.ObjectRef{Kind: "Route", Namespace: "a", Name: fmt.Sprint(i)}})
	}
	if decodeRefused(encodeRefused(many)) != nil || len(decodeRefused(encodeRefused(many[1:]))) != maxRefused {
		t.Error("the number of refused objects is not bounded")
	}
}

func FuzzRefused(f *testing.F) {
	for _, d := range encodeRefused([]Refused{{source.ObjectRef{Kind: "Route", Namespace: "a", Name: "b"}, "uid", 2, 1, "odd"}}) {
		f.Add(d.GetValue())
	}
	f.Add([]byte(`[{"object":{}}]`))
	f.Add([]byte(`[{"object":{"name":"x"},"generation":-1}]`))
	f.Fuzz(func(t *testing.T, value []byte) {
		got := decodeRefused([]*anypb.Any{{TypeUrl: "other"}, {TypeUrl: refusedURL, Value: value}})
		if again := decodeRefused(encodeRefused(got)); !reflect.DeepEqual(got, again) {
			t.Errorf("%v becomes %v", got, again)
		}
	})
}
