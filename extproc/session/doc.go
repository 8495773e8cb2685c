// Package session keeps conversations for providers that keep none. A request that names a session gets its last turns, in
// its caller's dialect; beside the turns stand slots, entities, an intent and the state of a finite state machine.
//
// # What is kept together
//
// A Session is one value: encoded, compressed in segments and, where a key is given, encrypted; in memory and in Redis alike. Every change is a function
// that is applied to what is there now and written only if that is still there (a Version of random bytes); if not, it is
// applied again. So two requests at once lose nothing:
//
//   - Turns are appended as wholes, input with answer, in the order in which they were completed. What continues a tool call stands
//     behind the turn with the call, wherever that is.
//   - Slots and entities are merged by name: of two that write the same name, the one that completes later wins. So it is with the intent.
//   - Events of the state machine are applied to the state that is there when they are written.
//   - A change that is applied twice, because the outcome of a write was not known, is there once: turns have IDs.
//
// What was erased stays erased: a request that began before does not bring its session back (Manager.Erase).
//
// # Who sees what
//
// An Address is a tenant, a consumer and a name. All three are part of the key, and of what authenticates the encrypted value: a value that is
// moved to another key cannot be read. A value that says it belongs to somebody else than its key is not read either.
//
// Texts, slots and names of consumers and sessions are never logged and are no label of a metric.
package session
