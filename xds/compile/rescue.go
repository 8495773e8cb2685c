package compile

import (
	_ "embed"
	"fmt"
	"maps"
	"slices"
	"strings"

	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	headermutationv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	luav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/lua/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/extproc/wire"
)

//go:embed rescue.lua
var rescueSource string

// rescued are the members of a chain whose attempts Envoy can prepare by itself, each once: those that fail open, take requests of
// their dialect, and want no credential. Of a Backend that is there twice under different models nobody knows which is meant.
func (c *compiler) rescued(members []member) (out []member) {
	for _, m := range members {
		twice := slices.ContainsFunc(members, func(o member) bool { return o.Backend.ID == m.Backend.ID && o.Model != m.Model })
		known := slices.ContainsFunc(out, func(o member) bool { return o.Backend.ID == m.Backend.ID })
		if !twice && !known && m.failOpen && m.Backend.Dialect.In != nil && len(m.Backend.Credentials) == 0 {
			out = append(out, m)
		}
	}
	return out
}

// rescueFilters let the attempts of these members go on when Weir, which prepares them, does not answer, and stop all others. They stand
// behind the filter that asks Weir.
func (c *compiler) rescueFilters(members []member) []*hcmv3.HttpFilter {
	return []*hcmv3.HttpFilter{
		filter("weir.at", &headermutationv3.HeaderMutation{Mutations: &headermutationv3.Mutations{
			RequestMutations: []*mutationv3.HeaderMutation{set(atHeader, endpointMetadata(wire.KeyBackend))},
		}}),
		filter("weir.rescue", &luav3.Lua{DefaultSourceCode: inline(c.rescueScript(members))}),
	}
}

// rescueScript is rescue.lua with what it knows of the backends.
func (c *compiler) rescueScript(members []member) string {
	var b strings.Builder
	fmt.Fprintf(&b, "local NAMESPACE, ATTEMPT_NAMESPACE, PREPARED_HEADER, AT_HEADER = %q, %q, %q, %q\nlocal BACKENDS = {\n",
		wire.DecisionNamespace, wire.AttemptNamespace, wire.PreparedHeader, atHeader)
	dialects := map[string]*canon.Dialect{}
	for _, m := range members {
		dialects[m.Backend.Dialect.Name] = m.Backend.Dialect
		models := "nil"
		if m.Backend.Models != nil || m.Model != "" {
			models = luaString("\t" + strings.Join(m.unrenamed(), "\t") + "\t")
		}
		fmt.Fprintf(&b, "  [%s] = { dialect = %q, base = %s, host = %s, models = %s },\n",
			luaString(m.Backend.ID), m.Backend.Dialect.Name, luaString(m.Backend.BasePath), luaString(m.Backend.Host), models)
	}
	b.WriteString("}\nlocal PATHS = {\n")
	for _, name := range slices.Sorted(maps.Keys(dialects)) {
		paths := map[string]string{}
		for _, e := range dialects[name].Endpoints {
			op := string(e.Op)
			if _, several := paths[op]; several || strings.Contains(e.Path, "{") {
				paths[op] = ""
				continue
			}
			paths[op] = e.Path
		}
		for _, op := range slices.Sorted(maps.Keys(paths)) {
			if paths[op] != "" {
				fmt.Fprintf(&b, "  [%q] = %s,\n", name+" "+op, luaString(paths[op]))
			}
		}
	}
	b.WriteString("}\nlocal REMOVED = {")
	for _, h := range append([]string{"accept-encoding"}, wire.CallerHeaders...) {
		fmt.Fprintf(&b, " %q,", h)
	}
	return b.String() + " }\n" + rescueSource
}

// unrenamed are the models that a member with a list of them takes as they come.
func (m member) unrenamed() []string {
	return slices.DeleteFunc(m.names(), func(n string) bool { return !asIs(m, m.Backend.Dialect.Name, n) || !writable(n) })
}

// names are those of the models of a member that are known: callers', and its own. Sorted, each once.
func (m member) names() []string {
	names := slices.Collect(maps.Keys(m.Backend.Models))
	for _, upstream := range m.Backend.Models {
		names = append(names, upstream)
	}
	if m.Model != "" {
		names = append(names, m.Model)
	}
	slices.Sort(names)
	return slices.Compact(names)
}
