package serve

import (
	"maps"
	"slices"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
)

// view is what the Envoy of one stream was sent of one type, and what it took. Resources are sent once: where Envoy has
// refused one, the server does not try again until it changes, and only the difference between the two tells.
type view struct {
	believed map[string]string // versions by name, as if Envoy had taken everything it was sent
	has      map[string]string // versions by name that it has taken
	since    map[string]uint64 // serials by name that they came with; of those that came in this stream
	open     map[string]*change
	byName   bool            // of a type of which it need not have everything
	names    map[string]bool // that it asks for then
	reason   string          // of its last refusal

	// What was found out last, until something changes: Envoy has, and is believed to have, exactly what is in these maps.
	exact, level map[string]string
}

// change is one response, by name: the new versions, and what is removed.
type change struct {
	label
	versions map[string]string
	removed  []string
	scoped   bool // Envoy asked for scopes before this was sent
}

func newView(has map[string]string, byName bool) *view {
	v := &view{
		believed: map[string]string{}, has: map[string]string{}, since: map[string]uint64{},
		open: map[string]*change{}, byName: byName, names: map[string]bool{},
	}
	maps.Copy(v.believed, has)
	maps.Copy(v.has, has)
	return v
}

func changeOf(r *discoveryv3.DeltaDiscoveryResponse) *change {
	c := &change{
		label:    parseLabel(r.GetSystemVersionInfo()),
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
	v.level = nil
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
	v.exact = nil
	for name := range c.versions {
		v.since[name] = c.serial
	}
	return c
}

// replaces says whether a response leaves nothing of what Envoy has, and puts something in its place.
func (v *view) replaces(c *change) bool {
	for name := range v.has {
		if !slices.Contains(c.removed, name) {
			return false
		}
	}
	return len(c.versions) > 0
}

// ask notes what Envoy asks for by name from now on.
func (v *view) ask(names []string) {
	v.changed(len(names))
	for _, name := range names {
		v.names[name] = true
	}
}

// forget notes what Envoy asks for no longer, and drops by itself.
func (v *view) forget(names []string) {
	v.changed(len(names))
	for _, name := range names {
		delete(v.names, name)
		delete(v.believed, name)
		delete(v.has, name)
		delete(v.since, name)
	}
}

// changed forgets what was found out, where anything has changed.
func (v *view) changed(n int) {
	if n > 0 {
		v.exact, v.level = nil, nil
	}
}

// retract notes that a resource is on its way once more: what Envoy has of it shows when it has answered.
func (v *view) retract(name string) {
	v.changed(1)
	delete(v.believed, name)
	delete(v.has, name)
	delete(v.since, name)
}

// settled says whether Envoy has that version of a resource, and no other is on its way to it.
func (v *view) settled(name, version string) bool {
	if v.has[name] != version || v.believed[name] != version {
		return false
	}
	for _, c := range v.open {
		if other, ok := c.versions[name]; ok && other != version {
			return false
		}
	}
	return true
}

// refused says whether Envoy was sent that version of a resource and has not taken it, and will not be sent it again.
func (v *view) refused(name, version string) bool {
	return len(v.open) == 0 && v.believed[name] == version && v.has[name] != version
}

// lacking are the names of those that Envoy asks for and does not have as they are wanted, sorted.
func (v *view) lacking(want map[string]string) []string {
	var out []string
	for name, version := range want {
		if (!v.byName || v.names[name]) && v.has[name] != version {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// taken says whether Envoy has exactly these resources, or later ones of the same names, from the snapshot with that serial
// on; by name, all of them that it asks for. What is among under counts as well. Names of likely are looked at first.
func (v *view) taken(want map[string]string, serial uint64, under map[string]string, likely []string) bool {
	if v == nil {
		return false
	}
	if v.exact != nil && same(v.exact, want) {
		return true
	}
	exact := true
	ok := func(name, version string) bool {
		has, there := v.has[name]
		exact = exact && has == version
		return there && (has == version || has == under[name] || v.since[name] >= serial)
	}
	for _, name := range likely {
		if version, wanted := want[name]; wanted && (!v.byName || v.names[name]) && !ok(name, version) {
			return false
		}
	}
	if v.byName {
		for name := range v.names {
			if version, wanted := want[name]; wanted && !ok(name, version) {
				return false
			}
		}
	} else {
		for name, version := range want {
			if !ok(name, version) {
				return false
			}
		}
		if len(v.has) != len(want) {
			return false
		}
	}
	if exact {
		v.exact = want
	}
	return true
}

// idle says whether Envoy has answered for all of these resources and will not be sent any of them again as they are. Of a
// type that it asks for by name, those that are not among only, unless that is nil, do not count. Names of likely are looked at first.
func (v *view) idle(want, only map[string]string, likely []string) bool {
	if v == nil || len(v.open) > 0 {
		return false
	}
	if !v.byName {
		for _, name := range likely {
			if v.believed[name] != want[name] {
				return false
			}
		}
	}
	if !v.byName {
		if v.level == nil || !same(v.level, want) {
			if !maps.Equal(v.believed, want) {
				return false
			}
			v.level = want
		}
		return true
	}
	for name := range v.names {
		if _, counts := only[name]; !counts && only != nil {
			continue
		}
		if version, ok := want[name]; ok && v.believed[name] != version {
			return false
		}
	}
	return true
}
