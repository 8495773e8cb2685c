package kubernetes

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/xds/source"
	"github.com/weir-dev/weir/xds/source/internal/reading"
)

// kinds are the kinds that are read, with the resources that the API has them under.
var kinds = []struct{ kind, resource string }{
	{"APIKey", "apikeys"}, {"Backend", "backends"}, {"Budget", "budgets"}, {"CachePolicy", "cachepolicies"}, {"Consumer", "consumers"}, {"JWTIssuer", "jwtissuers"},
	{"LLMGateway", "llmgateways"}, {"LimitPolicy", "limitpolicies"}, {"LoadPolicy", "loadpolicies"},
	{"ReferenceGrant", "referencegrants"}, {"Route", "routes"}, {"SessionPolicy", "sessionpolicies"},
}

// watcher is the state of one Watch. Only the goroutine of run touches it; the feeds speak to it by their locks and by changed.
type watcher struct {
	*Source
	fn       func(*source.Objects, []source.Problem)
	gateways map[types.NamespacedName]bool // nil: all
	overlay  overlay

	ctx     context.Context
	running sync.WaitGroup
	changed chan struct{} // holds one note that a feed has changed

	feeds       map[string][]*feed[*record] // by kind; one for each namespace
	collections map[string]*collection
	referring   map[source.ObjectRef]*record // that point to values
	discovered  map[source.ObjectRef]*record // Backends whose servers have to be found
	invalid     map[source.ObjectRef]*record // with problems of their own
	grants      source.Grants
	values      values
	endpoints   endpoints
	late        late
	namespaces  namespaces
	stale       map[string]bool // what has changed since fn was called: kinds, and the others of the constants
	// What is wrong with the values that objects point to, as of the last look at them.
	valueProblems []source.Problem
	secrets       atomic.Bool // a Secret has changed since it was looked at; the feeds set it

	burst   reading.Burst
	waiting time.Time // since when a reading waits for answers about what is new in it; zero: none does
	told    bool      // fn has been called
	last    *source.Objects
	said    []source.Problem
}

func newWatcher(s *Source, fn func(*source.Objects, []source.Problem)) *watcher {
	w := &watcher{Source: s, fn: fn,
		changed:     make(chan struct{}, 1),
		feeds:       map[string][]*feed[*record]{},
		collections: map[string]*collection{},
		referring:   map[source.ObjectRef]*record{},
		discovered:  map[source.ObjectRef]*record{},
		invalid:     map[source.ObjectRef]*record{},
		burst:       reading.Burst{Quiet: s.opts.Debounce, Limit: s.opts.MaxDelay},
		late:        newLate(),
		stale:       map[string]bool{staleValues: true},
		last:        source.NewObjects(),
	}
	w.overlay = newOverlay(s.opts.Overlay)
	if len(s.opts.Gateways) > 0 {
		w.gateways = map[types.NamespacedName]bool{}
		for _, g := range s.opts.Gateways {
			w.gateways[g] = true
		}
	}
	w.values = values{env: s.opts.Env, local: map[string]localValue{}, allowed: map[string]bool{},
		secrets: newLookups(w, "Secret", slowRetry*s.opts.RetryDelay, readSecret, sameSecret, func() { w.secrets.Store(true); w.note() })}
	for _, ns := range s.opts.LocalSecrets {
		w.values.allowed[ns] = true
	}
	w.endpoints = endpoints{
		services: newLookups(w, "Service", s.opts.RetryDelay, readService, same[serviceInfo], w.note),
		slices:   newLookups(w, "EndpointSlices", s.opts.RetryDelay, readSlice, same[sliceInfo], w.note),
		pods:     newLookups(w, "Pods", s.opts.RetryDelay, readPod, same[podInfo], w.note),
		pools:    newLookups(w, "InferencePool", slowRetry*s.opts.RetryDelay, readPool, same[poolInfo], w.note),
	}
	w.namespaces = namespaces{watched: s.opts.Namespaces, keys: map[string]bool{},
		lists: newLookups(w, "Namespaces", s.opts.RetryDelay, readLabels, sameLabels, w.note)}
	return w
}

// slowRetry is how many times longer the pause between attempts is for Secrets, since there can be thousands that may not be read, and
// for InferencePools, which most clusters do not have in both versions.
const slowRetry = 6

func newLookups[T any](w *watcher, what string, retry time.Duration, convert func(*unstructured.Unstructured, T, bool) T, same func(a, b T) bool, changed func()) *lookups[T] {
	return &lookups[T]{lists: map[lookupKey]*lookup[T]{}, start: func(key lookupKey) *lookup[T] {
		f := newFeed(w, what+" "+key.String(), w.client.Resource(key.resource).Namespace(key.namespace), convert, same)
		f.fields, f.labels, f.retry, f.optional, f.changed = key.fields, key.labels, retry, true, changed
		return &lookup[T]{feed: f, since: w.opts.Clock.Now(), stop: w.start(func(ctx context.Context) {
			f.run(ctx)
			if w.ctx.Err() == nil {
				w.health.works(f.name) // nobody wants it any more
			}
		})}
	}}
}

func newFeed[T any](w *watcher, name string, r dynamic.ResourceInterface, convert func(*unstructured.Unstructured, T, bool) T, same func(a, b T) bool) *feed[T] {
	return &feed[T]{name: name, resource: r, retry: w.opts.RetryDelay, clock: w.opts.Clock, health: w.health, convert: convert, same: same,
		changed: w.note, items: map[types.NamespacedName]T{}, dirty: map[types.NamespacedName]bool{}}
}

// note says that something has changed. It is safe for concurrent use.
func (w *watcher) note() {
	select {
	case w.changed <- struct{}{}:
	default: // a note is waiting already
	}
}

// start runs something beside this goroutine until the returned function is called, or the watch ends.
func (w *watcher) start(run func(context.Context)) (stop func()) {
	ctx, cancel := context.WithCancel(w.ctx)
	w.running.Go(func() {
		defer cancel()
		run(ctx)
	})
	return cancel
}

func (w *watcher) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(klog.NewContext(ctx, quietly(w.opts.Log)))
	w.ctx = ctx
	defer w.running.Wait()
	defer cancel()
	w.startKinds()

	quiet := w.opts.Clock.NewTimer(time.Hour) // armed by the first change of a burst
	defer quiet.Stop()
	poll := w.opts.Clock.NewTimer(w.opts.Poll)
	defer poll.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.changed:
			w.event(quiet)
		case <-poll.C():
			if w.values.reread() {
				w.stale[staleValues] = true
				w.event(quiet)
			}
			poll.Reset(w.opts.Poll)
		case <-quiet.C():
			now := w.opts.Clock.Now()
			if wait := w.burst.Wait(now); w.burst.Pending() && wait > 0 {
				quiet.Reset(wait)
				continue
			}
			w.burst.Reset()
			if again := w.settle(now); again > 0 {
				quiet.Reset(again)
			}
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

func (w *watcher) startKinds() {
	namespaces := w.opts.Namespaces
	if len(namespaces) == 0 {
		namespaces = []string{""}
	}
	read := reader{validator: w.validator}.read
	for _, k := range kinds {
		w.collections[k.kind] = &collection{}
		for _, ns := range namespaces {
			name := k.resource
			if ns != "" {
				name += " of namespace " + ns
			}
			f := newFeed(w, name, w.client.Resource(v1alpha1.GroupVersion.WithResource(k.resource)).Namespace(ns), read, sameRecord)
			f.track = true
			w.feeds[k.kind] = append(w.feeds[k.kind], f)
			w.start(f.run)
		}
	}
}

// What can be stale beside the kinds.
const (
	staleValues    = "values"    // what objects point to has to be looked up again
	staleSecrets   = "secrets"   // Objects.Secrets differs
	staleEndpoints = "endpoints" // Objects.Endpoints differs
	staleLabels    = "labels"    // Objects.Namespaces differs
)

// settle hands on what has changed at the end of a burst. If some of that has to wait, it says how long.
func (w *watcher) settle(now time.Time) (again time.Duration) {
	w.take(now)
	if !w.readable() {
		return 0 // the feed that is missing will bring the next change
	}
	if w.secrets.Swap(false) {
		w.stale[staleValues] = true
	}
	if w.stale[staleValues] {
		w.values.want(w.referring, w.grants)
	}
	found, wrong := w.endpoints.resolve(w.discovered)
	w.namespaces.want(w.collections["LLMGateway"].records)
	if wait := w.wait(now); wait > 0 {
		return wait
	}
	w.tell(now, found, wrong)
	return w.late.next(now)
}

// tell hands on what has changed, if anything has.
func (w *watcher) tell(now time.Time, found map[source.ObjectRef][]v1alpha1.Endpoint, wrong []source.Problem) {
	next := *w.last
	for kind, c := range w.collections {
		if w.stale[kind] {
			setKind(&next, kind, c)
		}
	}
	if w.stale[staleValues] {
		delete(w.stale, staleValues)
		var secrets map[source.SecretKey]source.Secret
		secrets, w.valueProblems = w.values.collect(w.referring)
		if !maps.EqualFunc(secrets, next.Secrets, source.Secret.Equal) {
			next.Secrets, w.stale[staleSecrets] = secrets, true
		}
	}
	if !maps.EqualFunc(found, next.Endpoints, slices.Equal[[]v1alpha1.Endpoint]) {
		next.Endpoints, w.stale[staleEndpoints] = found, true
	}
	labels := w.namespaces.labels(w.collections["Route"].records, w.stale["Route"])
	if !maps.EqualFunc(labels, next.Namespaces, sameLabels) {
		next.Namespaces, w.stale[staleLabels] = labels, true
	}
	problems := slices.Concat(w.missing(), w.unreadable(), w.namespaces.problems(w.collections["LLMGateway"].records), wrong, w.valueProblems)
	for _, rec := range w.invalid {
		problems = append(problems, rec.problems...)
	}
	source.SortProblems(problems)
	if w.told && len(w.stale) == 0 && slices.Equal(problems, w.said) {
		return
	}
	clear(w.stale)
	w.told, w.last, w.said = true, &next, problems
	w.health.complete()
	w.metrics.changed(now)
	w.fn(&next, slices.Clone(problems))
}

// take puts what the feeds have read in order. Of a namespace nothing is taken before all of it has been read.
func (w *watcher) take(now time.Time) {
	changed := map[string]map[source.ObjectRef]*record{} // by kind
	ready := w.ready()
	for kind, feeds := range w.feeds {
		changes := map[source.ObjectRef]*record{}
		for i, f := range feeds {
			if !ready[i] {
				continue
			}
			keys, values := f.drain()
			for _, key := range keys {
				if kind != "LLMGateway" || w.gateways == nil || w.gateways[key] {
					changes[source.ObjectRef{Kind: kind, Namespace: key.Namespace, Name: key.Name}] = values[key]
				}
			}
		}
		w.lay(kind, changes)
		changed[kind] = changes
	}
	if w.told { // the first reading has all of all kinds
		w.late.sift(changed["Route"], changed["Backend"], w.collections["Route"], w.collections["Backend"], now, w.opts.LateWait)
	}
	for kind, changes := range changed {
		if len(changes) == 0 {
			continue
		}
		w.stale[kind] = true
		w.collections[kind].apply(changes)
		for ref, rec := range changes {
			w.sort(ref, rec)
		}
		if kind == "ReferenceGrant" {
			w.stale[staleValues] = true
			grants := source.Objects{}
			setKind(&grants, kind, w.collections[kind])
			w.grants = grants.Grants()
		}
	}
}

// sort notes what has to be looked up for an object; rec is nil where the object is gone.
func (w *watcher) sort(ref source.ObjectRef, rec *record) {
	place := func(in map[source.ObjectRef]*record, belongs bool) (matters bool) {
		_, was := in[ref]
		if delete(in, ref); belongs {
			in[ref] = rec
		}
		return was || belongs
	}
	if place(w.referring, rec != nil && len(rec.references) > 0) {
		w.stale[staleValues] = true
	}
	place(w.invalid, rec != nil && len(rec.problems) > 0)
	found := false
	if rec != nil {
		_, found = rec.discovered()
	}
	place(w.discovered, found)
}

// ready says of each namespace that is read, in the order of the options, whether all of it has been: every kind, unless the cluster does not
// have it.
func (w *watcher) ready() []bool {
	out := make([]bool, max(1, len(w.opts.Namespaces)))
	for i := range out {
		out[i] = w.every(i, func(s state) bool { return s.synced || s.missing })
	}
	return out
}

// every says whether something holds for all kinds of the i-th namespace.
func (w *watcher) every(i int, holds func(state) bool) bool {
	for _, feeds := range w.feeds {
		if !holds(feeds[i].state()) {
			return false
		}
	}
	return true
}

// shut says whether some kind of the i-th namespace may not be read, and never was.
func (w *watcher) shut(i int) bool {
	return !w.every(i, func(s state) bool { return s.synced || !s.forbidden() })
}

// readable says whether there is something to go by: all of each namespace has been read, but for those that may not be read. Without a part of a
// namespace, such as its LimitPolicies, the rest of it would be served to everybody, so it is all or nothing there.
func (w *watcher) readable() bool {
	some := false
	for i, ready := range w.ready() {
		if !ready && !w.shut(i) {
			return false
		}
		some = some || ready
	}
	return some
}

// unreadable tells of the namespaces that the others are served without.
func (w *watcher) unreadable() (problems []source.Problem) {
	for i, namespace := range w.opts.Namespaces {
		if !w.shut(i) {
			continue
		}
		var missing []string
		for _, k := range kinds {
			if s := w.feeds[k.kind][i].state(); !s.synced && s.forbidden() {
				missing = append(missing, k.resource)
			}
		}
		problems = append(problems, source.Problem{Object: source.ObjectRef{Kind: "Namespace", Name: namespace}, Severity: source.Warning, Reason: source.ReasonRefNotFound,
			Message: fmt.Sprintf("none of its objects is served, because Weir may not read all of them: give Weir's ServiceAccount the verbs list and watch on %s of %s there",
				strings.Join(missing, ", "), v1alpha1.GroupVersion.Group)})
	}
	return problems
}

// wait is how long a reading has to wait for answers about what is new in it.
func (w *watcher) wait(now time.Time) time.Duration {
	limit := w.opts.LookupWait
	until := w.values.secrets.deadline(limit)
	for _, at := range []time.Time{w.endpoints.services.deadline(limit), w.endpoints.slices.deadline(limit), w.endpoints.pods.deadline(limit),
		w.endpoints.pools.deadline(limit), w.namespaces.lists.deadline(limit)} {
		if at.After(until) {
			until = at
		}
	}
	if !until.After(now) {
		w.waiting = time.Time{}
		return 0
	}
	if w.waiting.IsZero() {
		w.waiting = now
	}
	// However many new ones come by: nothing waits longer than for one.
	if latest := w.waiting.Add(limit); latest.Before(until) {
		until = latest
	}
	if !until.After(now) {
		w.waiting = time.Time{}
		return 0
	}
	return until.Sub(now)
}

// missing tells of the kinds that the cluster does not have.
func (w *watcher) missing() []source.Problem {
	var problems []source.Problem
	for _, k := range kinds {
		if slices.ContainsFunc(w.feeds[k.kind], func(f *feed[*record]) bool { return f.state().missing }) {
			problems = append(problems, source.Problem{Object: source.ObjectRef{Kind: k.kind}, Severity: source.Warning, Reason: source.ReasonUnsupported,
				Message: fmt.Sprintf("the cluster has no kind %s, so there are no such objects: install the CustomResourceDefinition %s.%s of this version of Weir", k.kind, k.resource, v1alpha1.GroupVersion.Group)})
		}
	}
	return problems
}
