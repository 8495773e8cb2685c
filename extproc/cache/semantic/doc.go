// Package semantic finds the answer to a request among those to requests that mean the same in other words.
//
// What a request means is the embedding of its last user text, made by a model of the callers' own choice through the gateway itself.
// All else must be the same to the byte of its canonical form: the model, the system prompt, tools, parameters, earlier turns, the
// tenant (key.Guard). Requests that share a guard are a space, and an answer is only looked for in its own space. The nearest
// vector counts if its cosine similarity reaches the policy's threshold.
//
// An index holds vectors and the keys of answers, never answers: those are in the cache, which checks who may read them. What is no
// longer in the cache is forgotten when it is found here. So a purge, or the end of an answer's time, needs nothing of an index to
// be right.
//
// There are two: in the memory of a replica, exact, and in Redis where that has vector sets (Redis 8), approximate and shared.
// docs/semantic-cache.md says which is used when, and what they cost.
package semantic
