package serve

import (
	"cmp"
	"context"
	"maps"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	serverv3 "github.com/envoyproxy/go-control-plane/pkg/server/v3"

	"github.com/weir-dev/weir/xds/compile"
)

// Events of the loop.
type (
	publishEvent struct{ version *compile.Version }
	openEvent    struct{ stream int64 }
	closeEvent   struct{ stream int64 }
	sentEvent    struct {
		stream         int64
		typeURL, nonce string
		change         *change
	}
	requestEvent struct {
		stream         int64
		typeURL, nonce string            // nonce of the response that is answered; "" for a subscription
		refusal        string            // why the response is refused; "" where it is taken
		initial        map[string]string // versions of what Envoy has already, by name
		wanted         []string          // names that Envoy asks for from now on
		forgotten      []string          // names that Envoy asks for no longer
		served         *served           // what was served when it came; the server answers by this or by what came after it
	}
)

// callbacks turn what happens on streams into events.
func (p *Publisher) callbacks() serverv3.Callbacks {
	return serverv3.CallbackFuncs{
		DeltaStreamOpenFunc: func(_ context.Context, id int64, _ string) error {
			p.events <- openEvent{id}
			return nil
		},
		DeltaStreamClosedFunc: func(id int64, _ *corev3.Node) {
			p.line.closed(id)
			p.events <- closeEvent{id}
		},
		StreamDeltaResponseFunc: func(id int64, _ *discoveryv3.DeltaDiscoveryRequest, r *discoveryv3.DeltaDiscoveryResponse) {
			p.events <- sentEvent{id, r.GetTypeUrl(), r.GetNonce(), changeOf(r)}
		},
		StreamDeltaRequestFunc: func(id int64, r *discoveryv3.DeltaDiscoveryRequest) error {
			p.line.asked(id, r)
			p.events <- requestEvent{ // with a copy of the versions: the server goes on writing into the map
				stream: id, typeURL: r.GetTypeUrl(), nonce: r.GetResponseNonce(), refusal: refusal(r),
				initial: maps.Clone(r.GetInitialResourceVersions()), wanted: r.GetResourceNamesSubscribe(), forgotten: r.GetResourceNamesUnsubscribe(),
				served: p.given.Load(),
			}
			return nil
		},
	}
}

// refusal is why Envoy refuses a response; "" where it takes it.
func refusal(r *discoveryv3.DeltaDiscoveryRequest) string {
	if r.GetErrorDetail() == nil {
		return ""
	}
	return cmp.Or(strings.TrimSpace(r.GetErrorDetail().GetMessage()), "Envoy gives no reason")
}
