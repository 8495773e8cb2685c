package e2e

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/redis/go-redis/v9"

	"github.com/weir-dev/weir/test/e2e/harness"
	"github.com/weir-dev/weir/test/redistest"
)

// sharedTalks are two gateways that keep conversations in one Redis.
type sharedTalks struct {
	one, two *talks
	server   *redistest.Server
	client   *redis.Client
}

// sessionKey is a key to encrypt sessions with.
func sessionKey() string {
	raw := make([]byte, 32)
	rand.Read(raw) // never fails
	return base64.StdEncoding.EncodeToString(raw)
}

// sealed is the policy that encrypts, with these keys.
func sealed(keys ...string) string {
	var list []string
	for _, k := range keys {
		list = append(list, "{secretRef: {file: "+k+".txt}}")
	}
	return sessionPolicy("sealed", "store: {encryptionKeys: ["+strings.Join(list, ", ")+"]}\n")
}

func startShared(t *testing.T) *sharedTalks {
	t.Helper()
	s := &sharedTalks{server: redistest.Start(t)}
	s.client = s.server.Client()
	policies := map[string]string{
		"open":   "history: {turns: 100}\nstore: {onFailure: Open}\nstateMachine: {}\n",
		"strict": "store: {onFailure: Deny}\n",
		"local":  "store: {type: Memory}\n",
	}
	o := func() harness.Options {
		return harness.Options{
			Listener:  redisAt(s.server, redisTimeout),
			Documents: []string{harness.Consumer("sealed", talker("sealed"), "tenant: sealed")},
			Files:     map[string]string{"sealed.yaml": sealed("first"), "first.txt": firstKey, "second.txt": secondKey},
		}
	}
	s.one = startTalks(t, policies, o())
	s.two = &talks{providers: s.one.providers, actor: s.one.actor}
	s.two.Gateway = harness.Start(t, s.two.options(policies, o()))
	s.two.sound(t)
	return s
}

// The keys of the policy that encrypts.
var firstKey, secondKey = sessionKey(), sessionKey()

// redisAt is what the LLMGateway says of its shared state.
func redisAt(s *redistest.Server, timeout time.Duration) string {
	return fmt.Sprintf("sharedState: {redis: {addresses: [%q], timeout: %s}}\n", s.Addr, timeout)
}

// TestSharedSessions: conversations over two gateways, and what becomes of them when a part fails.
func TestSharedSessions(t *testing.T) {
	t.Parallel()
	s := startShared(t)
	for _, c := range []struct {
		name string
		run  func(*testing.T, *sharedTalks)
	}{
		{"concurrent", testConcurrentTurns}, {"apart", testSharedApart}, {"restart", testSessionRestart}, {"restarts and tools", testResponsesRestart}, {"sealed", testSealed},
		{"full", testSessionsFull}, {"flushed", testSessionsFlushed}, {"lost", testSessionsLost},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, s) })
	}
}

// testConcurrentTurns: twenty turns of one session at once, over both gateways, plain and streamed: all of them are kept.
func testConcurrentTurns(t *testing.T, s *sharedTalks) {
	const turns = 20
	until := make(chan struct{})
	for i := range turns {
		s.one.actor.will("actor", speech{text: fmt.Sprintf("Answer %02d.", i), until: until})
	}
	var answers []<-chan answer
	for i := range turns {
		answers = append(answers, meanwhile([]*talks{s.one, s.two}[i%2].talk(t, "open", "crowd", chatBody("actor", fmt.Sprintf("Question %02d.", i), i%4 < 2))))
	}
	s.one.WaitFor("all questions", func() bool { return len(s.one.actor.told("actor")) == turns })
	close(until)
	for i, ended := range answers {
		if a := <-ended; a.status != http.StatusOK {
			t.Errorf("question %d: %d %s", i, a.status, a.body)
		}
	}
	kept := s.two.kept(t, "open", "crowd")
	var questions, said []string
	for _, turn := range kept.Turns {
		questions = append(questions, turn.Input[0].Parts[0].Text)
		said = append(said, turn.Output[0].Parts[0].Text)
	}
	slices.Sort(questions)
	slices.Sort(said)
	for i := range turns {
		if len(questions) != turns || questions[i] != fmt.Sprintf("Question %02d.", i) || said[i] != fmt.Sprintf("Answer %02d.", i) {
			t.Fatalf("%d turns are kept: %q with the answers %q", len(questions), questions, said)
		}
	}
	s.two.must(t, "open", "crowd", "actor", "What was all that?", "ok")
	if got := transcript(t, s.one.actor.last(t, "actor")); strings.Count(got, "user: ") != turns+1 {
		t.Errorf("the provider heard\n%s", got)
	}
}

// testSharedApart: a name that two tenants use means two sessions.
func testSharedApart(t *testing.T, s *sharedTalks) {
	s.one.must(t, "open", "same", "actor", "The secret is plum.", "new")
	s.two.must(t, "strict", "same", "actor", "What is the secret?", "new")
	if got := transcript(t, s.one.actor.last(t, "actor")); got != "user: What is the secret?" {
		t.Errorf("the provider heard\n%s", got)
	}
}

// testSessionRestart: weir is killed in the middle of an answer. What is in Redis goes on, at the other gateway at once and at the same one later;
// what was in its memory is gone, and the answer says so.
func testSessionRestart(t *testing.T, s *sharedTalks) {
	x := s.one
	x.must(t, "open", "killed", "actor", "My name is Ida.", "new")
	x.must(t, "local", "killed", "actor", "My name is Ida.", "new")
	x.must(t, "local", "killed", "actor", "Do you remember?", "ok")
	one := respond(t, responsesClient(x.Gateway, talker("open")), claude, "First of all, 10 words.", "")
	release := x.hold(t, speech{text: "Never heard."}, x.talk(t, "open", "killed", chatBody("actor", "This is never answered.", true)))
	x.Kill(syscall.SIGKILL)
	x.Wait()
	release()
	s.two.must(t, "open", "killed", "actor", "And I live in Ulm.", "ok")
	two := respond(t, responsesClient(s.two.Gateway, talker("open")), claude, "Then 11 words.", one.ID)
	harness.WaitFor(t, "all of it has ended", func() bool { return len(x.Leftovers()) == 0 })
	x.Restart()
	x.must(t, "open", "killed", "actor", "Who am I?", "ok")
	want := "user: My name is Ida.\nassistant: Yes.\nuser: And I live in Ulm.\nassistant: Yes.\nuser: Who am I?"
	if got := transcript(t, x.actor.last(t, "actor")); got != want {
		t.Errorf("the provider heard\n%s\nwant\n%s", got, want)
	}
	respond(t, responsesClient(x.Gateway, talker("open")), claude, "At last 12 words.", two.ID)
	want = "user: First of all, 10 words.\nassistant: " + one.OutputText() + "\nuser: Then 11 words.\nassistant: " + two.OutputText() + "\nuser: At last 12 words."
	if got := transcript(t, x.at(t, claude).Last().Body); got != want {
		t.Errorf("by previous_response_id the provider heard\n%s\nwant\n%s", got, want)
	}
	x.must(t, "local", "killed", "actor", "Who am I?", "new")
	if got := transcript(t, x.actor.last(t, "actor")); got != "user: Who am I?" {
		t.Errorf("the provider heard\n%s", got)
	}
}

// zstdMagic begins a frame (RFC 8878).
const zstdMagic = "\x28\xb5\x2f\xfd"

// values are all keys of Redis with what is in them, unpacked.
func (s *sharedTalks) values(t *testing.T) map[string]string {
	t.Helper()
	ctx, out := t.Context(), map[string]string{}
	unpack, err := zstd.NewReader(nil)
	must(t, err)
	defer unpack.Close()
	keys := s.client.Scan(ctx, 0, "*", 1000).Iterator()
	for keys.Next(ctx) {
		v, err := s.client.Dump(ctx, keys.Val()).Result()
		must(t, err)
		if kind, err := s.client.Type(ctx, keys.Val()).Result(); err == nil && kind == "string" {
			v, err = s.client.Get(ctx, keys.Val()).Result()
			must(t, err)
		}
		out[keys.Val()] = v
		for rest := v; ; { // frames of Zstandard, with other bytes between them
			_, frame, found := strings.Cut(rest, zstdMagic)
			if !found {
				break
			}
			text, _ := unpack.DecodeAll([]byte(zstdMagic+frame), nil) // what follows the frame is none
			out[keys.Val()] += string(text)
			rest = frame
		}
	}
	must(t, keys.Err())
	return out
}

// seen tells which keys hold a text, in their names or in what they hold.
func (s *sharedTalks) seen(t *testing.T, text string) (out []string) {
	t.Helper()
	for k, v := range s.values(t) {
		if strings.Contains(k, text) || strings.Contains(v, text) {
			out = append(out, k)
		}
	}
	return out
}

// testSealed: Redis holds nothing that was said, and keys can be replaced without losing anything.
func testSealed(t *testing.T, s *sharedTalks) {
	x := s.one
	x.actor.will("actor", speech{text: "Gherkin."})
	x.must(t, "sealed", "diary-of-ida", "actor", "Artichoke.", "new")
	x.must(t, "sealed", "old-diary", "actor", "Artichoke.", "new")
	x.must(t, "strict", "open-diary", "actor", "Rhubarb.", "new")
	if len(s.seen(t, "Rhubarb")) != 1 {
		t.Fatal("what is not encrypted is not found either: the test looks in the wrong place")
	}
	for _, text := range []string{"Artichoke", "Gherkin", "diary-of-ida", "default/sealed", firstKey} {
		if got := s.seen(t, text); len(got) > 0 {
			t.Errorf("%q can be read in %q", text, got)
		}
	}
	keys := func(names ...string) {
		t.Helper()
		x.Change(func() { x.WriteFile("sealed.yaml", sealed(names...)) })
		x.sound(t)
	}
	heard := func(n int) {
		t.Helper()
		if got := transcript(t, x.actor.last(t, "actor")); strings.Count(got, "Artichoke.") != 1 || strings.Count(got, "user: ") != n {
			t.Errorf("the provider heard\n%s", got)
		}
	}
	keys("second", "first")
	x.must(t, "sealed", "diary-of-ida", "actor", "Go on.", "ok") // written by the new key from now on
	heard(2)
	keys("second")
	x.must(t, "sealed", "diary-of-ida", "actor", "And on.", "ok")
	heard(3)
	x.must(t, "sealed", "old-diary", "actor", "Go on.", "lost")
	if got := transcript(t, x.actor.last(t, "actor")); got != "user: Go on." {
		t.Errorf("the provider heard\n%s", got)
	}
	keys("second", "first")
	x.must(t, "sealed", "old-diary", "actor", "Go on.", "ok")
	heard(2)
	for _, g := range []*talks{s.one, s.two} {
		for _, text := range []string{"Artichoke", "Gherkin", firstKey, secondKey, "diary-of-ida"} {
			if strings.Contains(g.Logs(), text) {
				t.Errorf("%q is in the log", text)
			}
		}
	}
}

// testSessionsFlushed: what Redis has lost is new, but for what a request that is under way still knows.
func testSessionsFlushed(t *testing.T, s *sharedTalks) {
	x := s.one
	x.must(t, "open", "gone", "actor", "My name is Ida.", "new")
	x.must(t, "open", "kept", "actor", "My name is Ida.", "new")
	release := x.hold(t, speech{text: "Ida."}, x.talk(t, "open", "kept", chatBody("actor", "Who am I?", false)))
	must(t, s.client.FlushAll(t.Context()).Err())
	if a := release(); a.status != http.StatusOK {
		t.Errorf("%d %s", a.status, a.body)
	}
	s.two.must(t, "open", "kept", "actor", "Are you sure?", "ok")
	if got, want := transcript(t, x.actor.last(t, "actor")), "user: My name is Ida.\nassistant: Yes.\nuser: Who am I?\nassistant: Ida.\nuser: Are you sure?"; got != want {
		t.Errorf("the provider heard\n%s\nwant\n%s", got, want)
	}
	s.two.must(t, "open", "gone", "actor", "Who am I?", "new")
}

// testSessionsFull: what is there can be read, and what is said is not kept, which is counted.
func testSessionsFull(t *testing.T, s *sharedTalks) {
	x, ctx := s.one, t.Context()
	x.must(t, "open", "full", "actor", "The first.", "new")
	must(t, s.client.ConfigSet(ctx, "maxmemory", "1").Err())
	for range 5 {
		x.must(t, "open", "full", "actor", "It is full.", "ok")
		if got, want := transcript(t, x.actor.last(t, "actor")), "user: The first.\nassistant: Yes.\nuser: It is full."; got != want {
			t.Errorf("the provider heard\n%s\nwant\n%s", got, want)
		}
	}
	if n := x.Metric("weir_session_failures_total", "operation", "write"); n < 5 {
		t.Errorf("%v failures were counted", n)
	}
	must(t, s.client.ConfigSet(ctx, "maxmemory", "0").Err())
	x.must(t, "open", "full", "actor", "There is room.", "ok")
	if v := x.show(t, "open", "full"); v.Turns != 2 {
		t.Errorf("the session is %+v", v)
	}
}

// testSessionsLost: Redis does not answer, or is not there. Who may go on without history does, at once; who may not is told so.
func testSessionsLost(t *testing.T, s *sharedTalks) {
	x := s.one
	x.Change(func() { x.WriteFile("gateway.yaml", harness.Listener(redisAt(s.server, shortRedisTimeout))) })
	for _, c := range []struct {
		name       string
		away, back func()
		after      string // how the session stands then
	}{
		{"stopped", s.server.Pause, s.server.Resume, "ok"}, {"killed", s.server.Kill, s.server.Restart, "new"},
	} {
		t.Run(c.name, func(t *testing.T) {
			x.must(t, "open", c.name, "actor", "The first.", "new")
			x.must(t, "strict", c.name, "actor", "The first.", "new")
			// A request that begins before and ends when all is well again is kept.
			c.away()
			back := sync.OnceFunc(c.back)
			defer back()
			release := x.hold(t, speech{text: "Late."}, x.talk(t, "open", c.name, chatBody("actor", "Without you.", true)))
			if got := transcript(t, x.actor.last(t, "actor")); got != "user: Without you." {
				t.Errorf("the provider heard\n%s", got)
			}
			asked := len(x.actor.told("actor"))
			ctx, cancel := context.WithTimeout(t.Context(), patienceWithRedis)
			defer cancel()
			if a := <-meanwhile(x.talk(t, "strict", c.name, chatBody("actor", "Hello?", false)).WithContext(ctx)); a.status != http.StatusServiceUnavailable || !strings.Contains(a.body, "session_unavailable") || a.header.Get("retry-after") == "" {
				t.Errorf("the strict policy: %d %v %s", a.status, a.header, a.body)
			}
			for range 6 { // after some of them nobody waits for Redis any more
				x.must(t, "open", c.name+"-other", "actor", "Hello?", "lost")
			}
			if n := len(x.actor.told("actor")) - asked; n != 6 {
				t.Errorf("%d questions came, want 6", n)
			}
			back()
			x.WaitFor("Redis to be asked again", func() bool { return x.say(t, "strict", "back-"+c.name, "cheap", "Hello?").status == http.StatusOK })
			if a := release(); a.status != http.StatusOK || a.header.Get("x-weir-session-state") != "lost" {
				t.Errorf("the request that was under way: %d %v", a.status, a.header)
			}
			x.must(t, "strict", c.name, "actor", "Again.", c.after)
			x.must(t, "open", c.name, "actor", "What did I say?", "ok")
			want := "user: Without you.\nassistant: Late.\nuser: What did I say?"
			if c.after == "ok" {
				want = "user: The first.\nassistant: Yes.\n" + want
			}
			if got := transcript(t, x.actor.last(t, "actor")); got != want {
				t.Errorf("the provider heard\n%s\nwant\n%s", got, want)
			}
		})
	}
}
