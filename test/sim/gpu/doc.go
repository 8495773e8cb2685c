// Package gpu runs a pool of simulated inference servers on loopback, each with GPUs of its own. They speak vLLM's dialect of
// OpenAI's chat completions, queue and batch and cache prefixes as package engine does, against the real clock, and publish
// what a gateway steers by: vLLM's metrics, those of NVIDIA's DCGM exporter, ORCA headers and health.
//
// Every server can be slowed down, stalled, made to fail, blinded and killed while it serves, in Go or over HTTP.
package gpu
