package main

import (
	"context"
	"fmt"

	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/api/v1alpha1"
)

// changeKind is one way to change something. The nth change of a kind is of another object than the one before.
type changeKind struct {
	name string
	what string
	// told says whether Envoy has to hear of it before requests can be decided by it.
	told bool
	make func(ctx context.Context, to client.Client, o objects, n int) error
}

// spread takes numbers to others that are far apart.
const spread = 7919

var changeKinds = []changeKind{
	{"weight", "a weight of a Route", true, func(ctx context.Context, to client.Client, o objects, n int) error {
		return o.patchRoute(ctx, to, n, fmt.Sprintf(`[{"op": "replace", "path": "/spec/rules/0/backends/0/weight", "value": %d}]`, 10+n))
	}},
	{"model", "the model that a Route is for", false, func(ctx context.Context, to client.Client, o objects, n int) error {
		return o.patchRoute(ctx, to, n, fmt.Sprintf(`[{"op": "replace", "path": "/spec/rules/0/matches/0/models/0", "value": "renamed-%d"}]`, n))
	}},
	{"endpoints", "a server of an EndpointSlice", true, func(ctx context.Context, to client.Client, o objects, n int) error {
		b := o.backendWhere(true, n)
		s := &discoveryv1.EndpointSlice{ObjectMeta: meta(o.namespace(b), sliceName(b))}
		return to.Patch(ctx, s, client.RawPatch(types.JSONPatchType, fmt.Appendf(nil, `[{"op": "replace", "path": "/endpoints/1/addresses/0", "value": "10.250.%d.%d"}]`, n/250, n%250)))
	}},
	{"secret", "the value of a Secret", true, func(ctx context.Context, to client.Client, o objects, n int) error {
		return to.Update(ctx, o.secret(o.backendWhere(false, n), n+1))
	}},
	{"add", "a Route more", true, func(ctx context.Context, to client.Client, o objects, n int) error {
		return to.Create(ctx, o.route(o.routes+n))
	}},
	{"remove", "a Route less", false, func(ctx context.Context, to client.Client, o objects, n int) error {
		return to.Delete(ctx, &v1alpha1.Route{ObjectMeta: meta(o.namespace(o.routes+n), routeName(o.routes+n))})
	}},
}

func (o objects) patchRoute(ctx context.Context, to client.Client, n int, patch string) error {
	i := n * spread % o.routes
	return to.Patch(ctx, &v1alpha1.Route{ObjectMeta: meta(o.namespace(i), routeName(i))}, client.RawPatch(types.JSONPatchType, []byte(patch)))
}

// backendWhere is a backend that is found by a Service, or one with a Secret.
func (o objects) backendWhere(service bool, n int) int {
	for b := n * spread % o.backends(); ; b = (b + 1) % o.backends() {
		if o.byService(b) == service {
			return b
		}
	}
}

func sliceName(b int) string { return backendName(b) + "-1" }
