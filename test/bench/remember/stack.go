package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"text/template"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/weir-dev/weir/envoy"
	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/test/bench/proc"
	"github.com/weir-dev/weir/test/sim"
)

//go:embed stack.yaml
var stackText string

// callerKey is the API key of all callers.
const callerKey = "weir-bench-key"

// way is one way of caching: the name of a model, and the policy of its route.
type way struct {
	Name   string
	Policy string // YAML below spec, indented; "" for none
}

// The ways. Those that look into Redis alone show what a hit there costs.
var (
	wayOff    = way{Name: "uncached"}
	wayMemory = way{Name: "memory", Policy: "  ttl: 1h\n  refreshAhead: false"}
	wayRedis  = way{Name: "redis", Policy: "  ttl: 1h\n  refreshAhead: false\n  memory: 0\n  redis: {}"}
	wayBoth   = way{Name: "both", Policy: "  ttl: 1h\n  refreshAhead: false\n  redis: {}"}
	wayBehind = way{Name: "behind", Policy: "  ttl: 1h\n  refreshAhead: false\n  redis:\n    write: Behind"}
	wayAside  = way{Name: "aside", Policy: "  ttl: 1h\n  refreshAhead: false\n  redis:\n    write: Aside"}
	wayBloom  = way{Name: "filtered", Policy: "  memory: 0\n  redis:\n    bloom:\n      keys: 5000\n      falsePositiveRate: \"0.01\""}
	wayAsking = way{Name: "unfiltered", Policy: "  memory: 0\n  redis:\n    bloom:\n      enabled: false"}
)

// falsePositiveRate that wayBloom is configured with.
const falsePositiveRate = 0.01

// stack is what is measured: a provider, a Redis and a gateway.
type stack struct {
	weir, dir string
	sim       *sim.Server
	redis     *redis.Client
	process   *proc.Process
	address   string // of the gateway
	stateDir  string
	closers   []func()
}

// pace of the provider: as quick as it can be for what is to show what a gateway does, and yet a provider.
var pace = sim.Faults{TTFT: sim.Duration(20 * time.Millisecond), IntervalMin: sim.Duration(time.Millisecond), IntervalMax: sim.Duration(2 * time.Millisecond)}

func start(ctx context.Context, o *options, tell func(string, ...any)) (_ *stack, err error) {
	s := &stack{}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if s.dir, err = os.MkdirTemp("", "weir-remember-"); err != nil {
		return nil, err
	}
	s.closers = append(s.closers, func() { _ = os.RemoveAll(s.dir) }) // the system clears its temporary files some day
	found, err := envoy.Ensure(ctx, envoy.FindOptions{Progress: os.Stderr})
	if err != nil {
		return nil, err
	}
	if s.weir = o.binary; s.weir == "" {
		tell("building weir")
		s.weir = filepath.Join(s.dir, "program")
		if err := proc.BuildWeir(ctx, s.weir); err != nil {
			return nil, err
		}
	}
	upstream, err := s.startSim(ctx)
	if err != nil {
		return nil, err
	}
	_, address, client, stop, err := proc.StartRedis(ctx, s.dir)
	if err != nil {
		return nil, err
	}
	s.redis = client
	s.closers = append(s.closers, stop)
	tell("starting weir")
	return s, s.startWeir(ctx, found.Path, upstream, address)
}

func (s *stack) close() {
	for _, stop := range slices.Backward(s.closers) {
		stop()
	}
}

func (s *stack) startSim(ctx context.Context) (string, error) {
	var err error
	if s.sim, err = sim.New(sim.Options{Dialect: sim.OpenAI, Faults: pace}); err != nil {
		return "", err
	}
	ctx, cancel := context.WithCancel(ctx)
	s.closers = append(s.closers, cancel)
	at, ended := make(chan net.Addr, 1), make(chan error, 1)
	go func() { ended <- s.sim.ListenAndServe(ctx, "127.0.0.1:0", func(a net.Addr) { at <- a }) }()
	select {
	case a := <-at:
		return a.String(), nil
	case err := <-ended:
		return "", err
	}
}

func (s *stack) startWeir(ctx context.Context, envoyPath, upstream, redisAddress string) error {
	objects, sockets := filepath.Join(s.dir, "objects"), filepath.Join(s.dir, "run")
	s.stateDir = filepath.Join(s.dir, "state")
	admin, err := proc.FreeAddress()
	if err != nil {
		return err
	}
	if s.address, err = proc.FreeAddress(); err != nil {
		return err
	}
	var text strings.Builder
	t := template.Must(template.New("stack").Option("missingkey=error").Parse(stackText))
	if err := t.Execute(&text, map[string]any{
		"Redis": redisAddress, "KeyHash": identity.HashKey(callerKey), "Upstream": upstream,
		"Ways": []way{wayOff, wayMemory, wayRedis, wayBoth, wayBehind, wayAside, wayBloom, wayAsking},
	}); err != nil {
		return err
	}
	if err := errors.Join(
		os.Mkdir(objects, 0o700), os.Mkdir(sockets, 0o700),
		os.WriteFile(filepath.Join(objects, "stack.yaml"), []byte(text.String()), 0o600),
		os.WriteFile(filepath.Join(objects, "provider-key.txt"), []byte("upstream-key\n"), 0o600),
	); err != nil {
		return err
	}
	cmd := exec.Command(s.weir, "run", "--file", objects, "--listen", s.address, "--admin", admin, "--state-dir", s.stateDir,
		"--runtime-dir", sockets, "--simulate=false", "--drain-timeout", "5s")
	// What the environment says of Weir and of telemetry is for other gateways.
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(e string) bool { return strings.HasPrefix(e, "WEIR_") || strings.HasPrefix(e, "OTEL_") }),
		"ENVOY_PATH="+envoyPath)
	if s.process, err = proc.Start("weir", cmd); err != nil {
		return err
	}
	s.closers = append(s.closers, s.process.Stop)
	return s.process.Await(ctx, func() bool {
		resp, err := http.Get("http://" + admin + "/readyz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

// ledgerLine is what `weir usage` says of one model.
type ledgerLine struct {
	Model    string `json:"model"`
	Requests int    `json:"requests"`
	Cost     string `json:"cost"`
	Currency string `json:"currency"`
}

// ledger reads what the gateway has entered, by model.
func (s *stack) ledger(ctx context.Context) (map[string]ledgerLine, error) {
	out, err := exec.CommandContext(ctx, s.weir, "usage", "--state-dir", s.stateDir, "--by", "model", "--format", "json").Output()
	if err != nil {
		return nil, fmt.Errorf("weir usage: %w", err)
	}
	var report struct {
		Rows []ledgerLine `json:"rows"`
	}
	if err := json.Unmarshal(out, &report); err != nil {
		return nil, fmt.Errorf("what weir usage says cannot be read: %w: %.200s", err, out)
	}
	by := map[string]ledgerLine{}
	for _, l := range report.Rows {
		by[l.Model] = l
	}
	return by, nil
}

// gets is how many answers Redis has been asked for: each is a GET. The beats by which replicas hear of each other have one too, which
// Redis counts as well, and are told by their ZADD: while nothing is written there is no other.
func (s *stack) gets(ctx context.Context) (int, error) {
	text, err := s.redis.Info(ctx, "commandstats").Result()
	if err != nil {
		return 0, err
	}
	sum := 0
	for _, line := range strings.Split(text, "\n") {
		name, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		sign := map[string]int{"cmdstat_get": 1, "cmdstat_zadd": -1}[name]
		if sign == 0 {
			continue
		}
		var calls int
		if _, err := fmt.Sscanf(rest, "calls=%d", &calls); err != nil {
			return 0, fmt.Errorf("commandstats of Redis cannot be read: %q", line)
		}
		sum += sign * calls
	}
	return sum, nil
}
