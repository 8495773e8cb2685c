package files

import (
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fsnotify/fsnotify"
	"k8s.io/utils/clock"

	"github.com/weir-dev/weir/xds/source"
	"github.com/weir-dev/weir/xds/source/internal/reading"
)

// Options of Watch. The zero value is good.
type Options struct {
	// Debounce is how long the folder must be quiet before it is read again. Default 50 ms.
	Debounce time.Duration
	// MaxDelay is the longest time that constant writing can put reading off. Default 250 ms.
	MaxDelay time.Duration
	// Poll is how often the files are looked at even without an event, for file systems that send none.
	// Default 2 s. Where the system refuses to send events at all, 200 ms at most.
	Poll time.Duration
	// Clock tells the time. Default: the system's.
	Clock clock.Clock
	// Log hears when the system refuses to send events. Default: nobody.
	Log *slog.Logger
}

// pollWithoutEvents is the poll interval where events do not work.
const pollWithoutEvents = 200 * time.Millisecond

func (o Options) withDefaults() Options {
	if o.Debounce <= 0 {
		o.Debounce = 50 * time.Millisecond
	}
	if o.MaxDelay <= 0 {
		o.MaxDelay = 250 * time.Millisecond
	}
	if o.Poll <= 0 {
		o.Poll = 2 * time.Second
	}
	if o.Clock == nil {
		o.Clock = clock.RealClock{}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// Watch calls fn with what Load returns for dir, once at the start and then after each change of a document,
// or of a file that an object points to, until ctx is done. It blocks.
//
// fn is called only when the bytes of a file, a secret or a problem changed (a comment counts: lines move);
// compare source.Objects.Hash to see whether the objects did. Calls never overlap. While fn runs, changes
// wait; afterwards one call tells of all of them.
func Watch(ctx context.Context, dir string, env Env, opts Options, fn func(*source.Objects, []source.Problem)) {
	w := newWatcher(dir, env, opts, fn)
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		w.degrade(err)
		w.run(ctx)
		return
	}
	w.notify = notify
	var pump sync.WaitGroup
	pump.Go(w.pump)
	w.run(ctx)
	_ = notify.Close() // ends the pump; nothing is lost by a failure to close
	pump.Wait()
}

// watcher is the state of one Watch. Only the goroutine of run touches it, but for the fields that pump shares.
type watcher struct {
	loader *loader
	opts   Options
	fn     func(*source.Objects, []source.Problem)
	burst  reading.Burst
	last   result

	notify   *fsnotify.Watcher      // nil where the system refuses; shared
	filter   atomic.Pointer[filter] // shared
	changed  chan struct{}          // shared; holds one note that something happened
	watching map[string]fs.FileInfo // the folders that are watched, as they were when watching began
	degraded bool
}

func newWatcher(dir string, env Env, opts Options, fn func(*source.Objects, []source.Problem)) *watcher {
	opts = opts.withDefaults()
	w := &watcher{
		loader:   newLoader(dir, env),
		opts:     opts,
		fn:       fn,
		burst:    reading.Burst{Quiet: opts.Debounce, Limit: opts.MaxDelay},
		watching: map[string]fs.FileInfo{},
		changed:  make(chan struct{}, 1),
	}
	w.filter.Store(&filter{})
	return w
}

// filter says which names matter.
type filter struct {
	trees  map[string]bool     // folders in which every name matters
	points map[watchPoint]bool // single names that matter in other folders
}

func (f *filter) matters(name string) bool {
	dir, base := filepath.Split(name)
	dir = filepath.Clean(dir)
	return f.trees[dir] || f.trees[name] || f.points[watchPoint{dir, base}]
}

// pump takes events as fast as they come, so that neither the kernel's queue nor the library waits for a
// reading or a callback.
func (w *watcher) pump() {
	for {
		select {
		case e, ok := <-w.notify.Events:
			if !ok {
				return
			}
			if !w.filter.Load().matters(e.Name) {
				continue
			}
		case err, ok := <-w.notify.Errors:
			if !ok {
				return
			}
			// Mostly an overflow: events are lost, so anything may have changed.
			w.opts.Log.Warn("watching the configuration folder: reading all of it again", "reason", err)
		}
		select {
		case w.changed <- struct{}{}:
		default: // a note is waiting already
		}
	}
}

func (w *watcher) run(ctx context.Context) {
	w.last = w.read()
	w.fn(w.last.objects, w.last.problems)

	quiet := w.opts.Clock.NewTimer(time.Hour) // armed by the first event of a burst
	defer quiet.Stop()
	poll := w.opts.Clock.NewTimer(w.pollInterval())
	defer poll.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.changed:
			w.event(quiet)
		case <-poll.C():
			if w.stale() {
				w.event(quiet)
			}
			poll.Reset(w.pollInterval())
		case <-quiet.C():
			if !w.burst.Pending() {
				continue
			}
			if wait := w.burst.Wait(w.opts.Clock.Now()); wait > 0 {
				quiet.Reset(wait)
				continue
			}
			w.reload(quiet)
		}
	}
}

// event notes a change. Only the first of a burst arms the timer; when it fires it looks how long to wait on.
func (w *watcher) event(quiet clock.Timer) {
	begins := !w.burst.Pending()
	w.burst.Event(w.opts.Clock.Now())
	if begins {
		quiet.Reset(w.opts.Debounce)
	}
}

// reload reads the folder at the end of a burst and hands on what changed.
func (w *watcher) reload(quiet clock.Timer) {
	next := w.read()
	now := w.opts.Clock.Now()
	// An empty file that was not empty is mostly one that a writer has just truncated: it gets a little longer.
	if next.empty && !w.last.empty && now.Before(w.burst.Began().Add(w.opts.MaxDelay)) {
		w.burst.Event(now)
		quiet.Reset(w.burst.Wait(now))
		return
	}
	w.burst.Reset()
	changed := next.fingerprint != w.last.fingerprint
	w.last = next
	if changed {
		w.fn(next.objects, next.problems)
	}
}

// read loads the folder with every folder on the way watched first, so that nothing that happens after the
// reading goes unseen.
func (w *watcher) read() result {
	r := w.loader.load()
	for range attempts {
		if !w.follow(r) {
			break
		}
		r = w.loader.load()
	}
	return r
}

// follow watches what r depends on and nothing else. It reports whether that added a folder: what changed
// there before it was watched has not been seen.
func (w *watcher) follow(r result) (added bool) {
	if w.notify == nil {
		return false
	}
	f := &filter{trees: map[string]bool{}, points: map[watchPoint]bool{}}
	want := map[string]bool{}
	for _, d := range r.tree.dirs {
		// The library knows a folder by one name only, so every folder goes by its real one.
		if real, err := realPath(d); err == nil {
			f.trees[real], want[real] = true, true
		}
	}
	paths := []string{w.loader.dir}
	for _, e := range r.tree.files {
		paths = append(paths, e.path)
	}
	for _, s := range r.secrets {
		paths = append(paths, s.path)
	}
	for _, p := range paths {
		for _, point := range watchPoints(p) {
			if !f.trees[point.dir] {
				f.points[point], want[point.dir] = true, true
			}
		}
	}
	w.filter.Store(f)

	active := map[string]bool{}
	for _, d := range w.notify.WatchList() {
		// A folder that was replaced keeps its name and loses its events.
		info, err := os.Stat(d)
		if !want[d] || err != nil || w.watching[d] == nil || !os.SameFile(info, w.watching[d]) {
			_ = w.notify.Remove(d) // it may have gone by itself
			delete(w.watching, d)
			continue
		}
		active[d] = true
	}
	var failed error
	for d := range want {
		if active[d] {
			continue
		}
		info, err := os.Stat(d)
		if err != nil {
			added = true // it has gone since: look again
			continue
		}
		if err := w.notify.Add(d); err != nil {
			failed = fmt.Errorf("%s: %w", d, err)
			continue
		}
		w.watching[d], added = info, true
	}
	if failed != nil {
		w.degrade(failed)
	} else {
		w.degraded = false
	}
	return added
}

// degrade makes polling fast where events do not work.
func (w *watcher) degrade(err error) {
	if !w.degraded {
		w.opts.Log.Warn("the system sends no events for the configuration folder: looking at it several times a second", "reason", err)
	}
	w.degraded = true
}

func (w *watcher) pollInterval() time.Duration {
	if w.degraded {
		return min(w.opts.Poll, pollWithoutEvents)
	}
	return w.opts.Poll
}

// racy is the time within which a file system may give two versions of a file the same time stamp.
const racy = 2 * time.Second

// stale says, without reading files, whether the folder may have changed since it was read.
func (w *watcher) stale() bool {
	if !scan(w.loader.dir).same(w.last.tree) || !sameSecrets(w.last.secrets) {
		return true
	}
	young := func(info fs.FileInfo) bool {
		return info != nil && info.ModTime().After(w.last.readAt.Add(-racy))
	}
	for _, f := range w.last.tree.files {
		if young(f.info) {
			return true
		}
	}
	for _, s := range w.last.secrets {
		if young(s.info) {
			return true
		}
	}
	return false
}

func realPath(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(abs)
}
