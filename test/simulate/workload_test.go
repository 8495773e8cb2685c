package simulate

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"
)

func workload(t *testing.T, duration, text string) *Scenario {
	t.Helper()
	return parse(t, "duration: "+duration+"\npool: {servers: 1, profile: qwen2.5-7b-h100}\nworkload:\n"+text)
}

func TestPoisson(t *testing.T) {
	s := workload(t, "1000s", "  arrivals: {poisson: {rate: 20}}\n  prompt: {fixed: 7}\n  output: {fixed: 3}\n")
	all := Generate(s, 1)
	// 20000 expected, with a deviation of 141.
	if n := len(all); n < 19300 || n > 20700 {
		t.Errorf("%d requests in 1000 s at 20 a second", n)
	}
	// Gaps are exponential: their mean and deviation are both 50 ms.
	var sum, square float64
	for i := 1; i < len(all); i++ {
		gap := (all[i].At - all[i-1].At).Seconds()
		if gap < 0 {
			t.Fatal("requests are out of order")
		}
		sum, square = sum+gap, square+gap*gap
	}
	n := float64(len(all) - 1)
	mean := sum / n
	deviation := math.Sqrt(square/n - mean*mean)
	if math.Abs(mean-0.05) > 0.002 || math.Abs(deviation-0.05) > 0.002 {
		t.Errorf("gaps have a mean of %.4f s and a deviation of %.4f s, want 0.05 both", mean, deviation)
	}
	if all[0].ID != 1 || all[0].Prompt != 7 || all[0].Output != 3 {
		t.Errorf("first request %+v", all[0])
	}
}

func TestBursts(t *testing.T) {
	all := Generate(workload(t, "10s", "  arrivals: {bursts: {size: 4, every: 3s}}\n  prompt: {fixed: 1}\n  output: {fixed: 1}\n"), 1)
	var got []time.Duration
	for _, r := range all {
		got = append(got, r.At/time.Second)
	}
	want := []time.Duration{0, 0, 0, 0, 3, 3, 3, 3, 6, 6, 6, 6, 9, 9, 9, 9}
	if !slices.Equal(got, want) {
		t.Errorf("arrivals at %v, want %v", got, want)
	}
}

func TestSteps(t *testing.T) {
	all := Generate(workload(t, "300s", "  arrivals: {steps: [{at: 0s, rate: 10}, {at: 100s, rate: 40}, {at: 200s, rate: 5}]}\n  prompt: {fixed: 1}\n  output: {fixed: 1}\n"), 3)
	counts := make([]float64, 3)
	for i, r := range all {
		counts[int(r.At/(100*time.Second))]++
		if i > 0 && r.At < all[i-1].At {
			t.Fatal("requests are out of order")
		}
	}
	for i, want := range []float64{1000, 4000, 500} {
		if math.Abs(counts[i]-want) > 5*math.Sqrt(want) {
			t.Errorf("%.0f requests in part %d, want about %.0f", counts[i], i, want)
		}
	}
}

func TestLengths(t *testing.T) {
	s := workload(t, "1000s", `  arrivals: {poisson: {rate: 20}}
  prompt: {lognormal: {median: 500, sigma: 0.5, min: 200, max: 2000}}
  output: {uniform: {min: 10, max: 20}}
`)
	var prompts, outputs []time.Duration
	for _, r := range Generate(s, 1) {
		prompts, outputs = append(prompts, time.Duration(r.Prompt)), append(outputs, time.Duration(r.Output))
	}
	slices.Sort(prompts)
	slices.Sort(outputs)
	if low, high := prompts[0], prompts[len(prompts)-1]; low != 200 || high != 2000 {
		t.Errorf("prompts from %d to %d, want all of 200 to 2000", low, high)
	}
	// A lognormal of sigma 0.5 has its 84th percentile at exp(0.5) times the median.
	for q, want := range map[float64]float64{0.5: 500, 0.8413: 500 * math.Exp(0.5)} {
		if got := float64(quantile(prompts, q)); math.Abs(got-want) > 0.03*want {
			t.Errorf("quantile %v of prompts is %.0f, want about %.0f", q, got, want)
		}
	}
	if low, high, m := outputs[0], outputs[len(outputs)-1], float64(mean(outputs)); low != 10 || high != 20 || math.Abs(m-15) > 0.1 {
		t.Errorf("outputs from %d to %d with a mean of %.2f", low, high, m)
	}
}

func TestPrefixes(t *testing.T) {
	const text = "  arrivals: {poisson: {rate: 30}}\n  output: {fixed: 64}\n  prefixes: {groups: 5, prefixTokens: 96, questions: 4, questionTokens: 40}\n"
	all := Generate(workload(t, "10s", text), 1)
	if len(all) < 200 {
		t.Fatalf("only %d requests", len(all))
	}
	// Every pair comes once in every round of 20.
	for round := 0; (round+1)*20 <= len(all); round++ {
		seen := map[uint64]bool{}
		for _, r := range all[round*20 : (round+1)*20] {
			seen[r.parts[1].key] = true
		}
		if len(seen) != 20 {
			t.Errorf("round %d has %d different questions, want 20", round, len(seen))
		}
	}
	// What prompts share is what their blocks share, and blocks are whole ones: 136 tokens of prompt are 8 of 16, 6 of them prefix.
	for i, a := range all[:40] {
		for _, b := range all[i+1 : 40] {
			want := 0
			switch {
			case a.parts[1] == b.parts[1]:
				want = 8
			case a.parts[0] == b.parts[0]:
				want = 6
			}
			if got := common(a.Blocks(16, false), b.Blocks(16, false)); got != want {
				t.Fatalf("%v and %v share %d blocks, want %d", a.parts, b.parts, got, want)
			}
			if got := common(a.Blocks(16, true), b.Blocks(16, true)); got != want {
				t.Fatalf("with answers %v and %v share %d blocks, want %d", a.parts, b.parts, got, want)
			}
		}
	}
	if n := len(all[0].Blocks(16, true)); n != 12 {
		t.Errorf("200 tokens of prompt and answer are %d blocks of 16, want 12", n)
	}
	if n := len(all[0].Blocks(64, false)); n != 2 {
		t.Errorf("136 tokens are %d blocks of 64, want 2", n)
	}
}

func common(a, b []uint64) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

func TestSeeds(t *testing.T) {
	s := parse(t, strings.Replace(small, "{fixed: 100}", "{uniform: {min: 1, max: 1000}}", 1))
	text := func(seed uint64) string {
		var b strings.Builder
		for _, r := range Generate(s, seed) {
			b.WriteString(r.At.String() + " ")
		}
		return b.String()
	}
	if first, again := text(1), text(1); first != again {
		t.Error("the same seed gives other requests")
	}
	if text(1) == text(2) {
		t.Error("another seed gives the same requests")
	}
	// The length of answers is not what arrivals depend on.
	before := text(1)
	s.Workload.Output = &Distribution{Uniform: &Uniform{1, 99}}
	if text(1) != before {
		t.Error("other lengths move the arrivals")
	}
}
