package compile

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"

	"github.com/weir-dev/weir/envoy"
)

// TestKeysOfListeners: Weir takes the keys that Envoy takes, and says why it refuses the others.
func TestKeysOfListeners(t *testing.T) {
	bin, err := envoy.Ensure(context.Background(), envoy.FindOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ec := func(c elliptic.Curve) func() (crypto.Signer, error) {
		return func() (crypto.Signer, error) { return ecdsa.GenerateKey(c, rand.Reader) }
	}
	bits := func(n int) func() (crypto.Signer, error) {
		return func() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, n) }
	}
	v := compileText(t, docCaller+backendDoc("a", "")+docRoute+
		doc("LLMGateway", "main", "{listeners: [{name: tls, port: 8443, tls: {certificateRef: {env: CERTIFICATE}, privateKeyRef: {env: PRIVATE_KEY}}}]}"))
	for name, c := range map[string]struct {
		key  func() (crypto.Signer, error)
		want string // in the refusal; "" where there is none
	}{
		"P-224": {ec(elliptic.P224()), "the ECDSA key is on the curve P-224, which Envoy does not take; use ECDSA with P-256, P-384 or P-521, Ed25519, or RSA of 2048 bits or more"},
		"P-256": {ec(elliptic.P256()), ""},
		"P-384": {ec(elliptic.P384()), ""},
		"P-521": {ec(elliptic.P521()), ""},
		"Ed25519": {func() (crypto.Signer, error) {
			_, k, err := ed25519.GenerateKey(rand.Reader)
			return k, err
		}, ""},
		"RSA 1024": {bits(1024), "the RSA key has 1024 bits, and Envoy takes no less than 2048; use "},
		"RSA 2048": {bits(2048), ""},
	} {
		t.Run(name, func(t *testing.T) {
			key, err := c.key()
			if err != nil {
				t.Fatal(err)
			}
			certificate, private := certify(t, key)
			err = checkKeyPair(certificate, private)
			if (err == nil) != (c.want == "") || err != nil && !strings.HasPrefix(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if out, err := validate(t, bin.Path, withCertificate(t, v, certificate, private)); (err == nil) != (c.want == "") {
				t.Errorf("Envoy says %v\n%s", err, out)
			}
		})
	}
}

func certify(t *testing.T, key crypto.Signer) (certificate, private string) {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"gateway.example"},
		NotBefore: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	encode := func(kind string, b []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}))
	}
	return encode("CERTIFICATE", der), encode("PRIVATE KEY", pkcs8)
}

// withCertificate is v with a certificate in its listeners: Envoy reads those of a secret only when it serves.
func withCertificate(t *testing.T, v *Version, certificate, private string) *Version {
	t.Helper()
	conf := pack(&tlsv3.DownstreamTlsContext{CommonTlsContext: &tlsv3.CommonTlsContext{
		TlsCertificates: []*tlsv3.TlsCertificate{{CertificateChain: inline(certificate), PrivateKey: inline(private)}},
	}})
	out := *v
	out.Listeners = map[string]*listenerv3.Listener{}
	for name, l := range v.Listeners {
		l = proto.Clone(l).(*listenerv3.Listener)
		for _, chain := range l.GetFilterChains() {
			proto.Reset(chain.GetTransportSocket().GetTypedConfig())
			proto.Merge(chain.GetTransportSocket().GetTypedConfig(), conf)
		}
		out.Listeners[name] = l
	}
	return &out
}
