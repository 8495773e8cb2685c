// Package lane lets Envoy go on with requests that Weir has decided in advance.
//
// After a request has been decided, Weir may open a lane for others that are equal to it in everything that the decision depends
// on: a Maker takes limits, budgets and breakers for some of them ahead (a Claim each), and the Set writes how many into a slot
// of a file that Envoy's Lua has mapped. The Lua counts one off for each such request and lets it through without asking: a use.
// Every 5 ms the Set looks how many were counted, and begins them: they are open requests of the desk from then on. What nobody
// uses is cancelled when the lane ends.
//
// # The file
//
// Its numbers are in the order of the machine, which is little endian wherever Envoy runs. A header of 64 bytes is followed by
// 4096 slots of 64 bytes:
//
//	header   0 u32 magic 0x52494557    4 u32 layout = 1    8 f64 alive: Unix milliseconds until which lanes may be used
//	slot     0 u32 generation; 0: free                     4 u32 granted: uses let in so far in this generation
//	         8 u32 used: uses so far in this generation
//	        16 f64 requests: remaining requests + used; NaN: no such headers      24 f64 their reset, whole seconds
//	        32 f64 tokens: remaining tokens + used*each; NaN: no such headers     40 f64 their reset, whole seconds
//	        48 f64 each: tokens that one use takes, as many as the largest body of the lane would
//	        56 f64 bytes per token: by which each counts the body; 0: it does not
//
// A slot belongs to one lane, a lane to one Lua state (the key of Offer holds its name), and a Lua state is one thread: so "used" has
// one writer, and everything else is written here alone. The Lua knows its slot by the ticket that Offer gives,
// "<slot>:<generation>:<prefix>". The exchange ID of the n-th use is <prefix><n>.
//
// # Why it is exact
//
// A use, in the Lua, is
//
//	1  alive > now, generation is the ticket's, and used < granted, or ask Weir
//	2  write used+1 = n
//	3  read generation and granted again: unless generation is the ticket's and n <= granted, the use is void: ask Weir
//
// and the end of a lane, here, is
//
//	a  granted = 0
//	b  wait 50 us
//	c  read used: uses up to it are begun, claims beyond it are cancelled
//
// Between a and c a use is in one of three places. If its step 2 comes after c, its step 3 comes after a and sees it: it is void, and
// its claim was cancelled. If its step 2 is visible at c, it is begun; where its step 3 came before a that is right, and where it
// came after, the Lua says so, and Void tells the caller to take it off the desk. The case left is that step 3 did not see a, and c does not
// see step 2. A processor can do that: a store waits in a buffer while later loads go ahead. But only until the buffer has drained, which
// takes nanoseconds, and interrupts and changes of thread wait for it; that is what b is for. A Lua that is stopped between two steps for
// however long changes nothing: what is still before step 3 will see a.
//
// A Lua that is stopped between 1 and 2 writes its n into the slot late. So a slot rests for 10 s before it is used again, and those
// that have rested longest come first.
//
// The Lua takes a use back, too, where something fails after step 2. Void knows by the number what has to be undone.
//
// # When Weir dies
//
// Lanes may be used until "alive", which Run moves on every 50 ms, to 250 ms ahead. A new process begins with another generation, so that
// no old ticket matches.
package lane
