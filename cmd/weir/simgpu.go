package main

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/test/sim/gpu"
	"github.com/weir-dev/weir/test/sim/gpu/engine"
)

func simGPUCommand() *cobra.Command {
	var (
		listen    string
		servers   int
		addresses []string
		profile   string
		speed     float64
		kvTokens  int
		maxSeqs   int
		untilEOF  bool
		o         gpu.Options
	)
	var names []string
	for _, p := range engine.Profiles() {
		names = append(names, p.Name)
	}
	c := &cobra.Command{
		Use:   "gpu",
		Short: "Serve a pool of simulated inference servers on loopback, with vLLM's API and metrics",
		Long: "Serve a pool of simulated inference servers on loopback, with vLLM's API and metrics, and those of DCGM under /dcgm/metrics.\n" +
			"Requests queue, are batched and share prefixes as on the hardware of the profile, at its pace. Faults are set while it\n" +
			"runs, at any of the servers: curl -d '{\"servers\":[1],\"speed\":0.4}' http://127.0.0.1:8101/control; GET shows what they are.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var err error
			if o.Profile, err = engine.ProfileByName(profile); err != nil {
				return err
			}
			if !(speed > 0) {
				return fmt.Errorf("--speed is %v: it must be more than 0", speed)
			}
			o.Profile = o.Profile.Scaled(speed)
			if kvTokens != 0 {
				o.Profile.KVTokens = kvTokens
			}
			if maxSeqs != 0 {
				o.Profile.MaxSeqs = maxSeqs
			}
			if o.Addresses = addresses; len(addresses) == 0 {
				if o.Addresses, err = inARow(listen, servers); err != nil {
					return err
				}
			}
			ctx, stop := untilEnd(c.Context(), untilEOF)
			defer stop()
			pool, err := gpu.Start(o)
			if err != nil {
				return err
			}
			defer pool.Close()
			for _, s := range pool.Servers {
				fmt.Fprintf(c.OutOrStdout(), "simulated %s listens on %s\n", profile, s.URL())
			}
			<-ctx.Done()
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&listen, "listen", "127.0.0.1:8101", "loopback address of the first server; the others have the ports that follow")
	f.IntVar(&servers, "servers", 4, "number of servers")
	f.StringSliceVar(&addresses, "addresses", nil, "loopback addresses of all servers, instead of --listen and --servers")
	f.StringVar(&profile, "profile", names[0], "model and hardware: "+strings.Join(names, ", "))
	f.Float64Var(&speed, "speed", 1, "how fast the hardware is, relative to the profile's")
	f.IntVar(&kvTokens, "kv-tokens", 0, "room in the cache of keys and values, in tokens (default: the profile's)")
	f.IntVar(&maxSeqs, "max-seqs", 0, "most requests that a server works on at once (default: the profile's)")
	f.StringSliceVar(&o.Models, "models", nil, "models that the servers know (default: every name)")
	f.IntVar(&o.OutputTokens, "output-tokens", 200, "median length of answers that no limit cuts")
	f.IntVar(&o.DCGMPort, "dcgm-port", 0, "port on each server's host for DCGM metrics of its own; the servers then need a host each (default: none)")
	f.DurationVar(&o.DCGMInterval, "dcgm-interval", time.Second, "how often DCGM looks at the GPUs; the real one's default is 30s")
	f.Uint64Var(&o.Seed, "seed", 0, "varies texts, lengths and errors")
	f.BoolVar(&untilEOF, "until-eof", false, "stop when standard input ends, as when the parent process dies")
	c.MarkFlagsMutuallyExclusive("addresses", "listen")
	c.MarkFlagsMutuallyExclusive("addresses", "servers")
	return c
}

// inARow is n addresses with rising ports. Port 0 stays 0: any free ones.
func inARow(first string, n int) ([]string, error) {
	host, text, err := net.SplitHostPort(first)
	if err != nil {
		return nil, fmt.Errorf("--listen %q is not host:port: %w", first, err)
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("--listen %q: the port must be a number from 0 to 65535", first)
	}
	if n < 1 || n > 65535 || port > 0 && int(port)+n-1 > 65535 {
		return nil, fmt.Errorf("--servers is %d: give a number from 1 on, for which there are ports from %d on", n, port)
	}
	out := make([]string, n)
	for i := range out {
		p := port
		if port > 0 {
			p += uint64(i)
		}
		out[i] = net.JoinHostPort(host, strconv.FormatUint(p, 10))
	}
	return out, nil
}

// gpuSimulator simulates the pool of a Backend's endpoints.
func gpuSimulator(b *v1alpha1.Backend) (simulator, error) {
	if b.Spec.Dialect != "openai" {
		return simulator{}, fmt.Errorf("annotation %s: simulated endpoints speak the dialect openai, not %s", simulatorAnnotation, b.Spec.Dialect)
	}
	if b.Spec.BasePath != "/v1" {
		return simulator{}, fmt.Errorf("annotation %s: simulated endpoints serve under /v1: write basePath: /v1", simulatorAnnotation)
	}
	var s simulator
	for _, e := range b.Spec.Endpoints {
		if err := onLoopback(e.Address); err != nil {
			return simulator{}, err
		}
		s.listen = append(s.listen, net.JoinHostPort(e.Address, strconv.Itoa(int(e.Port))))
	}
	s.args = []string{"gpu", "--addresses", strings.Join(s.listen, ",")}
	var models []string
	for _, m := range b.Spec.Models {
		name := m.UpstreamName
		if name == "" {
			name = m.Name
		}
		models = append(models, string(name))
	}
	if len(models) > 0 {
		s.args = append(s.args, "--models", strings.Join(models, ","))
	}
	port, err := exporterPort(b)
	if err != nil {
		return simulator{}, err
	}
	if port != 0 {
		for _, e := range b.Spec.Endpoints {
			addr := net.JoinHostPort(e.Address, strconv.Itoa(port))
			if slices.Contains(s.listen, addr) {
				return simulator{}, fmt.Errorf("annotation %s: %s would be bound twice: simulated endpoints with DCGM metrics on port %d need an address each, like 127.0.0.1 and 127.0.0.2", simulatorAnnotation, addr, port)
			}
			s.listen = append(s.listen, addr)
		}
		s.args = append(s.args, "--dcgm-port", strconv.Itoa(port))
	}
	return s, nil
}

// exporterPort is where a Backend's endpoints are asked for DCGM metrics. 0: nowhere, or on the ports that they serve on.
func exporterPort(b *v1alpha1.Backend) (int, error) {
	port := 0
	for _, m := range b.Spec.Metrics {
		switch m.Type {
		case v1alpha1.MetricsVLLM, v1alpha1.MetricsORCA:
		case v1alpha1.MetricsDCGM:
			if m.Path != "" && m.Path != "/metrics" {
				continue // /dcgm/metrics of the server itself
			}
			if port != 0 {
				return 0, errors.New("simulated endpoints have one DCGM exporter, but spec.metrics names two")
			}
			if port = int(m.Port); port == 0 {
				port = 9400
			}
		default:
			return 0, fmt.Errorf("annotation %s: simulated endpoints publish the metrics VLLM, DCGM and ORCA, not %s", simulatorAnnotation, m.Type)
		}
	}
	return port, nil
}
