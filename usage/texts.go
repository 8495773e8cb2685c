package usage

import (
	"hash/maphash"
	"unicode/utf8"
)

const (
	// maxShared is the longest text that is kept to be shared, in bytes.
	maxShared = 128
	// sharedSets of two texts each: several times as many as the names, models and callers that one worker of Envoy is busy with.
	sharedSets = 256
)

// texts makes strings of encoded texts. One that comes again and again, such as a name of the configuration, is the same string each time
// and costs nothing. It keeps a bounded number, whatever callers send, and is not safe for concurrent use.
type texts struct {
	seed maphash.Seed
	sets [sharedSets][2]string // by a hash; the one used last comes first
}

func newTexts() *texts { return &texts{seed: maphash.MakeSeed()} }

// of is the string of a text.
func (t *texts) of(b []byte) string {
	switch {
	case len(b) == 0:
		return ""
	case len(b) > maxShared:
		return sound(b)
	}
	set := &t.sets[maphash.Bytes(t.seed, b)%sharedSets]
	if set[0] == string(b) {
		return set[0]
	}
	s := set[1]
	if s != string(b) {
		s = sound(b)
	}
	set[0], set[1] = s, set[0]
	return s
}

// find is the string of a text that is kept, and that this is sound with.
func (t *texts) find(b []byte) (s string, ok bool) {
	if len(b) == 0 || len(b) > maxShared {
		return "", false
	}
	for _, s := range &t.sets[maphash.Bytes(t.seed, b)%sharedSets] {
		if s == string(b) {
			return s, true
		}
	}
	return "", false
}

// sound copies a text, with a "?" for each byte that is not UTF-8: as Codec has it.
func sound(b []byte) string {
	if utf8.Valid(b) {
		return string(b)
	}
	b = append([]byte(nil), b...)
	mendString(b)
	return string(b)
}

const (
	// maxOwn is the longest text that shares its memory with others of its record, in bytes. Who keeps one of them keeps all: a
	// caller who sends a very long one must not make others' memory of it.
	maxOwn = 256
	// owned is how many texts of a record may be its own.
	owned = 8
)

// ownTexts are the texts of one record that no other has. They are copied at once.
type ownTexts struct {
	bytes  []byte
	places [owned]struct {
		to    *string
		begin int
	}
	n int
}

// add has *to be the text from take on. At most owned may be added.
func (o *ownTexts) add(to *string, b []byte) {
	if len(b) > maxOwn {
		*to = sound(b)
		return
	}
	begin := len(o.bytes)
	o.bytes = append(o.bytes, b...)
	o.close(to, begin)
}

// close ends a text that was appended to bytes from begin on.
func (o *ownTexts) close(to *string, begin int) {
	if b := o.bytes[begin:]; !utf8.Valid(b) {
		mendString(b)
	}
	o.places[o.n].to, o.places[o.n].begin = to, begin
	o.n++
}

// take makes strings of what was added, and forgets it.
func (o *ownTexts) take() {
	all := string(o.bytes)
	for i := o.n - 1; i >= 0; i-- {
		p := &o.places[i]
		*p.to, all = all[p.begin:], all[:p.begin]
		p.to = nil
	}
	o.bytes, o.n = o.bytes[:0], 0
}
