package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
)

// feed follows one list of the API and keeps what Weir takes from its objects. The objects themselves are not kept.
type feed[T any] struct {
	name     string // for people: "Routes", "Secret team-a/key"
	resource dynamic.ResourceInterface
	fields   string // selectors that the API server applies
	labels   string
	retry    time.Duration // the longest pause between attempts, jitter aside
	clock    clock.WithTicker
	health   *health
	// convert takes from an object what is kept. old is what was kept of it before, if had; returned again, it says that
	// nothing has changed that matters. The object belongs to convert.
	convert func(u *unstructured.Unstructured, old T, had bool) T
	same    func(a, b T) bool
	changed func() // called after each change, without the lock
	track   bool   // remember which items changed, for drain
	// optional: that the list may not be read is a problem of who asks for it, and no sign that the API server is away.
	optional bool

	mu      sync.RWMutex
	items   map[types.NamespacedName]T
	dirty   map[types.NamespacedName]bool // changed since the last drain
	version uint64                        // rises with each change
	synced  bool                          // the list was read
	failure error                         // why the list cannot be read or followed now
	calls   calls
}

// kept stands for an object in the client library's hands.
type kept[T any] struct {
	metav1.TypeMeta
	metav1.ObjectMeta
	value T
}

// DeepCopyObject implements runtime.Object. Nobody changes a kept.
func (k *kept[T]) DeepCopyObject() runtime.Object { c := *k; return &c }

// keptList is a page of a list.
type keptList[T any] struct {
	metav1.TypeMeta
	metav1.ListMeta
	Items []kept[T]
}

// DeepCopyObject implements runtime.Object. Nobody changes a keptList.
func (l *keptList[T]) DeepCopyObject() runtime.Object { c := *l; return &c }

// run follows the list until ctx is done, and returns when everything has stopped.
func (f *feed[T]) run(ctx context.Context) {
	lw := &cache.ListWatch{ListWithContextFunc: f.list, WatchFuncWithContext: f.watch}
	logger := klog.FromContext(ctx)
	r := cache.NewReflectorWithOptions(lw, nil, f, cache.ReflectorOptions{
		Name: f.name, TypeDescription: f.name, Logger: &logger, Clock: interruptible{f.clock, ctx},
		Backoff: &wait.Backoff{Duration: min(500*time.Millisecond, f.retry), Cap: f.retry, Steps: 32, Factor: 2, Jitter: 0.5},
	})
	r.RunWithContext(ctx)
	f.calls.end()
}

// interruptible is a clock whose waits end with ctx: the client library sleeps through the end otherwise.
type interruptible struct {
	clock.WithTicker
	ctx context.Context
}

// After implements clock.Clock.
func (c interruptible) After(d time.Duration) <-chan time.Time {
	ch := make(chan time.Time, 1)
	timer := c.WithTicker.NewTimer(d)
	go func() {
		defer timer.Stop()
		select {
		case at := <-timer.C():
			ch <- at
		case <-c.ctx.Done():
			ch <- c.Now()
		}
	}()
	return ch
}

// callTimeout is how long a page of a list, or the first byte of a watch, may take.
const callTimeout = time.Minute

func (f *feed[T]) list(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) {
	if !f.calls.begin() {
		return nil, context.Canceled
	}
	defer f.calls.done()
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	opts.FieldSelector, opts.LabelSelector = f.fields, f.labels
	page, err := f.resource.List(ctx, opts)
	f.outcome(ctx, err)
	if err != nil {
		return nil, err
	}
	out := &keptList[T]{ListMeta: metav1.ListMeta{ResourceVersion: page.GetResourceVersion(), Continue: page.GetContinue(),
		RemainingItemCount: page.GetRemainingItemCount()}, Items: make([]kept[T], 0, len(page.Items))}
	for i := range page.Items {
		out.Items = append(out.Items, *f.keep(&page.Items[i]))
	}
	return out, nil
}

func (f *feed[T]) watch(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error) {
	if !f.calls.begin() {
		return nil, context.Canceled
	}
	opts.FieldSelector, opts.LabelSelector = f.fields, f.labels
	ctx, cancel := context.WithCancel(ctx)
	slow := time.AfterFunc(callTimeout, cancel)
	w, err := f.resource.Watch(ctx, opts)
	if !slow.Stop() && err == nil {
		w.Stop()
		err = errors.New("the API server did not answer in time")
	}
	f.outcome(ctx, err)
	if err != nil {
		cancel()
		f.calls.done()
		return nil, err
	}
	c := &converting{upstream: w, events: make(chan watch.Event), stop: cancel, stopping: ctx.Done()}
	go func() {
		defer f.calls.done()
		c.run(func(e watch.Event) watch.Event {
			switch u, ok := e.Object.(*unstructured.Unstructured); {
			case !ok: // a Status
			case e.Type == watch.Added || e.Type == watch.Modified:
				e.Object = f.keep(u)
			case e.Type == watch.Deleted || e.Type == watch.Bookmark:
				e.Object = &kept[T]{ObjectMeta: smallMeta(u)}
			}
			return e
		})
	}()
	return c, nil
}

// smallMeta is the metadata that the client library needs.
func smallMeta(u *unstructured.Unstructured) metav1.ObjectMeta {
	m := metav1.ObjectMeta{Namespace: u.GetNamespace(), Name: u.GetName(), ResourceVersion: u.GetResourceVersion()}
	if value, found := u.GetAnnotations()[metav1.InitialEventsAnnotationKey]; found {
		m.Annotations = map[string]string{metav1.InitialEventsAnnotationKey: value}
	}
	return m
}

func (f *feed[T]) keep(u *unstructured.Unstructured) *kept[T] {
	k := &kept[T]{ObjectMeta: smallMeta(u)}
	f.mu.RLock()
	old, had := f.items[keyOf(k)]
	f.mu.RUnlock()
	k.value = f.convert(u, old, had)
	return k
}

func keyOf(o metav1.Object) types.NamespacedName {
	return types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()}
}

// outcome notes how a call to the API server ended.
func (f *feed[T]) outcome(ctx context.Context, err error) {
	if err != nil && ctx.Err() != nil && !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return // the feed is being stopped
	}
	if err != nil && (apierrors.IsResourceExpired(err) || apierrors.IsGone(err) || apierrors.HasStatusCause(err, metav1.CauseTypeResourceVersionTooLarge)) {
		return // the answer to a question about an old state: the client library asks for the whole list next
	}
	f.mu.Lock()
	notify := (err == nil) != (f.failure == nil) || err != nil && err.Error() != f.failure.Error()
	f.failure = err
	answered := err == nil || f.missing() || f.optional && apierrors.IsForbidden(err)
	f.mu.Unlock()
	if answered {
		f.health.works(f.name)
	} else {
		f.health.failed(f.name, err)
	}
	if notify {
		f.changed()
	}
}

// Add implements cache.ReflectorStore.
func (f *feed[T]) Add(obj any) error { return f.Update(obj) }

// Update implements cache.ReflectorStore.
func (f *feed[T]) Update(obj any) error {
	k, ok := obj.(*kept[T])
	if !ok {
		return fmt.Errorf("%T in the list of %s", obj, f.name)
	}
	f.mu.Lock()
	changed := f.put(keyOf(k), k.value)
	f.mu.Unlock()
	if changed {
		f.changed()
	}
	return nil
}

// Delete implements cache.ReflectorStore.
func (f *feed[T]) Delete(obj any) error {
	k, ok := obj.(*kept[T])
	if !ok {
		return fmt.Errorf("%T in the list of %s", obj, f.name)
	}
	f.mu.Lock()
	changed := f.drop(keyOf(k))
	f.mu.Unlock()
	if changed {
		f.changed()
	}
	return nil
}

// Replace implements cache.ReflectorStore.
func (f *feed[T]) Replace(list []any, _ string) error {
	present := make(map[types.NamespacedName]T, len(list))
	for _, obj := range list {
		k, ok := obj.(*kept[T])
		if !ok {
			return fmt.Errorf("%T in the list of %s", obj, f.name)
		}
		present[keyOf(k)] = k.value
	}
	f.mu.Lock()
	changed := !f.synced
	for key, value := range present {
		changed = f.put(key, value) || changed
	}
	for _, key := range slices.Collect(maps.Keys(f.items)) {
		if _, ok := present[key]; !ok {
			changed = f.drop(key) || changed
		}
	}
	if f.synced = true; changed {
		f.version++
	}
	f.mu.Unlock()
	if changed {
		f.changed()
	}
	return nil
}

// Resync implements cache.ReflectorStore.
func (f *feed[T]) Resync() error { return nil }

// put keeps a value and says whether it differs from what was kept. It needs the lock.
func (f *feed[T]) put(key types.NamespacedName, value T) bool {
	old, had := f.items[key]
	if had && f.same(old, value) {
		return false
	}
	f.items[key] = value
	f.note(key)
	return true
}

// drop forgets a value and says whether there was one. It needs the lock.
func (f *feed[T]) drop(key types.NamespacedName) bool {
	if _, had := f.items[key]; !had {
		return false
	}
	delete(f.items, key)
	f.note(key)
	return true
}

func (f *feed[T]) note(key types.NamespacedName) {
	f.version++
	if f.track {
		f.dirty[key] = true
	}
}

// drain returns what has changed since the last call; an item that is gone is not in values.
func (f *feed[T]) drain() (keys []types.NamespacedName, values map[types.NamespacedName]T) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.dirty) == 0 {
		return nil, nil
	}
	dirty := f.dirty
	f.dirty = map[types.NamespacedName]bool{} // a map that was large once stays slow to go through
	values = make(map[types.NamespacedName]T, len(dirty))
	for key := range dirty {
		keys = append(keys, key)
		if value, ok := f.items[key]; ok {
			values[key] = value
		}
	}
	return keys, values
}

// state of a feed at one moment.
type state struct {
	synced  bool  // the list was read
	failure error // why it cannot be followed now
	missing bool  // the cluster has no such kind
	version uint64
}

// forbidden says whether the list may not be read.
func (s state) forbidden() bool { return s.failure != nil && apierrors.IsForbidden(s.failure) }

// cause says in stable words why the list cannot be read: problems are compared, and an error names a port that is another one each time.
func (s state) cause() string {
	if status := apierrors.APIStatus(nil); errors.As(s.failure, &status) {
		return status.Status().Message
	}
	return "the API server cannot be reached"
}

// answered says whether the API server has said anything about the list yet.
func (s state) answered() bool { return s.synced || s.missing || s.forbidden() }

func (f *feed[T]) state() state {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return state{f.synced, f.failure, f.missing(), f.version}
}

// missing says whether the cluster has no such kind: once objects of it were seen, that cannot just be. It needs the lock.
func (f *feed[T]) missing() bool {
	return f.failure != nil && apierrors.IsNotFound(f.failure) && len(f.items) == 0
}

// values returns what is kept, in no order.
func (f *feed[T]) values() []T {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return slices.Collect(maps.Values(f.items))
}

func (f *feed[T]) get(key types.NamespacedName) (T, bool) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	value, ok := f.items[key]
	return value, ok
}

// calls counts calls to the API server, so that a feed does not end before they do.
type calls struct {
	mu    sync.Mutex
	ended bool
	wg    sync.WaitGroup
}

// begin counts a call; false after end.
func (c *calls) begin() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ended {
		c.wg.Add(1)
	}
	return !c.ended
}

func (c *calls) done() { c.wg.Done() }

// end refuses further calls and waits for those that were begun.
func (c *calls) end() {
	c.mu.Lock()
	c.ended = true
	c.mu.Unlock()
	c.wg.Wait()
}

// converting is a watch whose events are converted.
type converting struct {
	upstream watch.Interface
	events   chan watch.Event
	stop     context.CancelFunc
	stopping <-chan struct{}
}

func (c *converting) run(convert func(watch.Event) watch.Event) {
	defer close(c.events)
	defer c.Stop()
	for e := range c.upstream.ResultChan() {
		select {
		case c.events <- convert(e):
		case <-c.stopping:
			return
		}
	}
}

// Stop implements watch.Interface.
func (c *converting) Stop() {
	c.stop()
	c.upstream.Stop()
}

// ResultChan implements watch.Interface.
func (c *converting) ResultChan() <-chan watch.Event { return c.events }
