package redisconn_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/weir-dev/weir/internal/redisconn"
	"github.com/weir-dev/weir/test/freeport"
	"github.com/weir-dev/weir/test/redistest"
)

func open(t *testing.T, cfg redisconn.Config) *redisconn.Conn {
	t.Helper()
	if cfg.Timeout == 0 {
		cfg.Timeout = 30 * time.Second
	}
	c, err := redisconn.Open(cfg, redisconn.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestHealthFollowsTheServer(t *testing.T) {
	ctx := context.Background()
	s := redistest.Start(t)
	now := time.Unix(1000, 0)
	c, err := redisconn.Open(redisconn.Config{Addresses: []string{s.Addr}, Timeout: 30 * time.Second},
		redisconn.Options{Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	check := func(healthy bool, since time.Time, failures uint64) {
		t.Helper()
		h := c.Health()
		if (h.Err == nil) != healthy || !h.Since.Equal(since) || h.Failures != failures {
			t.Fatalf("health is %+v, not healthy %v since %v after %d failures", h, healthy, since, failures)
		}
	}
	check(true, time.Time{}, 0)
	if err := c.Set(ctx, "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	up := now
	check(true, up, 0)
	now = now.Add(time.Minute)
	if err := c.Get(ctx, "missing").Err(); !errors.Is(err, redis.Nil) {
		t.Fatal(err)
	}
	if err := c.LPush(ctx, "k", "x").Err(); err == nil {
		t.Fatal("a list operation on a string succeeded")
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if err := c.Get(gone, "k").Err(); err == nil {
		t.Fatal("a cancelled command succeeded")
	}
	check(true, up, 0) // none of these is the server's fault

	s.Kill()
	down := now
	if err := c.Get(ctx, "k").Err(); err == nil {
		t.Fatal("a killed server answered")
	}
	check(false, down, 1)
	now = now.Add(time.Minute)
	pipe := c.Pipeline()
	pipe.Get(ctx, "k")
	if _, err := pipe.Exec(ctx); err == nil {
		t.Fatal("a killed server answered a pipeline")
	}
	check(false, down, 2)

	s.Restart()
	if err := c.Ping(ctx).Err(); err != nil {
		t.Fatal(err)
	}
	check(true, now, 2)
}

func TestTimeoutBoundsASlowServer(t *testing.T) {
	s := redistest.Start(t)
	c := open(t, redisconn.Config{Addresses: []string{s.Addr}, Timeout: 30 * time.Millisecond})
	s.Pause()
	// A context without a deadline would wait for ever.
	if err := c.Get(context.Background(), "k").Err(); err == nil {
		t.Fatal("a paused server answered")
	}
	pipe := c.Pipeline()
	pipe.Get(context.Background(), "k")
	queued := pipe.Get(context.Background(), "l")
	if _, err := pipe.Exec(context.Background()); err == nil {
		t.Fatal("a paused server answered a pipeline")
	}
	if err := queued.Err(); err == nil || !strings.Contains(err.Error(), "Redis at "+s.Addr+" (LLMGateway spec.sharedState.redis) did not answer in time (timeout 30ms)") {
		t.Errorf("a command of the pipeline ended with %v", err)
	}
	if c.Health().Err == nil {
		t.Error("a server that does not answer is healthy")
	}
	s.Resume()
	// The deadline of the caller goes before Timeout.
	long, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if v, err := c.BLPop(long, 200*time.Millisecond, "nothing").Result(); !errors.Is(err, redis.Nil) {
		t.Errorf("a command that blocks for longer than Timeout ended with %v, %v", v, err)
	}
}

func TestPasswords(t *testing.T) {
	ctx := context.Background()
	s := redistest.Start(t, "--requirepass", "open-sesame", "--user", "weir", "on", ">hunter2", "~weir:*", "+@all", "-flushall")
	if err := open(t, redisconn.Config{Addresses: []string{s.Addr}, Password: "open-sesame"}).Ping(ctx).Err(); err != nil {
		t.Error(err)
	}
	user := open(t, redisconn.Config{Addresses: []string{s.Addr}, Username: "weir", Password: "hunter2", Database: 3, ClientName: "weir-test"})
	if err := user.Set(ctx, "weir:a", "1", 0).Err(); err != nil {
		t.Error(err)
	}
	if name := user.ClientGetName(ctx).Val(); name != "weir-test" {
		t.Errorf("the client is called %q", name)
	}
	if err := user.FlushAll(ctx).Err(); !redisconn.Unavailable(err) {
		t.Errorf("what the ACL forbids ended with %v", err)
	}
	for name, cfg := range map[string]redisconn.Config{
		"none":  {Addresses: []string{s.Addr}},
		"wrong": {Addresses: []string{s.Addr}, Password: "hunter3"},
	} {
		err := open(t, cfg).Ping(ctx).Err()
		if err == nil || !redisconn.Unavailable(err) {
			t.Errorf("%s password: %v", name, err)
		}
		if err != nil && strings.Contains(err.Error(), "hunter3") {
			t.Errorf("the error shows the password: %v", err)
		}
	}
}

func TestTLS(t *testing.T) {
	ctx := context.Background()
	ca, cert, key := certificates(t)
	dir := t.TempDir()
	file := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	addr := freeport.Addr(t)
	_, port, _ := net.SplitHostPort(addr)
	redistest.Start(t, "--tls-port", port, "--tls-cert-file", file("cert.pem", cert), "--tls-key-file", file("key.pem", key),
		"--tls-ca-cert-file", file("ca.pem", ca))
	good := func() redisconn.Config {
		return redisconn.Config{Addresses: []string{addr}, TLS: &redisconn.TLS{
			ServerName: "redis.test", CA: ca, Certificate: cert, PrivateKey: redisconn.Secret(key),
		}}
	}
	if err := open(t, good()).Ping(ctx).Err(); err != nil {
		t.Error(err)
	}
	otherCA, _, _ := certificates(t)
	for name, change := range map[string]func(*redisconn.Config){
		"another authority":     func(c *redisconn.Config) { c.TLS.CA = otherCA },
		"another name":          func(c *redisconn.Config) { c.TLS.ServerName = "other.test" },
		"no client certificate": func(c *redisconn.Config) { c.TLS.Certificate, c.TLS.PrivateKey = nil, "" },
		"plain text":            func(c *redisconn.Config) { c.TLS = nil },
	} {
		cfg := good()
		change(&cfg)
		if err := open(t, cfg).Ping(ctx).Err(); err == nil {
			t.Errorf("%s: the server was trusted, or trusts", name)
		}
	}
}

func TestUnavailable(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		want bool
	}{
		"none":       {nil, false},
		"nil":        {redis.Nil, false},
		"deadline":   {context.DeadlineExceeded, true},
		"refused":    {&net.OpError{Op: "dial", Err: errors.New("connection refused")}, true},
		"script":     {redis.ErrNoScript, false},
		"aborted":    {redis.TxFailedErr, false},
		"connection": {redis.ErrClosed, true},
	} {
		if got := redisconn.Unavailable(c.err); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// certificates makes an authority and a certificate of it for redis.test, for servers and clients.
func certificates(t *testing.T) (ca, cert, key []byte) {
	t.Helper()
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	from, to := time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	caTemplate := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, NotBefore: from, NotAfter: to,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	caDER, err := x509.CreateCertificate(rand.Reader, caTemplate, caTemplate, &caKey.PublicKey, caKey)
	must(err)
	leafKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "redis.test"}, DNSNames: []string{"redis.test"},
		NotBefore: from, NotAfter: to, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, caTemplate, &leafKey.PublicKey, caKey)
	must(err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(leafKey)
	must(err)
	encode := func(kind string, der []byte) []byte {
		var b bytes.Buffer
		must(pem.Encode(&b, &pem.Block{Type: kind, Bytes: der}))
		return b.Bytes()
	}
	return encode("CERTIFICATE", caDER), encode("CERTIFICATE", leafDER), encode("PRIVATE KEY", keyDER)
}

func TestLogTo(t *testing.T) {
	var out bytes.Buffer
	redisconn.LogTo(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})))
	defer redisconn.LogTo(slog.New(slog.DiscardHandler))
	s := redistest.Start(t)
	c := open(t, redisconn.Config{Addresses: []string{s.Addr}})
	s.Kill()
	_ = c.Ping(context.Background())
	_ = c.Close()
	if !strings.Contains(out.String(), "Redis client: ") {
		t.Errorf("the log has %q", out.String())
	}
}
