package simulate

import (
	"slices"
	"time"
)

// Metric is a figure of a run.
type Metric string

// The metrics. Times are in seconds.
const (
	TTFTP50    Metric = "ttftP50"
	TTFTP90    Metric = "ttftP90"
	TTFTP99    Metric = "ttftP99"
	TTFTMean   Metric = "ttftMean"
	ITLP50     Metric = "itlP50"
	ITLP99     Metric = "itlP99"
	Throughput Metric = "throughput" // generated tokens a second
	FailedPart Metric = "failed"     // part of the requests, 0..1
	HitRate    Metric = "hitRate"    // part of the prompts' tokens that was cached, 0..1
	Changes    Metric = "weightChanges"
)

// Metrics in the order of reports.
func Metrics() []Metric {
	return []Metric{TTFTP50, TTFTP90, TTFTP99, TTFTMean, ITLP50, ITLP99, Throughput, FailedPart, HitRate, Changes}
}

// Result is what one policy made of one seed.
type Result struct {
	Policy   string             `json:"policy"`
	Seed     uint64             `json:"seed"`
	Requests int                `json:"requests"` // that were counted
	Failed   int                `json:"failed"`   // of these, those without a whole answer
	Figures  map[Metric]float64 `json:"figures"`
	// Shares of the requests that each server got.
	Shares []float64 `json:"shares"`
	// Series over time, in parts of Bin seconds, the warm-up included.
	Bin    float64  `json:"binSeconds"`
	Series Timeline `json:"series"`
}

// Timeline is a run over time.
type Timeline struct {
	// TTFTP50 and TTFTP99 of the requests that arrived in each part, in seconds. Below 0: there were none.
	TTFTP50 []float64 `json:"ttftP50"`
	TTFTP99 []float64 `json:"ttftP99"`
	// Throughput in tokens a second.
	Throughput []float64 `json:"throughput"`
	// Weights of each server, 1 being its base weight, at the beginning of each part; the mean over gateways. Nil: the policy has none.
	Weights [][]float64 `json:"weights,omitempty"`
}

// bins is how many parts a run is shown in.
const bins = 60

// collector counts during a run.
type collector struct {
	warmUp, end, bin time.Duration

	counted, failed      int
	ttft                 []time.Duration
	itl                  histogram
	tokens               int
	prompt, cached       int
	shares               []int
	binTTFT              [][]time.Duration
	binTokens            []int
	binWeights           [][]float64 // by server
	changesBeforeWarmUp  int
	changesBeforeIsKnown bool
}

func newCollector(s *Scenario) *collector {
	c := &collector{warmUp: time.Duration(s.WarmUp), end: time.Duration(s.Duration), shares: make([]int, s.Pool.Servers)}
	c.bin = max((c.end+bins-1)/bins, time.Millisecond)
	n := int((c.end + c.bin - 1) / c.bin)
	c.binTTFT, c.binTokens = make([][]time.Duration, n), make([]int, n)
	return c
}

func (c *collector) counts(at time.Duration) bool { return at >= c.warmUp && at < c.end }

func (c *collector) arrived(x *call) {
	if c.counts(x.At) {
		c.counted++
	}
}

func (c *collector) waited(x *call, d time.Duration) {
	i := int(x.At / c.bin)
	c.binTTFT[i] = append(c.binTTFT[i], d)
	if c.counts(x.At) {
		c.ttft = append(c.ttft, d)
	}
}

func (c *collector) firstToken(x *call, now time.Duration) {
	c.waited(x, now-x.At)
	c.generated(now)
}

func (c *collector) token(x *call, now time.Duration) {
	if c.counts(x.At) {
		c.itl.add(now - x.last)
	}
	c.generated(now)
}

func (c *collector) generated(now time.Duration) {
	if now < c.end {
		c.binTokens[now/c.bin]++
	}
	if c.counts(now) {
		c.tokens++
	}
}

func (c *collector) ended(x *call, o outcome, now time.Duration) {
	if o == gaveUp && !x.started {
		c.waited(x, now-x.At)
	}
	if !c.counts(x.At) {
		return
	}
	if o != succeeded {
		c.failed++
	}
	if len(x.tried) > 0 {
		c.shares[x.server()]++
	}
	if x.started {
		c.prompt += x.Prompt
		c.cached += x.cached
	}
}

// weights notes those of all gateways.
func (c *collector) weights(now time.Duration, balancers []balancer) {
	changes := 0
	var sum []float64
	for _, b := range balancers {
		w, ok := b.(weighted)
		if !ok {
			return
		}
		changes += w.changes()
		for i, v := range w.weights() {
			if sum == nil {
				sum = make([]float64, len(c.shares))
			}
			sum[i] += v / float64(len(balancers))
		}
	}
	if !c.changesBeforeIsKnown && now >= c.warmUp {
		c.changesBeforeWarmUp, c.changesBeforeIsKnown = changes, true
	}
	if now < c.end {
		if c.binWeights == nil {
			c.binWeights = make([][]float64, len(sum))
		}
		for i, v := range sum {
			c.binWeights[i] = append(c.binWeights[i], v)
		}
	}
}

func (c *collector) result(s *Scenario, p *Policy, seed uint64, balancers []balancer) *Result {
	ttft := sortedCopy(c.ttft)
	changes := -c.changesBeforeWarmUp
	for _, b := range distinct(balancers) {
		if w, ok := b.(weighted); ok {
			changes += w.changes()
		}
	}
	part := func(n, of int) float64 { return float64(n) / float64(max(1, of)) }
	r := &Result{
		Policy: p.Name, Seed: seed, Requests: c.counted, Failed: c.failed, Bin: c.bin.Seconds(),
		Figures: map[Metric]float64{
			TTFTP50: quantile(ttft, 0.5).Seconds(), TTFTP90: quantile(ttft, 0.9).Seconds(), TTFTP99: quantile(ttft, 0.99).Seconds(),
			TTFTMean: mean(ttft).Seconds(), ITLP50: c.itl.quantile(0.5), ITLP99: c.itl.quantile(0.99),
			Throughput: float64(c.tokens) / (c.end - c.warmUp).Seconds(),
			FailedPart: part(c.failed, c.counted), HitRate: part(c.cached, c.prompt), Changes: float64(changes),
		},
	}
	sum := 0
	for _, n := range c.shares {
		sum += n
	}
	for _, n := range c.shares {
		r.Shares = append(r.Shares, part(n, sum))
	}
	for i, values := range c.binTTFT {
		slices.Sort(values)
		p50, p99 := -1.0, -1.0
		if len(values) > 0 {
			p50, p99 = quantile(values, 0.5).Seconds(), quantile(values, 0.99).Seconds()
		}
		r.Series.TTFTP50, r.Series.TTFTP99 = append(r.Series.TTFTP50, p50), append(r.Series.TTFTP99, p99)
		r.Series.Throughput = append(r.Series.Throughput, float64(c.binTokens[i])/c.bin.Seconds())
	}
	r.Series.Weights = c.binWeights
	return r
}
