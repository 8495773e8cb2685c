package serve

import (
	"iter"
	"slices"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/weir-dev/weir/internal/cow"
)

// view is what the Envoy of one stream was sent of one type, and what it took. Resources are sent once: where Envoy has
// refused one, the server does not try again until it changes, and only the difference between the two tells.
type view struct {
	believed *books            // as if Envoy had taken everything it was sent; beside what is served
	has      *books            // what it has taken; beside what is waited for
	since    map[string]uint64 // serials by name that they came with; of those that came in this stream
	open     map[string]*change
	byName   bool            // of a type of which it need not have everything
	names    map[string]bool // that it asks for then
	reason   string          // of its last refusal
}

// change is one response, by name: the new versions, and what is removed.
type change struct {
	label
	versions map[string]string
	removed  []string
	scoped   bool // Envoy asked for scopes before this was sent
}

func newView(has map[string]string, byName bool) *view {
	return &view{
		believed: newBooks(has), has: newBooks(has), since: map[string]uint64{},
		open: map[string]*change{}, byName: byName, names: map[string]bool{},
	}
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

// sent notes a response.
func (v *view) sent(nonce string, c *change) {
	v.believed.apply(c)
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
	v.has.apply(c)
	for name := range c.versions {
		v.since[name] = c.serial
	}
	return c
}

// replaces says whether a response leaves nothing of what Envoy has, and puts something in its place.
func (v *view) replaces(c *change) bool {
	for name := range v.has.is {
		if !slices.Contains(c.removed, name) {
			return false
		}
	}
	return len(c.versions) > 0
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
		v.retract(name)
	}
}

// retract notes that what Envoy has of a resource is not known: it is on its way once more, and shows when Envoy has answered.
func (v *view) retract(name string) {
	v.believed.drop(name)
	v.has.drop(name)
	delete(v.since, name)
}

// settled says whether Envoy has that version of a resource, and no other is on its way to it.
func (v *view) settled(name, version string) bool {
	if v.has.is[name] != version || v.believed.is[name] != version {
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
	return len(v.open) == 0 && v.believed.is[name] == version && v.has.is[name] != version
}

// wanting yields the names of the books under which what Envoy asks for is not as it is to be, and how it is to be: "" for not at all. Of a type
// that it asks for by name, others do not count, nor what is to be there no more; and, unless counts is nil, only names do that counts says so of.
func (v *view) wanting(b *books, counts func(name string) bool) iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		look := func(name string) bool {
			to, wanted := b.to.Lookup(name)
			if v.byName && (!wanted || !v.names[name] || counts != nil && !counts(name)) {
				return true
			}
			return yield(name, to)
		}
		if v.byName && len(v.names) < len(b.off) {
			for name := range v.names {
				if b.off[name] && !look(name) {
					return
				}
			}
			return
		}
		for name := range b.off {
			if !look(name) {
				return
			}
		}
	}
}

// lacking are the names of those that Envoy asks for and does not have as they are wanted, sorted.
func (v *view) lacking(want cow.Map[string], counts func(name string) bool) []string {
	var out []string
	v.has.aim(want)
	for name, version := range v.wanting(v.has, counts) {
		if version != "" {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// taken says whether Envoy has exactly these resources, or later ones of the same names, from the snapshot with that serial
// on; by name, all of them that it asks for and that count. What is among under counts as well.
func (v *view) taken(want cow.Map[string], counts func(name string) bool, serial uint64, under map[string]string) bool {
	if v == nil {
		return false
	}
	v.has.aim(want)
	for name, version := range v.wanting(v.has, counts) {
		has, there := v.has.is[name]
		if version == "" || !there || has != under[name] && v.since[name] < serial {
			return false
		}
	}
	return true
}

// idle says whether Envoy has answered for all of these resources, which are what is served, and will not be sent any of them again as they are. Of a
// type that it asks for by name, only those do that count.
func (v *view) idle(served cow.Map[string], counts func(name string) bool) bool {
	if v == nil || len(v.open) > 0 {
		return false
	}
	v.believed.aim(served)
	for range v.wanting(v.believed, counts) {
		return false
	}
	return true
}
