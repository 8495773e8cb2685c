package status

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coordination "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/klog/v2"

	"github.com/weir-dev/weir/xds/accept"
	"github.com/weir-dev/weir/xds/source"
)

// Election says how soon another process takes over from a leader that is gone. The zero value is 15, 10 and 2 seconds, as in Kubernetes itself.
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
	// Reports returns what the live replicas serve: Leases.Reports. It is called by the leader only.
	Reports func(context.Context) (Reports, error)
	// QPS is how many statuses are written each second; 0 is 50. Four seconds' worth of them may come at once.
	QPS float64

	Election Election
	// Poll is how often Reports is called; 0 is a second.
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
	def(&o.QPS, 50)
	def(&o.Election.Lease, 15*time.Second)
	def(&o.Election.Renew, 10*time.Second)
	def(&o.Election.Retry, 2*time.Second)
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

	mu       sync.Mutex
	history  *history
	objs     *source.Objects // as they were read last; nil before the first
	res      accept.Result
	problems map[source.ObjectRef][]source.Problem
	older    map[source.ObjectRef]int64 // generations that stand for refused ones
	trouble  string                     // why nothing can be compiled
}

// NewWriter makes a Writer. It writes nothing before Run and Update.
func NewWriter(opts Options) (*Writer, error) {
	opts.defaults()
	if opts.Reports == nil || opts.Identity == "" || opts.Namespace == "" {
		return nil, errors.New("statuses cannot be written without the reports of replicas, the name of this process and its namespace")
	}
	w := &Writer{opts: opts, changed: make(chan struct{}, 1), history: newHistory()}
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
	older := w.older
	if res.Objects != nil {
		older = served(res)
	}
	w.history.add(objs, res)
	w.objs, w.res, w.problems, w.older, w.trouble = objs, res, problems, older, trouble
	w.mu.Unlock()
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// Run takes part in the election, and writes while this process is the leader, until ctx ends.
func (w *Writer) Run(ctx context.Context) {
	// The election outlives ctx until the last write is done, and then lets the next leader in at once.
	election, stop := context.WithCancel(klog.NewContext(context.WithoutCancel(ctx), logr.FromSlogHandler(w.opts.Log.Handler())))
	defer stop()
	defer w.events.broadcaster.Shutdown()
	for ctx.Err() == nil {
		w.term(ctx, election)
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
			w.lead(both)
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
