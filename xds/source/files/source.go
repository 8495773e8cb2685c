package files

import (
	"context"
	"time"

	"github.com/weir-dev/weir/xds/source"
)

// Source is a folder of documents as a source.Source.
type Source struct {
	dir   string
	env   Env
	opts  Options
	since time.Time
}

// NewSource returns the source that Watch reads with the same arguments.
func NewSource(dir string, env Env, opts Options) *Source {
	opts = opts.withDefaults()
	return &Source{dir: dir, env: env, opts: opts, since: opts.Clock.Now()}
}

// Watch implements source.Source.
func (s *Source) Watch(ctx context.Context, fn func(*source.Objects, []source.Problem)) {
	Watch(ctx, s.dir, s.env, s.opts, fn)
}

// Health implements source.Source. A folder that cannot be read is a problem of its objects, so a folder is always connected.
func (s *Source) Health() source.Health { return source.Health{Connected: true, Since: s.since} }

// String implements source.Source.
func (s *Source) String() string { return "folder " + s.dir }
