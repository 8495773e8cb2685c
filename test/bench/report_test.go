package main

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// TestMain makes the test binary what the benchmark starts itself again as.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && roles[os.Args[1]] != nil {
		main()
		return
	}
	os.Exit(m.Run())
}

func TestQuantiles(t *testing.T) {
	var hundred []time.Duration
	for i := range 100 {
		hundred = append(hundred, time.Duration(100-i)*time.Microsecond)
	}
	for _, c := range []struct {
		samples []time.Duration
		want    quantiles
	}{
		{nil, quantiles{}},
		{[]time.Duration{7 * time.Microsecond}, quantiles{7, 7, 7, 7, 7}},
		{[]time.Duration{3000, 1000}, quantiles{1, 3, 3, 3, 3}},
		{hundred, quantiles{50, 90, 99, 100, 100}},
	} {
		if got := quantilesOf(c.samples); got != c.want {
			t.Errorf("of %v: %+v, want %+v", c.samples, got, c.want)
		}
	}
}

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1}, 5}, {[]float64{9, 1, 2}, 2}, {[]float64{4, 9, 1, 2}, 3}} {
		if got := median(c.values); got != c.want {
			t.Errorf("of %v: %g, want %g", c.values, got, c.want)
		}
	}
}

func TestCommandCalls(t *testing.T) {
	got, err := commandCalls("# Commandstats\r\ncmdstat_evalsha:calls=42,usec=3,usec_per_call=0.1\r\ncmdstat_client|setname:calls=1,usec=1\r\ncmdstat_info:calls=2,usec=9\r\n\r\n")
	if want := map[string]int64{"evalsha": 42, "client|setname": 1}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v (%v), want %v", got, err, want)
	}
	if got, err := commandCalls("cmdstat_get:usec=1\r\n"); err == nil {
		t.Errorf("a line without calls was read as %v", got)
	}
}

func TestAskedOf(t *testing.T) {
	got := askedOf(map[string]uint64{"http.ingress.ext_proc.stream_msgs_sent": 3, "cluster.chain.ext_proc.stream_msgs_sent": 2, "cluster.weir_extproc.upstream_cx_tx_bytes_total": 900})
	if want := (asked{5, 900}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestGoroutinesOf(t *testing.T) {
	n, err := goroutinesOf(strings.NewReader("# TYPE go_goroutines gauge\ngo_goroutines 41\nother 2\n"))
	if n != 41 || err != nil {
		t.Errorf("%d (%v)", n, err)
	}
	for _, text := range []string{"", "go_goroutines_x 4\n", "go_goroutines many\n"} {
		if n, err := goroutinesOf(strings.NewReader(text)); err == nil {
			t.Errorf("%q was read as %d", text, n)
		}
	}
}

func TestNewSample(t *testing.T) {
	before := reading{at: time.Unix(100, 0), other: time.Second, ours: 3 * time.Second, machine: 10 * time.Second,
		asked: asked{messages: 10, bytes: 1000}, commands: map[string]int64{"evalsha": 5, "get": 7}}
	after := reading{at: time.Unix(102, 0), other: 2 * time.Second, ours: 4 * time.Second, machine: 12 * time.Second,
		asked: asked{messages: 1010, bytes: 21000}, commands: map[string]int64{"evalsha": 15, "get": 7, "hset": 20}}
	s, err := newSample(&measured{Requests: 1000, Elapsed: 2 * time.Second}, &before, &after)
	if err != nil {
		t.Fatal(err)
	}
	if s.PerSecond != 500 || s.CPU.Other != 1000 || s.CPU.Envoy != 0 || s.RedisScripts != 0.01 || s.RedisCommands != 0.03 || s.Messages != 1 || s.Bytes != 20 {
		t.Errorf("%+v", s)
	}
	if want := map[string]int64{"evalsha": 10, "hset": 20}; !reflect.DeepEqual(s.RedisByName, want) {
		t.Errorf("commands are %v, want %v", s.RedisByName, want)
	}
	// One second of CPU time was somebody else's, in two seconds of all cores.
	if want := 0.5 / float64(cores()); s.Others != want {
		t.Errorf("others had %g of the machine, want %g", s.Others, want)
	}
	h, err := newHeld(&measured{Requests: 10}, &before, &after, memory{100, 10, 40}, memory{300, 30, 60})
	if want := (held{Streams: 10, EnvoyBytes: 200, OtherBytes: 20, Goroutines: 20, OtherCPU: 0.5}); err != nil || *h.Held != want {
		t.Errorf("%+v (%v), want %+v", h.Held, err, want)
	}
	for _, m := range []*measured{nil, {}} {
		if s, err := newSample(m, &before, &after); err == nil {
			t.Errorf("no requests gave %+v", s)
		}
		if s, err := newHeld(m, &before, &after, memory{}, memory{}); err == nil {
			t.Errorf("no streams gave %+v", s)
		}
	}
}

// exampleReport has figures that are easy to check by hand: of three rounds, the second is the median of everything but
// where it says so. It has one scenario of each kind.
func exampleReport() *report {
	r := &report{Time: time.Unix(0, 0).UTC(), Machine: machine{2, "linux", "amd64", "go1.26"}, Envoy: "1.40.0", Rounds: 3, Seconds: 2,
		Variants: map[string]string{bareName: variants[0].what}}
	kinds := map[kind]bool{}
	for _, sc := range scenarios() {
		if kinds[sc.Kind] {
			continue
		}
		kinds[sc.Kind] = true
		o := &outcome{Scenario: sc}
		for i, v := range takingPart(sc) {
			c := &cell{Variant: v.name}
			for round := range 3 {
				s := sample{PerSecond: float64(1000*(9-i) + round - 1), LoadAverage: 2.5 + float64(round-1)/10, Others: 0.1 * float64(round)}
				s.Latency = quantiles{P50: float64(100*(i+1) + round - 1), P99: float64(1000*(i+1) + 100*round)}
				s.CPU.Envoy = float64(40 + i)
				if i > 0 {
					s.CPU.Other, s.Messages, s.Bytes = float64(100+i), float64(round), 2048
				}
				switch {
				case sc.Kind == openLoad:
					s.Late.P99 = float64(10*i + round)
				case sc.Kind == pacedLoad:
					s.FirstByte, s.Chunk, s.LongestGap = quantiles{P50: float64(1000 + i)}, quantiles{P50: float64(150 + i), P99: float64(900 + 10*i)}, 41
				case sc.Kind == heldLoad:
					s.Held = &held{Streams: 2000, EnvoyBytes: int64(i+1) << 21, OtherBytes: int64(i) << 20, Goroutines: 20 * i, EnvoyCPU: 0.01, OtherCPU: 0.02}
				case v.name == "lease" || v.name == "exact":
					s.RedisByName = map[string]int64{"evalsha": int64(i)}
					s.RedisScripts, s.RedisCommands, s.CPU.Redis = float64(i)/100, float64(i)/20, 7
				}
				c.Samples = append(c.Samples, s)
			}
			o.Cells = append(o.Cells, c)
		}
		// A bad round of the first variant is no bad round of the others: differences are taken round by round.
		o.Cells[0].Samples[2].Latency.P99 = 5000
		r.Outcomes = append(r.Outcomes, o)
	}
	r.Footprints = []footprint{
		{Variant: bareName, LiveMillis: 40, Idle: memory{Envoy: 60 << 20}, Loaded: memory{Envoy: 90 << 20}},
		{Variant: "weir", LiveMillis: 190, ReadyMillis: 280, Idle: memory{60 << 20, 70 << 20, 41}, Loaded: memory{100 << 20, 90 << 20, 45}},
	}
	return r
}

func TestReport(t *testing.T) {
	var text, data bytes.Buffer
	r := exampleReport()
	if err := r.table(&text); err != nil {
		t.Fatal(err)
	}
	r.Outcomes = r.Outcomes[2:] // the figures of the others are among theirs
	if err := r.write(&data); err != nil {
		t.Fatal(err)
	}
	golden(t, "report.txt", text.Bytes())
	golden(t, "report.json", data.Bytes())
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is\n%s\nwant\n%s", name, got, want)
	}
}
