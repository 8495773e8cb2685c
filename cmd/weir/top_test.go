package main

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/weir-dev/weir/console/api"
)

func topOf(t *testing.T) *topScreen {
	t.Helper()
	admin := adminClient{at: aGateway(t, "").URL}
	if err := admin.open(); err != nil {
		t.Fatal(err)
	}
	s := &topScreen{order: byRate, at: "127.0.0.1:8081"}
	if err := s.fetch(t.Context(), &admin); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestTopPlain(t *testing.T) {
	s := topOf(t)
	golden(t, "top/plain.txt", strings.Join(s.plain(), "\n")+"\n")
	out, err := weir("", "top", "--admin", aGateway(t, "").URL, "--sort", "name")
	if err != nil || !strings.Contains(out, "default/chat") || strings.Contains(out, "\x1b") {
		t.Errorf("%v\n%q", err, out)
	}
	if _, err := weir("", "top", "--sort", "size"); err == nil || !strings.Contains(err.Error(), "use rate, errors, latency, tokens, in-flight, name") {
		t.Error(err)
	}
}

// TestTopFrames: whatever the size of the terminal, a frame has its lines and no line is wider.
func TestTopFrames(t *testing.T) {
	s := topOf(t)
	s.trouble = "no gateway answers at 127.0.0.1:8081"
	for height := range 40 {
		for _, width := range []int{0, 1, 20, 80, 300} {
			frame := s.frame(width, height)
			text := strings.NewReplacer("\x1b[H", "", "\x1b[K", "", "\x1b[J", "").Replace(frame)
			if strings.Contains(text, "\x1b") {
				t.Fatalf("a name speaks to the terminal: %q", text)
			}
			lines := strings.Split(text, "\r\n")
			if len(lines) != max(1, height) {
				t.Errorf("%d lines on a terminal of %d", len(lines), height)
			}
			for _, l := range lines {
				if utf8.RuneCountInString(l) > width {
					t.Errorf("%q is wider than %d", l, width)
				}
			}
		}
	}
	frame := strings.NewReplacer("\x1b[H", "", "\x1b[K", "", "\x1b[J", "", "\r\n", "\n").Replace(s.frame(100, 16))
	golden(t, "top/frame.txt", frame+"\n")
}

// TestTopOrder: a key sorts, by what it says.
func TestTopOrder(t *testing.T) {
	s := topOf(t)
	for _, c := range []struct {
		key    byte
		change bool
		first  string // of the routes
	}{
		{'e', true, "(no route)"}, {'e', false, "(no route)"}, {'N', true, "(no route)"}, {'t', true, "default/chat"}, {'f', true, "default/chat"},
		{'l', true, "(no route)"}, {'r', true, "default/chat"}, {'x', false, "default/chat"}, {' ', false, "default/chat"},
	} {
		if got := s.press(c.key); got != c.change || s.tables()[0].rows[0][0] != c.first {
			t.Errorf("%c: %v, first is %s; want %v, %s", c.key, got, s.tables()[0].rows[0][0], c.change, c.first)
		}
	}
}

// TestTopLoop draws at once and for each change, and ends by a key, the end of the input, the context, or a terminal that is gone.
func TestTopLoop(t *testing.T) {
	gone := errors.New("gone")
	for _, c := range []struct {
		name string
		last func(keys chan byte, stop context.CancelFunc, size chan error)
		want error
	}{
		{"q", func(keys chan byte, _ context.CancelFunc, _ chan error) { keys <- 'q' }, nil},
		{"Ctrl-C", func(keys chan byte, _ context.CancelFunc, _ chan error) { keys <- ctrlC }, nil},
		{"end of the input", func(keys chan byte, _ context.CancelFunc, _ chan error) { close(keys) }, nil},
		{"signal", func(_ chan byte, stop context.CancelFunc, _ chan error) { stop() }, nil},
		{"no terminal any more", func(_ chan byte, _ context.CancelFunc, size chan error) { size <- gone }, gone},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, stop := context.WithTimeout(t.Context(), time.Minute)
			defer stop()
			s := topOf(t)
			keys, fetched, frames, size := make(chan byte), make(chan func(*topScreen)), make(chan string), make(chan error, 1)
			ended := make(chan error, 1)
			go func() {
				ended <- s.loop(ctx, topEvents{
					keys: keys, fetched: fetched,
					size: func() (int, int, error) {
						select {
						case err := <-size:
							return 0, 0, err
						default:
							return 100, 20, nil
						}
					},
					draw: func(text string) error { frames <- text; return nil },
				})
			}()
			if f := <-frames; !strings.Contains(f, "[r rate]") {
				t.Errorf("the first frame is %q", f)
			}
			keys <- 'n'
			if f := <-frames; !strings.Contains(f, "[n name]") {
				t.Errorf("after n the frame is %q", f)
			}
			keys <- 'x' // draws nothing
			fetched <- func(s *topScreen) { s.topology, s.trouble = api.Topology{Version: "next"}, "late" }
			if f := <-frames; !strings.Contains(f, "configuration next") || !strings.Contains(f, "NOT UP TO DATE: late") {
				t.Errorf("after news the frame is %q", f)
			}
			c.last(keys, stop, size)
			if err := <-ended; !errors.Is(err, c.want) {
				t.Errorf("it ended with %v", err)
			}
		})
	}
}

// TestReadKeys passes keys on, and none of what arrows send.
func TestReadKeys(t *testing.T) {
	in, out := io.Pipe()
	keys := make(chan byte)
	go readKeys(t.Context(), in, keys)
	go func() {
		for _, piece := range []string{"r", "\x1b[A", "ne"} {
			_, _ = io.WriteString(out, piece) // the reader takes it
		}
		out.Close()
	}()
	var got []byte
	for k := range keys {
		got = append(got, k)
	}
	if string(got) != "rne" {
		t.Errorf("got %q", got)
	}
}
