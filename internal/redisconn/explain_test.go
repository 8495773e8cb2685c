package redisconn

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// answer is an error as Redis gives it.
type answer string

func (a answer) Error() string { return string(a) }
func (answer) RedisError()     {}

// TestExplain: what Redis or the network says becomes a sentence; what says nothing about the server stays as it is.
func TestExplain(t *testing.T) {
	c := &Conn{timeout: time.Second, cfg: Config{Addresses: []string{"a:1", "b:2"}, Username: "weir", Password: "hunter2"}}
	for _, e := range []struct {
		err  error
		says string // "": unchanged
	}{
		{nil, ""}, {redis.Nil, ""}, {answer("NOSCRIPT No matching script."), ""}, {answer("ERR unknown command"), ""},
		{answer("WRONGPASS invalid username-password pair"), `refuses the password of the user "weir": correct username and passwordRef`},
		{answer("NOAUTH Authentication required."), "passwordRef"},
		{answer("NOPERM this user has no permissions"), `does not let the user "weir" do this`},
		{answer("LOADING Redis is loading"), "wait"}, {answer("READONLY You can't write"), "master"}, {answer("CLUSTERDOWN The cluster is down"), "failing over"},
		{answer("MOVED 1 c:3"), "mode to Cluster"}, {answer("OOM command not allowed"), "maxmemory"}, {answer("MISCONF Redis is configured"), "disk"},
		{answer("BUSY Redis is busy"), "script"}, {answer("ERR AUTH <password> called without any password"), "leave passwordRef"},
		{answer("ERR max number of clients reached"), "maxclients"},
		{context.DeadlineExceeded, "did not answer in time (timeout 1s)"}, {fmt.Errorf("x: %w", &net.OpError{Op: "read", Err: timeout{}}), "did not answer in time"},
		{io.EOF, "closed the connection"}, {x509.UnknownAuthorityError{}, "tls.caRef"}, {errors.New("connection refused"), "cannot be reached"},
	} {
		got := c.explain(context.Background(), e.err)
		if e.says == "" {
			if got != e.err {
				t.Errorf("%v became %v", e.err, got)
			}
			continue
		}
		text := got.Error()
		if !strings.HasPrefix(text, "Redis at a:1, b:2 (LLMGateway spec.sharedState.redis) ") || !strings.Contains(text, e.says) || !strings.HasSuffix(text, e.err.Error()) ||
			strings.Contains(text, "hunter2") || !errors.Is(got, e.err) || !Unavailable(got) {
			t.Errorf("%v became %v", e.err, got)
		}
		if again := c.explain(context.Background(), fmt.Errorf("more: %w", got)); strings.Count(again.Error(), "Redis at") != 1 {
			t.Errorf("twice: %v", again)
		}
	}
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	if got := c.explain(gone, context.Canceled); got != context.Canceled {
		t.Errorf("who asked went away: %v", got)
	}
}

type timeout struct{}

func (timeout) Error() string   { return "i/o timeout" }
func (timeout) Timeout() bool   { return true }
func (timeout) Temporary() bool { return true }
