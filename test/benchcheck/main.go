// Command benchcheck runs the micro-benchmarks that guard what Weir does for each request and each token, and compares the memory
// that they allocate with a baseline that is committed:
//
//	go run ./test/benchcheck            # in the root of the module; fails where something allocates more
//	go run ./test/benchcheck -update    # makes what is measured now the baseline: read its diff
//
// It looks at no times: they depend on the machine and on what else runs there. Allocations do not, within one version of Go.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
)

func main() {
	path := flag.String("baseline", "test/benchcheck/baseline.json", "the file with what was allocated")
	update := flag.Bool("update", false, "rewrite the baseline")
	flag.Parse()
	if err := run(*path, *update, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "benchcheck:", err)
		os.Exit(1)
	}
}

func run(path string, update bool, out, progress io.Writer) error {
	var before baseline
	if !update {
		var err error
		if before, err = readBaseline(path); err != nil {
			return err
		}
	}
	now := baseline{Go: runtime.Version(), Benchmarks: results{}}
	for _, s := range suites {
		fmt.Fprintln(progress, "benchcheck:", s)
		output, err := s.run(progress)
		if err != nil {
			return err
		}
		if err := now.Benchmarks.read(output); err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
	}
	if update {
		if err := now.write(path); err != nil {
			return err
		}
		fmt.Fprintf(out, "%s has %d benchmarks now.\n", path, len(now.Benchmarks))
		return nil
	}
	rows := compare(before.Benchmarks, now.Benchmarks)
	worse := printRows(out, rows, len(now.Benchmarks))
	if worse == 0 {
		return nil
	}
	if before.Go != now.Go {
		fmt.Fprintf(out, "The baseline is of %s, and this is %s: versions of Go differ in what they allocate.\n", before.Go, now.Go)
	}
	return errors.New("some benchmarks allocate more than they did; if that is meant, run `go run ./test/benchcheck -update` and say why in the commit")
}
