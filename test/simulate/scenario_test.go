package simulate

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const small = `
duration: 10s
pool: {servers: 2, profile: qwen2.5-7b-h100}
workload:
  arrivals: {poisson: {rate: 5}}
  prompt: {fixed: 100}
  output: {fixed: 10}
`

func parse(t testing.TB, text string) *Scenario {
	t.Helper()
	s, err := Parse("scenario.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestDefaults(t *testing.T) {
	s := parse(t, small)
	if s.Name != "scenario.yaml" || s.Gateways != 1 || *s.Retries != 1 || len(s.Seeds) != 1 {
		t.Errorf("name %q, %d gateways, %d retries, seeds %v", s.Name, s.Gateways, *s.Retries, s.Seeds)
	}
	if len(s.Policies) != len(Kinds()) {
		t.Errorf("%d policies, want one of each kind", len(s.Policies))
	}
	for _, p := range s.Policies {
		spec := p.LoadPolicy.Policy.Spec
		if spec.Weights.Tick == nil || spec.Weights.Tick.Duration != 250*time.Millisecond || spec.Weights.GPUUtilization.Enter != 85 {
			t.Errorf("policy %s: the LoadPolicy does not have the defaults of its schema: %+v", p.Name, spec.Weights)
		}
	}
}

func TestProblems(t *testing.T) {
	replace := func(old, new string) string {
		if !strings.Contains(small, old) {
			t.Fatalf("the scenario has no %q", old)
		}
		return strings.Replace(small, old, new, 1)
	}
	for _, c := range []struct{ name, text, want string }{
		{"empty", "", "scenario.yaml: is empty"},
		{"two documents", small + "---\n" + small, "more than one document"},
		{"no mapping", "- a", "scenario.yaml:1: must be a mapping"},
		{"unknown field", small + "polices: []\n", "scenario.yaml:8: polices: there is no such field: the fields here are name, description, duration"},
		{"unknown field below", replace("servers: 2", "server: 2"), "scenario.yaml:3: pool.server: there is no such field"},
		{"twice", small + "duration: 4s\n", "scenario.yaml:8: duration: is there twice"},
		{"duration", replace("duration: 10s", "duration: 10"), `scenario.yaml:2: duration: "10" is not a duration`},
		{"number", replace("servers: 2", "servers: two"), `scenario.yaml:3: pool.servers: "two" is not a whole number`},
		{"not a number", replace("rate: 5", "rate: .nan"), `scenario.yaml:5: workload.arrivals.poisson.rate: ".nan" is not a number`},
		{"infinite", replace("rate: 5", "rate: Inf"), `"Inf" is not a number`},
		{"list", small + "faults: {at: 1s}\n", "scenario.yaml:8: faults: must be a list"},
		{"scalar", small + "name: [a]\n", "scenario.yaml:8: name: must be a single value"},
		{"warm-up", small + "warmUp: 10s\n", "scenario.yaml:8: warmUp: 10s leaves nothing of the duration of 10s to count"},
		{"negative", small + "drain: -1s\n", "scenario.yaml:8: drain: must not be below 0s"},
		{"seeds", small + "seeds: [1, 1]\n", "scenario.yaml:8: seeds: 1 is there twice"},
		{"gateways", small + "gateways: 200\n", "gateways: must be from 1 to 100, and is 200"},
		{"retries", small + "retries: 3\n", "retries: must be from 0 to 2, and is 3"},
		{"no servers", replace("servers: 2, ", ""), "scenario.yaml:3: pool.servers: must be from 1 to 1000, and is 0"},
		{"profile", replace("qwen2.5-7b-h100", "gpt"), `pool.profile: there is no profile "gpt"`},
		{"override", replace("h100}", "h100, overrides: [{servers: [2], speed: 0.5}]}"), "pool.overrides[0].servers: there is no server 2: they are numbered from 0 to 1"},
		{"speed", replace("h100}", "h100, overrides: [{servers: [0], speed: -1}]}"), "pool.overrides[0].speed: must be from 0.001"},
		{"no arrivals", replace("{poisson: {rate: 5}}", "{}"), "workload.arrivals: give exactly one of poisson, bursts, steps"},
		{"two arrivals", replace("{poisson: {rate: 5}}", "{poisson: {rate: 5}, bursts: {size: 1, every: 1s}}"), "give exactly one"},
		{"rate", replace("rate: 5", "rate: 0"), "workload.arrivals.poisson.rate: must be above 0"},
		{"too many", replace("rate: 5", "rate: 500000"), "workload.arrivals: makes about 5000000 requests"},
		{"burst", replace("poisson: {rate: 5}", "bursts: {size: 0, every: 0s}"), "workload.arrivals.bursts.size: must be 1 at least"},
		{"first step", replace("poisson: {rate: 5}", "steps: [{at: 1s, rate: 1}]"), "workload.arrivals.steps[0].at: the first step must be at 0s"},
		{"steps", replace("poisson: {rate: 5}", "steps: [{at: 0s, rate: 1}, {at: 0s, rate: 1}]"), "workload.arrivals.steps[1].at: steps must come in the order"},
		{"no prompt", replace("  prompt: {fixed: 100}\n", ""), "workload.prompt: is missing"},
		{"prompt and prefixes", small + "  prefixes: {groups: 1, prefixTokens: 1, questions: 1, questionTokens: 1}\n", "workload.prompt: does not go together with prefixes"},
		{"prefixes", strings.Replace(small, "prompt: {fixed: 100}", "prefixes: {groups: 1, prefixTokens: 1, questions: 1}", 1), "workload.prefixes.questionTokens: must be 1 at least"},
		{"lengths", replace("{fixed: 100}", "{fixed: 100, uniform: {min: 1, max: 2}}"), "workload.prompt: give exactly one of fixed, uniform, lognormal"},
		{"bounds", replace("{fixed: 100}", "{uniform: {min: 5, max: 2}}"), "workload.prompt.uniform: needs 1 <= min <= max"},
		{"lognormal", replace("{fixed: 100}", "{lognormal: {median: 0, sigma: 1, min: 1, max: 2}}"), "needs a median of 1 at least"},
		{"does not fit", replace("{fixed: 100}", "{fixed: 1000000}"), "workload: requests of up to 1000010 tokens do not fit into server 0"},
		{"fault", small + "faults: [{at: 1s, kind: burn}]\n", `scenario.yaml:8: faults[0].kind: there is no kind "burn"`},
		{"fault's server", small + "faults: [{at: 1s, kind: kill, servers: [7]}]\n", "faults[0].servers: there is no server 7"},
		{"fault's end", small + "faults: [{at: 1s, until: 1s, kind: kill}]\n", "faults[0].until: 1s is not after the beginning at 1s"},
		{"slow", small + "faults: [{at: 1s, kind: slow}]\n", "faults[0].factor: must be from 0.001"},
		{"factor", small + "faults: [{at: 1s, kind: kill, factor: 2}]\n", "faults[0].factor: belongs to the kind slow only"},
		{"revive", small + "faults: [{at: 1s, kind: revive, until: 2s}]\n", "faults[0].until: does not belong to the kind revive"},
		{"policy kind", small + "policies: [best]\n", `scenario.yaml:8: policies[0]: there is no kind "best"`},
		{"policy name", small + "policies: [weir, weir]\n", `policies[1]: the name "weir" is there twice`},
		{"policy field", small + "policies: [{kind: weir, nam: x}]\n", "policies[0].nam: there is no such field"},
		{"bar metric", small + "bars: [{metric: speed, policy: weir, against: mission, max: 1}]\n", `bars[0].metric: there is no metric "speed"`},
		{"bar policy", small + "bars: [{metric: failed, policy: weird, against: mission, max: 1}]\n", `bars[0].policy: there is no policy "weird" under policies`},
		{"bar bound", small + "bars: [{metric: failed, policy: weir, against: mission}]\n", "bars[0]: needs max or min"},
		{"load policy", small + "loadPolicy:\n  weights:\n    floorPercent: 0\n    maxStepPercent: 200\n",
			"scenario.yaml:11: loadPolicy.weights.maxStepPercent: Invalid value: 200: should be less than or equal to 100"},
		{"load policy's field", small + "loadPolicy:\n  wights: {}\n", "scenario.yaml:9: loadPolicy.wights: Forbidden: unknown field"},
		{"load policy's rule", small + "loadPolicy:\n  weights:\n    gpuUtilization: {enter: 50, leave: 75, factorPercent: 70}\n", "leave may not be above enter"},
		{"load policy's file", small + "loadPolicy: missing.yaml\n", "scenario.yaml:8: loadPolicy: open"},
		{"policy's load policy", small + "policies:\n- {kind: weir, loadPolicy: {failureMode: Ajar}}\n", `scenario.yaml:9: policies[0].loadPolicy.failureMode: Unsupported value: "Ajar"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse("scenario.yaml", []byte(c.text))
			if err == nil {
				t.Fatal("no error")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("got:\n%v\nwant in it:\n%s", err, c.want)
			}
		})
	}
}

func TestProblemsAreAllTold(t *testing.T) {
	_, err := Parse("s.yaml", []byte(strings.Replace(small, "rate: 5", "rate: 0", 1)+"gateways: -1\nwarmUp: 1h\n"))
	var ps Problems
	if !errors.As(err, &ps) || len(ps) != 3 {
		t.Fatalf("got %v, want three problems", err)
	}
	for i, line := range []int{5, 8, 9} {
		if ps[i].Line != line {
			t.Errorf("problem %d is at line %d, want %d: %v", i, ps[i].Line, line, ps[i])
		}
	}
}

func TestAnchors(t *testing.T) {
	s := parse(t, strings.Replace(small, "prompt: {fixed: 100}", "prompt: &l {uniform: {min: 3, max: 9}}", 1)+"faults: [{at: &t 3s, kind: kill}, {at: *t, kind: revive}]\n")
	if s.Faults[1].At != Duration(3*time.Second) {
		t.Errorf("an alias gave %v", s.Faults[1].At)
	}
}

func TestLoadPolicyOfAFile(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const policy = "apiVersion: weir.dev/v1alpha1\nkind: LoadPolicy\nmetadata: {name: a}\nspec:\n  targetRefs: [{kind: Backend, name: b}]\n  weights: {floorPercent: 9}\n"
	write("policy.yaml", "kind: Backend\n---\n"+policy)
	write("two.yaml", policy+"---\n"+policy)
	write("none.yaml", "kind: Backend\n")
	s, err := Load(write("a.yaml", small+"loadPolicy: policy.yaml\npolicies: [weir, {name: own, kind: weir, loadPolicy: {weights: {floorPercent: 3}}}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	if a, b := s.Policies[0].LoadPolicy.Policy.Spec.Weights.FloorPercent, s.Policies[1].LoadPolicy.Policy.Spec.Weights.FloorPercent; a != 9 || b != 3 {
		t.Errorf("floors are %d and %d, want that of the file, 9, and the policy's own, 3", a, b)
	}
	for name, want := range map[string]string{"two.yaml": "more than one LoadPolicy", "none.yaml": "holds no LoadPolicy"} {
		if _, err := Load(write("b.yaml", small+"loadPolicy: "+name+"\n")); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", name, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(small))
	f.Add([]byte(small + "loadPolicy:\n  weights: {tick: 1s}\nfaults: [{at: 1s, kind: slow, factor: 0.5}]\nbars: [{metric: failed, policy: weir, against: mission, max: 1}]\n"))
	f.Add([]byte("a: &a [*a]\n"))
	f.Add([]byte("pool: {overrides: [{servers: [0]}], servers: 1}\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		s, err := Parse("fuzz.yaml", raw)
		if (s == nil) == (err == nil) {
			t.Fatalf("got %v and %v", s, err)
		}
	})
}
