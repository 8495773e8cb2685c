// Command render makes manifests as Helm and kustomize do, with their own packages, for tests: it reads a job from standard input, as
// JSON, and writes what came of it to standard output. It is a module of its own, so that neither is among Weir's dependencies.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	chartcommon "helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/v2/lint"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	chartutil "helm.sh/helm/v4/pkg/chart/v2/util"
	"helm.sh/helm/v4/pkg/engine"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// job says what to render: a chart, or the folder of a kustomization.
type job struct {
	// Chart is a chart's folder.
	Chart string `json:"chart,omitempty"`
	// Values are those that a user gives, YAML.
	Values string `json:"values,omitempty"`
	// Release and Namespace of the chart.
	Release   string `json:"release,omitempty"`
	Namespace string `json:"namespace,omitempty"`
	// Kustomization is the folder of one.
	Kustomization string `json:"kustomization,omitempty"`
}

// outcome is what came of a job.
type outcome struct {
	// Manifests are YAML, by the name of the template that made them.
	Manifests map[string]string `json:"manifests,omitempty"`
	// Notes are what Helm shows after an installation.
	Notes string `json:"notes,omitempty"`
	// Lint are Helm's findings, each with its severity: "[ERROR] templates/: ...".
	Lint []string `json:"lint,omitempty"`
	// Error is why there is nothing.
	Error string `json:"error,omitempty"`
}

func main() {
	if err := answer(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "render:", err)
		os.Exit(1)
	}
}

// answer does the jobs of a stream, one after the other.
func answer(in io.Reader, out io.Writer) error {
	jobs, answers := json.NewDecoder(in), json.NewEncoder(out)
	for {
		var j job
		if err := jobs.Decode(&j); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		o, err := j.do()
		if err != nil {
			o.Error = err.Error()
		}
		if err := answers.Encode(o); err != nil {
			return err
		}
	}
}

func (j job) do() (outcome, error) {
	switch {
	case j.Chart != "" && j.Kustomization == "":
		return j.helm()
	case j.Kustomization != "" && j.Chart == "":
		return j.kustomize()
	}
	return outcome{}, fmt.Errorf("a job has either a chart or a kustomization: %+v", j)
}

// helm lints and renders a chart, as "helm lint" and "helm template" do.
func (j job) helm() (outcome, error) {
	var o outcome
	values, err := loader.LoadValues(strings.NewReader(j.Values))
	if err != nil {
		return o, fmt.Errorf("values: %w", err)
	}
	linted := lint.RunAll(j.Chart, values, j.Namespace)
	for _, m := range linted.Messages {
		o.Lint = append(o.Lint, m.Error())
	}
	chart, err := loader.LoadDir(j.Chart)
	if err != nil {
		return o, err
	}
	if err := chartutil.ProcessDependencies(chart, values); err != nil {
		return o, err
	}
	release := chartcommon.ReleaseOptions{Name: j.Release, Namespace: j.Namespace, Revision: 1, IsInstall: true}
	all, err := util.ToRenderValues(chart, values, release, chartcommon.DefaultCapabilities)
	if err != nil {
		return o, err
	}
	files, err := engine.Render(chart, all)
	if err != nil {
		return o, err
	}
	o.Manifests = map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		switch base := path.Base(name); {
		case base == "NOTES.txt":
			o.Notes = files[name]
		case strings.HasPrefix(base, "_"), strings.TrimSpace(files[name]) == "":
		default:
			o.Manifests[name] = files[name]
		}
	}
	return o, nil
}

// kustomize builds a kustomization, as "kustomize build" does with its defaults.
func (j job) kustomize() (outcome, error) {
	options := krusty.MakeDefaultOptions()
	options.Reorder = krusty.ReorderOptionLegacy
	options.LoadRestrictions = types.LoadRestrictionsRootOnly
	built, err := krusty.MakeKustomizer(options).Run(filesys.MakeFsOnDisk(), j.Kustomization)
	if err != nil {
		return outcome{}, err
	}
	text, err := built.AsYaml()
	if err != nil {
		return outcome{}, err
	}
	return outcome{Manifests: map[string]string{j.Kustomization: string(text)}}, nil
}
