package status

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	coordinationac "k8s.io/client-go/applyconfigurations/coordination/v1"
	coordination "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/rest"
)

const (
	// fieldManager owns what Weir writes.
	fieldManager = "weir"
	// reportLabel is on the Leases that hold reports, and installLabel says of which installation.
	reportLabel, installLabel = "weir.dev/report", "weir.dev/install"
	// reportAnnotation holds the report.
	reportAnnotation = "weir.dev/report"
	// hurry is how soon after a write the next one follows, where what a process serves changes often.
	hurry = 500 * time.Millisecond
	// goodbye is how long the deletion of a process's own Lease may take when it ends.
	goodbye = 3 * time.Second
)

// LeasesOptions are those of Leases.
type LeasesOptions struct {
	// Config reaches the API server.
	Config *rest.Config
	// Namespace of the Leases: Weir's own.
	Namespace string
	// Install tells several installations in the namespace apart; "" is "weir".
	Install string
	// Identity names the process, by the name of its Pod.
	Identity string
	// Duration for which a report counts after it was renewed last; 0 is nine seconds. It is renewed three times in it.
	Duration time.Duration
	Log      *slog.Logger
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Leases carry reports between processes that have only the API server in common: each process keeps one Lease object, and whoever is the
// leader reads them all. The methods are safe for concurrent use.
type Leases struct {
	opts   LeasesOptions
	client coordination.LeaseInterface
	name   string

	changed chan struct{}
	mu      sync.Mutex
	report  Report

	reading sync.Mutex
	seen    map[string]sighting // by the name of the Lease
	last    time.Time           // of the last reading that succeeded
}

// sighting is when a Lease was seen to be renewed. Its own time is not trusted: the clocks of two nodes may differ.
type sighting struct {
	renewed string
	at      time.Time
}

// NewLeases makes Leases. Nothing is written before Run.
func NewLeases(opts LeasesOptions) (*Leases, error) {
	if opts.Install == "" {
		opts.Install = "weir"
	}
	if opts.Duration == 0 {
		opts.Duration = 9 * time.Second
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	l := &Leases{opts: opts, name: opts.Install + "-report-" + opts.Identity, changed: make(chan struct{}, 1), seen: map[string]sighting{}}
	if errs := validation.IsDNS1123Subdomain(l.name); len(errs) > 0 || opts.Identity == "" {
		return nil, fmt.Errorf("a process cannot be called %q in the name of a Lease: give it the name of its Pod", opts.Identity)
	}
	if errs := validation.IsValidLabelValue(opts.Install); len(errs) > 0 {
		return nil, fmt.Errorf("an installation cannot be called %q: %s", opts.Install, strings.Join(errs, "; "))
	}
	client, err := coordination.NewForConfig(opts.Config)
	if err != nil {
		return nil, fmt.Errorf("the API server cannot be asked for Leases: %w", err)
	}
	l.client = client.Leases(opts.Namespace)
	return l, nil
}

// Set replaces what this process reports.
func (l *Leases) Set(r Report) {
	l.mu.Lock()
	same := reflect.DeepEqual(l.report, r)
	l.report = r
	l.mu.Unlock()
	if same {
		return // it is renewed in its own time
	}
	select {
	case l.changed <- struct{}{}:
	default:
	}
}

// Run reports until ctx ends, and then takes the report away.
func (l *Leases) Run(ctx context.Context) {
	defer l.leave(ctx)
	failing := false
	for {
		err := l.write(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil && !failing {
			l.opts.Log.Warn("what this process serves cannot be reported; status may say that objects are not programmed", "lease", l.opts.Namespace+"/"+l.name, "err", err)
		}
		if err == nil && failing {
			l.opts.Log.Info("what this process serves is reported again", "lease", l.opts.Namespace+"/"+l.name)
		}
		failing = err != nil
		if !pause(ctx, min(hurry, l.opts.Duration/3)) {
			return
		}
		if !l.await(ctx) {
			return
		}
	}
}

// await waits for a change, or until the Lease must be renewed.
func (l *Leases) await(ctx context.Context) bool {
	renew := time.NewTimer(l.opts.Duration / 3)
	defer renew.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-l.changed:
	case <-renew.C:
	}
	return true
}

// pause waits; false when ctx has ended.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

func (l *Leases) write(ctx context.Context) error {
	l.mu.Lock()
	text, err := l.report.encode()
	l.mu.Unlock()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, max(l.opts.Duration/3, time.Second))
	defer cancel()
	lease := coordinationac.Lease(l.name, l.opts.Namespace).
		WithLabels(map[string]string{reportLabel: "true", installLabel: l.opts.Install}).
		WithAnnotations(map[string]string{reportAnnotation: text}).
		WithSpec(coordinationac.LeaseSpec().WithHolderIdentity(l.opts.Identity).
			WithLeaseDurationSeconds(int32(max(1, l.opts.Duration/time.Second))).
			WithRenewTime(metav1.NewMicroTime(l.opts.Now())))
	_, err = l.client.Apply(ctx, lease, metav1.ApplyOptions{FieldManager: fieldManager, Force: true})
	return err
}

// leave takes the report away, so that nobody waits for a replica that is gone.
func (l *Leases) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), goodbye)
	defer cancel()
	if err := l.client.Delete(ctx, l.name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		l.opts.Log.Info("the report of this process stays until it expires", "lease", l.opts.Namespace+"/"+l.name, "err", err)
	}
}

// Reports returns the reports of all live processes, and deletes those of processes that have been dead for long. Who asks every few seconds
// knows who is dead; who has not asked for half of Duration begins anew to wait for signs of life. A
// Lease is dead that was not renewed for its duration while the API server answered: an outage of the API server kills nobody.
func (l *Leases) Reports(ctx context.Context) (Reports, error) {
	l.reading.Lock()
	defer l.reading.Unlock()
	// Any version will do: the API server answers from its memory.
	list, err := l.client.List(ctx, metav1.ListOptions{LabelSelector: reportLabel + "=true," + installLabel + "=" + l.opts.Install, ResourceVersion: "0"})
	if err != nil {
		return nil, fmt.Errorf("the reports of the replicas cannot be read: %w", err)
	}
	now := l.opts.Now()
	gap := now.Sub(l.last) > l.opts.Duration/2
	l.last = now
	out, seen := Reports{}, make(map[string]sighting, len(list.Items))
	var errs []error
	for i := range list.Items {
		lease := &list.Items[i]
		s, known := l.seen[lease.Name]
		if renewed := renewal(lease); !known || gap || s.renewed != renewed {
			s = sighting{renewed, now}
		}
		seen[lease.Name] = s
		age := now.Sub(s.at)
		if age > 2*l.opts.Duration {
			if err := l.bury(ctx, lease); err != nil {
				errs = append(errs, err)
			}
		}
		if age > l.opts.Duration {
			continue
		}
		r, err := decode(lease.Annotations[reportAnnotation])
		if err != nil {
			errs = append(errs, fmt.Errorf("Lease %s: %w", lease.Name, err))
			continue
		}
		out[lease.Name] = r
	}
	l.seen = seen
	if err := errors.Join(errs...); err != nil {
		l.opts.Log.Warn("some reports are left out", "err", err)
	}
	return out, nil
}

// renewal changes whenever its process writes a Lease.
func renewal(lease *coordinationv1.Lease) string {
	if lease.Spec.RenewTime == nil {
		return lease.ResourceVersion
	}
	return string(lease.UID) + lease.Spec.RenewTime.UTC().Format(time.RFC3339Nano)
}

func (l *Leases) bury(ctx context.Context, lease *coordinationv1.Lease) error {
	err := l.client.Delete(ctx, lease.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &lease.UID, ResourceVersion: &lease.ResourceVersion}})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("the Lease %s of a process that is gone cannot be deleted: %w", lease.Name, err)
	}
	return nil
}
