package main

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// brief are the options of args, with scenarios that take next to no time.
func brief(t *testing.T, args ...string) *options {
	t.Helper()
	o, err := parse(append([]string{"-rounds", "2", "-seconds", "0.05", "-warm", "0.02"}, args...), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	for i := range o.scenarios {
		s := &o.scenarios[i]
		s.Connections, s.Pace.Every = min(s.Connections, 8), s.Pace.Every/50
	}
	return o
}

// TestBench runs everything, for a moment.
func TestBench(t *testing.T) {
	var out, progress bytes.Buffer
	dir := t.TempDir()
	file, base := filepath.Join(dir, "bench.json"), filepath.Join(dir, "baseline.json")
	o := brief(t, "-o", file, "-baseline", base)
	if err := o.run(t.Context(), &out, &progress); err != nil {
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
	if len(r.Outcomes) != len(scenarios()) {
		t.Errorf("%d scenarios", len(r.Outcomes))
	}
	for i, got := range r.Outcomes {
		s := o.scenarios[i]
		if !strings.Contains(out.String(), "\n"+s.Name) || len(got.Cells) != len(s.variants) {
			t.Errorf("%s: %d variants; the table is\n%s", s.Name, len(got.Cells), out.String())
		}
		for _, c := range got.Cells {
			if want := map[bool]int{false: 2, true: 1}[s.once]; len(c.Samples) != want {
				t.Errorf("%s, %s: %d rounds, want %d", s.Name, c.Variant, len(c.Samples), want)
			}
			for i := range c.Samples {
				checkSample(t, s, c.Variant, &c.Samples[i])
			}
		}
	}
	for _, f := range r.Footprints {
		if weir := f.Variant != bareName && f.Variant != floorName; f.LiveMillis <= 0 || f.Idle.Envoy == 0 || f.Loaded.Envoy == 0 ||
			weir && (f.ReadyMillis <= 0 || f.Idle.Other == 0 || f.Idle.Goroutines == 0) {
			t.Errorf("footprint %+v", f)
		}
	}
	b, err := readBaseline(base)
	if err != nil || len(b.CPU) == 0 || b.CPU["small requests, 16 connections"]["weir"][floorName] <= 0 {
		t.Errorf("the baseline is %+v (%v)", b, err)
	}
}

func checkSample(t *testing.T, s scenario, variant string, got *sample) {
	t.Helper()
	if got.Requests == 0 || got.Latency.P50 <= 0 || len(got.RedisByName) > 0 && variant != "lease" && variant != "exact" {
		t.Errorf("%s, %s: %+v", s.Name, variant, got)
	}
	if (s.Kind == heldLoad) != (got.Held != nil) || (s.Pace.Every > 0) != (got.Chunk.P50 > 0) {
		t.Errorf("%s, %s: held %+v, events %+v", s.Name, variant, got.Held, got.Chunk)
	}
	if s.Kind == heldLoad {
		return
	}
	// What Envoy counts: nobody asks a bare one, and the floor's processor gets head and body of every request.
	switch {
	case variant == bareName && (got.Messages != 0 || got.Bytes != 0),
		variant == floorName && (got.Messages != 2 || got.Bytes < float64(s.Bytes)),
		variant == "decide" && (got.Messages != 1 || s.Bytes == large && got.Bytes > large/2):
		t.Errorf("%s, %s: %g messages and %g bytes for a request", s.Name, variant, got.Messages, got.Bytes)
	}
	// Every limit and the budget asks Redis. Of leases there may be enough already.
	if variant == "exact" && got.RedisScripts < 3 {
		t.Errorf("%s, exact: %g scripts a request: not every limit has asked Redis", s.Name, got.RedisScripts)
	}
}

// TestSoak has some streams at once, for a moment.
func TestSoak(t *testing.T) {
	o := brief(t, "-streams", "4", "-for", "50ms", "-through", "translated")
	list := slices.DeleteFunc(slices.Clone(programs), func(p program) bool { return p.name != o.through.process })
	f, err := startFleet(t.Context(), "", list, t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	s, err := f.runSoak(t.Context(), o.through, o.streams, pace{5, 2 * time.Millisecond}, o.soakFor, t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := s.table(&out); err != nil {
		t.Fatal(err)
	}
	if s.Requests < 4 || s.LongestGap < 1 || len(s.Looks) < 3 || s.Looks[0].Other == 0 || s.Chunk.P99 <= 0 || !strings.Contains(out.String(), "4 streams at once through translated") {
		t.Errorf("%+v\n%s", s, out.String())
	}
}

// TestDeadGateway: a gateway that has ended is named.
func TestDeadGateway(t *testing.T) {
	o := brief(t)
	f, err := startFleet(t.Context(), "", programs[:1], t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	f.gateways[0].process.Stop()
	o.scenarios = []scenario{{Name: "a scenario", Kind: closedLoad, Bytes: small, Connections: 1, longer: 1, variants: []string{bareName}}}
	if out, err := f.run(t.Context(), o.plan, t.Logf); err == nil || !strings.Contains(err.Error(), "a scenario, variant envoy") || !strings.Contains(err.Error(), "Envoy has ended") {
		t.Errorf("%v (%v)", out, err)
	}
}

func TestBadFlags(t *testing.T) {
	for _, args := range [][]string{{"-rounds", "0"}, {"-seconds", "0"}, {"-warm", "-1"}, {"further"}, {"-only", "nothing"}, {"-unknown"},
		{"-streams", "-1"}, {"-streams", "1", "-for", "0s"}, {"-through", "nothing"}, {"-streams", "1", "-only", "small"}, {"-streams", "1", "-check", "x"}} {
		if o, err := parse(args, io.Discard); err == nil {
			t.Errorf("%q was taken: %+v", args, o)
		}
	}
	o, err := parse([]string{"-check", "testdata/nothing.json"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if err := o.run(t.Context(), io.Discard, io.Discard); err == nil {
		t.Error("a baseline that is not there was taken")
	}
}
