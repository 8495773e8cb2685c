package status

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	coordinationv1 "k8s.io/api/coordination/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/test/kubetest"
	"github.com/weir-dev/weir/xds/accept"
	"github.com/weir-dev/weir/xds/compile"
	"github.com/weir-dev/weir/xds/source"
)

func TestMain(m *testing.M) { kubetest.Main(m) }

// patient is how long a test waits for what must come. It says nothing about how long that takes.
const patient = time.Minute

func eventually(t *testing.T, what string, is func() (bool, string)) {
	t.Helper()
	deadline := time.Now().Add(patient)
	for {
		ok, got := is()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: it has not come; there is %s", what, got)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// rig is a namespace of a real API server, with processes of Weir that have no Envoy.
type rig struct {
	t         *testing.T
	cluster   *kubetest.Cluster
	namespace string
	processes int
}

func newRig(t *testing.T) *rig {
	t.Helper()
	c := kubetest.Shared(t)
	return &rig{t: t, cluster: c, namespace: c.Namespace(t)}
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) meta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: r.namespace, Name: name}
}

// backend creates or changes a Backend. One whose URL has the path /bad is refused by this test's compilation.
func (r *rig) backend(name, url string) source.ObjectRef {
	r.t.Helper()
	b := &v1alpha1.Backend{ObjectMeta: r.meta(name)}
	if err := r.cluster.Client.Get(r.t.Context(), client.ObjectKeyFromObject(b), b); apierrors.IsNotFound(err) {
		b.Spec = v1alpha1.BackendSpec{Dialect: "openai", URL: url}
		r.must(r.cluster.Client.Create(r.t.Context(), b))
	} else {
		r.must(err)
		b.Spec.URL = url
		r.must(r.cluster.Client.Update(r.t.Context(), b))
	}
	return source.RefOf(b)
}

func (r *rig) read() *source.Objects {
	r.t.Helper()
	objs := source.NewObjects()
	var backends v1alpha1.BackendList
	var routes v1alpha1.RouteList
	var grants v1alpha1.ReferenceGrantList
	for _, list := range []client.ObjectList{&backends, &routes, &grants} {
		r.must(r.cluster.Client.List(r.t.Context(), list, client.InNamespace(r.namespace)))
	}
	for i := range backends.Items {
		objs.Backends = append(objs.Backends, &backends.Items[i])
	}
	for i := range routes.Items {
		objs.Routes = append(objs.Routes, &routes.Items[i])
	}
	for i := range grants.Items {
		objs.ReferenceGrants = append(objs.ReferenceGrants, &grants.Items[i])
	}
	return objs
}

// compileTest refuses Backends by their URLs, and warns of Routes whose backend there is not.
func compileTest(objs *source.Objects) (*compile.Version, []source.Problem) {
	var problems []source.Problem
	there := map[v1alpha1.ObjectName]bool{}
	for _, b := range objs.Backends {
		there[v1alpha1.ObjectName(b.Name)] = true
		if strings.HasSuffix(b.Spec.URL, "/bad") {
			problems = append(problems, objs.Problem(source.RefOf(b), "spec.url", source.Error, "the path %s is not wanted", "/bad"))
		}
	}
	for _, route := range objs.Routes {
		for i, rb := range route.Spec.Rules[0].Backends {
			if !there[rb.Name] {
				problems = append(problems, objs.Problem(source.RefOf(route), fmt.Sprintf("spec.rules[0].backends[%d].name", i), source.Warning,
					"there is no Backend %s", rb.Name).Because(source.ReasonRefNotFound))
			}
		}
	}
	if source.HasErrors(problems) {
		return nil, problems
	}
	return &compile.Version{ID: "version-" + objs.Digest()}, problems
}

// process is a process of Weir.
type process struct {
	rig     *rig
	name    string
	keeper  *accept.Keeper
	tracker *Tracker
	leases  *Leases
	writer  *Writer
	writes  *prometheus.Registry
	last    accept.Result
	end     func() // as SIGTERM does
	cut     *atomic.Bool
}

// process starts one, or one that only reports.
func (r *rig) process(writes bool) *process {
	r.t.Helper()
	r.processes++
	p := &process{rig: r, name: fmt.Sprintf("weir-%d", r.processes), keeper: accept.NewKeeper(), tracker: NewTracker(), writes: prometheus.NewRegistry(), cut: &atomic.Bool{}}
	config := rest.CopyConfig(r.cluster.Config)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(req *http.Request) (*http.Response, error) {
			if p.cut.Load() {
				return nil, errors.New("the network is gone")
			}
			return next.RoundTrip(req)
		})
	})
	log := slog.New(slog.NewTextHandler(&testLog{t: r.t}, nil)).With("process", p.name)
	var err error
	p.leases, err = NewLeases(LeasesOptions{Config: config, Namespace: r.namespace, Identity: p.name, Duration: 3 * time.Second, Log: log})
	r.must(err)
	p.leases.Set(p.tracker.Report(map[string]int{"": 1}, nil))
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { p.leases.Run(ctx) })
	if writes {
		p.writer, err = NewWriter(Options{
			Config: config, Namespace: r.namespace, Identity: p.name, Watched: []string{r.namespace}, Reports: p.leases.Reports,
			Election: Election{Lease: 3 * time.Second, Renew: 2 * time.Second, Retry: 200 * time.Millisecond},
			Poll:     50 * time.Millisecond, Grace: 100 * time.Millisecond, Settle: 500 * time.Millisecond, Log: log, Registry: p.writes,
		})
		r.must(err)
		running.Go(func() { p.writer.Run(ctx) })
	}
	p.end = func() { cancel(); running.Wait() }
	r.t.Cleanup(p.end)
	return p
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// testLog writes what processes log to the test's.
type testLog struct{ t *testing.T }

func (l *testLog) Write(b []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

// learn reads the cluster, as a source does after a change.
func (p *process) learn() accept.Result {
	objs := p.rig.read()
	p.last = p.keeper.Compile(objs, nil, compileTest)
	p.tracker.Compiled(objs, p.last)
	if p.writer != nil {
		p.writer.Update(objs, p.last)
	}
	return p.last
}

// serve says that Envoy has taken what was learnt last.
func (p *process) serve() {
	p.leases.Set(p.tracker.Report(map[string]int{p.last.Version.ID: 1}, nil))
}

func (p *process) total(result string) float64 {
	return testutil.ToFloat64(p.writer.metrics.writes.WithLabelValues(result))
}

// status is what is written of an object: "generation; Accepted True Accepted valid; ..."
func (r *rig) status(ref source.ObjectRef) string {
	r.t.Helper()
	o, _ := source.NewObject(ref.Kind)
	err := r.cluster.Client.Get(r.t.Context(), client.ObjectKey{Namespace: ref.Namespace, Name: ref.Name}, o.(client.Object))
	r.must(err)
	s := reflect.ValueOf(o).Elem().FieldByName("Status").Interface().(v1alpha1.Status)
	out := fmt.Sprint(s.ObservedGeneration)
	for _, c := range s.Conditions {
		if c.LastTransitionTime.IsZero() || c.Type != "Foreign" && c.ObservedGeneration != s.ObservedGeneration {
			r.t.Errorf("%s: %s is of generation %d, since %v", ref, c.Type, c.ObservedGeneration, c.LastTransitionTime)
		}
		out += fmt.Sprintf("; %s %s %s %s", c.Type, c.Status, c.Reason, c.Message)
	}
	return out
}

func (r *rig) version(ref source.ObjectRef) string {
	r.t.Helper()
	o, _ := source.NewObject(ref.Kind)
	r.must(r.cluster.Client.Get(r.t.Context(), client.ObjectKey{Namespace: ref.Namespace, Name: ref.Name}, o.(client.Object)))
	return o.GetResourceVersion()
}

func (r *rig) await(ref source.ObjectRef, want string) {
	r.t.Helper()
	eventually(r.t, ref.String()+" should have "+want, func() (bool, string) {
		got := r.status(ref)
		return got == want, got
	})
}

// events are those of an object: "Warning Invalid Accept ..."
func (r *rig) events(ref source.ObjectRef) []string {
	var list eventsv1.EventList
	r.must(r.cluster.Client.List(r.t.Context(), &list, client.InNamespace(r.namespace)))
	var out []string
	for _, e := range list.Items {
		if e.Regarding.Kind == ref.Kind && e.Regarding.Name == ref.Name {
			out = append(out, e.Type+" "+e.Reason+" "+e.Action+" "+e.Note)
		}
	}
	slices.Sort(out)
	return out
}

const (
	accepted   = "; Accepted True Accepted valid; ResolvedRefs True ResolvedRefs everything it refers to can be used"
	fine       = "https://api.example.com/v1"
	bad        = "https://api.example.com/bad"
	refusedBad = "; Accepted False Invalid spec.url: the path /bad is not wanted; ResolvedRefs True ResolvedRefs everything it refers to can be used"
)

func TestConditions(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	good, wrong := r.backend("good", fine), r.backend("wrong", bad)
	route := &v1alpha1.Route{ObjectMeta: r.meta("route"), Spec: v1alpha1.RouteSpec{Rules: []v1alpha1.RouteRule{{Backends: []v1alpha1.RouteBackend{{Name: "good"}, {Name: "none"}}}}}}
	r.must(r.cluster.Client.Create(t.Context(), route))
	grant := &v1alpha1.ReferenceGrant{ObjectMeta: r.meta("grant"), Spec: v1alpha1.ReferenceGrantSpec{
		From: []v1alpha1.ReferenceGrantFrom{{Kind: "Route", Namespace: "a"}}, To: []v1alpha1.ReferenceGrantTo{{Kind: "Backend"}}}}
	r.must(r.cluster.Client.Create(t.Context(), grant))

	a, b := r.process(true), r.process(false)
	a.learn()
	b.learn()
	// Nobody serves anything: nothing is called programmed.
	r.await(good, "1"+accepted+"; Programmed False Pending no replica serves anything yet: 2 replicas starting")
	r.await(wrong, "1"+refusedBad+"; Programmed False Invalid generation 1 is refused, so the object is left out")
	r.await(source.RefOf(grant), "1; Accepted True Accepted valid")
	a.serve()
	r.await(good, "1"+accepted+"; Programmed True Programmed programmed on 1 of 1 replica")
	b.serve()
	r.await(good, "1"+accepted+"; Programmed True Programmed programmed on 2 of 2 replicas")
	r.await(source.RefOf(route), "1; Accepted True Accepted valid; ResolvedRefs False RefNotFound spec.rules[0].backends[1].name: there is no Backend none; "+
		"Programmed True Programmed programmed on 2 of 2 replicas")

	// A generation that is refused, while the one before it goes on being served.
	r.backend("good", bad)
	a.learn()
	b.learn()
	a.serve()
	b.serve()
	r.await(good, "2"+refusedBad+"; Programmed False Invalid generation 2 is refused; generation 1 goes on being served, on 2 of 2 replicas")
	// A replica that has just been started does not know generation 1. It is told apart from the others, and all else stays programmed.
	c := r.process(false)
	c.learn()
	c.serve()
	r.await(good, "2"+refusedBad+"; Programmed False Invalid generation 2 is refused; generation 1 goes on being served, on 2 of 3 replicas")
	eventually(t, "the route is programmed on all", func() (bool, string) {
		got := r.status(source.RefOf(route))
		return strings.HasSuffix(got, "Programmed True Programmed programmed on 3 of 3 replicas"), got
	})
	r.backend("good", fine+"/v2")
	for _, p := range []*process{a, b, c} {
		p.learn()
		p.serve()
	}
	r.await(good, "3"+accepted+"; Programmed True Programmed programmed on 3 of 3 replicas")

	const told = "spec.url: the path /bad is not wanted"
	eventually(t, "events", func() (bool, string) {
		got := r.events(good)
		return slices.Equal(got, []string{"Normal Accepted Accept valid", "Warning Invalid Accept " + told}), fmt.Sprint(got)
	})
	if got := r.events(wrong); !slices.Equal(got, []string{"Warning Invalid Accept " + told}) {
		t.Errorf("events %q", got)
	}
	if got := r.events(source.RefOf(route)); len(got) != 1 || !strings.HasPrefix(got[0], "Warning RefNotFound ResolveRefs spec.rules[0].backends[1].name") {
		t.Errorf("events %q", got)
	}
}

func TestReplicas(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	ref := r.backend("b", fine)
	all := []*process{r.process(true), r.process(false), r.process(false)}
	for _, p := range all {
		p.learn()
		p.serve()
	}
	r.await(ref, "1"+accepted+"; Programmed True Programmed programmed on 3 of 3 replicas")

	// One lags behind.
	r.backend("b", fine+"/2")
	for _, p := range all {
		p.learn()
	}
	all[0].serve()
	all[1].serve()
	r.await(ref, "2"+accepted+"; Programmed False Pending programmed on 2 of 3 replicas")
	all[2].serve()
	r.await(ref, "2"+accepted+"; Programmed True Programmed programmed on 3 of 3 replicas")

	// The Envoy of one refuses.
	r.backend("b", fine+"/3")
	before := all[2].last.Version.ID
	for _, p := range all {
		p.learn()
	}
	all[0].serve()
	all[1].serve()
	all[2].leases.Set(all[2].tracker.Report(map[string]int{before: 1}, map[string]Refusal{all[2].last.Version.ID: {1, "Proto constraint validation failed\n(field)"}}))
	const why = "programmed on 2 of 3 replicas; Envoy refuses it on 1: Proto constraint validation failed (field)"
	r.await(ref, "3"+accepted+"; Programmed False Rejected "+why)
	eventually(t, "an event", func() (bool, string) {
		got := r.events(ref)
		return slices.Contains(got, "Warning Rejected Program "+why), fmt.Sprint(got)
	})

	// It dies without a word. Its Lease expires, and then goes too.
	all[2].cut.Store(true)
	all[2].end()
	r.await(ref, "3"+accepted+"; Programmed True Programmed programmed on 2 of 2 replicas")
	leases := func() (names []string) {
		var list coordinationv1.LeaseList
		r.must(r.cluster.Client.List(t.Context(), &list, client.InNamespace(r.namespace), client.MatchingLabels{reportLabel: "true"}))
		for _, l := range list.Items {
			names = append(names, l.Name)
		}
		return names
	}
	eventually(t, "the Lease goes", func() (bool, string) {
		got := leases()
		return slices.Equal(got, []string{"weir-report-weir-1", "weir-report-weir-2"}), fmt.Sprint(got)
	})
	// One that ends takes its Lease along.
	all[1].end()
	if got := leases(); !slices.Equal(got, []string{"weir-report-weir-1"}) {
		t.Errorf("Leases %q", got)
	}
	r.await(ref, "3"+accepted+"; Programmed True Programmed programmed on 1 of 1 replica")
}

func TestNoReplicas(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	ref := r.backend("b", fine)
	p := r.process(true)
	var mu sync.Mutex
	reports := Reports{}
	p.end()
	w, err := NewWriter(Options{Config: r.cluster.Config, Namespace: r.namespace, Identity: "control", Watched: []string{r.namespace}, Poll: 20 * time.Millisecond,
		Grace: time.Millisecond, Settle: time.Millisecond, Reports: func(context.Context) (Reports, error) {
			mu.Lock()
			defer mu.Unlock()
			if reports == nil {
				return nil, errors.New("they cannot be read")
			}
			return reports, nil
		}})
	r.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { w.Run(ctx) })
	defer running.Wait()
	defer cancel()
	set := func(to Reports) {
		mu.Lock()
		defer mu.Unlock()
		reports = to
	}
	objs := r.read()
	res := accept.NewKeeper().Compile(objs, nil, compileTest)
	w.Update(objs, res)
	r.await(ref, "1"+accepted+"; Programmed False NoReplicas no replica of Weir is up")
	set(Reports{"control": {Serving: []Serving{{setOf(objs, res), 200}}}})
	r.await(ref, "1"+accepted+"; Programmed True Programmed programmed on 200 of 200 replicas")
	set(nil) // nothing is known, and nothing is written
	second := r.backend("b2", fine)
	objs = r.read()
	w.Update(objs, accept.NewKeeper().Compile(objs, nil, compileTest))
	set(Reports{})
	r.await(second, "1"+accepted+"; Programmed False NoReplicas no replica of Weir is up")
	r.await(ref, "1"+accepted+"; Programmed False NoReplicas no replica of Weir is up")
	set(Reports{"control": {Serving: []Serving{{setOf(objs, res), 200}}}})
	r.await(ref, "1"+accepted+"; Programmed True Programmed programmed on 200 of 200 replicas")
}

// The leader loses the network, or ends; another takes over, and writes nothing that is written already.
func TestLeaders(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	ref := r.backend("b", fine)
	other := r.backend("other", fine)
	settled := r.backend("settled", bad)
	all := []*process{r.process(true)}
	leads := func(p *process) {
		t.Helper()
		eventually(t, p.name+" leads", func() (bool, string) {
			n := testutil.ToFloat64(p.writer.metrics.leader)
			return n == 1, fmt.Sprint(n)
		})
	}
	leads(all[0])
	all = append(all, r.process(true), r.process(true))
	everybody := func(processes []*process) {
		for _, p := range processes {
			p.learn()
			p.serve()
		}
	}
	everybody(all)
	r.await(ref, "1"+accepted+"; Programmed True Programmed programmed on 3 of 3 replicas")
	r.await(settled, "1"+refusedBad+"; Programmed False Invalid generation 1 is refused, so the object is left out")
	before := r.version(settled)

	all[0].cut.Store(true) // and goes on running
	r.backend("b", fine+"/2")
	everybody(all[1:])
	r.await(ref, "2"+accepted+"; Programmed True Programmed programmed on 2 of 2 replicas")
	eventually(t, "the old leader gives up", func() (bool, string) {
		n := testutil.ToFloat64(all[0].writer.metrics.leader)
		return n == 0, fmt.Sprint(n)
	})
	// What it refuses has been told: neither the status nor the event comes again.
	if after := r.version(settled); after != before {
		t.Errorf("a status that is the same was written: resourceVersion %s, then %s", before, after)
	}
	if got := r.events(settled); len(got) != 1 {
		t.Errorf("events %q", got)
	}

	// It ends in an orderly way: the next one has the Lease at once.
	first, next := all[1], all[2]
	if testutil.ToFloat64(next.writer.metrics.leader) == 1 {
		first, next = next, first
	}
	first.end()
	leads(next)
	r.backend("other", bad)
	next.learn()
	next.serve()
	r.await(other, "2"+refusedBad+"; Programmed False Invalid generation 2 is refused; generation 1 goes on being served, on 1 of 1 replica")
	if after := r.version(settled); after != before {
		t.Errorf("a status that is the same was written: resourceVersion %s, then %s", before, after)
	}
}

// What is written is not written again; what others wrote stays, and what they spoiled is mended.
func TestWrites(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	ref := r.backend("b", fine)
	p := r.process(true)
	p.learn()
	p.serve()
	const programmed = "; Programmed True Programmed programmed on 1 of 1 replica"
	r.await(ref, "1"+accepted+programmed)
	before, writes := r.version(ref), p.total(resultOK)
	for i := range 5 {
		p.learn() // new pointers each time, with the status in them
		p.serve()
		barrier := r.backend(fmt.Sprintf("barrier-%d", i), bad)
		p.learn()
		r.await(barrier, "1"+refusedBad+"; Programmed False Invalid generation 1 is refused, so the object is left out")
	}
	if after := r.version(ref); after != before || p.total(resultOK) > writes+5 || p.total(resultError) > 0 {
		t.Errorf("resourceVersion %s, then %s; %v writes, then %v", before, after, writes, p.total(resultOK))
	}

	// Another controller has a condition of its own.
	b := &v1alpha1.Backend{}
	r.must(r.cluster.Client.Get(t.Context(), client.ObjectKey{Namespace: r.namespace, Name: "b"}, b))
	b.Status.Conditions = append(b.Status.Conditions, metav1.Condition{Type: "Foreign", Status: "True", Reason: "Its", LastTransitionTime: metav1.Now()})
	r.must(r.cluster.Client.Status().Update(t.Context(), b))
	r.backend("b", fine+"/2")
	p.learn()
	p.serve()
	r.await(ref, "2"+accepted+programmed+"; Foreign True Its ")

	// It is deleted and made again while a write is on its way: the new object gets what is its own.
	r.must(r.cluster.Client.Delete(t.Context(), b))
	ref = r.backend("b", bad)
	r.backend("late", fine)
	p.learn()
	p.serve()
	r.await(ref, "1"+refusedBad+"; Programmed False Invalid generation 1 is refused, so the object is left out")
	gone := r.read()
	i := slices.IndexFunc(gone.Backends, func(b *v1alpha1.Backend) bool { return b.Name == "late" })
	late := gone.Backends[i]
	late.UID, late.Generation = "of-another-life", 7
	p.writer.Update(gone, p.keeper.Compile(gone, nil, compileTest))
	eventually(t, "a write for an object that is gone", func() (bool, string) {
		n := p.total(resultGone)
		return n > 0, fmt.Sprint(n, p.total(resultOK), p.total(resultError), r.status(source.RefOf(late)))
	})
	p.learn() // the object that is there now is read, and gets its own
	p.serve()
	r.await(source.RefOf(late), "1"+accepted+programmed)
}

// Every kind's status can be written, by the name that the API has for the kind.
func TestKinds(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a, err := newAPI(r.cluster.Config)
	r.must(err)
	for kind := range resources {
		if _, ok := source.NewObject(kind); !ok {
			t.Errorf("there is no kind %s", kind)
		}
		there, err := a.write(t.Context(), source.ObjectRef{Kind: kind, Namespace: r.namespace, Name: "none"}, written{uid: "x"})
		if there || err != nil {
			t.Errorf("%s: %v, %v", kind, there, err)
		}
		body, err := a.client.Get().AbsPath(path(kind, r.namespace)).Do(t.Context()).Raw()
		if err != nil || !strings.Contains(string(body), `"`+kind+`List"`) {
			t.Errorf("%s: %.200s, %v", kind, body, err)
		}
	}
	scheme := r.cluster.Client.Scheme()
	for kind := range scheme.KnownTypes(v1alpha1.GroupVersion) {
		if _, ok := source.NewObject(kind); ok && resources[kind] == "" {
			t.Errorf("the path of %s is not known", kind)
		}
	}
}
