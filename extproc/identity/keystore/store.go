package keystore

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"
)

// What Store's methods answer, to be told with errors.Is.
var (
	ErrExists   = errors.New("a stored key of this name exists already")
	ErrNotFound = errors.New("there is no stored key of this name")
	ErrChanged  = errors.New("somebody else changed the key at the same time; try again")
)

// pageSize is how many records are read in one command: enough to be quick, few enough for the time that a command has.
const pageSize = 500

// names of what is in Redis.
type names struct{ records, log, meta, channel string }

func namesOf(prefix string) names {
	p := prefix + ":{keys}:"
	return names{records: p + "records", log: p + "log", meta: p + "meta", channel: p + "changed"}
}

// Store reads and writes keys. It is safe for concurrent use.
type Store struct {
	client redis.UniversalClient
	names  names
}

// Open makes a Store on what stands behind a prefix. It does not ask Redis yet.
func Open(client redis.UniversalClient, prefix string) *Store {
	return &Store{client: client, names: namesOf(prefix)}
}

// Stored is a record as it was read.
type Stored struct {
	Record
	raw string
}

// Get reads one key. ErrNotFound where there is none.
func (s *Store) Get(ctx context.Context, namespace, name string) (Stored, error) {
	id := namespace + "/" + name
	raw, err := s.client.HGet(ctx, s.names.records, id).Result()
	if errors.Is(err, redis.Nil) {
		return Stored{}, ErrNotFound
	}
	if err != nil {
		return Stored{}, err
	}
	r, err := parseRecord(id, []byte(raw))
	if err != nil {
		return Stored{}, fmt.Errorf("the stored key %s cannot be read: %w", id, err)
	}
	return Stored{*r, raw}, nil
}

// List reads every key, in the order of namespaces and names. problems are about records that cannot be read.
func (s *Store) List(ctx context.Context) (list []Stored, problems []string, err error) {
	raws, err := readAll(ctx, s.client, s.names.records)
	if err != nil {
		return nil, nil, err
	}
	for id, raw := range raws {
		r, err := parseRecord(id, []byte(raw))
		if err != nil {
			problems = append(problems, fmt.Sprintf("the stored key %q cannot be read: %v", id, err))
			continue
		}
		list = append(list, Stored{*r, raw})
	}
	slices.SortFunc(list, func(a, b Stored) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	slices.Sort(problems)
	return list, problems, nil
}

// readAll reads a hash page by page, so that no command takes long.
func readAll(ctx context.Context, client redis.UniversalClient, key string) (map[string]string, error) {
	out := map[string]string{}
	cursor := uint64(0)
	for {
		page, next, err := client.HScan(ctx, key, cursor, "", pageSize).Result()
		if err != nil {
			return nil, err
		}
		for i := 0; i+1 < len(page); i += 2 {
			out[page[i]] = page[i+1]
		}
		if cursor = next; cursor == 0 {
			return out, nil
		}
	}
}

// Change is one record to write: a new one, or in place of one that was read.
type Change struct {
	Record Record
	// Was is what the record takes the place of. nil: there must be none.
	Was *Stored
}

// commit writes all changes or none, raises the version once and tells the replicas. KEYS: records, log, meta. ARGV: channel,
// random text for a new store, then for each change its ID, what must be there ("" for nothing) and what shall be.
// It returns the version, or minus the number of the change that does not fit. A user without the right to publish may still
// write: replicas find the version by asking.
var commit = redis.NewScript(`
for i = 3, #ARGV, 3 do
  if (redis.call('HGET', KEYS[1], ARGV[i]) or '') ~= ARGV[i+1] then return -(i / 3) end
end
redis.call('HSETNX', KEYS[3], 'epoch', ARGV[2])
local version = redis.call('HINCRBY', KEYS[3], 'version', 1)
for i = 3, #ARGV, 3 do
  redis.call('HSET', KEYS[1], ARGV[i], ARGV[i+2])
  redis.call('ZADD', KEYS[2], version, ARGV[i])
end
redis.pcall('PUBLISH', ARGV[1], version)
return version
`)

// Write makes changes, all of them or none. ErrExists and ErrChanged tell which change does not fit what is stored.
func (s *Store) Write(ctx context.Context, changes ...Change) error {
	args := []any{s.names.channel, rand.Text()}
	for i := range changes {
		c := &changes[i]
		if err := c.Record.check(); err != nil {
			return fmt.Errorf("the key %s cannot be stored: %w", c.Record.ID(), err)
		}
		raw, err := json.Marshal(c.Record)
		if err != nil {
			return fmt.Errorf("the key %s cannot be stored: %w", c.Record.ID(), err)
		}
		was := ""
		if c.Was != nil {
			was = c.Was.raw
		}
		args = append(args, c.Record.ID(), was, string(raw))
	}
	n, err := commit.Run(ctx, s.client, []string{s.names.records, s.names.log, s.names.meta}, args...).Int()
	if err != nil {
		return err
	}
	if n < 0 {
		c := &changes[-n-1]
		if c.Was == nil {
			return fmt.Errorf("%s: %w", c.Record.ID(), ErrExists)
		}
		return fmt.Errorf("%s: %w", c.Record.ID(), ErrChanged)
	}
	return nil
}

// Lost says whether the store was never written, or has lost its data since. Replicas that run then keep in force what they know.
func (s *Store) Lost(ctx context.Context) (bool, error) {
	there, err := s.client.HExists(ctx, s.names.meta, "epoch").Result()
	return !there, err
}

// bury writes a record into a store that has lost everything. It begins no new store: replicas would drop all keys for it.
// KEYS: records, meta. ARGV: channel, ID, record.
var bury = redis.NewScript(`
if redis.call('HEXISTS', KEYS[2], 'epoch') == 1 then return 0 end
redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
redis.pcall('PUBLISH', ARGV[1], 0)
return 1
`)

// Bury ends a key that a lost store does not hold and replicas may still know; their other keys stay in force. Where the store
// is not lost, replicas hold nothing but what it holds, and the answer is ErrNotFound.
func (s *Store) Bury(ctx context.Context, namespace, name string) error {
	r := Record{Namespace: namespace, Name: name, Disabled: true}
	if err := r.check(); err != nil {
		return fmt.Errorf("the key %s cannot be revoked: %w", r.ID(), err)
	}
	raw, err := json.Marshal(r)
	if err != nil {
		return err
	}
	n, err := bury.Run(ctx, s.client, []string{s.names.records, s.names.meta}, s.names.channel, r.ID(), string(raw)).Int()
	if err == nil && n == 0 {
		err = ErrNotFound
	}
	return err
}
