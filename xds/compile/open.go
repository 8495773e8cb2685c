package compile

import (
	_ "embed"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	luav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/lua/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/extproc/table"
	"github.com/weir-dev/weir/extproc/wire"
	"github.com/weir-dev/weir/xds/source"
)

// What happens to requests that Weir does not answer, where some LoadPolicy says failureMode: Open.
//
// The door goes on without a decision. Such a request has no key of a route, so it has the undecided route, and that one alone has
// open.lua with what the configuration says: a changed key or rule changes that route, and no listener, whose change would close
// connections. Requests that were decided never meet that code.

var (
	//go:embed sha256.lua
	shaSource string
	//go:embed open.lua
	openSource string
	//go:embed guard.lua
	guardSource string
)

const (
	openFilter  = "weir.open"
	guardFilter = "weir.guard"
	// openStat is in the names of Envoy's counters of requests that were let through: vhost.weir.route.weir_open.upstream_rq_*.
	openStat = "weir_open"
	// openAttempts are made where a rule does not say how many. Of the endpoints that have died since, Envoy knows only what it finds out.
	openAttempts = 3
)

// UndecidedKey stands among the Routes for the one of requests without a decision. No key is like it: they all have a "#".
const UndecidedKey = "undecided"

// openTargets are the routes of a rule's requests that nobody has decided: by dialect and the caller's model, "" for every other. A
// model without one has the route "".
type openTargets map[string]map[string]string

// asIs says whether a member takes requests of a dialect for a model as they come. Of a name that no Backend knows it says
// whether it takes any.
func asIs(m member, dialect, model string) bool {
	return m.Backend.Dialect.Name == dialect && (m.Model != "" || m.Backend.Serves(model)) && m.UpstreamModel(model) == model
}

// openRule makes the routes that a rule's requests take without a decision: straight to those of its backends that fail open and
// need nothing rewritten.
func (c *compiler) openRule(ref source.ObjectRef, field string, rule *table.Rule, members []member, spec *v1alpha1.RouteRule) {
	var open []member
	models := []string{""}
	for _, m := range members {
		if !m.failOpen {
			continue
		}
		open = append(open, m)
		for own, upstream := range m.Backend.Models {
			models = append(models, own, upstream)
		}
		if m.Model != "" {
			models = append(models, m.Model)
		}
	}
	if len(open) == 0 {
		return
	}
	if c.routing.gateways != nil {
		c.warnf(ref, field, "LoadPolicy %s says failureMode: Open, but requests of this rule are answered 503 while Weir does not answer: "+
			"only some LLMGateways take the Route (spec.allowedRoutes), and Envoy does not tell them apart", open[0].steeredBy)
		return
	}
	slices.Sort(models)
	targets, some := openTargets{}, false
	for _, dialect := range c.inboundDialects() {
		targets[dialect] = map[string]string{}
		for _, model := range slices.Compact(models) {
			name := model
			if name == "" {
				name = "\x00any other model"
			}
			var in []member
			for _, m := range open {
				if asIs(m, dialect, name) {
					in = append(in, m)
				}
			}
			key := ""
			if len(in) > 0 {
				key, some = c.openRoute(rule, spec, in), true
			}
			targets[dialect][model] = key
		}
	}
	if !some {
		c.warnf(ref, field+".backends", "LoadPolicy %s says failureMode: Open, but requests of this rule are answered 503 while Weir does not answer: "+
			"they must be translated, or the model be renamed, which Envoy cannot do", open[0].steeredBy)
		return
	}
	if slices.ContainsFunc(spec.Matches, func(m v1alpha1.RouteMatch) bool { return len(m.Headers) == 0 && len(m.QueryParams) == 0 }) || len(spec.Matches) == 0 {
		c.routing.openable = true
	}
	for i := range spec.Matches {
		if m := &spec.Matches[i]; len(m.Headers) > 0 || len(m.QueryParams) > 0 {
			c.warnf(ref, fmt.Sprintf("%s.matches[%d]", field, i), "LoadPolicy %s says failureMode: Open, but requests that may be of this match are answered 503 while Weir does not answer: "+
				"Envoy then judges path, method and model alone, and not headers and queryParams", open[0].steeredBy)
		}
	}
	if c.routing.open == nil {
		c.routing.open = map[*table.Rule]openTargets{}
	}
	c.routing.open[rule] = targets
}

// openRoute is the route of requests without a decision to these members.
func (c *compiler) openRoute(rule *table.Rule, spec *v1alpha1.RouteRule, in []member) string {
	attempts := int(spec.Retry.Attempts)
	if attempts == 0 {
		attempts = max(openAttempts, len(in))
	}
	r := newRoute(rule, spec, attempts, straight, in, in, func(m member) string { return m.cluster })
	r.StatPrefix = openStat
	return c.keep(rule, r, in)
}

// openUnit is the route of requests without a decision.
type openUnit struct {
	unit
	index    *table.Index  // of the rules that the route knows of
	identity *identityUnit // the keys
}

// undecided makes the route of requests without a decision. Where some pool fails open it comes when rules, keys and consumers are
// known, and is made anew when one of them has changed: it has them all in it.
func (c *compiler) undecided() {
	old := c.openUnit
	if old != nil && old.index == c.index && old.identity == c.identityUnit && old.counts() {
		c.problems = append(c.problems, old.problems...)
		return
	}
	u := &openUnit{index: c.index, identity: c.identityUnit}
	c.make(&u.unit, func() {
		for _, answer := range []*cell{&c.opening.cell, &c.openable.cell, &c.loadPolicies.cell} {
			c.asks(answer)
		}
		r := undecidedRoute()
		if c.opening.is {
			r.TypedPerFilterConfig = map[string]*anypb.Any{
				openFilter: pack(&luav3.LuaPerRoute{Override: &luav3.LuaPerRoute_SourceCode{SourceCode: inline(c.openScript())}}),
			}
		}
		putMessage(c, c.entries, UndecidedKey, r)
	})
	if old != nil {
		old.drop()
	}
	c.openUnit = u
	c.problems = append(c.problems, u.problems...)
}

// openWriter writes the texts of open.lua.
type openWriter struct {
	patterns, entries, targets, lists, keys strings.Builder

	listNumbers  map[string]string
	requirements map[string]string // numbers
	// labels and scopes are what the requirements are, by number.
	labels map[string]map[string]string
	scopes map[string][]string
}

// openScript is open.lua with the configuration that it needs.
func (c *compiler) openScript() string {
	w := &openWriter{
		listNumbers: map[string]string{}, requirements: map[string]string{},
		labels: map[string]map[string]string{}, scopes: map[string][]string{},
	}
	w.endpoints(c.opts.Dialects.Names(), func(name string) canon.Dialect { d, _ := c.opts.Dialects.Get(name); return d })
	targets := map[*table.Rule]openTargets{}
	for _, u := range c.routeUnits {
		maps.Copy(targets, u.open)
	}
	numbers := map[*table.Rule]int{}
	for m, rule := range c.index.All() {
		if numbers[rule] == 0 {
			numbers[rule] = len(numbers) + 1
			w.rule(numbers[rule], targets[rule])
		}
		w.entry(&m, rule, numbers[rule])
	}
	known := 0
	callers := c.identityUnit
	owners := make(map[source.ObjectRef]*identity.Consumer, len(callers.config.Consumers))
	for i := range callers.config.Consumers {
		o := &callers.config.Consumers[i]
		if ref := (source.ObjectRef{Namespace: o.Namespace, Name: o.Name}); owners[ref] == nil {
			owners[ref] = o
		}
	}
	for i := range callers.config.Keys {
		k := &callers.config.Keys[i]
		if w.key(owners[source.ObjectRef{Namespace: k.Namespace, Name: k.Consumer}], k, callers.weak) {
			known++
		}
	}
	if known == 0 || !c.openable.is {
		c.adviseOnOpen(known == 0)
	}
	var b strings.Builder
	for _, text := range []struct{ name, value string }{
		{"RULE_HEADER", wire.RuleHeader}, {"UNDECIDED", UndecidedKey}, {"PATH_HEADER", wire.PathHeader}, {"PEEK_NAMESPACE", wire.PeekNamespace}, {"NAMESPACE", wire.DecisionNamespace},
		{"PATTERNS", w.patterns.String()}, {"ENTRIES", w.entries.String()}, {"TARGETS", w.targets.String()}, {"LISTS", w.lists.String()}, {"KEYS", w.keys.String()},
	} {
		fmt.Fprintf(&b, "local %s = %s\n", text.name, luaString(text.value))
	}
	return b.String() + shaSource + openSource
}

// adviseOnOpen warns of policies that let nobody through.
func (c *compiler) adviseOnOpen(noKeys bool) {
	why := "no rule leads to its Backends by path, method and model alone"
	if noKeys {
		why = "Envoy can check no APIKey: it needs one with secretRef or a hash of the kind sha256, without allowedCIDRs, whose key has 16 characters or more; " +
			"tokens, keys in Redis and hashes made with a pepper are for Weir alone"
	}
	for _, o := range c.objs.LoadPolicies {
		if o.Spec.FailureMode == v1alpha1.LoadFailOpen {
			c.warnf(source.ObjectRef{Kind: "LoadPolicy", Namespace: o.Namespace, Name: o.Name}, "spec.failureMode",
				"it lets nobody through while Weir does not answer: %s", why)
		}
	}
}

// endpoints writes what paths mean.
func (w *openWriter) endpoints(names []string, dialect func(string) canon.Dialect) {
	owners := map[string]int{} // of a path: dialects
	for _, name := range names {
		d := dialect(name)
		for _, text := range pathsOf(&d) {
			owners[text]++
		}
	}
	for _, name := range names {
		d := dialect(name)
		if d.In == nil {
			continue
		}
		for _, e := range d.Endpoints {
			text, model := d.Root+e.Path, ""
			operation := string(e.Op)
			// Model lists are Weir's own to answer. Which of several dialects has a path, headers tell.
			if e.Op == canon.OpModels || e.Op == canon.OpModel || owners[text] > 1 {
				operation = ""
			}
			if head, ok := strings.CutSuffix(text, "{model}"); ok {
				text, model, operation = head, "1", ""
			}
			line(&w.patterns, text, model, e.Method, d.Name, e.Path, operation)
		}
	}
}

// pathsOf are the paths of an inbound dialect, each once.
func pathsOf(d *canon.Dialect) []string {
	if d.In == nil {
		return nil
	}
	var out []string
	for _, e := range d.Endpoints {
		if text := d.Root + e.Path; !slices.Contains(out, text) {
			out = append(out, text)
		}
	}
	return out
}

// rule writes where the requests of a rule go.
func (w *openWriter) rule(number int, targets openTargets) {
	for _, dialect := range slices.Sorted(maps.Keys(targets)) {
		for _, model := range slices.Sorted(maps.Keys(targets[dialect])) {
			if writable(model) {
				line(&w.targets, strconv.Itoa(number), dialect, model, targets[dialect][model])
			}
		}
	}
}

// entry writes a match of a rule. Those of rules that lead nowhere are there too: a request that may be of one must not be taken
// for one of the next.
func (w *openWriter) entry(m *table.Match, rule *table.Rule, number int) {
	if !writable(m.Path) {
		return // no request has such a path
	}
	exact, path, models, query := "", strings.TrimSuffix(m.Path, "/"), "", ""
	if m.PathExact {
		exact, path = "1", m.Path
	}
	if len(m.Models) > 0 {
		models = w.list(m.Models)
	}
	if len(m.Query) > 0 {
		query = "1"
	}
	headers := make([]string, len(m.Headers))
	for i := range m.Headers {
		headers[i] = m.Headers[i].Name
	}
	labels, scopes := "", ""
	if len(m.Labels) > 0 {
		labels = w.requirement("labels", fmt.Sprintf("%q", pairsOf(m.Labels)))
		w.labels[labels] = m.Labels
	}
	if len(rule.RequiredScopes) > 0 {
		scopes = w.requirement("scopes", fmt.Sprintf("%q", rule.RequiredScopes))
		w.scopes[scopes] = rule.RequiredScopes
	}
	apart := ""
	if m.Gateways != nil {
		apart = "1"
	}
	line(&w.entries, m.Method, exact, path, models, labels, strings.Join(headers, ","), query, scopes, strconv.Itoa(number), rule.Name, apart)
}

// requirement numbers what some callers meet.
func (w *openWriter) requirement(kind, content string) string {
	return numbered(w.requirements, kind+content)
}

// list writes a list of models, once, and returns its number.
func (w *openWriter) list(models []string) string {
	models = slices.DeleteFunc(slices.Clone(models), func(m string) bool { return !writable(m) }) // no request may name them
	slices.Sort(models)
	key := strings.Join(models, "\t")
	n, known := w.listNumbers[key]
	if !known {
		n = numbered(w.listNumbers, key)
		line(&w.lists, models...)
	}
	return n
}

func numbered(m map[string]string, key string) string {
	n, ok := m[key]
	if !ok {
		n = strconv.Itoa(len(m) + 1)
		m[key] = n
	}
	return n
}

// key writes a key that Envoy can check, with what it may do. It comes after all entries. The owner is nil where there is none.
func (w *openWriter) key(owner *identity.Consumer, k *identity.Key, weak map[string]bool) bool {
	if owner == nil || k.Kind != identity.HashSHA256 || k.Disabled || len(k.AllowedCIDRs) > 0 || weak[k.Namespace+"/"+k.Name] {
		return false
	}
	tenant := owner.Tenant
	if tenant == "" {
		tenant = owner.Namespace
	}
	var lists []string
	for _, models := range [][]string{owner.AllowedModels, k.AllowedModels} {
		if len(models) > 0 {
			lists = append(lists, w.list(models))
		}
	}
	meets := ","
	for _, n := range slices.Sorted(maps.Keys(w.labels)) {
		if has(owner.Labels, w.labels[n]) {
			meets += n + ","
		}
	}
	for _, n := range slices.Sorted(maps.Keys(w.scopes)) {
		if !slices.ContainsFunc(w.scopes[n], func(s string) bool { return !slices.Contains(owner.Scopes, s) && !slices.Contains(k.Scopes, s) }) {
			meets += n + ","
		}
	}
	expires := int64(0) // milliseconds since 1970
	if !k.ExpiresAt.IsZero() {
		expires = max(1, k.ExpiresAt.UnixNano()/int64(time.Millisecond))
	}
	line(&w.keys, hex.EncodeToString(k.Hash[:]), strconv.FormatInt(expires, 10), owner.Name, tenant, "key:"+k.Name, meets, strings.Join(lists, ","))
	return true
}

func has(labels, wanted map[string]string) bool {
	for k, v := range wanted {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}

func pairsOf(m map[string]string) (out []string) {
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, k, m[k])
	}
	return out
}

// writable says whether a text may be a field of a line.
func writable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

func line(b *strings.Builder, fields ...string) {
	b.WriteString(strings.Join(fields, "\t"))
	b.WriteByte('\n')
}

// luaString writes a string as Lua reads it.
func luaString(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteByte(c)
		case c == '\n':
			b.WriteString(`\n`)
		case c == '\t':
			b.WriteString(`\t`)
		case c < ' ' || c > '~':
			fmt.Fprintf(&b, `\%03d`, c)
		default:
			b.WriteByte(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// openFilters are the filters around the one that asks Weir, where that may be left out: before it the one that looks at answers
// after it, and behind it the one whose code is the undecided route's.
func (c *compiler) openFilters() (before, behind []*hcmv3.HttpFilter) {
	return []*hcmv3.HttpFilter{filter(guardFilter, &luav3.Lua{DefaultSourceCode: inline(c.guardScript())})},
		[]*hcmv3.HttpFilter{filter(openFilter, &luav3.Lua{})}
}

// guardScript is guard.lua with what callers get in the place of an answer.
func (c *compiler) guardScript() string {
	var b strings.Builder
	fmt.Fprintf(&b, "local NAMESPACE, KEY_NEEDS, BACKEND_HEADER, DEFAULT_DIALECT = %q, %q, %q, %q\nlocal ERRORS = {\n",
		wire.DecisionNamespace, wire.KeyNeeds, wire.BackendHeader, DefaultDialect)
	lost := &canon.Error{Status: 503, Kind: canon.ErrOverloaded, Message: "The gateway was interrupted while it handled this answer. Try again shortly."}
	for _, name := range c.inboundDialects() {
		d, _ := c.opts.Dialects.Get(name)
		event := d.In.NewStreamEncoder(canon.Reply{}).Append(nil, &canon.Event{Kind: canon.EventError, Err: lost})
		fmt.Fprintf(&b, "  [%q] = { whole = %s, event = %s },\n", name, luaString(string(d.In.AppendError(nil, lost, ""))), luaString(string(event)))
	}
	return b.String() + "}\n" + guardSource
}
