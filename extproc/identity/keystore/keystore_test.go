package keystore

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/test/redistest"
)

var t0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func secretOf(name string) string { return "weir_Test0000_" + name + strings.Repeat("x", 30) }

func record(name string) Record {
	return Record{Namespace: "default", Name: name, Consumer: "app", Hash: identity.HashKey(secretOf(name)), Prefix: "weir_Test0000", Created: t0}
}

// replica is a watcher and what its requests are checked with.
type replica struct {
	*Watcher
	auth *identity.Authenticator
	stop func()
}

// start runs a watcher that polls often, so that tests are quick.
func start(t *testing.T, client redis.UniversalClient, poll time.Duration) *replica {
	t.Helper()
	into := &identity.StoredKeys{}
	auth, errs := identity.New(identity.Config{
		Consumers: []identity.Consumer{{Namespace: "default", Name: "app"}},
		Shared:    identity.Shared{Stored: into},
	}, nil)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	w, err := Watch(client, "test", into, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.poll = poll
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { w.Run(ctx) })
	stop := sync.OnceFunc(func() { cancel(); wg.Wait() })
	t.Cleanup(stop)
	return &replica{Watcher: w, auth: auth, stop: stop}
}

// status of a request with the key of that name.
func (r *replica) status(name string) int {
	var h identity.Headers
	h.Add("authorization", "Bearer "+secretOf(name))
	if _, err := r.auth.Authenticate(context.Background(), h, netip.Addr{}, t0); err != nil {
		return err.HTTPStatus()
	}
	return 200
}

// until waits for a condition; only a broken one takes long.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it never came to this: %s", what)
		}
	}
}

func (r *replica) untilStatus(t *testing.T, name string, want int) {
	t.Helper()
	until(t, fmt.Sprintf("key %s gets %d", name, want), func() bool { return r.status(name) == want })
}

func write(t *testing.T, s *Store, changes ...Change) {
	t.Helper()
	if err := s.Write(t.Context(), changes...); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, s *Store, name string) Stored {
	t.Helper()
	r, err := s.Get(t.Context(), "default", name)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func disable(t *testing.T, s *Store, name string) {
	t.Helper()
	was := get(t, s, name)
	r := was.Record
	r.Disabled = true
	write(t, s, Change{Record: r, Was: &was})
}

// TestMessages: with a poll that never comes, changes are seen by their messages, on every replica.
func TestMessages(t *testing.T) {
	srv := redistest.Start(t)
	store := Open(srv.Client(), "test")
	write(t, store, Change{Record: record("first")})
	replicas := []*replica{start(t, srv.Client(), time.Hour), start(t, srv.Client(), time.Hour), start(t, srv.Client(), time.Hour)}
	for _, r := range replicas {
		r.untilStatus(t, "first", 200)
	}
	// Their subscriptions must stand before what follows: a message goes to who listens.
	until(t, "all listen", func() bool {
		n, err := srv.Client().PubSubNumSub(t.Context(), "test:{keys}:changed").Result()
		return err == nil && n["test:{keys}:changed"] == int64(len(replicas))
	})
	write(t, store, Change{Record: record("second")})
	disable(t, store, "first")
	for _, r := range replicas {
		r.untilStatus(t, "second", 200)
		r.untilStatus(t, "first", 401)
	}
}

// TestLostMessages: without any message, asking for the version is enough, twice a second.
func TestLostMessages(t *testing.T) {
	if pollEvery > 500*time.Millisecond {
		t.Errorf("a change may go unseen for %v", pollEvery)
	}
	srv := redistest.Start(t)
	store := Open(srv.Client(), "test")
	store.names.channel = "nobody-listens-here"
	r := start(t, srv.Client(), time.Millisecond)
	until(t, "the empty store is read", func() bool { return r.status("first") == 401 })
	write(t, store, Change{Record: record("first")})
	r.untilStatus(t, "first", 200)
	disable(t, store, "first")
	r.untilStatus(t, "first", 401)
	// Idle, a replica asks one command for each poll and reads no keys.
	client := srv.Client()
	before := srv.Commands(t.Context(), client)
	until(t, "it goes on asking", func() bool { return srv.Commands(t.Context(), client) > before+50 })
	if st := r.State(); st.Keys != 1 || st.Version != 2 || st.Err != "" || st.Read.IsZero() {
		t.Errorf("state %+v", st)
	}
}

// TestAway: what is known stays in force while Redis is away, and a new replica says that it does not know.
func TestAway(t *testing.T) {
	srv := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
	store := Open(srv.Client(), "test")
	write(t, store, Change{Record: record("first")}, Change{Record: record("second")})
	r := start(t, srv.Client(), time.Millisecond)
	r.untilStatus(t, "first", 200)
	disable(t, store, "second")
	r.untilStatus(t, "second", 401)

	srv.Kill()
	until(t, "it says that Redis is away", func() bool { return r.State().Err != "" })
	if r.status("first") != 200 || r.status("second") != 401 || r.State().Keys != 2 {
		t.Errorf("first %d, second %d, state %+v", r.status("first"), r.status("second"), r.State())
	}
	late := start(t, srv.Client(), time.Millisecond)
	until(t, "the new one has tried", func() bool { return late.State().Err != "" })
	if got := late.status("first"); got != 503 {
		t.Errorf("a replica that knows nothing answers %d", got)
	}

	srv.Restart()
	late.untilStatus(t, "first", 200)
	late.untilStatus(t, "second", 401)
	until(t, "both say that all is well", func() bool { return r.State().Err == "" && late.State().Err == "" })
	disable(t, store, "first")
	r.untilStatus(t, "first", 401)
	late.untilStatus(t, "first", 401)
}

// TestFlushed: lost data do not lock anybody out, and what is written then counts.
func TestFlushed(t *testing.T) {
	srv := redistest.Start(t)
	store := Open(srv.Client(), "test")
	write(t, store, Change{Record: record("first")})
	r := start(t, srv.Client(), time.Millisecond)
	r.untilStatus(t, "first", 200)
	if err := srv.Client().FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	until(t, "it says that the store is empty", func() bool { return strings.Contains(r.State().Err, "is empty although") })
	if got := r.status("first"); got != 200 {
		t.Errorf("the known key gets %d", got)
	}
	write(t, store, Change{Record: record("second")})
	r.untilStatus(t, "second", 200)
	r.untilStatus(t, "first", 401)
	until(t, "it says that all is well", func() bool { return r.State().Err == "" })
}

// TestBury: in a store that lost its data one key can be ended; the others stay in force, here and after what is written next.
func TestBury(t *testing.T) {
	srv := redistest.Start(t)
	store := Open(srv.Client(), "test")
	if lost, err := store.Lost(t.Context()); err != nil || !lost {
		t.Errorf("a new store: %v, %v", lost, err)
	}
	write(t, store, Change{Record: record("first")}, Change{Record: record("second")})
	if lost, err := store.Lost(t.Context()); err != nil || lost {
		t.Errorf("a good store: %v, %v", lost, err)
	}
	if err := store.Bury(t.Context(), "default", "nobody"); !errors.Is(err, ErrNotFound) {
		t.Errorf("in a good store: %v", err)
	}
	r := start(t, srv.Client(), time.Millisecond)
	r.untilStatus(t, "first", 200)
	if err := srv.Client().FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	until(t, "it says that the store is empty", func() bool { return strings.Contains(r.State().Err, "is empty although") })
	if err := store.Bury(t.Context(), "default", "first"); err != nil {
		t.Fatal(err)
	}
	r.untilStatus(t, "first", 401)
	if got := r.status("second"); got != 200 {
		t.Errorf("the other key gets %d", got)
	}
	if st := r.State(); len(st.Problems) > 0 || !strings.Contains(st.Err, "is empty although") {
		t.Errorf("%+v", st)
	}
	late := start(t, srv.Client(), time.Millisecond)
	late.untilStatus(t, "second", 401)
	if got := get(t, store, "first"); !got.Disabled || got.Hash != "" {
		t.Errorf("%+v", got.Record)
	}
	if err := store.Bury(t.Context(), "default", "../x"); err == nil {
		t.Error("a name that is none is buried")
	}
	write(t, store, Change{Record: record("third")})
	r.untilStatus(t, "third", 200)
	r.untilStatus(t, "second", 401)
	r.untilStatus(t, "first", 401)
	if list, problems, err := store.List(t.Context()); err != nil || len(problems) > 0 || len(list) != 2 {
		t.Errorf("%v, %v, %v", list, problems, err)
	}
}

// TestFailover: a master that lost the last changes is followed, also when it has counted up to the same version again.
func TestFailover(t *testing.T) {
	srv := redistest.Start(t)
	client := srv.Client()
	store := Open(client, "test")
	write(t, store, Change{Record: record("first")})
	write(t, store, Change{Record: record("lost")})
	r := start(t, srv.Client(), time.Hour) // follows messages only, so that the test sets the pace
	r.untilStatus(t, "lost", 200)
	until(t, "it listens", func() bool {
		n, err := client.PubSubNumSub(t.Context(), store.names.channel).Result()
		return err == nil && n[store.names.channel] == 1
	})
	// The new master does not have the last change, and has others under its number.
	pipe := client.TxPipeline()
	pipe.HDel(t.Context(), store.names.records, "default/lost")
	pipe.ZRem(t.Context(), store.names.log, "default/lost")
	pipe.HIncrBy(t.Context(), store.names.meta, "version", -1)
	if _, err := pipe.Exec(t.Context()); err != nil {
		t.Fatal(err)
	}
	silent := Open(client, "test")
	silent.names.channel = "nobody"
	write(t, silent, Change{Record: record("new")})
	write(t, store, Change{Record: record("newer")})
	r.untilStatus(t, "newer", 200)
	r.untilStatus(t, "new", 200) // its version was known already
	// A version that goes back has everything read again.
	if err := client.HIncrBy(t.Context(), store.names.meta, "version", -1).Err(); err != nil {
		t.Fatal(err)
	}
	if err := client.Publish(t.Context(), store.names.channel, "").Err(); err != nil {
		t.Fatal(err)
	}
	r.untilStatus(t, "lost", 401)
}

// TestResync: once a minute everything is read, whatever the version says.
func TestResync(t *testing.T) {
	srv := redistest.Start(t)
	client := srv.Client()
	store := Open(client, "test")
	write(t, store, Change{Record: record("first")})
	into := &identity.StoredKeys{}
	w, err := Watch(client, "test", into, nil)
	if err != nil {
		t.Fatal(err)
	}
	changes := 0
	w.OnChange = func() { changes++ }
	now := t0
	w.now = func() time.Time { return now }
	sync := func(want int) {
		t.Helper()
		if err := w.sync(t.Context()); err != nil || into.Len() != want {
			t.Errorf("%d keys, %v; want %d", into.Len(), err, want)
		}
	}
	sync(1)
	if err := client.HDel(t.Context(), store.names.records, "default/first").Err(); err != nil {
		t.Fatal(err)
	}
	now = now.Add(resyncEvery - 1)
	sync(1)
	now = now.Add(1)
	sync(0)
	if changes != 2 {
		t.Errorf("told of %d changes, want 2", changes)
	}
	// Another writer's keys are replaced.
	into.Replace([]*identity.StoredKey{identity.NewStoredKey(identity.Key{Name: "other"})})
	sync(0)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	into.Replace([]*identity.StoredKey{identity.NewStoredKey(identity.Key{Name: "other"})})
	if err := w.sync(ctx); err == nil || into.Len() != 1 {
		t.Errorf("a watcher that has ended still writes: %v", err)
	}
}

// TestManyKeys: pages, and that what does not change stays the same key.
func TestManyKeys(t *testing.T) {
	srv := redistest.Start(t)
	client := srv.Client()
	store := Open(client, "test")
	const n = 3*pageSize + 7
	var changes []Change
	for i := range n {
		changes = append(changes, Change{Record: record(fmt.Sprint("k", i))})
	}
	write(t, store, changes...)
	into := &identity.StoredKeys{}
	w, err := Watch(client, "test", into, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.sync(t.Context()); err != nil || into.Len() != n {
		t.Fatalf("%d keys, %v", into.Len(), err)
	}
	before := map[string]*identity.StoredKey{}
	for id, e := range w.records {
		before[id] = e.key
	}
	disable(t, store, "k5")
	if err := w.sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	for id, e := range w.records {
		if same := e.key == before[id]; same == (id == "default/k5") {
			t.Errorf("%s is the same key: %t", id, same)
		}
	}
	list, problems, err := store.List(t.Context())
	if err != nil || len(list) != n || len(problems) != 0 || !slices.IsSortedFunc(list, func(a, b Stored) int { return strings.Compare(a.Name, b.Name) }) {
		t.Errorf("%d listed, %v, %v", len(list), problems, err)
	}
}

// TestWrite: all or nothing, and never over what somebody else wrote.
func TestWrite(t *testing.T) {
	srv := redistest.Start(t)
	store := Open(srv.Client(), "test")
	write(t, store, Change{Record: record("a")})
	err := store.Write(t.Context(), Change{Record: record("b")}, Change{Record: record("a")})
	if !errors.Is(err, ErrExists) || !strings.Contains(err.Error(), "default/a") {
		t.Errorf("a second key of the name: %v", err)
	}
	if _, err := store.Get(t.Context(), "default", "b"); !errors.Is(err, ErrNotFound) {
		t.Errorf("half of a change was made: %v", err)
	}
	was := get(t, store, "a")
	disable(t, store, "a")
	r := was.Record
	r.Consumer = "other"
	if err := store.Write(t.Context(), Change{Record: record("c")}, Change{Record: r, Was: &was}); !errors.Is(err, ErrChanged) {
		t.Errorf("a change of what has changed: %v", err)
	}
	if got := get(t, store, "a"); !got.Disabled || got.Consumer != "app" {
		t.Errorf("%+v", got.Record)
	}
	for _, bad := range []Record{{}, func() Record { r := record("x"); r.Hash = "md5:1"; return r }(), func() Record { r := record("x"); r.Name = "a/b"; return r }()} {
		if err := store.Write(t.Context(), Change{Record: bad}); err == nil {
			t.Errorf("stored: %+v", bad)
		}
	}
	// Many writers: every change is counted once.
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() { write(t, store, Change{Record: record(fmt.Sprint("w", i))}) })
	}
	wg.Wait()
	if v, _ := srv.Client().HGet(t.Context(), store.names.meta, "version").Int(); v != 22 {
		t.Errorf("version %d, want 22", v)
	}
}

// TestWriteWithoutPublish: a Redis user that may not publish can still change keys; replicas find out by asking.
func TestWriteWithoutPublish(t *testing.T) {
	srv := redistest.Start(t)
	admin := srv.Client()
	if err := admin.Do(t.Context(), "ACL", "SETUSER", "cli", "on", ">pw", "~test:*", "resetchannels", "+@all").Err(); err != nil {
		t.Fatal(err)
	}
	cli := redis.NewClient(&redis.Options{Addr: srv.Addr, Username: "cli", Password: "pw"})
	t.Cleanup(func() { _ = cli.Close() })
	write(t, Open(cli, "test"), Change{Record: record("first")})
	r := start(t, admin, time.Millisecond)
	r.untilStatus(t, "first", 200)
}

// TestBadRecords: what cannot be read lets nobody in, is told, and does not disturb the others.
func TestBadRecords(t *testing.T) {
	srv := redistest.Start(t)
	client := srv.Client()
	store := Open(client, "test")
	write(t, store, Change{Record: record("good")})
	good := get(t, store, "good").raw
	for id, raw := range map[string]string{
		"default/garbage": "\x00", "default/other": good, "default/future": strings.Replace(strings.Replace(good, `"good"`, `"future"`, 1), `{`, `{"onlyOnSundays":true,`, 1),
	} {
		if err := client.HSet(t.Context(), store.names.records, id, raw).Err(); err != nil {
			t.Fatal(err)
		}
	}
	r := start(t, client, time.Millisecond)
	r.untilStatus(t, "good", 200)
	st := r.State()
	text := strings.Join(st.Problems, "\n")
	if len(st.Problems) != 3 || st.Err != "" || !strings.Contains(text, "onlyOnSundays") || !strings.Contains(text, "another key") || !slices.IsSorted(st.Problems) {
		t.Errorf("state %+v", st)
	}
	if _, problems, err := store.List(t.Context()); err != nil || len(problems) != 3 {
		t.Errorf("%v, %v", problems, err)
	}
	if _, err := store.Get(t.Context(), "default", "garbage"); err == nil || errors.Is(err, ErrNotFound) {
		t.Errorf("%v", err)
	}
	// Nothing in Redis is a key.
	all, err := client.HGetAll(t.Context(), store.names.records).Result()
	if err != nil || strings.Contains(fmt.Sprint(all), secretOf("good")) {
		t.Errorf("the store holds a key: %v, %v", all, err)
	}
}

func TestWatchRefuses(t *testing.T) {
	if _, err := Watch(nil, "x", &identity.StoredKeys{}, nil); err == nil {
		t.Error("a watcher without a client")
	}
}

// FuzzParseRecord: whatever is stored, a record that is read is the one of its ID and makes a key.
func FuzzParseRecord(f *testing.F) {
	f.Add("default/a", `{"namespace":"default","name":"a","consumer":"app","hash":"`+identity.HashKey("x")+`"}`)
	f.Add("default/a", `{"namespace":"default","name":"a","consumer":"app","hash":"hmac-`+identity.HashKey("x")+`","expiresAt":"2027-01-01T00:00:00Z","requestsPerMinute":5}`)
	f.Add("a/b/c", `{"namespace":"a/b","name":"c"}`)
	f.Add("", `{}{}`)
	f.Fuzz(func(t *testing.T, id, raw string) {
		r, err := parseRecord(id, []byte(raw))
		if err != nil {
			return
		}
		k, err := r.Key()
		if err != nil || r.ID() != id || strings.Count(id, "/") != 1 || k.Consumer == "" {
			t.Errorf("%q: %+v, %v", id, r, err)
		}
	})
}
