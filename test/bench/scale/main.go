package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/weir-dev/weir/test/bench/proc"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "scale:", err)
		os.Exit(1)
	}
}

// options are the flags.
type options struct {
	routes  []int
	clients int
	changes int
	envoy   bool
	window  time.Duration
	still   time.Duration
	file    string
	binary  string
}

func parse(args []string, help io.Writer) (*options, error) {
	o := &options{}
	f := flag.NewFlagSet("scale", flag.ContinueOnError)
	f.SetOutput(help)
	routes := f.String("routes", "100,1000,10000", "numbers of Routes, each measured by itself; a tenth as many Backends, at least 10")
	f.IntVar(&o.clients, "clients", 200, "xDS clients beside the two sidecars")
	f.IntVar(&o.changes, "changes", 100, "changes, one after the other, of each kind in turn")
	f.BoolVar(&o.envoy, "envoy", true, "have a real Envoy beside the second sidecar; without it there is only the first, whose Envoy is an imitation")
	f.DurationVar(&o.window, "quiet", 500*time.Millisecond, "how long nothing may have come to any client or Envoy until a change counts as over")
	f.DurationVar(&o.still, "still", 35*time.Second, "how long no status may have been written until the first change is made; what is about replicas is written after 30s")
	f.StringVar(&o.file, "o", "", "file that every figure is written to as JSON")
	f.StringVar(&o.binary, "weir", "", "weir to measure (default: the one of this source, which is built first)")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	for _, text := range strings.Split(*routes, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(text))
		if err != nil || n < 10 {
			return nil, fmt.Errorf("-routes %q: write numbers of at least 10, with commas between", *routes)
		}
		o.routes = append(o.routes, n)
	}
	switch {
	case f.NArg() > 0:
		return nil, fmt.Errorf("unknown argument %q: see -help", f.Arg(0))
	case o.clients < 0 || o.changes < len(changeKinds):
		return nil, fmt.Errorf("-clients must not be below 0, and -changes at least %d", len(changeKinds))
	case o.window <= 0 || o.still <= 0:
		return nil, errors.New("-quiet and -still must be above 0")
	}
	return o, nil
}

// needFiles is how many files this process and its children may have to have open: a connection of each client, on both of its ends.
const needFiles = 4 << 10

func run(ctx context.Context, args []string, out, progress io.Writer) error {
	o, err := parse(args, progress)
	if err != nil {
		return err
	}
	if err := proc.OpenFiles(needFiles); err != nil {
		return err
	}
	log.SetLogger(klog.Logger{}) // what the client library says is nobody's news
	tell := func(format string, args ...any) {
		fmt.Fprintf(progress, "%s "+format+"\n", append([]any{time.Now().Format(time.TimeOnly)}, args...)...)
	}
	b, err := newBuild(ctx, o, tell)
	if err != nil {
		return err
	}
	defer b.close()
	r := newReport(o, b)
	for _, n := range o.routes {
		s, err := measure(ctx, o, b, n, tell)
		if err != nil {
			return fmt.Errorf("%d routes: %w", n, err)
		}
		r.Sizes = append(r.Sizes, s)
	}
	return errors.Join(r.table(out), r.save(o.file))
}
