// Package pick chooses, for each request, the endpoints of a pool that serve it.
//
// It decides by what this process itself has under way at the endpoints, not by what they reported some time ago: reports are
// equally old for all requests of a burst, and would send them all to one place. A Pick is a reservation: it counts at its
// endpoint from the choice on, until Done or Drop.
//
// The load of an endpoint is counted in tokens of prompts, less what its cache is expected to hold:
//
//	pending   what is not computed yet, as far as can be told: it grows with each Pick and drains at the measured speed
//	tokens    of all requests in flight, a quarter: who computes slower than was measured must not look idle
//	requests  in flight, at 256 tokens each: they are decoded, and share the steps of the engine
//
// The score of an endpoint is what its load would be with the request, over its speed relative to the pool and the factor
// of the rules. The least score wins, ties are drawn, unless the prompt's beginning or the session is at another endpoint and
// that one is not too far behind. See affine.
//
// Speed is measured as (pending tokens at the pick) / (time to the first token), as a ratio of slow averages, so that long
// waits count more than short ones. Relative to the base weight and the pool's median, it counts from 1/4 to 4, and not at all
// within 15 %: noise must not make equal endpoints unequal. Old samples fade within half a minute beside new ones; and where a
// dozen in a row were much quicker than the average, the endpoint has recovered, and only they count.
//
// Endpoint breakers are asked for the endpoint that is chosen, and for no other, so that the places of a half-open one
// are used by requests that really go there. The further endpoints of a list have closed breakers.
package pick
