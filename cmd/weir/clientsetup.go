package main

import (
	"cmp"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/weir-dev/weir/adapters"
	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/console"
	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/extproc/table"
)

// maxSetupCallers are shown with their models.
const maxSetupCallers = 200

// playground sends the page's requests through the first listener.
func (g *gateway) playground() *console.Playground {
	return console.NewPlayground(console.PlaygroundOptions{
		Base: func() string { return first(g.listenerURLs("")) },
		Serves: func(method, path string) bool {
			return g.dialects.Classify(method, path, func(string) string { return "" }).Outcome == adapters.Found
		},
		Log: g.log,
	})
}

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

// clientSetup says how clients are set up for this gateway.
func (g *gateway) clientSetup() (*console.Setup, error) {
	return console.NewSetup(console.SetupOptions{
		URLs: func(r *http.Request) []string {
			urls := g.listenerURLs(r.Host)
			if own := strings.TrimRight(g.opts.externalURL, "/"); own != "" {
				urls = slices.Insert(urls, 0, own)
			}
			return urls
		},
		Models: g.setupModels, Callers: g.setupCallers,
	})
}

// listenerURLs are those of every listener, that of --listen first. Listeners on every address are reached by the host that the
// admin address was asked under, or on this machine where that is none.
func (g *gateway) listenerURLs(host string) []string {
	objs := g.objects.Load()
	if objs == nil {
		return nil
	}
	var out []string
	for i, gw := range objs.Gateways {
		for j, l := range gw.Spec.Listeners {
			address, port := cmp.Or(l.Address, "0.0.0.0"), strconv.Itoa(int(l.Port))
			if i == 0 && j == 0 && g.opts.listen != "" {
				h, p, err := net.SplitHostPort(g.opts.listen)
				if err != nil {
					continue // compiling has said so
				}
				address, port = cmp.Or(h, "0.0.0.0"), p
			}
			scheme := "http://"
			if l.TLS != nil {
				scheme = "https://"
			}
			out = append(out, scheme+net.JoinHostPort(reachable(address, host), port))
		}
	}
	return out
}

// reachable is the host by which a listener's address is reached from where asked is a host.
func reachable(address, asked string) string {
	ip, err := netip.ParseAddr(address)
	if err != nil || !ip.IsUnspecified() {
		return address
	}
	if h, _, err := net.SplitHostPort(asked); err == nil {
		asked = h
	}
	asked = strings.Trim(asked, "[]")
	own, err := netip.ParseAddr(asked)
	switch {
	case err == nil && !own.IsLoopback() && !own.IsUnspecified() && (own.Is4() || ip.Is6()):
		return own.String()
	case err != nil && hostName(asked) && asked != "localhost":
		return asked
	case ip.Is6():
		return "::1"
	}
	return "127.0.0.1"
}

// hostName says whether a text is one and nothing else.
func hostName(s string) bool {
	return s != "" && len(s) <= 253 && !strings.ContainsFunc(s, func(r rune) bool {
		return r != '-' && r != '.' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	})
}

// setupModels are those that some caller may ask for.
func (g *gateway) setupModels() []console.SetupModel {
	t := g.ext.Table()
	if t == nil {
		return []console.SetupModel{}
	}
	owners := map[string]string{}
	for _, id := range append(g.callers(), &identity.Identity{}) {
		for _, m := range t.ModelsFor(id, table.AnyGateway) {
			owners[m.ID] = m.Owner
		}
	}
	out := make([]console.SetupModel, 0, len(owners))
	for id, backend := range owners {
		out = append(out, console.SetupModel{ID: id, Backend: backend})
	}
	slices.SortFunc(out, func(a, b console.SetupModel) int { return strings.Compare(a.ID, b.ID) })
	return out
}

// setupCallers are the consumers with the models that each may ask for.
func (g *gateway) setupCallers() []console.SetupCaller {
	t := g.ext.Table()
	out := []console.SetupCaller{}
	if t == nil {
		return out
	}
	for _, id := range g.callers() {
		c := console.SetupCaller{ID: id.ConsumerID, Tenant: id.Tenant, Models: []string{}}
		for _, m := range t.ModelsFor(id, table.AnyGateway) {
			c.Models = append(c.Models, m.ID)
		}
		out = append(out, c)
	}
	return out
}

// callers are the first consumers, as they are without what their keys may add or take away.
func (g *gateway) callers() []*identity.Identity {
	objs := g.objects.Load()
	if objs == nil {
		return nil
	}
	var out []*identity.Identity
	for _, c := range objs.Consumers[:min(len(objs.Consumers), maxSetupCallers)] {
		id, err := callerOf(c)
		if err == nil {
			out = append(out, id)
		}
	}
	return out
}

func callerOf(c *v1alpha1.Consumer) (*identity.Identity, error) {
	id := &identity.Identity{
		Consumer: c.Name, ConsumerID: c.Namespace + "/" + c.Name, Namespace: c.Namespace,
		Tenant: cmp.Or(c.Spec.Tenant, c.Namespace), Labels: c.Spec.Labels, Scopes: slices.Sorted(slices.Values(c.Spec.Scopes)),
	}
	if len(c.Spec.AllowedModels) > 0 {
		names := make([]string, len(c.Spec.AllowedModels))
		for i, m := range c.Spec.AllowedModels {
			names[i] = string(m)
		}
		p, err := identity.NewPatterns(names)
		if err != nil {
			return nil, err
		}
		id.Models = []*identity.Patterns{p}
	}
	return id, nil
}
