package main

import (
	"context"
	"time"

	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/extproc/limit"
	"github.com/weir-dev/weir/extproc/table"
	"github.com/weir-dev/weir/usage/ledger"
)

// ledgerReading bounds how long the ledger is read for budgets.
const ledgerReading = time.Minute

// restoreBudgets tells the engine what budgets have spent by the ledger, at the start and with each configuration. The
// ledger knows who spent it, not which budgets there were, so a budget that is made in the middle of a month, or changed
// to count for others or in other periods, begins with what the month has cost already. Counters are only raised to what
// the ledger says: what is settled meanwhile, and what is known already, is not counted twice.
//
// Budgets that replicas share get what this replica has spent; the others tell theirs. Budgets that each replica counts for
// itself get all that the state folder knows: it may be the ledger of processes whose place this one has taken.
//
// Where several configurations wait for it, it is done for the newest.
func (a *accounting) restoreBudgets(ctx context.Context, t *table.Table, now time.Time) error {
	a.newest.Store(t)
	a.restoring.Lock()
	defer a.restoring.Unlock()
	if a.newest.Load() != t {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, ledgerReading)
	defer cancel()
	for key, budgets := range budgetsByPeriod(t, now) {
		sum := a.ledger.Sum
		if key.shared {
			sum = a.ledger.SumOwn
		}
		rows, err := sum(ctx, key.start, time.Time{}, ledger.ByTenant, ledger.ByNamespace, ledger.ByConsumer,
			ledger.ByCredential, ledger.ByGateway, ledger.ByRoute, ledger.ByModel)
		if err != nil {
			return err
		}
		for c, nano := range spentOf(t, rows, budgets) {
			a.limits.Restore(budgets[c.rule], c.subject, nano, key.start)
		}
	}
	return nil
}

// budgetPeriod is what makes budgets be read from the ledger together.
type budgetPeriod struct {
	start  time.Time // in UTC, so that equal instants are equal
	shared bool
}

// budgetsByPeriod are the budgets of a table, by the ID of their rule.
func budgetsByPeriod(t *table.Table, now time.Time) map[budgetPeriod]map[string]*limit.Rule {
	out := map[budgetPeriod]map[string]*limit.Rule{}
	for p := range t.EachPolicy {
		for _, r := range p.Limits {
			start, _ := r.PeriodAt(now)
			if start.IsZero() || r.Unit != limit.Cost {
				continue
			}
			key := budgetPeriod{start.UTC(), r.Sharing != limit.Local}
			if out[key] == nil {
				out[key] = map[string]*limit.Rule{}
			}
			out[key][r.ID] = r
		}
	}
	return out
}

// budgetCounter is one counter of a budget.
type budgetCounter struct {
	rule    string // its ID
	subject limit.Subject
}

// spentOf adds up, for each counter of budgets, the rows that count in it. Amounts of another currency are none: there is no
// rate to convert them by.
func spentOf(t *table.Table, rows []ledger.Row, budgets map[string]*limit.Rule) map[budgetCounter]int64 {
	named := map[string]*table.Rule{}
	for r := range t.EachRule {
		named[r.Name] = r
	}
	out := map[budgetCounter]int64{}
	for i := range rows {
		row := &rows[i]
		if row.Cost <= 0 || row.Currency != t.Currency {
			continue
		}
		s := limit.Subject{Tenant: row.Tenant, Consumer: row.Namespace + "/" + row.Consumer, Credential: row.Namespace + "/" + row.Credential}
		counted := map[string]bool{} // a budget may be attached to several things that a request has, and counts it once
		for _, p := range appliedTo(t, named[row.Route], row, &s) {
			for _, r := range p.Limits {
				if budgets[r.ID] == nil || counted[r.ID] {
					continue
				}
				counted[r.ID] = true
				out[budgetCounter{r.ID, r.Whose(s)}] += row.Cost
			}
		}
	}
	return out
}

// appliedTo are the policies that would apply to the requests of a row.
func appliedTo(t *table.Table, rule *table.Rule, row *ledger.Row, s *limit.Subject) []*table.Policy {
	id := &identity.Identity{Tenant: s.Tenant, ConsumerID: s.Consumer, CredentialID: s.Credential}
	if rule == nil {
		rule = &table.Rule{} // it is gone, and so are the policies that were attached to it
	}
	switch {
	case row.Gateway != "":
		return t.Applying(nil, row.Gateway, rule, id, row.Model)
	case t.Gateway != "":
		return t.Applying(nil, t.Gateway, rule, id, row.Model)
	}
	// Entries of before the gateway was noted count for the policies of each.
	policies := t.Applying(nil, "", rule, id, row.Model)
	for g := range t.Policies.Gateways {
		policies = t.Applying(policies, g, rule, id, row.Model)
	}
	return policies
}
