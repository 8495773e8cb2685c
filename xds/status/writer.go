package status

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coordination "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"

	"github.com/weir-dev/weir/xds/accept"
	"github.com/weir-dev/weir/xds/source"
)

// Election says how soon another process takes over from a leader that is gone. The zero value is 6, 4 and 1 seconds: two leaders at once
// would do no harm but write twice, so this need not be as long as in Kubernetes itself. A leader that an API server keeps waiting for longer
// than Renew gives up, and whoever comes next reads all statuses again.
type Election struct {
	// Lease is for how long a leader that says nothing is believed to live, in whole seconds.
	Lease time.Duration
	// Renew is how long a leader tries to renew its lease before it gives up; shorter than Lease.
	Renew time.Duration
	// Retry is how often each process tries.
	Retry time.Duration
}

// Options are those of a Writer.
type Options struct {
	// Config reaches the API server. It needs: list of all kinds of Weir, patch of their status, create and patch of events (events.k8s.io),
	// get, create and update of the Lease INSTALL-status in Namespace.
	Config *rest.Config
	// Namespace of the leader's Lease: Weir's own.
	Namespace string
	// Install tells several installations in the namespace apart; "" is "weir".
	Install string
	// Identity names the process, by the name of its Pod.
	Identity string
	// Watched are the namespaces whose objects are read; none means all.
	Watched []string
	// Reports returns what the live replicas serve: Leases.Reports. Those who do not lead call it too, so that one who takes over knows already
	// who is alive.
	Reports func(context.Context) (Reports, error)
	// QPS is how many statuses are written each second at most; 0 is 300. There are fewer where the API server is slow to take them.
	QPS float64

	Election Election
	// Poll is how often the leader calls Reports; 0 is a second. Others do three times less often.
	Poll time.Duration
	// Grace is for how long a new generation may be on its way to the replicas before its status says so, so that most generations are
	// written once; 0 is two seconds.
	Grace time.Duration
	// Settle is for how long something must hold before it is written of an object that was programmed already: that a replica does
	// not serve it, or that there are more replicas or fewer. 0 is 30 seconds.
	Settle time.Duration
	// Resync is how often the leader reads all statuses again, to mend what others changed; 0 is ten minutes.
	Resync time.Duration

	Log      *slog.Logger
	Registry prometheus.Registerer // nil registers nothing
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

func (o *Options) defaults() {
	def(&o.Install, "weir")
	def(&o.QPS, 300)
	def(&o.Election.Lease, 6*time.Second)
	def(&o.Election.Renew, 4*time.Second)
	def(&o.Election.Retry, time.Second)
	def(&o.Poll, time.Second)
	def(&o.Grace, 2*time.Second)
	def(&o.Settle, 30*time.Second)
	def(&o.Resync, 10*time.Minute)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
}

func def[T comparable](v *T, otherwise T) {
	var zero T
	if *v == zero {
		*v = otherwise
	}
}

// Writer writes the statuses of all objects, while its process is the leader. What it writes does not come back to it: a status is no new
// generation. The methods are safe for concurrent use.
type Writer struct {
	opts    Options
	api     *api
	events  *recorder
	metrics *metrics
	elect   leaderelection.LeaderElectionConfig
	changed chan struct{}
	leading atomic.Bool

	mu       sync.Mutex
	history  *history
	objs     *source.Objects // as they were read last; nil before the first
	res      accept.Result
	problems map[source.ObjectRef][]source.Problem
	older    map[source.ObjectRef]int64 // generations that stand for refused ones
	trouble  string                     // why nothing can be compiled
	news     news
}

// news are the objects of which something may have changed since their statuses were judged last.
type news struct {
	all     bool // of all of them; the others are not noted then
	objects map[source.ObjectRef]bool
}

func (n *news) of(ref source.ObjectRef) {
	if !n.all {
		n.objects[ref] = true
	}
}

// NewWriter makes a Writer. It writes nothing before Run and Update.
func NewWriter(opts Options) (*Writer, error) {
	opts.defaults()
	if opts.Reports == nil || opts.Identity == "" || opts.Namespace == "" {
		return nil, errors.New("statuses cannot be written without the reports of replicas, the name of this process and its namespace")
	}
	w := &Writer{opts: opts, changed: make(chan struct{}, 1), history: newHistory(), news: news{all: true}}
	var err error
	if w.api, err = newAPI(opts.Config); err != nil {
		return nil, err
	}
	if w.events, err = newRecorder(opts.Config); err != nil {
		return nil, err
	}
	leases, err := coordination.NewForConfig(opts.Config)
	if err != nil {
		return nil, fmt.Errorf("the API server cannot be asked for Leases: %w", err)
	}
	w.elect = leaderelection.LeaderElectionConfig{
		Lock: &resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Namespace: opts.Namespace, Name: opts.Install + "-status"},
			Client:     leases,
			LockConfig: resourcelock.ResourceLockConfig{Identity: opts.Identity},
		},
		LeaseDuration: opts.Election.Lease, RenewDeadline: opts.Election.Renew, RetryPeriod: opts.Election.Retry,
		ReleaseOnCancel: true, Name: opts.Install + "-status",
		Callbacks: leaderelection.LeaderCallbacks{OnStartedLeading: func(context.Context) {}, OnStoppedLeading: func() {}},
	}
	if _, err := leaderelection.NewLeaderElector(w.elect); err != nil {
		return nil, fmt.Errorf("the election of a leader cannot be set up: %w", err)
	}
	w.metrics = newMetrics(opts.Registry)
	return w, nil
}

// Update tells what was read and what became of it. Every process tells its Writer: the next leader must know what the replicas serve.
func (w *Writer) Update(objs *source.Objects, res accept.Result) {
	problems := map[source.ObjectRef][]source.Problem{}
	trouble := ""
	for _, p := range res.Problems {
		problems[p.Object] = append(problems[p.Object], p)
		if res.Version == nil && p.Object.Name == "" && p.Severity == source.Error && trouble == "" {
			trouble = p.Message
		}
	}
	w.mu.Lock()
	names, changed := w.history.add(objs, res)
	older := w.older
	if res.Objects != nil {
		older = names.served
	}
	for _, ref := range changed {
		w.news.of(ref)
	}
	differ(w.problems, problems, slices.Equal, w.news.of)
	differ(w.res.Refused, res.Refused, isSame, w.news.of)
	differ(w.older, older, isSame, w.news.of)
	w.objs, w.res, w.problems, w.older, w.trouble = objs, res, problems, older, trouble
	w.mu.Unlock()
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// differ calls fn with each key that two maps do not have alike.
func differ[K comparable, V any](before, after map[K]V, same func(a, b V) bool, fn func(K)) {
	for key, is := range after {
		if was, had := before[key]; !had || !same(was, is) {
			fn(key)
		}
	}
	for key := range before {
		if _, has := after[key]; !has {
			fn(key)
		}
	}
}

func isSame[T comparable](a, b T) bool { return a == b }

// Run takes part in the election, and writes while this process is the leader, until ctx ends.
func (w *Writer) Run(ctx context.Context) {
	// The election outlives ctx until the last write is done, and then lets the next leader in at once. What its library logs while the API server is
	// away, at every try, stays with klog: who leads, and that a report cannot be written, is said here.
	election, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	defer w.events.broadcaster.Shutdown()
	var watching sync.WaitGroup
	defer watching.Wait()
	watching.Go(func() { w.watch(ctx) })
	for ctx.Err() == nil {
		w.term(ctx, election)
	}
}

// idle is how many times less often than the leader others look who is alive. It must be more often than twice in the life of a report:
// otherwise signs of life count anew, and nobody is ever taken for dead.
const idle = 3

// watch looks who is alive while another process leads: a leader that has died is one of those whose report must not count any more when this
// one takes over.
func (w *Writer) watch(ctx context.Context) {
	tick := time.NewTicker(idle * w.opts.Poll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if !w.leading.Load() {
			_, _ = w.opts.Reports(ctx) // the leader tells when they cannot be read
		}
	}
}

// term waits to become the leader, and leads until that ends.
func (w *Writer) term(ctx, election context.Context) {
	term, resign := context.WithCancel(election)
	defer resign()
	began, done := make(chan struct{}), make(chan struct{})
	config := w.elect
	config.Callbacks = leaderelection.LeaderCallbacks{
		OnStartedLeading: func(leading context.Context) {
			defer close(done)
			close(began)
			both, cancel := context.WithCancel(leading)
			defer cancel()
			defer context.AfterFunc(ctx, cancel)()
			w.opts.Log.Info("this process writes the statuses of objects", "lease", w.opts.Namespace+"/"+config.Name)
			w.metrics.leader.Set(1)
			w.leading.Store(true)
			w.lead(both)
			w.leading.Store(false)
			w.metrics.leader.Set(0)
		},
		OnStoppedLeading: func() {},
	}
	elector, err := leaderelection.NewLeaderElector(config)
	if err != nil {
		panic("status: " + err.Error()) // NewWriter made one
	}
	go func() {
		select {
		case <-ctx.Done():
			select {
			case <-began:
				<-done
			default:
			}
		case <-term.Done():
		}
		resign()
	}()
	elector.Run(term)
	resign()
	select {
	case <-began:
		<-done
		if ctx.Err() == nil {
			w.opts.Log.Warn("this process writes no statuses any more: its lease could not be renewed", "lease", w.opts.Namespace+"/"+config.Name)
		}
	default:
	}
}
