package main

import (
	"bytes"
	"encoding/json"
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
	if len(os.Args) == 2 && (os.Args[1] == roleLoad || os.Args[1] == roleUpstream) {
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

func TestNewSample(t *testing.T) {
	before := reading{at: time.Unix(100, 0), weir: time.Second, ours: 3 * time.Second, machine: 10 * time.Second,
		commands: map[string]int64{"evalsha": 5, "get": 7}}
	after := reading{at: time.Unix(102, 0), weir: 2 * time.Second, ours: 4 * time.Second, machine: 12 * time.Second,
		commands: map[string]int64{"evalsha": 15, "get": 7, "hset": 20}}
	s, err := newSample(&measured{Requests: 1000, Elapsed: 2 * time.Second}, &before, &after)
	if err != nil {
		t.Fatal(err)
	}
	if s.PerSecond != 500 || s.CPU.Weir != 1000 || s.CPU.Envoy != 0 || s.RedisScripts != 0.01 || s.RedisCommands != 0.03 {
		t.Errorf("%+v", s)
	}
	if want := map[string]int64{"evalsha": 10, "hset": 20}; !reflect.DeepEqual(s.RedisByName, want) {
		t.Errorf("commands are %v, want %v", s.RedisByName, want)
	}
	// One second of CPU time was somebody else's, in two seconds of all cores.
	if want := 0.5 / float64(cores()); s.Others != want {
		t.Errorf("others had %g of the machine, want %g", s.Others, want)
	}
	if s, err := newSample(&measured{}, &before, &after); err == nil {
		t.Errorf("no requests gave %+v", s)
	}
}

// exampleReport has figures that are easy to check by hand: of three rounds, the second is the median of everything but
// where it says so.
func exampleReport() *report {
	o := &outcome{Scenario: scenario{Name: "plain requests, open loop", Connections: 16, Rate: 500}}
	for i, v := range variants {
		c := &cell{Variant: v.name}
		for round := range 3 {
			s := sample{PerSecond: float64(1000*(5-i) + round - 1), LoadAverage: 2.5 + float64(round-1)/10, Others: 0.1 * float64(round)}
			s.Latency.P50, s.Latency.P99 = float64(100*(i+1)+round-1), float64(1000*(i+1)+100*round)
			s.Late.P99 = float64(10*i + round)
			s.CPU.Envoy = float64(40 + i)
			if v.weir {
				s.CPU.Weir = float64(100 + i)
			}
			if v.redis {
				s.RedisByName = map[string]int64{"evalsha": int64(i)}
				s.RedisScripts, s.RedisCommands = float64(i)/100, float64(i)/20
			}
			c.Samples = append(c.Samples, s)
		}
		o.Cells = append(o.Cells, c)
	}
	// A bad round of the first variant is no bad round of the others: differences are taken round by round.
	o.Cells[0].Samples[2].Latency.P99 = 5000
	return &report{Time: time.Unix(0, 0).UTC(), Machine: machine{2, "linux", "amd64", "go1.26"}, Envoy: "1.40.0", Rounds: 3, Seconds: 2,
		Variants: map[string]string{"envoy": variants[0].what}, Outcomes: []*outcome{o}}
}

func TestReport(t *testing.T) {
	var text, data bytes.Buffer
	r := exampleReport()
	if err := r.table(&text); err != nil {
		t.Fatal(err)
	}
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

// TestBench runs everything, for a moment.
func TestBench(t *testing.T) {
	var out, progress bytes.Buffer
	file := filepath.Join(t.TempDir(), "bench.json")
	args := []string{"-rounds", "2", "-seconds", "0.05", "-warm", "0.02", "-rate", "200", "-o", file}
	if err := bench(t.Context(), args, &out, &progress); err != nil {
		t.Fatalf("%v\n%s", err, progress.String())
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var r report
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	if len(r.Outcomes) != len(scenarios(200)) {
		t.Errorf("%d scenarios", len(r.Outcomes))
	}
	for _, o := range r.Outcomes {
		if !strings.Contains(out.String(), "\n"+o.Scenario.Name) || len(o.Cells) != len(variants) {
			t.Errorf("%s: %d variants; the table is\n%s", o.Scenario.Name, len(o.Cells), out.String())
		}
		for i, c := range o.Cells {
			for _, s := range c.Samples {
				if len(c.Samples) != 2 || s.Requests == 0 || len(s.RedisByName) > 0 && !variants[i].redis {
					t.Errorf("%s, %s: %d rounds, %+v", o.Scenario.Name, c.Variant, len(c.Samples), s)
				}
				// Every limit and the budget asks Redis. Of leases there may be enough already.
				if c.Variant == "exact" && s.RedisScripts < 3 {
					t.Errorf("%s, exact: %g scripts a request: not every limit has asked Redis", o.Scenario.Name, s.RedisScripts)
				}
			}
		}
	}
}

func TestBadFlags(t *testing.T) {
	for _, args := range [][]string{{"-rounds", "0"}, {"-seconds", "0"}, {"-warm", "-1"}, {"-rate", "0"}, {"further"}, {"-only", "nothing"}, {"-unknown"}} {
		if err := bench(t.Context(), args, new(bytes.Buffer), new(bytes.Buffer)); err == nil {
			t.Errorf("%q was taken", args)
		}
	}
}
