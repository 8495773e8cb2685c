package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// result is what one run of a benchmark's loop allocates.
type result struct {
	Allocs int64 `json:"allocs"`
	Bytes  int64 `json:"bytes"`
}

// results are those of benchmarks, by package and name: "extproc/limit BenchmarkAdmit".
type results map[string]result

// baseline is the file.
type baseline struct {
	Go         string  `json:"go"` // the version it was measured with
	Benchmarks results `json:"benchmarks"`
}

func readBaseline(path string) (b baseline, err error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return b, fmt.Errorf("the baseline cannot be read (run this in the root of the module, or make one with -update): %w", err)
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&b); err != nil {
		return b, fmt.Errorf("%s is no baseline; make one with -update: %w", path, err)
	}
	if len(b.Benchmarks) == 0 {
		return b, fmt.Errorf("%s has no benchmarks; make a baseline with -update", path)
	}
	return b, nil
}

func (b baseline) write(path string) error {
	raw, err := json.MarshalIndent(b, "", "  ") // sorts the names
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(raw, '\n'), 0o644)
}

// read adds what go test printed.
func (r results) read(output []byte) error {
	pkg, added := "", 0
	lines := bufio.NewScanner(bytes.NewReader(output))
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		switch {
		case len(f) == 2 && f[0] == "pkg:":
			pkg = f[1][strings.LastIndex(f[1], module)+len(module):]
		case len(f) > 2 && strings.HasPrefix(f[0], "Benchmark"):
			one, err := parse(f[1:])
			if err != nil {
				return fmt.Errorf("%s: %w", f[0], err)
			}
			name := strings.TrimSpace(pkg + " " + f[0])
			if _, ok := r[name]; ok {
				return fmt.Errorf("%s was run twice", name)
			}
			r[name] = one
			added++
		}
	}
	if err := lines.Err(); err != nil {
		return err
	}
	if added == 0 {
		return errors.New("no benchmark was run: their names have changed")
	}
	return nil
}

// module is what the names of all packages begin with.
const module = "github.com/weir-dev/weir/"

// parse reads what follows a benchmark's name: how often it ran, then values with their units.
func parse(f []string) (r result, err error) {
	seen := 0
	for i := 1; i+1 < len(f); i += 2 {
		var to *int64
		switch f[i+1] {
		case "allocs/op":
			to = &r.Allocs
		case "B/op":
			to = &r.Bytes
		default:
			continue
		}
		if *to, err = strconv.ParseInt(f[i], 10, 64); err != nil {
			return r, fmt.Errorf("%q is no number of %s", f[i], f[i+1])
		}
		seen++
	}
	if seen != 2 {
		return r, errors.New("it does not say what it allocates")
	}
	return r, nil
}
