package usage

import (
	"bytes"
	"math"
	"unicode/utf8"

	"github.com/weir-dev/weir/adapters/canon"
)

// The message that Envoy puts the usage in.
const (
	tokenUsageName     = "envoy.data.ai.v3.TokenUsage"
	tokenUsageComplete = 1 // TokenUsage.COMPLETE
)

// tokenUsage reads the usage that Envoy found in an answer, in a google.protobuf.Any. It is false where that is broken; a message in it
// that is another, or is broken itself, is no usage.
func (e *entry) tokenUsage(b []byte) bool {
	e.usage, e.reported, e.completed = canon.Usage{}, false, false
	url, value, ok := textPair(b)
	if !ok {
		return false
	}
	if before, ok := bytes.CutSuffix(url, []byte(tokenUsageName)); !ok || len(before) > 0 && before[len(before)-1] != '/' {
		return true
	}
	var t tokenUsage
	if t.read(value) {
		e.usage, e.reported = t.usage()
		e.completed = e.reported && t.status == tokenUsageComplete
	}
	return true
}

// tokenUsage is an envoy.data.ai.v3.TokenUsage.
type tokenUsage struct {
	input, output, total, providerTotal number
	cached, cacheCreation, toolUse      number
	reasoning                           number
	status                              int32
}

func (t *tokenUsage) read(b []byte) bool {
	ok := true
	f := read(b)
	for ok && f.next() {
		switch f.tag {
		case 2<<3 | sized:
			ok = utf8.Valid(f.bytes) // the model, as the backend wrote it; protobuf takes no other
		case 3<<3 | sized:
			ok = t.input.read(f.bytes)
		case 4<<3 | sized:
			ok = t.output.read(f.bytes)
		case 5<<3 | sized:
			ok = t.total.read(f.bytes)
		case 6<<3 | sized:
			ok = readNumbers(f.bytes, &t.cached, &t.cacheCreation, &t.toolUse)
		case 7<<3 | sized:
			ok = readNumbers(f.bytes, &t.reasoning)
		case 8<<3 | sized:
			ok = t.providerTotal.read(f.bytes)
		case 9<<3 | varint:
			t.status = int32(f.value)
		}
	}
	return ok && !f.broken
}

// readNumbers reads a message whose first fields are these.
func readNumbers(b []byte, numbers ...*number) bool {
	ok := true
	f := read(b)
	for ok && f.next() {
		if n := f.tag >> 3; f.tag&7 == sized && n <= uint64(len(numbers)) {
			ok = numbers[n-1].read(f.bytes)
		}
	}
	return ok && !f.broken
}

// usage is what was reported; ok is false where there is no count. In every dialect its input covers what was read from caches and written
// to them, and its output covers reasoning, as in canon.Usage.
func (t *tokenUsage) usage() (u canon.Usage, ok bool) {
	u = canon.Usage{Input: count(t.input.value), Output: count(t.output.value)}
	// A part that is larger than its whole is a backend's mistake: no token is counted twice for it.
	u.CacheRead = min(count(t.cached.value), u.Input)
	u.CacheWrite = min(count(t.cacheCreation.value), u.Input-u.CacheRead)
	u.Reasoning = min(count(t.reasoning.value), u.Output)
	if ok = t.input.set || t.output.set; !ok {
		u = canon.Usage{}
	}
	return u, ok
}

// maxReported bounds a count, so that sums of many fit.
const maxReported = math.MaxInt64 >> 16

func count(n uint64) int64 { return int64(min(n, maxReported)) }
