// Package trace holds the place that a request has in a distributed trace (W3C Trace Context), in the form in which Weir, Envoy
// and the records of requests share it.
//
// All spans of one request have IDs that differ in their last digit only, so that Envoy can name the span of an attempt
// by counting attempts, and nobody needs to be told of it.
package trace

import (
	"encoding/hex"
	"math/rand/v2"
)

// Place is where a request is in a trace. The zero value is nowhere.
type Place struct {
	Trace  string // 32 hex digits
	Span   string // 15 hex digits: those that the request's spans have in common
	Parent string // 16 hex digits: the caller's span; "" where the trace begins here
	// Sampled is the head's decision: of the caller, or of Weir where the trace begins here.
	Sampled bool
}

// The last digit of the IDs of a request's spans. Attempts have their number, from 1.
const (
	Request  = '0'
	Decision = 'd'
)

const lengthOfTraceparent = len("00-0123456789abcdef0123456789abcdef-0123456789abcdef-00")

// Begin makes the place of a request that came with a traceparent header, "" for none. One that is not well formed counts for nothing,
// as the specification has it. sampled decides for a trace that begins here.
func Begin(traceparent string, sampled func(traceID string) bool) Place {
	// All of it is one piece of memory, and none of it the caller's, which may be a part of something large.
	line := make([]byte, 32, 32+15+16)
	id, parent, flags := parse(traceparent)
	if id != "" {
		copy(line, id)
	} else {
		var random [16]byte
		for random == [16]byte{} {
			fill(random[:8])
			fill(random[8:])
		}
		hex.Encode(line, random[:])
	}
	line = append(appendSpan(line), parent...)
	text := string(line)
	p := Place{Trace: text[:32], Span: text[32:47], Parent: text[47:]}
	if id != "" {
		p.Sampled = flags&1 != 0
	} else {
		p.Sampled = sampled(p.Trace)
	}
	return p
}

// appendSpan makes the common part of span IDs, which is not all zeros.
func appendSpan(dst []byte) []byte {
	var b [8]byte
	for {
		fill(b[:])
		var digits [16]byte
		hex.Encode(digits[:], b[:])
		if string(digits[:15]) != "000000000000000" {
			return append(dst, digits[:15]...)
		}
	}
}

func span() string { return string(appendSpan(nil)) }

func fill(b []byte) {
	n := rand.Uint64() // ChaCha8, seeded by the system
	for i := range b {
		b[i] = byte(n >> (8 * i))
	}
}

// Parse reads what Header and Flags wrote, and the parent that was kept beside it.
func Parse(header, flags, parent string) Place {
	if len(header) != lengthOfTraceparent-len("0-00") || !isHex(header[3:35]) || !isHex(header[36:]) {
		return Place{}
	}
	return Place{Trace: header[3:35], Span: header[36:], Parent: parent, Sampled: flags == flagsSampled}
}

// Of reads a traceparent header as it is at the end of a request that Weir has not decided: the caller's. The request's own spans
// have new IDs. It is the zero value for what is none.
func Of(traceparent string) Place {
	id, parent, flags := parse(traceparent)
	if id == "" {
		return Place{}
	}
	return Place{Trace: id, Span: span(), Parent: parent, Sampled: flags&1 != 0}
}

const (
	flagsSampled   = "-01"
	flagsUnsampled = "-00"
)

// Header is a traceparent without the last digit of the span and what follows it.
func (p Place) Header() string { return "00-" + p.Trace + "-" + p.Span }

// Flags is what follows that digit.
func (p Place) Flags() string {
	if p.Sampled {
		return flagsSampled
	}
	return flagsUnsampled
}

// ID is the ID of a span: of Request, Decision, or an attempt as Attempt counts it.
func (p Place) ID(digit byte) string { return p.Span + string(digit) }

// maxAttempts that have an ID: the digits 1 to 9.
const maxAttempts = 9

// Attempt is the last digit of the n-th attempt, from 1. ok is false for those that have none: Envoy then sends a header that providers
// take for none.
func Attempt(n int) (digit byte, ok bool) {
	if n < 1 || n > maxAttempts {
		return 0, false
	}
	return '0' + byte(n), true
}

// AttemptOf finds the common part of the IDs, and the attempt's number, in the traceparent that an attempt was sent with.
func AttemptOf(traceparent string) (span string, n int, ok bool) {
	_, id, _ := parse(traceparent)
	if id == "" || id[15] < '1' || id[15] > '9' {
		return "", 0, false
	}
	return id[:15], int(id[15] - '0'), true
}

// parse reads a traceparent of any version that begins like version 00; "" for what is none.
func parse(s string) (traceID, spanID string, flags byte) {
	if len(s) < lengthOfTraceparent || s[2] != '-' || s[35] != '-' || s[52] != '-' || !isHex(s[:2]) || s[:2] == "ff" ||
		!isHex(s[3:35]) || !isHex(s[36:52]) || !isHex(s[53:55]) {
		return "", "", 0
	}
	if len(s) > lengthOfTraceparent && (s[:2] == "00" || s[55] != '-') {
		return "", "", 0
	}
	if s[3:35] == "00000000000000000000000000000000" || s[36:52] == "0000000000000000" {
		return "", "", 0
	}
	return s[3:35], s[36:52], digit(s[53])<<4 | digit(s[54])
}

func digit(c byte) byte {
	if c >= 'a' {
		return c - 'a' + 10
	}
	return c - '0'
}

// isHex says whether all of it is lower-case hex, which is all that the specification allows.
func isHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
