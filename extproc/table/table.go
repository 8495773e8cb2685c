// Package table holds what a request is decided from: one immutable Table for each version of the
// configuration, laid out for lookup. The compile step fills it; a request reads one Table from its
// first byte to its last.
package table

import (
	"context"
	"slices"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/extproc/content"
	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/extproc/limit"
	"github.com/weir-dev/weir/extproc/pick"
	"github.com/weir-dev/weir/extproc/wire"
	"github.com/weir-dev/weir/internal/cow"
	"github.com/weir-dev/weir/usage/money"
)

// Table is one version of the configuration as requests see it.
type Table struct {
	Version string
	// Auth says who calls.
	Auth *identity.Authenticator
	// Created is the Unix time that model lists show.
	Created int64

	// Currency that every amount of money is in.
	Currency string
	// KeySharing is how replicas count the limits that keys have of their own.
	KeySharing limit.Mode
	// Gateway is the one LLMGateway, "namespace/name"; "" where there are several and each request says which.
	Gateway string
	// Waits says that some limit, or the admission of a pool, lets requests wait.
	Waits bool
	// Prompts says that some pool keeps prompts together that begin alike, so that requests to it are read.
	Prompts bool
	// Policies are the limits, budgets and breakers that requests must pass.
	Policies Policies
	// Caches and Sessions are the policies of the relay.
	Caches   Keeping[CachePolicy]
	Sessions Keeping[SessionPolicy]
	// Native says by which LLMGateways requests may be let in ahead of their coming.
	Native map[string]bool
	// Vary names the request headers, in lower case and with commas between, that decide about requests besides their credentials.
	Vary string
	// Captures say what text of requests goes into spans, by the LLMGateway that they came in by; none where that is off.
	Captures map[string]*content.Rule

	// Chains are the orders of candidates, by the name of the composite cluster that walks them.
	Chains cow.Map[*Chain]

	index *Index // nil while it is built
}

// GatewayOf says which LLMGateway a request came in by.
func (t *Table) GatewayOf(ctx context.Context) string {
	if t.Gateway != "" {
		return t.Gateway
	}
	if v := metadata.ValueFromIncomingContext(ctx, wire.GatewayMetadata); len(v) > 0 {
		return v[0]
	}
	return ""
}

// Rule is one rule of a Route. It is immutable once it has been built: versions of the table share the rules that have not changed, and with
// them candidates and backends.
type Rule struct {
	// Name is what x-weir-route shows: "namespace/route", with "/rule" where it is named or not the only one.
	Name           string
	RequiredScopes []string
	Candidates     []*Candidate // in the order of the Route; at most MaxCandidates
	// Unusable are backends that the Route names for the rule and that cannot be asked now. A rule may have nothing else.
	Unusable []Unusable
	// Timeout bounds the request, all attempts included.
	Timeout time.Duration

	variants map[Mask]*Variant
}

// Unusable is a backend that a rule goes on without.
type Unusable struct {
	Backend string // "namespace/name"
	Why     string // a sentence without its full stop
	// Weight and Priority as in the Route.
	Weight   uint32
	Priority int32
}

// MaxCandidates is the number of backends one rule may have.
const MaxCandidates = 16

// Mask is a set of a rule's candidates, one bit each.
type Mask uint16

// Variant is what serves a request once it is known which candidates can: Envoy has a route for each.
type Variant struct {
	// DirectKey names the Envoy route whose attempts Envoy prepares by itself, without another call to Weir, for requests that need
	// neither a translation nor another name for their model; "" where the candidates speak several dialects.
	DirectKey string
	// ChainKey names the Envoy route through composite clusters, where every attempt asks Weir.
	ChainKey string
	// Candidates of the variant.
	Candidates []*Candidate
	// Order is whom the attempts of both routes ask, one after the other; nil where Envoy chooses the first.
	Order []*Candidate
	// First has, for each candidate, the Envoy routes that ask it first and then the others as the variant does. It is nil
	// unless Weir picks the endpoints of some candidate.
	First map[*Candidate]Keys
}

// Keys name Envoy routes.
type Keys struct {
	Direct string // as Variant.DirectKey
	Chain  string // as Variant.ChainKey
	// Order is whom the attempts ask, one after the other; nil where Envoy chooses the first.
	Order []*Candidate
}

// Chain is the order in which one composite cluster tries candidates.
type Chain struct {
	Name       string
	Candidates []*Candidate
}

// Nth returns the candidate that is meant when backend is tried for the n-th time (0 first), or nil where
// the chain does not hold the backend.
func (c *Chain) Nth(backend string, n int) *Candidate {
	var last *Candidate
	for _, cand := range c.Candidates {
		if cand.Backend.ID != backend {
			continue
		}
		last = cand
		if n == 0 {
			break
		}
		n--
	}
	return last
}

// Candidate is a backend in a rule.
type Candidate struct {
	Backend *Backend
	Model   string // asked of this backend instead of the caller's model; "" where none
	// Weight and Priority as in the Route.
	Weight   uint32
	Priority int32
	// Bit is the candidate's place in masks.
	Bit Mask
}

// Backend is what serves models.
type Backend struct {
	ID       string // "namespace/name", as x-weir-backend shows it
	Dialect  *canon.Dialect
	BasePath string // "/v1", no slash at the end; stands before the dialect's paths
	Host     string // the authority it is asked by
	// Credentials carry the backend's key, each for some versions of the dialect; nil where it wants none.
	Credentials []canon.Credential
	// Models maps callers' names to the backend's own; nil: any model, by the caller's name.
	Models           map[string]string
	DefaultMaxTokens int64
	// Prices by the caller's names for models, and of every other model; nil where nobody has told.
	Prices       map[string]*money.Table
	DefaultPrice *money.Table

	// Pick says how an endpoint is picked for a request, by the pool that has the backend's ID; nil where no LoadPolicy steers the
	// backend, or where it has several endpoints that Envoy resolves by itself.
	Pick *pick.Policy
	// Steered says that a LoadPolicy steers the backend, with or without Pick.
	Steered bool
	// Endpoints of a steered backend whose names Envoy resolves by itself, "name:port" each. Those of others are the pool's to know: they come
	// and go, and the rules that lead to them stay as they are.
	Endpoints []string
	// Named says that Envoy asks those endpoints of a steered backend that a decision names. Otherwise it resolves a name by itself.
	Named bool
	// LoadReports says that the backend is asked to report its load in the headers of its answers (ORCA).
	LoadReports bool
}

// Serves says whether the backend serves a model, by the caller's name.
func (b *Backend) Serves(model string) bool {
	if b.Models == nil {
		return true
	}
	_, ok := b.Models[model]
	return ok
}

// UpstreamModel is what the backend calls the model that the caller asked for.
func (c *Candidate) UpstreamModel(model string) string {
	if c.Model != "" {
		model = c.Model
	}
	if own, ok := c.Backend.Models[model]; ok {
		return own
	}
	return model
}

// Price is what the caller's model costs there; nil where nobody has told.
func (c *Candidate) Price(model string) *money.Table {
	if c.Model != "" {
		model = c.Model
	}
	if p := c.Backend.Prices[model]; p != nil {
		return p
	}
	return c.Backend.DefaultPrice
}

// serves says whether the candidate can serve a caller's model.
func (c *Candidate) serves(model string) bool {
	return c.Model != "" || c.Backend.Serves(model)
}

// UpstreamModels is what the candidates that serve a model call it, in order and each name once: what an answer by the rule may
// have been made by.
func (r *Rule) UpstreamModels(model string) []string {
	names := make([]string, 0, len(r.Candidates))
	for _, c := range r.Candidates {
		if c.serves(model) {
			names = append(names, c.UpstreamModel(model))
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Capable gives the candidates that serve a model. Where sameDialect is not "", only those that speak it.
func (r *Rule) Capable(model, sameDialect string) Mask {
	var m Mask
	for _, c := range r.Candidates {
		if sameDialect != "" && c.Backend.Dialect.Name != sameDialect {
			continue
		}
		if c.serves(model) {
			m |= c.Bit
		}
	}
	return m
}

// SetVariants gives the rule its variants. It is part of building a table.
func (r *Rule) SetVariants(v map[Mask]*Variant) { r.variants = v }

// Variant returns what serves exactly these candidates, or nil where nothing does.
func (r *Rule) Variant(m Mask) *Variant { return r.variants[m] }

// Masks lists every set of candidates that some request can have: what Capable may return for the
// models that the rule's backends name, for any other model, and for each dialect alone.
func (r *Rule) Masks(dialects []string) []Mask {
	models := []string{"\x00any other model"}
	for _, c := range r.Candidates {
		for name := range c.Backend.Models {
			models = append(models, name)
		}
	}
	seen := map[Mask]bool{0: true}
	var out []Mask
	for _, m := range models {
		for _, d := range append([]string{""}, dialects...) {
			if mask := r.Capable(m, d); !seen[mask] {
				seen[mask] = true
				out = append(out, mask)
			}
		}
	}
	return out
}
