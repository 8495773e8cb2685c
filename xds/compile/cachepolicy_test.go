package compile

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weir-dev/weir/extproc/cache"
	"github.com/weir-dev/weir/xds/source"
)

const docShared = "sharedState: {redis: {addresses: ['r.example:1']}}"

// cached is a folder with a CachePolicy.
func cached(gateway, rest string) string {
	d := docGateway
	if gateway != "" {
		d = doc("LLMGateway", "main", "{listeners: [{name: http, address: 127.0.0.1, port: 8080}], "+gateway+"}")
	}
	return d + docServed + doc("CachePolicy", "c", "{targetRefs: [{kind: Route, name: all}]"+rest+"}")
}

func TestCachePolicy(t *testing.T) {
	least := cache.Policy{
		ID: "default/c", TTL: time.Hour, Jitter: 0.1, RefreshAhead: true, MaxEntryBytes: 1 << 20, MemoryBytes: 64 << 20,
	}
	for _, c := range []struct {
		name, gateway, rest string
		want                func(*cache.Policy)
	}{
		{"least", "", "", func(*cache.Policy) {}},
		{"redis", docShared, ", redis: {}", func(p *cache.Policy) {
			p.Redis, p.MaxRedisEntryBytes, p.MaxWait, p.Bloom = true, 512<<10, 30*time.Second, &cache.Bloom{Keys: 1_000_000, FalsePositives: 0.01}
		}},
		{"everything", docShared, `, models: [m], eligible: Deterministic, maxTemperature: '0.3', seeded: true, scope: Consumer, ttl: 5m, jitterPercent: 0, staleWhileRevalidate: 1h,
			refreshAhead: false, negative: {ttl: 3s, statuses: [400, 451]}, maxEntrySize: 4Mi, memory: '0', whenAbandoned: Finish, promptVersion: v2, tags: [a, b],
			redis: {write: Behind, maxEntrySize: 100k, maxWait: 0s, bloom: {keys: 5000, falsePositiveRate: '0.001'}},
			semantic: {model: embed, threshold: '0.9', dimensions: 256, maxEntries: 5, index: Redis}`, func(p *cache.Policy) {
			*p = cache.Policy{
				ID: "default/c", MaxTemperature: 0.3, Seeded: true, Scope: cache.ScopeConsumer, TTL: 5 * time.Minute, StaleWhileRevalidate: time.Hour,
				Negative: []int{400, 451}, NegativeTTL: 3 * time.Second, MaxEntryBytes: 4 << 20, KeepFilling: true, PromptVersion: "v2", Tags: []string{"a", "b"},
				Redis: true, Write: cache.WriteBehind, MaxRedisEntryBytes: 100_000, Bloom: &cache.Bloom{Keys: 5000, FalsePositives: 0.001},
				Semantic: &cache.Semantic{Model: "embed", Threshold: 0.9, Dimensions: 256, MaxEntries: 5, Index: cache.SemanticRedis},
			}
		}},
		{"no filter", docShared, ", eligible: All, scope: Shared, negative: {}, redis: {write: Aside, bloom: {enabled: false}}, semantic: {model: e}", func(p *cache.Policy) {
			p.Eligible, p.Scope, p.Negative, p.NegativeTTL = cache.EligibleAll, cache.ScopeShared, []int{400, 404, 413, 422}, 10*time.Second
			p.Redis, p.Write, p.MaxRedisEntryBytes, p.MaxWait = true, cache.WriteAside, 512<<10, 30*time.Second
			p.Semantic = &cache.Semantic{Model: "e", Threshold: 0.95, MaxEntries: 10_000}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := problemCase{name: c.name, documents: cached(c.gateway, c.rest)}.run(t)
			if v == nil {
				t.FailNow()
			}
			var got []*cache.Policy
			for k := range v.Table.Caches.Each {
				got = append(got, k.Policy)
			}
			if len(got) == 0 || slices.ContainsFunc(got, func(p *cache.Policy) bool { return p != got[0] }) {
				t.Fatalf("the policies are %v", got)
			}
			want := least
			c.want(&want)
			if a, b := shown(got[0]), shown(&want); a != b {
				t.Errorf("got\n  %s\nwant\n  %s", a, b)
			}
		})
	}
}

// shown is a policy with what it points to.
func shown(p *cache.Policy) string {
	flat := *p
	flat.Bloom, flat.Semantic = nil, nil
	return fmt.Sprintf("%+v %+v %+v", flat, p.Bloom, p.Semantic)
}

func TestCachePolicyProblems(t *testing.T) {
	at := "CachePolicy default/c: spec."
	for _, c := range []problemCase{
		{name: "nowhere", documents: cached("", ", memory: '0'"), want: []string{at + "memory: it is 0 and there is no spec.redis"}},
		{name: "no shared state", documents: cached("", ", redis: {}"), want: []string{at + "redis: warning: no LLMGateway has sharedState, so each replica keeps answers in its own memory alone"}},
		{name: "no shared state and no memory", documents: cached("", ", memory: '0', redis: {}"), want: []string{at + "redis: no LLMGateway has sharedState, and spec.memory is 0"}},
		{name: "aside without memory", documents: cached(docShared, ", memory: '0', redis: {write: Aside}"), want: []string{at + "redis.write: Aside writes what is asked for again while it is in memory"}},
		{name: "little memory", documents: cached("", ", memory: 1Ki"), want: []string{at + "memory: warning: it is less than spec.maxEntrySize"}},
		{name: "sizes", documents: cached(docShared, ", maxEntrySize: 1Gi, memory: '-1', redis: {maxEntrySize: '0.5'}"), want: []string{
			at + "maxEntrySize: 1Gi is not a whole number of bytes from 1 to 64Mi", at + "memory: -1 is not a whole number of bytes from 0 to 1Ti",
			at + "redis.maxEntrySize: 500m is not a whole number of bytes from 1 to 64Mi"}},
		{name: "numbers", documents: cached(docShared, ", maxTemperature: '2.5', redis: {bloom: {falsePositiveRate: '0.9'}}, semantic: {model: e, threshold: '0.0'}"), want: []string{
			at + `maxTemperature: "2.5" is not a number from 0 to 2`, at + `redis.bloom.falsePositiveRate: "0.9" is not a number from 0.000001 to 0.5`,
			at + `semantic.threshold: "0.0" is not a number from 0.000001 to 1`}},
		{name: "meanings in no Redis", documents: cached(docShared, ", semantic: {model: e, index: Redis}"), want: []string{at + "semantic.index: Redis needs spec.redis"}},
		{name: "unknown route", documents: docGateway + docServed + doc("CachePolicy", "c", "{targetRefs: [{kind: Route, name: other}]}"), want: []string{at + "targetRefs[0].name: there is no Route default/other"}},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t) })
	}
}

// TestPoliciesOfOneTarget: whoever writes a policy that another one comes before is told so.
func TestPoliciesOfOneTarget(t *testing.T) {
	at := "CachePolicy default/b: spec.targetRefs[0]: warning: CachePolicy default/a has the same target and comes first (the older of two, or of equal age the first by name), so this one "
	served := docGateway + docServed
	cache := func(name, rest string) string {
		return doc("CachePolicy", name, "{targetRefs: [{kind: Route, name: all}]"+rest+"}")
	}
	age := func(kindAge map[string]int) func(*source.Objects) {
		return func(o *source.Objects) {
			for _, p := range o.CachePolicies {
				p.CreationTimestamp.Time = time.Unix(int64(kindAge[p.Name]), 0)
			}
		}
	}
	for _, c := range []problemCase{
		{name: "narrower and younger", documents: served + cache("a", "") + cache("b", ", models: [m]"), want: []string{at + "never applies there: narrow spec.models of default/a, delete one"}},
		{name: "by age and not by name", documents: served + cache("a", "") + cache("b", ""), edit: age(map[string]int{"a": 20, "b": 10}),
			want: []string{"CachePolicy default/a: spec.targetRefs[0]: warning: CachePolicy default/b has the same target"}},
		{name: "narrower and older", documents: served + cache("a", ", models: [m]") + cache("b", "")},
		{name: "other models", documents: served + cache("a", ", models: [m]") + cache("b", ", models: [other, 'o*']")},
		{name: "some of its models", documents: served + cache("a", ", models: ['m*', 'x*']") + cache("b", ", models: [m-1, other, 'x*']"),
			want: []string{at + "does not apply there to m-1, x*: name each model in one"}},
		{name: "all of its models", documents: served + cache("a", ", models: ['m*']") + cache("b", ", models: [m-1, m-2]"), want: []string{at + "never applies there"}},
		{name: "the first of two is enough", documents: served + cache("a", "") + cache("b", "") + cache("c", ""), want: []string{
			at + "never applies", "CachePolicy default/c: spec.targetRefs[0]: warning: CachePolicy default/a"}},
		{name: "a gateway and its route", documents: served + cache("b", "") + doc("CachePolicy", "a", "{targetRefs: [{kind: LLMGateway, name: main}]}")},
		{name: "one tenant, two namespaces", documents: served + doc("CachePolicy", "a", "{targetRefs: [{kind: Tenant, name: t}]}") +
			strings.Replace(doc("CachePolicy", "b", "{targetRefs: [{kind: Tenant, name: t}]}"), "name: b", "name: b, namespace: t", 1),
			want: []string{"CachePolicy t/b: spec.targetRefs[0]: warning: CachePolicy default/a has the same target"}},
		{name: "sessions", documents: served + doc("SessionPolicy", "a", "{targetRefs: [{kind: Tenant, name: '*'}]}") + doc("SessionPolicy", "b", "{targetRefs: [{kind: Route, name: all}, {kind: Tenant, name: '*'}]}"),
			want: []string{"SessionPolicy default/b: spec.targetRefs[1]: warning: SessionPolicy default/a has the same target"}},
		{name: "a cache and sessions", documents: served + cache("a", "") + doc("SessionPolicy", "b", "{targetRefs: [{kind: Route, name: all}]}")},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t) })
	}
}

// TestConflictsComeAndGo: a policy that appears later brings the warning, and takes it away again.
func TestConflictsComeAndGo(t *testing.T) {
	one := docGateway + docServed + doc("CachePolicy", "b", "{targetRefs: [{kind: Route, name: all}], models: [m]}")
	k := NewCompiler()
	for i, documents := range []string{one, one + doc("CachePolicy", "a", "{targetRefs: [{kind: Route, name: all}]}"), one} {
		_, problems := k.Compile(load(t, documents), options(t))
		if i != 1 && len(problems) > 0 || i == 1 && (len(problems) != 1 || problems[0].Reason != source.ReasonConflict || problems[0].Severity != source.Warning) {
			t.Errorf("step %d: %v", i, problems)
		}
	}
}
