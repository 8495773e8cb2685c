package signal

import (
	"time"

	"github.com/cespare/xxhash/v2"
)

// Health is the Source of a Shared that is the result of a health check.
const Health = -1

// Shared is what one process has read of an endpoint, for others that steer it too.
type Shared struct {
	Backend, Endpoint string
	// Source is the index among the Backend's metrics, or Health.
	Source int
	// Of is the Fingerprint of what was asked. Who would ask something else has no use for the answer.
	Of uint64
	// Reading tells readings of one source apart, whichever way they come.
	Reading uint64
	// At is when it was read, by the clock of whoever has this.
	At time.Time
	// Fault is the kind of what was wrong and Err the words for it; both empty where it could be read, or the endpoint is well.
	Fault, Err string
	// Run is how many of the last checks in a row ended like this one. Health only.
	Run int
	// Sample is empty for Health, and where there is an Err.
	Sample Sample
}

// OK says that it was read, or that the endpoint is well.
func (s *Shared) OK() bool { return s.Err == "" && s.Fault == "" }

// Fingerprint is a number for what is asked of an endpoint, the same in every process.
func Fingerprint(parts ...string) uint64 {
	var d xxhash.Digest
	d.Reset()
	for _, p := range parts {
		_, _ = d.WriteString(p) // never fails
		_, _ = d.Write([]byte{0})
	}
	return d.Sum64()
}
