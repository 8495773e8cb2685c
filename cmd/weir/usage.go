package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weir-dev/weir/adapters"
	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/internal/redisconn"
	"github.com/weir-dev/weir/usage/ledger"
	"github.com/weir-dev/weir/usage/ledger/ship"
	"github.com/weir-dev/weir/xds/compile"
	"github.com/weir-dev/weir/xds/source"
	"github.com/weir-dev/weir/xds/source/files"
)

// usageOptions are the flags of usage.
type usageOptions struct {
	dir      string
	stateDir string
	source   string
	from, to string
	by       string
	format   string
	entries  bool
	filter   ledger.Filter
}

func usageCommand() *cobra.Command {
	var o usageOptions
	c := &cobra.Command{
		Use:   "usage",
		Short: "Report tokens and money from the ledger",
		Long: `Report tokens and money from the ledger, of this machine or, where the gateway ships its ledger to Redis, of all
replicas. What is an estimate, or has no price, has columns of its own. Days are those of UTC.`,
		Example: `  weir usage --by tenant,model
  weir usage --from 2026-03-01 --to 2026-03-31 --by day,key --tenant acme --format csv
  weir usage -f deploy/production --entries --format json`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return o.run(c.Context(), time.Now(), c.OutOrStdout(), c.ErrOrStderr())
		},
	}
	f := c.Flags()
	f.StringVarP(&o.dir, "file", "f", "", "folder (or file) with Weir objects; its LLMGateway says whether the ledger is in Redis, and where")
	f.StringVar(&o.stateDir, "state-dir", "", "folder with the ledger of this machine (default: $XDG_STATE_HOME/weir or ~/.local/state/weir)")
	f.StringVar(&o.source, "source", "auto", "auto (as the LLMGateway of --file says, local without it), local or redis")
	f.StringVar(&o.from, "from", "", "first day (2026-03-01) or time (RFC 3339) (default: the first of this month)")
	f.StringVar(&o.to, "to", "", "last day, or time that is not part of the report any more (default: now)")
	f.StringVar(&o.by, "by", "tenant,model", "what to group by, separated by commas: day, tenant, namespace, consumer, key, gateway, route, backend, model")
	f.StringVar(&o.format, "format", "table", "table, csv or json")
	f.BoolVar(&o.entries, "entries", false, "list single entries instead of sums")
	f.StringVar(&o.filter.Tenant, "tenant", "", "only this tenant")
	f.StringVar(&o.filter.Namespace, "namespace", "", "only this namespace")
	f.StringVar(&o.filter.Consumer, "consumer", "", "only this consumer")
	f.StringVar(&o.filter.Credential, "key", "", "only this key, by its name, or this other credential (jwt:ISSUER)")
	f.StringVar(&o.filter.Gateway, "gateway", "", "only what came in by this LLMGateway (namespace/name)")
	f.StringVar(&o.filter.Route, "route", "", "only this route")
	f.StringVar(&o.filter.Backend, "backend", "", "only this backend")
	f.StringVar(&o.filter.Model, "model", "", "only this model, as callers name it")
	return c
}

// usageSource answers queries from one ledger.
type usageSource struct {
	name string
	read func(context.Context, ledger.Query) (*ledger.Report, error)
	each func(context.Context, ledger.Query, func(*ledger.Entry) error) (*ledger.Report, error)
	// close lets go of connections.
	close func()
}

func (o usageOptions) run(ctx context.Context, now time.Time, out, notes io.Writer) error {
	q, err := o.query(now)
	if err != nil {
		return err
	}
	switch o.format {
	case "table", "csv", "json":
	default:
		return fmt.Errorf("--format %q: use table, csv or json", o.format)
	}
	src, err := o.open()
	if err != nil {
		return err
	}
	defer src.close()

	var report *ledger.Report
	if o.entries {
		w := newEntryWriter(o.format, out, q)
		if report, err = src.each(ctx, q, w.write); err == nil {
			err = w.end()
		}
	} else if report, err = src.read(ctx, q); err == nil {
		err = writeReport(o.format, out, q, src.name, report)
	}
	if err != nil {
		return err
	}
	if report.Damaged > 0 {
		fmt.Fprintf(notes, "weir: %d lines of the ledger (%s) are damaged and not part of the report\n", report.Damaged, src.name)
	}
	if report.Doubles > 0 {
		fmt.Fprintf(notes, "weir: %d entries of the ledger (%s) are there more than once and were counted once\n", report.Doubles, src.name)
	}
	return nil
}

func (o usageOptions) query(now time.Time) (ledger.Query, error) {
	q := ledger.Query{Filter: o.filter}
	if c := q.Filter.Credential; c != "" && !strings.HasPrefix(c, "key:") && !strings.HasPrefix(c, "jwt:") {
		q.Filter.Credential = "key:" + c // as weir keys list names it
	}
	var err error
	if q.GroupBy, err = ledger.ParseDimensions(o.by); err != nil {
		return q, fmt.Errorf("--by: %w", err)
	}
	if q.From, q.To, err = ledger.ParsePeriod(o.from, o.to, now); err != nil {
		return q, fmt.Errorf("--%w", err)
	}
	return q, nil
}

// open finds the ledger to report from.
func (o usageOptions) open() (usageSource, error) {
	var settings *compile.Settings
	if o.dir != "" {
		var err error
		if settings, err = gatewaySettings(o.dir); err != nil {
			return usageSource{}, err
		}
	}
	switch o.source {
	case "local":
		return o.openLocal()
	case "redis":
		switch {
		case settings == nil:
			return usageSource{}, errors.New("--source redis needs --file: the folder whose LLMGateway says where Redis is")
		case settings.Shared == nil:
			return usageSource{}, fmt.Errorf("the LLMGateway in %s has no spec.sharedState, so it does not say where Redis is", o.dir)
		}
		return openShared(settings.Shared)
	case "auto":
		if settings != nil && settings.ShipLedger && settings.Shared != nil {
			return openShared(settings.Shared)
		}
		return o.openLocal()
	}
	return usageSource{}, fmt.Errorf("--source %q: use auto, local or redis", o.source)
}

func (o usageOptions) openLocal() (usageSource, error) {
	state := o.stateDir
	if state == "" {
		var err error
		if state, err = ledger.DefaultDir(os.Getenv); err != nil {
			return usageSource{}, err
		}
	}
	if _, err := os.Stat(ledger.Dir(state)); err != nil {
		return usageSource{}, fmt.Errorf("there is no ledger in %s: %w; say with --state-dir where weir run keeps its state", state, err)
	}
	return usageSource{
		name: state,
		read: func(ctx context.Context, q ledger.Query) (*ledger.Report, error) { return ledger.Read(ctx, state, q) },
		each: func(ctx context.Context, q ledger.Query, fn func(*ledger.Entry) error) (*ledger.Report, error) {
			return ledger.Each(ctx, state, q, fn)
		},
		close: func() {},
	}, nil
}

func openShared(shared *compile.Shared) (usageSource, error) {
	server := shared.Redis
	server.Timeout = max(server.Timeout, patience)
	conn, err := redisconn.Open(server, redisconn.Options{})
	if err != nil {
		return usageSource{}, err
	}
	stream, _ := ship.Keys(shared.KeyPrefix)
	return usageSource{
		name: fmt.Sprintf("%s in Redis at %s", stream, strings.Join(shared.Redis.Addresses, ", ")),
		read: func(ctx context.Context, q ledger.Query) (*ledger.Report, error) {
			return ship.Read(ctx, conn, shared.KeyPrefix, q)
		},
		each: func(ctx context.Context, q ledger.Query, fn func(*ledger.Entry) error) (*ledger.Report, error) {
			return ship.Each(ctx, conn, shared.KeyPrefix, q, fn)
		},
		close: func() { _ = conn.Close() },
	}, nil
}

// gatewaySettings reads what the gateways of a folder say about the ledger.
func gatewaySettings(dir string) (*compile.Settings, error) {
	all, problems := files.Load(dir, os.LookupEnv)
	if all == nil || len(all.Gateways) == 0 {
		for _, p := range problems {
			if p.Severity == source.Error {
				return nil, errors.New(p.String())
			}
		}
		return nil, fmt.Errorf("there is no LLMGateway in %s", dir)
	}
	return settingsOf(all, dir)
}

// problemError is a problem as an error.
type problemError struct{ source.Problem }

// Error is the problem in one line.
func (e problemError) Error() string { return e.String() }

// settingsOf compiles what the gateways say about the ledger and the shared state. Everything else may be wrong, or need
// secrets that whoever asks does not have. The error may be a problemError.
func settingsOf(all *source.Objects, dir string) (*compile.Settings, error) {
	dialects, err := adapters.NewSet(adapters.Catalog()...)
	if err != nil {
		return nil, err
	}
	only := source.NewObjects()
	for _, g := range all.Gateways {
		bare := &v1alpha1.LLMGateway{TypeMeta: g.TypeMeta, ObjectMeta: g.ObjectMeta}
		bare.Spec.Accounting, bare.Spec.SharedState = g.Spec.Accounting, g.Spec.SharedState
		if err := only.Add(bare); err != nil {
			return nil, err
		}
	}
	only.Secrets = all.Secrets
	v, problems := compile.Compile(only, compileOptions(dialects, identity.Offline{}))
	if v == nil {
		for _, p := range problems {
			if p.Severity == source.Error {
				return nil, problemError{p}
			}
		}
		return nil, fmt.Errorf("the LLMGateway in %s cannot be read; see: weir validate -f %s", dir, dir)
	}
	return &v.Settings, nil
}
