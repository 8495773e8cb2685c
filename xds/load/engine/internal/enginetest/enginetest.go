// Package enginetest tests the readers of engines against pages in testdata.
package enginetest

import (
	"bytes"
	"io"
	"math"
	"os"
	"path/filepath"
	"testing"
	"testing/iotest"
	"time"

	"github.com/weir-dev/weir/xds/load/signal"
)

// Reader is engine.Reader, which lists the packages that are tested here.
type Reader interface {
	Read(r io.Reader, at time.Time) (signal.Sample, error)
}

// Step is one reading of a story.
type Step struct {
	Page  string        // file in testdata
	After time.Duration // since the reading before
	Want  signal.Sample // At is not looked at
}

// Start is the time from which the first step counts.
func Start() time.Time { return time.Date(2026, 3, 14, 9, 26, 53, 0, time.UTC) }

// Run reads the pages with one Reader: once whole, and once more byte by byte with another.
func Run(t *testing.T, fresh func() Reader, story []Step) {
	t.Helper()
	whole, bytewise := fresh(), fresh()
	at := Start()
	for i, step := range story {
		at = at.Add(step.After)
		text := Page(t, step.Page)
		got, err := whole.Read(bytes.NewReader(text), at)
		if err != nil {
			t.Fatalf("step %d, %s: %v", i, step.Page, err)
		}
		want := step.Want
		want.At = at
		if !equal(got, want) {
			t.Errorf("step %d, %s:\n got %+v\nwant %+v", i, step.Page, got, want)
		}
		if again, err := bytewise.Read(iotest.OneByteReader(bytes.NewReader(text)), at); err != nil || again != got {
			t.Errorf("step %d, %s, byte by byte: %+v, %v; whole: %+v", i, step.Page, again, err, got)
		}
	}
}

// Page is a file in testdata.
func Page(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// Allocs reads the page again and again, and fails if a reading allocates more often than most.
func Allocs(t *testing.T, r Reader, page []byte, most float64) {
	t.Helper()
	src, at := bytes.NewReader(page), Start()
	got := testing.AllocsPerRun(50, func() {
		src.Reset(page)
		at = at.Add(time.Second)
		if _, err := r.Read(src, at); err != nil {
			t.Fatal(err)
		}
	})
	if got > most {
		t.Errorf("a reading allocates %v times, more than %v", got, most)
	}
}

// Has is the set of those metrics.
func Has(metrics ...signal.Metric) (s signal.Set) {
	for _, m := range metrics {
		s = s.With(m)
	}
	return s
}

func equal(a, b signal.Sample) bool {
	near := func(x, y float64) bool { return math.Abs(x-y) <= 1e-9*math.Max(1, math.Abs(y)) }
	return a.At.Equal(b.At) && a.Has == b.Has && near(a.Waiting, b.Waiting) && near(a.Running, b.Running) && near(a.KVCache, b.KVCache) &&
		(a.QueueDelay-b.QueueDelay).Abs() < time.Microsecond && near(a.GPUUtilization, b.GPUUtilization) &&
		near(a.GPUMemory, b.GPUMemory) && near(a.Headroom, b.Headroom) && near(a.KVTokens, b.KVTokens)
}
