package semantic

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/weir-dev/weir/extproc/cache"
	"github.com/weir-dev/weir/internal/redisconn"
)

// ErrNoVectorSets is the error of a policy that wants its meanings in a Redis that cannot search them.
var ErrNoVectorSets = errors.New("this Redis has no vector sets: use Redis 8 or later, or the index Memory")

const (
	// effort is how many candidates the search in the graph keeps (EF): more finds more of what is near, and takes longer.
	effort = 200
	// askAgain is after what time a server that could not search vectors is asked again: it may have been replaced.
	askAgain = time.Minute
	// tryAgain is after what time one that did not answer is.
	tryAgain = time.Second
	// trimmed is how many vectors that are too old or too many are removed beside one that is added.
	trimmed = 16
)

// vectorSets is the index in Redis: a vector set for each space, and for each policy a sorted set that says when which vector's
// time is over. All keys of a policy are in one slot of a cluster.
//
// Vectors are kept in full (NOQUANT): with numbers of eight bits similarities would be off by up to 0.01, and the threshold is a promise.
type vectorSets struct {
	conn   *redisconn.Conn
	prefix string
	now    func() time.Time

	mu    sync.Mutex
	able  bool
	asked time.Time // when able was found out; zero: never
	tried time.Time // when a server that did not answer was asked last
}

// supported tells whether the server answers and has vector sets.
func (r *vectorSets) supported(ctx context.Context) (bool, error) {
	now, health := r.now(), r.conn.Health()
	r.mu.Lock()
	able, asked, tried := r.able, r.asked, r.tried
	if health.Err != nil && now.Sub(tried) >= tryAgain {
		r.tried = now
	}
	r.mu.Unlock()
	switch {
	case health.Err != nil && now.Sub(tried) < tryAgain:
		return false, health.Err
	case health.Err == nil && (able || !asked.IsZero() && now.Sub(asked) < askAgain):
		return able, nil
	}
	able = true
	for _, command := range []string{"VADD", "VSIM", "VREM"} {
		reply, err := r.conn.Do(ctx, "COMMAND", "INFO", command).Slice()
		if err != nil {
			return false, fmt.Errorf("whether Redis has vector sets cannot be found out: %w", err)
		}
		able = able && len(reply) == 1 && reply[0] != nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.able, r.asked = able, now
	return able, nil
}

// failed notes an error; a server that does not know the commands any more has been replaced by an older one.
func (r *vectorSets) failed(err error) error {
	if err != nil && strings.Contains(err.Error(), "unknown command") {
		r.mu.Lock()
		r.able = false
		r.mu.Unlock()
	}
	return err
}

// keys of a policy: the braces make it the part that decides the slot.
func (r *vectorSets) keys(policy string) (times, spaces string) {
	h := sha256.Sum256([]byte(policy))
	base := r.prefix + ":meaning:{" + hex.EncodeToString(h[:8]) + "}:"
	return base + "times", base
}

// member of the sorted set of a policy: whose it is, in few bytes, so that a purge need not ask elsewhere.
func member(s *space, key cache.Key) string {
	return short(s.tenant) + short(s.model) + hex.EncodeToString(s.id[:]) + key.String()
}

// Places in a member, in bytes.
const (
	shortLen = 8
	spaceAt  = 2 * shortLen
	keyAt    = spaceAt + 2*16
	memberIs = keyAt + 2*32
)

// short stands for a name.
func short(name string) string {
	h := sha256.Sum256([]byte(name))
	return hex.EncodeToString(h[:shortLen/2])
}

func (r *vectorSets) nearest(ctx context.Context, s *space, v *vector, least float64, n int) ([]Match, error) {
	_, spaces := r.keys(s.policy)
	reply, err := r.conn.Do(ctx, "VSIM", spaces+hex.EncodeToString(s.id[:]), "FP32", blob(v), "WITHSCORES", "COUNT", n, "EF", effort).Slice()
	if err != nil {
		return nil, r.failed(err)
	}
	var matches []Match
	for i := 0; i+1 < len(reply); i += 2 {
		name, _ := reply[i].(string)
		key, err := cache.ParseKey(name)
		if err != nil {
			continue // somebody else's
		}
		score, err := strconv.ParseFloat(fmt.Sprint(reply[i+1]), 64)
		if err != nil {
			return nil, fmt.Errorf("Redis tells the similarity of a vector as %v: %w", reply[i+1], err)
		}
		// Redis says 1 for the same direction and 0 for the opposite one.
		if similarity := 2*score - 1; similarity >= least-slack {
			matches = append(matches, Match{key, min(1, similarity)})
		}
	}
	return matches, nil
}

func (r *vectorSets) add(ctx context.Context, s *space, v *vector, key cache.Key, expires time.Time) error {
	times, spaces := r.keys(s.policy)
	set := spaces + hex.EncodeToString(s.id[:])
	now := r.now()
	ttl := expires.Sub(now)
	if ttl <= 0 {
		return nil
	}
	p := r.conn.Pipeline()
	p.Do(ctx, "VADD", set, "FP32", blob(v), key.String(), "NOQUANT")
	// A space whose last vector's time is over goes as a whole: the last that is added is the last to go, unless the policy's TTL was made
	// shorter, and then that is right too.
	p.PExpire(ctx, set, ttl)
	p.ZAdd(ctx, times, redis.Z{Score: float64(expires.UnixMilli()), Member: member(s, key)})
	p.PExpire(ctx, times, ttl)
	old := p.ZRangeByScore(ctx, times, &redis.ZRangeBy{Min: "-inf", Max: strconv.FormatInt(now.UnixMilli(), 10), Count: trimmed})
	count := p.ZCard(ctx, times)
	if _, err := p.Exec(ctx); err != nil {
		return r.failed(err)
	}
	leave := old.Val()
	if more := min(int(count.Val())-s.most, trimmed); more > len(leave) {
		var err error
		if leave, err = r.conn.ZRange(ctx, times, 0, int64(more)-1).Result(); err != nil {
			return err
		}
	}
	_, err := r.forget(ctx, s.policy, leave)
	return err
}

// forget removes members of a policy's sorted set and their vectors.
func (r *vectorSets) forget(ctx context.Context, policy string, members []string) (n int, err error) {
	if len(members) == 0 {
		return 0, nil
	}
	times, spaces := r.keys(policy)
	p := r.conn.Pipeline()
	for _, m := range members {
		if len(m) == memberIs {
			p.Do(ctx, "VREM", spaces+m[spaceAt:keyAt], m[keyAt:])
		}
		p.ZRem(ctx, times, m)
	}
	if _, err = p.Exec(ctx); err != nil {
		return 0, r.failed(err)
	}
	return len(members), nil
}

func (r *vectorSets) remove(ctx context.Context, s *space, key cache.Key) error {
	_, err := r.forget(ctx, s.policy, []string{member(s, key)})
	return err
}

// purge needs a policy: those of others are found by the caller, who knows them.
func (r *vectorSets) purge(ctx context.Context, sel *cache.Selector) (n int, err error) {
	times, _ := r.keys(sel.Policy)
	match := "*"
	if sel.Key != nil {
		match += sel.Key.String()
	}
	var cursor uint64
	for {
		page, next, err := r.conn.ZScan(ctx, times, cursor, match, 1000).Result()
		if err != nil {
			return n, err
		}
		var leave []string
		for i := 0; i < len(page); i += 2 { // member, score
			m := page[i]
			if len(m) == memberIs && (sel.Tenant == "" || m[:shortLen] == short(sel.Tenant)) &&
				(sel.Model == "" || m[shortLen:spaceAt] == short(sel.Model)) {
				leave = append(leave, m)
			}
		}
		gone, err := r.forget(ctx, sel.Policy, leave)
		n += gone
		if err != nil || next == 0 {
			return n, err
		}
		cursor = next
	}
}

// blob is a vector as Redis reads it: float32, little-endian.
func blob(v *vector) []byte {
	b := make([]byte, 0, 4*v.dims)
	for _, f := range v.x[:v.dims] {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(f))
	}
	return b
}
