package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-dev/weir/test/e2e/harness"
)

// tenants whose usage is told apart by the models that they ask for: each tenant's have its name at the end, at the gateway
// and at the providers.
var tenants = []string{"acme", "beta", "gamma"}

// tenantKey is the API key of a tenant.
func tenantKey(tenant string) string { return "key-of-" + tenant + "-0123456789" }

// shot is one request of the ledger's test. No two have the same ID, and none is sent twice.
type shot struct {
	id      string // its x-request-id
	kind    string
	tenant  string
	dialect string // of the caller
	path    string
	body    string
	stream  bool
	// The caller leaves after so long, or when it has read so many bytes of the answer; 0 is never.
	leaveAfter time.Duration
	leaveAt    int64

	sent, ended time.Time // as the caller saw it
	outcome     string
}

// shotKind is a kind of request, of one caller's dialect.
type shotKind struct {
	name    string
	share   int // of all kinds' shares together
	dialect string
	path    string
	model   string // of the tenant, whose name is put behind it
	plain   bool   // never a stream
	fill    func(rnd *rand.Rand, stream bool, body map[string]any)
}

const (
	chatCompletions   = "/v1/chat/completions"
	anthropicMessages = "/v1/messages"
)

// shotKinds are all kinds. What a provider answers to them is decided by it, and in part by its faults.
func shotKinds() []shotKind {
	chat := func(rnd *rand.Rand, stream bool, body map[string]any) {
		body["messages"] = []any{says("user", prose(rnd, 3+rnd.IntN(40)))}
		body["max_tokens"] = 5 + rnd.IntN(16)
		if stream {
			askUsage(rnd, body)
		}
	}
	messages := func(rnd *rand.Rand, _ bool, body map[string]any) {
		body["messages"] = []any{says("user", prose(rnd, 3+rnd.IntN(40)))}
		body["max_tokens"] = 5 + rnd.IntN(16)
	}
	both := func(name string, share int, model string) []shotKind {
		return []shotKind{
			{name: name + " from openai", share: share, dialect: "openai", path: chatCompletions, model: model, fill: chat},
			{name: name + " from anthropic", share: share, dialect: "anthropic", path: anthropicMessages, model: model, fill: messages},
		}
	}
	var all []shotKind
	all = append(all, both("openai", 9, "gpt-4o")...)
	all = append(all, both("anthropic", 9, "claude-sonnet-4-5")...)
	all = append(all, both("dashscope", 5, "qwen-plus")...)
	all = append(all, both("renamed", 4, "alias")...)
	all = append(all, both("retried", 5, "mini")...)
	all = append(all, both("fallback", 8, "fallback")...)
	all = append(all, both("malformed answer", 1, "garbled")...)
	all = append(all, both("limited", 1, "tight")...)
	all = append(all, both("unknown model", 1, "nobody-serves")...)
	return append(all,
		shotKind{name: "two choices", share: 1, dialect: "openai", path: chatCompletions, model: "gpt-4o", fill: func(rnd *rand.Rand, stream bool, body map[string]any) {
			chat(rnd, stream, body)
			body["n"] = 2
		}},
		shotKind{name: "hidden reasoning from openai", share: 2, dialect: "openai", path: chatCompletions, model: "gpt-5", fill: func(rnd *rand.Rand, stream bool, body map[string]any) {
			chat(rnd, stream, body)
			delete(body, "max_tokens")
			body["max_completion_tokens"] = 60
		}},
		shotKind{name: "hidden reasoning from anthropic", share: 2, dialect: "anthropic", path: anthropicMessages, model: "gpt-5", fill: func(rnd *rand.Rand, stream bool, body map[string]any) {
			messages(rnd, stream, body)
			body["max_tokens"] = 60
		}},
		shotKind{name: "shown reasoning from anthropic", share: 2, dialect: "anthropic", path: anthropicMessages, model: "claude-sonnet-4-5", fill: func(rnd *rand.Rand, stream bool, body map[string]any) {
			messages(rnd, stream, body)
			body["max_tokens"], body["thinking"] = 1100, map[string]any{"type": "enabled", "budget_tokens": 1024}
		}},
		shotKind{name: "tools from openai", share: 2, dialect: "openai", path: chatCompletions, model: "claude-sonnet-4-5", fill: func(rnd *rand.Rand, stream bool, body map[string]any) {
			chat(rnd, stream, body)
			body["messages"] = []any{says("user", "call the tool about "+prose(rnd, 3))}
			body["max_tokens"] = 200
			body["tools"] = []any{map[string]any{"type": "function", "function": map[string]any{"name": "weather", "parameters": citySchema}}}
		}},
		shotKind{name: "tools from anthropic", share: 2, dialect: "anthropic", path: anthropicMessages, model: "gpt-4o", fill: func(rnd *rand.Rand, stream bool, body map[string]any) {
			messages(rnd, stream, body)
			body["messages"] = []any{says("user", "call the tool about "+prose(rnd, 3))}
			body["max_tokens"] = 200
			body["tools"] = []any{map[string]any{"name": "weather", "input_schema": citySchema}}
		}},
		shotKind{name: "cached prompt from openai", share: 2, dialect: "openai", path: chatCompletions, model: "gpt-4o", fill: func(rnd *rand.Rand, stream bool, body map[string]any) {
			chat(rnd, stream, body)
			body["messages"] = append([]any{says("system", longPrompt(rnd.IntN(8)))}, body["messages"].([]any)...)
		}},
		shotKind{name: "cached prompt from anthropic", share: 2, dialect: "anthropic", path: anthropicMessages, model: "claude-sonnet-4-5", fill: func(rnd *rand.Rand, stream bool, body map[string]any) {
			messages(rnd, stream, body)
			body["system"] = []any{map[string]any{"type": "text", "text": longPrompt(rnd.IntN(8)), "cache_control": map[string]string{"type": "ephemeral"}}}
		}},
		shotKind{name: "embeddings", share: 4, dialect: "openai", path: "/v1/embeddings", model: "text-embedding-3-small", plain: true, fill: func(rnd *rand.Rand, _ bool, body map[string]any) {
			body["input"], body["dimensions"] = []string{prose(rnd, 5), prose(rnd, 1+rnd.IntN(30))}, 16
		}},
		shotKind{name: "responses", share: 5, dialect: "openai", path: "/v1/responses", model: "gpt-4o", fill: func(rnd *rand.Rand, _ bool, body map[string]any) {
			body["input"], body["max_output_tokens"] = prose(rnd, 3+rnd.IntN(40)), 16+rnd.IntN(5)
		}},
		shotKind{name: "token counting", share: 1, dialect: "anthropic", path: "/v1/messages/count_tokens", model: "claude-sonnet-4-5", plain: true,
			fill: func(rnd *rand.Rand, _ bool, body map[string]any) {
				body["messages"] = []any{says("user", prose(rnd, 9))}
			}},
		shotKind{name: "unsound from openai", share: 1, dialect: "openai", path: chatCompletions, model: "gpt-4o",
			fill: func(_ *rand.Rand, _ bool, body map[string]any) { body["messages"] = "hello" }},
		shotKind{name: "unsound from anthropic", share: 1, dialect: "anthropic", path: anthropicMessages, model: "gpt-4o",
			fill: func(_ *rand.Rand, _ bool, body map[string]any) { body["messages"] = "hello" }},
	)
}

func says(role, text string) map[string]any { return map[string]any{"role": role, "content": text} }

// askUsage is what clients say of the usage of their streams: nothing, that they want it, or that they do not.
func askUsage(rnd *rand.Rand, body map[string]any) {
	switch rnd.IntN(3) {
	case 0:
		body["stream_options"] = map[string]any{"include_usage": true}
	case 1:
		body["stream_options"] = map[string]any{"include_usage": false}
	}
}

var proseWords = strings.Fields("river water stone bridge dam weir fish reed boat mill wheel spring flood bank mud rain cloud étang rivière 河 水 дождь")

func prose(rnd *rand.Rand, words int) string {
	out := make([]string, words)
	for i := range out {
		out[i] = proseWords[rnd.IntN(len(proseWords))]
	}
	return strings.Join(out, " ")
}

// longPrompt is one of a few prompts that are long enough for providers' prompt caches.
func longPrompt(n int) string { return prose(rand.New(rand.NewPCG(uint64(n), 1)), 1400) }

// makeShot makes the i-th request; the same on every run.
func makeShot(kinds []shotKind, i int) *shot {
	rnd := rand.New(rand.NewPCG(uint64(i), 42))
	total := 0
	for _, k := range kinds {
		total += k.share
	}
	at, k := rnd.IntN(total), shotKind{}
	for _, k = range kinds {
		if at -= k.share; at < 0 {
			break
		}
	}
	s := &shot{id: fmt.Sprintf("shot-%06d", i), kind: k.name, tenant: tenants[rnd.IntN(len(tenants))], dialect: k.dialect, path: k.path}
	s.stream = !k.plain && rnd.IntN(2) == 0
	body := map[string]any{"model": k.model + "-" + s.tenant}
	k.fill(rnd, s.stream, body)
	if s.stream {
		body["stream"] = true
	}
	text, err := json.Marshal(body)
	if err != nil {
		panic(err) // a mistake in shotKinds
	}
	s.body = string(text)
	switch rnd.IntN(24) {
	case 0: // mostly before the answer
		s.leaveAfter = time.Duration(1 + rnd.IntN(int(8*time.Millisecond)))
	case 1: // mostly in the middle of it
		s.leaveAt = int64(1 + rnd.IntN(2500))
	}
	return s
}

// notSent is the outcome of a shot that weir ended before.
const notSent = "not sent"

// fire sends a shot and notes how it ended. It returns false if nobody listened, so that nothing was sent.
func (s *shot) fire(ctx context.Context, g *harness.Gateway, client *http.Client) bool {
	ctx, leave := context.WithCancel(ctx)
	defer leave()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, g.URL+s.path, strings.NewReader(s.body))
	if err != nil {
		panic(err) // a mistake in shotKinds
	}
	req.Header.Set("authorization", "Bearer "+tenantKey(s.tenant))
	req.Header.Set("content-type", "application/json")
	req.Header.Set("x-request-id", s.id)
	if s.dialect == "anthropic" {
		req.Header.Set("anthropic-version", "2023-06-01")
	}
	s.sent = time.Now()
	if s.leaveAfter > 0 {
		defer time.AfterFunc(s.leaveAfter, leave).Stop()
	}
	resp, err := client.Do(req)
	var op *net.OpError
	if err != nil && errors.As(err, &op) && op.Op == "dial" && ctx.Err() == nil {
		return false
	}
	s.outcome = s.end(ctx, resp, err)
	s.ended = time.Now()
	return true
}

func (s *shot) end(ctx context.Context, resp *http.Response, err error) string {
	switch {
	case err != nil && ctx.Err() != nil:
		return "left before the answer"
	case err != nil:
		return "no answer"
	}
	defer resp.Body.Close()
	if s.leaveAt > 0 {
		if n, err := io.CopyN(io.Discard, resp.Body, s.leaveAt); err == nil && n == s.leaveAt {
			return "left in the answer"
		}
		return fmt.Sprint(resp.StatusCode, " whole or broken")
	}
	body, err := io.ReadAll(resp.Body)
	switch {
	case ctx.Err() != nil:
		return "left in the answer"
	case err != nil:
		return "answer broke off"
	case resp.StatusCode == http.StatusOK && s.stream && strings.Contains(string(body), `"error"`):
		return "200 with an error in the stream"
	}
	return fmt.Sprint(resp.StatusCode)
}

// barrage sends shots from many connections, each once.
type barrage struct {
	shots   []*shot
	workers sync.WaitGroup
	closing chan struct{} // closed: who finds nobody listening gives up

	mu    sync.Mutex
	next  int
	done  int
	marks map[int]chan struct{} // closed when so many are done
}

// startBarrage begins. Half of the connections speak HTTP/2, as some clients do.
func startBarrage(t *testing.T, g *harness.Gateway, shots []*shot, connections int) *barrage {
	b := &barrage{shots: shots, closing: make(chan struct{}), marks: map[int]chan struct{}{}}
	for c := range connections {
		transport := &http.Transport{Protocols: new(http.Protocols), DisableCompression: true}
		transport.Protocols.SetHTTP1(c%2 == 0)
		transport.Protocols.SetUnencryptedHTTP2(c%2 == 1)
		client := &http.Client{Transport: transport, Timeout: 2 * harness.Patience}
		b.workers.Go(func() {
			defer transport.CloseIdleConnections()
			for s := b.take(); s != nil; s = b.take() {
				for !s.fire(t.Context(), g, client) {
					if b.pause(20 * time.Millisecond) {
						s.outcome = notSent
						break
					}
				}
				b.finish()
				if s.outcome == "no answer" || s.outcome == "503" { // as a client would, not to keep the machine busy with failing
					b.pause(5 * time.Millisecond)
				}
			}
		})
	}
	return b
}

// pause waits, and says whether to give up.
func (b *barrage) pause(d time.Duration) (over bool) {
	select {
	case <-b.closing:
		return true
	case <-time.After(d):
		return false
	}
}

func (b *barrage) take() *shot {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.next == len(b.shots) {
		return nil
	}
	b.next++
	return b.shots[b.next-1]
}

func (b *barrage) finish() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.done++
	if mark := b.marks[b.done]; mark != nil {
		close(mark)
	}
}

// reach waits until so many shots are done.
func (b *barrage) reach(n int) {
	b.mu.Lock()
	mark := make(chan struct{})
	if b.done >= n {
		close(mark)
	} else {
		b.marks[n] = mark
	}
	b.mu.Unlock()
	<-mark
}
