package assets

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// progressEvery is how often a build says how far it has come.
const progressEvery = 15 * time.Second

// buildFlags are those of the go command for the servers of a Kubernetes version. Unoptimised code without debug information
// takes a third less of the compiler's time; but not the standard library, whose garbage collector, JSON and TLS are most of what
// a server does while it starts.
func buildFlags(version string) []string {
	parts := strings.SplitN(strings.TrimPrefix(version, "v"), ".", 3)
	const pkg = "k8s.io/component-base/version."
	ld := []string{
		"-s", "-w",
		"-X", pkg + "gitVersion=" + version, "-X", pkg + "gitMajor=" + parts[0], "-X", pkg + "gitMinor=" + parts[1], "-X", pkg + "gitTreeState=clean",
	}
	return []string{"-trimpath", "-buildvcs=false", "-gcflags=all=-N -l -dwarf=false", "-gcflags=std=-dwarf=false", "-ldflags=" + strings.Join(ld, " ")}
}

// buildEnv is the environment of the build: constant, so that the compiler's cache fits a second time.
func buildEnv() []string { return append(os.Environ(), "GOWORK=off", "GOFLAGS=", "CGO_ENABLED=0") }

// build makes both servers from their modules, in the folder into.
func build(ctx context.Context, p place, into string, progress io.Writer) error {
	packages, err := countPackages(ctx, p, progress)
	if err != nil {
		return err
	}
	fmt.Fprintf(progress, "building etcd and kube-apiserver %s from %d packages: five minutes or so, once\n", p.version, packages)
	start := time.Now()
	// -v names each package when it has been compiled; one that the compiler's cache has is not named.
	args := append([]string{"build", "-v", "-o", into}, buildFlags(p.version)...)
	cmd := exec.CommandContext(ctx, "go", append(args, etcdPackage, apiserverPackage)...)
	cmd.Dir, cmd.Env = p.module, buildEnv()
	out, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("kube-apiserver cannot be built: %w; install Go, or set %s to a folder with kube-apiserver and etcd", err, Variable)
	}
	said := watchBuild(out, packages, progress)
	if err := cmd.Wait(); err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("the build of etcd and kube-apiserver was given up: %w; another one goes on where it was", ctx.Err())
		}
		return fmt.Errorf("etcd and kube-apiserver cannot be built (%w): %s; mend that, or set %s to a folder with both", err, strings.TrimSpace(said), Variable)
	}
	fmt.Fprintf(progress, "built etcd and kube-apiserver in %s\n", time.Since(start).Round(time.Second))
	// The go command names a program after its package's path, go.etcd.io/etcd/server/v3 without the version.
	return os.Rename(filepath.Join(into, "server"), inFolder(into).Etcd)
}

// countPackages downloads what is missing of the modules and counts the packages of both servers.
func countPackages(ctx context.Context, p place, progress io.Writer) (int, error) {
	var out, problem bytes.Buffer
	cmd := exec.CommandContext(ctx, "go", "list", "-deps", etcdPackage, apiserverPackage)
	cmd.Dir, cmd.Env = p.module, buildEnv()
	cmd.Stdout, cmd.Stderr = &out, &problem
	fmt.Fprintf(progress, "downloading the modules of Kubernetes %s (85 MB, once)\n", p.version)
	if err := cmd.Run(); err != nil {
		return 0, fmt.Errorf("the modules of kube-apiserver and etcd cannot be downloaded (%w): %s; mend that, or set %s to a folder with both",
			err, lastLines(problem.String(), 3), Variable)
	}
	return bytes.Count(out.Bytes(), []byte("\n")), nil
}

// watchBuild reads what the go command says until its end, tells progress now and then, and returns what is no package's name.
func watchBuild(out io.Reader, packages int, progress io.Writer) (said string) {
	var other []string
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	last := time.Now()
	for done := 0; lines.Scan(); {
		line := lines.Text()
		if strings.ContainsAny(line, " :") || line == "" {
			other = append(other, line)
			continue
		}
		done++
		if time.Since(last) >= progressEvery {
			last = time.Now()
			fmt.Fprintf(progress, "compiled %d packages of at most %d, last %s\n", done, packages, line)
		}
	}
	return lastLines(strings.Join(other, "\n"), 20)
}

// lastLines are the last n lines of a text.
func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
