package compile

import (
	_ "embed"
	"fmt"
	"slices"
	"strings"

	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	headermutationv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	luav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/lua/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/extproc/wire"
)

//go:embed load.lua
var loadSource string

// fromHeader is on answers between two filters: which endpoint of which backend gave them. weir.clean and weir.length remove
// it, as they remove everything that begins so.
const fromHeader = "x-weir-from"

// signals are the headers of a backend's answers that tell its load; nil where nobody steers it, so that nobody wants to know what it answers.
func signals(policy *v1alpha1.LoadPolicy, spec *v1alpha1.BackendSpec) []string {
	if policy == nil {
		return nil
	}
	out := []string{}
	if reportsLoad(spec) {
		out = append(out, wire.LoadReport)
	}
	if h := policy.Spec.Weights.Headroom; h != nil && h.FactorPercent < 100 {
		out = append(append(out, wire.RetryAfter), wire.LoadHeaders[spec.Dialect]...)
	}
	return out
}

// reportsLoad says whether a backend is asked for ORCA reports.
func reportsLoad(spec *v1alpha1.BackendSpec) bool {
	return slices.ContainsFunc(spec.Metrics, func(m v1alpha1.MetricsSource) bool { return m.Type == v1alpha1.MetricsORCA })
}

// signalFilters note these headers of answers in the metadata of the request. Envoy's own header_to_metadata is no filter of
// attempts, and at the door the headers of an attempt that failed are not seen. Answers pass filters in the opposite
// order: these must stand behind those that remove the headers.
func signalFilters(headers []string) []*hcmv3.HttpFilter {
	if headers == nil {
		return nil
	}
	return []*hcmv3.HttpFilter{
		filter("weir.load", &luav3.Lua{DefaultSourceCode: inline(loadScript(headers))}),
		filter("weir.from", &headermutationv3.HeaderMutation{Mutations: &headermutationv3.Mutations{
			ResponseMutations: []*mutationv3.HeaderMutation{
				set(fromHeader, endpointMetadata(wire.KeyBackend)+" %UPSTREAM_HOST%"),
			},
		}}),
	}
}

// loadScript is load.lua with what it looks for.
func loadScript(headers []string) string {
	quoted := make([]string, len(headers))
	for i, h := range headers {
		quoted[i] = fmt.Sprintf("%q", h)
	}
	return fmt.Sprintf("local HEADERS = {%s}\nlocal FROM, NAMESPACE = %q, %q\n", strings.Join(quoted, ", "), fromHeader, wire.LoadNamespace) + loadSource
}

// allSignals are the signals of the backends of a chain, each once.
func allSignals(members []member) []string {
	var out []string
	for _, m := range members {
		if m.signals != nil && out == nil {
			out = []string{}
		}
		for _, h := range m.signals {
			if !slices.Contains(out, h) {
				out = append(out, h)
			}
		}
	}
	return out
}
