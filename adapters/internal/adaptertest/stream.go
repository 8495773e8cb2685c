package adaptertest

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/weir-dev/weir/adapters/canon"
)

// Decode feeds a stream to a new decoder, in the given pieces, and prints the events with show. It
// fails the test if an event follows a true Ended in Feed, or Ended becomes false again.
func Decode(t testing.TB, d canon.StreamDecoder, show func(*canon.Event) string, pieces ...[]byte) string {
	t.Helper()
	var out strings.Builder
	emit := func(ev *canon.Event) { out.WriteString(show(ev) + "\n") }
	for _, p := range pieces {
		ended, before := d.Ended(), out.Len()
		p = bytes.Clone(p)
		d.Feed(p, emit)
		for i := range p {
			p[i] = 'x' // the decoder must not keep the chunk
		}
		if ended && (out.Len() > before || !d.Ended()) {
			t.Fatalf("fed %q after its end, the decoder says %q, and Ended %v", p, out.String()[before:], d.Ended())
		}
	}
	d.End(emit)
	return out.String()
}

// Ending cuts a stream in two at each of its bytes and tells after which line Ended becomes true, or
// that it never does. It fails the test if that place depends on the cut, if a caller who stops
// feeding there reads anything else than one who does not, or if bytes fed after it are not ignored.
func Ending(t *testing.T, fresh func() canon.StreamDecoder, stream []byte) string {
	t.Helper()
	never := len(stream) + 1
	place, d := never, fresh()
	for i := range stream {
		d.Feed(stream[i:i+1], func(*canon.Event) {})
		if d.Ended() {
			place = i + 1
			break
		}
	}
	whole := Decode(t, fresh(), Line, stream)
	for cut := range len(stream) + 1 {
		d, told := fresh(), ""
		emit := func(ev *canon.Event) { told += Line(ev) + "\n" }
		d.Feed(stream[:cut], emit)
		if got, want := d.Ended(), cut >= place; got != want {
			t.Fatalf("fed its first %d bytes, Ended is %v, want %v: fed one by one, byte %d makes it true", cut, got, want, place)
		}
		if cut < place {
			d.Feed(stream[cut:], emit)
			if got, want := d.Ended(), place != never; got != want {
				t.Fatalf("cut at %d and fed whole, Ended is %v, want %v", cut, got, want)
			}
		}
		before := told
		if d.Ended() {
			// The same stream again, and an event that never ends: none of it is the answer's.
			d.Feed(append(bytes.Clone(stream), "data: {"...), emit)
			if told != before {
				t.Fatalf("fed after its end, the decoder adds %q", told[len(before):])
			}
		}
		if d.End(emit); told != whole {
			t.Fatalf("cut at %d, ended when Ended says so:\n%s\nthe whole stream:\n%s", cut, told, whole)
		}
	}
	if place == never {
		return "(ended by no line)\n"
	}
	return fmt.Sprintf("(ended by line %d of %d)\n", lines(stream[:place]), lines(stream))
}

// lines counts the lines of a text up to the last that is not blank.
func lines(text []byte) int {
	return 1 + bytes.Count(bytes.TrimRight(text, "\r\n"), []byte("\n"))
}

// CheckOrder holds events, as Line prints them, to the order that canon.EventKind promises to
// encoders.
func CheckOrder(t testing.TB, text string) {
	t.Helper()
	state, tools := 0, 0 // 0 before start, 1 deltas, 2 after finish, 3 after usage, 4 ended
	for _, l := range strings.Split(strings.TrimSpace(text), "\n") {
		word, rest, _ := strings.Cut(l, " ")
		switch {
		case state == 4:
			t.Fatalf("%q after an error", l)
		case word == "error":
			state = 4
		case word == "ping":
		case word == "start" && state == 0:
			state = 1
		case word == "finish" && state == 1:
			state = 2
		case word == "usage" && state == 2:
			state = 3
		case word == "tool" && state == 1:
			if !strings.HasPrefix(rest, fmt.Sprintf("%d ", tools)) {
				t.Fatalf("%q is not call number %d", l, tools)
			}
			tools++
		case state == 1 && (word == "text" || word == "refusal" || word == "reasoning" || word == "args"):
		default:
			t.Fatalf("%q in state %d of\n%s", l, state, text)
		}
	}
	if state < 2 {
		t.Fatalf("neither finish nor error:\n%s", text)
	}
}
