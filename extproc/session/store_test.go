package session

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/internal/redisconn"
)

// stores runs a test with each store.
func stores(t *testing.T, test func(t *testing.T, place Place, change func(*Policy))) {
	t.Run("memory", func(t *testing.T) { test(t, nil, func(*Policy) {}) })
	t.Run("redis", func(t *testing.T) {
		_, place := redisPlace(t)
		test(t, place, inRedisToo)
	})
}

// TestConcurrentTurns: of many requests at once, in several processes, no turn, slot or entity is lost, and no turn is there twice.
func TestConcurrentTurns(t *testing.T) {
	stores(t, func(t *testing.T, place Place, change func(*Policy)) {
		const replicas, requests = 3, 25
		rule := &Rule{Name: "n", Pattern: mustPattern(t, `number (?P<value>\d+)`), Entity: "number"}
		p := policyOf(with(t), change, func(p *Policy) { p.Rules = []*Rule{rule}; p.KeepTurns = 1000 })
		var managers []*rig
		for range replicas {
			if place == nil && len(managers) > 0 {
				managers = append(managers, managers[0]) // memory is of one process
				continue
			}
			managers = append(managers, newRig(t, place, p))
		}
		var wg sync.WaitGroup
		for i, r := range managers {
			for k := range requests {
				wg.Go(func() {
					c := Call{Address: ana, Dialect: dialect("openai"), Body: []byte(chat(fmt.Sprintf("number %d", i*requests+k))), Headers: http.Header{}}
					turn, e := r.Begin(context.Background(), p, c)
					if e != nil {
						t.Error(e)
						return
					}
					_, err := r.Update(context.Background(), p, ana, func(s *Session) error {
						s.setSlot(fmt.Sprintf("slot%d", i*requests+k), Slot{Value: quoted("x")})
						return nil
					})
					if err != nil {
						t.Error(err)
					}
					if err := turn.Commit(context.Background(), answered2("Shall I go on?")); err != nil {
						t.Error(err)
					}
				})
			}
		}
		wg.Wait()
		s := managers[0].get(p, ana)
		seen := map[string]bool{}
		for _, turn := range s.Turns {
			seen[turn.Input[0].Parts[0].Text] = true
		}
		if len(s.Turns) != replicas*requests || len(seen) != replicas*requests || len(s.Slots) != replicas*requests {
			t.Errorf("%d turns, %d different ones and %d slots are there, not %d", len(s.Turns), len(seen), len(s.Slots), replicas*requests)
		}
		if got := len(s.Entities["number"]); got != maxEntityValues {
			t.Errorf("%d entities are kept, not %d", got, maxEntityValues)
		}
		if !slices.IsSortedFunc(s.Turns, func(a, b Said) int { return a.At.Compare(b.At) }) {
			t.Error("turns are not in the order in which they were completed")
		}
	})
}

// TestAddresses: whatever tenants, consumers and names are, nobody gets another's session, and nobody's is moved to another's key unnoticed.
func TestAddresses(t *testing.T) {
	stores(t, func(t *testing.T, place Place, change func(*Policy)) {
		p := policyOf(change, encrypted(mustKey(t, 1)))
		r := newRig(t, place, p)
		ctx := context.Background()
		random := rand.New(rand.NewPCG(1, 2))
		piece := func() string {
			alphabet := []string{"", "a", "b", "/", ":", "\x00", "{", "}", "a/b", "session", " "}
			var b strings.Builder
			for range random.IntN(3) {
				b.WriteString(alphabet[random.IntN(len(alphabet))])
			}
			return b.String()
		}
		seen := map[Address]string{}
		refs := map[Ref]Address{}
		for i := range 400 {
			a := Address{piece(), piece(), piece()}
			if other, ok := refs[a.Ref()]; ok && other != a {
				t.Fatalf("%q and %q have one key", a, other)
			}
			refs[a.Ref()] = a
			s, err := r.Load(ctx, p, a)
			if err != nil {
				t.Fatal(err)
			}
			if want, ok := seen[a]; ok != (s != nil) || ok && string(s.Slots["who"].Value) != want {
				t.Fatalf("%q has %+v, and should have %s", a, s, want)
			}
			value := quoted(fmt.Sprint(i))
			if _, err := r.Update(ctx, p, a, func(s *Session) error { s.setSlot("who", Slot{Value: value}); return nil }); err != nil {
				t.Fatal(err)
			}
			seen[a] = string(value)
		}
		// A value that stands under another key is not read.
		mine, yours := Address{"acme", "c", "mine"}, Address{"globex", "c", "mine"}
		r.say(p, mine, "secret", "ok")
		store := r.storeOf(p)
		blob, _, err := store.Get(ctx, mine.Ref())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := store.Put(ctx, yours.Ref(), blob, Version{}, Life{TTL: time.Hour, PartBytes: 1 << 20}); err != nil {
			t.Fatal(err)
		}
		if s, err := r.Load(ctx, p, yours); s != nil || !errors.Is(err, errUnreadable) {
			t.Errorf("another tenant's session was read: %+v %v", s, err)
		}
		same(t, texts(t, r.say(p, yours, "hello", "hi")), []string{"user: hello"})
	})
}

// TestEncryption: keys rotate, what is kept shows nothing, and what was not encrypted is not believed.
func TestEncryption(t *testing.T) {
	stores(t, func(t *testing.T, place Place, change func(*Policy)) {
		one, two, three := mustKey(t, 1), mustKey(t, 2), mustKey(t, 3)
		p := policyOf(change, encrypted(one))
		r := newRig(t, place, p)
		ctx := context.Background()
		r.say(p, ana, "hunter2", strings.Repeat("hunter2 ", 100))
		blob, _, err := r.storeOf(p).Get(ctx, ana.Ref())
		if err != nil || len(blob) == 0 || strings.Contains(string(blob), "hunter2") || strings.Contains(string(blob), "ana") {
			t.Errorf("%v %q", err, blob)
		}
		rotated := policyOf(change, encrypted(two, one))
		r.Use([]*Policy{rotated})
		if got := texts(t, r.say(rotated, ana, "q2", "a2")); len(got) != 3 {
			t.Errorf("the old key was not used: %q", got)
		}
		r.Use([]*Policy{policyOf(change, encrypted(two))})
		if s := r.get(policyOf(change, encrypted(two)), ana); len(s.Turns) != 2 {
			t.Errorf("the new key did not write: %+v", s)
		}
		// A key that is gone: the session is lost, and is not overwritten, for the key may come back.
		gone := policyOf(change, encrypted(three))
		r.Use([]*Policy{gone})
		turn := r.begin(gone, ana, "openai", chat("q3"))
		if turn.State() != StateLost {
			t.Errorf("the state is %s", turn.State())
		}
		if err := turn.Commit(ctx, answered2("a3")); !errors.Is(err, errUnreadable) {
			t.Errorf("what cannot be read was written over: %v", err)
		}
		r.Use([]*Policy{rotated})
		if s := r.get(rotated, ana); s == nil || len(s.Turns) != 2 {
			t.Errorf("%+v", s)
		}
		// Without encryption, somebody puts a session there.
		plain := policyOf(change)
		mallory := Address{"acme", "acme/mallory", "s"}
		r.say(plain, mallory, "believe me", "I do")
		turn = r.begin(rotated, mallory, "openai", chat("q"))
		same(t, texts(t, string(turn.Body())), []string{"user: q"})
		if err := turn.Commit(ctx, answered2("a")); err != nil || turn.State() != StateLost {
			t.Errorf("%v, state %s", err, turn.State())
		}
		same(t, texts(t, r.say(rotated, mallory, "q2", "a2")), []string{"user: q", "assistant: a", "user: q2"})
	})
}

// TestKeys: what a key may look like, and that no error shows one.
func TestKeys(t *testing.T) {
	for _, good := range []string{strings.Repeat("ab", 32), strings.Repeat("A", 43) + "=", strings.Repeat("A", 43), "_" + strings.Repeat("-", 41) + "8"} {
		if k, err := NewKey(good); err != nil || strings.Contains(good, k.String()) {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{"", "hunter2", strings.Repeat("ab", 31), strings.Repeat("A", 44), strings.Repeat("zz", 32)} {
		if _, err := NewKey(bad); err == nil || bad != "" && strings.Contains(err.Error(), bad) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// TestMemoryBound: the sessions of a policy take no more than they may, the least recently used go, and those of another policy stay.
func TestMemoryBound(t *testing.T) {
	small, other := policyOf(func(p *Policy) { p.ID, p.MemoryBytes = "default/small", 14<<10 }), policyOf(func(p *Policy) { p.ID = "default/other" })
	r := newRig(t, nil, small, other)
	at := func(i int) Address { return Address{"acme", "", fmt.Sprint(i)} }
	r.say(other, Address{"acme", "", "other"}, "q", "a")
	for i := range 30 {
		r.say(small, at(i), "q", "a")
		r.get(small, at(0)) // keeps it in use
	}
	if s := r.get(small, at(0)); s == nil {
		t.Error("the session that was always in use is gone")
	}
	if s := r.get(small, at(1)); s != nil {
		t.Error("the one that was not used is still there")
	}
	if s := r.get(other, Address{"acme", "", "other"}); s == nil {
		t.Error("the one of another policy is gone")
	}
	n, bytes := r.memory.count()
	if bytes > 16<<10 || n < 10 {
		t.Errorf("%d sessions take %d bytes", n, bytes)
	}
	if got := r.count("weir_session_evictions_total", "policy=default/small"); got != float64(31-n) {
		t.Errorf("%v evictions were counted, and %d of 31 sessions are there", got, n)
	}
	if lines, _, err := r.List(context.Background(), Filter{}, "", 1000); err != nil || len(lines) != n {
		t.Errorf("%d sessions are listed, and there are %d: %v", len(lines), n, err)
	}
}

// TestRedisLoss: what a request gets while Redis is gone, slow, or has lost everything, and what is there afterwards.
func TestRedisLoss(t *testing.T) {
	server, place := redisPlace(t)
	p := policyOf(inRedisToo)
	deny := policyOf(inRedisToo, func(p *Policy) { p.Deny = true })
	r := newRig(t, place, p)
	ctx := context.Background()
	r.say(p, ana, "q1", "a1")

	// Flushed between the beginning and the end of a request: what the request knows is written again.
	turn := r.begin(p, ana, "openai", chat("q2"))
	conn, _ := place()
	if err := conn.FlushAll(ctx).Err(); err != nil {
		t.Fatal(err)
	}
	if err := turn.Commit(ctx, answered2("a2")); err != nil {
		t.Fatal(err)
	}
	if s := r.get(p, ana); len(s.Turns) != 2 {
		t.Errorf("after a flush %d turns are there", len(s.Turns))
	}
	lines, _, err := r.List(ctx, Filter{Tenant: "acme"}, "", 10)
	if err != nil || len(lines) != 1 {
		t.Errorf("after a flush the list has %d sessions: %v", len(lines), err)
	}
	if err := conn.FlushAll(ctx).Err(); err != nil {
		t.Fatal(err)
	}
	if turn := r.begin(p, ana, "openai", chat("q3")); turn.State() != StateNew {
		t.Errorf("after a flush the state is %s", turn.State())
	}

	// Killed.
	r.say(p, ana, "q4", "a4")
	turn = r.begin(p, ana, "openai", chat("q5"))
	server.Kill()
	if err := turn.Commit(ctx, answered2("a5")); !errors.Is(err, ErrUnavailable) {
		t.Errorf("Commit: %v", err)
	}
	if turn := r.begin(p, ana, "openai", chat("q")); turn.State() != StateLost || string(turn.Body()) != chat("q") {
		t.Errorf("the state is %s, the body %s", turn.State(), turn.Body())
	}
	denied, e := r.Begin(ctx, deny, Call{Address: ana, Dialect: dialect("openai"), Body: []byte(chat("q")), Headers: http.Header{}})
	if e == nil || e.HTTPStatus() != 503 || e.Code != codeUnavailable || e.RetryAfter == 0 || denied == nil || denied.State() != StateLost {
		t.Errorf("with onFailure Deny: %+v", e)
	}
	for range tripAfter {
		_, _ = r.Load(ctx, p, ana)
	}
	if _, err := r.Load(ctx, p, ana); err == nil || !strings.Contains(err.Error(), "has just failed") {
		t.Errorf("a Redis that is gone is asked for every request: %v", err)
	}

	// Back again, a second later.
	server.Restart()
	r.clock.add(2 * time.Second)
	turn = r.begin(p, ana, "openai", chat("q6"))
	if err := turn.Commit(ctx, answered2("a6")); err != nil || turn.State() != StateNew {
		t.Errorf("%v, state %s", err, turn.State())
	}

	// Slow: it takes connections and does not answer.
	slow := connect(t, server.Addr, 30*time.Millisecond)
	r2 := newRig(t, slow, p)
	server.Pause()
	defer server.Resume()
	if turn := r2.begin(p, ana, "openai", chat("q7")); turn.State() != StateLost {
		t.Errorf("with a slow Redis the state is %s", turn.State())
	}
	patient, cancel := context.WithTimeout(ctx, time.Minute) // as requests are
	defer cancel()
	late, e := r2.Begin(patient, p, Call{Address: ana, Dialect: dialect("openai"), Body: []byte(chat("q8")), Headers: http.Header{}})
	if e != nil || late.State() != StateLost || patient.Err() != nil {
		t.Errorf("%+v; a request that has much time has waited for Redis until it was over: %v", e, patient.Err())
	}
}

// TestRedisFull: that nothing can be written keeps nobody from reading.
func TestRedisFull(t *testing.T) {
	_, place := redisPlace(t)
	p := policyOf(inRedisToo)
	r := newRig(t, place, p)
	ctx := context.Background()
	r.say(p, ana, "q1", "a1")
	conn, _ := place()
	if err := conn.ConfigSet(ctx, "maxmemory", "1").Err(); err != nil {
		t.Fatal(err)
	}
	for range tripAfter + 1 {
		if _, err := r.redis.Put(ctx, Address{"acme", "c", "other"}.Ref(), []byte("x"), Version{}, Life{TTL: time.Hour}); err == nil || !strings.Contains(err.Error(), "OOM") {
			t.Errorf("Put: %v", err)
		}
	}
	if turn := r.begin(p, ana, "openai", chat("q2")); turn.State() != StateOK {
		t.Errorf("the state is %s", turn.State())
	}
}

// TestRestart: a conversation goes on in another process.
func TestRestart(t *testing.T) {
	_, place := redisPlace(t)
	p := policyOf(inRedisToo, with(t), encrypted(mustKey(t, 1)))
	r := newRig(t, place, p)
	r.say(p, ana, "book a table", "Shall I book it?")
	r.Close()
	again := newRig(t, place, p)
	turn := again.begin(p, ana, "anthropic", `{"model":"m","max_tokens":1,"messages":[{"role":"user","content":"Yes."}]}`)
	same(t, texts(t, string(turn.Body())), []string{"user: book a table", "assistant: Shall I book it?", "user: Yes."})
	if s := again.get(p, ana); s.State != "executing" || turn.State() != StateOK {
		t.Errorf("the state is %s", s.State)
	}
}

// TestRedisKeys: every key of Redis expires, is of one hash tag with its list, and shows no name of a caller.
func TestRedisKeys(t *testing.T) {
	_, place := redisPlace(t)
	p := policyOf(inRedisToo)
	r := newRig(t, place, p)
	ctx := context.Background()
	r.say(p, ana, "q", "a")
	if _, err := r.Erase(ctx, Address{"acme", "acme/ana", "s-1"}); err != nil {
		t.Fatal(err)
	}
	r.say(p, Address{"acme", "acme/bob", "s-2"}, "q", "a")
	conn, _ := place()
	keys, err := conn.Keys(ctx, "*").Result()
	if err != nil || len(keys) < 4 {
		t.Fatalf("%v %v", keys, err)
	}
	for _, k := range keys {
		ttl, err := conn.PTTL(ctx, k).Result()
		sorted := strings.Contains(k, ":session:consumers:") || strings.HasSuffix(k, ":session:tenants")
		if err != nil || ttl <= 0 && !sorted {
			t.Errorf("%s lives for %v: %v", k, ttl, err)
		}
		if !strings.HasPrefix(k, "weir-test:session:") || strings.Contains(k, "ana") || strings.Contains(k, "bob") || strings.Contains(k, "s-1") {
			t.Error(k)
		}
		if !sorted && strings.Count(k, "{") != 1 {
			t.Errorf("%s has no hash tag", k)
		}
	}
}

// TestRedisHoldsSomethingElse: a key of another use is no session, and is not overwritten.
func TestRedisHoldsSomethingElse(t *testing.T) {
	_, place := redisPlace(t)
	p := policyOf(inRedisToo)
	r := newRig(t, place, p)
	ctx := context.Background()
	conn, prefix := place()
	key := redisKeys{conn, prefix}.value(ana.Ref())
	if err := conn.Set(ctx, key, "short", 0).Err(); err != nil {
		t.Fatal(err)
	}
	turn := r.begin(p, ana, "openai", chat("q"))
	if err := turn.Commit(ctx, answered2("a")); err == nil || turn.State() != StateLost {
		t.Errorf("%v, state %s", err, turn.State())
	}
	if v := conn.Get(ctx, key).Val(); v != "short" {
		t.Errorf("it is now %q", v)
	}
}

// TestUnknownOutcome: a write that was done, and whose answer did not come, is not done twice.
func TestUnknownOutcome(t *testing.T) {
	p := policyOf()
	r := newRig(t, nil, p)
	turn := r.begin(p, ana, "openai", chat("q"))
	if err := turn.Commit(context.Background(), answered2("a")); err != nil {
		t.Fatal(err)
	}
	turn.done = false
	if err := turn.Commit(context.Background(), answered2("a")); err != nil {
		t.Fatal(err)
	}
	if s := r.get(p, ana); len(s.Turns) != 1 || s.Revision != 1 {
		t.Errorf("%d turns, revision %d", len(s.Turns), s.Revision)
	}
}

// TestNoPlace: sessions that belong into Redis are lost where none is configured any more.
func TestNoPlace(t *testing.T) {
	p := policyOf(inRedisToo)
	r := newRig(t, func() (*redisconn.Conn, string) { return nil, "" }, p)
	turn := r.begin(p, ana, "openai", chat("q"))
	if err := turn.Commit(context.Background(), answered2("a")); !errors.Is(err, ErrUnavailable) || turn.State() != StateLost {
		t.Errorf("%v, state %s", err, turn.State())
	}
}

// TestMessages: what is kept is what was said.
func TestMessages(t *testing.T) {
	list := Messages{
		{Role: canon.RoleUser, Name: "n", Parts: []canon.Part{{Text: "a"}, {Kind: canon.PartImage, Image: &canon.Image{MediaType: "image/png", Data: "AA==", Detail: "low"}}}},
		{Role: canon.RoleAssistant, Parts: []canon.Part{{Kind: canon.PartReasoning, Text: "t", Signature: "s", Origin: "o"}, {Kind: canon.PartRefusal, Text: "no"}, {Kind: canon.PartToolCall, Call: &canon.ToolCall{ID: "i", Name: "n", Arguments: "{}"}}}},
		{Role: canon.RoleTool, Parts: []canon.Part{{Kind: canon.PartToolResult, Result: &canon.ToolResult{ID: "i", Name: "n", IsError: true, Parts: []canon.Part{{Text: "r"}}}}}},
	}
	b, err := list.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	var got Messages
	if err := got.UnmarshalJSON(b); err != nil {
		t.Fatal(err)
	}
	again, err := got.MarshalJSON()
	if err != nil || string(again) != string(b) || len(b) < 300 {
		t.Errorf("%v\n%s\n%s", err, b, again)
	}
	for _, bad := range []string{`[{"role":"x"}]`, `[{"role":"user","parts":[{"type":"x"}]}]`, `[{"role":"user","parts":[{"type":"image"}]}]`, `{}`} {
		if err := got.UnmarshalJSON([]byte(bad)); err == nil {
			t.Errorf("%s was read", bad)
		}
	}
}
