package compile

import (
	"crypto/ed25519"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weir-dev/weir/adapters"
	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/xds/source"
	"github.com/weir-dev/weir/xds/source/files"
)

// marker is in every secret of these tests, so that a search finds where one got to.
const marker = "s3cr3t"

// testEnv is the environment that documents of these tests may name.
func testEnv(t testing.TB) files.Env {
	certificate, key := keyPair(t, 1)
	otherCertificate, _ := keyPair(t, 2)
	values := map[string]string{
		"OPENAI_KEY": marker + "-openai", "ANTHROPIC_KEY": marker + "-anthropic", "DASHSCOPE_KEY": marker + "-dashscope",
		"CLIENT_KEY": marker + "-client-key-of-the-batch-job", "JWT_SECRET": marker + "-of-at-least-thirty-two-bytes!",
		"SHORT_SECRET": marker, "KEY_WITH_SPACE": marker + " x", "KEY_WITH_BREAK": marker + "\nx: y", "NOT_PEM": "this is no certificate",
		"CERTIFICATE": certificate, "PRIVATE_KEY": key, "CA": certificate, "OTHER_CERTIFICATE": otherCertificate,
		"SESSION_KEY": strings.Repeat("5e", 32),
	}
	return func(name string) (string, bool) {
		v, ok := values[name]
		return v, ok
	}
}

// keyPair makes a certificate and its key, PEM, the same for the same seed.
func keyPair(t testing.TB, seed byte) (certificate, key string) {
	t.Helper()
	private := ed25519.NewKeyFromSeed([]byte(strings.Repeat(string(rune('a'+seed)), ed25519.SeedSize)))
	template := &x509.Certificate{
		SerialNumber: big.NewInt(int64(seed)), Subject: pkix.Name{CommonName: "weir test"}, DNSNames: []string{"gateway.example"},
		NotBefore: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC),
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(nil, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	encode := func(kind string, b []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}))
	}
	return encode("CERTIFICATE", der), encode("PRIVATE KEY", pkcs8)
}

// jwks is a key set document, the same every time.
func jwks() string {
	public := ed25519.NewKeyFromSeed([]byte(strings.Repeat("j", ed25519.SeedSize))).Public().(ed25519.PublicKey)
	return fmt.Sprintf(`{"keys":[{"kty":"OKP","crv":"Ed25519","alg":"EdDSA","kid":"k1","x":%q}]}`, base64.RawURLEncoding.EncodeToString(public))
}

// systemCAs is where the documents of these tests find the system's authorities.
const systemCAs = "/etc/ssl/certs/ca-certificates.crt"

// options are those of `weir validate`.
func options(t testing.TB) Options {
	t.Helper()
	set, err := adapters.NewSet(adapters.Catalog()...)
	if err != nil {
		t.Fatal(err)
	}
	return Options{Dialects: set, Keys: identity.Offline{}, ExtProcCluster: "weir_extproc", SystemCAs: systemCAs,
		RelaySocket: "/run/weir/relay.sock", InnerSocket: "/run/weir/inner.sock"}
}

// load reads documents as `weir run` does, from a folder that also has jwks.json. Problems of the documents
// themselves fail the test: here they are about what compiling adds.
func load(t testing.TB, documents string) *source.Objects {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string]string{"in.yaml": documents, "jwks.txt": jwks(), "empty-jwks.txt": `{"keys":[]}`} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir) // so that no path of this machine is in the objects
	objs, problems := files.Load(".", testEnv(t))
	for _, p := range problems {
		t.Errorf("the documents of this test: %v", p)
	}
	if t.Failed() {
		t.FailNow()
	}
	return objs
}

// compileText compiles documents that must be good.
func compileText(t testing.TB, documents string) *Version {
	t.Helper()
	v, problems := Compile(load(t, documents), options(t))
	if v == nil {
		t.Fatalf("refused: %v", problems)
	}
	return v
}

func itoa(n uint32) string { return fmt.Sprint(n) }
