package cache

// Scope says who shares answers.
type Scope uint8

// The scopes.
const (
	ScopeTenant   Scope = iota // all consumers of one tenant
	ScopeConsumer              // one consumer
	ScopeShared                // everybody whom the policy applies to, whatever the tenant
)

// String is the word that a CachePolicy has.
func (s Scope) String() string {
	return [...]string{"Tenant", "Consumer", "Shared"}[s]
}

// Eligible says which requests may be answered from the cache.
type Eligible uint8

// The rules of eligibility. A request that says no-store is never eligible.
const (
	EligibleDeterministic Eligible = iota // those that ask for the same answer each time: temperature 0, a seed, embeddings
	EligibleOptIn                         // those whose x-weir-cache-control asks for the cache
	EligibleAll                           // every one
)

// String is the word that a CachePolicy has.
func (e Eligible) String() string {
	return [...]string{"Deterministic", "OptIn", "All"}[e]
}
