package harness

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-dev/weir/envoy"
)

// RaceVariable set to 1 builds weir with the race detector. A race that it finds makes weir exit with a
// status other than 0, which fails the test.
const RaceVariable = "WEIR_E2E_RACE"

// binary is built once in the life of the test process.
var binary = sync.OnceValues(build)

// envoyBinary is looked for, or fetched, once.
var envoyBinary = sync.OnceValues(func() (string, error) {
	bin, err := envoy.Ensure(context.Background(), envoy.FindOptions{Progress: os.Stderr})
	return bin.Path, err
})

// buildDir is where binary put the program.
var buildDir string

func build() (string, error) {
	sweep(time.Now())
	dir, err := os.MkdirTemp("", "weir-e2e-bin-")
	if err != nil {
		return "", fmt.Errorf("no place to build weir in: %w", err)
	}
	buildDir = dir
	path := filepath.Join(dir, "weir")
	args := []string{"build", "-o", path}
	if os.Getenv(RaceVariable) == "1" {
		args = append(args, "-race")
	}
	out, err := exec.Command("go", append(args, "github.com/weir-dev/weir/cmd/weir")...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("weir cannot be built: %w\n%s", err, out)
	}
	return path, nil
}

// keep is how long what a test process leaves behind that was killed may lie about.
const keep = 24 * time.Hour

// sweep removes the directories of such processes. They belong to nobody: no run of tests takes that long.
func sweep(now time.Time) {
	old, _ := filepath.Glob(filepath.Join(os.TempDir(), "weir-e2e-*"))
	for _, dir := range old {
		if fi, err := os.Lstat(dir); err == nil && fi.IsDir() && now.Sub(fi.ModTime()) > keep {
			_ = os.RemoveAll(dir) // another user's stays
		}
	}
}

// Binary builds cmd/weir, the first time it is called, and returns its path.
func Binary(t testing.TB) string {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// EnvoyBinary returns the path of Envoy, which is fetched where it is not on the machine.
func EnvoyBinary(t testing.TB) string {
	t.Helper()
	path, err := envoyBinary()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// Tests are those of a package, or what runs them.
type Tests interface{ Run() int }

// Main runs the tests of a package and removes what Binary built: TestMain calls it.
func Main(m Tests) { os.Exit(Clean(m).Run()) }

// Clean is what Main runs, for a TestMain that has more to do.
func Clean(m Tests) Tests { return cleaned{m} }

type cleaned struct{ tests Tests }

// Run implements Tests.
func (c cleaned) Run() int {
	for _, v := range os.Environ() { // what the developer has set is not for the gateways of tests
		if name, _, _ := strings.Cut(v, "="); strings.HasPrefix(name, "OTEL_") || name == "WEIR_ADMIN_TOKEN" {
			_ = os.Unsetenv(name) // it has that name
		}
	}
	code := c.tests.Run()
	if buildDir != "" {
		_ = os.RemoveAll(buildDir) // the system clears its directory for temporary files some day
	}
	return code
}
