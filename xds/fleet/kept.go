package fleet

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"k8s.io/utils/clock"

	"github.com/weir-dev/weir/xds/source"
)

// keptAfter is how long a Kept waits for the first reading before it uses its file: a large cluster takes a moment to be read.
const keptAfter = 10 * time.Second

// KeptOptions of a Kept.
type KeptOptions struct {
	// Source is what is read.
	Source source.Source
	// File keeps what Envoy served last, with the values that it refers to.
	File string
	// Key is what the seal of the file comes from. Without one the seal only tells whether the file is whole: who can read it can read the values.
	Key []byte
	// Of names what is read, as the address of an API server: a file of another one is ignored.
	Of    string
	Scope Scope
	Log   *slog.Logger
	Clock clock.Clock // nil is the system's
}

// Kept is a source that can be started while what it reads is away: then it hands on what Envoy served last, until there is a first reading.
// Who uses it tells it what Envoy serves, by Serving. It is safe for concurrent use.
type Kept struct {
	opts    KeptOptions
	purpose string
	news    chan struct{} // others are served

	mu     sync.Mutex
	cached *source.Objects // that was handed on from the file; nil for none
	served *source.Objects
}

var _ source.Source = (*Kept)(nil)

// NewKept makes a Kept. The file need not be there.
func NewKept(opts KeptOptions) (*Kept, error) {
	if opts.Source == nil || opts.File == "" {
		return nil, errors.New("objects are kept of a source, and in a file")
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Clock == nil {
		opts.Clock = clock.RealClock{}
	}
	return &Kept{opts: opts, purpose: "objects of " + opts.Of + "\n" + opts.Scope.normal().key(), news: make(chan struct{}, 1)}, nil
}

// String implements source.Source.
func (k *Kept) String() string { return k.opts.Source.String() }

// Health implements source.Source.
func (k *Kept) Health() source.Health { return k.opts.Source.Health() }

// Cached says whether objects that were handed on are those of the file.
func (k *Kept) Cached(objs *source.Objects) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return objs != nil && k.cached == objs
}

// Serving says that Envoy serves these objects: what was read, or what could be served of it.
func (k *Kept) Serving(objs *source.Objects) {
	k.mu.Lock()
	changed := k.served != objs
	k.served = objs
	k.mu.Unlock()
	if changed {
		wake(k.news)
	}
}

// Watch implements source.Source. It is called once.
func (k *Kept) Watch(ctx context.Context, fn func(*source.Objects, []source.Problem)) {
	var calls sync.Mutex // one at a time
	read := false
	var running sync.WaitGroup
	defer running.Wait()
	first := make(chan struct{})
	running.Go(func() {
		k.opts.Source.Watch(ctx, func(objs *source.Objects, problems []source.Problem) {
			calls.Lock()
			defer calls.Unlock()
			if !read {
				read = true
				close(first)
			}
			fn(objs, problems)
		})
	})
	timer := k.opts.Clock.NewTimer(keptAfter)
	select {
	case <-first:
	case <-ctx.Done():
	case <-timer.C():
		if s, written := k.read(); s != nil {
			calls.Lock()
			if !read && ctx.Err() == nil {
				k.mu.Lock()
				k.cached = s.objs
				k.mu.Unlock()
				k.opts.Log.Warn("it does not answer; going on with the objects that were served last", "source", k.String(), "file", k.opts.File, "written", written)
				fn(s.objs, s.problems)
			}
			calls.Unlock()
		}
	}
	timer.Stop()
	k.keep(ctx)
}

func (k *Kept) read() (*set, time.Time) {
	content, written, err := readFile(k.opts.File)
	if content == nil && err == nil {
		return nil, time.Time{}
	}
	var s *set
	if err == nil {
		s, err = unsealMessage(content, k.purpose, k.opts.Key)
	}
	if err != nil {
		k.opts.Log.Warn("the file of the objects that were served last cannot be used and is ignored", "file", k.opts.File, "error", err)
		return nil, time.Time{}
	}
	return s, written
}

// keep writes what is served until ctx ends, and then once more.
func (k *Kept) keep(ctx context.Context) {
	var written *source.Objects
	write := func() {
		k.mu.Lock()
		served := k.served
		k.mu.Unlock()
		if served == nil || served == written || k.Cached(served) {
			return
		}
		if err := k.write(served); err != nil {
			k.opts.Log.Warn("the objects that are served cannot be kept; without the file Weir cannot start while what it reads is away", "source", k.String(), "file", k.opts.File, "error", err)
			return
		}
		written = served
	}
	keepCurrent(ctx, k.opts.Clock, k.news, write)
}

func (k *Kept) write(objs *source.Objects) error {
	e := newEncoded()
	e.update(objs, nil, k.opts.Log)
	m := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: TypeURL, SystemVersionInfo: e.digest}
	for _, r := range e.all() {
		m.Resources = append(m.Resources, r.message())
	}
	content, err := sealMessage(m, k.purpose, k.opts.Key)
	if err != nil {
		return err
	}
	return writeCache(k.opts.File, content)
}
