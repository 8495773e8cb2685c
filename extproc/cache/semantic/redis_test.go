package semantic

import (
	"context"
	"encoding/binary"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/weir-dev/weir/extproc/cache"
	"github.com/weir-dev/weir/internal/redisconn"
	"github.com/weir-dev/weir/test/redistest"
)

// patience bounds what a busy machine may take.
const patience = 30 * time.Second

func connect(t testing.TB, s *redistest.Server) *redisconn.Conn {
	t.Helper()
	conn, err := redisconn.Open(redisconn.Config{Addresses: []string{s.Addr}, Timeout: patience}, redisconn.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// vectors makes an index in a real Redis. Where that is older than vector sets their commands are answered by emulation, exactly as
// Redis 8.2 answers them; all others are the server's.
func vectors(t testing.TB) (*vectorSets, *clock) {
	t.Helper()
	conn := connect(t, redistest.Start(t))
	c := newClock()
	c.t = time.Now() // expiry is the server's
	r := &vectorSets{conn: conn, prefix: "weir:test", now: c.now}
	able, err := r.supported(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !able {
		t.Log("this redis-server has no vector sets: their commands are emulated")
		conn.AddHook(&emulation{sets: map[string]map[string][]float64{}})
		r.asked = time.Time{}
		if able, err = r.supported(t.Context()); err != nil || !able {
			t.Fatal(able, err)
		}
	}
	return r, c
}

// emulation answers the commands of vector sets.
type emulation struct {
	mu   sync.Mutex
	sets map[string]map[string][]float64
}

func (e *emulation) DialHook(next redis.DialHook) redis.DialHook { return next }

func (e *emulation) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if e.answer(cmd) {
			return cmd.Err()
		}
		return next(ctx, cmd)
	}
}

func (e *emulation) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		var rest []redis.Cmder
		for _, cmd := range cmds {
			if !e.answer(cmd) {
				rest = append(rest, cmd)
			}
		}
		if len(rest) == 0 {
			return nil
		}
		return next(ctx, rest)
	}
}

func (e *emulation) answer(cmd redis.Cmder) bool {
	c, ok := cmd.(*redis.Cmd)
	if !ok {
		return false
	}
	text := func(i int) string { s, _ := c.Args()[i].(string); return s }
	e.mu.Lock()
	defer e.mu.Unlock()
	switch text(0) {
	case "COMMAND":
		c.SetVal([]any{[]any{text(2), int64(-1)}})
	case "VADD":
		set := e.sets[text(1)]
		if set == nil {
			set = map[string][]float64{}
			e.sets[text(1)] = set
		}
		set[text(4)] = numbers(c.Args()[3].([]byte))
		c.SetVal(int64(1))
	case "VREM":
		n := int64(0)
		if _, ok := e.sets[text(1)][text(2)]; ok {
			n = 1
		}
		delete(e.sets[text(1)], text(2))
		c.SetVal(n)
	case "VSIM":
		c.SetVal(e.nearest(text(1), numbers(c.Args()[3].([]byte)), c.Args()[6].(int)))
	default:
		return false
	}
	return true
}

func (e *emulation) nearest(set string, q []float64, n int) []any {
	type scored struct {
		name  string
		score float64
	}
	var list []scored
	for name, v := range e.sets[set] {
		var dot float64
		for i := range q {
			dot += q[i] * v[i]
		}
		list = append(list, scored{name, (1 + dot) / 2})
	}
	slices.SortFunc(list, func(a, b scored) int {
		if a.score > b.score {
			return -1
		}
		return 1
	})
	reply := []any{}
	for _, s := range list[:min(n, len(list))] {
		reply = append(reply, s.name, strconv.FormatFloat(s.score, 'g', 17, 64))
	}
	return reply
}

func numbers(blob []byte) []float64 {
	list := make([]float64, len(blob)/4)
	var sum float64
	for i := range list {
		list[i] = float64(math.Float32frombits(binary.LittleEndian.Uint32(blob[4*i:])))
		sum += list[i] * list[i]
	}
	for i := range list {
		list[i] /= math.Sqrt(sum)
	}
	return list
}

// TestRedisRecall: the search in Redis is approximate; of requests whose nearest is near enough, it finds nearly all, and never calls
// near what is not.
func TestRedisRecall(t *testing.T) {
	r, c := vectors(t)
	rnd := rand.New(rand.NewPCG(11, 12))
	s := spaceNamed("p", 1, 1_000_000)
	const dims, count, asked = 128, 3000, 300
	m := newMemory(c.now, 1<<30)
	center := random(rnd, dims)
	all := make([][]float32, count)
	for i := range all {
		all[i] = beside(rnd, center, 0.7)
		for _, ix := range []index{r, m} {
			if err := ix.add(t.Context(), s, vectorOf(t, all[i]), keyOf(i), c.now().Add(time.Hour)); err != nil {
				t.Fatal(err)
			}
		}
	}
	want, got := 0, 0
	for range asked {
		v := vectorOf(t, beside(rnd, all[rnd.IntN(count)], 0.9+0.1*rnd.Float64()))
		exact, _ := m.nearest(t.Context(), s, v, 0.95, 1)
		found, err := r.nearest(t.Context(), s, v, 0.95, 1)
		if err != nil {
			t.Fatal(err)
		}
		if len(found) > len(exact) {
			t.Fatalf("%v is called near", found)
		}
		want += len(exact)
		if len(exact) == 1 && len(found) == 1 && exact[0].Key == found[0].Key {
			got++
			if math.Abs(exact[0].Similarity-found[0].Similarity) > 1e-4 {
				t.Fatalf("%v, exactly %v", found[0].Similarity, exact[0].Similarity)
			}
		}
	}
	t.Logf("%d of %d found", got, want)
	if want < asked/4 || float64(got) < 0.98*float64(want) {
		t.Errorf("%d of %d found", got, want)
	}
}

func TestRedisIsBounded(t *testing.T) {
	r, c := vectors(t)
	rnd := rand.New(rand.NewPCG(13, 14))
	one, other := spaceNamed("p", 1, 5), spaceNamed("p", 2, 5)
	var list []*vector
	for i := range 9 {
		s := one
		if i%2 == 1 {
			s = other
		}
		list = append(list, vectorOf(t, random(rnd, 64)))
		if err := r.add(t.Context(), s, list[i], keyOf(i), c.now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		c.add(time.Second)
	}
	for i, v := range list {
		s := one
		if i%2 == 1 {
			s = other
		}
		if has(t, r, s, v) != (i >= 4) {
			t.Errorf("number %d of 9: %v", i, i < 4)
		}
	}
	// What is too old leaves with the next that comes.
	c.add(2 * time.Hour)
	last := vectorOf(t, random(rnd, 64))
	if err := r.add(t.Context(), one, last, keyOf(99), c.now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if has(t, r, one, list[8]) || !has(t, r, one, last) {
		t.Error("what is too old is still there")
	}
	// A time that is over already.
	if err := r.add(t.Context(), other, last, keyOf(98), c.now()); err != nil || has(t, r, other, last) {
		t.Errorf("a vector without time was added: %v", err)
	}
}

// TestPurge: both indexes forget what is selected, and nothing else.
func TestPurge(t *testing.T) {
	r, c := vectors(t)
	key := keyOf(1)
	for name, ix := range map[string]index{"memory": newMemory(c.now, 1<<20), "redis": r} {
		for _, tt := range []struct {
			sel  cache.Selector
			gone []int // places in spaces
		}{
			{cache.Selector{Policy: "p"}, []int{0, 1}},
			{cache.Selector{Policy: "p", Tenant: "t1"}, []int{0}},
			{cache.Selector{Policy: "p", Model: "m"}, []int{0, 1}},
			{cache.Selector{Policy: "p", Model: "n"}, nil},
			{cache.Selector{Policy: "p", Key: &key}, []int{1}},
			{cache.Selector{Policy: "x"}, nil},
		} {
			rnd := rand.New(rand.NewPCG(15, 16))
			spaces := []*space{spaceNamed("p", 1, 9), spaceNamed("p", 2, 9), spaceNamed("q", 1, 9)}
			var list []*vector
			for i, s := range spaces {
				list = append(list, vectorOf(t, random(rnd, 64)))
				if err := ix.add(t.Context(), s, list[i], keyOf(i), c.now().Add(time.Hour)); err != nil {
					t.Fatal(err)
				}
			}
			n, err := ix.purge(t.Context(), &tt.sel)
			if err != nil || n != len(tt.gone) {
				t.Errorf("%s, %s: %d gone, %v", name, tt.sel.String(), n, err)
			}
			for i, s := range spaces {
				if has(t, ix, s, list[i]) == slices.Contains(tt.gone, i) {
					t.Errorf("%s, %s: number %d is there: %v", name, tt.sel.String(), i, slices.Contains(tt.gone, i))
				}
				if err := ix.remove(t.Context(), s, keyOf(i)); err != nil || has(t, ix, s, list[i]) {
					t.Errorf("%s: removed, and still there (%v)", name, err)
				}
			}
		}
	}
}

// TestRedisComesAndGoes: a server that does not answer is asked once in a while; one that cannot search, too.
func TestRedisComesAndGoes(t *testing.T) {
	server := redistest.Start(t)
	conn := connect(t, server)
	c := newClock()
	hook := &emulation{sets: map[string]map[string][]float64{}}
	r := &vectorSets{conn: conn, prefix: "x", now: c.now}
	first, err := r.supported(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	conn.AddHook(hook)
	if able, err := r.supported(t.Context()); err != nil || able != first {
		t.Errorf("asked again at once: %v, %v", able, err)
	}
	c.add(askAgain)
	if able, err := r.supported(t.Context()); err != nil || !able {
		t.Errorf("not asked again: %v, %v", able, err)
	}
	_ = r.failed(errors.New("ERR unknown command 'VSIM', with args beginning with"))
	if r.able {
		t.Error("a server that does not know the command is taken for able")
	}
	server.Kill()
	if err := conn.Ping(t.Context()).Err(); err == nil {
		t.Fatal("the server is dead and answers")
	}
	r.tried = c.now()
	if able, err := r.supported(t.Context()); able || err == nil {
		t.Errorf("a server that was asked a moment ago and is dead: %v, %v", able, err)
	}
	if err := r.add(t.Context(), spaceNamed("p", 1, 9), vectorOf(t, []float32{1, 2}), keyOf(1), c.now().Add(time.Hour)); err == nil {
		t.Error("a dead server keeps a vector")
	}
	server.Restart()
	c.add(tryAgain)
	if able, err := r.supported(t.Context()); err != nil || !able {
		t.Errorf("after a restart: %v, %v", able, err)
	}
}

// TestKeysNameNobody: neither tenants nor models stand in Redis's keys in words.
func TestKeysNameNobody(t *testing.T) {
	s := &space{id: [16]byte{1}, policy: "default/secret-project", tenant: "acme", model: "gpt"}
	r := &vectorSets{prefix: "weir:gw"}
	times, spaces := r.keys(s.policy)
	m := member(s, keyOf(1))
	if all := times + spaces + m; strings.Contains(all, "acme") || strings.Contains(all, "gpt") || strings.Contains(all, "secret") {
		t.Error(all)
	}
	if len(m) != memberIs || m[keyAt:] != keyOf(1).String() || !strings.HasPrefix(m[spaceAt:], "01") {
		t.Errorf("%q", m)
	}
}
