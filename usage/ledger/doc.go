// Package ledger keeps one entry for every request that was let in: who, what, how many tokens, how much money.
//
// It is a folder of append-only JSON lines, written by one process per slot. Begin notes that a request was let in,
// Commit enters it when it has ended; both only put it into a buffer. The buffers are written every FlushEvery and
// made durable every SyncEvery. So kill -9 loses what began or ended within the last FlushEvery, and a power failure
// within the last SyncEvery; every older request is in the ledger: exact if it had ended, estimated and flagged as
// interrupted if not. No entry is ever there twice.
package ledger
