package main

import (
	"bytes"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const printed = `goos: linux
goarch: amd64
pkg: github.com/weir-dev/weir/extproc/limit
cpu: some
BenchmarkAdmit                    	     200	      1234 ns/op	     256 B/op	       2 allocs/op
BenchmarkCompile/1000             	       3	  90000000 ns/op	 114.8 MB/s	12345678 B/op	  654321 allocs/op
PASS
ok  	github.com/weir-dev/weir/extproc/limit	0.1s
pkg: github.com/weir-dev/weir/adapters
BenchmarkStreamChunk/a-to-b/text  	     200	       120.5 ns/op	1400.00 MB/s	       0 B/op	       0 allocs/op
PASS
ok  	github.com/weir-dev/weir/adapters	0.1s
`

func TestRead(t *testing.T) {
	got := results{}
	if err := got.read([]byte(printed)); err != nil {
		t.Fatal(err)
	}
	want := results{
		"extproc/limit BenchmarkAdmit":              {2, 256},
		"extproc/limit BenchmarkCompile/1000":       {654321, 12345678},
		"adapters BenchmarkStreamChunk/a-to-b/text": {0, 0},
	}
	if !maps.Equal(got, want) {
		t.Errorf("read %v, want %v", got, want)
	}
	for text, problem := range map[string]string{
		printed:  "was run twice",
		"PASS\n": "no benchmark was run",
		"":       "no benchmark was run",
		"pkg: github.com/weir-dev/weir/x\nBenchmarkA 200 12 ns/op\n":                        "does not say what it allocates",
		"pkg: github.com/weir-dev/weir/x\nBenchmarkA 200 12 ns/op 1.5 B/op 1 allocs/op\n":   `"1.5" is no number of B/op`,
		"pkg: github.com/weir-dev/weir/x\nBenchmarkA 200 12 ns/op many B/op 1 allocs/op\n":  `"many" is no number of B/op`,
		"pkg: github.com/weir-dev/weir/x\nBenchmarkA 200 12 ns/op 1 allocs/op 3 furlongs\n": "does not say what it allocates",
	} {
		if err := got.read([]byte(text)); err == nil || !strings.Contains(err.Error(), problem) {
			t.Errorf("%.60q: %v, want %q", text, err, problem)
		}
	}
}

func TestCompare(t *testing.T) {
	before := results{
		"zero": {0, 0}, "zero with noise": {0, 0}, "two": {2, 200}, "two more": {2, 200}, "bytes": {5, 1000}, "some bytes": {5, 1000},
		"large": {10_000, 1 << 20}, "larger": {10_000, 1 << 20}, "fewer": {9, 500}, "lighter": {9, 5000}, "gone": {1, 1},
	}
	now := results{
		"zero": {1, 16}, "zero with noise": {0, 64}, "two": {3, 264}, "two more": {4, 200}, "bytes": {5, 1201}, "some bytes": {5, 1200},
		"large": {10_100, 1 << 20}, "larger": {10_101, 1 << 20}, "fewer": {7, 500}, "lighter": {9, 4000}, "new": {3, 3},
	}
	var out bytes.Buffer
	if n := printRows(&out, compare(before, now), len(now)); n != 5 {
		t.Errorf("%d regressions, want 5", n)
	}
	want := `      allocations     bytes               benchmark
MORE  5 -> 5          1000 -> 1201        bytes
MORE  10000 -> 10101  1048576 -> 1048576  larger
MORE  2 -> 4          200 -> 200          two more
MORE  0 -> 1          0 -> 16             zero
GONE  1               1                   gone
less  9 -> 7          500 -> 500          fewer
less  9 -> 9          5000 -> 4000        lighter
new   3               3                   new
11 benchmarks: 4 allocate more, 1 are gone, 2 allocate less, 1 are not in the baseline.
Run ` + "`go run ./test/benchcheck -update`" + ` to hold what is better or new.
`
	if out.String() != want {
		t.Errorf("printed\n%s\nwant\n%s", out.String(), want)
	}
	out.Reset()
	if n := printRows(&out, compare(now, now), len(now)); n != 0 || strings.Count(out.String(), "\n") != 1 {
		t.Errorf("%d regressions in what is the same:\n%s", n, out.String())
	}
}

func TestBaseline(t *testing.T) {
	path := filepath.Join(t.TempDir(), "baseline.json")
	b := baseline{Go: "go1.2", Benchmarks: results{"p B": {1, 2}}}
	if err := b.write(path); err != nil {
		t.Fatal(err)
	}
	got, err := readBaseline(path)
	if err != nil || got.Go != b.Go || !maps.Equal(got.Benchmarks, b.Benchmarks) {
		t.Errorf("%+v, %v", got, err)
	}
	for text, problem := range map[string]string{"{": "is no baseline", `{"go":"x"}`: "has no benchmarks", `{"other":1}`: "is no baseline"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := readBaseline(path); err == nil || !strings.Contains(err.Error(), problem) {
			t.Errorf("%s: %v", text, err)
		}
	}
	if err := run(filepath.Join(t.TempDir(), "none"), false, io.Discard, io.Discard); err == nil || !strings.Contains(err.Error(), "-update") {
		t.Errorf("without a baseline: %v", err)
	}
}

// TestCommitted holds the committed baseline against the suites: each package of theirs is in it, and no other.
func TestCommitted(t *testing.T) {
	b, err := readBaseline("baseline.json")
	if err != nil {
		t.Fatal(err)
	}
	want, got := map[string]bool{}, map[string]bool{}
	for _, s := range suites {
		for _, p := range s.packages {
			want[p] = true
		}
	}
	for name := range b.Benchmarks {
		pkg, _, _ := strings.Cut(name, " ")
		got[pkg] = true
	}
	if !maps.Equal(got, want) {
		t.Errorf("the baseline has benchmarks of %v, the suites of %v", got, want)
	}
}
