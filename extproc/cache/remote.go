package cache

import (
	"context"
	_ "embed" // the scripts
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/redis/go-redis/v9"

	"github.com/weir-dev/weir/internal/redisconn"
)

var (
	//go:embed lua/store.lua
	storeLua string
	//go:embed lua/lead.lua
	leadLua string
	//go:embed lua/lease.lua
	leaseLua string
	//go:embed lua/beat.lua
	beatLua string
	//go:embed lua/purge.lua
	purgeLua string
	//go:embed lua/filter.lua
	filterLua string
)

type scripts struct{ store, lead, lease, beat, purge, filter *redis.Script }

const (
	// pause in which Redis is not written to when it takes no writes, and in which a Redis that does not answer is not asked.
	pause = time.Second
	// busyBeat and idleBeat are how often Redis is asked what the other replicas did, while filters are in use and else.
	busyBeat = 20 * time.Millisecond
	idleBeat = 250 * time.Millisecond
	// freshness of what is known of the others, beyond which a filter is not asked. What is written is announced this long before
	// others can find it, so that every filter that is asked knows it.
	freshFor = 3 * busyBeat
	// busyFor is how long filters are taken to be in use after they were.
	busyFor = 10 * time.Second
	// memberFor is how long a silent replica counts as one.
	memberFor = 10 * time.Second
	// tellEvery is how often the log says that Redis refuses commands.
	tellEvery = 10 * time.Second
	// purgesFor is how long Redis keeps what was purged.
	purgesFor = 7 * 24 * time.Hour
)

// remote is the tier in Redis, and what the replicas tell each other through it. Every command is bounded by the time-out of the
// connection; after one that Redis did not answer nobody waits for another until Redis has answered a beat.
type remote struct {
	c               *Cache
	conn            *redisconn.Conn
	prefix, replica string
	codec           *codec
	scripts         scripts
	// grace is how long after it was announced a record may be written. Who makes a filter anew waits twice as long before it
	// looks at what there is.
	grace time.Duration

	up         atomic.Bool
	retired    atomic.Bool  // another Redis is used by now
	unwritable atomic.Int64 // until then, in Unix nanoseconds
	told       atomic.Int64 // when a refusal was last logged, in Unix nanoseconds
	nudge      chan struct{}
	asked      atomic.Int64 // when a filter was last asked, in Unix nanoseconds

	members  atomic.Int64 // replicas; -1: unknown
	beaten   atomic.Int64 // when the last beat that succeeded began, in Unix nanoseconds
	joined   atomic.Int64 // when this replica became one, in Unix nanoseconds
	lastSeen string       // number of the last purge; only the beat uses it

	mu      sync.Mutex
	filters map[string]*filter // by policy
	ours    []ourPurge
}

func newRemote(c *Cache, conn *redisconn.Conn, prefix, replica string) *remote {
	r := &remote{
		c: c, conn: conn, prefix: prefix + ":cache:", replica: replica, codec: newCodec(),
		scripts: scripts{
			store: redis.NewScript(storeLua), lead: redis.NewScript(leadLua), lease: redis.NewScript(leaseLua),
			beat: redis.NewScript(beatLua), purge: redis.NewScript(purgeLua), filter: redis.NewScript(filterLua),
		},
		grace: max(500*time.Millisecond, 3*conn.Timeout()),
		nudge: make(chan struct{}, 1), filters: map[string]*filter{},
	}
	r.members.Store(-1)
	return r
}

// run beats until ctx ends.
func (r *remote) run(ctx context.Context) {
	var working sync.WaitGroup
	defer working.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-r.nudge:
		}
		timer.Reset(r.beat(ctx, &working))
	}
}

// beat asks what the others did, and says when to ask again.
func (r *remote) beat(ctx context.Context, working *sync.WaitGroup) time.Duration {
	began := r.c.now()
	if err := r.hear(ctx, began); err != nil {
		if ctx.Err() == nil {
			r.failed("beat", err)
		}
		return pause
	}
	if !r.retired.Load() && !r.up.Swap(true) {
		r.c.log.Info("the cache uses Redis")
		r.c.metrics.up.Set(1)
	}
	busy := false
	var looking sync.WaitGroup // together: the more filters, the later each would be fresh
	for _, f := range r.all() {
		busy = true
		looking.Go(func() { f.follow(ctx, r, working) })
	}
	looking.Wait()
	if busy && began.UnixNano()-r.asked.Load() < int64(busyFor) {
		return busyBeat
	}
	return idleBeat
}

// failed notes that Redis did not do something. Who asks next does not wait for it.
func (r *remote) failed(op string, err error) {
	if r.retired.Load() {
		return
	}
	r.c.metrics.errors.WithLabelValues(op).Inc()
	if !redisconn.Unavailable(err) {
		// A key that somebody else has overwritten is refused with each command, fifty times a second by the filters alone.
		if r.mayTell() {
			r.c.log.Warn("Redis refused a command of the cache; weir_cache_errors_total counts all that it refuses", "operation", op, "error", err)
		}
		return
	}
	if full(err) {
		if r.unwritable.Swap(r.c.now().Add(pause).UnixNano()) == 0 {
			r.c.log.Warn("Redis takes no writes; answers are kept in memory alone until it does", "error", err)
		}
		return
	}
	if r.up.Swap(false) {
		r.c.metrics.up.Set(0)
		r.c.log.Warn("Redis does not answer the cache, which goes on with its memory alone", "operation", op, "error", err)
		if op != "beat" && op != "filter" { // which come again by themselves
			r.ask()
		}
	}
}

// mayTell says whether the log may be told of a refusal: not of each.
func (r *remote) mayTell() bool {
	now, told := r.c.now().UnixNano(), r.told.Load()
	return (told == 0 || now-told >= int64(tellEvery)) && r.told.CompareAndSwap(told, now)
}

// ask has the next beat come at once: one command that came late is no reason to do without Redis for long.
func (r *remote) ask() {
	select {
	case r.nudge <- struct{}{}:
	default:
	}
}

// full tells whether an error says that Redis reads but does not write.
func full(err error) bool {
	for _, kind := range []string{"OOM", "READONLY", "MISCONF", "NOREPLICAS"} {
		if redis.HasErrorPrefix(err, kind) {
			return true
		}
	}
	return false
}

func (r *remote) writable() bool {
	return r.up.Load() && r.c.now().UnixNano() >= r.unwritable.Load()
}

// bound gives one command the time-out of the connection, whatever who asks has left.
func (r *remote) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), r.conn.Timeout())
}

func (r *remote) script(ctx context.Context, s *redis.Script, keys []string, args ...any) *redis.Cmd {
	ctx, cancel := r.bound(ctx)
	defer cancel()
	return s.Run(ctx, r.conn, keys, args...)
}

// shards that keys are spread over in a cluster: what belongs to one answer has one hash tag, so that a script can write it.
const shards = 256

func (r *remote) shard(i byte) string {
	const digits = "0123456789abcdef"
	return r.prefix + "{" + string([]byte{digits[i>>4], digits[i&15]}) + "}:"
}

// short is a text as a part of a key: a hash.
func short(s string) string {
	return base64.RawURLEncoding.EncodeToString(binary.BigEndian.AppendUint64(nil, xxhash.Sum64String(s)))
}

// nameOf is what the record of an ask is called behind the shard and "e:". The tenant is part of it: another's request does not
// even find it.
func nameOf(policy string, s Scope, tenant string, k Key) string {
	owner := "shared"
	switch s {
	case ScopeTenant:
		owner = "tenant." + url.QueryEscape(tenant)
	case ScopeConsumer:
		owner = "consumer." + url.QueryEscape(tenant)
	}
	return short(policy) + ":" + owner + ":" + base64.RawURLEncoding.EncodeToString(k[:])
}

// keyOfName is the key in a name.
func keyOfName(name string) (k Key, ok bool) {
	text := name[strings.LastIndexByte(name, ':')+1:]
	if len(text) != base64.RawURLEncoding.EncodedLen(len(k)) {
		return k, false
	}
	_, err := base64.RawURLEncoding.Decode(k[:], []byte(text))
	return k, err == nil
}

// indexes that the record is listed in.
func (r *remote) indexes(shard string, x *record) []string {
	out := []string{
		shard + "tenant:" + url.QueryEscape(x.entry.Tenant),
		shard + "model:" + url.QueryEscape(x.entry.Model),
		shard + "policy:" + url.QueryEscape(x.policy),
	}
	for _, t := range x.entry.Tags {
		out = append(out, shard+"tag:"+url.QueryEscape(t))
	}
	return out
}

// get asks Redis for the record that answers the ask; nil: it has none, or cannot be asked.
func (r *remote) get(ctx context.Context, a *Ask) *record {
	if !r.up.Load() {
		return nil
	}
	f := r.filter(a.Policy)
	asked := false
	if f != nil {
		r.touch()
		var absent bool
		absent, asked = f.absent(a.Key, r)
		if absent {
			f.answers.no.Inc()
			return nil
		}
	}
	bounded, cancel := r.bound(ctx)
	defer cancel()
	raw, err := r.conn.Get(bounded, r.shard(a.Key[0])+"e:"+nameOf(a.Policy.ID, a.Policy.Scope, a.Tenant, a.Key)).Bytes()
	switch {
	case errors.Is(err, redis.Nil):
		if asked {
			f.answers.wrong.Inc()
		}
		return nil
	case err != nil:
		r.failed("get", err)
		return nil
	}
	if asked {
		f.answers.right.Inc()
	}
	return r.read(raw, a)
}

// touch says that filters are in use, so that they are kept fresh.
func (r *remote) touch() {
	now := r.c.now().UnixNano()
	if before := r.asked.Load(); now-before > int64(busyBeat) && r.asked.CompareAndSwap(before, now) && now-before > int64(busyFor) {
		r.ask()
	}
}

// read decodes what Redis had for an ask; nil where it is none of this caller's, damaged or purged.
func (r *remote) read(raw []byte, a *Ask) *record {
	x, err := r.codec.decode(raw)
	if err != nil {
		r.c.metrics.errors.WithLabelValues("decode").Inc()
		r.c.log.Warn("an answer in Redis cannot be read, and is bought again", "error", err)
		return nil
	}
	if !x.fits(a) {
		r.c.metrics.errors.WithLabelValues("owner").Inc()
		r.c.log.Error("Redis has an answer under the key of another request; it is not given to anybody", "policy", a.Policy.ID, "key", a.Key.String())
		return nil
	}
	if r.c.purges.after(x) {
		return nil
	}
	x.inRedis.Store(true)
	return x
}

// put writes records of one policy. It returns those that Redis could not take now, and may take later.
func (r *remote) put(ctx context.Context, list []*record, p *Policy) (later []*record) {
	type ready struct {
		x   *record
		raw []byte
		own announced
	}
	var all []ready
	for _, x := range list {
		if !r.writable() {
			later = append(later, x)
			continue
		}
		raw := r.codec.encode(x)
		if int64(len(raw)) > p.MaxRedisEntryBytes {
			r.c.metrics.dropped.WithLabelValues(p.ID, "redis_size").Inc()
			continue
		}
		own, err := r.announce(ctx, p, x.key)
		if err != nil {
			later = r.notTaken(later, "announce", err, x)
			continue
		}
		all = append(all, ready{x, raw, own})
	}
	for i := range all {
		x, own := all[i].x, all[i].own
		// A filter that is asked knows what was announced this long ago.
		own.wait(r)
		if own.old(r) {
			var err error
			if own, err = r.announce(ctx, p, x.key); err != nil {
				later = r.notTaken(later, "announce", err, x)
				continue
			}
			own.wait(r)
		}
		ttl := x.keepFor() - r.c.now().Sub(x.entry.Stored)
		if ttl < time.Millisecond || r.c.purges.after(x) || r.c.purges.since(x.seq, x) {
			continue
		}
		if !r.writable() {
			later = append(later, x)
			continue
		}
		shard := r.shard(x.key[0])
		name := nameOf(x.policy, x.scope, x.entry.Tenant, x.key)
		keys := append([]string{shard + "e:" + name}, r.indexes(shard, x)...)
		if err := r.script(ctx, r.scripts.store, keys, all[i].raw, ttl.Milliseconds(), name).Err(); err != nil {
			later = r.notTaken(later, "set", err, x)
			continue
		}
		x.inRedis.Store(true)
		if r.unwritable.Swap(0) != 0 {
			r.c.log.Info("Redis takes writes of the cache again")
		}
		r.c.metrics.written.WithLabelValues(p.ID).Inc()
		r.c.metrics.writtenBytes.WithLabelValues(p.ID).Add(float64(len(all[i].raw)))
	}
	return later
}

// notTaken notes that a record could not be written. It is added to those that may be later, unless Redis has refused it.
func (r *remote) notTaken(later []*record, op string, err error, x *record) []*record {
	r.failed(op, err)
	if redisconn.Unavailable(err) {
		return append(later, x)
	}
	r.c.metrics.dropped.WithLabelValues(x.policy, "redis").Inc()
	return later
}

// crowded tells whether other replicas may be there.
func (r *remote) crowded() bool {
	return r.up.Load() && !r.lonely(4*idleBeat)
}

// lonely tells that this was the only replica less than d ago.
func (r *remote) lonely(d time.Duration) bool {
	return r.members.Load() == 1 && r.c.now().UnixNano()-r.beaten.Load() < int64(d)
}

// hear learns how many replicas there are, and what they purged.
func (r *remote) hear(ctx context.Context, began time.Time) error {
	keys := []string{r.prefix + "{replicas}:members", r.prefix + "{replicas}:purged", r.prefix + "{replicas}:purges"}
	if r.lastSeen == "" {
		r.lastSeen = "0"
	}
	out, err := r.script(ctx, r.scripts.beat, keys, r.replica, memberFor.Milliseconds(), r.lastSeen).Slice()
	if err != nil {
		return err
	}
	if len(out) != 4 {
		return fmt.Errorf("the beat answered %d values, not 4", len(out))
	}
	members, _ := out[0].(int64)
	isNew, _ := out[1].(int64)
	last, _ := out[2].(string)
	list, _ := out[3].([]any)
	if isNew == 1 {
		r.joined.Store(r.c.now().UnixNano())
	}
	if last != r.lastSeen {
		r.heed(ctx, last, list)
	}
	r.members.Store(members)
	r.beaten.Store(began.UnixNano())
	return nil
}
