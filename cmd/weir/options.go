package main

import (
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/pflag"

	"github.com/weir-dev/weir/usage/ledger"
)

// gatewayOptions are the flags of every command that is a gateway, whoever runs its Envoy.
type gatewayOptions struct {
	dir          string
	listen       string
	admin        string
	simulate     bool
	drainTimeout time.Duration
	stateDir     string
	maxBody      uint32
	maxHeader    uint32
	accessLog    string
	logOptions
	adminOptions
}

func (o *gatewayOptions) bind(f *pflag.FlagSet) {
	f.StringVarP(&o.dir, "file", "f", "deploy/local", "folder (or file) with Weir objects; watched")
	f.StringVar(&o.listen, "listen", "", "address and port of the first listener, instead of what the LLMGateway says")
	f.StringVar(&o.admin, "admin", "127.0.0.1:8081", "address and port of the console, /api, /healthz, /readyz and /metrics; other than on a loopback address, console and /api need a login")
	o.adminOptions.bind(f)
	f.BoolVar(&o.simulate, "simulate", true, "start the simulators that Backends ask for by the annotation "+simulatorAnnotation)
	f.DurationVar(&o.drainTimeout, "drain-timeout", 30*time.Second, "how long requests may run on after a signal to stop; a second signal cuts them")
	f.StringVar(&o.stateDir, "state-dir", "", "where the ledger is kept (default: $WEIR_STATE_DIR, $XDG_STATE_HOME/weir or ~/.local/state/weir)")
	f.Uint32Var(&o.maxBody, "max-request-bytes", 0, "largest request body, instead of what the LLMGateway says")
	f.Uint32Var(&o.maxHeader, "max-header-kib", 0, "largest request headers in KiB, instead of what the LLMGateway says")
	o.logOptions.bind(f)
	f.StringVar(&o.accessLog, "access-log", accessAuto, "a line for each request on standard output, unless LLMGateway.spec.telemetry.accessLog is Disabled: json, text or off; auto is text on a terminal and else json")
}

// ledgerDir is where the ledger is kept, and what else must outlive the process.
func (o *gatewayOptions) ledgerDir() (string, error) {
	if o.stateDir != "" {
		return o.stateDir, nil
	}
	return ledger.DefaultDir(os.Getenv)
}

// logOptions are the flags of every command that goes on and on.
type logOptions struct {
	logLevel  string
	logFormat string
}

func (o *logOptions) bind(f *pflag.FlagSet) {
	f.StringVar(&o.logLevel, "log-level", "info", "debug, info, warn or error")
	f.StringVar(&o.logFormat, "log-format", "text", "text or json, on standard error")
}

// machineLog says whether what is written to standard error is read by a machine.
func (o *logOptions) machineLog() bool { return o.logFormat == "json" }

func (o *logOptions) logger() (*slog.Logger, slog.Level, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(o.logLevel)); err != nil {
		return nil, 0, fmt.Errorf("--log-level %q: use debug, info, warn or error", o.logLevel)
	}
	opts := &slog.HandlerOptions{Level: level}
	switch o.logFormat {
	case "text":
		return slog.New(slog.NewTextHandler(os.Stderr, opts)), level, nil
	case "json":
		return slog.New(slog.NewJSONHandler(os.Stderr, opts)), level, nil
	}
	return nil, 0, fmt.Errorf("--log-format %q: use text or json", o.logFormat)
}

// envoyOptions are the flags of what goes into Envoy's bootstrap.
type envoyOptions struct {
	maxConns uint32
	maxHeap  uint64
}

func (o *envoyOptions) bind(f *pflag.FlagSet) {
	f.Uint32Var(&o.maxConns, "max-connections", 0, "most client connections of all listeners together (default: 50000)")
	f.Uint64Var(&o.maxHeap, "max-heap", 0, "most bytes of Envoy's heap before it refuses work (default: no limit)")
}
