package tokens

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestSplit(t *testing.T) {
	for text, want := range map[string]string{
		"":                     "",
		"hello world":          "hello| world",
		"abcdefghij klmnopqrs": "abcdefgh|ij| klmnopqr|s",
		"12345 67":             "123|45| 67",
		"a1b2":                 "a|1|b|2",
		"漢字です":                 "漢|字|で|す",
		"naïve café, ok":       "naïve| café|,| ok",
		"a  b\n\n c":           "a| | b|\n\n| c",
		"🌊🚣 x":                 "🌊|🚣| x",
		`{"a":1}`:              `{|"|a|"|:|1|}`,
		"end  ":                "end|  ",
	} {
		if got := strings.Join(Split(text), "|"); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}

// FuzzSplit holds what the simulators rely on: nothing is lost, the count agrees, and a text cut after
// a token keeps its tokens.
func FuzzSplit(f *testing.F) {
	for _, s := range []string{"", "hello  world\n", "漢字 1234 naïve 🏞️.", "\xff\xfe x", "a \n b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		list := Split(s)
		if strings.Join(list, "") != s || len(list) != Count(s) || slices.Contains(list, "") {
			t.Fatalf("%q: %q", s, list)
		}
		for n := range list {
			if cut := strings.Join(list[:n], ""); Count(cut) != n {
				t.Fatalf("%q cut after %d tokens has %d", s, n, Count(cut))
			}
		}
	})
}

func TestObserve(t *testing.T) {
	now := time.Unix(1e9, 0)
	how := Implicit{Block: 128, Min: 1024, TTL: time.Minute}
	c := NewCache()
	long := strings.Repeat("word ", 1500)
	see := func(scope, prompt string, at time.Time, want int) {
		t.Helper()
		if total, cached := c.Observe(scope, prompt, how, at); cached != want || total != Count(prompt) {
			t.Errorf("%d of %d cached, want %d", cached, total, want)
		}
	}
	see("a", long, now, 0)
	see("a", long, now, 1408)
	see("a", long[:6000]+strings.Repeat("other ", 500), now, 1152)
	see("b", long, now, 0)
	see("a", long, now.Add(2*time.Minute), 0)
	see("a", "short", now, 0)
	see("a", "short", now, 0)
}

func TestMarked(t *testing.T) {
	now := time.Unix(1e9, 0)
	c := NewCache()
	part := func(word string, n int, ttl time.Duration) Segment {
		return Segment{Text: strings.TrimSpace(strings.Repeat(word+" ", n)), TTL: ttl}
	}
	see := func(parts []Segment, read, written, hour int) {
		t.Helper()
		if _, r, w, h := c.Marked("a", parts, 1024, now); r != read || w != written || h != hour {
			t.Errorf("read %d, written %d, hour %d; want %d, %d, %d", r, w, h, read, written, hour)
		}
	}
	first := part("one", 1100, 5*time.Minute)
	see([]Segment{part("one", 1100, 0)}, 0, 0, 0)
	see([]Segment{part("one", 100, time.Minute)}, 0, 0, 0)
	see([]Segment{first, part("two", 10, 0)}, 0, 1100, 0)
	see([]Segment{first, part("three", 10, 0)}, 1100, 0, 0)
	see([]Segment{first, part("four", 50, time.Hour)}, 1100, 50, 50)
	see([]Segment{first, part("four", 50, time.Hour), part("five", 5, time.Minute)}, 1150, 5, 0)
	see([]Segment{part("one", 1100, 0)}, 0, 0, 0)
}

func TestCacheIsBounded(t *testing.T) {
	c := NewCache()
	for i := range uint64(maxEntries + 10) {
		c.remember(i, time.Unix(1e9, 0))
	}
	if len(c.until) != maxEntries || c.seen(5, time.Unix(1, 0)) || !c.seen(maxEntries+5, time.Unix(1, 0)) {
		t.Errorf("%d entries", len(c.until))
	}
}
