package main

import (
	"bytes"
	"time"
)

// A stamp is when the upstream sent an event, in its text: "@" + nanoseconds of the machine's monotonic clock, which all
// processes share, in 19 digits + "@". Zero is none.
const (
	stampMark   = '@'
	stampDigits = 19
	stampBytes  = stampDigits + 2
)

var noStamp = append(append([]byte{stampMark}, bytes.Repeat([]byte{'0'}, stampDigits)...), stampMark)

// putStamp writes a stamp into b.
func putStamp(b []byte, nanos int64) {
	b[0], b[stampBytes-1] = stampMark, stampMark
	for i := stampDigits; i > 0; i-- {
		b[i] = byte('0' + nanos%10)
		nanos /= 10
	}
}

// takeStamp finds the first stamp in b, and what comes after it. Where there is none, rest is where one may have begun, and
// ok is false.
func takeStamp(b []byte) (nanos int64, rest []byte, ok bool) {
	for {
		i := bytes.IndexByte(b, stampMark)
		if i < 0 {
			return 0, b[len(b):], false
		}
		if len(b)-i < stampBytes {
			return 0, b[i:], false
		}
		if n, ok := readStamp(b[i : i+stampBytes]); ok {
			return n, b[i+stampBytes:], true
		}
		b = b[i+1:]
	}
}

func readStamp(b []byte) (n int64, ok bool) {
	if b[stampBytes-1] != stampMark {
		return 0, false
	}
	for _, c := range b[1 : stampBytes-1] {
		if c < '0' || c > '9' || n > (1<<63-1-9)/10 {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}

// follower watches a paced stream come in.
type follower struct {
	seen    int           // bytes of the body that have been looked at
	stamps  int           // of this stream
	last    int64         // when the last event came
	first   time.Duration // from when the stream was due to the first event
	delays  []time.Duration
	longest time.Duration // between two events of one stream
}

// begin a stream.
func (f *follower) begin() { f.seen, f.stamps, f.last = 0, 0, 0 }

// look at a body that has grown, at a time of the monotonic clock; since is how long ago the stream was due. It reports whether the
// first event has just come.
func (f *follower) look(body []byte, now int64, since time.Duration) (begun bool) {
	b := body[f.seen:]
	for {
		sent, rest, ok := takeStamp(b)
		b = rest
		if !ok {
			break
		}
		f.delays = append(f.delays, time.Duration(now-sent))
		if f.stamps == 0 {
			f.first, begun = since, true
		} else {
			f.longest = max(f.longest, time.Duration(now-f.last))
		}
		f.stamps++
		f.last = now
	}
	f.seen = len(body) - len(b)
	return begun
}
