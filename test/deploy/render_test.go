package deploy

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"

	"github.com/weir-dev/weir/test/kubetest"
)

func TestMain(m *testing.M) { kubetest.Main(m) }

// The folders that are tested, from this one.
const (
	deployDir = "../../deploy"
	chartDir  = deployDir + "/helm/weir"
)

// namespace is where everything is installed in these tests.
const namespace = "weir-system"

// examples are the chart's sets of values, each with the overlay of kustomize that is the same.
var examples = []string{"sidecar", "fleet", "production"}

// job and outcome are those of the program in the folder render, which has Helm and kustomize in it.
type job struct {
	Chart         string `json:"chart,omitempty"`
	Values        string `json:"values,omitempty"`
	Release       string `json:"release,omitempty"`
	Namespace     string `json:"namespace,omitempty"`
	Kustomization string `json:"kustomization,omitempty"`
}

type outcome struct {
	Manifests map[string]string `json:"manifests"`
	Notes     string            `json:"notes"`
	Lint      []string          `json:"lint"`
	Error     string            `json:"error"`
}

// render does jobs, all in one process.
func render(t *testing.T, jobs ...job) []outcome {
	t.Helper()
	var in bytes.Buffer
	for _, j := range jobs {
		for _, dir := range []*string{&j.Chart, &j.Kustomization} {
			if *dir == "" {
				continue
			}
			path, err := filepath.Abs(*dir)
			if err != nil {
				t.Fatal(err)
			}
			*dir = path
		}
		if err := json.NewEncoder(&in).Encode(j); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("go", "run", "-C", "render", ".")
	cmd.Env = append(os.Environ(), "GOWORK=off")
	cmd.Stdin = &in
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	text, err := cmd.Output()
	if err != nil {
		t.Fatalf("the program with Helm and kustomize: %v\n%s", err, stderr.Bytes())
	}
	var out []outcome
	for d := json.NewDecoder(bytes.NewReader(text)); ; {
		var o outcome
		if err := d.Decode(&o); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		out = append(out, o)
	}
	if len(out) != len(jobs) {
		t.Fatalf("%d answers to %d jobs", len(out), len(jobs))
	}
	return out
}

// helm is a job for the chart.
func helm(values string) job {
	return job{Chart: chartDir, Values: values, Release: "weir", Namespace: namespace}
}

// example is the text of a set of values.
func example(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(chartDir, "examples", name+".yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// text is all that was rendered, as one stream of documents.
func (o outcome) text() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(o.Manifests)) {
		b.WriteString("---\n" + o.Manifests[name] + "\n")
	}
	return b.String()
}

// objects are the objects of the outcome. It must not be an error.
func (o outcome) objects(t *testing.T) objects {
	t.Helper()
	if o.Error != "" {
		t.Fatal(o.Error)
	}
	var out objects
	for d := yaml.NewYAMLReader(bufio.NewReader(strings.NewReader(o.text()))); ; {
		text, err := d.Read()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if text, err = yaml.ToJSON(text); err != nil {
			t.Fatal(err)
		}
		if string(text) == "null" { // comments
			continue
		}
		u := &unstructured.Unstructured{}
		if err := u.UnmarshalJSON(text); err != nil {
			t.Fatalf("%v:\n%s", err, text)
		}
		out = append(out, u)
	}
	slices.SortFunc(out, func(a, b *unstructured.Unstructured) int { return cmp.Compare(key(a), key(b)) })
	for i := 1; i < len(out); i++ {
		if key(out[i]) == key(out[i-1]) {
			t.Fatalf("%s is there twice", key(out[i]))
		}
	}
	return out
}

// objects are sorted by key.
type objects []*unstructured.Unstructured

// key names an object: "Role team-a/weir-watch".
func key(u *unstructured.Unstructured) string {
	return u.GetKind() + " " + strings.TrimPrefix(u.GetNamespace()+"/"+u.GetName(), "/")
}

// get is the object of a key.
func (o objects) get(t *testing.T, k string) *unstructured.Unstructured {
	t.Helper()
	for _, u := range o {
		if key(u) == k {
			return u
		}
	}
	t.Fatalf("there is no %s; there are %q", k, o.keys())
	return nil
}

func (o objects) has(k string) bool { return slices.Contains(o.keys(), k) }

func (o objects) keys() []string {
	out := make([]string, len(o))
	for i, u := range o {
		out[i] = key(u)
	}
	return out
}

// of are the objects of a kind.
func (o objects) of(kind string) objects {
	var out objects
	for _, u := range o {
		if u.GetKind() == kind {
			out = append(out, u)
		}
	}
	return out
}
