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

// restoreBudgets tells the engine what budgets have spent that it does not know of: all at the start, later those that a
// new configuration brings. The ledger knows who spent it, not which budgets there were, so a budget that is made in
// the middle of a month begins with what the month has cost already.
func (a *accounting) restoreBudgets(ctx context.Context, t *table.Table, now time.Time) error {
	a.restoring.Lock()
	defer a.restoring.Unlock()
	periods := map[time.Time][]*limit.Rule{}
	for p := range t.EachPolicy {
		for _, r := range p.Limits {
			if start, _ := r.PeriodAt(now); !start.IsZero() && !a.restored[r.ID] {
				periods[start] = append(periods[start], r)
			}
		}
	}
	ctx, cancel := context.WithTimeout(ctx, ledgerReading)
	defer cancel()
	named := map[string]*table.Rule{}
	for r := range t.EachRule {
		named[r.Name] = r
	}
	for start, rules := range periods {
		rows, err := a.ledger.Sum(ctx, start, time.Time{}, ledger.ByTenant, ledger.ByNamespace, ledger.ByConsumer,
			ledger.ByCredential, ledger.ByRoute, ledger.ByModel)
		if err != nil {
			return err
		}
		wanted := map[*limit.Rule]bool{}
		for _, r := range rules {
			wanted[r] = true
		}
		for i := range rows {
			a.restoreRow(t, named[rows[i].Route], &rows[i], wanted, start)
		}
		for _, r := range rules {
			a.restored[r.ID] = true
		}
	}
	return nil
}

func (a *accounting) restoreRow(t *table.Table, rule *table.Rule, row *ledger.Row, wanted map[*limit.Rule]bool, start time.Time) {
	if row.Cost == 0 {
		return
	}
	s := limit.Subject{Tenant: row.Tenant, Consumer: row.Namespace + "/" + row.Consumer, Credential: row.Namespace + "/" + row.Credential}
	id := &identity.Identity{Tenant: s.Tenant, ConsumerID: s.Consumer, CredentialID: s.Credential}
	if rule == nil {
		rule = &table.Rule{} // it is gone, and so are the policies that were attached to it
	}
	// The ledger does not say by which gateway a request came in. Where there are several, each one's policies count it.
	gateways := []string{t.Gateway}
	if t.Gateway == "" {
		gateways = gateways[:0]
		for g := range t.Policies.Gateways {
			gateways = append(gateways, g)
		}
	}
	var policies []*table.Policy
	for _, g := range gateways {
		policies = t.Applying(policies, g, rule, id, row.Model)
	}
	for _, p := range policies {
		for _, r := range p.Limits {
			if wanted[r] {
				a.limits.Restore(r, s, row.Cost, start)
			}
		}
	}
}
