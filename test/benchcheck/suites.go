package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
)

// suite is a set of benchmarks that are run together. Those that run in parallel, or whose memory depends on luck, are in none.
type suite struct {
	times    int      // that each benchmark is run
	bench    string   // a regular expression of their names, for go test
	packages []string // below the root of the module
}

// suites are all benchmarks that are checked.
var suites = []suite{
	{200, "^Benchmark(StreamChunk|ParseRequest|BuildCall|SetModel|Answer|Classify|Reader|Check|AppendString|Str)$",
		[]string{"adapters", "adapters/jsonx", "adapters/sse"}},
	{200, "^Benchmark(DecideDirect|DecideChain|DecideTranslated|Attempt|Decision|Piece)$", []string{"extproc"}},
	{200, "^Benchmark(Key|TokenHit|TokenVerify|UnknownKey)$", []string{"extproc/identity"}},
	{200, "^Benchmark(Admit|Refuse|Find|AllowDone|Begin)$",
		[]string{"extproc/limit", "extproc/table", "extproc/breaker", "internal/trace"}},
	{200, "^Benchmark(Turn|Exchange)$", []string{"extproc/session", "extproc/session/responses"}},
	{3, "^BenchmarkCompile$/^1000$", []string{"xds/compile"}},
	{200, "^BenchmarkChange$/./^1000$", []string{"xds/compile"}},
}

// String tells what is run.
func (s suite) String() string {
	return fmt.Sprintf("%s %dx in %s", s.bench, s.times, strings.Join(s.packages, ", "))
}

// run runs the suite and gives what go test printed. One processor and no collection: the names of benchmarks are the same on
// every machine, and no pool is emptied on the way.
func (s suite) run(progress io.Writer) ([]byte, error) {
	args := []string{"test", "-run", "^$", "-bench", s.bench, "-benchmem", "-benchtime", strconv.Itoa(s.times) + "x", "-cpu", "1", "-timeout", "5m"}
	for _, p := range s.packages {
		args = append(args, "./"+p)
	}
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), "GOGC=off")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, progress
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", cmd, err, out.Bytes())
	}
	return out.Bytes(), nil
}
