package identity

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

const (
	hashPrefix = "sha256:"
	// minKeyLength keeps guessing hopeless although the hash is fast: 16 random characters of
	// base64 are 96 bits.
	minKeyLength = 16
)

// HashKey gives the form in which a key is stored: "sha256:" and 64 hexadecimal digits.
func HashKey(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hashPrefix + hex.EncodeToString(sum[:])
}

// ParseHash reads what HashKey wrote.
func ParseHash(s string) ([sha256.Size]byte, error) {
	var out [sha256.Size]byte
	digits, ok := strings.CutPrefix(s, hashPrefix)
	if !ok || len(digits) != hex.EncodedLen(len(out)) || strings.ToLower(digits) != digits {
		return out, fmt.Errorf(`a key hash is "sha256:" and 64 lower-case hexadecimal digits; make one with "weir keys hash"`)
	}
	if _, err := hex.Decode(out[:], []byte(digits)); err != nil {
		return [sha256.Size]byte{}, fmt.Errorf(`a key hash is "sha256:" and 64 lower-case hexadecimal digits; make one with "weir keys hash"`)
	}
	return out, nil
}

// ValidateKey says whether a new key is fit for use. It guards the making of keys; a lookup takes any key
// whose hash is stored.
func ValidateKey(key string) error {
	if len(key) < minKeyLength {
		return fmt.Errorf("the key has %d characters and needs at least %d: use a long random string", len(key), minKeyLength)
	}
	if len(key) > maxCredentialBytes {
		return fmt.Errorf("the key has %d characters and may have at most %d", len(key), maxCredentialBytes)
	}
	if !graphicASCII(key) {
		return fmt.Errorf("the key holds white space, control or non-ASCII characters: use printable ASCII without spaces, which every HTTP client can send")
	}
	return nil
}
