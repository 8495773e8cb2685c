package cache

import (
	"context"
	"testing"
)

// TestOldPolicies: a request that began before the configuration changed neither sizes memory, nor drops it, nor brings back what is deleted.
func TestOldPolicies(t *testing.T) {
	c := newCache(t, Options{})
	old, fresh, none := policy(nil), policy(func(p *Policy) { p.MemoryBytes = 1 << 20 }), policy(func(p *Policy) { p.MemoryBytes = 0 })
	c.Use([]*Policy{old})
	buy(t, c, ask(old, 1), "one")
	c.Use([]*Policy{fresh})
	get(t, c, ask(old, 1), Hit, "one")
	if got := c.tier(old).records.GetMaximum(); got != 1<<20 {
		t.Errorf("the memory has %d bytes", got)
	}
	get(t, c, ask(none, 1), Hit, "one") // of an older one yet, without memory
	get(t, c, ask(fresh, 1), Hit, "one")
	c.Use([]*Policy{none})
	buy(t, c, ask(fresh, 2), "two")
	get(t, c, ask(fresh, 2), Miss, "")
	c.Use(nil)
	buy(t, c, ask(fresh, 3), "three")
	if _, revived := c.tiers.Load(fresh.ID); revived || c.Get(context.Background(), ask(fresh, 3)).Outcome != Miss {
		t.Error("a deleted policy has memory again")
	}
}
