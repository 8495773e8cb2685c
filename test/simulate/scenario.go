package simulate

import (
	"time"

	"github.com/weir-dev/weir/api/v1alpha1"
)

// Scenario is what is simulated. Load reads one from YAML and fills in defaults.
type Scenario struct {
	// Name is what reports call it.
	Name string `yaml:"name"`
	// Description is a sentence or two for the reader of a report.
	Description string `yaml:"description"`
	// Duration is how long requests arrive.
	Duration Duration `yaml:"duration"`
	// WarmUp is the first part of Duration, in which nothing is counted.
	WarmUp Duration `yaml:"warmUp"`
	// Drain is how long after Duration answers may still come. A request that has none by then has failed, and counts as waited for
	// until then.
	Drain Duration `yaml:"drain"`
	// Seeds of the runs: each policy runs once with each.
	Seeds []uint64 `yaml:"seeds"`

	Pool     Pool     `yaml:"pool"`
	Workload Workload `yaml:"workload"`
	Faults   []Fault  `yaml:"faults"`
	Signals  Signals  `yaml:"signals"`

	// Gateways is the number of replicas. Each knows only its own requests; requests come to them in turn.
	Gateways int `yaml:"gateways"`
	// Retries is how many other servers are tried for a request that failed before its first token.
	Retries *int `yaml:"retries"`
	// Timeout is how long a request may wait for its first token. 0: for ever.
	Timeout Duration `yaml:"timeout"`
	// PublishDelay is how long new weights take to Envoy.
	PublishDelay Duration `yaml:"publishDelay"`

	// LoadPolicy is the spec of a LoadPolicy, or the name of a file that holds one, relative to the scenario. Its targetRefs may
	// be left out.
	LoadPolicy PolicySpec `yaml:"loadPolicy"`
	// Policies that are compared.
	Policies []Policy `yaml:"policies"`
	// Bars that the policies are measured against.
	Bars []Bar `yaml:"bars"`
}

// Pool is the servers. They are numbered from 0.
type Pool struct {
	Servers int `yaml:"servers"`
	// Profile is one of the engine's: a model on its hardware.
	Profile string `yaml:"profile"`
	// KVTokens is the room for keys and values of each server, in tokens. 0: the profile's.
	KVTokens  int        `yaml:"kvTokens"`
	Overrides []Override `yaml:"overrides"`
}

// Override is what some servers have of their own, from the beginning on.
type Override struct {
	Servers []int `yaml:"servers"`
	// Speed relative to the profile. 0: 1.
	Speed    float64 `yaml:"speed"`
	Profile  string  `yaml:"profile"`
	KVTokens int     `yaml:"kvTokens"`
	// Weight is the base weight of the endpoints. 0: 1.
	Weight int `yaml:"weight"`
}

// Workload is the requests.
type Workload struct {
	Arrivals Arrivals `yaml:"arrivals"`
	// Prompt is the length of prompts in tokens. Not with Prefixes.
	Prompt *Distribution `yaml:"prompt"`
	// Output is the length of answers in tokens.
	Output *Distribution `yaml:"output"`
	// Prefixes makes prompts that begin alike.
	Prefixes *Prefixes `yaml:"prefixes"`
}

// Arrivals is when requests arrive: exactly one of the three.
type Arrivals struct {
	Poisson *Poisson `yaml:"poisson"`
	Bursts  *Bursts  `yaml:"bursts"`
	// Steps is a Poisson process whose rate changes.
	Steps []Step `yaml:"steps"`
}

// Poisson is independent arrivals.
type Poisson struct {
	// Rate in requests a second.
	Rate float64 `yaml:"rate"`
}

// Bursts are requests that arrive at once, from 0 on.
type Bursts struct {
	Size  int      `yaml:"size"`
	Every Duration `yaml:"every"`
}

// Step is the rate from a time on.
type Step struct {
	At   Duration `yaml:"at"`
	Rate float64  `yaml:"rate"`
}

// Distribution is how lengths are distributed: exactly one of the three. They are rounded to whole tokens.
type Distribution struct {
	Fixed     int        `yaml:"fixed"`
	Uniform   *Uniform   `yaml:"uniform"`
	Lognormal *Lognormal `yaml:"lognormal"`
}

// Uniform is from Min to Max, both included.
type Uniform struct {
	Min int `yaml:"min"`
	Max int `yaml:"max"`
}

// Lognormal is cut off at Min and Max: what is beyond becomes the bound.
type Lognormal struct {
	Median float64 `yaml:"median"`
	Sigma  float64 `yaml:"sigma"`
	Min    int     `yaml:"min"`
	Max    int     `yaml:"max"`
}

// Prefixes are groups of prompts that share a beginning. All pairs of a group and a question are asked once, in random order, then
// again in another order, and so on.
type Prefixes struct {
	Groups       int `yaml:"groups"`
	PrefixTokens int `yaml:"prefixTokens"`
	// Questions per group. One that comes again is the same prompt.
	Questions      int `yaml:"questions"`
	QuestionTokens int `yaml:"questionTokens"`
}

// FaultKind is what happens to servers.
type FaultKind string

// The kinds.
const (
	FaultSlow       FaultKind = "slow"       // works at Factor of its speed
	FaultKill       FaultKind = "kill"       // fails what it has, refuses what comes and answers no check
	FaultRevive     FaultKind = "revive"     // ends a kill, with an empty cache
	FaultMetricsOff FaultKind = "metricsOff" // its metrics cannot be read
	FaultStall      FaultKind = "stall"      // takes requests and does not go on with them, answers no check and no reading of metrics
)

// Fault is something that happens to some servers.
type Fault struct {
	At Duration `yaml:"at"`
	// Servers that it happens to. None: all.
	Servers []int     `yaml:"servers"`
	Kind    FaultKind `yaml:"kind"`
	// Factor of the speed that a slow server keeps.
	Factor float64 `yaml:"factor"`
	// Until is when it is over. 0: never.
	Until Duration `yaml:"until"`
}

// Signals is what gateways hear of servers.
type Signals struct {
	// Interval of the engine's metrics.
	Interval Duration `yaml:"interval"`
	// GPUInterval of the GPU's metrics.
	GPUInterval Duration `yaml:"gpuInterval"`
	// HealthInterval of health checks. After a failed check the next comes in 200 ms at most.
	HealthInterval Duration `yaml:"healthInterval"`
	// HealthTimeout of one check.
	HealthTimeout Duration `yaml:"healthTimeout"`
}

// Kind is how a policy chooses.
type Kind string

// The kinds of policies.
const (
	RoundRobin    Kind = "roundRobin"    // in turn
	LeastRequest  Kind = "leastRequest"  // Envoy's: of two at random the one with fewer active requests; by weights where they differ
	LeastInFlight Kind = "leastInFlight" // the fewest requests in flight over all gateways, exactly known
	Mission       Kind = "mission"       // GPU > 85 %: x0.7, queue > 500 ms: x0.5, each second anew; smooth weighted round robin
	MaxScore      Kind = "maxScore"      // the best score of the last reading
	WeirWeights   Kind = "weirWeights"   // Weir's weights alone, under Envoy's weighted least request
	Weir          Kind = "weir"          // Weir's weights and Weir's choice per request
)

// Kinds in the order of reports.
func Kinds() []Kind {
	return []Kind{RoundRobin, LeastRequest, LeastInFlight, Mission, MaxScore, WeirWeights, Weir}
}

// Policy is one that takes part. In YAML the name of a kind alone will do.
type Policy struct {
	// Name is what reports and bars call it. Without it: the kind.
	Name string `yaml:"name"`
	Kind Kind   `yaml:"kind"`
	// Interval of the readings of metrics, where it differs from the scenario's.
	Interval Duration `yaml:"interval"`
	// LoadPolicy, where it differs from the scenario's.
	LoadPolicy PolicySpec `yaml:"loadPolicy"`
}

// Bar is a bound on a figure of a policy relative to that of another: the ratio of the two, its geometric mean over the seeds.
type Bar struct {
	Metric  Metric `yaml:"metric"`
	Policy  string `yaml:"policy"`
	Against string `yaml:"against"`
	// Max and Min bound the ratio. One of them is needed.
	Max float64 `yaml:"max"`
	Min float64 `yaml:"min"`
}

// PolicySpec is a LoadPolicy, checked and with its defaults filled in.
type PolicySpec struct {
	given  *node
	Policy *v1alpha1.LoadPolicy `yaml:"-"`
}

// Duration is a time.Duration that YAML writes as 1m30s.
type Duration time.Duration

// String is the duration as YAML writes it.
func (d Duration) String() string { return time.Duration(d).String() }
