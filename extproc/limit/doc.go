// Package limit admits requests under limits and budgets: so many requests, tokens, nano-units of money or requests at once,
// per sliding window, token bucket or calendar period, for each subject.
//
// A request reserves with every rule that applies to it, or with none (Engine.Admit): one unit of Requests and Concurrent, and of
// tokens and money what it may use at most. When it has ended the grant is settled with what it used (Grant.Settle): what was
// reserved too much comes free; what was used beyond the reservation is a debt that delays later requests.
//
// # What holds
//
// In one process all counters of a request are locked together, in one order, so concurrent requests are admitted as if
// they came one after the other:
//
//   - SlidingWindow: reservations in any stretch of time of length Window never exceed Limit. The window is counted in 64 parts and the
//     one that is running, so room comes back up to 1/64 of the window late, never early. What a request used less than it reserved is given
//     back to the part in which it was reserved, what it used more counts when it is settled.
//   - TokenBucket: reservations in a time t never exceed Burst + t x Limit / Window.
//   - Calendar: reservations from one boundary to the next never exceed Limit. A request belongs to the period in which it began, as
//     in the ledger.
//   - Concurrent: never more than Limit at once, each counted until its grant is settled or cancelled.
//
// Use, as against reservations, passes a limit by what was reserved too low: by providers that exceed the stated
// largest output, and by answers longer than AssumedOutput where the request states none.
//
// A request that asks for more than a limit ever holds is refused as TooLarge, which no waiting helps. An assumed output never
// makes a request too large: the reservation then is the whole limit.
//
// # Replicas
//
// With a Remote, rules of the mode Exact ask it once per request, and what holds above holds for all replicas together, in
// windows by the store's clock. With several Exact rules there is one call for each.
//
// Rules of the mode Lease take units ahead into a pool and admit from that: no call is on a request's path but for the first
// request of a counter that has been idle, which waits for one call together with all that come meanwhile. The pool is
// refilled in the background when it is half empty, with what the next quarter of a lease's life will use at the rate seen, at most
// limit / (8 x replicas) units and less near the end of the limit: a replica's part of half of what remains. A request that needs more
// than that is leased exactly what it needs. Units
// unused for a lease's life (1 s; an eighth of windows below 8 s) are given back, those whose window is over are forgotten. As
// the store counts a unit when it is leased, a window may hold beyond its limit what was leased before it began and used in
// it. That is the overspend, and it is bounded by what lies in pools unused:
//
//	replicas x max(1, limit / (8 x replicas))  ~  limit / 8
//
// for windows by the store's clock; nothing in a Calendar period, whose units end with it, and nothing for Concurrent. What
// a settlement gives back goes into the pool and counts anew when it is used again; only within a 64th of the window
// it keeps its time. In turn up to as much may lie in the pool of a replica that does not need it while another
// refuses, for a lease's life. RuleState.Bound is the number for a rule.
//
// When the store fails three times in a row no request asks it; one goroutine tries until it answers (every 50 ms to 2 s).
// Until then a rule does what its OnFailure says. LocalShare admits up to the limit divided by the replicas last
// seen, of what this replica has admitted in the window, before as well; and while the store's last answer says what was left for
// all, only this replica's part of that. What is admitted without asking is told to the store when it is back.
//
// # Waiting
//
// With Rule.MaxWait a refused request waits in a queue of the counter that refuses it for the longest: tenants take turns,
// the requests of one tenant keep their order, and later requests do not overtake. At most 1,000 wait for a counter and 16,000
// for a rule; of places that tenants share, none may have more than it leaves free: one tenant alone gets half, and whoever
// comes then finds some. Only the first
// of a queue tries, when something was given back or its time has come; then it wakes the next. Who waits holds nothing.
//
// # Memory
//
// Counters are made when a subject first comes and forgotten when they are back at zero. Options.MaxCounters bounds
// them: under a flood of new names the counters that have used the smallest part of their limit are forgotten first. A counter
// that a running request depends on is never forgotten.
package limit
