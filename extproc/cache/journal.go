package cache

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// What is purged goes through a list in Redis, which every replica reads at each beat: unlike a message it is not lost on who was
// away. A purge has a number, and says which was before it, so that who has missed some knows.

// journaled is a purge in the list.
type journaled struct {
	number   int64
	text     string // of the number
	before   string
	selector Selector
}

// wireSelector is a Selector in the list.
type wireSelector struct {
	Tenant string `json:"tenant,omitempty"`
	Model  string `json:"model,omitempty"`
	Tag    string `json:"tag,omitempty"`
	Policy string `json:"policy,omitempty"`
	Key    string `json:"key,omitempty"`
}

// ourPurge is one of this replica's, which it says again when Redis has lost it.
type ourPurge struct {
	at       time.Time
	selector Selector
}

// oursFor is how long a purge is said again.
const oursFor = 10 * time.Minute

func (s *Selector) wire() []byte {
	w := wireSelector{s.Tenant, s.Model, s.Tag, s.Policy, ""}
	if s.Key != nil {
		w.Key = s.Key.String()
	}
	b, _ := json.Marshal(w) // of texts alone: it cannot fail
	return b
}

// parseJournaled reads "number before what".
func parseJournaled(line string) (j journaled, err error) {
	parts := strings.SplitN(line, " ", 3)
	if len(parts) != 3 {
		return j, errors.New("a purge in Redis is not what Weir writes")
	}
	j.text, j.before = parts[0], parts[1]
	if j.number, err = strconv.ParseInt(j.text, 10, 64); err != nil {
		return j, fmt.Errorf("a purge in Redis has no number: %w", err)
	}
	var w wireSelector
	if err := json.Unmarshal([]byte(parts[2]), &w); err != nil {
		return j, fmt.Errorf("a purge in Redis cannot be read: %w", err)
	}
	j.selector = Selector{Tenant: w.Tenant, Model: w.Model, Tag: w.Tag, Policy: w.Policy}
	if w.Key != "" {
		k, err := ParseKey(w.Key)
		if err != nil {
			return j, err
		}
		j.selector.Key = &k
	}
	return j, nil
}

// heed does what the list says and this replica has not done. Where it cannot know what it has missed it forgets everything.
func (r *remote) heed(ctx context.Context, last string, list []any) {
	known, _ := strconv.ParseInt(r.lastSeen, 10, 64)
	newest, _ := strconv.ParseInt(last, 10, 64)
	missed := false
	var fresh []journaled
	for _, line := range list { // newest first
		text, _ := line.(string)
		j, err := parseJournaled(text)
		if err != nil {
			r.c.log.Error("a purge of another replica cannot be understood; the memory is emptied", "error", err)
			missed = true
			continue
		}
		if j.number <= known {
			break
		}
		fresh = append(fresh, j)
	}
	if len(fresh) > 0 && known > 0 {
		first := fresh[len(fresh)-1].before
		missed = missed || first != r.lastSeen && first != "0"
	}
	slices.Reverse(fresh)
	for _, j := range fresh {
		r.c.purgeHere(j.selector, j.number)
	}
	if missed {
		r.c.log.Warn("purges of other replicas were missed; the memory is emptied")
		r.c.forgetAll()
	}
	lost := known > 0 && (newest < known || len(fresh) > 0 && fresh[0].before == "0")
	r.lastSeen = last
	if lost {
		r.repeat(ctx)
	}
}

// repeat says the own purges again that Redis may have lost before others read them.
func (r *remote) repeat(ctx context.Context) {
	r.mu.Lock()
	ours := slices.Clone(r.ours)
	r.mu.Unlock()
	for _, o := range ours {
		if r.c.now().Sub(o.at) < oursFor {
			if err := r.note(ctx, &o.selector); err != nil {
				r.failed("purge", err)
				return
			}
		}
	}
}

// note writes a purge into the list.
func (r *remote) note(ctx context.Context, s *Selector) error {
	keys := []string{r.prefix + "{replicas}:purged", r.prefix + "{replicas}:purges"}
	return r.script(ctx, r.scripts.purge, keys, s.wire(), recentPurges, purgesFor.Milliseconds()).Err()
}

// purge tells the others and removes what is selected from Redis. From when the others know, they do not give what was bought
// before, whether or not it is still there.
func (r *remote) purge(ctx context.Context, s Selector) (n int, err error) {
	now := r.c.now()
	r.mu.Lock()
	r.ours = append(slices.DeleteFunc(r.ours, func(o ourPurge) bool { return now.Sub(o.at) >= oursFor }), ourPurge{now, s})
	r.mu.Unlock()
	if err := r.note(ctx, &s); err != nil {
		r.failed("purge", err)
		return 0, err
	}
	select {
	case r.nudge <- struct{}{}:
	default:
	}
	if s.Key != nil {
		return r.purgeKey(ctx, &s)
	}
	var which []string
	for _, x := range [][2]string{{"tenant:", s.Tenant}, {"model:", s.Model}, {"policy:", s.Policy}, {"tag:", s.Tag}} {
		if x[1] != "" {
			which = append(which, x[0]+url.QueryEscape(x[1]))
		}
	}
	for i := range shards {
		m, err := r.purgeShard(ctx, r.shard(byte(i)), which)
		n += m
		if err != nil {
			return n, err
		}
		if ctx.Err() != nil {
			return n, context.Cause(ctx)
		}
	}
	return n, nil
}

// purgeBatch is how many records are removed at once.
const purgeBatch = 500

// purgeShard removes what all the indexes of a shard list.
func (r *remote) purgeShard(ctx context.Context, shard string, which []string) (n int, err error) {
	keys := make([]string, len(which))
	for i, w := range which {
		keys[i] = shard + w
	}
	bounded, cancel := r.bound(ctx)
	var names []string
	if len(keys) == 1 {
		names, err = r.conn.ZRange(bounded, keys[0], 0, -1).Result()
	} else {
		names, err = r.conn.ZInter(bounded, &redis.ZStore{Keys: keys}).Result()
	}
	cancel()
	if err != nil {
		r.failed("purge", err)
		return 0, err
	}
	for batch := range slices.Chunk(names, purgeBatch) {
		gone, err := r.remove(ctx, shard, batch, keys)
		n += gone
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// remove deletes records of a shard by name, and takes them out of those of its indexes.
func (r *remote) remove(ctx context.Context, shard string, names, indexes []string) (int, error) {
	bounded, cancel := r.bound(ctx)
	defer cancel()
	pipe := r.conn.Pipeline()
	keys, members := make([]string, len(names)), make([]any, len(names))
	for i, name := range names {
		keys[i], members[i] = shard+"e:"+name, name
	}
	gone := pipe.Unlink(bounded, keys...)
	for _, x := range indexes {
		pipe.ZRem(bounded, x, members...)
	}
	if _, err := pipe.Exec(bounded); err != nil {
		r.failed("purge", err)
		return 0, err
	}
	return int(gone.Val()), nil
}

// purgeKey removes one record. Its name has parts that the key does not tell, so that it is looked for.
func (r *remote) purgeKey(ctx context.Context, s *Selector) (n int, err error) {
	shard := r.shard(s.Key[0])
	var found []string
	err = r.scan(ctx, shard+"e:*:"+base64.RawURLEncoding.EncodeToString(s.Key[:]), func(keys []string) error {
		found = append(found, keys...)
		return nil
	})
	if err != nil {
		r.failed("purge", err)
		return 0, err
	}
	for _, key := range found {
		bounded, cancel := r.bound(ctx)
		raw, err := r.conn.Get(bounded, key).Bytes()
		if x, bad := r.codec.decode(raw); err == nil && (bad != nil || s.selects(x)) {
			var gone int64
			gone, err = r.conn.Unlink(bounded, key).Result()
			n += int(gone)
		}
		cancel()
		if err != nil && !errors.Is(err, redis.Nil) {
			r.failed("purge", err)
			return n, err
		}
	}
	return n, nil
}

// scan gives all keys that match, of all servers of a cluster. pattern is literal but for "*".
func (r *remote) scan(ctx context.Context, pattern string, each func([]string) error) error {
	pattern = strings.NewReplacer(`\`, `\\`, "?", `\?`, "[", `\[`, "]", `\]`).Replace(pattern)
	one := func(ctx context.Context, c redis.Cmdable) error {
		var cursor uint64
		for {
			bounded, cancel := r.bound(ctx)
			keys, next, err := c.Scan(bounded, cursor, pattern, 1000).Result()
			cancel()
			if err == nil && len(keys) > 0 {
				err = each(keys)
			}
			if err == nil {
				err = context.Cause(ctx)
			}
			if err != nil || next == 0 {
				return err
			}
			cursor = next
		}
	}
	if cluster, ok := r.conn.UniversalClient.(*redis.ClusterClient); ok {
		// It asks them at once, and each is for one goroutine.
		var turn sync.Mutex
		return cluster.ForEachMaster(ctx, func(ctx context.Context, c *redis.Client) error {
			turn.Lock()
			defer turn.Unlock()
			return one(ctx, c)
		})
	}
	return one(ctx, r.conn)
}
