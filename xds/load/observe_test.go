package load

import (
	"context"
	"io"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/test/freeport"
	"github.com/weir-dev/weir/usage"
	"github.com/weir-dev/weir/xds/compile"
	"github.com/weir-dev/weir/xds/load/feedback"
	"github.com/weir-dev/weir/xds/load/lrs"
	"github.com/weir-dev/weir/xds/load/signal"
	"github.com/weir-dev/weir/xds/load/weigh"
)

// signals is a record of an answer's status and headers.
func (r *rig) signals(p *compile.Pool, key, text string) {
	r.t.Helper()
	r.elapsed.Add(1)
	status, err := strconv.Atoi(text[:3])
	if err != nil {
		r.t.Fatal(err)
	}
	r.Observe(&usage.Record{Backend: p.Backend, Endpoint: key, Status: status, Signals: map[string]string{p.Backend + " " + key: text}})
}

func TestFirstTokensCount(t *testing.T) {
	r := newRig(t)
	p := poolOf("default/pool", a1, a2, a3)
	r.Use(steeringOf(nil, p))
	record := usage.Record{Backend: p.Backend, Endpoint: a1, Status: 200, FirstToken: time.Second}
	for _, change := range []func(*usage.Record){
		func(r *usage.Record) { r.Immediate = true },
		func(r *usage.Record) { r.Status = 500 },
		func(r *usage.Record) { r.Status = 0 },
		func(r *usage.Record) { r.FirstToken = 0 },
	} {
		other := record
		change(&other)
		r.Observe(&other)
	}
	if e := r.endpoint(p.Backend, a1); e.TTFTCount != 0 {
		t.Errorf("%d of them say how soon answers come", e.TTFTCount)
	}
	for range 10 {
		r.Observe(&record)
		for _, key := range []string{a2, a3} {
			other := record
			other.Endpoint, other.FirstToken = key, 500*ms
			r.Observe(&other)
		}
	}
	for range 100 {
		r.step(250 * ms)
		r.Observe(&record)
		for _, key := range []string{a2, a3} {
			other := record
			other.Endpoint, other.FirstToken = key, 500*ms
			r.Observe(&other)
		}
	}
	r.wantWeights(p.Backend, map[string]uint32{a1: 500, a2: 1000, a3: 1000})
}

func TestHeadersOfAnswers(t *testing.T) {
	r := newRig(t)
	p := poolOf("default/pool", a1, a2)
	r.Use(steeringOf(nil, p))
	if n := len(r.endpoint(p.Backend, a1).Sources); n != 1 {
		t.Errorf("its answers have said nothing, and there are %d sources", n)
	}
	r.signals(p, a1, "200\nendpoint-load-metrics: TEXT named_metrics.kv_cache_usage_perc=0.5, named_metrics.num_requests_waiting=3\n"+
		"x-ratelimit-limit-requests: 100\nx-ratelimit-remaining-requests: 5\nretry-after: 9")
	r.step(ms)
	e := r.endpoint(p.Backend, a1)
	got := e.Sources[1]
	if got.Kind != answers || got.Sample.KVCache != 0.5 || got.Sample.Waiting != 3 || got.Sample.Headroom != 0.05 || got.Err != "" || !got.ReadAt.Equal(got.Sample.At) {
		t.Errorf("got %+v", got)
	}
	if e.Weight != 500 || !e.BlockedUntil.IsZero() {
		t.Errorf("5 %% are left of the limits, and it has %d: %s", e.Weight, e.Why())
	}
	r.signals(p, a1, "200\nendpoint-load-metrics: BINARY abc")
	if got := r.endpoint(p.Backend, a1).Sources[1]; got.Err == "" || got.Sample.Headroom != 0.05 {
		t.Errorf("a report that cannot be read: %+v", got)
	}
	// What is left of the limits is taken in at once where it crosses the line, whatever the tick.
	r.signals(p, a2, "200\nx-ratelimit-limit-requests: 100\nx-ratelimit-remaining-requests: 50")
	if (*r.pools.Load())[p.Backend].wanted.Load() {
		t.Error("nothing has crossed a line, and the pool is to be computed")
	}
	r.signals(p, a2, "200\nx-ratelimit-limit-requests: 100\nx-ratelimit-remaining-requests: 2")
	r.tick(r.now())
	r.wantWeights(p.Backend, map[string]uint32{a2: 500})
}

// TestRetryAfter: one that answers 429 and says until when gets nothing until then.
func TestRetryAfter(t *testing.T) {
	r := newRig(t)
	p := poolOf("default/pool", a1, a2)
	r.Use(steeringOf(nil, p))
	for _, text := range []string{"200\nretry-after: 7", "503\nretry-after: 7", "429\nretry-after: 0", "429\nretry-after: soon", "429"} {
		r.signals(p, a1, text)
	}
	r.step(time.Second)
	r.wantWeights(p.Backend, map[string]uint32{a1: 1000, a2: 1000})

	r.signals(p, a1, "429\nretry-after: 7")
	r.signals(p, a1, "429\nretry-after: 3") // the longer one holds
	r.step(ms)
	r.wantWeights(p.Backend, map[string]uint32{a1: 0, a2: 1000})
	if share, usable := r.Share(p.Backend); share != 0.5 || !usable {
		t.Errorf("half of the pool is left: %v, %v", share, usable)
	}
	r.step(6*time.Second + 900*ms)
	r.wantWeights(p.Backend, map[string]uint32{a1: 0})
	r.step(time.Second)
	r.wantWeights(p.Backend, map[string]uint32{a1: 1000, a2: 1000})

	// Whoever asks for long is asked again soon, and left alone for longer if it asks for long again.
	again := func(want time.Duration) {
		t.Helper()
		r.signals(p, a1, "429\nretry-after: 86400")
		r.step(want - time.Second)
		r.wantWeights(p.Backend, map[string]uint32{a1: 0})
		r.step(2 * time.Second)
		r.wantWeights(p.Backend, map[string]uint32{a1: 1000})
	}
	r.Observe(&usage.Record{Backend: p.Backend, Endpoint: a1, Status: 200})
	again(feedback.FirstBlock)
	again(2 * feedback.FirstBlock)
	again(4 * feedback.FirstBlock)
	r.Observe(&usage.Record{Backend: p.Backend, Endpoint: a1, Status: 200})
	again(feedback.FirstBlock)
}

// TestAllWantToBeLeftAlone: another Backend is asked then, and where there is none they are.
func TestAllWantToBeLeftAlone(t *testing.T) {
	r := newRig(t)
	p, other := poolOf("default/pool", a1, a2, a3), poolOf("default/other", "10.0.1.1:80")
	r.Use(steeringOf(map[string]compile.SteeredRoute{"r": routeOf(to(p.Backend, 1, 0), to(other.Backend, 1, 1))}, p, other))
	r.step(ms)
	want := func(share float64, first, second uint32, weights map[string]uint32) {
		t.Helper()
		r.tick(r.now())
		if got, usable := r.Share(p.Backend); got != share || !usable {
			t.Errorf("its share is %v, %v, want %v", got, usable, share)
		}
		if w := r.last().Weights["r"]; w[0] != first || w[1] != second {
			t.Errorf("the route has %v, want %d and %d", w, first, second)
		}
		r.wantWeights(p.Backend, weights)
	}
	want(1, 1000, 0, map[string]uint32{a1: 1000})
	r.signals(p, a1, "429\nretry-after: 10")
	r.signals(p, a2, "429\nretry-after: 60")
	for range 2 {
		r.checked(r.check(p, 2, false)) // the third is ill: nobody is left
	}
	want(0, 0, 1000, map[string]uint32{a1: 1000, a2: 1000, a3: 0})
	r.step(time.Second) // they are still blocked, though they are used
	e := r.endpoint(p.Backend, a1)
	if want := "answered 429, to be tried again in 9 s; asked nevertheless, there is no other -> 1000"; e.Why() != want || !e.BlockedUntil.After(r.now()) {
		t.Errorf("it says %q until %v, want %q", e.Why(), e.BlockedUntil, want)
	}
	if e := r.endpoint(p.Backend, a3); strings.Contains(e.Why(), "429") {
		t.Errorf("the one that is ill says %q", e.Why())
	}
	want(0, 0, 1000, map[string]uint32{a1: 1000, a2: 1000, a3: 0})
	r.step(10 * time.Second)
	r.step(0)
	// How much it gets of what it alone gets does not matter, and is told with what does.
	want(1.0/3, 333, 0, map[string]uint32{a1: 1000, a2: 0, a3: 0})
	for range 2 {
		r.checked(r.check(p, 2, true))
	}
	want(2.0/3, 333, 0, map[string]uint32{a1: 1000, a2: 0, a3: 1000})
	for text, times := range map[string]int{`msg="a Backend wants to be left alone`: 1, `msg="a Backend may be asked again`: 1} {
		if n := strings.Count(r.logged.String(), text); n != times {
			t.Errorf("%s is logged %d times, want %d:\n%s", text, n, times, r.logged.String())
		}
	}
}

// TestSeveralEnvoys: each reports what it has in flight itself.
func TestSeveralEnvoys(t *testing.T) {
	r := newRig(t)
	p := poolOf("default/pool", a1)
	r.Use(steeringOf(nil, p))
	report := func(stream, inFlight, successes, errors uint64) {
		r.Report(lrs.Report{Stream: stream, Cluster: p.Cluster, Endpoint: a1, InFlight: inFlight, Successes: successes, Errors: errors})
	}
	for _, c := range []struct {
		stream, inFlight, want uint64
	}{{1, 5, 5}, {2, 3, 8}, {1, 2, 5}, {1, 0, 3}, {3, 4, 7}, {2, 0, 4}, {2, 0, 4}, {3, 0, 0}} {
		report(c.stream, c.inFlight, 1, 0)
		if got := r.endpoint(p.Backend, a1).InFlight; got != c.want {
			t.Errorf("after %+v there are %d in flight", c, got)
		}
	}
	if n := len((*r.pools.Load())[p.Backend].endpoints[0].traffic.inFlight); n != 0 {
		t.Errorf("%d streams are remembered that have nothing in flight", n)
	}
	report(1, 0, 0, 8)
	if e := r.endpoint(p.Backend, a1); e.Requests != 16 || e.Failures != 8 || e.ErrorRate != 0.5 {
		t.Errorf("got %+v", e)
	}
	r.step(250 * ms)
	r.wantWeights(p.Backend, map[string]uint32{a1: 500}) // who fails fast must not look idle
}

// TestReadings: two in a row across a line make a rule apply, and the second does not wait for its turn.
func TestReadings(t *testing.T) {
	r := newRig(t)
	p := poolOf("default/pool", a1, a2)
	r.Use(steeringOf(nil, p))
	for len(r.kick) > 0 {
		<-r.kick
	}
	r.read(r.reading(p, 0, 0, queueAt(100*ms)))
	if len(r.kick) != 0 {
		t.Error("nothing has crossed a line, and everybody is woken")
	}
	r.read(r.reading(p, 0, 0, queueAt(620*ms)))
	if len(r.kick) != 1 || (*r.pools.Load())[p.Backend].wanted.Load() == false {
		t.Error("a line was crossed, and nobody is woken")
	}
	r.tick(r.now())
	r.wantWeights(p.Backend, map[string]uint32{a1: 1000})
	r.read(r.reading(p, 0, 0, queueAt(620*ms)))
	r.tick(r.now())
	r.wantWeights(p.Backend, map[string]uint32{a1: 500, a2: 1000})
	if e := r.endpoint(p.Backend, a1); e.Why() != "queue 620 ms > 500 ms x0.5 -> 500" {
		t.Errorf("it says %q", e.Why())
	}
	// What cannot be read says so, and leaves what was read before.
	failed := r.reading(p, 0, 0, func(*signal.Sample) {})
	failed.Err, failed.Fault = errBroken{}, "unreachable"
	r.read(failed)
	r.step(time.Second)
	if s := r.endpoint(p.Backend, a1).Sources[0]; s.Err != "it is broken" || s.Sample.QueueDelay != 620*ms {
		t.Errorf("got %+v", s)
	}
	r.wantWeights(p.Backend, map[string]uint32{a1: 500})
	// Metrics that stay away lose their effect, and never lift a weight above the base.
	for range 200 {
		r.step(250 * ms)
		if w := r.endpoint(p.Backend, a1).Weight; w > 1000 {
			t.Fatalf("it has %d", w)
		}
	}
	r.wantWeights(p.Backend, map[string]uint32{a1: 1000})
	r.read(r.reading(p, 0, 0, queueAt(10*ms)))
	if s := r.endpoint(p.Backend, a1).Sources[0]; s.Err != "" {
		t.Errorf("got %+v", s)
	}
}

type errBroken struct{}

func (errBroken) Error() string { return "it is broken" }

// TestTickOfPools: only what is wanted is computed before its time.
func TestTickOfPools(t *testing.T) {
	r := newRig(t)
	quick, slow := poolOf("default/quick", a1), poolOf("default/slow", a2)
	slow.Tick = 2 * time.Second
	if next := r.tick(r.now()); next != idleTick {
		t.Errorf("without pools the next tick is in %v", next)
	}
	r.Use(steeringOf(nil, quick, slow))
	computed := func(p *compile.Pool) time.Duration { return (*r.pools.Load())[p.Backend].computed.Sub(t0) }
	r.elapsed.Store(int64(100 * ms))
	if next := r.tick(r.now()); next != 150*ms || computed(quick) != 0 || computed(slow) != 0 {
		t.Errorf("next %v, computed at %v and %v", next, computed(quick), computed(slow))
	}
	r.elapsed.Store(int64(250 * ms))
	if next := r.tick(r.now()); next != 250*ms || computed(quick) != 250*ms || computed(slow) != 0 {
		t.Errorf("next %v, computed at %v and %v", next, computed(quick), computed(slow))
	}
	r.elapsed.Store(int64(300 * ms))
	r.read(r.reading(slow, 0, 0, queueAt(time.Second)))
	at := r.now().Sub(t0)
	r.tick(r.now())
	if computed(quick) != 250*ms || computed(slow) != at {
		t.Errorf("computed at %v and %v", computed(quick), computed(slow))
	}
	r.Wake()
	r.elapsed.Store(int64(310 * ms))
	r.tick(r.now())
	if computed(quick) != 310*ms || computed(slow) != 310*ms {
		t.Errorf("computed at %v and %v", computed(quick), computed(slow))
	}
}

// TestGone has a server vanish whose health is asked once an hour: its metrics, which cannot be read either, lead to the checks.
func TestGone(t *testing.T) {
	l, err := net.Listen("tcp", freeport.Addr(t))
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/health" {
			_, _ = io.WriteString(w, "vllm:num_requests_waiting 0\n")
		}
	})}
	go func() { _ = srv.Serve(l) }()
	defer srv.Close()
	key := l.Addr().String()

	r := newRig(t)
	p := with(poolOf("default/pool", key), func(p *compile.Pool) {
		p.Health = &v1alpha1.HealthCheck{Interval: &v1alpha1.Duration{Duration: time.Hour}}
		p.Metrics[0].Interval = &v1alpha1.Duration{Duration: 10 * ms}
	})
	r.Use(steeringOf(nil, p))
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { r.Run(ctx) })
	defer running.Wait()
	defer cancel()
	until := func(what string, done func(EndpointState) bool) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); !done(r.endpoint(p.Backend, key)); {
			if time.Now().After(deadline) {
				t.Fatalf("waited in vain until %s: %+v", what, r.endpoint(p.Backend, key))
			}
			runtime.Gosched()
		}
	}
	until("it has been read and checked", func(e EndpointState) bool { return !e.Checked.IsZero() && !e.Sources[0].ReadAt.IsZero() })
	srv.Close()
	until("it is isolated", func(e EndpointState) bool { return e.Status == weigh.Isolated })
}

func TestHaste(t *testing.T) {
	var h haste
	allowed := 0
	for range 10 * hasteBurst {
		if h.allow(t0) {
			allowed++
		}
	}
	if allowed != hasteBurst {
		t.Errorf("%d at once, want %d", allowed, hasteBurst)
	}
	for i := range 1000 {
		if h.allow(t0.Add(time.Duration(i) * ms)) {
			allowed++
		}
	}
	if got := allowed - hasteBurst; got < hastePerSecond*98/100 || got > hastePerSecond {
		t.Errorf("%d in the next second, want %d", got, hastePerSecond)
	}
	if h.allow(t0); h.used > hasteBurst {
		t.Errorf("a clock that goes back leaves %v", h.used)
	}
}
