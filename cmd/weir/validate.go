package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weir-dev/weir/adapters"
	"github.com/weir-dev/weir/envoy"
	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/xds/compile"
	"github.com/weir-dev/weir/xds/source"
	"github.com/weir-dev/weir/xds/source/files"
)

// compileOptions are what run and validate share.
func compileOptions(dialects *adapters.Set, keys identity.KeySource) compile.Options {
	return compile.Options{
		Dialects: dialects, Keys: keys, ExtProcCluster: envoy.ExtProcCluster, LaneFile: laneFile, SystemCAs: systemCAs(os.Getenv, fileExists),
	}
}

// compileAll compiles what a source gave, unless that has errors already.
func compileAll(objs *source.Objects, problems []source.Problem, opts compile.Options) (*compile.Version, []source.Problem) {
	if source.HasErrors(problems) {
		return nil, problems
	}
	v, more := compile.Compile(objs, opts)
	problems = append(problems, more...)
	source.SortProblems(problems)
	return v, problems
}

func validateCommand() *cobra.Command {
	var dir string
	c := &cobra.Command{
		Use:   "validate -f DIR",
		Short: "Check a folder of Weir objects without serving it",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			dialects, err := adapters.NewSet(adapters.Catalog()...)
			if err != nil {
				return err
			}
			objs, problems := files.Load(dir, os.LookupEnv)
			v, problems := compileAll(objs, problems, compileOptions(dialects, identity.Offline{})) // without fetching keys
			for _, p := range problems {
				fmt.Fprintln(c.OutOrStdout(), p)
			}
			if v == nil {
				return quietError{}
			}
			fmt.Fprintf(c.OutOrStdout(), "%s is valid: %s (version %s)\n", dir, summary(objs), v.ID)
			return nil
		},
	}
	c.Flags().StringVarP(&dir, "file", "f", "deploy/local", "folder (or file) with Weir objects")
	return c
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
