package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"github.com/weir-dev/weir/console/state"
	"github.com/weir-dev/weir/xds/accept"
	"github.com/weir-dev/weir/xds/diff"
	"github.com/weir-dev/weir/xds/source"
	"github.com/weir-dev/weir/xds/source/files"
)

// diffOptions are the flags of diff.
type diffOptions struct {
	dir, against string
	cluster      bool
	kube         kubernetesOptions
	output       string
}

func diffCommand() *cobra.Command {
	var o diffOptions
	c := &cobra.Command{
		Use:   "diff -f DIR (--against DIR | --kubernetes)",
		Short: "Show what a folder of objects would change in Envoy",
		Long: `Show what a folder of objects would change in Envoy: against another folder (--against), such as the main branch's, or against what a
cluster has (--kubernetes), as if the folder had been applied to it. Nothing is applied, and no secret is shown.

The exit code is 0 where nothing would change, 1 where something would, and 2 where that cannot be told: the folder is not valid, or the
cluster cannot be read.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			changed, err := runDiff(c.Context(), &o, c.OutOrStdout())
			switch {
			case err != nil:
				fmt.Fprintf(c.ErrOrStderr(), "weir: %v\n", err)
				return quietError{code: 2}
			case changed:
				return quietError{code: 1}
			}
			return nil
		},
	}
	f := c.Flags()
	f.StringVarP(&o.dir, "file", "f", "deploy/local", "folder (or file) with Weir objects")
	f.StringVar(&o.against, "against", "", "folder (or file) to compare it with")
	f.BoolVar(&o.cluster, "kubernetes", false, "compare with what a cluster has")
	f.StringVarP(&o.output, "output", "o", "text", "text or json")
	o.kube.bind(f)
	c.MarkFlagsMutuallyExclusive("against", "kubernetes")
	return c
}

// difference is what weir diff shows, and prints as JSON.
type difference struct {
	Before string `json:"before"` // version
	After  string `json:"after"`
	// Objects that would be added, changed or removed.
	Objects []objectChange `json:"objects"`
	// Envoy's resources, likewise.
	Envoy []diff.Change `json:"envoy"`
	// Problems that there would be then.
	Problems []string `json:"problems"`
}

type objectChange struct {
	Object string `json:"object"`
	Action string `json:"action"`
	Diff   string `json:"diff"`
}

// runDiff shows what would change, and says whether anything would.
func runDiff(ctx context.Context, o *diffOptions, out io.Writer) (changed bool, err error) {
	if o.output != "text" && o.output != "json" {
		return false, fmt.Errorf("--output %q: use text or json", o.output)
	}
	if (o.against != "") == o.cluster {
		return false, errors.New("say what to compare with: give --against DIR or --kubernetes, one of them")
	}
	before, after, err := o.read(ctx)
	if err != nil {
		return false, err
	}
	if after.version == nil || len(after.refused) > 0 {
		return false, invalid(o.dir, after.problems)
	}
	d := difference{After: after.version.ID, Objects: []objectChange{}, Envoy: []diff.Change{}, Problems: []string{}}
	if before.version != nil {
		d.Before = before.version.ID
	}
	if d.Before != d.After {
		for _, c := range state.Compare(before.objs, after.objs) {
			d.Objects = append(d.Objects, objectChange{c.Ref.String(), c.Action, c.Diff})
		}
		d.Envoy = append(d.Envoy, diff.Versions(before.version, after.version)...)
	}
	for _, p := range after.problems {
		d.Problems = append(d.Problems, p.String())
	}
	if o.output == "json" {
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		err = enc.Encode(d)
	} else {
		err = d.print(out)
	}
	return d.Before != d.After, err
}

// read reads both sides.
func (o *diffOptions) read(ctx context.Context) (before, after *checked, err error) {
	if !o.cluster {
		if before, err = readFolder(o.against); err == nil {
			after, err = readFolder(o.dir)
		}
		if err == nil && before.version == nil {
			err = invalid(o.against, before.problems)
		}
		return before, after, err
	}
	objs, problems := files.Manifests(o.dir)
	if source.HasErrors(problems) {
		return nil, nil, invalid(o.dir, problems)
	}
	if before, err = readCluster(ctx, &o.kube, nil); err != nil {
		return nil, nil, err
	}
	if after, err = readCluster(ctx, &o.kube, objs.All()); err != nil {
		return nil, nil, err
	}
	// What cannot be served of the folder cannot be compared: Secrets that may not be read are such a case.
	applied := map[source.ObjectRef]bool{}
	for _, obj := range objs.All() {
		applied[source.RefOf(obj)] = true
	}
	maps.DeleteFunc(after.refused, func(ref source.ObjectRef, _ accept.Kept) bool { return !applied[ref] })
	after.problems = slices.DeleteFunc(after.problems, func(p source.Problem) bool { return len(after.refused) > 0 && after.refused[p.Object] == 0 })
	after.problems = append(problems, after.problems...) // warnings: what the folder has that is not compared
	return before, after, nil
}

// invalid says why objects cannot be compared.
func invalid(dir string, problems []source.Problem) error {
	err := fmt.Errorf("%s is not valid", dir)
	for _, p := range problems {
		if p.Severity == source.Error {
			err = fmt.Errorf("%w\n%s", err, p)
		}
	}
	return err
}

// print writes the difference for people.
func (d *difference) print(out io.Writer) error {
	w := &errorWriter{to: out}
	for _, p := range d.Problems {
		w.printf("%s\n", p)
	}
	if d.Before == d.After {
		w.printf("Nothing would change (version %s).\n", d.After)
		return w.err
	}
	w.printf("Version %s would become %s.\n", cmp.Or(d.Before, "(none)"), d.After)
	if len(d.Objects) > 0 {
		w.printf("\nObjects: %d\n", len(d.Objects))
	}
	for _, c := range d.Objects {
		w.printf("\n%s %s\n%s", c.Action, c.Object, c.Diff)
	}
	if len(d.Envoy) == 0 {
		w.printf("\nEnvoy's configuration stays as it is: what changes, Weir decides by itself.\n")
		return w.err
	}
	w.printf("\nEnvoy: %d resources\n", len(d.Envoy))
	for _, c := range d.Envoy {
		w.printf("\n%s %s %s\n%s", c.Action, c.Type, c.Name, c.Diff)
	}
	return w.err
}

// errorWriter remembers the first error.
type errorWriter struct {
	to  io.Writer
	err error
}

func (w *errorWriter) printf(format string, args ...any) {
	if w.err == nil {
		_, w.err = fmt.Fprintf(w.to, format, args...)
	}
}
