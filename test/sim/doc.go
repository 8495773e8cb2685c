// Package sim runs simulated LLM providers on loopback: OpenAI, Anthropic and Alibaba's DashScope in
// their true wire formats. They are the oracle that the gateway is judged by, so they share no code
// with its adapters, and they are strict: what the real API refuses is refused, with its status and
// in its error format.
//
// A Server is an http.Handler. What it answers is a pure function of the request and a seed; how it
// behaves (latency, chunking, faults) is set by Faults, at the start or while it runs, in Go or over
// HTTP under /_sim/. It records what it received, with credentials replaced by fingerprints.
package sim
