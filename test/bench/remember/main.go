package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/weir-dev/weir/test/bench/proc"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "remember:", err)
		os.Exit(1)
	}
}

// options are the flags.
type options struct {
	requests int
	prompts  int
	exponent float64
	callers  int
	stampede int
	unknown  int
	file     string
	binary   string
}

func parse(args []string, help io.Writer) (*options, error) {
	o := &options{}
	f := flag.NewFlagSet("remember", flag.ContinueOnError)
	f.SetOutput(help)
	f.IntVar(&o.requests, "requests", 20_000, "requests of the workload with repeats, for each way of caching")
	f.IntVar(&o.prompts, "prompts", 5_000, "different prompts that it is made of")
	f.Float64Var(&o.exponent, "zipf", 1.05, "exponent of their frequencies, above 1: the n-th is asked in proportion to 1/n^zipf")
	f.IntVar(&o.callers, "callers", 16, "callers at once, each with a connection")
	f.IntVar(&o.stampede, "stampede", 1_000, "equal requests at once")
	f.IntVar(&o.unknown, "unknown", 100_000, "requests that are never cached, each another one")
	f.StringVar(&o.file, "o", "", "file that every figure is written to as JSON")
	f.StringVar(&o.binary, "weir", "", "weir to measure (default: the one of this source, which is built first)")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	switch {
	case f.NArg() > 0:
		return nil, fmt.Errorf("unknown argument %q: see -help", f.Arg(0))
	case o.requests < 1 || o.prompts < 1 || o.callers < 1 || o.stampede < 2 || o.unknown < 1:
		return nil, errors.New("-requests, -prompts, -callers and -unknown must be at least 1, and -stampede 2")
	case o.exponent <= 1:
		return nil, errors.New("-zipf must be above 1")
	}
	return o, nil
}

// needFiles is how many files this process and its children may have to have open: a connection of each request of a stampede, on each side.
const needFiles = 8 << 10

func run(ctx context.Context, args []string, out, progress io.Writer) (err error) {
	o, err := parse(args, progress)
	if err != nil {
		return err
	}
	if err := proc.OpenFiles(needFiles); err != nil {
		return err
	}
	tell := func(format string, args ...any) {
		fmt.Fprintf(progress, "%s "+format+"\n", append([]any{time.Now().Format(time.TimeOnly)}, args...)...)
	}
	s, err := start(ctx, o, tell)
	if err != nil {
		return err
	}
	defer s.close()
	r := &report{Requests: o.requests, Prompts: o.prompts, Exponent: o.exponent, Callers: o.callers}
	for _, step := range []func(context.Context, *options, *report, func(string, ...any)) error{s.workloads, s.stampedes, s.penetrations} {
		if err := step(ctx, o, r, tell); err != nil {
			return err
		}
	}
	if r.Load, err = proc.LoadAverage(); err != nil {
		return err
	}
	return errors.Join(r.table(out), r.save(o.file))
}

// save writes every figure.
func (r *report) save(path string) error {
	if path == "" {
		return nil
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}
