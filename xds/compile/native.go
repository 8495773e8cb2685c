package compile

import (
	"slices"
	"strings"

	"github.com/weir-dev/weir/api/v1alpha1"
)

// native says by which gateways requests may be let in ahead of their coming, and what headers tell requests apart.
func (c *compiler) native() {
	c.out.Table.Native = map[string]bool{}
	for _, g := range c.objs.Gateways {
		if c.lanes(g) {
			c.out.Table.Native[g.Namespace+"/"+g.Name] = true
		}
	}
	c.out.Table.Vary = c.vary()
}

// lanes says whether requests that come in by a gateway may go without asking Weir.
func (c *compiler) lanes(g *v1alpha1.LLMGateway) bool {
	return c.opts.LaneFile != "" && g.Spec.NativeLane != v1alpha1.NativeLaneDisabled
}

// vary names the headers that rules match, and those by which dialects are told apart.
func (c *compiler) vary() string {
	var names []string
	for _, r := range c.objs.Routes {
		for i := range r.Spec.Rules {
			for j := range r.Spec.Rules[i].Matches {
				for _, h := range r.Spec.Rules[i].Matches[j].Headers {
					names = append(names, strings.ToLower(h.Name))
				}
			}
		}
	}
	for _, name := range c.opts.Dialects.Names() {
		if d, _ := c.opts.Dialects.Get(name); d.In != nil && d.Header != "" {
			names = append(names, strings.ToLower(d.Header))
		}
	}
	slices.Sort(names)
	return strings.Join(slices.Compact(names), ",")
}
