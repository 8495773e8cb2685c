package weigh_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/xds/load/weigh"
	"github.com/weir-dev/weir/xds/source/files"
)

func load(t *testing.T, spec string) *v1alpha1.LoadPolicySpec {
	t.Helper()
	dir := t.TempDir()
	doc := "apiVersion: weir.dev/v1alpha1\nkind: LoadPolicy\nmetadata: {name: load}\nspec:\n  targetRefs: [{kind: Backend, name: pool}]\n" + spec
	if err := os.WriteFile(filepath.Join(dir, "load.yaml"), []byte(doc), 0o600); err != nil {
		t.Fatal(err)
	}
	objects, problems := files.Load(dir, func(string) (string, bool) { return "", false })
	if len(objects.LoadPolicies) != 1 {
		t.Fatalf("not read: %v", problems)
	}
	return &objects.LoadPolicies[0].Spec
}

// standard is the Policy of a LoadPolicy that names its targets and nothing else.
func standard() weigh.Policy {
	return weigh.FromAPI(&v1alpha1.LoadPolicySpec{
		Weights: v1alpha1.WeightRules{
			GPUUtilization: &v1alpha1.PercentRule{Enter: 85, Leave: 75, FactorPercent: 70},
			KVCache:        &v1alpha1.PercentRule{Enter: 95, Leave: 85, FactorPercent: 50},
			QueueDelay: &v1alpha1.DelayRule{
				Enter: v1alpha1.Duration{Duration: 500 * time.Millisecond}, Leave: v1alpha1.Duration{Duration: 300 * time.Millisecond}, FactorPercent: 50,
			},
			Headroom: &v1alpha1.HeadroomRule{Enter: 10, Leave: 20, FactorPercent: 50},
			Latency:  &v1alpha1.LatencyRule{},
		},
	})
}

// TestStandard holds standard against what the schema makes of a policy that says nothing.
func TestStandard(t *testing.T) {
	if got, want := standard(), weigh.FromAPI(load(t, "")); got != want {
		t.Errorf("standard is\n%+v\nthe schema's is\n%+v", got, want)
	}
	want := weigh.Policy{
		Smoothing:      0.3,
		GPUUtilization: weigh.Rule{Enter: 0.85, Leave: 0.75, Factor: 0.7, Samples: 2},
		KVCache:        weigh.Rule{Enter: 0.95, Leave: 0.85, Factor: 0.5, Samples: 2},
		QueueDelay:     weigh.Rule{Enter: 0.5, Leave: 0.3, Factor: 0.5, Samples: 2},
		Headroom:       weigh.Rule{Enter: 0.1, Leave: 0.2, Factor: 0.5, Samples: 1},
		LatencyMin:     0.25, LatencyMax: 1.5,
		Floor: 0.05, MaxStep: 0.5,
		StaleAfter: 5 * time.Second, Decay: 30 * time.Second,
		FailedChecks: 2, PassedChecks: 2,
		WarmUp: 20 * time.Second, WarmUpFrom: 0.1,
	}
	if got := standard(); got != want {
		t.Errorf("standard is\n%+v\nwant\n%+v", got, want)
	}
}

func TestFromAPI(t *testing.T) {
	got := weigh.FromAPI(load(t, `
  weights:
    smoothingPercent: 50
    gpuUtilization: {enter: 90, leave: 80, factorPercent: 60, samples: 3}
    gpuMemory: {enter: 98, leave: 96, factorPercent: 80}
    kvCache: {enter: 90, leave: 90, factorPercent: 100}
    queueDelay: {enter: 1s500ms, leave: 1s, factorPercent: 40, samples: 1}
    headroom: {enter: 20, leave: 30, factorPercent: 10}
    latency: {minPercent: 50, maxPercent: 200}
    preferCheapPercent: 150
    floorPercent: 10
    maxStepPercent: 25
    staleAfter: 2s
    decay: 10s
  health: {failedChecks: 3, passedChecks: 4, warmUp: 0s, warmUpFromPercent: 20, panicPercent: 30}
  picking: {mode: Weights}
`))
	want := weigh.Policy{
		Smoothing:      0.5,
		GPUUtilization: weigh.Rule{Enter: 0.9, Leave: 0.8, Factor: 0.6, Samples: 3},
		GPUMemory:      weigh.Rule{Enter: 0.98, Leave: 0.96, Factor: 0.8, Samples: 2},
		KVCache:        weigh.Rule{Enter: 0.9, Leave: 0.9, Factor: 1, Samples: 2},
		QueueDelay:     weigh.Rule{Enter: 1.5, Leave: 1, Factor: 0.4, Samples: 1},
		Headroom:       weigh.Rule{Enter: 0.2, Leave: 0.3, Factor: 0.1, Samples: 1},
		LatencyMin:     0.5, LatencyMax: 2,
		PreferCheap: 1.5,
		Floor:       0.1, MaxStep: 0.25,
		StaleAfter: 2 * time.Second, Decay: 10 * time.Second,
		FailedChecks: 3, PassedChecks: 4,
		WarmUpFrom:  0.2,
		Panic:       0.3,
		TryHalfOpen: true,
	}
	if got != want {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
	if !got.KVCache.Off() || got.GPUMemory.Off() {
		t.Error("a factor of 100 % turns a rule off, and no other does")
	}
	// What did not go through the schema: rules are off, numbers the defaults.
	bare := standard()
	bare.GPUUtilization, bare.KVCache, bare.QueueDelay, bare.Headroom = weigh.Rule{}, weigh.Rule{}, weigh.Rule{}, weigh.Rule{}
	bare.LatencyMin, bare.LatencyMax = 0, 0
	if got := weigh.FromAPI(&v1alpha1.LoadPolicySpec{}); got != bare {
		t.Errorf("of nothing\n%+v\nwant\n%+v", got, bare)
	}
}
