package e2e

import (
	"fmt"
	"slices"
	"testing"

	"github.com/weir-dev/weir/test/e2e/harness"
	"github.com/weir-dev/weir/test/sim/gpu"
)

// TestSessionStays: the name of a session decides which server of a pool has it, where its prompt is cached, whatever the pool's own header
// says; not where the policy does not want that.
func TestSessionStays(t *testing.T) {
	t.Parallel()
	const mate = "key-of-talker-mate-0123456789"
	s := startSteered(t, []steeredPool{{name: "pool", servers: quickGPUs(t, 4, gpu.Options{}), policy: "picking: {sessionAffinity: {header: X-Chat}}\n"}},
		harness.Consumer("mate", mate, "tenant: app"),
		harness.Document("SessionPolicy", "team", "targetRefs: [{kind: Tenant, name: app}]\nscope: Tenant\n"),
		harness.Document("SessionPolicy", "free", "targetRefs: [{kind: Consumer, name: free}]\nsticky: false\n"),
		harness.Consumer("free", talker("free"), "tenant: free"))
	ask := func(key string, headers ...string) int {
		t.Helper()
		server, _ := s.whom(t, "pool", request(t, s.Gateway, "POST", "/v1/chat/completions", "openai", question("pool", "Hello", 1, false),
			append([]string{"authorization", "Bearer " + key}, headers...)...))
		return server
	}
	const sessions = 12
	home := make([]int, sessions)
	for n := range 4 {
		for i := range home {
			// All the turns are of one session to the pool's own policy, and each of another one, and of two consumers.
			key := []string{s.Key, mate}[n%2]
			at := ask(key, "x-weir-session", fmt.Sprint("session-", i), "x-chat", fmt.Sprint("turn ", n))
			if n == 0 {
				home[i] = at
			} else if at != home[i] {
				t.Errorf("turn %d of session %d went to server %d, and those before to %d", n, i, at, home[i])
			}
		}
	}
	if slices.Min(home) == slices.Max(home) { // 12 sessions at one of 4 servers by chance: 1 in 4 million
		t.Errorf("all sessions are at server %d", home[0])
	}
	// Without stickiness the pool's header decides.
	first := ask(talker("free"), "x-weir-session", "0", "x-chat", "one")
	for i := range sessions {
		if at := ask(talker("free"), "x-weir-session", fmt.Sprint(i), "x-chat", "one"); at != first {
			t.Errorf("the session %d went to server %d; what the pool's header names is at %d", i, at, first)
		}
	}
}
