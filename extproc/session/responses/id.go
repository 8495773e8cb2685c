package responses

import (
	"encoding/hex"
	"io"
	"strings"
)

const (
	responsePrefix     = "resp_"
	conversationPrefix = "conv_"
	// Digits of a session and of a turn in an id: 128 and 64 random bits.
	sessionDigits, turnDigits = 32, 16
)

// place is where a turn is. Its text is the owner of its items.
type place struct {
	session, turn string
}

func (p place) String() string { return p.session + p.turn }

// newDigits makes random hexadecimal digits.
func newDigits(random io.Reader, n int) (string, error) {
	b := make([]byte, n/2)
	if _, err := io.ReadFull(random, b); err != nil {
		return "", err
	}
	return hex.EncodeToString(b), nil
}

// placeOf reads the digits of a turn.
func placeOf(digits string) (p place, ok bool) {
	if len(digits) != sessionDigits+turnDigits || !isHex(digits) {
		return p, false
	}
	return place{digits[:sessionDigits], digits[sessionDigits:]}, true
}

// responseOf reads the id of a response.
func responseOf(id string) (place, bool) {
	digits, ok := strings.CutPrefix(id, responsePrefix)
	p, good := placeOf(digits)
	return p, ok && good
}

// conversationOf reads the id of a conversation.
func conversationOf(id string) (session string, ok bool) {
	digits, ok := strings.CutPrefix(id, conversationPrefix)
	return digits, ok && len(digits) == sessionDigits && isHex(digits)
}

func isHex(s string) bool { return strings.Trim(s, "0123456789abcdef") == "" }
