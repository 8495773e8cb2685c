// Package engine is an LLM inference server in virtual time: continuous batching with chunked prefill, a paged cache of
// keys and values with prefix reuse, preemption by recomputing, and a step time that is linear in what the step does.
// It follows vLLM's scheduler (V1) closely enough that queues, caches and latencies behave alike, and knows no clock, no
// network and no text: the same calls give the same events.
//
// Times are durations since the beginning of the simulation. The user submits requests and calls Advance; what happens is
// told through Options.Emit, in order. An Engine is not safe for concurrent use.
package engine
