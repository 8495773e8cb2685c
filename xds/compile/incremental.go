package compile

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/extproc/table"
	"github.com/weir-dev/weir/xds/source"
)

// backendUnit is what was made of a Backend.
type backendUnit struct {
	unit
	backend *backend
	policy  *v1alpha1.LoadPolicy // that steers it

	prompts  bool
	poolWait time.Duration
	failOpen bool
	priced   bool
}

// compileBackends compiles the Backends that are not as they were, and settles what became of each.
func (c *compiler) compileBackends(m *moves) {
	units, before := c.backendUnits, []*backendUnit(nil)
	if m != nil {
		units, before = moved(m, units)
	}
	made := map[source.ObjectRef]*backend{} // in this run; nil where a Backend has gone
	for i, o := range c.objs.Backends {
		u := units[i]
		if u != nil && u.policy == c.policyOf[source.RefOf(o)] && u.counts() {
			continue
		}
		units[i] = c.backendUnitOf(o)
		made[source.RefOf(o)] = units[i].backend
		if u != nil {
			u.drop()
		}
	}
	for _, u := range before {
		u.drop()
		if ref := u.backend.ref; made[ref] == nil {
			made[ref] = nil
		}
	}
	c.backendUnits = units
	for ref, b := range made {
		settle(c.Compiler, c.madeOf(ref), b)
	}
	if m != nil || len(made) > 0 {
		c.ofBackends = backendTotals{}
		for _, u := range units {
			c.ofBackends.add(u)
		}
	}
	t := &c.ofBackends
	c.problems = append(c.problems, t.problems...)
	c.out.Table.Prompts, c.poolWait = t.prompts, t.poolWait
	settle(c.Compiler, &c.priced, t.priced)
	settle(c.Compiler, &c.opening, t.opening)
}

// backendTotals are what all Backends together come to.
type backendTotals struct {
	problems                 []source.Problem
	prompts, priced, opening bool
	poolWait                 time.Duration
}

func (t *backendTotals) add(u *backendUnit) {
	t.problems = append(t.problems, u.problems...)
	t.prompts, t.priced, t.opening = t.prompts || u.prompts, t.priced || u.priced, t.opening || u.failOpen
	t.poolWait = max(t.poolWait, u.poolWait)
}

func (c *compiler) backendUnitOf(o *v1alpha1.Backend) *backendUnit {
	ref := source.RefOf(o)
	u := &backendUnit{unit: unit{kind: ofBackend}, policy: c.policyOf[ref], priced: hasPrices(&o.Spec)}
	c.backing = u
	c.make(&u.unit, func() { c.backend(o) })
	// Routes are made of the backend. One that is as it was stays, so that they do.
	if old := c.madeOf(ref).is; old != nil && reflect.DeepEqual(old, u.backend) {
		u.backend = old
	}
	return u
}

func (c *compiler) madeOf(ref source.ObjectRef) *value[*backend] {
	at := c.made[ref]
	if at == nil {
		at = &value[*backend]{}
		c.made[ref] = at
	}
	return at
}

// backendOf answers what became of a Backend: nil where there is none.
func (c *compiler) backendOf(ref source.ObjectRef) *backend {
	at := c.madeOf(ref)
	c.asks(&at.cell)
	return at.is
}

func hasPrices(spec *v1alpha1.BackendSpec) bool {
	return len(spec.Prices) > 0 || slices.ContainsFunc(spec.Models, func(m v1alpha1.BackendModel) bool { return len(m.Prices) > 0 })
}

// routeUnit is what was made of a Route.
type routeUnit struct {
	unit
	ref     source.ObjectRef
	rules   []sectionRule
	entries []*table.Entry
	open    map[*table.Rule]openTargets
	// openable says that some match of a rule in open can be judged without Weir.
	openable bool
	retain   time.Duration
	headers  []string // that its matches look at
	renames  bool     // some model
	// kept are the keys of its Envoy routes, while it is made.
	kept map[string]bool
	// gateways take it; nil: all do.
	gateways []string
}

// sectionRule is the name of a rule, with the name that a sectionName selects it by; "" where it has none.
type sectionRule struct{ section, rule string }

// ruleNames are the rules of a Route.
type ruleNames struct {
	cell
	is []sectionRule
}

// compileRoutes compiles the Routes that are not as they were, and puts them into the table.
func (c *compiler) compileRoutes(m *moves) {
	units, before := c.routeUnits, []*routeUnit(nil)
	if m != nil {
		units, before = moved(m, units)
	}
	var added, gone []*table.Entry
	var fresh, left []*routeUnit
	made := map[source.ObjectRef][]sectionRule{} // in this run
	first, end := 0, len(units)
	calm := c.calm(ofRoute)
	if calm {
		first, end = m.between(end)
	}
	for i := first; i < end; i++ {
		u := units[i]
		if u != nil && (calm || u.counts()) {
			continue
		}
		units[i] = c.routeUnitOf(c.objs.Routes[i])
		fresh, added = append(fresh, units[i]), append(added, units[i].entries...)
		made[units[i].ref] = append(made[units[i].ref], units[i].rules...)
		if u != nil {
			u.drop()
			left, gone = append(left, u), append(gone, u.entries...)
		}
	}
	for _, u := range before {
		u.drop()
		left, gone = append(left, u), append(gone, u.entries...)
		if made[u.ref] == nil {
			made[u.ref] = nil
		}
	}
	c.routeUnits = units
	c.index = c.index.With(added, gone)
	for ref, rules := range made {
		if at := c.sectionsOf(ref); !slices.Equal(at.is, rules) {
			at.is = rules
			c.stir(&at.cell)
		}
	}
	if !comeToTheSame(left, fresh) {
		c.ofRoutes = routeTotals{}
		for _, u := range units {
			c.ofRoutes.add(u)
		}
		c.ofRoutes.vary = c.vary(c.ofRoutes.headers)
	}
	t := &c.ofRoutes
	c.problems = append(c.problems, t.problems...)
	c.out.Retain = t.retain
	settle(c.Compiler, &c.openable, t.openable)
	if c.out.Table.Vary = t.vary; len(units) == 0 {
		c.out.Table.Vary = c.vary(nil)
	}
	if len(units) == 0 {
		c.warnf(source.ObjectRef{}, "", "there is no Route: every request will be answered with 404")
	}
}

// routeTotals are what all Routes together come to.
type routeTotals struct {
	problems          []source.Problem
	retain            time.Duration
	headers           []string
	vary              string
	openable, renames bool
}

func (t *routeTotals) add(u *routeUnit) {
	t.problems = append(t.problems, u.problems...)
	t.retain = max(t.retain, u.retain)
	t.headers = append(t.headers, u.headers...)
	t.openable, t.renames = t.openable || u.openable, t.renames || u.renames
}

// comeToTheSame says whether the totals of all Routes stay as they are with some Routes in the place of others. Looking at all of them for one that has
// changed would take longer than compiling that one.
func comeToTheSame(left, fresh []*routeUnit) bool {
	if len(left) != len(fresh) {
		return false
	}
	of := make(map[source.ObjectRef]*routeUnit, len(left))
	for _, u := range left {
		of[u.ref] = u
	}
	for _, u := range fresh {
		was := of[u.ref]
		if was == nil || len(was.problems)+len(u.problems) > 0 || was.retain != u.retain || !slices.Equal(was.headers, u.headers) ||
			was.openable != u.openable || was.renames != u.renames {
			return false
		}
		delete(of, u.ref) // of two of one name, each stands for one
	}
	return true
}

func (c *compiler) routeUnitOf(o *v1alpha1.Route) *routeUnit {
	u := &routeUnit{unit: unit{kind: ofRoute}, ref: source.RefOf(o), kept: map[string]bool{}}
	for i := range o.Spec.Rules {
		r := &o.Spec.Rules[i]
		for j := range r.Matches {
			for _, h := range r.Matches[j].Headers {
				u.headers = append(u.headers, strings.ToLower(h.Name))
			}
		}
		u.renames = u.renames || slices.ContainsFunc(r.Backends, func(b v1alpha1.RouteBackend) bool { return b.Model != "" })
	}
	c.routing = u
	c.make(&u.unit, func() {
		c.asks(&c.native.cell)
		c.compileRoute(o)
	})
	u.kept = nil
	return u
}

func (c *compiler) sectionsOf(ref source.ObjectRef) *ruleNames {
	at := c.sections[ref]
	if at == nil {
		at = &ruleNames{}
		c.sections[ref] = at
	}
	return at
}

// rulesOf answers which rules a Route has.
func (c *compiler) rulesOf(ref source.ObjectRef) []sectionRule {
	at := c.sectionsOf(ref)
	c.asks(&at.cell)
	return at.is
}

// policyUnit is what was made of a LimitPolicy or a Budget.
type policyUnit struct {
	unit
	attached []attachment
	wait     time.Duration
	cost     bool // it limits money
	narrowed bool // to some models
	advice   *unit
}

// attachment is a policy with what it applies to.
type attachment struct {
	kind   v1alpha1.PolicyTargetKind
	id     string // as the table has it; "*" is every tenant
	rules  []string
	policy [1]*table.Policy
	// section says that rules are those of a name, and not all of a Route.
	section bool
}

// compilePolicies compiles the LimitPolicies and Budgets that are not as they were.
func (c *compiler) compilePolicies(limits, budgets *moves) {
	settle(c.Compiler, &c.counting, c.out.Shared != nil)
	settle(c.Compiler, &c.tokens, len(c.objs.JWTIssuers) > 0)
	var a, b bool
	c.limitUnits, a = policyUnits(c, c.limitUnits, limits, c.objs.LimitPolicies, limiting(c, func(u *policyUnit, o *v1alpha1.LimitPolicy) {
		u.cost = slices.ContainsFunc(o.Spec.Limits, func(l v1alpha1.Limit) bool { return l.Unit == v1alpha1.UnitCost })
		u.narrowed = len(o.Spec.Models) > 0
		c.limitPolicy(o)
	}))
	c.budgetUnits, b = policyUnits(c, c.budgetUnits, budgets, c.objs.Budgets, limiting(c, func(u *policyUnit, o *v1alpha1.Budget) {
		u.cost, u.narrowed = true, len(o.Spec.Models) > 0
		c.budget(o)
	}))
	if a || b || c.policies.Gateways == nil {
		c.collectPolicies()
	}
	c.problems = append(c.problems, c.ofPolicies.problems...)
	c.limitWait = c.ofPolicies.wait
}

// policyTotals are what all LimitPolicies and Budgets together come to.
type policyTotals struct {
	problems, advice []source.Problem
	wait             time.Duration
	cost, narrowed   bool
	advised          uint64 // the run that advice is of
}

func (c *compiler) collectPolicies() {
	t := &policyTotals{}
	p := table.Policies{
		Gateways: map[string][]*table.Policy{}, Rules: make(map[string][]*table.Policy, len(c.policies.Rules)), Tenants: map[string][]*table.Policy{},
		Consumers: make(map[string][]*table.Policy, len(c.policies.Consumers)), Credentials: make(map[string][]*table.Policy, len(c.policies.Credentials)),
	}
	for _, list := range [][]*policyUnit{c.limitUnits, c.budgetUnits} {
		for _, u := range list {
			t.problems = append(t.problems, u.problems...)
			t.wait = max(t.wait, u.wait)
			t.cost, t.narrowed = t.cost || u.cost, t.narrowed || u.narrowed
			for i := range u.attached {
				u.attached[i].apply(&p)
			}
		}
	}
	c.policies, c.ofPolicies = p, *t
}

// policyUnits compiles the policies of a kind that are not as they were, and says whether there were any, or their order has changed.
func policyUnits[U policyUnitOf, T source.Object](c *compiler, were []U, m *moves, objects []T, compile func(T) U) (units []U, changed bool) {
	var none U
	var before []U
	units = were
	if m != nil {
		units, before = moved(m, were)
		changed = true
	}
	calm := c.calm(ofPolicy)
	for i, o := range objects {
		old := units[i]
		if old != none && (calm || old.counts()) {
			continue
		}
		units[i], changed = compile(o), true
		if old != none {
			old.leave()
		}
	}
	for _, u := range before {
		u.leave()
	}
	return units, changed
}

// policyUnitOf is what is made of a policy.
type policyUnitOf interface {
	comparable
	counts() bool
	leave()
}

// limiting makes the unit of a policy that limits.
func limiting[T source.Object](c *compiler, compile func(*policyUnit, T)) func(T) *policyUnit {
	return func(o T) *policyUnit {
		u := &policyUnit{unit: unit{kind: ofPolicy}}
		c.limiting = u
		c.make(&u.unit, func() { compile(u, o) })
		return u
	}
}

func (u *policyUnit) leave() {
	u.drop()
	if u.advice != nil {
		u.advice.drop()
	}
}

func (a *attachment) apply(p *table.Policies) {
	put := func(into map[string][]*table.Policy, id string) {
		if there := into[id]; there != nil {
			into[id] = append(there, a.policy[0])
			return
		}
		into[id] = a.policy[:] // most have one
	}
	switch a.kind {
	case v1alpha1.TargetGateway:
		put(p.Gateways, a.id)
	case v1alpha1.TargetRoute:
		for _, r := range a.rules {
			put(p.Rules, r)
		}
	case v1alpha1.TargetTenant:
		if a.id == "*" {
			p.AllTenants = append(p.AllTenants, a.policy[0])
			return
		}
		put(p.Tenants, a.id)
	case v1alpha1.TargetConsumer:
		put(p.Consumers, a.id)
	case v1alpha1.TargetAPIKey:
		put(p.Credentials, a.id)
	}
}

// attached notes what a policy applies to.
func (c *compiler) attached(a attachment) { c.limiting.attached = append(c.limiting.attached, a) }

// gatewayUnit is what was made of all LLMGateways.
type gatewayUnit struct {
	unit
	maxBody uint32
}

// compileGateways compiles the LLMGateways anew where they, or what they are made of, have changed.
func (c *compiler) compileGateways() {
	settle(c.Compiler, &c.waits, [2]bool{c.limitWait > 0, c.poolWait > 0})
	authz := ""
	if a := c.out.Authz; a != nil {
		authz = fmt.Sprintf("%s:%d", a.Address, a.Port)
	}
	settle(c.Compiler, &c.authzAt, authz)
	if old := c.gatewayUnit; old == nil || !old.counts() {
		u := &gatewayUnit{}
		c.make(&u.unit, func() {
			for _, answer := range []*cell{&c.gateways.cell, &c.opening.cell, &c.waits.cell, &c.authzAt.cell} {
				c.asks(answer)
			}
			c.listen(u)
		})
		if old != nil {
			old.drop()
		}
		c.gatewayUnit = u
	}
	c.out.MaxBody = c.gatewayUnit.maxBody
	c.problems = append(c.problems, c.gatewayUnit.problems...)
}
