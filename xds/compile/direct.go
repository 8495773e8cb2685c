package compile

import (
	_ "embed"
	"fmt"
	"slices"
	"strings"

	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	headermutationv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	luav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/lua/v3"
	codecv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/upstream_codec/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"

	"github.com/weir-dev/weir/extproc/table"
	"github.com/weir-dev/weir/extproc/wire"
)

// Chains whose attempts Envoy prepares by itself.
//
// An attempt of a request that needs neither a translation nor another name for its model differs from the caller's request in its path,
// its authority and its credential alone. Which backend it has got, its endpoint says: the route takes the authority from it, and the
// filters of the chain the rest. All attempts of a request share one map of headers, so that what one of them sets, every other sets or
// removes.

//go:embed direct.lua
var directSource string

// atHeader names the backend of an attempt between two filters, in these chains with "#" and the number of the attempt. What begins so does
// not leave Envoy.
const atHeader = "x-weir-at"

// alike says whether Envoy can prepare the attempts at members by itself, for some requests: the members speak one dialect, which callers
// speak, and there is a model that each of them takes by the caller's name for it. Of a Backend that is there twice under different models nobody
// could tell which was meant.
func alike(in []member) bool {
	dialect := in[0].Backend.Dialect
	names := []string{"\x00any other model"}
	for i, m := range in {
		if m.Backend.Dialect.Name != dialect.Name ||
			slices.ContainsFunc(in[:i], func(o member) bool { return o.Backend.ID == m.Backend.ID && o.Model != m.Model }) {
			return false
		}
		names = append(names, m.names()...)
	}
	return dialect.In != nil && slices.ContainsFunc(names, func(name string) bool {
		return !slices.ContainsFunc(in, func(m member) bool { return !asIs(m, dialect.Name, name) })
	})
}

// directChain makes the composite cluster that tries members in this order and asks nobody about it, and returns its name. Rules share
// them: its name covers those of the members' clusters, and they cover what these filters are made of.
func (c *compiler) directChain(members []member) string {
	parts, backends := make([][]byte, len(members)), make([]*table.Backend, len(members))
	for i, m := range members {
		parts[i], backends[i] = []byte(m.cluster), m.Backend
	}
	name := "direct/" + short(parts...)
	if made, ok := c.directs.m.Lookup(name); ok && slices.Equal(made, backends) {
		c.directs.share(c, name)
		c.clusters.share(c, name)
		return name
	}
	c.directs.put(c, name, backends, digestOf(name))
	cl := composite(name, "direct", members, directChainFilters(members))
	cl.Metadata = metadata(map[string]string{wire.KeyBase: members[0].Backend.BasePath}) // for the route
	putMessage(c, c.clusters, name, cl)
	return name
}

// directChainFilters prepare each attempt as directFilters do for the one backend of a route.
func directChainFilters(members []member) []*hcmv3.HttpFilter {
	first := members[0].Backend
	var backends []member // each once
	reports, credentials, bases := false, false, false
	for _, m := range members {
		if slices.ContainsFunc(backends, func(o member) bool { return o.Backend.ID == m.Backend.ID }) {
			continue
		}
		backends = append(backends, m)
		reports = reports || slices.Contains(m.signals, wire.LoadReport)
		credentials = credentials || len(m.injected) > 0
		bases = bases || m.Backend.BasePath != first.BasePath
	}
	var more []*mutationv3.HeaderMutation
	if reports {
		more = append(more, set(wire.LoadFormat, endpointMetadata(wire.KeyReports))) // nothing where the backend has none
	}
	if credentials || bases {
		more = append(more, set(atHeader, endpointMetadata(wire.KeyBackend)+"#%UPSTREAM_REQUEST_ATTEMPT_COUNT%"))
	}
	filters := append([]*hcmv3.HttpFilter{cleanFilter(more)}, signalFilters(allSignals(members))...)
	for _, m := range backends {
		elsewhere := not(headerBegins(atHeader, m.Backend.ID+"#"))
		for i := range m.injected {
			skip := elsewhere
			if len(m.injected) > 1 {
				skip = either(elsewhere, notChosen(m.injected, i, m.Backend.Dialect.Header))
			}
			filters = append(filters, credentialFilter("weir.credential."+m.Backend.ID+"."+m.injected[i].Name, &m.injected[i], skip))
		}
	}
	if bases {
		// Not for the first attempt at the first backend: Lua costs more than all others together.
		filters = append(filters, filterUnless("weir.base", &luav3.Lua{DefaultSourceCode: inline(directScript(backends))}, anyOf(atHeader, []string{first.ID + "#1"})))
	}
	if credentials || bases {
		filters = append(filters, filter("weir.at", &headermutationv3.HeaderMutation{
			Mutations: &headermutationv3.Mutations{RequestMutations: []*mutationv3.HeaderMutation{remove(atHeader)}},
		}))
	}
	return append(filters, filter("weir.codec", &codecv3.UpstreamCodec{}))
}

// directScript is direct.lua with the base paths of backends, that of the first one first.
func directScript(backends []member) string {
	var b strings.Builder
	fmt.Fprintf(&b, "local NAMESPACE, AT_HEADER, FIRST = %q, %q, %s\nlocal BASES = {\n", wire.AttemptNamespace, atHeader, luaString(backends[0].Backend.BasePath))
	for _, m := range backends {
		fmt.Fprintf(&b, "  [%s] = %s,\n", luaString(m.Backend.ID), luaString(m.Backend.BasePath))
	}
	return b.String() + "}\n" + directSource
}

// endpointMetadata is what a text holds in the place of metadata of the endpoint that an attempt has got.
func endpointMetadata(key string) string {
	return "%UPSTREAM_METADATA(" + wire.BackendNamespace + ":" + key + ")%"
}
