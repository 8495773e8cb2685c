package kubernetes

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/weir-dev/weir/test/e2e/harness"
	"github.com/weir-dev/weir/test/sim"
)

// TestSecretsUnderLoad rotates, while requests run, the provider's key and then the certificate of the listener.
func TestSecretsUnderLoad(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	up := newSim(t, "gpt-4o")
	r.secret("key-up", map[string]string{"value": "upstream-secret-0"})
	objects := r.apply(basics(), backend("up", up), route("all", "all", "{name: up, model: gpt-4o}"))
	g := r.serve("weir-0", harness.Options{})
	r.awaitProgrammed(objects)
	l := startLoad(t, g.URL, 4, ask{model: "all"}, ask{model: "all", stream: true})
	l.more(40)
	// arrived says which key the provider's newest request has.
	arrived := func() string { return strings.Join(up.Last().Credentials, " ") }
	for i := 1; i <= 5; i++ {
		key := fmt.Sprintf("upstream-secret-%d", i)
		r.secret("key-up", map[string]string{"value": key})
		took := eventually(t, "the new key arrives", func() (bool, string) { return arrived() == sim.Fingerprint(key), arrived() })
		// Those that were under way have had their time: from now on there is the new one only.
		l.more(20)
		last := up.Last().ID
		l.more(40)
		for _, rec := range up.Requests() {
			if rec.ID > last && strings.Join(rec.Credentials, " ") != sim.Fingerprint(key) {
				t.Fatalf("rotation %d: request %d has an old key", i, rec.ID)
			}
		}
		t.Logf("rotation %d: the new key arrived %v after the change", i, took)
	}
	l.mustHaveServed()
	if s := r.status(r.object("Backend", "up")); s.generation != 1 {
		t.Errorf("the Backend itself has changed: %s", s.String())
	}
	if strings.Contains(g.Logs(), "upstream-secret") {
		t.Error("the log shows a secret")
	}
}

// TestListenerCertificate rotates the certificate of a listener, which new connections are shown; those that are open go on.
func TestListenerCertificate(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	up := newSim(t, "gpt-4o")
	r.secret("key-up", map[string]string{"value": "upstream-secret"})
	cert, key := certificate(t, "first.test")
	r.secret("cert", map[string]string{"tls.crt": cert, "tls.key": key})
	tlsListener := harness.Document("LLMGateway", "e2e", `
listeners:
  - name: https
    address: 127.0.0.1
    port: 8080
    tls: {certificateRef: {name: cert, key: tls.crt}, privateKeyRef: {name: cert, key: tls.key}}`)
	objects := r.apply(tlsListener, harness.Consumer("app", harness.DefaultKey, ""), backend("up", up), route("all", "all", "{name: up, model: gpt-4o}"))
	g := r.serve("weir-0", harness.Options{})
	r.awaitProgrammed(objects)
	url := "https" + strings.TrimPrefix(g.URL, "http")
	shown := func() string {
		conn, err := tls.Dial("tcp", strings.TrimPrefix(url, "https://"), &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			return err.Error()
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].Subject.CommonName
	}
	if got := shown(); got != "first.test" {
		t.Fatalf("the listener shows %s", got)
	}
	// Some callers go on with their connections, others make a new one for every request.
	kept, fresh := startLoad(t, url, 2, ask{model: "all", stream: true}), startFresh(t, url, 2, ask{model: "all"})
	for _, name := range []string{"second.test", "third.test"} {
		cert, key := certificate(t, name)
		r.secret("cert", map[string]string{"tls.crt": cert, "tls.key": key})
		took := eventually(t, "the new certificate is shown", func() (bool, string) { got := shown(); return got == name, got })
		t.Logf("%s was shown %v after the change", name, took)
		kept.more(20)
		fresh.more(20)
	}
	kept.mustHaveServed()
	fresh.mustHaveServed()

	// A certificate that cannot be used changes nothing, and the status says why.
	r.secret("cert", map[string]string{"tls.crt": "no certificate", "tls.key": key})
	r.awaitCondition(r.object("LLMGateway", "e2e"), "Accepted", "Invalid", "spec.listeners[0].tls")
	if got := shown(); got != "third.test" {
		t.Errorf("the listener shows %s", got)
	}
	r.secret("cert", map[string]string{"tls.crt": cert, "tls.key": key})
	eventually(t, "a good certificate is shown again", func() (bool, string) { got := shown(); return got == "first.test", got })
	r.awaitProgrammed(objects)
}

// certificate makes one of its own authority, for 127.0.0.1, both parts as PEM.
func certificate(t testing.TB, name string) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return sign(t, private, nil, name)
}

// issuer signs certificates.
type issuer struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  string
}

func newIssuer(t testing.TB) *issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := template("issuer.test")
	template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(t, err)
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	return &issuer{cert, key, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))}
}

// issue makes a certificate for both sides of a connection.
func (i *issuer) issue(t testing.TB, name string) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return sign(t, private, i, name)
}

func template(name string) *x509.Certificate {
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		DNSNames: []string{name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
}

// sign makes a certificate, signed by itself where there is no issuer.
func sign(t testing.TB, private *ecdsa.PrivateKey, by *issuer, name string) (cert, key string) {
	t.Helper()
	template := template(name)
	parent, signer := template, private
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, private.Public(), signer)
	must(t, err)
	raw, err := x509.MarshalPKCS8PrivateKey(private)
	must(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}))
}
