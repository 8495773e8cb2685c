package console

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
)

// sealer seals what browsers keep for us, so that they can neither read nor change it. Its key is the process's own.
type sealer struct{ aead cipher.AEAD }

func newSealer() *sealer {
	var key [32]byte
	_, _ = rand.Read(key[:]) // it never fails: crypto/rand ends the process first
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err) // keys of 32 bytes are good
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err) // so is AES
	}
	return &sealer{aead}
}

// seal makes a text that a cookie can hold.
func (s *sealer) seal(v any) string {
	plain, err := json.Marshal(v)
	if err != nil {
		panic(err) // it is called with structs of texts and times
	}
	return base64.RawURLEncoding.EncodeToString(s.aead.Seal(nil, nil, plain, nil))
}

// open reads what seal made.
func (s *sealer) open(text string, into any) bool {
	sealed, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return false
	}
	plain, err := s.aead.Open(nil, nil, sealed, nil)
	return err == nil && json.Unmarshal(plain, into) == nil
}

// same compares secrets.
func same(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }
