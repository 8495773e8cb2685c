package fleet

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
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/test/bufconn"

	"github.com/weir-dev/weir/test/bubble"
	"github.com/weir-dev/weir/xds/source"
)

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert, key}
}

// issue writes a certificate for a DNS name or a SPIFFE ID, its key and the authority that the other side must have, into a folder.
func (a *authority) issue(t testing.TB, dir, name string, valid time.Duration) Files {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(valid),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	if strings.HasPrefix(name, spiffeScheme) {
		id, err := url.Parse(name)
		if err != nil {
			t.Fatal(err)
		}
		template.URIs = []*url.URL{id}
	} else {
		template.DNSNames = []string{name}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	files := Files{Cert: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key"), CA: filepath.Join(dir, "ca.crt")}
	for path, block := range map[string]*pem.Block{
		files.Cert: {Type: "CERTIFICATE", Bytes: der}, files.Key: {Type: "PRIVATE KEY", Bytes: pkcs8}, files.CA: {Type: "CERTIFICATE", Bytes: a.cert.Raw},
	} {
		// A new file takes the place of the old one, as tools for certificates do it.
		if err := os.WriteFile(path+".new", pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	return files
}

// buffer is a log that several goroutines write.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// rig is a network in memory, inside a synctest bubble: nothing outlives the test, or the bubble fails.
type rig struct {
	t    *testing.T
	ca   *authority
	logs *buffer
	log  *slog.Logger

	mu        sync.Mutex
	listeners map[string]*bufconn.Listener
	conns     []*cable
}

func newRig(t *testing.T) *rig {
	logs := &buffer{}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the log:\n%s", logs)
		}
	})
	return &rig{
		t: t, ca: newAuthority(t), logs: logs, log: slog.New(slog.NewTextHandler(logs, &slog.HandlerOptions{Level: slog.LevelDebug})),
		listeners: map[string]*bufconn.Listener{},
	}
}

func (r *rig) dial(ctx context.Context, address string) (net.Conn, error) {
	r.mu.Lock()
	l := r.listeners[address]
	r.mu.Unlock()
	if l == nil {
		return nil, errors.New("connection refused")
	}
	conn, err := l.DialContext(ctx)
	if err != nil {
		return nil, err
	}
	c := &cable{Conn: conn, closed: make(chan struct{})}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.conns = append(r.conns, c)
	return c, nil
}

// cut makes all connections lose what goes over them, from now on, without anybody being told.
func (r *rig) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.conns {
		c.cut.Store(true)
	}
	r.conns = nil
}

// cable is a connection that can be cut.
type cable struct {
	net.Conn
	cut    atomic.Bool
	once   sync.Once
	closed chan struct{}
}

func (c *cable) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.cut.Load() {
		<-c.closed
		return 0, net.ErrClosed
	}
	return n, err
}

func (c *cable) Write(b []byte) (int, error) {
	if c.cut.Load() {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

// Close tells the other side nothing when the cable is cut; the test's end does.
func (c *cable) Close() error {
	c.once.Do(func() { close(c.closed) })
	if c.cut.Load() {
		return nil
	}
	return c.Conn.Close()
}

// control is a server that listens.
type control struct {
	*Server
	stop func()
}

const controlName = "control.weir.svc"

func (r *rig) control(address string, change func(*ServerOptions)) *control {
	r.t.Helper()
	opts := ServerOptions{TLS: r.ca.issue(r.t, r.t.TempDir(), controlName, 1000*time.Hour), Log: r.log}
	if change != nil {
		change(&opts)
	}
	server, err := NewServer(opts)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	l := bufconn.Listen(64 << 10)
	r.mu.Lock()
	r.listeners[address] = l
	r.mu.Unlock()
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx, l) }()
	stop := sync.OnceFunc(func() {
		r.mu.Lock()
		delete(r.listeners, address)
		r.mu.Unlock()
		cancel()
		if err := <-done; err != nil {
			r.t.Errorf("Serve: %v", err)
		}
	})
	r.t.Cleanup(stop) // a test that fails early leaves nobody behind
	return &control{server, stop}
}

// sidecar is a client and who uses it.
type sidecar struct {
	*Client
	stop func()

	mu       sync.Mutex
	objs     *source.Objects
	problems []source.Problem
	calls    int
	envoy    func(*source.Objects) string // what Envoy says: "" takes it, "silent" nothing, else it refuses; nil takes everything
	hold     chan struct{}                // while not nil, Watch's function waits for it
}

func (r *rig) sidecar(change func(*ClientOptions), envoy func(*source.Objects) string) *sidecar {
	r.t.Helper()
	opts := ClientOptions{
		Addresses: []string{"control:1"}, ServerName: controlName, Node: Node{ID: "team-a/gateway-0", Version: "1.2.3"},
		Log: r.log, Random: func() float64 { return 0 }, Dial: r.dial,
	}
	if change != nil {
		change(&opts)
	}
	if opts.TLS == (Files{}) {
		opts.TLS = r.ca.issue(r.t, r.t.TempDir(), "gateway.team-a.svc", 1000*time.Hour)
	}
	client, err := NewClient(opts)
	if err != nil {
		r.t.Fatal(err)
	}
	s := &sidecar{Client: client, envoy: envoy}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		client.Watch(ctx, s.take)
		close(done)
	}()
	s.stop = sync.OnceFunc(func() {
		cancel()
		<-done
	})
	r.t.Cleanup(s.stop)
	return s
}

func (s *sidecar) take(objs *source.Objects, problems []source.Problem) {
	s.mu.Lock()
	s.objs, s.problems = objs, problems
	s.calls++
	hold, envoy := s.hold, s.envoy
	s.mu.Unlock()
	if hold != nil {
		<-hold
	}
	reason := ""
	if envoy != nil {
		reason = envoy(objs)
	}
	switch reason {
	case "":
		s.Serving(objs)
	case "silent":
	default:
		s.Rejected(objs, reason)
	}
}

func (s *sidecar) got() (*source.Objects, []source.Problem, int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.objs, s.problems, s.calls
}

// inBubble runs a test in a bubble, where time moves only when everything stands still.
func inBubble(t *testing.T, test func(t *testing.T, r *rig)) {
	t.Helper()
	bubble.Test(t, func(t *testing.T) { test(t, newRig(t)) })
}

// settle waits until nothing moves, without letting time pass.
func settle() { synctest.Wait() }
