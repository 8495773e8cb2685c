package session

import (
	"context"
	_ "embed" // the scripts
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/weir-dev/weir/internal/redisconn"
)

var (
	//go:embed lua/put.lua
	putLua string
	//go:embed lua/remove.lua
	removeLua string
)

// Place gives the Redis that is shared, and what stands before every key there; nil where there is none.
type Place func() (conn *redisconn.Conn, prefix string)

// inRedis is the Store that replicas share. All keys of a consumer have one hash tag, so that a script may touch a value and the list of the
// consumer's sessions in a cluster too:
//
//	PREFIX:session:{CONSUMER}:ID      the Version and the value
//	PREFIX:session:{CONSUMER}         sorted set of IDs, by when they expire
//	PREFIX:session:consumers:{TENANT} sorted set of consumers
//	PREFIX:session:tenants            sorted set of tenants
//
// CONSUMER, ID and TENANT are hashes. The last two sets are written before a value is, so that what is there is in them.
type inRedis struct {
	place       Place
	now         func() time.Time
	put, remove *redis.Script

	mu       sync.Mutex
	failures int       // in a row
	retry    time.Time // until then Redis is left alone
}

const (
	// tripAfter failures in a row Redis is left alone for pause, but for one command: a request does not wait for what others
	// have waited for in vain.
	tripAfter = 3
	pause     = time.Second
)

func newInRedis(place Place, now func() time.Time) *inRedis {
	return &inRedis{place: place, now: now, put: redis.NewScript(putLua), remove: redis.NewScript(removeLua)}
}

type redisKeys struct {
	conn   *redisconn.Conn
	prefix string
}

func (k redisKeys) value(at Ref) string        { return k.ids(at.Consumer) + ":" + at.ID }
func (k redisKeys) ids(consumer string) string { return k.prefix + ":session:{" + consumer + "}" }
func (k redisKeys) consumers(tenant string) string {
	return k.prefix + ":session:consumers:{" + hashOf("tenant", tenant) + "}"
}
func (k redisKeys) tenants() string { return k.prefix + ":session:tenants" }

// do gives Redis one command, unless it has failed too often just now. The command may take as long as the connection's commands may,
// however much time the request has.
func (r *inRedis) do(ctx context.Context, what func(ctx context.Context, k redisKeys) error) error {
	conn, prefix := r.place()
	if conn == nil {
		return fmt.Errorf("%w: no Redis is configured", ErrUnavailable)
	}
	r.mu.Lock()
	if now := r.now(); r.failures >= tripAfter {
		if now.Before(r.retry) {
			r.mu.Unlock()
			return fmt.Errorf("%w: Redis has just failed", ErrUnavailable)
		}
		r.retry = now.Add(pause) // this one tries
	}
	r.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, conn.Timeout())
	defer cancel()
	err := what(ctx, redisKeys{conn, prefix})
	// A server that answers with an error keeps nobody waiting: one that is full can still be read.
	var answered redis.Error
	failed := err != nil && !errors.As(err, &answered) && !errors.Is(err, ErrConflict)
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case failed && !errors.Is(err, context.Canceled):
		if r.failures++; r.failures >= tripAfter {
			r.retry = r.now().Add(pause)
		}
	case !failed:
		r.failures = 0
	}
	if err != nil && !errors.Is(err, ErrConflict) {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return err
}

// Get implements Store.
func (r *inRedis) Get(ctx context.Context, at Ref) (value []byte, v Version, err error) {
	err = r.do(ctx, func(ctx context.Context, k redisKeys) error {
		b, err := k.conn.Get(ctx, k.value(at)).Bytes()
		if errors.Is(err, redis.Nil) {
			return nil
		}
		if err != nil {
			return err
		}
		if len(b) < len(v) {
			return errors.New("a key of sessions in Redis holds something else")
		}
		copy(v[:], b)
		value = b[len(v):]
		return nil
	})
	return value, v, err
}

// Put implements Store.
func (r *inRedis) Put(ctx context.Context, at Ref, value []byte, was Version, l Life) (Version, error) {
	v := newVersion()
	ttl := max(1, l.TTL.Milliseconds())
	member := at.ID
	if l.Hidden {
		member = ""
	} else if err := r.list(ctx, at, ttl); err != nil {
		return Version{}, err
	}
	err := r.do(ctx, func(ctx context.Context, k redisKeys) error {
		done, err := r.put.Run(ctx, k.conn, []string{k.value(at), k.ids(at.Consumer)}, versionArg(was), string(v[:]), value, ttl, member, at.ID).Int()
		if err == nil && done == 0 {
			return ErrConflict
		}
		return err
	})
	if err != nil {
		return Version{}, err
	}
	return v, nil
}

func versionArg(v Version) string {
	if v == (Version{}) {
		return ""
	}
	return string(v[:])
}

// list notes the consumer and the tenant until the value expires, and forgets those whose time is over.
func (r *inRedis) list(ctx context.Context, at Ref, ttl int64) error {
	now := r.now().UnixMilli()
	until := float64(now + ttl + slack.Milliseconds())
	return r.do(ctx, func(ctx context.Context, k redisKeys) error {
		_, err := k.conn.Pipelined(ctx, func(p redis.Pipeliner) error {
			for _, e := range [...]struct{ key, member string }{{k.consumers(at.Tenant), at.Consumer}, {k.tenants(), at.Tenant}} {
				p.ZAddArgs(ctx, e.key, redis.ZAddArgs{GT: true, Members: []redis.Z{{Score: until, Member: e.member}}})
				p.ZRemRangeByScore(ctx, e.key, "-inf", strconv.FormatInt(now-slack.Milliseconds(), 10))
			}
			return nil
		})
		return err
	})
}

// slack is how far clocks of replicas may be apart.
const slack = time.Hour

// Remove implements Store.
func (r *inRedis) Remove(ctx context.Context, at Ref, was Version) error {
	return r.do(ctx, func(ctx context.Context, k redisKeys) error {
		done, err := r.remove.Run(ctx, k.conn, []string{k.value(at), k.ids(at.Consumer)}, versionArg(was), at.ID).Int()
		if err == nil && done == 0 {
			return ErrConflict
		}
		return err
	})
}

// Tenants implements Store.
func (r *inRedis) Tenants(ctx context.Context) ([]string, error) {
	return r.members(ctx, redisKeys.tenants)
}

// Consumers implements Store.
func (r *inRedis) Consumers(ctx context.Context, tenant string) ([]string, error) {
	return r.members(ctx, func(k redisKeys) string { return k.consumers(tenant) })
}

// IDs implements Store.
func (r *inRedis) IDs(ctx context.Context, _, consumer string) ([]string, error) {
	return r.members(ctx, func(k redisKeys) string { return k.ids(consumer) })
}

func (r *inRedis) members(ctx context.Context, key func(redisKeys) string) (out []string, err error) {
	err = r.do(ctx, func(ctx context.Context, k redisKeys) error {
		var err error
		out, err = k.conn.ZRange(ctx, key(k), 0, -1).Result()
		return err
	})
	slices.Sort(out)
	return out, err
}
