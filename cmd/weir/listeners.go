package main

import (
	"maps"
	"slices"
	"strings"

	"github.com/weir-dev/weir/extproc/wire"
	"github.com/weir-dev/weir/xds/compile"
	"github.com/weir-dev/weir/xds/source"
)

// addresses are the "host:port" that Envoy will listen on.
func addresses(v *compile.Version) []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(v.Listeners)) {
		out = append(out, address(v, name))
	}
	return out
}

func address(v *compile.Version, listener string) string {
	return wire.Address(v.Listeners[listener].GetAddress().GetSocketAddress())
}

// baseURL is where clients reach the first listener of the first gateway.
func baseURL(v *compile.Version, objs *source.Objects) string {
	g := objs.Gateways[0]
	l := g.Spec.Listeners[0]
	scheme := "http://"
	if l.TLS != nil {
		scheme = "https://"
	}
	return scheme + strings.Replace(address(v, compile.ListenerName(g, &l)), "0.0.0.0", "127.0.0.1", 1)
}
