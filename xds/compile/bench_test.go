package compile

import (
	"fmt"
	"strings"
	"testing"

	"github.com/weir-dev/weir/xds/source"
)

// manyRoutes are n routes of one rule each, every one for a model of its own, with a fallback and a limit, over 100 backends.
func manyRoutes(t testing.TB, n int) *source.Objects {
	t.Helper()
	return manyObjects(t, n, 100)
}

// manyObjects are n routes over some backends.
func manyObjects(t testing.TB, n, backends int) *source.Objects {
	t.Helper()
	var b strings.Builder
	b.WriteString("apiVersion: weir.dev/v1alpha1\nkind: LLMGateway\nmetadata: {name: main}\nspec:\n  listeners: [{name: http, address: 127.0.0.1, port: 8080}]\n")
	document := func(kind, name, spec string) {
		fmt.Fprintf(&b, "---\napiVersion: weir.dev/v1alpha1\nkind: %s\nmetadata: {name: %s}\nspec: %s\n", kind, name, spec)
	}
	document("Consumer", "demo", "{}")
	document("APIKey", "demo", "{consumer: demo, hash: 'sha256:37a721706adc5240e60def713f9817d6800983f74ab6c89c32f41c244b29e03f'}")
	for i := range backends {
		document("Backend", fmt.Sprintf("b%d", i), fmt.Sprintf("{dialect: openai, url: 'http://127.0.0.1:%d/v1'}", 9000+i))
	}
	for i := range n {
		document("Route", fmt.Sprintf("r%d", i), fmt.Sprintf("{rules: [{matches: [{models: [model-%d]}], backends: [{name: b%d, weight: 3}, {name: b%d}, {name: b%d, priority: 1}]}]}",
			i, i%backends, (i+1)%backends, (i+2)%backends))
	}
	return load(t, b.String())
}

// BenchmarkCompile makes everything that Envoy and the decisions need of 1,000 and of 10,000 routes.
func BenchmarkCompile(b *testing.B) {
	for _, n := range []int{1_000, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			objs, opts := manyRoutes(b, n), options(b)
			b.ReportAllocs()
			for b.Loop() {
				if v, problems := Compile(objs, opts); v == nil || len(problems) > 0 {
					b.Fatalf("refused: %v", problems)
				}
			}
		})
	}
}
