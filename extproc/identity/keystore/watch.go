package keystore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/weir-dev/weir/extproc/identity"
)

const (
	// pollEvery bounds how late a change is seen whose message was lost: half a second and the time of two commands.
	pollEvery = 500 * time.Millisecond
	// resyncEvery is how often everything is read, whatever the version says: a Redis that failed over may have lost
	// changes and counted up again.
	resyncEvery = time.Minute
	// overlap is how many versions are read again with each change, for the same reason: it heals at once
	// what a failover in a fraction of a second loses.
	overlap = 64
	// maxProblemsShown bounds what a status page lists.
	maxProblemsShown = 20
)

// errFlushed is told while a store that had keys has none.
var errFlushed = errors.New("the key store in Redis is empty although it held keys before: the keys that are known stay in force here, " +
	"and a replica that starts now knows none; restore the data of Redis, or make the keys again; weir keys revoke NAME --force ends one here")

// Watcher holds all stored keys in memory and follows their changes. While Redis is away, or has lost its data, what is known
// stays in force.
type Watcher struct {
	// OnChange is called, if set before Run, after other keys have come into force: the time to look at
	// Authenticator.StoredProblems. It must not block.
	OnChange func()

	client redis.UniversalClient
	names  names
	into   *identity.StoredKeys
	log    *slog.Logger
	now    func() time.Time
	poll   time.Duration

	// Only Run's goroutine uses these.
	records map[string]*entry // by ID
	version int64             // that records are of; overlapping changes may be newer
	epoch   string            // of the store; "" before there was one
	full    time.Time         // of the last reading of everything; zero: never
	serial  uint64            // of what was handed on last
	dirty   bool              // records are not handed on yet
	broken  []string          // what is wrong with records, the first of it

	state atomic.Pointer[State]
	wake  chan struct{}
}

// entry is one record as it was read.
type entry struct {
	raw     string
	key     *identity.StoredKey // nil where the record cannot be used, or only ends a key
	problem string              // "" where there is none
}

// State is what is known about the store, for status pages.
type State struct {
	Keys     int       `json:"keys"`               // held, those that are disabled or expired included
	Version  int64     `json:"version"`            // of the store, as it was read last
	Read     time.Time `json:"read,omitzero"`      // when Redis last answered; zero: never
	Err      string    `json:"error,omitempty"`    // of the last try; "" after a success
	Problems []string  `json:"problems,omitempty"` // records that cannot be used, the first of them
}

// Watch makes a Watcher of what stands behind a prefix. Its Run does the work.
func Watch(client redis.UniversalClient, prefix string, into *identity.StoredKeys, log *slog.Logger) (*Watcher, error) {
	if client == nil || into == nil || prefix == "" {
		return nil, errors.New("the key store needs a Redis client, a prefix and a place for the keys")
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	w := &Watcher{
		client: client, names: namesOf(prefix), into: into, log: log, now: time.Now, poll: pollEvery,
		records: map[string]*entry{}, wake: make(chan struct{}, 1),
	}
	w.state.Store(&State{})
	return w, nil
}

// State tells how the store is.
func (w *Watcher) State() State { return *w.state.Load() }

// Run follows the store until ctx ends. The keys that are known then stay where they are.
func (w *Watcher) Run(ctx context.Context) {
	var listening sync.WaitGroup
	defer listening.Wait()
	listening.Go(func() { w.listen(ctx) })
	timer := time.NewTimer(w.poll)
	defer timer.Stop()
	for {
		err := w.sync(ctx)
		if ctx.Err() != nil {
			return
		}
		w.note(err)
		timer.Reset(w.poll)
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-w.wake:
		}
	}
}

// listen turns messages into wishes. The client connects again by itself; what is missed meanwhile the poll finds.
func (w *Watcher) listen(ctx context.Context) {
	sub := w.client.Subscribe(ctx, w.names.channel)
	defer func() { _ = sub.Close() }() // nothing is lost by a failure to close
	messages := sub.Channel()
	for {
		select {
		case <-ctx.Done():
			return
		case _, ok := <-messages:
			if !ok {
				return
			}
			select {
			case w.wake <- struct{}{}:
			default:
			}
		}
	}
}

// sync reads what has changed and hands it on.
func (w *Watcher) sync(ctx context.Context) error {
	meta, err := w.client.HMGet(ctx, w.names.meta, "version", "epoch").Result()
	if err != nil {
		return fmt.Errorf("the version cannot be read: %w", err)
	}
	text, _ := meta[0].(string)
	epoch, _ := meta[1].(string)
	version, _ := strconv.ParseInt(text, 10, 64)
	now := w.now()
	switch {
	case epoch == "" && len(w.records) > 0:
		if err = w.readBuried(ctx); err == nil {
			err = errFlushed
		}
	case epoch != w.epoch || version < w.version || w.full.IsZero() || now.Sub(w.full) >= resyncEvery || now.Before(w.full):
		if err = w.readAll(ctx); err == nil {
			w.epoch, w.version, w.full = epoch, version, now
		}
	case version > w.version:
		if err = w.readChanges(ctx); err == nil {
			w.version = version
		}
	}
	// Also where there is nothing new: that there are no keys has to be told once, and another Watcher may have been here.
	if ctx.Err() == nil && (w.dirty || err == nil && (w.serial == 0 || w.serial != w.into.Serial())) {
		w.handOn()
	}
	return err
}

// readAll reads every record. The version was read before, so what changes meanwhile is read again.
func (w *Watcher) readAll(ctx context.Context) error {
	raws, err := readAll(ctx, w.client, w.names.records)
	if err != nil {
		return fmt.Errorf("the keys cannot be read: %w", err)
	}
	for id, raw := range raws {
		w.set(id, raw)
	}
	for id := range w.records {
		if _, ok := raws[id]; !ok {
			delete(w.records, id)
			w.dirty = true
		}
	}
	return nil
}

// readBuried takes what was written into a store that has lost its data: keys that are to end. What else is known stays.
func (w *Watcher) readBuried(ctx context.Context) error {
	raws, err := readAll(ctx, w.client, w.names.records)
	if err != nil {
		return fmt.Errorf("the keys cannot be read: %w", err)
	}
	for id, raw := range raws {
		w.set(id, raw)
	}
	return nil
}

// readChanges reads the records that changed since the version that is known, and some before it.
func (w *Watcher) readChanges(ctx context.Context) error {
	ids, err := w.client.ZRangeByScore(ctx, w.names.log, &redis.ZRangeBy{
		Min: strconv.FormatInt(w.version-overlap, 10), Max: "+inf",
	}).Result()
	if err != nil {
		return fmt.Errorf("the list of changes cannot be read: %w", err)
	}
	for page := range slices.Chunk(ids, pageSize) {
		raws, err := w.client.HMGet(ctx, w.names.records, page...).Result()
		if err != nil {
			return fmt.Errorf("the changed keys cannot be read: %w", err)
		}
		for i, v := range raws {
			if raw, ok := v.(string); ok {
				w.set(page[i], raw)
			} else if w.records[page[i]] != nil {
				delete(w.records, page[i])
				w.dirty = true
			}
		}
	}
	return nil
}

// set takes a record. One that is the same as before stays the same key.
func (w *Watcher) set(id, raw string) {
	if old := w.records[id]; old != nil && old.raw == raw {
		return
	}
	e := &entry{raw: raw}
	r, err := parseRecord(id, []byte(raw))
	if err == nil && !r.buried() {
		var k identity.Key
		if k, err = r.Key(); err == nil {
			e.key = identity.NewStoredKey(k)
		}
	}
	if err != nil {
		e.problem = fmt.Sprintf("the stored key %q lets nobody in: %v", id, err)
		w.log.Warn("a stored key cannot be used", "key", id, "error", err)
	}
	w.records[id] = e
	w.dirty = true
}

// handOn makes what is known count.
func (w *Watcher) handOn() {
	list := make([]*identity.StoredKey, 0, len(w.records))
	var broken []string
	for _, e := range w.records {
		if e.key != nil {
			list = append(list, e.key)
		} else if e.problem != "" {
			broken = append(broken, e.problem)
		}
	}
	slices.Sort(broken)
	w.broken = broken[:min(len(broken), maxProblemsShown)]
	slices.SortFunc(list, func(a, b *identity.StoredKey) int {
		ka, kb := a.Key(), b.Key()
		return cmp.Or(strings.Compare(ka.Namespace, kb.Namespace), strings.Compare(ka.Name, kb.Name))
	})
	w.serial = w.into.Replace(list)
	w.dirty = false
	if w.OnChange != nil {
		w.OnChange()
	}
}

// note keeps the state, and logs when it turns.
func (w *Watcher) note(err error) {
	old := w.state.Load()
	st := State{Keys: len(w.records), Version: w.version, Read: old.Read, Problems: w.broken}
	if err == nil {
		st.Read = w.now()
	} else {
		st.Err = err.Error()
	}
	switch {
	case err != nil && old.Err == "":
		w.log.Warn("the key store does not answer as it should; the keys that are known stay in force", "error", err, "keys", st.Keys)
	case err == nil && old.Err != "":
		w.log.Info("the key store answers again", "keys", st.Keys)
	}
	w.state.Store(&st)
}
