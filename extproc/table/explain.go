package table

import (
	"slices"
)

// Part is a part of a match, as the API type Route calls it.
type Part string

// The parts.
const (
	PartGateway Part = "gateway" // whose allowedRoutes do not take the Route
	PartMethod  Part = "method"
	PartPath    Part = "path"
	PartModel   Part = "model"
	PartLabel   Part = "consumerLabels"
	PartHeader  Part = "headers"
	PartQuery   Part = "queryParams"
)

// Considered is one match of a rule, and what became of it for one request.
type Considered struct {
	Match *Match
	Rule  *Rule
	// Part is the first that the request does not fit; "" where it fits them all. Name says which header, label or parameter.
	Part Part
	Name string
	// Chosen is true for the first that fits: what Find returns.
	Chosen bool
}

// Consider judges every match for a request, the most specific first, as Find does. It is for explanations: its time grows with the
// configuration.
func (t *Table) Consider(r *Request) []Considered {
	out := make([]Considered, len(t.entries()))
	found := false
	for i, e := range t.entries() {
		c := &out[i]
		c.Match, c.Rule = &e.Match, e.rule
		c.Part, c.Name = e.mismatch(r)
		if e.exact && c.Part != PartMethod && c.Part != PartPath && c.Part != PartGateway && !slices.Contains(e.Models, r.Model) {
			c.Part, c.Name = PartModel, ""
		}
		if c.Part == "" && !found {
			found, c.Chosen = true, true
		}
	}
	return out
}
