package load

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/xds/compile"
	"github.com/weir-dev/weir/xds/load/probe"
	"github.com/weir-dev/weir/xds/load/scrape"
	"github.com/weir-dev/weir/xds/load/signal"
)

// signalsOf remembers what is wanted.
type signalsOf struct{ wanted []string }

func (s *signalsOf) Want(backends []string) { s.wanted = backends }

// newSharedRig is a rig that gets signals from others.
func newSharedRig(t testing.TB) (*rig, *signalsOf) {
	from := &signalsOf{}
	return newRig(t, func(o *Options) { o.Signals = from }), from
}

// shared is a reading that another process has made now.
func (r *rig) shared(p *compile.Pool, i, source int, change func(*signal.Sample)) signal.Shared {
	reading := r.reading(p, i, source, change)
	return signal.Shared{
		Backend: p.Backend, Endpoint: p.Endpoints[i].Key, Source: source, Of: targetPrint(reading.Target.Engine.Name, reading.Target.URL, p.Host),
		Reading: uint64(r.elapsed.Load()), At: reading.Sample.At, Sample: reading.Sample,
	}
}

// sharedCheck is a health check that another process has made now.
func (r *rig) sharedCheck(p *compile.Pool, i, run int, ok bool) signal.Shared {
	r.elapsed.Add(1)
	s := signal.Shared{
		Backend: p.Backend, Endpoint: p.Endpoints[i].Key, Source: signal.Health, Of: checkPrint(question(p, &p.Endpoints[i]), p.Host),
		Reading: uint64(r.elapsed.Load()), At: r.now(), Run: run,
	}
	if !ok {
		s.Fault, s.Err = "status", "answered with status 503"
	}
	return s
}

// wantOwn checks what is read here.
func (r *rig) wantOwn(targets, checks int) {
	r.t.Helper()
	if n := r.watcher.scraper.Stats().Targets; n != targets {
		r.t.Errorf("%d sources of metrics are read here, want %d", n, targets)
	}
	if n := r.watcher.prober.Stats().Checks; n != checks {
		r.t.Errorf("%d endpoints are checked here, want %d", n, checks)
	}
}

func TestSharedSignals(t *testing.T) {
	r, from := newSharedRig(t)
	p := poolOf("default/pool", a1, a2)
	r.Use(steeringOf(nil, p, poolOf("default/another")))
	if want := []string{"default/another", "default/pool"}; !slices.Equal(from.wanted, want) {
		t.Errorf("signals are wanted of %v, want %v", from.wanted, want)
	}
	all := func(busy float64) {
		r.Take([]signal.Shared{
			r.shared(p, 0, 0, gpuAt(busy)), r.shared(p, 1, 0, gpuAt(0.1)), r.sharedCheck(p, 0, 5, true), r.sharedCheck(p, 1, 5, true),
		})
	}
	r.wantOwn(0, 0)
	all(0.5)
	r.step(time.Second)
	if p := (*r.pools.Load())[p.Backend]; p.wanted.Load() {
		t.Error("nothing crosses a line, and the pool is wanted")
	}
	all(0.99)
	if p := (*r.pools.Load())[p.Backend]; !p.wanted.Load() {
		t.Error("a reading across a line does not count at once")
	}
	r.step(ms)
	all(0.99)
	r.step(ms)
	r.wantWeights(p.Backend, map[string]uint32{a1: 700, a2: 1000})
	if e := r.endpoint(p.Backend, a1); !e.Sources[0].Shared || !e.CheckShared || e.Sources[0].Sample.GPUUtilization != 0.99 || !e.Checked.Equal(r.now().Add(-ms-1)) {
		t.Errorf("the endpoint is %+v", e)
	}

	// One of them goes on; the other is read here after three seconds, and no more when readings come again.
	for range 4 {
		r.Take([]signal.Shared{r.shared(p, 0, 0, gpuAt(0.99)), r.sharedCheck(p, 0, 5, true)})
		r.wantOwn(0, 0)
		r.step(990 * ms)
	}
	r.wantOwn(1, 1)
	if err := testutil.GatherAndCompare(r.registry, strings.NewReader(`
# HELP weir_backend_signal_sources Sources of signals of the endpoints of a Backend, health checks among them: shared, which the control plane reads, and own, which this process reads itself.
# TYPE weir_backend_signal_sources gauge
weir_backend_signal_sources{backend="default/another",reader="own"} 0
weir_backend_signal_sources{backend="default/another",reader="shared"} 0
weir_backend_signal_sources{backend="default/pool",reader="own"} 2
weir_backend_signal_sources{backend="default/pool",reader="shared"} 2
# HELP weir_fleet_signals_total Readings of endpoints that came from the control plane, by what became of them.
# TYPE weir_fleet_signals_total counter
weir_fleet_signals_total{kind="health",result="used"} 10
weir_fleet_signals_total{kind="metrics",result="used"} 10
`), "weir_backend_signal_sources", "weir_fleet_signals_total"); err != nil {
		t.Error(err)
	}
	r.read(r.reading(p, 1, 0, gpuAt(0.2)))
	if e := r.endpoint(p.Backend, a2); e.Sources[0].Shared || e.Sources[0].Sample.GPUUtilization != 0.2 || !e.CheckShared {
		t.Errorf("the endpoint is %+v", e)
	}
	// A version that comes meanwhile changes nothing about that.
	r.Use(steeringOf(nil, p))
	r.wantOwn(1, 1)
	all(0.99)
	r.step(lookEvery)
	r.wantOwn(0, 0)
	r.step(3 * time.Second)
	r.wantOwn(2, 2)
	if n := strings.Count(r.logged.String(), "they are read here"); n != 2 {
		t.Errorf("the log says %d times that endpoints are read here:\n%s", n, r.logged.String())
	}
}

// What is read over TLS, or in other ways, is read here in the same way as without a control plane.
func TestNobodyShares(t *testing.T) {
	r := newRig(t)
	p := poolOf("default/pool", a1, a2)
	r.Use(steeringOf(nil, p))
	r.wantOwn(2, 2)
	r.step(time.Hour)
	r.wantOwn(2, 2)
}

func TestSignalsThatAreOfNoUse(t *testing.T) {
	r, _ := newSharedRig(t)
	p := poolOf("default/pool", a1, a2)
	r.Use(steeringOf(nil, p))
	good := r.shared(p, 0, 0, gpuAt(0.5))
	for name, change := range map[string]func(*signal.Shared){
		"another Backend":     func(s *signal.Shared) { s.Backend = "default/gone" },
		"another endpoint":    func(s *signal.Shared) { s.Endpoint = a3 },
		"another source":      func(s *signal.Shared) { s.Source = 1 },
		"no source":           func(s *signal.Shared) { s.Source = -2 },
		"another URL":         func(s *signal.Shared) { s.Of++ },
		"another check's URL": func(s *signal.Shared) { s.Source = signal.Health },
	} {
		s := good
		change(&s)
		r.Take([]signal.Shared{s})
		if e := r.endpoint(p.Backend, a1); !e.Sources[0].ReadAt.IsZero() || !e.Checked.IsZero() {
			t.Errorf("%s: it was taken", name)
		}
	}
	// Two samples make a rule apply. The same one twice is one, whatever time it is said to have; nor does an older one count.
	high := r.shared(p, 0, 0, gpuAt(0.99))
	again := high
	again.At = high.At.Add(ms)
	r.Take([]signal.Shared{high})
	r.step(10 * ms)
	r.Take([]signal.Shared{again})
	older := good
	older.Reading, older.Sample = 99, high.Sample
	r.Take([]signal.Shared{older})
	r.step(10 * ms)
	r.wantWeights(p.Backend, map[string]uint32{a1: 1000})
	r.Take([]signal.Shared{r.shared(p, 0, 0, gpuAt(0.99))})
	r.step(10 * ms)
	r.wantWeights(p.Backend, map[string]uint32{a1: 700})

	// An error leaves what is known, says so, and is a reading.
	bad := r.shared(p, 0, 0, gpuAt(0))
	bad.Fault, bad.Err, bad.Sample = "status", "answered with status 503", signal.Sample{}
	r.Take([]signal.Shared{bad})
	if s := r.endpoint(p.Backend, a1).Sources[0]; s.Err != bad.Err || s.Sample.GPUUtilization != 0.99 {
		t.Errorf("the source is %+v", s)
	}
	r.step(5 * time.Second) // one that does not answer is read more seldom
	r.wantOwn(1, 2)
}

func TestSharedChecks(t *testing.T) {
	r, _ := newSharedRig(t)
	p := poolOf("default/pool", a1, a2)
	p.Weigh.FailedChecks, p.Weigh.PassedChecks = 3, 2
	r.Use(steeringOf(nil, p))
	wanted := func() bool { return (*r.pools.Load())[p.Backend].wanted.Load() }
	take := func(run int, ok, want bool) {
		t.Helper()
		r.Take([]signal.Shared{r.sharedCheck(p, 0, run, ok)})
		if wanted() != want {
			t.Errorf("worth a computation at once: %v", !want)
		}
		r.step(time.Second)
	}
	take(7, true, false)
	take(1, false, false)
	take(4, false, true) // two were left out
	r.wantWeights(p.Backend, map[string]uint32{a1: 0})
	if e := r.endpoint(p.Backend, a1); e.Failed != 4 || e.CheckErr == "" {
		t.Errorf("the endpoint is %+v", e)
	}
	take(5, false, false)
	take(1, true, false)
	// Another replica has taken over, and counts from one.
	take(1, true, true)
	r.wantWeights(p.Backend, map[string]uint32{a1: 1000})
}

// That others cannot reach an endpoint counts at once, and is looked into from here: what is true there need not be true here.
func TestEndpointsThatOthersCannotReach(t *testing.T) {
	r, _ := newSharedRig(t)
	p := poolOf("default/pool", a1, a2)
	r.Use(steeringOf(nil, p))
	run := 0
	unreached := func() {
		run++
		c, m := r.sharedCheck(p, 0, run, false), r.shared(p, 0, 0, gpuAt(0))
		c.Fault, c.Err = "unreachable", "connection refused"
		m.Fault, m.Err, m.Sample = c.Fault, c.Err, signal.Sample{}
		r.Take([]signal.Shared{c, m, r.sharedCheck(p, 1, run, true), r.shared(p, 1, 0, gpuAt(0.1))})
	}
	unreached()
	unreached()
	r.step(lookEvery)
	r.wantWeights(p.Backend, map[string]uint32{a1: 0, a2: 1000})
	r.wantOwn(1, 1)
	// It can be reached from here.
	for range 3 {
		unreached()
		r.checked(checkOf(r, p, true))
		r.read(r.reading(p, 0, 0, gpuAt(0.3)))
		r.step(lookEvery)
	}
	r.wantWeights(p.Backend, map[string]uint32{a1: 1000, a2: 1000})
	r.wantOwn(1, 1)
	if e := r.endpoint(p.Backend, a1); e.CheckShared || e.CheckErr != "" || e.Sources[0].Err != "" || e.Sources[0].Sample.GPUUtilization != 0.3 {
		t.Errorf("the endpoint is %+v", e)
	}
	if strings.Contains(r.logged.String(), "read here") {
		t.Errorf("it counts as not read:\n%s", r.logged.String())
	}
	// From there as well, now.
	r.Take([]signal.Shared{r.sharedCheck(p, 0, 1, true), r.shared(p, 0, 0, gpuAt(0.4))})
	r.step(lookEvery)
	r.wantOwn(0, 0)
}

func TestPatience(t *testing.T) {
	for _, tc := range []struct {
		interval, timeout time.Duration
		failed            bool
		want              time.Duration
	}{
		{500 * ms, 2 * time.Second, false, 3 * time.Second},
		{500 * ms, 2 * time.Second, true, 6 * time.Second},
		{5 * time.Second, time.Second, false, 15 * time.Second},
		{5 * time.Second, time.Second, true, 15 * time.Second},
		{time.Second, 10 * time.Second, false, 12 * time.Second},
	} {
		f := following{heard: t0, failed: tc.failed}
		if f.look(t0.Add(tc.want), tc.interval, tc.timeout) || f.own {
			t.Errorf("%+v: read here too early", tc)
		}
		if !f.look(t0.Add(tc.want+1), tc.interval, tc.timeout) || !f.own {
			t.Errorf("%+v: read here too late", tc)
		}
	}
}

// boardOf remembers what was posted.
type boardOf struct {
	posted []signal.Shared
	urgent []bool
	keep   func(*signal.Shared) bool
}

func (b *boardOf) Post(s signal.Shared, urgent bool) {
	b.posted, b.urgent = append(b.posted, s), append(b.urgent, urgent)
}

func (b *boardOf) Keep(keep func(*signal.Shared) bool) { b.keep = keep }

// last is what was posted last.
func (b *boardOf) last(t *testing.T, n int) (signal.Shared, bool) {
	t.Helper()
	if len(b.posted) != n {
		t.Fatalf("%d readings were posted, want %d", len(b.posted), n)
	}
	return b.posted[n-1], b.urgent[n-1]
}

func newReaderRig(t *testing.T) (*Reader, *boardOf, *rig) {
	r := newRig(t) // its clock, and what it makes
	b := &boardOf{}
	return NewReader(ReaderOptions{Board: b, Registry: prometheus.NewRegistry(), Log: r.opts.Log, Now: r.now}, 1000), b, r
}

// What is read of a pool by one is understood by another, and sent at once where it matters.
func TestReaderPosts(t *testing.T) {
	reader, board, r := newReaderRig(t)
	p := with(poolOf("default/pool", a1, a2), func(p *compile.Pool) {
		p.Metrics = append(p.Metrics, dcgm)
		p.Weigh.FailedChecks = 2
		p.Weigh.PassedChecks = 2
	})
	reader.Use(map[string]*compile.Pool{p.Backend: p})
	if s := reader.watcher.scraper.Stats(); s.Targets != 4 {
		t.Errorf("%d targets", s.Targets)
	}
	gateway, _ := newSharedRig(t)
	gateway.Use(steeringOf(nil, p))
	n := 0
	for _, step := range []struct {
		gpu    float64
		urgent bool
	}{
		{0.5, false}, {0.6, false}, {0.9, true}, {0.9, true}, {0.9, true}, {0.9, false}, {0.8, false}, {0.7, true}, {0.7, true}, {0.7, true}, {0.7, false},
	} {
		reader.scraped(hosted(p, r.reading(p, 0, 1, gpuAt(step.gpu))))
		n++
		s, urgent := board.last(t, n)
		if urgent != step.urgent || s.Reading != uint64(1000+n) || s.Source != 1 || s.Sample.GPUUtilization != step.gpu {
			t.Errorf("reading %d: urgent %v: %+v", n, urgent, s)
		}
		gateway.elapsed.Store(r.elapsed.Load())
		gateway.Take([]signal.Shared{s})
		if e := gateway.endpoint(p.Backend, a1); e.Sources[1].Sample.GPUUtilization != step.gpu {
			t.Errorf("the gateway knows %+v", e.Sources)
		}
	}
	failed := hosted(p, r.reading(p, 0, 1, gpuAt(0)))
	failed.Err, failed.Fault, failed.Sample = errors.New("connection refused"), "unreachable", signal.Sample{}
	for _, want := range []bool{true, false} {
		reader.scraped(failed)
		n++
		if s, urgent := board.last(t, n); urgent != want || s.Err == "" || s.Fault != "unreachable" || s.At.IsZero() {
			t.Errorf("reading %d: urgent %v: %+v", n, urgent, s)
		}
	}
	for _, step := range []struct {
		ok     bool
		run    int
		urgent bool
	}{{true, 1, true}, {true, 2, true}, {true, 3, false}, {false, 1, true}, {false, 2, true}, {false, 3, false}, {true, 1, true}} {
		reader.checked(checkOf(r, p, step.ok))
		n++
		s, urgent := board.last(t, n)
		if urgent != step.urgent || s.Run != step.run || s.OK() != step.ok || s.Source != signal.Health {
			t.Errorf("check %d: urgent %v: %+v", n, urgent, s)
		}
		gateway.Take([]signal.Shared{s})
	}
	if e := gateway.endpoint(p.Backend, a1); !e.CheckShared || e.CheckErr != "" {
		t.Errorf("the gateway knows %+v", e)
	}
}

// Of endpoints that are somebody else's nothing is read, and nothing that was on its way is posted.
func TestReaderOwns(t *testing.T) {
	reader, board, r := newReaderRig(t)
	p := poolOf("default/pool", a1, a2, a3)
	reader.Use(map[string]*compile.Pool{p.Backend: p})
	late := hosted(p, r.reading(p, 0, 0, gpuAt(0.5)))
	reader.scraped(late)
	posted, _ := board.last(t, 1)
	reader.Own(func(endpoint string) bool { return endpoint != a1 })
	if s, c := reader.watcher.scraper.Stats(), reader.watcher.prober.Stats(); s.Targets != 2 || c.Checks != 2 {
		t.Errorf("%d targets and %d checks, want 2 of each", s.Targets, c.Checks)
	}
	if board.keep(&posted) {
		t.Error("what is somebody else's is kept")
	}
	reader.scraped(late)
	reader.checked(checkOf(r, p, true))
	board.last(t, 1)
	reader.Own(func(string) bool { return true })
	if !board.keep(&posted) {
		t.Error("what is read here is not kept")
	}
	// Another address of the metrics is another source.
	other := with(poolOf("default/pool", a1, a2, a3), func(p *compile.Pool) {
		p.Metrics[0] = v1alpha1.MetricsSource{Type: v1alpha1.MetricsVLLM, Path: "/other"}
	})
	reader.Use(map[string]*compile.Pool{p.Backend: other})
	if board.keep(&posted) {
		t.Error("what is no more asked is kept")
	}
	reader.scraped(late)
	board.last(t, 1)
	reader.Use(nil)
	if s, c := reader.watcher.scraper.Stats(), reader.watcher.prober.Stats(); s.Targets+c.Checks != 0 {
		t.Errorf("%d targets and %d checks are left", s.Targets, c.Checks)
	}
}

// hosted is a reading as the scraper makes it: it knows by which host the endpoint was asked.
func hosted(p *compile.Pool, r scrape.Reading) scrape.Reading {
	r.Target.Host = p.Host
	return r
}

func checkOf(r *rig, p *compile.Pool, ok bool) probe.Result {
	r.elapsed.Add(1)
	out := r.check(p, 0, ok)
	out.Check.Host = p.Host
	return out
}
