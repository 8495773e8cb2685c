package main

import (
	"context"
	"os"
	"path/filepath"

	"github.com/weir-dev/weir/envoy"
	"github.com/weir-dev/weir/test/bench/proc"
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
	if err := proc.BuildWeir(ctx, b.weir); err != nil {
		return nil, err
	}
	return b, nil
}

func (b *build) close() { _ = os.RemoveAll(b.dir) } // the system clears its temporary files some day
