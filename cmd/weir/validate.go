package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weir-dev/weir/adapters"
	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/envoy"
	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/xds/accept"
	"github.com/weir-dev/weir/xds/compile"
	"github.com/weir-dev/weir/xds/source"
	"github.com/weir-dev/weir/xds/source/files"
)

// compileOptions are what run and validate share.
func compileOptions(dialects *adapters.Set, keys identity.KeySource) compile.Options {
	return compile.Options{
		Dialects: dialects, Keys: keys, ExtProcCluster: envoy.ExtProcCluster, LaneFile: laneFile, RelaySocket: envoy.RelaySocketName, InnerSocket: envoy.InnerSocketName, SystemCAs: systemCAs(os.Getenv, fileExists),
	}
}

// compileAll compiles what a source gave, unless that has errors already.
func compileAll(c *compile.Compiler, objs *source.Objects, problems []source.Problem, opts compile.Options) (*compile.Version, []source.Problem) {
	if source.HasErrors(problems) {
		return nil, problems
	}
	v, more := c.Compile(objs, opts)
	problems = append(problems, more...)
	source.SortProblems(problems)
	return v, problems
}

func validateCommand() *cobra.Command {
	var dir string
	var cluster bool
	var kube kubernetesOptions
	c := &cobra.Command{
		Use:   "validate -f DIR | --kubernetes",
		Short: "Check a folder of Weir objects, or those of a cluster, without serving them",
		Long: `Check a folder of Weir objects, or those of a cluster, without serving them.

The exit code is 0 where everything is valid, warnings apart, and 1 where something is not.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			checked, err := readFolder(dir)
			if cluster {
				checked, err = readCluster(c.Context(), &kube, nil)
			}
			if err != nil {
				return err
			}
			for _, p := range checked.problems {
				fmt.Fprintln(c.OutOrStdout(), p)
			}
			if checked.version == nil || source.HasErrors(checked.problems) {
				return quietError{}
			}
			fmt.Fprintf(c.OutOrStdout(), "%s is valid: %s (version %s)\n", checked.from, summary(checked.objs), checked.version.ID)
			return nil
		},
	}
	f := c.Flags()
	f.StringVarP(&dir, "file", "f", "deploy/local", "folder (or file) with Weir objects")
	f.BoolVar(&cluster, "kubernetes", false, "check what a cluster has instead of a folder")
	kube.bind(f)
	c.MarkFlagsMutuallyExclusive("file", "kubernetes")
	return c
}

// checked are objects with what they come to.
type checked struct {
	from     string
	dialects *adapters.Set
	objs     *source.Objects
	version  *compile.Version // nil where nothing can be served of them
	problems []source.Problem
	refused  map[source.ObjectRef]accept.Kept // of a cluster
}

// readFolder reads and compiles a folder, without fetching keys.
func readFolder(dir string) (*checked, error) {
	dialects, err := adapters.NewSet(adapters.Catalog()...)
	if err != nil {
		return nil, err
	}
	out := &checked{from: dir, dialects: dialects}
	out.objs, out.problems = files.Load(dir, os.LookupEnv)
	out.version, out.problems = compileAll(compile.NewCompiler(), out.objs, out.problems, compileOptions(dialects, identity.Offline{}))
	return out, nil
}

// clusterPatience is how long a cluster may take to be read.
const clusterPatience = 30 * time.Second

// readCluster reads the objects of a cluster, with others over them as if they had been applied, and compiles what is valid.
func readCluster(ctx context.Context, o *kubernetesOptions, over []source.Object) (*checked, error) {
	dialects, err := adapters.NewSet(adapters.Catalog()...)
	if err != nil {
		return nil, err
	}
	config, err := o.config()
	if err != nil {
		return nil, err
	}
	src, err := o.open(config, slog.New(slog.DiscardHandler), nil, over)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, clusterPatience)
	defer cancel()
	var out *checked
	src.Watch(ctx, func(objs *source.Objects, problems []source.Problem) {
		if out == nil {
			out = &checked{from: src.String(), dialects: dialects, objs: objs, problems: problems}
			cancel()
		}
	})
	if out == nil {
		return nil, fmt.Errorf("%s cannot be read within %v: %s", src, clusterPatience, src.Health().Reason)
	}
	r := accept.NewKeeper().Compile(out.objs, out.problems, offline(dialects, compile.NewCompiler(), o.routes))
	out.version, out.problems, out.refused = r.Version, r.Problems, r.Refused
	return out, nil
}

// offline compiles objects of many people without fetching keys: by whoever decides no requests.
func offline(dialects *adapters.Set, c *compile.Compiler, routes allowedRoutes) accept.CompileFunc {
	opts := offlineOptions(dialects, routes)
	return func(objs *source.Objects) (*compile.Version, []source.Problem) { return c.Compile(objs, opts) }
}

// checking is offline by whoever serves no Envoy either.
func checking(dialects *adapters.Set, c *compile.Compiler, routes allowedRoutes) accept.CompileFunc {
	opts := offlineOptions(dialects, routes)
	opts.Check = true
	return func(objs *source.Objects) (*compile.Version, []source.Problem) { return c.Compile(objs, opts) }
}

func offlineOptions(dialects *adapters.Set, routes allowedRoutes) compile.Options {
	opts := compileOptions(dialects, identity.Offline{})
	opts.Lenient, opts.AllowedRoutes = true, v1alpha1.FromNamespaces(routes)
	return opts
}

// summary counts objects: "1 gateway, 3 backends, ...".
func summary(o *source.Objects) string {
	s := ""
	for _, k := range []struct {
		n    int
		what string
	}{
		{len(o.Gateways), "gateway"}, {len(o.Backends), "backend"}, {len(o.Routes), "route"},
		{len(o.Consumers), "consumer"}, {len(o.APIKeys), "API key"}, {len(o.JWTIssuers), "JWT issuer"},
		{len(o.LimitPolicies), "limit policy"}, {len(o.Budgets), "budget"}, {len(o.LoadPolicies), "load policy"},
		{len(o.CachePolicies), "cache policy"}, {len(o.SessionPolicies), "session policy"},
		{len(o.ReferenceGrants), "reference grant"},
	} {
		if k.n == 0 {
			continue
		}
		if s != "" {
			s += ", "
		}
		what := k.what
		if k.n != 1 {
			what += "s"
			if stem, ok := strings.CutSuffix(k.what, "cy"); ok {
				what = stem + "cies"
			}
		}
		s += fmt.Sprintf("%d %s", k.n, what)
	}
	return s
}
