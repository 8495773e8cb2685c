package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/weir-dev/weir/envoy"
)

// build is the programs that are measured.
type build struct {
	dir   string // removed at the end; short, since the path of a unix socket in it must be
	weir  string
	envoy envoy.Binary // Path is "" where none is wanted
}

func newBuild(ctx context.Context, o *options, tell func(string, ...any)) (_ *build, err error) {
	b := &build{weir: o.binary}
	if b.dir, err = os.MkdirTemp("", "weir-scale-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			b.close()
		}
	}()
	if o.envoy {
		if b.envoy, err = envoy.Ensure(ctx, envoy.FindOptions{Progress: os.Stderr}); err != nil {
			return nil, err
		}
	}
	if b.weir != "" {
		return b, nil
	}
	tell("building weir")
	b.weir = filepath.Join(b.dir, "weir")
	said, err := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", b.weir, "github.com/weir-dev/weir/cmd/weir").CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("weir cannot be built: %w\n%s", err, said)
	}
	return b, nil
}

func (b *build) close() { _ = os.RemoveAll(b.dir) } // the system clears its temporary files some day
