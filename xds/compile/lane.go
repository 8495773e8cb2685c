package compile

import (
	_ "embed"
	"fmt"
	"slices"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/extproc/wire"
)

// Requests that Weir has let in ahead of their coming take a direct route that the door's Lua gives them. It stands before the filter
// that asks Weir, which on these routes asks nothing. A request that is asked for has no route yet when that filter looks, and later
// it does not look again.

//go:embed lane.lua
var laneSource string

// decideFilter is the name of the filter that asks Weir what becomes of a request.
const decideFilter = "weir.decide"

// laneFile is the path of the file that the door of a gateway maps; "" where it asks about every request.
func (c *compiler) laneFile(g *v1alpha1.LLMGateway) string {
	if !c.lanes(g) {
		return ""
	}
	return c.opts.LaneFile
}

// laneConstants are what lane.lua knows of the configuration and of the names that it shares with Weir.
func laneConstants(file string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "local LANE_FILE, RULE_HEADER, PATH_HEADER, LANE_HEADER = %s, %q, %q, %q\n", luaString(file), wire.RuleHeader, wire.PathHeader, wire.LaneHeader)
	fmt.Fprintf(&b, "local AHEAD, REST = %q, %q\nlocal READ = {", wire.KeyAhead, wire.KeyRest)
	for _, key := range append([]string{wire.KeyRoute, wire.KeyDialect}, wire.AnswerHeaders...) {
		fmt.Fprintf(&b, " [%q] = true,", key)
	}
	b.WriteString(" } -- facts that Envoy reads\n")
	return b.String()
}

// passUnasked lets a route's requests pass the filter that asks Weir, where some gateway has lanes.
func (c *compiler) passUnasked(r *routev3.Route) {
	if !c.native.is {
		return
	}
	if r.TypedPerFilterConfig == nil {
		r.TypedPerFilterConfig = map[string]*anypb.Any{}
	}
	r.TypedPerFilterConfig[decideFilter] = pack(&extprocv3.ExtProcPerRoute{Override: &extprocv3.ExtProcPerRoute_Disabled{Disabled: true}})
}

// lanesOfGateways says by which gateways requests may be let in ahead of their coming.
func (c *compiler) lanesOfGateways() {
	c.out.Table.Native = map[string]bool{}
	for _, g := range c.objs.Gateways {
		if c.lanes(g) {
			c.out.Table.Native[g.Namespace+"/"+g.Name] = true
		}
	}
	settle(c.Compiler, &c.native, len(c.out.Table.Native) > 0)
}

// lanes says whether requests that come in by a gateway may go without asking Weir.
func (c *compiler) lanes(g *v1alpha1.LLMGateway) bool {
	return c.opts.LaneFile != "" && g.Spec.NativeLane != v1alpha1.NativeLaneDisabled
}

// vary names the headers that tell requests apart: those that rules match, and those by which dialects are told apart.
func (c *compiler) vary(matched []string) string {
	names := matched
	for _, name := range c.opts.Dialects.Names() {
		if d, _ := c.opts.Dialects.Get(name); d.In != nil && d.Header != "" {
			names = append(names, strings.ToLower(d.Header))
		}
	}
	slices.Sort(names)
	return strings.Join(slices.Compact(names), ",")
}
