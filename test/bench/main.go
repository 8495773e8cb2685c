package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// The other roles of this program, as its first argument.
const (
	roleUpstream = "upstream"
	roleLoad     = "load"
)

func main() {
	if err := dispatch(os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func dispatch(args []string) error {
	if len(args) > 0 {
		switch args[0] {
		case roleUpstream:
			return runUpstream(os.Stdin, os.Stdout)
		case roleLoad:
			return runLoad(os.Stdin, os.Stdout)
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return bench(ctx, args, os.Stdout, os.Stderr)
}

// bench is the program in its first role.
func bench(ctx context.Context, args []string, out, progress io.Writer) error {
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(progress)
	rounds := f.Int("rounds", 3, "how often every variant has its turn in every scenario")
	seconds := f.Float64("seconds", 2, "how long a turn is measured; twice as long in the open loop")
	warm := f.Float64("warm", 0.4, "seconds of load before each turn that are not measured")
	rate := f.Float64("rate", 500, "requests per second of the open loop")
	only := f.String("only", "", "measure only the scenarios whose name has this in it, such as \"streams\" or \"16 c\"")
	file := f.String("o", "", "file that the figures of every turn are written to as JSON")
	binary := f.String("weir", "", "weir to measure (default: the one of this source, which is built first)")
	if err := f.Parse(args); err != nil {
		return err
	}
	switch {
	case f.NArg() > 0:
		return fmt.Errorf("unknown argument %q: see -help", f.Arg(0))
	case *rounds < 1 || *seconds <= 0 || *warm < 0 || *rate < 1:
		return errors.New("-rounds and -rate must be at least 1, -seconds above 0 and -warm not below 0")
	}
	chosen := slices.DeleteFunc(scenarios(*rate), func(s scenario) bool { return !strings.Contains(s.Name, *only) })
	if len(chosen) == 0 {
		return fmt.Errorf("-only %q: no scenario has this in its name", *only)
	}
	if _, err := machineTime(); err != nil {
		return err
	}
	tell := func(format string, args ...any) { fmt.Fprintf(progress, format+"\n", args...) }
	fl, err := startFleet(ctx, *binary, tell)
	if err != nil {
		return err
	}
	defer fl.close()
	duration := func(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
	outcomes, err := fl.run(ctx, plan{scenarios: chosen, rounds: *rounds, warm: duration(*warm), measure: duration(*seconds)}, tell)
	if err != nil {
		return err
	}
	r := &report{
		Time: time.Now(), Machine: machine{cores(), runtime.GOOS, runtime.GOARCH, runtime.Version()}, Envoy: fl.envoyBin.Version.String(),
		Rounds: *rounds, Seconds: *seconds, Variants: map[string]string{}, Outcomes: outcomes,
	}
	for _, v := range variants {
		r.Variants[v.name] = v.what
	}
	if err := r.table(out); err != nil {
		return err
	}
	if *file == "" {
		return nil
	}
	w, err := os.Create(*file)
	if err != nil {
		return err
	}
	return errors.Join(r.write(w), w.Close())
}
