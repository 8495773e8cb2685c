package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/test/sim"
)

// simulatorAnnotation on a Backend makes `weir run` start a simulated provider of its dialect, at the address of its URL,
// or a pool of simulated inference servers, at the addresses of its endpoints.
const simulatorAnnotation = "weir.dev/simulator"

func simCommand() *cobra.Command {
	var (
		listen   string
		models   []string
		key      string
		ttft     time.Duration
		interval time.Duration
		chunking string
		seed     uint64
		untilEOF bool
	)
	c := &cobra.Command{
		Use:       "sim openai|anthropic|dashscope",
		Short:     "Serve a simulated provider on loopback, with the provider's true wire format",
		Long:      "Serve a simulated provider on loopback, with the provider's true wire format.\nFaults are set while it runs: PUT /_sim/faults; what it received is under GET /_sim/requests.",
		Args:      cobra.ExactArgs(1),
		ValidArgs: []string{"openai", "anthropic", "dashscope"},
		RunE: func(c *cobra.Command, args []string) error {
			s, err := sim.New(sim.Options{
				Dialect: sim.Dialect(args[0]), Models: models, Key: key, Seed: seed,
				Faults: sim.Faults{
					TTFT: pause(ttft), IntervalMin: pause(interval), IntervalMax: pause(2 * interval),
					Chunking: sim.Chunking(chunking),
				},
			})
			if err != nil {
				return err
			}
			ctx, stop := untilEnd(c.Context(), untilEOF)
			defer stop()
			return s.ListenAndServe(ctx, listen, func(a net.Addr) {
				fmt.Fprintf(c.OutOrStdout(), "simulated %s listens on http://%s\n", args[0], a)
			})
		},
	}
	f := c.Flags()
	f.StringVar(&listen, "listen", "127.0.0.1:8090", "loopback address to listen on")
	f.StringSliceVar(&models, "models", nil, "models to serve (default: some of the provider's)")
	f.StringVar(&key, "key", "", "the only API key to accept (default: any)")
	f.DurationVar(&ttft, "ttft", 50*time.Millisecond, "time to the first token")
	f.DurationVar(&interval, "interval", 10*time.Millisecond, "least time between tokens; the most is twice as long")
	f.StringVar(&chunking, "chunking", "whole", "how events are cut into writes: whole, split, batch")
	f.Uint64Var(&seed, "seed", 0, "varies the texts")
	f.BoolVar(&untilEOF, "until-eof", false, "stop when standard input ends, as when the parent process dies")
	c.AddCommand(simGPUCommand())
	return c
}

// untilEnd is a context that ends with its parent, and if asked for with standard input.
func untilEnd(parent context.Context, eof bool) (context.Context, context.CancelFunc) {
	ctx, stop := context.WithCancel(parent)
	if eof {
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin) // a failure is an end as well
			stop()
		}()
	}
	return ctx, stop
}

// pause is a flag's duration as the simulator takes it, for which zero means a default.
func pause(d time.Duration) sim.Duration {
	if d == 0 {
		return sim.None
	}
	return sim.Duration(d)
}

// simulator is a simulated provider, or a pool of simulated servers, that a configuration asks for.
type simulator struct {
	backend string   // namespace/name
	listen  []string // host:port of everything that it binds
	args    []string // of weir sim
}

// simulators finds the Backends that are annotated.
func simulators(backends []*v1alpha1.Backend) ([]simulator, error) {
	var out []simulator
	for _, b := range backends {
		if b.Annotations[simulatorAnnotation] != "true" {
			continue
		}
		find := providerSimulator
		if len(b.Spec.Endpoints) > 0 {
			find = gpuSimulator
		}
		s, err := find(b)
		if err != nil {
			return nil, fmt.Errorf("Backend %s/%s: %w", b.Namespace, b.Name, err)
		}
		s.backend = b.Namespace + "/" + b.Name
		out = append(out, s)
	}
	return out, nil
}

// providerSimulator simulates the provider at a URL.
func providerSimulator(b *v1alpha1.Backend) (simulator, error) {
	u, err := url.Parse(b.Spec.URL)
	if err != nil || u.Scheme != "http" || u.Port() == "" {
		return simulator{}, fmt.Errorf("annotation %s needs a spec.url like http://127.0.0.1:8090/v1, or spec.endpoints", simulatorAnnotation)
	}
	if err := onLoopback(u.Hostname()); err != nil {
		return simulator{}, err
	}
	// A seed of its own: two simulators of one dialect must not make up the same ids.
	return simulator{listen: []string{u.Host}, args: []string{b.Spec.Dialect, "--listen", u.Host, "--seed", u.Port()}}, nil
}

// onLoopback says what is wrong with an address that a simulator should listen on.
func onLoopback(host string) error {
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return fmt.Errorf("a simulator listens on loopback only, not on %s", host)
	}
	return nil
}

// start runs the simulator as a process of its own, so that it can be killed like a provider that fails. It ends
// when the pipe does, however this process ends.
func (s simulator) start(log *slog.Logger) (io.Closer, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("cannot find the weir binary to start a simulator: %w", err)
	}
	args := append([]string{"sim"}, s.args...)
	cmd := exec.Command(self, append(args, "--until-eof")...)
	cmd.Env = simulatorEnv(os.Environ())
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a terminal's Ctrl-C is for weir, which stops it last
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("cannot start a simulator: %w", err)
	}
	out := &strings.Builder{}
	cmd.Stderr = out
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("cannot start a simulator: %w", err)
	}
	go func() {
		err := cmd.Wait()
		if err != nil {
			log.Warn("a simulator ended", "backend", s.backend, "error", err, "said", strings.TrimSpace(out.String()),
				"again", "weir "+strings.Join(args, " "))
		}
	}()
	return stdin, nil
}

// simulatorEnv leaves out what is meant for the gateway: its own settings, which simulators read under the same
// names, and the real providers' keys.
func simulatorEnv(env []string) []string {
	return slices.DeleteFunc(env, func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return strings.HasPrefix(name, "WEIR_") || strings.HasSuffix(name, "_API_KEY")
	})
}
