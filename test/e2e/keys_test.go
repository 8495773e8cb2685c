package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/weir-dev/weir/test/e2e/harness"
)

// authorize asks weir's external authorization whether a key is let in, and returns the status of its answer.
func authorize(t *testing.T, port int, key string) (status int, headers map[string]string) {
	t.Helper()
	conn, err := grpc.NewClient(fmt.Sprintf("127.0.0.1:%d", port), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), harness.Patience)
	defer cancel()
	resp, err := authv3.NewAuthorizationClient(conn).Check(ctx, &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
			Method: "GET", Path: "/", Headers: map[string]string{"x-api-key": key}}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	headers = map[string]string{}
	denied := resp.GetDeniedResponse()
	for _, h := range denied.GetHeaders() {
		headers[strings.ToLower(h.GetHeader().GetKey())] = h.GetHeader().GetValue()
	}
	if denied == nil {
		return http.StatusOK, headers
	}
	return int(denied.GetStatus().GetCode()), headers
}

// testRequestsPerMinute: a key's own limit, which requests through the gateway and checks of external authorization share.
func testRequestsPerMinute(t *testing.T, l *limited, external int) {
	ask := func(dialect string) answer {
		return l.ask(t, keyRPM, "one", dialect, limitedBody("rpm", `"max_tokens":50`))
	}
	for i, dialect := range []string{"openai", "anthropic"} {
		a := ask(dialect)
		must200(t, "below the limit", a.status, a.body)
		if limit, left := a.header.Get("x-ratelimit-limit-requests"), a.header.Get("x-ratelimit-remaining-requests"); limit != "3" || left != strconv.Itoa(2-i) {
			t.Errorf("%s of %s remain, want %d of 3", left, limit, 2-i)
		}
	}
	if status, _ := authorize(t, external, keyRPM); status != http.StatusOK {
		t.Errorf("external authorization: status %d for the third request", status)
	}
	for _, dialect := range []string{"openai", "anthropic"} {
		if after := checkRefused(t, dialect, ask(dialect), ofThisKey); after < 1 {
			t.Error("no retry-after")
		}
	}
	if status, headers := authorize(t, external, keyRPM); status != http.StatusTooManyRequests || headers["retry-after"] == "" {
		t.Errorf("external authorization: status %d with %v for a request too many", status, headers)
	}
	a := l.ask(t, keyA1, "one", "openai", limitedBody("rpm"))
	must200(t, "another key of the consumer", a.status, a.body)
	l.Change(func() { l.WriteFile("rpm.yaml", rpmKey(4)) })
	a = ask("openai")
	must200(t, "the fourth, when the limit is 4", a.status, a.body)
	checkRefused(t, "openai", ask("openai"), ofThisKey)
}

// knownWithin is how soon every replica must know of a change of a stored key, with a second for a busy machine.
const knownWithin = 2 * time.Second

// keysCommand runs weir keys for the replicas' store, and returns what it prints.
func (r *replicas) keysCommand(t *testing.T, args ...string) string {
	t.Helper()
	o := weir(t, nil, "", append(append([]string{"keys"}, args...), "-f", r.all[0].Dir)...)
	if o.code != 0 {
		t.Fatalf("weir keys %s: exit status %d: %s", strings.Join(args, " "), o.code, o.stderr)
	}
	return strings.TrimSpace(o.stdout)
}

// knows waits until all replicas answer the key with the status, and fails the test if that takes them too long.
func (r *replicas) knows(t *testing.T, key string, status int) {
	t.Helper()
	start := time.Now()
	for i, l := range r.all {
		harness.WaitFor(t, fmt.Sprintf("replica %d answers %d", i, status), func() bool {
			return l.ask(t, key, "one", "openai", limitedBody("keys")).status == status
		})
	}
	if took := time.Since(start); took > knownWithin {
		t.Errorf("after %s all replicas answer %d, and %s is allowed", took, status, knownWithin)
	}
}

// testStoredKeys: keys in Redis hold on all replicas as soon as they are made, and until they are revoked.
func testStoredKeys(t *testing.T, r *replicas) {
	made := func(key string) string {
		r.secrets = append(r.secrets, key)
		return key
	}
	key := made(r.keysCommand(t, "create", "stored", "--consumer", "a", "--models", "keys"))
	r.knows(t, key, http.StatusOK)
	checkError(t, "anthropic", r.all[1].ask(t, key, "one", "anthropic", limitedBody("other", `"max_tokens":5`)), http.StatusForbidden)
	if list := r.keysCommand(t, "list"); !strings.Contains(list, "stored") || strings.Contains(list, key) {
		t.Errorf("the list of keys: %s", list)
	}
	r.keysCommand(t, "revoke", "stored")
	r.knows(t, key, http.StatusUnauthorized)

	t.Run("requests per minute", func(t *testing.T) {
		key := made(r.keysCommand(t, "create", "paced", "--consumer", "b", "--rpm", "30"))
		r.knows(t, key, http.StatusOK)
		passed := 3 // by knows, or more
		for i := range 90 {
			if a := r.all[i%3].ask(t, key, "one", "openai", limitedBody("keys")); a.status == http.StatusOK {
				passed++
			} else {
				checkRefused(t, "openai", a, ofThisKey)
			}
		}
		// Leased: an eighth more may pass.
		if passed > 30+30/8+3 || passed < 20 {
			t.Errorf("%d passed on three replicas, and the key has 30 a minute", passed)
		}
	})
	t.Run("rotation under load", func(t *testing.T) {
		var current atomic.Pointer[string]
		use := func(key string) { made(key); current.Store(&key) }
		use(r.keysCommand(t, "create", "turning", "--consumer", "c"))
		r.knows(t, *current.Load(), http.StatusOK)
		load := r.load(t, func() string { return *current.Load() })
		name := "turning"
		for i := range 3 {
			next := r.keysCommand(t, "rotate", name, "--grace", "1h")
			r.knows(t, next, http.StatusOK)
			use(next)
			name = fmt.Sprint("turning-", i+2)
		}
		load.check(t, 50)
	})
	t.Run("rotation of an issuer's keys under load", func(t *testing.T) {
		var current atomic.Pointer[string]
		token := func(s signer) *string {
			text := s.token(t, nil)
			r.secrets = append(r.secrets, text)
			return &text
		}
		current.Store(token(r.issuer.signers[0]))
		load := r.load(t, func() string { return *current.Load() })
		for i := 1; i < len(r.issuer.signers); i++ {
			load.more(t, 20)
			// The issuer may sign with a new key at the moment at which it publishes it.
			r.issuer.publish(t, r.issuer.signers[i-1], r.issuer.signers[i])
			next := token(r.issuer.signers[i])
			current.Store(next)
			load.more(t, 20)
			r.issuer.publish(t, r.issuer.signers[i])
		}
		load.check(t, 50)
	})
}

// issuer publishes keys that change.
type issuer struct {
	*httptest.Server
	signers []signer
	keys    atomic.Pointer[string]
}

func newIssuer(t *testing.T, n int) *issuer {
	t.Helper()
	i := &issuer{}
	for k := range n {
		s := newSigner(t, "https://turning.example", "ES256")
		s.kid = fmt.Sprint("turning-", k)
		i.signers = append(i.signers, s)
	}
	i.publish(t, i.signers[0])
	i.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("content-type", plainJSON)
		_, _ = w.Write([]byte(*i.keys.Load())) // weir tries again
	}))
	t.Cleanup(i.Close)
	return i
}

func (i *issuer) publish(t *testing.T, signers ...signer) {
	t.Helper()
	set := jwks(t, signers...)
	i.keys.Store(&set)
}

// credentialLoad is requests to all replicas with the credential of the moment.
type credentialLoad struct {
	stop   chan struct{}
	work   sync.WaitGroup
	sent   atomic.Int64
	failed atomic.Pointer[string]
}

func (r *replicas) load(t *testing.T, credential func() string) *credentialLoad {
	t.Helper()
	c := &credentialLoad{stop: make(chan struct{})}
	for w := range 6 {
		c.work.Go(func() {
			for i := w; ; i++ {
				select {
				case <-c.stop:
					return
				default:
				}
				status, body, err := ask1(r.all[i%len(r.all)].URL, credential())
				if err != nil || status != http.StatusOK {
					text := fmt.Sprintf("status %d: %s (%v)", status, body, err)
					c.failed.Store(&text)
				}
				c.sent.Add(1)
			}
		})
	}
	t.Cleanup(c.end)
	return c
}

// ask1 sends a chat and reads the answer.
func ask1(url, credential string) (status int, body string, _ error) {
	req, err := http.NewRequest(http.MethodPost, url+"/v1/chat/completions", strings.NewReader(limitedBody("keys")))
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("authorization", "Bearer "+credential)
	req.Header.Set("content-type", plainJSON)
	req.Header.Set("x-rule", "one")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text), err
}

func (c *credentialLoad) end() {
	select {
	case <-c.stop:
	default:
		close(c.stop)
	}
	c.work.Wait()
}

// more waits until so many requests more have been answered.
func (c *credentialLoad) more(t *testing.T, n int64) {
	t.Helper()
	until := c.sent.Load() + n
	harness.WaitFor(t, "more requests", func() bool { return c.sent.Load() >= until })
}

// check ends the load, and fails the test if a request failed.
func (c *credentialLoad) check(t *testing.T, least int64) {
	t.Helper()
	c.more(t, least)
	c.end()
	if f := c.failed.Load(); f != nil {
		t.Errorf("of %d requests some failed, such as: %s", c.sent.Load(), *f)
	}
}
