// Package cache keeps answers of models and gives them again, so that an answer is not bought twice.
//
// A request is asked for by its Key, which package key makes of all that the answer depends on. A Cache looks for it in the
// memory of this replica and then in Redis, which the replicas share. What is in neither is bought: of many requests for one
// answer one does that, and the others read what it gets while it gets it (Do). An entry says whose it is, by which policy and
// under which key, and is checked against who asks each time it is read, so that no mistake in a tier gives an answer to a
// wrong caller.
//
// Redis is never needed. What it cannot do in its time is done without it, and then it is left alone until it answers again:
// nobody waits for it twice. See docs/cache.md and docs/decisions/030.
package cache
