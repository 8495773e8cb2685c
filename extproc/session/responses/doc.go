// Package responses is the memory of OpenAI's Responses API, for providers that have none: it keeps answers and conversations in
// sessions, finds what previous_response_id, conversation and item references mean, and serves the endpoints that show, list and delete
// what is kept. adapters/responses reads and prints the wire format; a session.Manager stores, encrypts and forgets.
//
// # Ids
//
// An id says where a thing is, so that no index is needed: resp_ and conv_ are followed by the 32 hexadecimal digits of a session,
// which are random, and resp_ then by 16 of a turn in it. Items have the digits of their turn. Knowing an id is not enough to read what
// it names: the address of a session holds its tenant and consumer, and another's is not found.
//
// # Chains and conversations
//
// A response that continues another lies in the session of the first. Every turn knows the one before it, so that two requests may
// continue the same one: each then sees what led to it, and nothing of the other. In a conversation every turn sees all that were
// completed before it began.
//
// A turn is kept when its answer is whole, just before its last bytes are sent. store: false keeps nothing, not even in a
// conversation. Instructions belong to one answer: they are kept as a part of its response object, and never said again.
package responses
