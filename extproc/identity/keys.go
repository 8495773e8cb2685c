package identity

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
)

const (
	// minKeyLength keeps guessing hopeless although the hash is fast: 16 random characters of
	// base64 are 96 bits.
	minKeyLength = 16
	// minPepperBytes is the output of the hash, as RFC 2104 section 3 advises.
	minPepperBytes = 32
)

// HashKind is how a key is turned into what is stored of it.
type HashKind uint8

// The kinds of hash.
const (
	HashSHA256 HashKind = iota // SHA-256 of the key
	HashHMAC                   // HMAC-SHA-256 of the key with the gateway's pepper
	hashKinds
)

// prefix stands before the hexadecimal digits.
func (k HashKind) prefix() string {
	if k == HashHMAC {
		return "hmac-sha256:"
	}
	return "sha256:"
}

// digest is what a key is looked up by.
type digest struct {
	kind HashKind
	sum  [sha256.Size]byte
}

// HashKey gives the form in which a key is stored without a pepper: "sha256:" and 64 hexadecimal digits.
func HashKey(key string) string {
	sum := sha256.Sum256([]byte(key))
	return FormatHash(HashSHA256, sum)
}

// FormatHash writes a hash as ParseHash reads it.
func FormatHash(kind HashKind, sum [sha256.Size]byte) string {
	return kind.prefix() + hex.EncodeToString(sum[:])
}

// ParseHash reads what HashKey or Pepper.HashKey wrote.
func ParseHash(s string) (HashKind, [sha256.Size]byte, error) {
	for kind := range hashKinds {
		digits, ok := strings.CutPrefix(s, kind.prefix())
		if !ok || len(digits) != hex.EncodedLen(sha256.Size) || strings.ToLower(digits) != digits {
			continue
		}
		var out [sha256.Size]byte
		if _, err := hex.Decode(out[:], []byte(digits)); err == nil {
			return kind, out, nil
		}
	}
	return 0, [sha256.Size]byte{}, errors.New(
		`a key hash is "sha256:" or "hmac-sha256:" and 64 lower-case hexadecimal digits; make one with "weir keys hash"`)
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

// Pepper makes hashes of the kind HashHMAC: who has the hashes and not the pepper cannot even test a guess.
// It is immutable and prints nothing of itself.
type Pepper struct {
	inner, outer [sha256.BlockSize]byte // what RFC 2104 makes of the secret
}

// NewPepper takes a secret of at least 32 bytes.
func NewPepper(secret []byte) (*Pepper, error) {
	if len(secret) < minPepperBytes {
		return nil, fmt.Errorf("the pepper has %d bytes and needs at least %d; make one with: openssl rand -base64 32", len(secret), minPepperBytes)
	}
	if len(secret) > sha256.BlockSize {
		sum := sha256.Sum256(secret)
		secret = sum[:]
	}
	p := &Pepper{}
	copy(p.inner[:], secret)
	copy(p.outer[:], secret)
	for i := range p.inner {
		p.inner[i] ^= 0x36
		p.outer[i] ^= 0x5c
	}
	return p, nil
}

// HashKey gives the form in which a key is stored with a pepper: "hmac-sha256:" and 64 hexadecimal digits.
func (p *Pepper) HashKey(key string) string { return FormatHash(HashHMAC, p.sum(key)) }

// String hides the pepper.
func (p *Pepper) String() string { return "[pepper]" }

// GoString hides the pepper.
func (p *Pepper) GoString() string { return "[pepper]" }

// sum is HMAC-SHA-256, written out because crypto/hmac allocates and its parts are too large to make for each request.
func (p *Pepper) sum(key string) [sha256.Size]byte {
	var buf [2 << 10]byte // of the stack
	in := sha256.Sum256(append(append(buf[:0], p.inner[:]...), key...))
	return sha256.Sum256(append(append(buf[:0], p.outer[:]...), in[:]...))
}

const (
	keyBrand      = "weir_" // lets secret scanners tell whose key has leaked
	keyNameChars  = 8
	keyBodyChars  = 43 // 43 characters of 62 are 256 bits
	keyAlphabet   = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	keyRejectFrom = 256 - 256%len(keyAlphabet) // larger bytes would favour the first characters
)

// GenerateKey makes a new key, weir_XXXXXXXX_ and 43 characters, and the prefix weir_XXXXXXXX that people may know it
// by. random is crypto/rand.Reader, but for tests.
func GenerateKey(random io.Reader) (key, prefix string, err error) {
	text := make([]byte, 0, keyNameChars+keyBodyChars)
	buf := make([]byte, 64)
	for len(text) < cap(text) {
		if _, err := io.ReadFull(random, buf); err != nil {
			return "", "", fmt.Errorf("the system gives no random numbers: %w", err)
		}
		for _, b := range buf {
			if int(b) < keyRejectFrom && len(text) < cap(text) {
				text = append(text, keyAlphabet[int(b)%len(keyAlphabet)])
			}
		}
	}
	prefix = keyBrand + string(text[:keyNameChars])
	return prefix + "_" + string(text[keyNameChars:]), prefix, nil
}
