package main

import (
	"os"
	"strings"
	"testing"
	"testing/fstest"
)

// TestCurrent fails where somebody has changed a source and not what is made from it.
func TestCurrent(t *testing.T) {
	deploy := os.DirFS("..")
	files, err := generate(deploy)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range files {
		if got, err := os.ReadFile("../" + name); err != nil || string(got) != string(want) {
			t.Errorf("deploy/%s is not what its source makes of it (%v): run make gen", name, err)
		}
	}
	stale, err := strays(deploy, files)
	if err != nil {
		t.Fatal(err)
	}
	if len(stale) > 0 {
		t.Errorf("copies of nothing: %q: run make gen", stale)
	}
}

// TestRun writes what is missing, and takes away what is too much.
func TestRun(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("..")); err != nil {
		t.Fatal(err)
	}
	const stray, missing = "/helm/weir/files/crds/weir.dev_gone.yaml", "/argocd/argocd-cm.yaml"
	if err := os.WriteFile(dir+stray, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(dir + missing); err != nil {
		t.Fatal(err)
	}
	if err := run(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir + stray); !os.IsNotExist(err) {
		t.Errorf("the stray is still there: %v", err)
	}
	if _, err := os.Stat(dir + missing); err != nil {
		t.Error(err)
	}
}

// TestRefused says which file is not as it must be.
func TestRefused(t *testing.T) {
	const crd = "spec: {group: weir.dev, names: {kind: Thing}}"
	whole := func() fstest.MapFS {
		return fstest.MapFS{
			"crds/thing.yaml":              {Data: []byte(crd)},
			"grafana/a.json":               {Data: []byte("{}")},
			"prometheus/a-alerts.yaml":     {Data: []byte("# Alerts.\ngroups:\n  - name: a\n")},
			"argocd/health.lua":            {Data: []byte("return {}\n")},
			"admission/a.yaml":             {Data: []byte(admissionHead + admissionSpec + variables + "---\nbinding: true\n")},
			"admission/kustomization.yaml": {Data: []byte("resources: []")},
		}
	}
	if _, err := generate(whole()); err != nil {
		t.Fatalf("nothing is wrong here: %v", err)
	}
	for name, c := range map[string]struct {
		path, text string
		want       string
	}{
		"no definitions":   {"crds/thing.yaml", "", "there is no *.yaml in crds"},
		"half a yaml":      {"crds/thing.yaml", "spec: {", "crds/thing.yaml: "},
		"no groups":        {"prometheus/a-alerts.yaml", "# groups:\n", "prometheus/a-alerts.yaml has no line with groups: alone"},
		"no check":         {"argocd/health.lua", "", "argocd/health.lua"},
		"policy alone":     {"admission/a.yaml", admissionHead, "want a policy and its binding"},
		"policy otherwise": {"admission/a.yaml", "kind: ValidatingAdmissionPolicy\n---\n", "want this once"},
	} {
		t.Run(name, func(t *testing.T) {
			files := whole()
			delete(files, c.path)
			if c.text != "" {
				files[c.path] = &fstest.MapFile{Data: []byte(c.text)}
			}
			_, err := generate(files)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}
