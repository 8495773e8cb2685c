package authz

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/test/freeport"
)

// patience is for what must come. Only a failing test waits that long.
const patience = time.Minute

// authority signs certificates for a test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{key: newKey(t)}
	der := a.sign(t, &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, Subject: pkix.Name{CommonName: t.Name() + rand.Text()}}, nil, a.key)
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	a.cert, a.pem = cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (a *authority) sign(t *testing.T, c, parent *x509.Certificate, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	c.SerialNumber, c.NotBefore, c.NotAfter = big.NewInt(time.Now().UnixNano()), time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	if parent == nil {
		parent = c
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// pair makes a certificate for name, and its key, as PEM.
func (a *authority) pair(t *testing.T, name string) (certificate, key []byte) {
	t.Helper()
	k := newKey(t)
	der := a.sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}, a.cert, k)
	private, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
}

// client is how a client's side of TLS looks; certificate may be nil.
func (a *authority) client(t *testing.T, name string, certificate, key []byte) *tls.Config {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	conf := &tls.Config{RootCAs: pool, ServerName: name}
	if certificate != nil {
		pair, err := tls.X509KeyPair(certificate, key)
		if err != nil {
			t.Fatal(err)
		}
		conf.Certificates = []tls.Certificate{pair}
	}
	return conf
}

// dial connects to an address; a nil conf is plain text.
func dial(t *testing.T, address string, conf *tls.Config) *grpc.ClientConn {
	t.Helper()
	creds := insecure.NewCredentials()
	if conf != nil {
		creds = credentials.NewTLS(conf)
	}
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// ping makes one check over conn.
func ping(conn *grpc.ClientConn) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	resp, err := authv3.NewAuthorizationClient(conn).Check(ctx, ask{headers: []string{"x-api-key", keyApp}}.request())
	if err == nil && resp.GetOkResponse() == nil {
		err = errors.New("refused")
	}
	return err
}

// fresh makes one check over a new connection.
func fresh(t *testing.T, address string, conf *tls.Config) error {
	t.Helper()
	conn := dial(t, address, conf)
	defer conn.Close()
	return ping(conn)
}

func freePort(t *testing.T) uint16 {
	t.Helper()
	return uint16(freeport.Take(t))
}

// keeper is a Manager whose retries the test lets happen.
type keeper struct {
	*Manager
	retry chan time.Time
}

func newKeeper(t *testing.T, change func(*ManagerOptions)) *keeper {
	t.Helper()
	k := &keeper{retry: make(chan time.Time)}
	o := ManagerOptions{Server: newServer(t, nil), Log: slog.New(slog.DiscardHandler), Retry: func() <-chan time.Time { return k.retry }}
	if change != nil {
		change(&o)
	}
	k.Manager = NewManager(o)
	t.Cleanup(k.Close)
	return k
}

func (k *keeper) apply(t *testing.T, c *Config) {
	t.Helper()
	if err := k.Apply(c); err != nil {
		t.Fatal(err)
	}
}

func TestManager(t *testing.T) {
	k := newKeeper(t, nil)
	if s := k.State(); s != (State{}) {
		t.Errorf("at first: %+v", s)
	}
	a := &Config{Address: "127.0.0.1", Port: freePort(t)}
	k.apply(t, a)
	conn := dial(t, a.hostPort(), nil)
	if err := ping(conn); err != nil {
		t.Fatal(err)
	}
	if s := k.State(); s != (State{Address: a.hostPort()}) {
		t.Errorf("state: %+v", s)
	}
	before := k.open
	k.apply(t, &Config{Address: "127.0.0.1", Port: a.Port})
	if k.open != before {
		t.Error("the same configuration has opened the listener anew")
	}

	b := &Config{Address: "127.0.0.1", Port: freePort(t)}
	k.apply(t, b)
	if err := fresh(t, b.hostPort(), nil); err != nil {
		t.Error(err)
	}
	if err := fresh(t, a.hostPort(), nil); status.Code(err) != codes.Unavailable {
		t.Errorf("the old address still answers: %v", err)
	}

	k.apply(t, nil)
	if err := fresh(t, b.hostPort(), nil); status.Code(err) != codes.Unavailable {
		t.Errorf("it still answers: %v", err)
	}
	if s := k.State(); s != (State{}) {
		t.Errorf("in the end: %+v", s)
	}
}

func TestManagerHealth(t *testing.T) {
	k := newKeeper(t, nil)
	c := &Config{Address: "127.0.0.1", Port: freePort(t)}
	k.apply(t, c)
	for _, service := range []string{"", "envoy.service.auth.v3.Authorization"} {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		resp, err := healthv1.NewHealthClient(dial(t, c.hostPort(), nil)).Check(ctx, &healthv1.HealthCheckRequest{Service: service})
		cancel()
		if err != nil || resp.GetStatus() != healthv1.HealthCheckResponse_SERVING {
			t.Errorf("%q: %v %v", service, resp, err)
		}
	}
}

func TestManagerTLS(t *testing.T) {
	ca, clients, strangers := newAuthority(t), newAuthority(t), newAuthority(t)
	c := &Config{Address: "127.0.0.1", Port: freePort(t)}
	c.Certificate, c.PrivateKey = ca.pair(t, "one.test")
	k := newKeeper(t, nil)
	k.apply(t, c)
	if err := fresh(t, c.hostPort(), ca.client(t, "one.test", nil, nil)); err != nil {
		t.Error(err)
	}
	if err := fresh(t, c.hostPort(), nil); err == nil {
		t.Error("plain text is let in")
	}
	if err := fresh(t, c.hostPort(), strangers.client(t, "one.test", nil, nil)); err == nil {
		t.Error("the client trusts a stranger's certificate: the test tests nothing")
	}

	// Another certificate and authorities, while checks go on: none fails.
	conn := dial(t, c.hostPort(), ca.client(t, "one.test", nil, nil))
	if err := ping(conn); err != nil {
		t.Fatal(err)
	}
	clientCert, clientKey := clients.pair(t, "envoy")
	both := ca.client(t, "two.test", clientCert, clientKey)
	both.ServerName, both.InsecureSkipVerify = "", true // both names
	steady := dial(t, c.hostPort(), both)
	stop := make(chan struct{})
	var load sync.WaitGroup
	var checks atomic.Int64
	for range 4 {
		load.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := ping(steady); err != nil {
					t.Errorf("a check fails while certificates change: %v", err)
					return
				}
				checks.Add(1)
			}
		})
	}
	for range 5 {
		before := checks.Load()
		d := *c
		d.Certificate, d.PrivateKey = ca.pair(t, "two.test")
		d.ClientCA = clients.pem
		k.apply(t, &d)
		if err := fresh(t, c.hostPort(), ca.client(t, "two.test", clientCert, clientKey)); err != nil {
			t.Error(err)
		}
		for checks.Load() == before && !t.Failed() { // there are checks between the changes
			time.Sleep(time.Millisecond)
		}
	}
	close(stop)
	load.Wait()
	if s := k.State(); s != (State{Address: c.hostPort(), TLS: true, ClientCertificates: true}) {
		t.Errorf("state: %+v", s)
	}
	strangerCert, strangerKey := strangers.pair(t, "envoy")
	for name, conf := range map[string]*tls.Config{
		"no certificate": ca.client(t, "two.test", nil, nil),
		"a stranger's":   ca.client(t, "two.test", strangerCert, strangerKey),
		"the old name":   ca.client(t, "one.test", clientCert, clientKey),
		"plain text":     nil,
	} {
		if err := fresh(t, c.hostPort(), conf); err == nil {
			t.Errorf("%s: let in", name)
		}
	}
	for deadline := time.Now().Add(patience); ping(conn) == nil; {
		if time.Now().After(deadline) {
			t.Fatal("a connection from before client certificates is still let in")
		}
	}
}

// TestManagerKeepsWhatIsGood: what cannot be used is told, and changes nothing.
func TestManagerKeepsWhatIsGood(t *testing.T) {
	ca := newAuthority(t)
	good := &Config{Address: "127.0.0.1", Port: freePort(t)}
	good.Certificate, good.PrivateKey = ca.pair(t, "one.test")
	_, otherKey := ca.pair(t, "two.test")
	k := newKeeper(t, nil)
	k.apply(t, good)
	for name, change := range map[string]func(*Config){
		"certificate":              func(c *Config) { c.Certificate = []byte("no PEM") },
		"private key":              func(c *Config) { c.PrivateKey = otherKey },
		"only a key":               func(c *Config) { c.Certificate = nil },
		"client authorities":       func(c *Config) { c.ClientCA = []byte("no PEM") },
		"authorities, without TLS": func(c *Config) { c.Certificate, c.PrivateKey, c.ClientCA = nil, nil, ca.pem },
	} {
		t.Run(name, func(t *testing.T) {
			bad := *good
			change(&bad)
			err := k.Apply(&bad)
			if err == nil || strings.Contains(err.Error(), "PRIVATE") {
				t.Errorf("error %v", err)
			}
			if s := k.State(); s.Err != err || s.Address != good.hostPort() || !s.TLS {
				t.Errorf("state %+v", s)
			}
			if err := fresh(t, good.hostPort(), ca.client(t, "one.test", nil, nil)); err != nil {
				t.Error(err)
			}
		})
	}
	k.apply(t, good)
	if s := k.State(); s.Err != nil {
		t.Errorf("the error stays: %v", s.Err)
	}
}

func TestManagerTriesAgain(t *testing.T) {
	taken, err := net.Listen("tcp", freeport.Addr(t)) // which nobody else takes when it is let go
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	k := newKeeper(t, nil)
	old := &Config{Address: "127.0.0.1", Port: freePort(t)}
	k.apply(t, old)
	c := &Config{Address: "127.0.0.1", Port: uint16(taken.Addr().(*net.TCPAddr).Port)}
	if err := k.Apply(c); err == nil || !strings.Contains(err.Error(), c.hostPort()) {
		t.Fatalf("error %v", err)
	}
	if err := fresh(t, old.hostPort(), nil); err != nil {
		t.Errorf("what was served before: %v", err)
	}
	k.retry <- time.Time{}
	k.retry <- time.Time{} // the first has been tried, in vain, when the second is taken
	if s := k.State(); s.Err == nil || s.Address != old.hostPort() {
		t.Errorf("state %+v", s)
	}
	taken.Close()
	for k.State().Err != nil { // a try that has begun may still fail
		select {
		case k.retry <- time.Time{}:
		case <-time.After(time.Millisecond):
		}
	}
	if err := fresh(t, c.hostPort(), nil); err != nil {
		t.Error(err)
	}
	if s := k.State(); s != (State{Address: c.hostPort()}) {
		t.Errorf("state %+v", s)
	}
}

// TestManagerSamePort: every address includes the one that is served now.
func TestManagerSamePort(t *testing.T) {
	k := newKeeper(t, nil)
	c := &Config{Address: "127.0.0.1", Port: freePort(t)}
	k.apply(t, c)
	k.apply(t, &Config{Address: "0.0.0.0", Port: c.Port})
	if err := fresh(t, c.hostPort(), nil); err != nil {
		t.Error(err)
	}
	k.apply(t, c)
	if err := fresh(t, c.hostPort(), nil); err != nil {
		t.Error(err)
	}
}

// fragile is a listener whose Accept can be made to fail.
type fragile struct {
	net.Listener
	fail chan error
}

func (f *fragile) Accept() (net.Conn, error) {
	type accepted struct {
		c   net.Conn
		err error
	}
	got := make(chan accepted, 1)
	go func() {
		c, err := f.Listener.Accept()
		got <- accepted{c, err}
	}()
	select {
	case a := <-got:
		return a.c, a.err
	case err := <-f.fail:
		go func() {
			if a := <-got; a.c != nil {
				a.c.Close()
			}
		}()
		return nil, err
	}
}

// passing is an error that goes by, such as too many open files.
type passing struct{ error }

func (passing) Temporary() bool { return true }

func TestListenerBreaks(t *testing.T) {
	fail := make(chan error)
	k := newKeeper(t, func(o *ManagerOptions) {
		o.Listen = func(address string) (net.Listener, error) {
			l, err := net.Listen("tcp", address)
			return &fragile{l, fail}, err
		}
	})
	c := &Config{Address: "127.0.0.1", Port: freePort(t)}
	k.apply(t, c)
	fail <- passing{errors.New("too many open files")}
	fail <- errors.New("broken") // it has gone on accepting
	k.retry <- time.Time{}
	for deadline := time.Now().Add(patience); k.State().Address == ""; {
		if time.Now().After(deadline) {
			t.Fatalf("state %+v", k.State())
		}
	}
	if err := fresh(t, c.hostPort(), nil); err != nil {
		t.Error(err)
	}
}

// TestServeEndsGently: a check under way is answered after the end has come.
func TestServeEndsGently(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	s := newServer(t, func(o *Options) {
		o.Admit = func(context.Context, *identity.Identity, time.Time) *canon.Error {
			close(entered)
			<-leave
			return nil
		}
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- s.Serve(ctx, l, nil) }()
	conn := dial(t, l.Addr().String(), nil)
	answered := make(chan error)
	go func() { answered <- ping(conn) }()
	<-entered
	cancel()
	for { // until nobody listens any more
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			break
		}
		c.Close()
	}
	close(leave)
	if err := <-answered; err != nil {
		t.Errorf("the check under way: %v", err)
	}
	if err := <-ended; err != nil {
		t.Errorf("Serve: %v", err)
	}
}

func TestServeTellsABrokenListener(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := newServer(t, nil).Serve(t.Context(), l, nil); err == nil {
		t.Error("no error")
	}
}

func TestClosedManager(t *testing.T) {
	k := newKeeper(t, nil)
	c := &Config{Address: "127.0.0.1", Port: freePort(t)}
	k.apply(t, c)
	k.Close()
	k.Close()
	if err := k.Apply(c); err == nil {
		t.Error("it serves again")
	}
	if err := fresh(t, c.hostPort(), nil); err == nil {
		t.Error("it still serves")
	}
}
