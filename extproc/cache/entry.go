package cache

import (
	"encoding/hex"
	"errors"
	"time"

	"github.com/weir-dev/weir/adapters/canon"
)

// Key names an answer: a hash of all that the answer depends on, and of whom it may be given to. Package key makes it.
type Key [32]byte

// String is the key in 64 hexadecimal digits, as the admin API shows it.
func (k Key) String() string { return hex.EncodeToString(k[:]) }

// ParseKey reads what String writes.
func ParseKey(s string) (k Key, err error) {
	if n, err := hex.Decode(k[:], []byte(s[:min(len(s), 2*len(k))])); err != nil || n != len(k) || len(s) != 2*len(k) {
		return Key{}, errors.New("the key of a cached answer is 64 hexadecimal digits")
	}
	return k, nil
}

// Head is what is known of an answer when its first byte comes, and how its bytes are to be read.
type Head struct {
	Status    int             // HTTP
	Header    [][2]string     // only those that belong to the answer, names in lower case: content-type, retry-after
	Dialect   string          // the wire format of the bytes
	Operation canon.Operation // what was asked
	Stream    bool            // the bytes are server-sent events, not one JSON text
}

// Get is the first header of that name, which is in lower case; "" where there is none.
func (h *Head) Get(name string) string {
	for i := range h.Header {
		if h.Header[i][0] == name {
			return h.Header[i][1]
		}
	}
	return ""
}

// Purchase is how an answer was bought: by it one can tell what it would cost to buy it again, which is what each hit saves.
type Purchase struct {
	Model         string // as the caller who bought the answer named it
	Backend       string // that answered, "namespace/name"; "" where nothing was paid, as for a refusal
	UpstreamModel string // what that backend calls the model; "" where nobody knows
	Tokens        canon.Usage
}

// Entry is what is kept of one answer. It never changes once it is made, and may be read by many at once.
type Entry struct {
	Head
	Purchase
	Body   []byte // whole: one JSON text, or the events of a stream from first to last
	Stored time.Time
	Tags   []string
	Tenant string // whose it is, for purges; the key says who may read it
}
