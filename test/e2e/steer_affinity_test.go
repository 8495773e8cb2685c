package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/weir-dev/weir/test/sim/gpu"
)

// TestAffinity: what belongs together goes to one server, as long as that is no worse than another by much.
func TestAffinity(t *testing.T) {
	s := startSteered(t, []steeredPool{
		{name: "prefix", servers: quickGPUs(t, 4, gpu.Options{}), policy: "picking: {prefixAffinity: {}}\n"},
		{name: "session", servers: quickGPUs(t, 4, gpu.Options{}), policy: "picking: {sessionAffinity: {header: X-Chat}}\n", retry: 2},
	})
	t.Run("prefix", func(t *testing.T) { testPrefixAffinity(t, s) })
	t.Run("session", func(t *testing.T) { testSessionAffinity(t, s) })
}

// whom sends a request and says which server of the pool got it.
func (s *steered) whom(t *testing.T, pool string, req *http.Request) (server int, a answer) {
	t.Helper()
	before := s.got(pool)
	a = do(t, http.DefaultClient, req)
	if a.status != http.StatusOK {
		t.Fatalf("status %d: %s", a.status, a.body)
	}
	server = -1
	for i, n := range s.got(pool) {
		switch n - before[i] {
		case 0:
		case 1:
			if server >= 0 {
				t.Fatalf("two servers got the request")
			}
			server = i
		default:
			t.Fatalf("server %d got the request %d times", i, n-before[i])
		}
	}
	return server, a
}

// testPrefixAffinity: questions about one document go where the document is in the cache, whatever the caller's dialect.
func testPrefixAffinity(t *testing.T, s *steered) {
	const documents, tokens = 12, 2000
	places := map[int]bool{}
	home := make([]int, documents)
	ask := func(document, n int) {
		t.Helper()
		text := fmt.Sprintf("Document %d.%s", document, strings.Repeat(" and so on", tokens*4/10))
		conversation := []map[string]string{{"role": "system", "content": text}, {"role": "user", "content": fmt.Sprintf("Question %d?", n)}}
		body := map[string]any{"model": "prefix", "max_tokens": 1, "messages": conversation}
		dialect := "openai"
		if n%2 == 1 {
			dialect = "anthropic"
			body["system"], body["messages"] = text, conversation[1:]
		}
		b, err := json.Marshal(body)
		must(t, err)
		server, a := s.whom(t, "prefix", request(t, s.Gateway, "POST", chatPath(dialect), dialect, string(b)))
		var told struct {
			Usage struct {
				Details struct {
					Cached int `json:"cached_tokens"`
				} `json:"prompt_tokens_details"`
				Read int `json:"cache_read_input_tokens"`
			}
		}
		must(t, json.Unmarshal([]byte(a.body), &told))
		cached := told.Usage.Details.Cached + told.Usage.Read
		if n == 0 {
			home[document], places[server] = server, true
			return
		}
		if server != home[document] || cached < tokens*9/10 {
			t.Errorf("question %d about document %d (%s) went to server %d with %d tokens cached; the document is at %d: %s",
				n, document, dialect, server, cached, home[document], a.body)
		}
	}
	for n := range 4 {
		for d := range documents {
			ask(d, n)
		}
	}
	if len(places) < 2 { // 12 documents at one of 4 servers by chance: 1 in 4 million
		t.Errorf("all documents are at %v", home)
	}
	if b := s.backend(t, "prefix"); b.Cached*10 < b.Prompt*6 { // 3 of 4 questions, nearly all of each
		t.Errorf("%d of %d tokens were expected to be cached", b.Cached, b.Prompt)
	}
}

// testSessionAffinity: a session stays where it is, until that server is gone.
func testSessionAffinity(t *testing.T, s *steered) {
	const sessions = 16
	home := make([]int, sessions)
	ask := func(session int) int {
		t.Helper()
		server, _ := s.whom(t, "session", request(t, s.Gateway, "POST", "/v1/chat/completions", "openai", question("session", "Hello", 1, false),
			"x-chat", fmt.Sprint("session ", session)))
		return server
	}
	for n := range 5 {
		for i := range home {
			if at := ask(i); n == 0 {
				home[i] = at
			} else if at != home[i] {
				t.Errorf("session %d was at server %d, and is at %d", i, home[i], at)
			}
		}
	}
	if slices.Min(home) == slices.Max(home) {
		t.Errorf("all sessions are at server %d", home[0])
	}
	gone := home[0]
	s.pools["session"].Servers[gone].Kill()
	for i := range home {
		at := ask(i)
		if at == gone || home[i] != gone && at != home[i] {
			t.Errorf("with server %d dead, session %d of server %d went to %d", gone, i, home[i], at)
		}
	}
	must(t, s.pools["session"].Servers[gone].Revive())
}
