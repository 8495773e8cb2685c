package simulate

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite golden files")

func compare(t *testing.T, s *Scenario) *Report {
	t.Helper()
	r, err := Compare(context.Background(), s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs; run with -update and read the diff. Got:\n%s", path, got)
	}
}

func TestTable(t *testing.T) {
	s, err := Load("testdata/tiny.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := compare(t, s).WriteTable(&b); err != nil {
		t.Fatal(err)
	}
	golden(t, "tiny.golden", b.Bytes())
}

func TestDeterminism(t *testing.T) {
	run := func() []byte {
		s, err := Load("testdata/everything.yaml")
		if err != nil {
			t.Fatal(err)
		}
		raw, err := json.Marshal(compare(t, s))
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	first := run()
	for range 2 {
		if again := run(); !bytes.Equal(first, again) {
			t.Fatal("the same scenario and seeds gave other numbers")
		}
	}
}

func TestPolicyDoesNotDependOnOthers(t *testing.T) {
	s, err := Load("testdata/everything.yaml")
	if err != nil {
		t.Fatal(err)
	}
	all := compare(t, s)
	last := len(s.Policies) - 1
	s.Policies, s.Bars = s.Policies[last:], nil
	alone := compare(t, s)
	for m, want := range all.Summaries[last].Figures {
		if got := alone.Summaries[0].Figures[m]; got != want {
			t.Errorf("%s of %s is %v alone and %v among others", m, s.Policies[0].Name, got, want)
		}
	}
}

// oneServer is a server for which times are known: a step of its profile takes 7.05 ms, 19.5 us per prompt token and 25.4 us per sequence.
func oneServer(t *testing.T, more string) *Result {
	s := parse(t, `
duration: 10s
pool: {servers: 1, profile: qwen2.5-7b-h100}
workload:
  arrivals: {bursts: {size: 1, every: 2s}}
  prompt: {fixed: 1000}
  output: {fixed: 11}
policies: [roundRobin]
`+more)
	return compare(t, s).Results[0][0]
}

func TestFiguresByHand(t *testing.T) {
	r := oneServer(t, "")
	near := func(m Metric, want float64) {
		t.Helper()
		if got := r.Figures[m]; math.Abs(got-want) > 0.01*want {
			t.Errorf("%s is %v, want about %v", m, got, want)
		}
	}
	near(TTFTP50, 0.00705+1000*19.5e-6) // the last step of the prompt gives the first token
	near(TTFTP99, 0.00705+1000*19.5e-6)
	near(ITLP50, 0.00705+25.4e-6)
	near(Throughput, 5*11/10.0)
	if r.Requests != 5 || r.Failed != 0 || r.Shares[0] != 1 || r.Figures[HitRate] != 0 {
		t.Errorf("%d requests, %d failed, shares %v, hits %v", r.Requests, r.Failed, r.Shares, r.Figures[HitRate])
	}
}

func TestWarmUpIsNotCounted(t *testing.T) {
	r := oneServer(t, "warmUp: 3s\n")
	if r.Requests != 3 || math.Abs(r.Figures[Throughput]-3*11/7.0) > 1e-9 {
		t.Errorf("%d requests and %v tokens a second, want those at 4, 6 and 8 s", r.Requests, r.Figures[Throughput])
	}
}

func TestSlow(t *testing.T) {
	r := oneServer(t, "faults: [{at: 1s, kind: slow, factor: 0.1}]\n")
	if got, want := r.Figures[TTFTP99], 10*(0.00705+1000*19.5e-6); math.Abs(got-want) > 0.01*want {
		t.Errorf("p99 of the time to the first token is %v, want about %v", got, want)
	}
	if first := r.Series.TTFTP50[0]; first > 0.03 {
		t.Errorf("the first request took %v: it came before the fault", first)
	}
}

func TestKill(t *testing.T) {
	const scenario = `
duration: 10s
drain: 5s
pool: {servers: 2, profile: qwen2.5-7b-h100}
workload:
  arrivals: {poisson: {rate: 20}}
  prompt: {fixed: 100}
  output: {fixed: 2}
policies: [roundRobin, leastRequest, leastInFlight, mission, maxScore, weirWeights, weir]
faults: [{at: 3s, servers: [0], kind: kill, until: 6s}]
`
	for _, summary := range compare(t, parse(t, scenario)).Summaries {
		// Answers take 20 ms: hardly any is cut, and the rest is tried on the other server.
		if f := summary.Figures[FailedPart]; f > 0.02 {
			t.Errorf("%s: %.1f %% failed although the other server works", summary.Policy, f*100)
		}
		if share := summary.Shares[0]; share < 0.1 || share > 0.45 {
			t.Errorf("%s: the server that was dead for a third of the time has %.0f %%", summary.Policy, share*100)
		}
	}
	// Without retries what comes before two checks have failed is lost.
	without := compare(t, parse(t, scenario+"retries: 0\n"))
	if f := without.Summaries[0].Figures[FailedPart]; f < 0.01 || f > 0.15 {
		t.Errorf("without retries %.1f %% failed, want those of about a second", f*100)
	}
	// A dead pool fails everything, and a revived one works again.
	dead := compare(t, parse(t, strings.Replace(scenario, "[{at: 3s, servers: [0], kind: kill, until: 6s}]", "[{at: 3s, kind: kill}, {at: 6s, kind: revive}]", 1)))
	for _, summary := range dead.Summaries {
		if f := summary.Figures[FailedPart]; f < 0.25 || f > 0.6 {
			t.Errorf("%s: %.1f %% failed, want about those of 3 of 10 s", summary.Policy, f*100)
		}
	}
}

func TestStall(t *testing.T) {
	r := oneServer(t, "faults: [{at: 3s, kind: stall, until: 9s}]\n")
	// Requests at 4, 6 and 8 s wait until 9 s.
	if got := r.Figures[TTFTP99]; math.Abs(got-5) > 0.2 {
		t.Errorf("the longest wait is %v s, want about 5", got)
	}
	if r.Failed != 0 {
		t.Errorf("%d failed without a timeout", r.Failed)
	}
	r = oneServer(t, "timeout: 2s\nfaults: [{at: 3s, kind: stall, until: 9s}]\n")
	if r.Failed != 2 {
		t.Errorf("%d failed, want those at 4 and 6 s, whose 2 s are over before the stall is", r.Failed)
	}
	r = oneServer(t, "drain: 1s\nfaults: [{at: 3s, kind: stall}]\n")
	if r.Failed != 3 || math.Abs(r.Figures[TTFTP99]-7) > 1e-9 {
		t.Errorf("%d failed with a wait of %v, want 3, the first of which waited from 4 to 11 s", r.Failed, r.Figures[TTFTP99])
	}
}

func TestMetricsOff(t *testing.T) {
	const scenario = `
duration: 20s
pool: {servers: 2, profile: qwen2.5-7b-h100}
workload:
  arrivals: {poisson: {rate: 40}}
  prompt: {fixed: 100}
  output: {fixed: 50}
policies: [maxScore, weir]
faults: [{at: 5s, kind: metricsOff}]
`
	r := compare(t, parse(t, scenario))
	// A frozen snapshot has one best server for ever.
	if s := r.Summaries[0].Shares; max(s[0], s[1]) < 0.7 {
		t.Errorf("shares of the policy that goes by a frozen snapshot are %v", s)
	}
	if s := r.Summaries[1].Shares; math.Abs(s[0]-0.5) > 0.1 {
		t.Errorf("shares of weir are %v", s)
	}
}

func TestGateways(t *testing.T) {
	const scenario = `
duration: 20s
warmUp: 2s
pool: {servers: 4, profile: qwen3-14b-h100}
workload:
  arrivals: {poisson: {rate: 30}}
  prompt: {fixed: 2000}
  output: {fixed: 100}
policies: [leastRequest, leastInFlight, weir]
`
	one, ten := compare(t, parse(t, scenario)), compare(t, parse(t, scenario+"gateways: 10\n"))
	// Who knows all requests does not care at which gateway they come in.
	if a, b := one.Summaries[1].Figures[TTFTP99], ten.Summaries[1].Figures[TTFTP99]; a != b {
		t.Errorf("least in flight over all gateways: %v with one and %v with ten", a, b)
	}
	if a, b := one.Summaries[0].Figures[TTFTP99], ten.Summaries[0].Figures[TTFTP99]; a >= b {
		t.Errorf("least request: %v with one gateway is not better than %v with ten, each of which knows a tenth", a, b)
	}
	for _, s := range ten.Summaries {
		if s.Figures[FailedPart] != 0 {
			t.Errorf("%s: %v failed", s.Policy, s.Figures[FailedPart])
		}
	}
}

func TestWeightsAreShown(t *testing.T) {
	s := parse(t, `
duration: 60s
pool: {servers: 4, profile: qwen3-14b-h100, overrides: [{servers: [3], speed: 0.2}]}
workload:
  arrivals: {poisson: {rate: 15}}
  prompt: {fixed: 2000}
  output: {fixed: 100}
policies: [roundRobin, weirWeights]
`)
	r := compare(t, s)
	if r.Results[0][0].Series.Weights != nil {
		t.Error("round robin has weights")
	}
	weights := r.Results[1][0].Series.Weights
	if len(weights) != 4 || len(weights[0]) != bins {
		t.Fatalf("weights of %d servers", len(weights))
	}
	if last := weights[3][bins-1]; last > 0.6 || last < 0.04 {
		t.Errorf("the slow server's weight ends at %v", last)
	}
	if r.Summaries[1].Shares[3] > 0.15 {
		t.Errorf("shares %v: the slow one has too much", r.Summaries[1].Shares)
	}
	if r.Summaries[1].Figures[Changes] == 0 {
		t.Error("no weight was changed")
	}
}

func TestBars(t *testing.T) {
	r := &Report{
		Summaries: []Summary{{Policy: "a", Figures: map[Metric]float64{TTFTP99: 3}}, {Policy: "b", Figures: map[Metric]float64{TTFTP99: 3.5}}},
		Results: [][]*Result{
			{{Figures: map[Metric]float64{TTFTP99: 2}}, {Figures: map[Metric]float64{TTFTP99: 4}}},
			{{Figures: map[Metric]float64{TTFTP99: 4}}, {Figures: map[Metric]float64{TTFTP99: 3}}},
		},
	}
	ratio := math.Sqrt(0.5 * 4 / 3)
	for _, c := range []struct {
		max, min, worst float64
		pass            bool
	}{
		{max: 1, worst: 4.0 / 3, pass: true},
		{max: 0.8, worst: 4.0 / 3},
		{min: 0.8, worst: 0.5, pass: true},
		{min: 1, worst: 0.5},
		{max: 1, min: 0.8, worst: 4.0 / 3, pass: true},
	} {
		v := r.judge(Bar{Metric: TTFTP99, Policy: "a", Against: "b", Max: c.max, Min: c.min})
		if v.Pass != c.pass || math.Abs(v.Ratio-ratio) > 1e-9 || math.Abs(v.Worst-c.worst) > 1e-9 || v.Value != 3 || v.AgainstValue != 3.5 {
			t.Errorf("max %v, min %v: %+v", c.max, c.min, v)
		}
	}
	r.Bars = []Verdict{{Pass: true}, {}}
	if r.Passed() {
		t.Error("a report with a missed bar has passed")
	}
}

func TestHistogram(t *testing.T) {
	var h histogram
	for i := 1; i <= 1000; i++ {
		h.add(time.Duration(i) * time.Millisecond)
	}
	for q, want := range map[float64]float64{0.01: 0.010, 0.5: 0.5, 0.99: 0.99, 1: 1} {
		if got := h.quantile(q); math.Abs(got-want) > 0.01*want {
			t.Errorf("quantile %v is %v, want %v within 1 %%", q, got, want)
		}
	}
	if (&histogram{}).quantile(0.5) != 0 {
		t.Error("an empty histogram has a median")
	}
	values := []time.Duration{1, 2, 3, 4}
	if quantile(values, 0.5) != 2 || quantile(values, 0.51) != 3 || quantile(values, 0) != 1 || quantile(values, 1) != 4 || quantile(nil, 1) != 0 {
		t.Error("nearest ranks are off")
	}
}

func TestCanceled(t *testing.T) {
	ctx, stop := context.WithCancel(context.Background())
	stop()
	if _, err := Compare(ctx, parse(t, small)); err == nil {
		t.Error("no error")
	}
}
