package e2e

import (
	"bufio"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/weir-dev/weir/test/e2e/harness"
)

// monitor keeps every command that a Redis server is sent, as MONITOR shows them.
type monitor struct {
	mu   sync.Mutex
	text strings.Builder
	done chan struct{} // closed when the server has gone
}

// watchRedis watches until the server or the test ends.
func watchRedis(t *testing.T, addr string) *monitor {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	m := &monitor{done: make(chan struct{})}
	if _, err := fmt.Fprintf(conn, "AUTH %s\r\nMONITOR\r\n", redisPassword); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(conn)
	for range 2 {
		if line, err := in.ReadString('\n'); err != nil || !strings.HasPrefix(line, "+OK") {
			t.Fatalf("Redis answers %q, %v", line, err)
		}
	}
	go func() {
		defer close(m.done)
		for {
			line, err := in.ReadString('\n')
			if err != nil {
				return
			}
			m.mu.Lock()
			m.text.WriteString(line)
			m.mu.Unlock()
		}
	}()
	t.Cleanup(func() { conn.Close(); <-m.done })
	return m
}

func (m *monitor) String() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.text.String()
}

// calls counts the commands that clients have sent, those within scripts not.
func (m *monitor) calls() (n int) {
	for line := range strings.Lines(m.String()) {
		if !strings.Contains(line[:min(len(line), 40)], " lua]") {
			n++
		}
	}
	return n
}

// dumpRedis is every key and value.
func dumpRedis(t *testing.T, c *redis.Client) string {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	var b strings.Builder
	keys := c.Scan(ctx, 0, "*", 1000).Iterator()
	for keys.Next(ctx) {
		key := keys.Val()
		kind := c.Type(ctx, key).Val()
		var value any
		var err error
		switch kind {
		case "string":
			value, err = c.Get(ctx, key).Result()
		case "hash":
			value, err = c.HGetAll(ctx, key).Result()
		case "zset":
			value, err = c.ZRangeWithScores(ctx, key, 0, -1).Result()
		case "set":
			value, err = c.SMembers(ctx, key).Result()
		case "list":
			value, err = c.LRange(ctx, key, 0, -1).Result()
		case "stream":
			value, err = c.XRange(ctx, key, "-", "+").Result()
		case "none":
			continue // it has expired
		default:
			t.Errorf("the key %q is a %s, which this test cannot read", key, kind)
		}
		if err != nil && err != redis.Nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%s %s %+v\n", kind, key, value)
	}
	if err := keys.Err(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// stateFiles are all files of a gateway's state folder.
func stateFiles(t *testing.T, g *harness.Gateway) string {
	t.Helper()
	var body struct{ Ledger struct{ Folder string } }
	adminJSON(t, g, "/api/status", &body)
	var b strings.Builder
	err := filepath.WalkDir(body.Ledger.Folder, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		b.Write(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// testSharedSecrets: no credential is anywhere where it can be read.
func testSharedSecrets(t *testing.T, r *replicas) {
	places := map[string]string{"Redis": dumpRedis(t, r.client), "the commands of Redis": r.monitor.String()}
	for i, l := range r.all {
		checkSecrets(t, l.Gateway, r.secrets...)
		places[fmt.Sprint("the ledger of replica ", i)] = stateFiles(t, l.Gateway)
		for _, path := range []string{"/api/limits", "/api/breakers", "/api/status", "/metrics", "/api/usage?by=tenant,consumer,key,model&from=2020-01-01"} {
			resp, err := http.Get(l.AdminURL + path)
			if err != nil {
				t.Fatal(err)
			}
			text, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || resp.StatusCode != http.StatusOK {
				t.Fatalf("%s: status %d, %v", path, resp.StatusCode, err)
			}
			places[fmt.Sprint(path, " of replica ", i)] = string(text)
		}
	}
	// What must be there, or looking for what must not would show nothing.
	for place, sign := range map[string]string{
		"Redis": "lease-pot", "the commands of Redis": "evalsha", "the ledger of replica 0": "key:a1", "/api/limits of replica 0": "default/lease-pot",
		"/api/usage?by=tenant,consumer,key,model&from=2020-01-01 of replica 0": "key:a1",
	} {
		if !strings.Contains(places[place], sign) {
			t.Errorf("%s has no %q in %d bytes: %.300s", place, sign, len(places[place]), places[place])
		}
	}
	for place, text := range places {
		for _, s := range r.secrets {
			for how, form := range map[string]string{"plain": s, "base64": base64.StdEncoding.EncodeToString([]byte(s)), "in a URL": url.QueryEscape(s)} {
				if strings.Contains(text, form) {
					t.Errorf("%s shows the secret %.6s..., %s", place, s, how)
				}
			}
		}
	}
}
