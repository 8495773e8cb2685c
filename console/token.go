package console

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"
)

// minToken is the shortest token that guessing is hopeless for, in bytes.
const minToken = 16

// maxTokenFile bounds what is read, in bytes.
const maxTokenFile = 4096

// Token is the secret that logs operators in. A file is read again when it has changed, so that the token can be replaced while the
// gateway runs; sessions that began with the one before end. It is safe for concurrent use.
type Token struct {
	path string

	mu       sync.Mutex
	hash     [sha256.Size]byte
	modified time.Time
	size     int64
}

// NewToken takes a token as it is.
func NewToken(text string) (*Token, error) {
	t := &Token{}
	var err error
	if t.hash, err = hashToken(text); err != nil {
		return nil, err
	}
	return t, nil
}

// NewTokenFile reads a token from a file, which holds nothing else.
func NewTokenFile(path string) (*Token, error) {
	t := &Token{path: path}
	if _, err := t.current(); err != nil {
		return nil, err
	}
	return t, nil
}

func hashToken(text string) (hash [sha256.Size]byte, err error) {
	text = strings.TrimSpace(text)
	switch {
	case len(text) < minToken:
		return hash, fmt.Errorf("the admin token has %d characters: give it %d or more, for example by: openssl rand -base64 32", len(text), minToken)
	case strings.ContainsAny(text, " \t\r\n"):
		return hash, errors.New("the admin token has white space within it: give one word")
	}
	return sha256.Sum256([]byte(text)), nil
}

// current is the hash of the token as it is now.
func (t *Token) current() ([sha256.Size]byte, error) {
	if t.path == "" {
		return t.hash, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	info, err := os.Stat(t.path)
	if err != nil {
		return t.hash, fmt.Errorf("the file with the admin token: %w", err)
	}
	if t.hash != [sha256.Size]byte{} && info.ModTime().Equal(t.modified) && info.Size() == t.size {
		return t.hash, nil
	}
	if info.Size() > maxTokenFile {
		return t.hash, fmt.Errorf("%s is too large to be an admin token: %d bytes", t.path, info.Size())
	}
	text, err := os.ReadFile(t.path)
	if err != nil {
		return t.hash, fmt.Errorf("the file with the admin token: %w", err)
	}
	hash, err := hashToken(string(text))
	if err != nil {
		return t.hash, fmt.Errorf("%s: %w", t.path, err)
	}
	t.hash, t.modified, t.size = hash, info.ModTime(), info.Size()
	return t.hash, nil
}

// Is says whether text is the token. It takes as long for every text of a length. The error is that the token cannot be read; it never
// holds it.
func (t *Token) Is(text string) (bool, error) {
	want, err := t.current()
	if err != nil {
		return false, err
	}
	got := sha256.Sum256([]byte(strings.TrimSpace(text)))
	return subtle.ConstantTimeCompare(got[:], want[:]) == 1, nil
}
