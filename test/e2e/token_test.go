package e2e

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// signer makes tokens of one issuer with one key.
type signer struct {
	issuer, kid string
	method      jwt.SigningMethod
	key         any
}

// newSigner makes a key for the algorithm.
func newSigner(t *testing.T, issuer, alg string) signer {
	t.Helper()
	s := signer{issuer: issuer, kid: "key-" + alg, method: jwt.GetSigningMethod(alg)}
	var err error
	switch alg {
	case "RS256":
		s.key, err = rsa.GenerateKey(rand.Reader, 2048)
	case "ES256":
		s.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "EdDSA":
		_, s.key, err = ed25519.GenerateKey(rand.Reader)
	case "HS256":
		secret := make([]byte, 32)
		_, err = rand.Read(secret)
		s.key = []byte(base64.RawURLEncoding.EncodeToString(secret))
	default:
		t.Fatalf("no key for %s", alg)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// claims change the claims of a good token; nil removes one.
type claims map[string]any

// token signs a token that is good but for what change says.
func (s signer) token(t *testing.T, change claims) string {
	t.Helper()
	c := jwt.MapClaims{"iss": s.issuer, "aud": "weir", "sub": "alice", "exp": time.Now().Add(time.Hour).Unix()}
	for k, v := range change {
		if v == nil {
			delete(c, k)
			continue
		}
		c[k] = v
	}
	token := jwt.NewWithClaims(s.method, c)
	token.Header["kid"] = s.kid
	text, err := token.SignedString(s.key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// jwks is the set of the signers' public keys (RFC 7517).
func jwks(t *testing.T, signers ...signer) string {
	t.Helper()
	b64 := base64.RawURLEncoding.EncodeToString
	var keys []map[string]string
	for _, s := range signers {
		k := map[string]string{"kid": s.kid, "use": "sig", "alg": s.method.Alg()}
		switch pub := s.key.(crypto.Signer).Public().(type) {
		case *rsa.PublicKey:
			k["kty"], k["n"], k["e"] = "RSA", b64(pub.N.Bytes()), b64(big.NewInt(int64(pub.E)).Bytes())
		case *ecdsa.PublicKey:
			point, err := pub.Bytes() // 4, x, y
			if err != nil {
				t.Fatal(err)
			}
			k["kty"], k["crv"], k["x"], k["y"] = "EC", "P-256", b64(point[1:33]), b64(point[33:])
		case ed25519.PublicKey:
			k["kty"], k["crv"], k["x"] = "OKP", "Ed25519", b64(pub)
		}
		keys = append(keys, k)
	}
	doc, err := json.Marshal(map[string]any{"keys": keys})
	if err != nil {
		t.Fatal(err)
	}
	return string(doc)
}
