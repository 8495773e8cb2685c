package simulate

import (
	"context"
	"fmt"
	"math"
	"runtime"
	"sync"
)

// Report is what a scenario came to.
type Report struct {
	Name        string    `json:"name"`
	Description string    `json:"description,omitempty"`
	Seeds       []uint64  `json:"seeds"`
	Summaries   []Summary `json:"policies"`
	Bars        []Verdict `json:"bars"`
	// Results by policy, then by seed.
	Results [][]*Result `json:"results"`
}

// Summary is a policy over all seeds: the means of the figures.
type Summary struct {
	Policy  string             `json:"policy"`
	Kind    Kind               `json:"kind"`
	Figures map[Metric]float64 `json:"figures"`
	Shares  []float64          `json:"shares"`
}

// Verdict is a bar and what was measured.
type Verdict struct {
	Metric  Metric  `json:"metric"`
	Policy  string  `json:"policy"`
	Against string  `json:"against"`
	Max     float64 `json:"max,omitempty"`
	Min     float64 `json:"min,omitempty"`
	// Value and AgainstValue are means over the seeds.
	Value        float64 `json:"value"`
	AgainstValue float64 `json:"againstValue"`
	// Ratio is the geometric mean of the ratios of the seeds; Worst is the one nearest to a miss, or furthest into it.
	Ratio float64 `json:"ratio"`
	Worst float64 `json:"worst"`
	Pass  bool    `json:"pass"`
}

// Passed says whether no bar was missed.
func (r *Report) Passed() bool {
	for _, v := range r.Bars {
		if !v.Pass {
			return false
		}
	}
	return true
}

// Compare runs all policies of a scenario with all its seeds, so many at once as there are processors to use, and holds them against
// the bars.
func Compare(ctx context.Context, s *Scenario) (*Report, error) {
	out := &Report{Name: s.Name, Description: s.Description, Seeds: s.Seeds, Results: make([][]*Result, len(s.Policies))}
	type job struct{ policy, seed int }
	jobs := make(chan job)
	var (
		wg       sync.WaitGroup
		mu       sync.Mutex
		firstErr error
	)
	workload := make([]func() []*Request, len(s.Seeds))
	for i, seed := range s.Seeds {
		workload[i] = sync.OnceValue(func() []*Request { return Generate(s, seed) })
	}
	for i := range out.Results {
		out.Results[i] = make([]*Result, len(s.Seeds))
	}
	for range min(runtime.GOMAXPROCS(0), len(s.Policies)*len(s.Seeds)) {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for j := range jobs {
				p := &s.Policies[j.policy]
				r, err := Run(s, p, s.Seeds[j.seed], workload[j.seed]())
				mu.Lock()
				out.Results[j.policy][j.seed] = r
				if err != nil && firstErr == nil {
					firstErr = fmt.Errorf("policy %s, seed %d: %w", p.Name, s.Seeds[j.seed], err)
				}
				mu.Unlock()
			}
		}()
	}
feed:
	for seed := range s.Seeds {
		for policy := range s.Policies {
			select {
			case jobs <- job{policy, seed}:
			case <-ctx.Done():
				break feed
			}
		}
	}
	close(jobs)
	wg.Wait()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if firstErr != nil {
		return nil, firstErr
	}
	for i := range s.Policies {
		out.Summaries = append(out.Summaries, summarize(&s.Policies[i], out.Results[i]))
	}
	for _, b := range s.Bars {
		out.Bars = append(out.Bars, out.judge(b))
	}
	return out, nil
}

func summarize(p *Policy, results []*Result) Summary {
	s := Summary{Policy: p.Name, Kind: p.Kind, Figures: map[Metric]float64{}, Shares: make([]float64, len(results[0].Shares))}
	for _, r := range results {
		for _, m := range Metrics() {
			s.Figures[m] += r.Figures[m] / float64(len(results))
		}
		for i, v := range r.Shares {
			s.Shares[i] += v / float64(len(results))
		}
	}
	return s
}

func (r *Report) results(policy string) (results []*Result, mean map[Metric]float64) {
	for i := range r.Summaries {
		if r.Summaries[i].Policy == policy {
			return r.Results[i], r.Summaries[i].Figures
		}
	}
	return nil, nil
}

// judge holds results against a bar.
func (r *Report) judge(b Bar) Verdict {
	v := Verdict{Metric: b.Metric, Policy: b.Policy, Against: b.Against, Max: b.Max, Min: b.Min}
	own, ownMean := r.results(b.Policy)
	other, otherMean := r.results(b.Against)
	v.Value, v.AgainstValue = ownMean[b.Metric], otherMean[b.Metric]
	logs := 0.0
	for i := range own {
		ratio := ratioOf(own[i].Figures[b.Metric], other[i].Figures[b.Metric])
		logs += math.Log(ratio)
		if i == 0 || b.Max > 0 && ratio > v.Worst || b.Max == 0 && ratio < v.Worst {
			v.Worst = ratio
		}
	}
	v.Ratio = math.Exp(logs / float64(len(own)))
	v.Pass = (b.Max == 0 || v.Ratio <= b.Max) && (b.Min == 0 || v.Ratio >= b.Min)
	return v
}

// least is what a figure counts as at least in ratios: none of the metrics has a smaller one that means something else than 0.
const least = 1e-9

func ratioOf(a, b float64) float64 { return max(a, least) / max(b, least) }
