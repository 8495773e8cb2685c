package e2e

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	anthropicoption "github.com/anthropics/anthropic-sdk-go/v2/option"
	openaioption "github.com/openai/openai-go/v3/option"

	"github.com/weir-dev/weir/test/e2e/harness"
	"github.com/weir-dev/weir/test/sim"
)

// authority is a certificate authority of a test's own.
type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
	PEM  string
}

func newAuthority(t testing.TB, name string) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{key: key}
	template := certificateTemplate(name)
	template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign
	a.cert = a.sign(t, template, template, key.Public())
	a.PEM = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}))
	return a
}

func certificateTemplate(name string) *x509.Certificate {
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
	}
}

func (a *authority) sign(t testing.TB, template, parent *x509.Certificate, public crypto.PublicKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, a.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// server makes a certificate for a host name and 127.0.0.1, both as PEM.
func (a *authority) server(t testing.TB, host string, key crypto.Signer) (certificate, private string) {
	t.Helper()
	template := certificateTemplate(host)
	template.DNSNames, template.IPAddresses = []string{host}, []net.IP{net.IPv4(127, 0, 0, 1)}
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	cert := a.sign(t, template, a.cert, key.Public())
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func newKey(t testing.TB) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// weakCertificate is one that Go accepts and Envoy does not: its RSA key has 1024 bits.
func weakCertificate(t testing.TB) (certificate, private string) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	return newAuthority(t, "weak").server(t, "gateway.test", key)
}

// keyPair is what a TLS server of the test itself needs.
func keyPair(t testing.TB, certificate, private string) tls.Certificate {
	t.Helper()
	pair, err := tls.X509KeyPair([]byte(certificate), []byte(private))
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

// trust is a pool of one authority.
func (a *authority) trust() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// TestTLSListener terminates TLS with a certificate of the test's own, and takes a new one without a break.
func TestTLSListener(t *testing.T) {
	t.Parallel()
	ca, stranger := newAuthority(t, "gateway CA"), newAuthority(t, "another CA")
	certificate, key := ca.server(t, "gateway.test", newKey(t))
	g, _, _, _ := threeProviders(t, sim.Faults{}, harness.Options{Files: map[string]string{
		"gateway.yaml": harness.Document("LLMGateway", "e2e", `
listeners:
  - name: https
    port: 8443
    tls: {certificateRef: {file: gateway.crt.txt}, privateKeyRef: {file: gateway.key.txt}}`),
		"gateway.crt.txt": certificate, "gateway.key.txt": key,
	}})
	url := "https://" + address(g)
	client := func(a *authority, host string) *http.Client {
		return &http.Client{Transport: &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: a.trust(), ServerName: host}, ForceAttemptHTTP2: true, DisableKeepAlives: true,
		}}
	}
	trusting := client(ca, "gateway.test")
	t.Run("SDKs", func(t *testing.T) {
		for _, c := range []caller{newOpenAI(url, g.Key, openaioption.WithHTTPClient(trusting)), newAnthropic(url, g.Key, anthropicoption.WithHTTPClient(trusting))} {
			for _, model := range []string{"gpt-4o", "claude-sonnet-4-5"} {
				for _, stream := range []bool{false, true} {
					if r := mustAsk(t, c, ask{model: model, turns: user("hi"), stream: stream}); r.text == "" {
						t.Errorf("%s caller, model %s: no text", c.dialect(), model)
					}
				}
			}
		}
	})
	t.Run("HTTP/2", func(t *testing.T) {
		resp, err := trusting.Get(url + "/v1/models")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.ProtoMajor != 2 || resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s, status %d", resp.Proto, resp.StatusCode)
		}
	})
	t.Run("refused", func(t *testing.T) {
		for name, c := range map[string]*http.Client{"another CA": client(stranger, "gateway.test"), "another name": client(ca, "evil.test")} {
			if resp, err := c.Get(url + "/v1/models"); err == nil {
				resp.Body.Close()
				t.Errorf("%s: it was trusted", name)
			}
		}
		old := &tls.Config{RootCAs: ca.trust(), ServerName: "gateway.test", MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}
		if conn, err := tls.Dial("tcp", address(g), old); err == nil {
			conn.Close()
			t.Error("TLS 1.1 was accepted")
		}
		if r := send(t, g, lanes[0].message()); r.status != 0 {
			t.Errorf("plain HTTP was answered with %d", r.status)
		}
	})
	t.Run("new certificate", func(t *testing.T) {
		serial := func() string {
			conn, err := tls.Dial("tcp", address(g), &tls.Config{RootCAs: ca.trust(), ServerName: "gateway.test"})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
		}
		before := serial()
		renewed, private := ca.server(t, "gateway.test", newKey(t))
		g.WriteFile("gateway.crt.txt", renewed)
		g.WriteFile("gateway.key.txt", private)
		g.WaitFor("the new certificate is shown", func() bool { return serial() != before })
	})
	checkSecrets(t, g, strings.Split(key, "\n")[1])
}

// tlsProvider is a simulator behind TLS. names receives the server names that clients ask for.
func tlsProvider(t *testing.T, ca *authority, host string) (provider *sim.Server, address string, names func() []string) {
	provider, err := sim.New(sim.Options{Dialect: sim.OpenAI, Faults: harness.Quick(sim.Faults{})})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var asked []string
	certificate, key := ca.server(t, host, newKey(t))
	server := &http.Server{Handler: provider, ErrorLog: log.New(io.Discard, "", 0), TLSConfig: &tls.Config{
		Certificates: []tls.Certificate{keyPair(t, certificate, key)},
		GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			mu.Lock()
			defer mu.Unlock()
			asked = append(asked, h.ServerName)
			return nil, nil
		},
	}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.ServeTLS(l, "", "") }() // ends with the test
	t.Cleanup(func() { server.Close() })
	return provider, l.Addr().String(), func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(asked)
	}
}

// TestTLSBackend: a backend is trusted if its certificate is of the right authority and for the right name, and else gets
// nothing, least of all the credential.
func TestTLSBackend(t *testing.T) {
	t.Parallel()
	ca, stranger := newAuthority(t, "backend CA"), newAuthority(t, "another CA")
	provider, at, names := tlsProvider(t, ca, "backend.test")
	system := filepath.Join(t.TempDir(), "system.pem")
	if err := os.WriteFile(system, []byte(ca.PEM), 0o600); err != nil {
		t.Fatal(err)
	}
	spare := harness.NewSim(t, sim.Options{Dialect: sim.Anthropic})
	secure := func(name, model, spec string) harness.Backend {
		return harness.Backend{Name: name, Dialect: "openai", URL: "https://" + at + "/v1", Models: []string{model + "=gpt-4o"}, Spec: spec}
	}
	g := harness.Start(t, harness.Options{
		Env: []string{"SSL_CERT_FILE=" + system},
		Backends: []harness.Backend{
			secure("named", "by-name", "tls: {serverName: backend.test, caRef: {file: ca.txt}}"),
			secure("one", "by-name-http1", "protocol: HTTP1\ntls: {serverName: backend.test, caRef: {file: ca.txt}}"),
			secure("address", "by-address", "tls: {caRef: {file: ca.txt}}"),
			secure("system", "by-system", "tls: {serverName: backend.test}"),
			secure("loose", "unverified", "tls: {insecureSkipVerify: true}"),
			secure("stranger", "wrong-ca", "tls: {serverName: backend.test, caRef: {file: stranger.txt}}"),
			secure("misnamed", "wrong-name", "tls: {serverName: other.test, caRef: {file: ca.txt}}"),
			{Name: "plain", Dialect: "openai", URL: "http://" + at + "/v1", Models: []string{"without-tls=gpt-4o"}},
			{Name: "spare", Sim: spare, Models: []string{"claude-sonnet-4-5"}},
		},
		Documents: []string{
			harness.Route("all", "rules: [{backends: ["+
				"{name: named}, {name: one}, {name: address}, {name: system}, {name: loose}, {name: stranger}, {name: misnamed}, {name: plain}]}]"),
			harness.Route("fallback", "rules: [{matches: [{models: [fallback]}], backends: [{name: stranger, model: wrong-ca}, {name: spare, model: claude-sonnet-4-5, priority: 1}]}]"),
		},
		Files: map[string]string{"ca.txt": ca.PEM, "stranger.txt": stranger.PEM},
	})
	for _, c := range []struct{ model, proto, sni string }{
		{"by-name", "HTTP/2.0", "backend.test"}, {"by-name-http1", "HTTP/1.1", "backend.test"},
		{"by-address", "HTTP/2.0", ""}, {"by-system", "HTTP/2.0", "backend.test"}, {"unverified", "HTTP/2.0", ""},
	} {
		t.Run(c.model, func(t *testing.T) {
			for _, dialect := range []string{"openai", "anthropic"} {
				if r := send(t, g, lane{dialect: dialect, model: c.model}.message()); r.status != http.StatusOK {
					t.Fatalf("asked in %s: status %d: %s", dialect, r.status, r.body)
				}
			}
			all := provider.Requests()
			if got := all[len(all)-1].Protocol; got != c.proto {
				t.Errorf("it was asked over %s, want %s", got, c.proto)
			}
			if asked := names(); asked[len(asked)-1] != c.sni {
				t.Errorf("it was asked by the name %q, want %q", asked[len(asked)-1], c.sni)
			}
		})
	}
	before := len(provider.Requests())
	for _, model := range []string{"wrong-ca", "wrong-name"} {
		t.Run(model, func(t *testing.T) {
			for _, dialect := range []string{"openai", "anthropic"} {
				l := lane{dialect: dialect, model: model}
				r := send(t, g, l.message())
				if r.status != http.StatusServiceUnavailable {
					t.Errorf("asked in %s: status %d: %s", dialect, r.status, r.body)
				}
				checkErrorShape(t, l, malformed{}, r)
				checkSDKReads(t, g, l, r)
			}
		})
	}
	t.Run("without TLS", func(t *testing.T) {
		if r := send(t, g, lane{dialect: "openai", model: "without-tls"}.message()); r.status < 400 {
			t.Errorf("status %d: %s", r.status, r.body)
		}
	})
	if now := len(provider.Requests()); now != before {
		t.Errorf("a provider that is not trusted has got %d requests", now-before)
	}
	r := send(t, g, lane{dialect: "openai", model: "fallback"}.message())
	if r.status != http.StatusOK || r.header.Get("x-weir-backend") != "default/spare" {
		t.Errorf("with a fallback: status %d from %q: %s", r.status, r.header.Get("x-weir-backend"), r.body)
	}
	checkSecrets(t, g, harness.BackendKey("named"), harness.BackendKey("stranger"))
}
