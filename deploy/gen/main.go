// Command gen writes what stands in several places of deploy from the one place where it is kept: the chart's copies of
// CustomResourceDefinitions, dashboards and alerts, which a chart must have in its own folder; the PrometheusRule for kustomize; Kyverno's
// policies, which are the ValidatingAdmissionPolicies; and Argo CD's ConfigMap with the health check of every kind. It takes the folder deploy as
// its argument.
package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "gen: give the folder deploy")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

func run(dir string) error {
	files, err := generate(os.DirFS(dir))
	if err != nil {
		return err
	}
	stale, err := strays(os.DirFS(dir), files)
	if err != nil {
		return err
	}
	for _, name := range stale {
		if err := os.Remove(filepath.Join(dir, filepath.FromSlash(name))); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		to := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(to, files[name], 0o644); err != nil {
			return err
		}
	}
	return nil
}

// copied are files that stand in the chart as they are: from a folder, by a pattern, to a folder.
var copied = []struct{ from, pattern, to string }{
	{"crds", "*.yaml", "helm/weir/files/crds"},
	{"grafana", "*.json", "helm/weir/files/dashboards"},
	{"prometheus", "*-alerts.yaml", "helm/weir/files/alerts"},
}

// generate returns every file that is made from others, by its path in deploy.
func generate(deploy fs.FS) (map[string][]byte, error) {
	out := map[string][]byte{}
	for _, c := range copied {
		names, err := fs.Glob(deploy, path.Join(c.from, c.pattern))
		if err != nil {
			return nil, err
		}
		if len(names) == 0 {
			return nil, fmt.Errorf("there is no %s in %s", c.pattern, c.from)
		}
		for _, name := range names {
			if out[path.Join(c.to, path.Base(name))], err = fs.ReadFile(deploy, name); err != nil {
				return nil, err
			}
		}
	}
	for _, make := range []func(fs.FS, map[string][]byte) error{prometheusRule, kyverno, argoCD} {
		if err := make(deploy, out); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// strays are files in the folders of copies that are copies of nothing any more.
func strays(deploy fs.FS, files map[string][]byte) ([]string, error) {
	var out []string
	for _, c := range copied {
		names, err := fs.Glob(deploy, c.to+"/*")
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			if _, ok := files[name]; !ok {
				out = append(out, name)
			}
		}
	}
	return out, nil
}

// indent puts white space before every line that is not empty.
func indent(text []byte, by string) []byte {
	var out bytes.Buffer
	for line := range bytes.Lines(text) {
		if len(bytes.TrimSpace(line)) > 0 {
			out.WriteString(by)
		}
		out.Write(line)
	}
	return out.Bytes()
}
