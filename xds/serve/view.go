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
	byName   bool            // of a type of which it need not have everything
	names    map[string]bool // that it asks for then
	reason   string          // of its last refusal
}

// change is one response, by name: the new versions, and what is removed.
type change struct {
	serial   string // of the snapshot that it came from
	versions map[string]string
	removed  []string
}

func newView(has map[string]string, byName bool) *view {
	v := &view{believed: map[string]string{}, has: map[string]string{}, open: map[string]*change{}, byName: byName, names: map[string]bool{}}
	maps.Copy(v.believed, has)
	maps.Copy(v.has, has)
	return v
}

func changeOf(r *discoveryv3.DeltaDiscoveryResponse) *change {
	c := &change{
		serial:   r.GetSystemVersionInfo(),
		versions: make(map[string]string, len(r.GetResources())), removed: r.GetRemovedResources(),
	}
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

// answered notes what Envoy made of a response, and returns the response; reason is "" where it took it.
func (v *view) answered(nonce, reason string) *change {
	c := v.open[nonce]
	if c == nil {
		return nil
	}
	delete(v.open, nonce)
	if reason != "" {
		v.reason = reason
		return c
	}
	c.apply(v.has)
	return c
}

// ask notes what Envoy asks for by name from now on.
func (v *view) ask(names []string) {
	for _, name := range names {
		v.names[name] = true
	}
}

// forget notes what Envoy asks for no longer, and drops by itself.
func (v *view) forget(names []string) {
	for _, name := range names {
		delete(v.names, name)
		delete(v.believed, name)
		delete(v.has, name)
	}
}

// taken says whether Envoy has exactly these resources; by name, all of them that it asks for.
func (v *view) taken(want map[string]string) bool { return v != nil && v.same(v.has, want) }

// idle says whether Envoy has answered for all of these resources and will not be sent any of them again as they are.
func (v *view) idle(want map[string]string) bool {
	return v != nil && len(v.open) == 0 && v.same(v.believed, want)
}

func (v *view) same(have, want map[string]string) bool {
	if !v.byName {
		return maps.Equal(have, want)
	}
	for name := range v.names {
		if version, ok := want[name]; ok && have[name] != version {
			return false
		}
	}
	return true
}
