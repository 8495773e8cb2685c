package assets

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// kubernetesModule is the module of the API server. Nothing but its own build may require it: its go.mod takes the staging
// modules from folders of its repository, which a module that is required cannot do.
const kubernetesModule = "k8s.io/kubernetes"

// etcdPackage and apiserverPackage are the main packages of the two servers.
const (
	etcdPackage      = "go.etcd.io/etcd/server/v3"
	apiserverPackage = "k8s.io/kubernetes/cmd/kube-apiserver"
)

// stagingReplace is a line of Kubernetes' go.mod that takes a module from its repository.
var stagingReplace = regexp.MustCompile(`(?m)^\s*(?:replace )?(\S+) => \./staging/\S+\s*$`)

// goLine and godebugLine are directives that our module has to repeat: those of a dependency count for nothing.
var (
	goLine      = regexp.MustCompile(`(?m)^go \S+$`)
	godebugLine = regexp.MustCompile(`(?m)^godebug \S+$`)
)

// WriteModules writes dir's go.mod and go.sum anew, for the servers of one Kubernetes version such as "1.36.3". Progress is
// what the go command says.
func WriteModules(ctx context.Context, dir, version string, progress io.Writer) error {
	version = strings.TrimPrefix(version, "v")
	if !regexp.MustCompile(`^1\.\d+\.\d+$`).MatchString(version) {
		return fmt.Errorf("%q is not a version of Kubernetes such as 1.36.3", version)
	}
	theirs, err := kubernetesGoMod(ctx, version)
	if err != nil {
		return err
	}
	ours, err := goMod(theirs, version)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), ours, 0o644); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(dir, "go.sum")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", "mod", "tidy")
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, progress, progress
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=mod")
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("go mod tidy in %s: %w", dir, err)
	}
	return nil
}

// kubernetesGoMod is the go.mod of a Kubernetes version.
func kubernetesGoMod(ctx context.Context, version string) ([]byte, error) {
	var out, problem bytes.Buffer
	// Outside of any module, or the go command would first read that one's.
	cmd := exec.CommandContext(ctx, "go", "mod", "download", "-json", kubernetesModule+"@v"+version)
	cmd.Dir, cmd.Stdout, cmd.Stderr = os.TempDir(), &out, &problem
	cmd.Env = append(os.Environ(), "GOWORK=off", "GO111MODULE=on", "GOFLAGS=")
	err := cmd.Run()
	var m struct{ GoMod, Error string }
	if jsonErr := json.Unmarshal(out.Bytes(), &m); jsonErr != nil || m.Error != "" || err != nil {
		return nil, fmt.Errorf("Kubernetes v%s cannot be downloaded: %s", version, strings.TrimSpace(m.Error+" "+problem.String()))
	}
	return os.ReadFile(m.GoMod)
}

// goMod is our go.mod, from Kubernetes' own: each staging module is replaced by what was published of it under the version
// v0.minor.patch.
func goMod(theirs []byte, version string) ([]byte, error) {
	staging := stagingReplace.FindAllSubmatch(theirs, -1)
	if len(staging) == 0 {
		return nil, fmt.Errorf("the go.mod of Kubernetes v%s has no staging modules: its form has changed", version)
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "// The API server and etcd for tests. Written by `go run ./test/kubetest/need -modules %s`: not edited by hand.\n", version)
	fmt.Fprintf(&b, "module github.com/weir-dev/weir/test/kubetest/servers\n\n%s\n", goLine.Find(theirs))
	if line := godebugLine.Find(theirs); line != nil {
		fmt.Fprintf(&b, "\n%s\n", line)
	}
	fmt.Fprintf(&b, "\nrequire %s v%s\n\nreplace (\n", kubernetesModule, version)
	for _, m := range staging {
		fmt.Fprintf(&b, "\t%s => %s v0.%s\n", m[1], m[1], strings.TrimPrefix(version, "1."))
	}
	// Tools and no import: both are programs.
	fmt.Fprintf(&b, ")\n\ntool (\n\t%s\n\t%s\n)\n", etcdPackage, apiserverPackage)
	return b.Bytes(), nil
}
