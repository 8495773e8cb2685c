package api

import (
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/weir-dev/weir/extproc/cache"
)

// The states of Cache.Redis.
const (
	redisOff  = "off"
	redisUp   = "up"
	redisDown = "down"
)

// maxPurge bounds the body of a purge, in bytes.
const maxPurge = 64 << 10

func (a *API) cache(w http.ResponseWriter, _ *http.Request) {
	s := a.CacheStats()
	body := Cache{
		Redis: redisOff, Replicas: s.Replicas, Buying: s.Flights, BuyingBytes: s.FlightBytes, Queue: s.Queue, Policies: []CachePolicyState{},
	}
	switch {
	case s.RedisUp:
		body.Redis = redisUp
	case s.Redis:
		body.Redis = redisDown
	}
	for i := range s.Policies {
		body.Policies = append(body.Policies, cachePolicyOf(&s.Policies[i]))
	}
	write(w, body)
}

func cachePolicyOf(s *cache.PolicyStats) CachePolicyState {
	p := s.Policy
	out := CachePolicyState{
		ID: p.ID, Entries: s.Entries, Bytes: s.Bytes, MaxBytes: p.MemoryBytes, TTLSeconds: p.TTL.Seconds(), SharedStore: p.Redis, Semantic: p.Semantic != nil,
		Hits: CacheHits{Memory: s.MemoryHits, Redis: s.RedisHits}, Stale: s.Stale, Negative: s.Negative, Misses: s.Misses, Shared: s.Shared,
		Bought: s.Bought, Failed: s.Failed, Refreshed: s.Refreshes, Evicted: s.Evictions,
		HitRatio:    ratio(s.MemoryHits+s.RedisHits+s.Stale+s.Negative, s.Misses),
		SavedTokens: SavedTokens{Input: s.SavedInput, Output: s.SavedOutput},
		SavedCost:   make([]Amount, 0, len(s.SavedCost)),
	}
	for _, currency := range slices.Sorted(maps.Keys(s.SavedCost)) {
		out.SavedCost = append(out.SavedCost, Amount{Amount: s.SavedCost[currency].String(), Currency: currency})
	}
	if b := s.Bloom; b != nil && p.Bloom != nil {
		out.Bloom = &BloomState{
			Ready: b.Ready, Keys: b.Keys, MaxKeys: p.Bloom.Keys, Bytes: b.Bytes, Spared: b.No, Found: b.Right, Missed: b.Wrong,
			FalsePositives: ratio(b.Wrong, b.No), ConfiguredFalsePositives: p.Bloom.FalsePositives,
		}
	}
	return out
}

// ratio is the part that some are of some and others; nil of nothing.
func ratio(some, others int64) *float64 {
	if some+others == 0 {
		return nil
	}
	v := float64(some) / float64(some+others)
	return &v
}

func (a *API) purgeCache(w http.ResponseWriter, r *http.Request) {
	s, err := parsePurge(http.MaxBytesReader(w, r.Body, maxPurge))
	if err != nil {
		Fail(w, http.StatusBadRequest, err.Error())
		return
	}
	n, err := a.PurgeCache(r.Context(), s)
	if err != nil {
		w.Header().Set("retry-after", "1")
		Fail(w, http.StatusServiceUnavailable, "the answers are purged from this replica, but not surely from Redis and the other replicas; the log says why. Purge again when Redis answers")
		return
	}
	write(w, CachePurged{n})
}

const purgeForm = `the body must be an object with one or more of tenant, model, tag, policy (namespace/name) and key, as in {"policy": "default/chat"}`

// parsePurge reads a CachePurge. A member that it does not have is an error: what was meant to narrow a purge must not widen it.
func parsePurge(r io.Reader) (s cache.Selector, err error) {
	var body CachePurge
	d := json.NewDecoder(r)
	d.DisallowUnknownFields()
	if err := d.Decode(&body); err != nil {
		return s, errors.New(purgeForm)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return s, errors.New(purgeForm + ", and nothing else")
	}
	s = cache.Selector{Tenant: body.Tenant, Model: body.Model, Tag: body.Tag, Policy: body.Policy}
	if body.Policy != "" && !strings.Contains(body.Policy, "/") {
		return s, errors.New("policy must be namespace/name, as in default/chat")
	}
	if body.Key != "" {
		k, err := cache.ParseKey(body.Key)
		if err != nil {
			return s, err
		}
		s.Key = &k
	}
	if s.Empty() {
		return s, errors.New("nothing is selected: " + purgeForm)
	}
	return s, nil
}
