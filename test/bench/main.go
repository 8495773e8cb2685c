package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/weir-dev/weir/test/bench/proc"
)

// The roles of this program that it starts itself in, as its first argument.
const (
	roleUpstream = "upstream"
	roleLoad     = "load"
	roleFloor    = "floor"
	roleSink     = "sink"
)

var roles = map[string]func(io.Reader, io.Writer) error{roleUpstream: runUpstream, roleLoad: runLoad, roleFloor: runFloor, roleSink: runSink}

func main() {
	if err := dispatch(os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func dispatch(args []string) error {
	if len(args) > 0 {
		if role, ok := roles[args[0]]; ok {
			return role(os.Stdin, os.Stdout)
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	o, err := parse(args, os.Stderr)
	if err != nil {
		return err
	}
	return o.run(ctx, os.Stdout, os.Stderr)
}

// options are the flags.
type options struct {
	plan
	seconds         float64
	file, binary    string
	check, baseline string
	streams         int
	soakFor         time.Duration
	through         variant
}

func parse(args []string, help io.Writer) (*options, error) {
	o := &options{}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(help)
	f.IntVar(&o.rounds, "rounds", 3, "how often every variant has its turn in every scenario")
	f.Float64Var(&o.seconds, "seconds", 1.2, "how long a turn is measured; twice as long in an open loop")
	warm := f.Float64("warm", 0.3, "seconds of load before each turn that are not measured")
	only := f.String("only", "", "measure only the scenarios whose name has this in it, such as \"streams\" or \"16 c\"")
	f.StringVar(&o.file, "o", "", "file that the figures of every turn are written to as JSON")
	f.StringVar(&o.binary, "weir", "", "weir to measure (default: the one of this source, which is built first)")
	f.StringVar(&o.check, "check", "", "baseline that CPU ratios are compared with; the run fails where they are worse beyond noise")
	f.StringVar(&o.baseline, "baseline", "", "file that CPU ratios are written to as a baseline")
	f.IntVar(&o.streams, "streams", 0, "measure nothing but so many streams at once")
	f.DurationVar(&o.soakFor, "for", 10*time.Minute, "how long, with -streams")
	through := f.String("through", "weir", "the variant that they go through, with -streams")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	i := slices.IndexFunc(variants, func(v variant) bool { return v.name == *through })
	o.scenarios = chosen(scenarios(), *only)
	switch {
	case f.NArg() > 0:
		return nil, fmt.Errorf("unknown argument %q: see -help", f.Arg(0))
	case o.rounds < 1 || o.seconds <= 0 || *warm < 0:
		return nil, errors.New("-rounds must be at least 1, -seconds above 0 and -warm not below 0")
	case o.streams < 0 || o.soakFor <= 0:
		return nil, errors.New("-streams must not be below 0, and -for above it")
	case i < 0:
		return nil, fmt.Errorf("-through %q: there is no such variant", *through)
	case len(o.scenarios) == 0:
		return nil, fmt.Errorf("-only %q: no scenario has this in its name", *only)
	case o.streams > 0 && (o.check != "" || o.baseline != "" || *only != ""):
		return nil, errors.New("-streams has no scenarios: leave -only, -check and -baseline out")
	}
	o.through = variants[i]
	duration := func(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
	o.warm, o.measure = duration(*warm), duration(o.seconds)
	return o, nil
}

// run is the program in its first role.
func (o *options) run(ctx context.Context, out, progress io.Writer) error {
	if _, err := proc.MachineTime(); err != nil {
		return err
	}
	var then baseline
	if o.check != "" {
		var err error
		if then, err = readBaseline(o.check); err != nil {
			return err
		}
	}
	tell := func(format string, args ...any) { fmt.Fprintf(progress, format+"\n", args...) }
	list := needed(o.scenarios)
	if o.streams > 0 {
		list = slices.DeleteFunc(slices.Clone(programs), func(p program) bool { return p.name != o.through.process })
	}
	f, err := startFleet(ctx, o.binary, list, tell)
	if err != nil {
		return err
	}
	defer f.close()
	r := newReport(f)
	if o.streams > 0 {
		if r.Soak, err = f.runSoak(ctx, o.through, o.streams, soakPace, o.soakFor, tell); err != nil {
			return err
		}
		return errors.Join(r.Soak.table(out), r.save(o.file))
	}
	if err := o.measureAll(ctx, f, r, tell); err != nil {
		return err
	}
	if err := errors.Join(r.table(out), r.save(o.file)); err != nil {
		return err
	}
	if o.baseline != "" {
		if err := r.baseline().write(o.baseline); err != nil {
			return err
		}
	}
	if o.check != "" {
		return then.check(r.baseline(), out)
	}
	return nil
}

func (o *options) measureAll(ctx context.Context, f *fleet, r *report, tell func(string, ...any)) (err error) {
	if err := f.footprints(ctx, func(p *footprint) *memory { return &p.Idle }); err != nil {
		return err
	}
	r.Rounds, r.Seconds = o.rounds, o.seconds
	if r.Outcomes, err = f.run(ctx, o.plan, tell); err != nil {
		return err
	}
	if err := f.footprints(ctx, func(p *footprint) *memory { return &p.Loaded }); err != nil {
		return err
	}
	for _, g := range f.gateways {
		r.Footprints = append(r.Footprints, g.foot)
	}
	return nil
}

// save writes the JSON file, unless path is "".
func (r *report) save(path string) error {
	if path == "" {
		return nil
	}
	w, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(r.write(w), w.Close())
}
