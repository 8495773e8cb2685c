package main

import (
	"maps"
	"slices"
	"strings"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/extproc/table"
	"github.com/weir-dev/weir/usage"
	"github.com/weir-dev/weir/xds/source"
)

// metricNames finds the names of configurations that metrics know, of each at the price of what has changed since the one before: it relies on
// what has not changed being the same pointers. The zero value is ready. It is for one goroutine.
type metricNames struct {
	rules     []*table.Rule
	routes    []*v1alpha1.Route
	consumers []*v1alpha1.Consumer

	backends        map[*table.Backend]int // how many times rules name it
	providers       map[string]providerOf  // by the ID of a backend
	models, tenants nameSet

	now usage.Names // found last; others read it
}

// providerOf is the provider of backends with one ID: while one replaces another there are two.
type providerOf struct {
	name  string
	times int
}

// of returns the names of a configuration. What it returns must not be changed. Without objects it has the names of the table alone.
func (n *metricNames) of(objs *source.Objects, t *table.Table) usage.Names {
	if n.backends == nil {
		n.backends, n.providers = map[*table.Backend]int{}, map[string]providerOf{}
	}
	if objs == nil {
		objs = source.NewObjects()
	}
	rules := slices.AppendSeq(make([]*table.Rule, 0, len(n.rules)+1), t.EachRule)
	stale := n.now.Providers == nil
	// What is new comes first, so that nothing goes for a moment that stays.
	gone, fresh := middles(n.rules, rules)
	for _, r := range fresh {
		for _, c := range r.Candidates {
			if n.backends[c.Backend]++; n.backends[c.Backend] == 1 {
				stale = n.add(c.Backend) || stale
			}
		}
	}
	for _, r := range gone {
		for _, c := range r.Candidates {
			if n.backends[c.Backend]--; n.backends[c.Backend] == 0 {
				delete(n.backends, c.Backend)
				stale = n.remove(c.Backend) || stale
			}
		}
	}
	goneRoutes, freshRoutes := middles(n.routes, objs.Routes)
	eachModel(freshRoutes, n.models.add)
	eachModel(goneRoutes, n.models.remove)
	goneConsumers, freshConsumers := middles(n.consumers, objs.Consumers)
	for _, c := range freshConsumers {
		n.tenants.add(tenantOf(c))
	}
	for _, c := range goneConsumers {
		n.tenants.remove(tenantOf(c))
	}
	n.rules, n.routes, n.consumers = rules, objs.Routes, objs.Consumers
	if stale {
		n.now.Providers = make(map[string]string, len(n.providers))
		for id, p := range n.providers {
			n.now.Providers[id] = p.name
		}
	}
	n.now.Models, n.now.Tenants = n.models.names(), n.tenants.names()
	return n.now
}

// middles returns what is left of two lists without what they begin and end with alike.
func middles[T comparable](before, after []T) (gone, fresh []T) {
	for len(before) > 0 && len(after) > 0 && before[0] == after[0] {
		before, after = before[1:], after[1:]
	}
	for len(before) > 0 && len(after) > 0 && before[len(before)-1] == after[len(after)-1] {
		before, after = before[:len(before)-1], after[:len(after)-1]
	}
	return before, after
}

// add takes in a backend. It says whether the provider of an ID is another one now.
func (n *metricNames) add(b *table.Backend) bool {
	for m := range b.Models {
		n.models.add(m)
	}
	was := n.providers[b.ID]
	is := providerOf{usage.Provider(b.Dialect.Name, b.Host), was.times + 1}
	n.providers[b.ID] = is
	return is.name != was.name || was.times == 0
}

// remove says whether there is no backend with that ID any more.
func (n *metricNames) remove(b *table.Backend) bool {
	for m := range b.Models {
		n.models.remove(m)
	}
	p := n.providers[b.ID]
	if p.times--; p.times > 0 {
		n.providers[b.ID] = p
		return false
	}
	delete(n.providers, b.ID)
	return true
}

// eachModel calls fn with each name of a model that Routes are for; patterns are none.
func eachModel(routes []*v1alpha1.Route, fn func(string)) {
	for _, r := range routes {
		for i := range r.Spec.Rules {
			for j := range r.Spec.Rules[i].Matches {
				for _, m := range r.Spec.Rules[i].Matches[j].Models {
					if !strings.Contains(string(m), "*") {
						fn(string(m))
					}
				}
			}
		}
	}
}

// tenantOf is the tenant of a Consumer: its namespace unless it says otherwise.
func tenantOf(c *v1alpha1.Consumer) string {
	if c.Spec.Tenant != "" {
		return c.Spec.Tenant
	}
	return c.Namespace
}

// nameSet is names that are given several times. The zero value is empty.
type nameSet struct {
	times   map[string]int
	now     map[string]bool // given out last
	changed []string        // names that may have come or gone since
}

func (s *nameSet) add(name string) {
	if s.times == nil {
		s.times = map[string]int{}
	}
	if s.times[name]++; s.times[name] == 1 {
		s.changed = append(s.changed, name)
	}
}

func (s *nameSet) remove(name string) {
	if s.times[name]--; s.times[name] == 0 {
		delete(s.times, name)
		s.changed = append(s.changed, name)
	}
}

// names are those that have been added more often than removed. The map is not changed later: it is another one when they are others.
func (s *nameSet) names() map[string]bool {
	if s.now != nil && len(s.changed) == 0 {
		return s.now
	}
	next := make(map[string]bool, len(s.times))
	maps.Copy(next, s.now)
	for _, name := range s.changed {
		if s.times[name] > 0 {
			next[name] = true
		} else {
			delete(next, name)
		}
	}
	s.now, s.changed = next, nil
	return next
}
