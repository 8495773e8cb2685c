package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// variant is one way from the load generator to the upstream.
type variant struct {
	name, what string
	process    string // whose gateway it goes through
	model      string
	translated bool
}

// Names of the variants that others are compared with.
const (
	bareName  = "envoy"
	floorName = "floor"
)

// variants in the order of the report.
var variants = []variant{
	{name: bareName, what: "Envoy as a proxy, and nothing else", process: bareName, model: modelPlain},
	{name: floorName, what: "Envoy with an external processor that gets requests whole and does nothing", process: floorName, model: modelPlain},
	{name: "weir", what: "Weir: an API key, three limits, a budget, weighted backends, accounting, metrics, traces", process: "weir", model: modelPlain},
	{name: "decide", what: "the same with nativeLane: Disabled, so that every request is asked for", process: "decide", model: modelPlain},
	{name: "fallback", what: "weir, with two backends by priority", process: "weir", model: modelFallback},
	// Through the process of decide, so that what one of them leaves in memory is not there for the other.
	{name: "translated", what: "weir, OpenAI to a backend that speaks Anthropic", process: "decide", model: modelTranslated, translated: true},
	{name: "lease", what: "weir, its limits and budget shared through Redis by leases", process: "lease", model: modelPlain},
	{name: "exact", what: "weir, its limits and budget asking Redis on every request", process: "exact", model: modelPlain},
}

// program is a gateway that runs: an Envoy, and what it asks.
type program struct {
	name    string
	weir    bool
	lane    string // LLMGateway.spec.nativeLane
	sharing string // of limits and budget
	redis   bool
}

var programs = []program{
	{name: bareName},
	{name: floorName},
	{name: "weir", weir: true, lane: "Auto", sharing: "Local"},
	{name: "decide", weir: true, lane: "Disabled", sharing: "Local"},
	{name: "lease", weir: true, lane: "Auto", sharing: "Lease", redis: true},
	{name: "exact", weir: true, lane: "Auto", sharing: "Exact", redis: true},
}

// kind says how a scenario is measured, and with that which columns it has.
type kind string

const (
	closedLoad kind = "closed" // each connection sends when it has its answer
	openLoad   kind = "open"   // requests come at a rate
	pacedLoad  kind = "paced"  // streams whose events come slowly, and are timed
	heldLoad   kind = "held"   // streams that are open, and next to nothing comes
)

// scenario is a kind of load.
type scenario struct {
	Name        string  `json:"name"`
	Kind        kind    `json:"kind"`
	Bytes       int     `json:"requestBytes"`
	Stream      bool    `json:"stream"`
	Pace        pace    `json:"pace,omitzero"`
	Connections int     `json:"connections"`
	Rate        float64 `json:"rate,omitempty"` // requests per second
	// longer is how many times the time of a turn one turn of it takes; at a low rate it takes longer to have samples.
	longer   float64
	once     bool // has its turns in the first round only
	variants []string
}

func scenarios() []scenario {
	four := []string{bareName, floorName, "weir", "decide"}
	six := slices.Concat(four, []string{"fallback", "translated"})
	all := slices.Concat(six, []string{"lease", "exact"})
	closed := func(what string, bytes int, stream bool, connections int, variants []string) scenario {
		s := scenario{Name: fmt.Sprintf("%s, %d connections", what, connections), Kind: closedLoad, Bytes: bytes, Stream: stream, Connections: connections, longer: 1, variants: variants}
		if stream {
			s.Pace = quick
		}
		return s
	}
	open := func(rate float64) scenario {
		return scenario{Name: fmt.Sprintf("small requests, open loop at %g/s", rate), Kind: openLoad, Bytes: small, Connections: 64, Rate: rate, longer: 2, variants: four}
	}
	return []scenario{
		closed("small requests", small, false, 16, all),
		closed("small requests", small, false, 256, four),
		closed("small requests", small, false, 2000, four),
		closed("100 KB requests", large, false, 16, six),
		closed("small requests, streams", small, true, 16, six),
		closed("100 KB requests, streams", large, true, 16, six),
		open(200),
		open(1000),
		{Name: "paced streams, 25 tokens 40 ms apart, 64 connections", Kind: pacedLoad, Bytes: small, Stream: true, Pace: pace{25, 40 * time.Millisecond},
			Connections: 64, longer: 1.2, variants: []string{bareName, floorName, "weir", "decide", "translated"}},
		{Name: "idle streams, a token every 5 s, 2000 connections", Kind: heldLoad, Bytes: small, Stream: true, Pace: pace{4, 5 * time.Second},
			Connections: 2000, once: true, variants: []string{bareName, "weir", "translated"}},
	}
}

// chosen scenarios are those whose name has part in it.
func chosen(all []scenario, part string) []scenario {
	return slices.DeleteFunc(all, func(s scenario) bool { return !strings.Contains(s.Name, part) })
}

// takingPart are the variants of a scenario, in the order of the report.
func takingPart(s scenario) (out []variant) {
	for _, v := range variants {
		if slices.Contains(s.variants, v.name) {
			out = append(out, v)
		}
	}
	return out
}

func (s scenario) traffic(v variant) traffic {
	return traffic{Model: v.model, Bytes: s.Bytes, Stream: s.Stream, Pace: s.Pace, Translated: v.translated}
}

// needed are the programs that scenarios go through.
func needed(list []scenario) (out []program) {
	used := map[string]bool{}
	for _, s := range list {
		for _, v := range takingPart(s) {
			used[v.process] = true
		}
	}
	for _, p := range programs {
		if used[p.name] {
			out = append(out, p)
		}
	}
	return out
}
