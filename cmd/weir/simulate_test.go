package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSimulate(t *testing.T) {
	dir := t.TempDir()
	scenario := filepath.Join(dir, "scenario.yaml")
	text := `
name: Two servers
duration: 10s
seeds: [1, 2]
pool: {servers: 2, profile: qwen2.5-7b-h100}
workload:
  arrivals: {poisson: {rate: 10}}
  prompt: {fixed: 100}
  output: {fixed: 10}
policies: [roundRobin, leastInFlight, weir]
bars:
- {metric: throughput, policy: weir, against: roundRobin, min: 0.9}
- {metric: throughput, policy: leastInFlight, against: roundRobin, min: 2}
`
	if err := os.WriteFile(scenario, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	contains := func(out string, wants ...string) {
		t.Helper()
		for _, want := range wants {
			if !strings.Contains(out, want) {
				t.Errorf("%q is not in:\n%s", want, out)
			}
		}
	}
	page := filepath.Join(dir, "page.html")
	out, err := weir("", "simulate", "-f", scenario, "--html", page)
	if err != nil {
		t.Fatal(err)
	}
	contains(out, "Two servers", "2 seeds", "leastInFlight", "PASS  throughput of weir / roundRobin", "MISS  throughput of leastInFlight / roundRobin")
	html, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	contains(string(html), "<!doctype html>", "Two servers", "</html>")

	var quiet quietError
	if _, err := weir("", "simulate", "-f", scenario, "--check"); !errors.As(err, &quiet) {
		t.Errorf("--check with a missed bar: %v", err)
	}
	if out, err := weir("", "simulate", "-f", scenario, "--check", "--policy", "weir,roundRobin", "--seed", "5"); err != nil || strings.Contains(out, "MISS") {
		t.Errorf("without the policy of the missed bar: %v\n%s", err, out)
	}

	out, err = weir("", "simulate", "-f", scenario, "-f", scenario, "--json", "--seed", "3")
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Scenarios []struct {
			Name     string
			Seeds    []uint64
			Policies []struct{ Figures map[string]float64 }
			Bars     []struct{ Pass bool }
		}
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Scenarios) != 2 || len(got.Scenarios[1].Seeds) != 1 || got.Scenarios[1].Seeds[0] != 3 || len(got.Scenarios[1].Bars) != 2 ||
		got.Scenarios[1].Policies[2].Figures["throughput"] < 50 {
		t.Errorf("got %+v", got)
	}

	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, `required flag(s) "file" not set`},
		{[]string{"-f", filepath.Join(dir, "none.yaml")}, "none.yaml"},
		{[]string{"-f", scenario, "--policy", "best"}, `there is no policy "best" under policies`},
		{[]string{"-f", scenario, "--seed", "1,1"}, "seed 1 is there twice"},
		{[]string{"-f", scenario, "--html", filepath.Join(dir, "no", "page.html")}, "page.html"},
	} {
		if _, err := weir("", append([]string{"simulate"}, c.args...)...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: got %v, want %q", c.args, err, c.want)
		}
	}
}
