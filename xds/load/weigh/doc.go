// Package weigh turns what is known about the endpoints of a pool into weights, with a trace of why.
//
// Compute is a pure function of a Policy, the State that the last Compute left, what the endpoints tell, and the time. On every call each
// weight is made anew from the base weight:
//
//	weight = base x Scale x rules x latency x price x warm-up, at least the floor, and no further than a step from the last
//
// Rules multiply by their factor while a value is across a line: it begins beyond Enter and ends beyond Leave, for Rule.Samples values in
// a row. A value that swings about a level is judged by its average, once that is across the line.
// GPU utilisation says how much of the time a GPU works, not how much work there is: when most of a pool is over the line, an endpoint that is
// still 10 points above the median gets x0.85 more. Errors multiply by the share of requests that did not fail.
//
// Latency multiplies by (median of the pool / own time to the first token), within bounds, smoothed by time.
//
// What is missing is neither idle nor full. A value that is older than Policy.StaleAfter loses its effect over Policy.Decay, and never lifts
// a weight above the base by that; what was never told has no effect.
//
// Isolation is no small weight: failed health checks, a breaker that is not closed and a 429 that said for how long take an endpoint out at
// once, whatever a step allows, and who comes back warms up. So does who is new in a pool that runs. When too few are left, Policy.Panic
// lets those in again that only their health checks speak against; what requests themselves have shown is believed.
//
// With the numbers of Default, weights stay as they are at most 24 ticks of StepUnit after what endpoints tell has changed and stays: 4
// where only rules have something to say, and 24 where averages have to arrive. Decay and warm-up take the time that the policy gives them.
package weigh
