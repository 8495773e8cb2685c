package simulate

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"time"

	yaml "go.yaml.in/yaml/v3"

	"github.com/weir-dev/weir/test/sim/gpu/engine"
)

// Bounds of a scenario, so that a slip of the pen does not take hours.
const (
	maxServers  = 1000
	maxGateways = 100
	maxRequests = 1_000_000
)

// Load reads a scenario from a file. What is wrong with it is told as Problems.
func Load(file string) (*Scenario, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return Parse(file, raw)
}

// Parse reads a scenario. The name of the file is for problems, and for the files that it names.
func Parse(file string, raw []byte) (*Scenario, error) {
	d := &decoder{file: file, lines: map[string]int{}}
	var doc yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(raw))
	if err := dec.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			err = errors.New("is empty")
		}
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: there is more than one document: write one scenario a file", file)
	}
	var s Scenario
	d.value("", doc.Content[0], reflect.ValueOf(&s).Elem())
	if len(d.problems) > 0 {
		return nil, d.sorted()
	}
	s.defaults(file)
	if d.check(&s); len(d.problems) > 0 {
		return nil, d.sorted()
	}
	if err := d.policies(&s, filepath.Dir(file)); err != nil {
		return nil, err
	}
	if len(d.problems) > 0 {
		return nil, d.sorted()
	}
	return &s, nil
}

func (s *Scenario) defaults(file string) {
	or := func(d *Duration, v time.Duration) {
		if *d == 0 {
			*d = Duration(v)
		}
	}
	s.Name = cmp.Or(s.Name, filepath.Base(file))
	or(&s.Duration, time.Minute)
	or(&s.Drain, 30*time.Second)
	if len(s.Seeds) == 0 {
		s.Seeds = []uint64{1}
	}
	s.Gateways = cmp.Or(s.Gateways, 1)
	if s.Retries == nil {
		s.Retries = new(int)
		*s.Retries = 1
	}
	or(&s.PublishDelay, 50*time.Millisecond)
	or(&s.Signals.Interval, 500*time.Millisecond)
	or(&s.Signals.GPUInterval, time.Second)
	or(&s.Signals.HealthInterval, time.Second)
	or(&s.Signals.HealthTimeout, time.Second)
	for i := range s.Pool.Overrides {
		o := &s.Pool.Overrides[i]
		o.Speed, o.Weight = cmp.Or(o.Speed, 1), cmp.Or(o.Weight, 1)
	}
	if len(s.Policies) == 0 {
		for _, k := range Kinds() {
			s.Policies = append(s.Policies, Policy{Kind: k})
		}
	}
	for i := range s.Policies {
		p := &s.Policies[i]
		p.Name = cmp.Or(p.Name, string(p.Kind))
		or(&p.Interval, time.Duration(s.Signals.Interval))
	}
}

// check finds what a scenario must not say.
func (d *decoder) check(s *Scenario) {
	bad := func(field, format string, args ...any) { d.errorf(d.lineOf(field), field, format, args...) }
	positive := func(field string, v Duration) {
		if v <= 0 {
			bad(field, "must be above 0s, and is %v", v)
		}
	}
	notNegative := func(field string, v Duration) {
		if v < 0 {
			bad(field, "must not be below 0s, and is %v", v)
		}
	}
	positive("duration", s.Duration)
	notNegative("warmUp", s.WarmUp)
	notNegative("drain", s.Drain)
	notNegative("timeout", s.Timeout)
	notNegative("publishDelay", s.PublishDelay)
	if s.WarmUp >= s.Duration {
		bad("warmUp", "%v leaves nothing of the duration of %v to count", s.WarmUp, s.Duration)
	}
	least := func(field string, v Duration) {
		if v < Duration(time.Millisecond) {
			bad(field, "must be 1ms at least, and is %v", v)
		}
	}
	least("signals.interval", s.Signals.Interval)
	least("signals.gpuInterval", s.Signals.GPUInterval)
	least("signals.healthInterval", s.Signals.HealthInterval)
	least("signals.healthTimeout", s.Signals.HealthTimeout)
	if s.Gateways < 1 || s.Gateways > maxGateways {
		bad("gateways", "must be from 1 to %d, and is %d", maxGateways, s.Gateways)
	}
	if *s.Retries < 0 || *s.Retries > 2 {
		bad("retries", "must be from 0 to 2, and is %d", *s.Retries)
	}
	if seen := duplicate(s.Seeds); seen != nil {
		bad("seeds", "%d is there twice", *seen)
	}
	d.checkPool(&s.Pool, bad)
	if s.Pool.Servers > 0 {
		d.checkWorkload(s, bad)
	}
	for i, f := range s.Faults {
		d.checkFault(fmt.Sprintf("faults[%d]", i), f, &s.Pool, bad)
	}
	names := map[string]bool{}
	for i, p := range s.Policies {
		at := fmt.Sprintf("policies[%d]", i)
		if !slices.Contains(Kinds(), p.Kind) {
			bad(at, "there is no kind %q: the kinds are %v", p.Kind, Kinds())
		}
		if names[p.Name] {
			bad(at, "the name %q is there twice: give one of them another name", p.Name)
		}
		names[p.Name] = true
		least(at+".interval", p.Interval)
	}
	for i, b := range s.Bars {
		at := fmt.Sprintf("bars[%d]", i)
		if !slices.Contains(Metrics(), b.Metric) {
			bad(at+".metric", "there is no metric %q: the metrics are %v", b.Metric, Metrics())
		}
		for field, name := range map[string]string{".policy": b.Policy, ".against": b.Against} {
			if !names[name] {
				bad(at+field, "there is no policy %q under policies", name)
			}
		}
		if b.Max < 0 || b.Min < 0 || b.Max == 0 && b.Min == 0 {
			bad(at, "needs max or min, above 0")
		}
		if b.Max > 0 && b.Min > b.Max {
			bad(at, "min %v is above max %v", b.Min, b.Max)
		}
	}
}

func duplicate(seeds []uint64) *uint64 {
	for i := range seeds {
		if slices.Contains(seeds[:i], seeds[i]) {
			return &seeds[i]
		}
	}
	return nil
}

type complain = func(field, format string, args ...any)

func (d *decoder) checkPool(p *Pool, bad complain) {
	if p.Servers < 1 || p.Servers > maxServers {
		bad("pool.servers", "must be from 1 to %d, and is %d", maxServers, p.Servers)
	}
	profile := func(field, name string) {
		if _, err := engine.ProfileByName(name); err != nil {
			bad(field, "%v", err)
		}
	}
	profile("pool.profile", p.Profile)
	kv := func(field string, v int) {
		if v != 0 && v < 1024 {
			bad(field, "must be 1024 at least, and is %d", v)
		}
	}
	kv("pool.kvTokens", p.KVTokens)
	for i, o := range p.Overrides {
		at := fmt.Sprintf("pool.overrides[%d]", i)
		if len(o.Servers) == 0 {
			bad(at, "names no servers")
		}
		checkServers(at+".servers", o.Servers, p.Servers, bad)
		if o.Speed < 0.001 || o.Speed > 1000 {
			bad(at+".speed", "must be from 0.001 to 1000, and is %v", o.Speed)
		}
		if o.Profile != "" {
			profile(at+".profile", o.Profile)
		}
		kv(at+".kvTokens", o.KVTokens)
		if o.Weight < 1 || o.Weight > 1000 {
			bad(at+".weight", "must be from 1 to 1000, and is %d", o.Weight)
		}
	}
}

func checkServers(field string, servers []int, n int, bad complain) {
	for _, s := range servers {
		if s < 0 || s >= n {
			bad(field, "there is no server %d: they are numbered from 0 to %d", s, n-1)
		}
	}
}

func (d *decoder) checkFault(at string, f Fault, p *Pool, bad complain) {
	checkServers(at+".servers", f.Servers, p.Servers, bad)
	kinds := []FaultKind{FaultSlow, FaultKill, FaultRevive, FaultMetricsOff, FaultStall}
	if !slices.Contains(kinds, f.Kind) {
		bad(at+".kind", "there is no kind %q: the kinds are %v", f.Kind, kinds)
	}
	if f.At < 0 {
		bad(at+".at", "must not be below 0s, and is %v", f.At)
	}
	if f.Until != 0 && f.Until <= f.At {
		bad(at+".until", "%v is not after the beginning at %v", f.Until, f.At)
	}
	switch {
	case f.Kind == FaultSlow && (f.Factor < 0.001 || f.Factor > 1000):
		bad(at+".factor", "must be from 0.001 to 1000, and is %v", f.Factor)
	case f.Kind != FaultSlow && f.Factor != 0:
		bad(at+".factor", "belongs to the kind slow only")
	case f.Kind == FaultRevive && f.Until != 0:
		bad(at+".until", "does not belong to the kind revive: write a kill at that time")
	}
}

func (d *decoder) checkWorkload(s *Scenario, bad complain) {
	w := &s.Workload
	at := "workload.arrivals"
	a := w.Arrivals
	rate := func(field string, r float64) {
		if r <= 0 || r > 1e6 {
			bad(field, "must be above 0 requests a second and at most 1000000, and is %v", r)
		}
	}
	expected := 0.0
	switch given := count(a.Poisson != nil, a.Bursts != nil, len(a.Steps) > 0); {
	case given != 1:
		bad(at, "give exactly one of poisson, bursts, steps")
	case a.Poisson != nil:
		rate(at+".poisson.rate", a.Poisson.Rate)
		expected = a.Poisson.Rate * time.Duration(s.Duration).Seconds()
	case a.Bursts != nil:
		if a.Bursts.Size < 1 {
			bad(at+".bursts.size", "must be 1 at least, and is %d", a.Bursts.Size)
		}
		if a.Bursts.Every < Duration(time.Millisecond) {
			bad(at+".bursts.every", "must be 1ms at least, and is %v", a.Bursts.Every)
		} else {
			expected = float64(a.Bursts.Size) * float64(s.Duration) / float64(a.Bursts.Every)
		}
	default:
		for i, step := range a.Steps {
			field := fmt.Sprintf("%s.steps[%d]", at, i)
			rate(field+".rate", step.Rate)
			if i == 0 && step.At != 0 {
				bad(field+".at", "the first step must be at 0s")
			}
			if i > 0 && step.At <= a.Steps[i-1].At {
				bad(field+".at", "steps must come in the order of their times")
			}
			expected = max(expected, step.Rate*time.Duration(s.Duration).Seconds())
		}
	}
	if expected > maxRequests {
		bad(at, "makes about %.0f requests, more than %d", expected, maxRequests)
	}
	longest := 0
	lengths := func(field string, l *Distribution, needed bool) {
		switch {
		case l == nil && needed:
			bad(field, "is missing")
		case l != nil && !needed:
			bad(field, "does not go together with prefixes, which say how long prompts are")
		case l != nil:
			longest += checkDistribution(field, l, bad)
		}
	}
	lengths("workload.prompt", w.Prompt, w.Prefixes == nil)
	lengths("workload.output", w.Output, true)
	if p := w.Prefixes; p != nil {
		least := func(field string, v int) {
			if v < 1 {
				bad("workload.prefixes."+field, "must be 1 at least, and is %d", v)
			}
		}
		least("groups", p.Groups)
		least("prefixTokens", p.PrefixTokens)
		least("questions", p.Questions)
		least("questionTokens", p.QuestionTokens)
		if p.Groups*p.Questions > maxRequests {
			bad("workload.prefixes", "groups x questions must be at most %d", maxRequests)
		}
		longest += p.PrefixTokens + p.QuestionTokens
	}
	if len(d.problems) > 0 {
		return
	}
	for i := range s.Pool.Servers {
		profile, _ := s.Pool.server(i)
		if room := profile.KVTokens / profile.BlockTokens * profile.BlockTokens; longest > room {
			bad("workload", "requests of up to %d tokens do not fit into server %d, which has room for %d", longest, i, room)
			return
		}
	}
}

func count(bs ...bool) int {
	n := 0
	for _, b := range bs {
		if b {
			n++
		}
	}
	return n
}

// checkDistribution checks one and says the longest length it gives.
func checkDistribution(field string, l *Distribution, bad complain) int {
	const most = 10_000_000
	bounds := func(field string, low, high int) int {
		if low < 1 || high < low || high > most {
			bad(field, "needs 1 <= min <= max <= %d, and has %d and %d", most, low, high)
		}
		return high
	}
	switch {
	case count(l.Fixed != 0, l.Uniform != nil, l.Lognormal != nil) != 1:
		bad(field, "give exactly one of fixed, uniform, lognormal")
		return 0
	case l.Uniform != nil:
		return bounds(field+".uniform", l.Uniform.Min, l.Uniform.Max)
	case l.Lognormal != nil:
		if l.Lognormal.Median < 1 || l.Lognormal.Sigma < 0 || l.Lognormal.Sigma > 5 {
			bad(field+".lognormal", "needs a median of 1 at least and a sigma from 0 to 5, and has %v and %v", l.Lognormal.Median, l.Lognormal.Sigma)
		}
		return bounds(field+".lognormal", l.Lognormal.Min, l.Lognormal.Max)
	}
	return bounds(field+".fixed", l.Fixed, l.Fixed)
}

// server is the profile of a server and the base weight of its endpoint.
func (p *Pool) server(i int) (profile engine.Profile, weight int) {
	name, kv, speed, weight := p.Profile, p.KVTokens, 1.0, 1
	for _, o := range p.Overrides {
		if slices.Contains(o.Servers, i) {
			name, kv, speed, weight = cmp.Or(o.Profile, name), cmp.Or(o.KVTokens, kv), o.Speed, o.Weight
		}
	}
	profile, err := engine.ProfileByName(name)
	if err != nil {
		return profile, weight // Parse has told of it
	}
	profile.KVTokens = cmp.Or(kv, profile.KVTokens)
	return profile.Scaled(speed), weight
}
