package serve

import (
	"maps"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
)

// view is what the Envoy of one stream was sent of one type, and what it took. Resources are sent once: where Envoy has
// refused one, the server does not try again until it changes, and only the difference between the two tells.
type view struct {
	believed map[string]string // versions by name, as if Envoy had taken everything it was sent
	has      map[string]string // versions by name that it has taken
	open     map[string]*change
	reason   string // of its last refusal
}

// change is one response, by name: the new versions, and what is removed.
type change struct {
	versions map[string]string
	removed  []string
}

func newView(has map[string]string) *view {
	v := &view{believed: map[string]string{}, has: map[string]string{}, open: map[string]*change{}}
	maps.Copy(v.believed, has)
	maps.Copy(v.has, has)
	return v
}

func changeOf(r *discoveryv3.DeltaDiscoveryResponse) *change {
	c := &change{versions: make(map[string]string, len(r.GetResources())), removed: r.GetRemovedResources()}
	for _, res := range r.GetResources() {
		c.versions[res.GetName()] = res.GetVersion()
	}
	return c
}

func (c *change) apply(to map[string]string) {
	maps.Copy(to, c.versions)
	for _, name := range c.removed {
		delete(to, name)
	}
}

// sent notes a response.
func (v *view) sent(nonce string, c *change) {
	c.apply(v.believed)
	v.open[nonce] = c
}

// answered notes what Envoy made of a response; reason is "" where it took it.
func (v *view) answered(nonce, reason string) {
	c := v.open[nonce]
	if c == nil {
		return
	}
	delete(v.open, nonce)
	if reason != "" {
		v.reason = reason
		return
	}
	c.apply(v.has)
}

// forget notes what Envoy asks for no longer, and drops by itself.
func (v *view) forget(names []string) {
	for _, name := range names {
		delete(v.believed, name)
		delete(v.has, name)
	}
}

// taken says whether Envoy has exactly these resources.
func (v *view) taken(want map[string]string) bool { return v != nil && maps.Equal(v.has, want) }

// idle says whether Envoy has answered for all of these resources and will not be sent any of them again as they are.
func (v *view) idle(want map[string]string) bool {
	return v != nil && len(v.open) == 0 && maps.Equal(v.believed, want)
}
