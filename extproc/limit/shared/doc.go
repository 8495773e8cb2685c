// Package shared counts limits and budgets in Redis (6.2 or later), for all replicas of a gateway together: it is the
// limit.Remote of a gateway with sharedState.
//
// # How it counts
//
// Every call is one Lua script on one key, so one round trip that is atomic, in a cluster as well. Redis's clock is the
// only one that counts. There is a script for each way of counting:
//
//   - Sliding window: units by slot of time, each a 32nd of the window. A slot counts until its last moment has left the
//     window: no window ever holds more than the limit, and at full pressure a limit lets through at least 32/33 of itself.
//   - Token bucket: a level and when it was that; rounded so that it never gains a token.
//   - Calendar and Concurrent: one field per replica, of what that one has taken in all; the sum is what is used. A
//     replica writes only its own field and remembers it.
//
// A replica that wants more than it needs at once gets at most half of its part of what is left, so that the last units
// of a limit do not lie idle in one place.
//
// Every key expires: windows when they are over, buckets when they are full, concurrent requests after three times
// the time that a replica is taken for dead, budgets a day after their period.
//
// # What a failing Redis loses
//
// A command is never repeated when its outcome is unknown. If it was done all the same, a window or bucket counts the
// units until they run out on their own; budgets and concurrent requests are put right by the next call for the
// counter, or within a beat (a second). Only the first call of a process for a budget, while it does not know yet what
// its ID has spent before, leaves what it asked for counted.
//
// Redis may come back empty (killed without persistence, FLUSHALL), or without its last writes (failover: replication is
// asynchronous). Then:
//
//   - Budgets and concurrent requests heal. Replicas notice within a beat, by the epoch in the registry or by a field of
//     their own that is gone or too low, and write their totals again. Until the others have done so too (three beats) a
//     replica that knows answers ErrRestoring for them, which is a store that cannot be reached: the policy's onFailure
//     decides. What may be spent too much is what replicas that have not noticed yet grant in one beat: for a counter
//     that they have used, nothing. For one they have not, they see the part of the others only.
//     Not restored is what was spent by a replica that does not run any more and has not restarted with the same ID:
//     Restore brings it back, from the ledger.
//   - Windows and buckets do not heal: one flush lets through at most one more limit (a bucket: one more burst) of
//     each counter. A failover lets through again what was counted in the writes that were lost.
//
// A replica that dies with leases leaves them counted: in windows and buckets until they run out, in budgets until the
// end of the period (at most one lease for each death), in concurrent requests for the time until it is taken for dead.
package shared
