package session

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// Key encrypts sessions.
type Key struct {
	id   [keyIDLen]byte
	aead cipher.AEAD
}

const (
	keyLen   = 32 // AES-256
	keyIDLen = 8
	nonceLen = 12
)

// NewKey reads a key: 32 bytes, in base64 (standard or URL, padded or not) or hex. The error does not show what was given.
func NewKey(text string) (*Key, error) {
	raw, err := readKey(text)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(raw)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	k := &Key{aead: aead}
	sum := sha256.Sum256(append([]byte("weir session key\x00"), raw...))
	copy(k.id[:], sum[:])
	return k, nil
}

func readKey(text string) ([]byte, error) {
	if len(text) == 2*keyLen {
		if raw, err := hex.DecodeString(text); err == nil {
			return raw, nil
		}
	}
	for _, e := range [...]*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding, base64.URLEncoding, base64.RawURLEncoding} {
		if raw, err := e.DecodeString(text); err == nil && len(raw) == keyLen {
			return raw, nil
		}
	}
	return nil, errors.New("the key is not 32 bytes in base64 or hex: make one with `openssl rand -base64 32`")
}

// Same says whether two keys are one.
func (k *Key) Same(o *Key) bool { return k.id == o.id }

// String names the key without telling it.
func (k *Key) String() string { return hex.EncodeToString(k.id[:]) }

// The first byte of an encoded session is the form, the second says what was done to it.
const (
	// formJSON is the form of former versions: all of a session in one JSON, compressed or not. It is read, and written by none.
	formJSON = 1
	// formBlocks is a head, and segments of turns (encode.go).
	formBlocks = 2

	compressed = 1 << 0 // of formJSON; the blocks of the other say it themselves
	sealed     = 1 << 1
)

const (
	// worthIt is from how many bytes on it is worth the time to compress them.
	worthIt = 256
	// maxDecoded bounds what is read: keep.bytes is at most 64 MiB, and JSON may escape.
	maxDecoded = 256 << 20
)

// errUnreadable is a value that cannot be read. One that is errReplaceable too will never be: it is damaged, or of another place. The key or the
// version of Weir that another one needs may come back, so that it is not overwritten.
var (
	errUnreadable  = errors.New("what is kept of the session cannot be read")
	errReplaceable = errors.New("it will be replaced")
)

// errUnzip is a part of a value that does not decompress.
var errUnzip = errors.New("it does not decompress")

func unreadable(why error) error {
	if errors.Is(why, errUnreadable) {
		return why // it says itself whether it may be replaced
	}
	return fmt.Errorf("%w: %w; %w", errUnreadable, why, errReplaceable)
}

// codec makes bytes of sessions. It is safe for concurrent use.
type codec struct {
	zip   *zstd.Encoder
	unzip *zstd.Decoder
	// rooms are *room: each write needs one for a moment.
	rooms sync.Pool
}

// room is memory that a session is written in: its turns, its head, and all of it.
type room struct{ turns, head, all []byte }

// keptRoom bounds what is kept of it, in bytes.
const keptRoom = 1 << 20

func newCodec() (*codec, error) {
	// One conversation at a time is small: what is kept for each encoder and decoder counts for more than speed.
	zip, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(2), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, err
	}
	unzip, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(2), zstd.WithDecoderMaxMemory(maxDecoded), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, err
	}
	return &codec{zip: zip, unzip: unzip, rooms: sync.Pool{New: func() any { return &room{} }}}, nil
}

// bound is what authenticates beside the value: where it is kept, and its head.
func bound(at Ref, head []byte) []byte {
	out := append([]byte("weir session\x00"+at.Tenant+"\x00"+at.Consumer+"\x00"+at.ID+"\x00"), head...)
	return out
}

// encode makes bytes of a session; k is nil where it is not encrypted.
func (c *codec) encode(s *Session, at Ref, k *Key) ([]byte, error) {
	in := c.rooms.Get().(*room)
	defer func() {
		if cap(in.turns)+cap(in.head)+cap(in.all) <= keptRoom {
			c.rooms.Put(in)
		}
	}()
	text, err := c.write(s, in)
	if err != nil {
		return nil, fmt.Errorf("a session cannot be written: %w", err)
	}
	if k == nil {
		return slices.Concat([]byte{formBlocks, 0}, text), nil
	}
	head := append([]byte{formBlocks, sealed}, k.id[:]...)
	out := make([]byte, len(head)+nonceLen, len(head)+nonceLen+len(text)+k.aead.Overhead())
	copy(out, head)
	nonce := out[len(head):]
	if _, err := rand.Read(nonce); err != nil {
		return nil, err
	}
	return k.aead.Seal(out, nonce, text, bound(at, head)), nil
}

// decode reads what encode made, now or in a former version. find gives the key of an ID, or nil. Where a key is needed, a value that is not
// encrypted is not read: who can write to the store could else put words into a conversation. The session shares its memory with the blob.
func (c *codec) decode(blob []byte, at Ref, find func(id [keyIDLen]byte) *Key, need bool) (*Session, error) {
	known := byte(sealed)
	if len(blob) > 0 && blob[0] == formJSON {
		known |= compressed
	}
	if len(blob) < 2 || blob[0] != formJSON && blob[0] != formBlocks || blob[1]&^known != 0 {
		return nil, fmt.Errorf("%w: it is in no form that this version of Weir knows", errUnreadable)
	}
	flags, text := blob[1], blob[2:]
	switch {
	case flags&sealed != 0:
		if len(text) < keyIDLen+nonceLen {
			return nil, unreadable(errors.New("it is too short"))
		}
		k := find([keyIDLen]byte(text[:keyIDLen]))
		if k == nil {
			return nil, fmt.Errorf("%w: it was encrypted with a key that no policy has", errUnreadable)
		}
		var err error
		head, nonce := blob[:2+keyIDLen], text[keyIDLen:keyIDLen+nonceLen]
		if text, err = k.aead.Open(nil, nonce, text[keyIDLen+nonceLen:], bound(at, head)); err != nil {
			return nil, unreadable(errors.New("it was not encrypted for this place, or it was changed"))
		}
	case need:
		return nil, unreadable(errors.New("it is not encrypted, and the policy has encryptionKeys"))
	}
	read := c.read
	if blob[0] == formJSON {
		read = func(text []byte) (*Session, error) { return c.readJSON(text, flags&compressed != 0) }
	}
	s, err := read(text)
	if err != nil {
		return nil, unreadable(err)
	}
	if (Address{s.Tenant, s.Consumer, s.ID}).Ref() != at {
		return nil, unreadable(errors.New("it belongs to another place"))
	}
	return s, nil
}

// readJSON reads a session in the form of former versions.
func (c *codec) readJSON(text []byte, zipped bool) (*Session, error) {
	if zipped {
		var err error
		if text, err = c.unzip.DecodeAll(text, nil); err != nil {
			return nil, errUnzip
		}
	}
	var s Session
	if json.Unmarshal(text, &s) != nil {
		return nil, errWire // the error of JSON would quote it
	}
	return &s, nil
}
