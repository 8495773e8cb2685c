package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-dev/weir/test/e2e/harness"
)

const (
	// fleetBar is the time in which a changed signal should have changed Envoy, in 99 of 100 cases.
	fleetBar = time.Second
	// fleetRounds of changes: each is four signals, a health check that begins to fail, and a server that goes.
	fleetRounds = 15
)

// fleetSize is how many servers there are. The race detector makes everything many times slower.
func fleetSize() int {
	if os.Getenv(harness.RaceVariable) == "1" {
		return 100
	}
	return 1000
}

// fleet is a thousand inference servers, each with an address of its own on the loopback network and all on one port. They answer
// questions about their health and their load, as vLLM does, and nothing else.
type fleet struct {
	port    int
	servers []fleetServer
	padding []byte // of a page: what vLLM says that nobody looks at
	pages   atomic.Int64
	checks  atomic.Int64
}

// fleetServer is what one of them says.
type fleetServer struct {
	mu       sync.Mutex
	queue    time.Duration // that requests have waited lately, on average
	cache    float64       // used part
	ill      bool          // it says that it is not well
	gone     bool          // it closes connections without an answer
	entered  int           // requests so far
	waited   float64       // seconds of theirs in the queue
	said     int           // times that it has told what it was told last
	saidLast time.Time
	random   *rand.Rand
}

// newFleet serves until the test ends. On Linux every address below 127 is this machine's.
func newFleet(t *testing.T) *fleet {
	t.Helper()
	l, err := net.Listen("tcp", "0.0.0.0:0")
	must(t, err)
	f := &fleet{port: l.Addr().(*net.TCPAddr).Port}
	f.servers = make([]fleetServer, fleetSize())
	for i := range f.servers {
		f.servers[i] = fleetServer{queue: 10 * time.Millisecond, cache: 0.5, random: rand.New(rand.NewPCG(uint64(i), 1))}
	}
	var b bytes.Buffer
	for _, name := range []string{"time_to_first_token_seconds", "e2e_request_latency_seconds", "request_prefill_time_seconds", "request_decode_time_seconds"} {
		fmt.Fprintf(&b, "# HELP vllm:%s Histogram of it.\n# TYPE vllm:%s histogram\n", name, name)
		for i := range 20 {
			fmt.Fprintf(&b, "vllm:%s_bucket{engine=\"0\",le=\"%d\",model_name=\"meta-llama/Llama-3.1-8B-Instruct\"} %d.0\n", name, i, i*1000)
		}
	}
	f.padding = b.Bytes()
	srv := &http.Server{Handler: f}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close() })
	return f
}

// address is that of the i-th server: 127.0.1.1 to 127.0.4.250.
func (f *fleet) address(i int) string { return fmt.Sprintf("127.0.%d.%d", 1+i/250, 1+i%250) }

func (f *fleet) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ip := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr).IP.To4()
	s := &f.servers[(int(ip[2])-1)*250+int(ip[3])-1]
	if s.vanished(r.URL.Path != "/metrics") {
		panic(http.ErrAbortHandler)
	}
	if r.URL.Path != "/metrics" {
		f.checks.Add(1)
		if s.health() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		return
	}
	f.pages.Add(1)
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_, _ = w.Write(append(s.page(), f.padding...)) // a reader that has gone away is no failure
}

// health says whether the server is ill, and notes that it has said so.
func (s *fleetServer) health() (ill bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ill {
		s.say()
	}
	return s.ill
}

// vanished says whether the server is gone, and notes that a check has found it so.
func (s *fleetServer) vanished(check bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone && check {
		s.say()
	}
	return s.gone
}

// page is the part of the metrics that changes. Since the last page ten requests have left the queue, which makes its delay one figure.
func (s *fleetServer) page() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ill {
		s.say()
	}
	s.entered += 10
	s.waited += 10 * s.queue.Seconds() * (0.8 + 0.4*s.random.Float64())
	const labels = `{engine="0",model_name="meta-llama/Llama-3.1-8B-Instruct"}`
	return fmt.Appendf(make([]byte, 0, 16<<10), "vllm:num_requests_running%s %d.0\nvllm:num_requests_waiting%s %d.0\nvllm:kv_cache_usage_perc%s %g\n"+
		"vllm:request_queue_time_seconds_count%s %d.0\nvllm:request_queue_time_seconds_sum%s %g\n", labels, 10+s.random.IntN(20), labels, 1+s.random.IntN(3),
		labels, s.cache+0.02*s.random.Float64(), labels, s.entered, labels, s.waited)
}

// say notes when it told for the second time what it was told last: before that nobody may act.
func (s *fleetServer) say() {
	if s.said++; s.said == 2 {
		s.saidLast = time.Now()
	}
}

// set changes what a server says.
func (s *fleetServer) set(change func(*fleetServer)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
	s.said, s.saidLast = 0, time.Time{}
}

// told is when it had said twice what it was told last.
func (s *fleetServer) told() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.saidLast
}

// fleetGateway is a gateway in front of a fleet.
type fleetGateway struct {
	*harness.Gateway
	t       *testing.T
	fleet   *fleet
	cluster string
}

// startFleet runs weir with the defaults of a LoadPolicy, and waits until every server has been read and checked.
func startFleet(t *testing.T) *fleetGateway {
	t.Helper()
	f := newFleet(t)
	var endpoints strings.Builder
	for i := range fleetSize() {
		fmt.Fprintf(&endpoints, "  - {address: %s, port: %d}\n", f.address(i), f.port)
	}
	g := &fleetGateway{t: t, fleet: f, Gateway: harness.Start(t, harness.Options{Documents: []string{
		harness.Document("Backend", "fleet", "dialect: openai\nbasePath: /v1\nmetrics: [{type: VLLM}]\nhealthCheck: {}\nendpoints:\n"+endpoints.String()),
		harness.Document("LoadPolicy", "fleet", "targetRefs: [{kind: Backend, name: fleet}]"),
		harness.Route("all", "rules: [{backends: [{name: fleet}]}]"),
	}})}
	g.WaitFor("all servers to be known to Envoy, and read and checked", func() bool {
		for name, n := range g.EnvoyStats(`^cluster\..*\.membership_healthy$`) {
			if n == int64(fleetSize()) {
				g.cluster = strings.TrimSuffix(strings.TrimPrefix(name, "cluster."), ".membership_healthy")
			}
		}
		return g.cluster != "" && f.pages.Load() > 3*int64(fleetSize()) && f.checks.Load() > 3*int64(fleetSize())
	})
	return g
}

// updates is how often Envoy has applied endpoints of the fleet's cluster, and how many servers are healthy to it.
func (g *fleetGateway) updates() (applied, healthy int64) {
	g.t.Helper()
	prefix := "cluster." + g.cluster + "."
	stats := g.EnvoyStats("^" + regexp.QuoteMeta(prefix) + "(update_success|membership_healthy)$")
	return stats[prefix+"update_success"], stats[prefix+"membership_healthy"]
}

// weight is what Envoy has of a server: its weight, and whether it is healthy.
func (g *fleetGateway) weight(i int) (weight uint32, healthy bool) {
	g.t.Helper()
	var dump struct {
		Configs []struct {
			Dynamic []struct {
				Assignment struct {
					Endpoints []struct {
						LB []struct {
							Endpoint struct {
								Address struct {
									Socket struct {
										Address string `json:"address"`
									} `json:"socket_address"`
								} `json:"address"`
							} `json:"endpoint"`
							Health string `json:"health_status"`
							Weight uint32 `json:"load_balancing_weight"`
						} `json:"lb_endpoints"`
					} `json:"endpoints"`
				} `json:"endpoint_config"`
			} `json:"dynamic_endpoint_configs"`
		} `json:"configs"`
	}
	if err := json.Unmarshal(g.Envoy("/config_dump?include_eds"), &dump); err != nil {
		g.t.Fatal(err)
	}
	for _, c := range dump.Configs {
		for _, d := range c.Dynamic {
			for _, group := range d.Assignment.Endpoints {
				for _, e := range group.LB {
					if e.Endpoint.Address.Socket.Address == g.fleet.address(i) {
						return e.Weight, e.Health == "HEALTHY"
					}
				}
			}
		}
	}
	g.t.Fatalf("Envoy does not know %s", g.fleet.address(i))
	return 0, false
}

// delay is how long one change took, and how much of that until it had been told twice.
type delay struct{ all, told time.Duration }

// change changes one server and waits until Envoy has what should follow.
func (g *fleetGateway) change(i int, change func(*fleetServer), want func(weight uint32, healthy bool) bool) delay {
	g.t.Helper()
	applied, _ := g.updates()
	s := &g.fleet.servers[i]
	s.set(change)
	start := time.Now()
	var seen time.Time
	g.WaitFor(fmt.Sprintf("what has changed at %s to be in Envoy", g.fleet.address(i)), func() bool {
		n, _ := g.updates()
		if n == applied {
			return false
		}
		applied, seen = n, time.Now()
		return want(g.weight(i))
	})
	return delay{seen.Sub(start), s.told().Sub(start)}
}

// cpu is the processor time that a process has used.
func cpu(t *testing.T, pid int) time.Duration {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	must(t, err)
	// pid (name) state ...; user and system time are the 14th and 15th field, in hundredths of a second. proc(5).
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	sum := 0
	for _, f := range fields[11:13] {
		n, err := strconv.Atoi(f)
		must(t, err)
		sum += n
	}
	return time.Duration(sum) * 10 * time.Millisecond
}

// load measures what weir and Envoy use while something is done.
func (g *fleetGateway) load(what string, do func()) {
	g.t.Helper()
	pids := []int{g.PID(), g.EnvoyPID()}
	before := []time.Duration{cpu(g.t, pids[0]), cpu(g.t, pids[1])}
	updates, _ := g.updates()
	pages, checks, start := g.fleet.pages.Load(), g.fleet.checks.Load(), time.Now()
	do()
	took := time.Since(start)
	after, _ := g.updates()
	percent := func(i int) float64 { return 100 * float64(cpu(g.t, pids[i])-before[i]) / float64(took) }
	g.t.Logf("%s: %.1f s, %.0f pages and %.0f checks a second, %.1f updates of Envoy a second; processor: weir %.0f %%, Envoy %.0f %% of a core",
		what, took.Seconds(), float64(g.fleet.pages.Load()-pages)/took.Seconds(), float64(g.fleet.checks.Load()-checks)/took.Seconds(),
		float64(after-updates)/took.Seconds(), percent(0), percent(1))
}

// TestSteerScale changes one of a thousand servers after the other, and measures the time from then until Envoy has applied what follows.
func TestSteerScale(t *testing.T) {
	g := startFleet(t)
	before, _ := g.updates()
	g.load("nothing changes", func() {
		pages := g.fleet.pages.Load()
		g.WaitFor("every server to be read some times more", func() bool { return g.fleet.pages.Load() > pages+10*int64(fleetSize()) })
	})
	if after, healthy := g.updates(); after != before || healthy != int64(fleetSize()) {
		t.Errorf("nothing has changed, and Envoy was told %d times; %d servers are healthy to it", after-before, healthy)
	}

	random := rand.New(rand.NewPCG(5, 6))
	servers := random.Perm(fleetSize())
	next := func() int {
		i := servers[0]
		servers = servers[1:]
		return i
	}
	halved := func(weight uint32, healthy bool) bool { return weight == 500 && healthy }
	whole := func(weight uint32, healthy bool) bool { return weight == 1000 && healthy }
	var signals, health, death []delay
	var ill []int
	g.load("signals change", func() {
		for range fleetRounds {
			i, j := next(), next()
			signals = append(signals,
				g.change(i, func(s *fleetServer) { s.queue = 900 * time.Millisecond }, halved),
				g.change(j, func(s *fleetServer) { s.cache = 0.97 }, halved),
				g.change(i, func(s *fleetServer) { s.queue = 10 * time.Millisecond }, whole),
				g.change(j, func(s *fleetServer) { s.cache = 0.5 }, whole))
		}
	})
	isolated := func(_ uint32, healthy bool) bool { return !healthy }
	g.load("servers fall ill, and go", func() {
		for range fleetRounds {
			i, j := next(), next()
			ill = append(ill, i, j)
			health = append(health, g.change(i, func(s *fleetServer) { s.ill = true }, isolated))
			death = append(death, g.change(j, func(s *fleetServer) { s.gone = true }, isolated))
		}
	})
	if _, healthy := g.updates(); healthy != int64(fleetSize()-len(ill)) {
		t.Errorf("%d servers are ill, and %d of %d are healthy to Envoy", len(ill), healthy, fleetSize())
	}
	for _, i := range ill {
		g.fleet.servers[i].set(func(s *fleetServer) { s.ill, s.gone = false, false })
	}
	g.WaitFor("all servers to be back", func() bool { _, healthy := g.updates(); return healthy == int64(fleetSize()) })

	report(t, "signal across a line", signals, fleetBar)
	report(t, "server goes", death, fleetBar)
	report(t, "server says once a second, when it is asked, that it is ill", health, 0)
}

// report prints delays, with the bar beside them; 0: there is none.
func report(t *testing.T, what string, delays []delay, bar time.Duration) {
	t.Helper()
	at := func(percent int, of func(delay) time.Duration) time.Duration {
		all := make([]time.Duration, len(delays))
		for i, d := range delays {
			all[i] = of(d)
		}
		slices.Sort(all)
		return all[min(len(all)-1, len(all)*percent/100)].Round(time.Millisecond)
	}
	line := func(of func(delay) time.Duration) string {
		return fmt.Sprintf("p50 %v, p90 %v, p99 %v", at(50, of), at(90, of), at(99, of))
	}
	all := func(d delay) time.Duration { return d.all }
	told := ""
	if bar > 0 {
		told = fmt.Sprintf(" (bar: p99 %v)", bar)
	}
	t.Logf("%s, %d changes, until Envoy has applied what follows: %s%s", what, len(delays), line(all), told)
	t.Logf("    of that, until the server had said it twice: %s", line(func(d delay) time.Duration { return d.told }))
	t.Logf("    of that, from then on:                       %s", line(func(d delay) time.Duration { return d.all - d.told }))
}
