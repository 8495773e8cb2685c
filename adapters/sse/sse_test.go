package sse

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// show prints an event so that tests compare strings; absent data and comment are left out.
func show(ev Event) string {
	s := fmt.Sprintf("name=%q id=%q", ev.Name, ev.ID)
	if ev.Data != nil {
		s += fmt.Sprintf(" data=%q", ev.Data)
	}
	if ev.Comment != nil {
		s += fmt.Sprintf(" comment=%q", ev.Comment)
	}
	return s
}

// read feeds stream in chunks of size bytes.
func read(stream string, size int) (events []string, partial bool) {
	var r Reader
	for len(stream) > 0 {
		n := min(size, len(stream))
		r.Feed([]byte(stream[:n]), func(ev Event) { events = append(events, show(ev)) })
		stream = stream[n:]
	}
	return events, r.Partial()
}

func TestReader(t *testing.T) {
	tests := []struct {
		name, stream string
		want         []string
		partial      bool
	}{
		{"one event", "data: a\n\n", []string{`name="" id="" data="a"`}, false},
		{"no space after colon", "data:a\n\n", []string{`name="" id="" data="a"`}, false},
		{"only one space is dropped", "data:  a\n\n", []string{`name="" id="" data=" a"`}, false},
		{"several data lines", "data: a\ndata: b\ndata\n\n", []string{`name="" id="" data="a\nb\n"`}, false},
		{"empty data", "data:\n\n", []string{`name="" id="" data=""`}, false},
		{"CRLF", "event: x\r\ndata: a\r\n\r\ndata: b\r\n\r\n", []string{`name="x" id="" data="a"`, `name="" id="" data="b"`}, false},
		{"CR", "data: a\r\rdata: b\r\r", []string{`name="" id="" data="a"`, `name="" id="" data="b"`}, false},
		{"mixed ends", "data: a\r\n\ndata: b\n\r\ndata: c\n\r", []string{`name="" id="" data="a"`, `name="" id="" data="b"`, `name="" id="" data="c"`}, false},
		{"DashScope frame", "id:1\nevent:result\n:HTTP_STATUS/200\ndata:{\"a\":1}\n\n", []string{`name="result" id="1" data="{\"a\":1}" comment="HTTP_STATUS/200"`}, false},
		{"comment alone", ": ping\n\n", []string{`name="" id="" comment="ping"`}, false},
		{"event without data is dropped", "event: x\nid: 1\n\ndata: a\n\n", []string{`name="" id="" data="a"`}, false},
		{"id with NUL is ignored", "id: a\x00b\ndata: a\n\n", []string{`name="" id="" data="a"`}, false},
		{"unknown field and retry are ignored", "retry: 10\nfoo: bar\ndata: a\n\n", []string{`name="" id="" data="a"`}, false},
		{"byte order mark", "\xef\xbb\xbfdata: a\n\n", []string{`name="" id="" data="a"`}, false},
		{"byte order mark only at the start", "data: a\n\n\xef\xbb\xbfdata: b\n\n", []string{`name="" id="" data="a"`}, false},
		{"blank lines", "\n\n\r\n\n", nil, false},
		{"no blank line", "data: a\n\ndata: b\n", []string{`name="" id="" data="a"`}, true},
		{"cut in a line", "data: a\n\ndat", []string{`name="" id="" data="a"`}, true},
		{"cut after the event name", "event: x\n", nil, true},
		{"cut in a comment", ": pin", nil, false},
		{"rune", "data: Grüße 🌍\n\n", []string{`name="" id="" data="Grüße 🌍"`}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for size := 1; size <= len(tt.stream); size++ {
				got, partial := read(tt.stream, size)
				if strings.Join(got, "\n") != strings.Join(tt.want, "\n") || partial != tt.partial {
					t.Fatalf("chunks of %d:\n got %q, partial %v\nwant %q, partial %v", size, got, partial, tt.want, tt.partial)
				}
			}
		})
	}
}

func TestReaderBound(t *testing.T) {
	for _, size := range []int{1, 7, 4096} {
		r := Reader{Max: 100}
		var got int
		stream := "data: " + strings.Repeat("a", 80) + "\n\n" + strings.Repeat("data: "+strings.Repeat("b", 20)+"\n", 10) + "\n" + "data: c\n\n"
		for i := 0; i < len(stream); i += size {
			r.Feed([]byte(stream[i:min(i+size, len(stream))]), func(Event) { got++ })
		}
		if got != 1 || !errors.Is(r.Err(), ErrTooLarge) {
			t.Errorf("chunks of %d: %d events, error %v; want 1 and ErrTooLarge", size, got, r.Err())
		}
	}
}

func TestReaderDoesNotAllocate(t *testing.T) {
	var r Reader
	n := 0
	emit := func(ev Event) { n += len(ev.Data) }
	chunk := []byte("event: a\ndata: {\"x\":1}\n\n: ping\n\ndata: {\"y\"")
	rest := []byte(":2}\n\n")
	r.Feed(chunk, emit)
	r.Feed(rest, emit)
	if allocs := testing.AllocsPerRun(100, func() { r.Feed(chunk, emit); r.Feed(rest, emit) }); allocs != 0 {
		t.Errorf("%v allocations for two events, want 0", allocs)
	}
}

func FuzzReader(f *testing.F) {
	f.Add([]byte("event: x\r\ndata: a\r\n\r\n: c\n\ndata:b\rdata: c\r\r"), uint8(3))
	f.Add([]byte("\xef\xbb\xbfid:1\n:HTTP_STATUS/200\ndata:{}\n\n"), uint8(1))
	f.Fuzz(func(t *testing.T, stream []byte, size uint8) {
		whole, p1 := read(string(stream), len(stream)+1)
		cut, p2 := read(string(stream), int(size)+1)
		if strings.Join(whole, "\n") != strings.Join(cut, "\n") || p1 != p2 {
			t.Fatalf("cut at %d: %q %v, whole: %q %v", size+1, cut, p2, whole, p1)
		}
	})
}

func BenchmarkReader(b *testing.B) {
	chunk := bytes.Repeat([]byte("data: {\"id\":\"chatcmpl-1\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hello\"}}]}\n\n"), 10)
	var r Reader
	n := 0
	emit := func(ev Event) { n += len(ev.Data) }
	b.SetBytes(int64(len(chunk)))
	b.ReportAllocs()
	for b.Loop() {
		r.Feed(chunk, emit)
	}
}
