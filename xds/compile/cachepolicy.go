package compile

import (
	"strconv"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/extproc/cache"
	"github.com/weir-dev/weir/xds/source"
)

// What a CachePolicy means where it says nothing. The schema has the same values; objects made by hand may lack them.
const (
	cacheTTL            = time.Hour
	cacheJitterPercent  = 10
	cacheEntrySize      = 1 << 20
	cacheMemory         = 64 << 20
	cacheRedisEntrySize = 512 << 10
	cacheMaxWait        = 30 * time.Second
	cacheNegativeTTL    = 10 * time.Second
	bloomKeys           = 1_000_000
	bloomRate           = 0.01
	semanticThreshold   = 0.95
	semanticEntries     = 10_000

	maxCacheEntrySize = 64 << 20 // what package cache reads back
	maxCacheMemory    = 1 << 40
)

// cachePolicy compiles a CachePolicy, but for its targets and its models.
func (c *compiler) cachePolicy(ref source.ObjectRef, o *v1alpha1.CachePolicy) (*cache.Policy, bool) {
	spec := &o.Spec
	ok := true
	p := &cache.Policy{
		ID: o.Namespace + "/" + o.Name, Seeded: spec.Seeded, PromptVersion: spec.PromptVersion,
		TTL: v1alpha1.DurationOr(spec.TTL, cacheTTL), StaleWhileRevalidate: duration(spec.StaleWhileRevalidate),
		Jitter:       float64(valueOr(spec.JitterPercent, cacheJitterPercent)) / 100,
		RefreshAhead: valueOr(spec.RefreshAhead, true), KeepFilling: spec.WhenAbandoned == v1alpha1.CacheFinish,
		Eligible: eligible(spec.Eligible), Scope: cacheScope(spec.Scope),
	}
	for _, t := range spec.Tags {
		p.Tags = append(p.Tags, string(t))
	}
	p.MaxTemperature = c.decimal(ref, "spec.maxTemperature", spec.MaxTemperature, 0, 0, 2, &ok)
	p.MaxEntryBytes = c.bytes(ref, "spec.maxEntrySize", spec.MaxEntrySize, cacheEntrySize, 1, maxCacheEntrySize, &ok)
	p.MemoryBytes = c.bytes(ref, "spec.memory", spec.Memory, cacheMemory, 0, maxCacheMemory, &ok)
	if n := spec.Negative; n != nil {
		p.NegativeTTL = v1alpha1.DurationOr(n.TTL, cacheNegativeTTL)
		for _, s := range n.Statuses {
			p.Negative = append(p.Negative, int(s))
		}
		if len(p.Negative) == 0 {
			p.Negative = []int{400, 404, 413, 422}
		}
	}
	c.cacheRedis(ref, spec, p, &ok)
	switch {
	case p.MemoryBytes == 0 && spec.Redis == nil:
		c.errorf(ref, "spec.memory", "it is 0 and there is no spec.redis, so that nothing would be kept anywhere: give one of them")
		ok = false
	case p.MemoryBytes > 0 && p.MemoryBytes < p.MaxEntryBytes:
		c.warnf(ref, "spec.memory", "it is less than spec.maxEntrySize: an answer that is larger than the memory is not kept there")
	}
	if s := spec.Semantic; s != nil {
		p.Semantic = &cache.Semantic{
			Model: string(s.Model), Dimensions: int(s.Dimensions), MaxEntries: int(s.MaxEntries),
			Threshold: c.decimal(ref, "spec.semantic.threshold", s.Threshold, semanticThreshold, 0.000001, 1, &ok),
		}
		if p.Semantic.MaxEntries == 0 {
			p.Semantic.MaxEntries = semanticEntries
		}
		switch s.Index {
		case v1alpha1.SemanticMemory:
			p.Semantic.Index = cache.SemanticMemory
		case v1alpha1.SemanticRedis:
			p.Semantic.Index = cache.SemanticRedis
			if spec.Redis == nil {
				c.errorf(ref, "spec.semantic.index", "Redis needs spec.redis: write redis: {} or another index")
				ok = false
			}
		}
	}
	return p, ok
}

// cacheRedis compiles what a CachePolicy keeps in Redis.
func (c *compiler) cacheRedis(ref source.ObjectRef, spec *v1alpha1.CachePolicySpec, p *cache.Policy, ok *bool) {
	r := spec.Redis
	if r == nil {
		return
	}
	p.Redis = true
	switch r.Write {
	case v1alpha1.CacheBehind:
		p.Write = cache.WriteBehind
	case v1alpha1.CacheAside:
		p.Write = cache.WriteAside
		if p.MemoryBytes == 0 {
			c.errorf(ref, "spec.redis.write", "Aside writes what is asked for again while it is in memory, and spec.memory is 0: use Through or Behind, or give memory")
			*ok = false
		}
	}
	p.MaxRedisEntryBytes = c.bytes(ref, "spec.redis.maxEntrySize", r.MaxEntrySize, cacheRedisEntrySize, 1, maxCacheEntrySize, ok)
	p.MaxWait = v1alpha1.DurationOr(r.MaxWait, cacheMaxWait)
	if b := r.Bloom; b == nil {
		p.Bloom = &cache.Bloom{Keys: bloomKeys, FalsePositives: bloomRate}
	} else if valueOr(b.Enabled, true) {
		p.Bloom = &cache.Bloom{
			Keys:           b.Keys,
			FalsePositives: c.decimal(ref, "spec.redis.bloom.falsePositiveRate", b.FalsePositiveRate, bloomRate, 0.000001, 0.5, ok),
		}
		if p.Bloom.Keys == 0 {
			p.Bloom.Keys = bloomKeys
		}
	}
	if c.asks(&c.counting.cell); !c.counting.is {
		if p.MemoryBytes == 0 {
			c.errorf(ref, "spec.redis", "no LLMGateway has sharedState, and spec.memory is 0, so that nothing would be kept anywhere")
			*ok = false
			return
		}
		c.warnf(ref, "spec.redis", "no LLMGateway has sharedState, so each replica keeps answers in its own memory alone")
	}
}

// decimal reads a number that the API has as a text.
func (c *compiler) decimal(ref source.ObjectRef, field, text string, otherwise, least, most float64, ok *bool) float64 {
	if text == "" {
		return otherwise
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || !(f >= least && f <= most) {
		c.errorf(ref, field, "%q is not a number from %s to %s", text, decimalText(least), decimalText(most))
		*ok = false
		return otherwise
	}
	return f
}

func decimalText(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }

// bytes reads a size.
func (c *compiler) bytes(ref source.ObjectRef, field string, q *resource.Quantity, otherwise, least, most int64, ok *bool) int64 {
	if q == nil {
		return otherwise
	}
	n := q.Value() // rounds up
	if resource.NewQuantity(n, resource.BinarySI).Cmp(*q) != 0 || n < least || n > most {
		c.errorf(ref, field, "%s is not a whole number of bytes from %d to %s", q.String(), least, resource.NewQuantity(most, resource.BinarySI))
		*ok = false
		return otherwise
	}
	return n
}

// valueOr is what p points to, or what stands for it where it is not given.
func valueOr[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}

func eligible(e v1alpha1.CacheEligibility) cache.Eligible {
	switch e {
	case v1alpha1.CacheOptIn:
		return cache.EligibleOptIn
	case v1alpha1.CacheAll:
		return cache.EligibleAll
	}
	return cache.EligibleDeterministic
}

func cacheScope(s v1alpha1.CacheScope) cache.Scope {
	switch s {
	case v1alpha1.CacheConsumer:
		return cache.ScopeConsumer
	case v1alpha1.CacheShared:
		return cache.ScopeShared
	}
	return cache.ScopeTenant
}
