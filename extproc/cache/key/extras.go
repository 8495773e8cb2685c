package key

import (
	"bytes"
	"cmp"
	"slices"

	"github.com/weir-dev/weir/adapters/jsonx"
)

// extras finds what a chat's body says and its canon.Request does not: members that canon has no place for, and spellings of which it
// keeps less than a backend of the same dialect would read. It knows each dialect's shape (openai.go, anthropic.go); of one that it
// does not know, the whole body is extra.
//
// A member with the value null asks for nothing in either dialect and is none.
type extras struct {
	list []extra
	// whole: some object has one of its members twice. Readers differ in which of the two they take, so that all of the body counts.
	whole bool
	// live: the answer depends on the day, whatever the temperature: a search of the web.
	live bool
}

// extra is one value, and where it stands: the words are fixed, i and j are the indexes of the arrays on the way, -1 where there are none.
type extra struct {
	place string
	i, j  int
	name  string
	value jsonx.Value
}

// at is where an object stands.
type at struct {
	place string
	i, j  int
}

func (x *extras) add(where at, name string, v jsonx.Value) {
	x.list = append(x.list, extra{where.place, where.i, where.j, name, v})
}

// object goes through the members of an object: those that are carried are canon's, those that are ignored count for nothing, and
// the others are extra.
func (x *extras) object(where at, v jsonx.Value, carried, ignored []string) {
	var seen uint64
	for name, m := range v.Members() {
		if n := index(carried, name); n >= 0 {
			x.whole = x.whole || seen&(1<<n) != 0
			seen |= 1 << n
			continue
		}
		if !m.Missing() && !(index(ignored, name) >= 0 && harmless(name, m)) {
			x.add(where, string(name), m)
		}
	}
}

// harmless tells that a member that is ignored has a shape that no provider refuses. One that may be refused must not share a key with
// one that is not: refusals are kept too.
func harmless(name []byte, v jsonx.Value) bool {
	switch string(name) {
	case "stream":
		return v.Kind() == jsonx.Bool
	case "stream_options":
		for _, m := range v.Members() {
			if m.Kind() != jsonx.Bool {
				return false
			}
		}
		return v.Kind() == jsonx.Object
	case "user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention":
		return v.Kind() == jsonx.String && len(v) <= len(`""`)+maxWord
	case "metadata":
		n := 0
		for name, m := range v.Members() {
			if n++; n > maxMetadata || len(name) > maxWord || !m.Missing() && m.Kind() != jsonx.String || len(m) > maxMetadataValue {
				return false
			}
		}
		return v.Kind() == jsonx.Object
	}
	return v.Kind() == jsonx.Object // prompt-cache boundaries
}

// What providers take of the fields that do not count: the least of OpenAI's and Anthropic's limits, in bytes.
const (
	maxWord          = 64
	maxMetadata      = 16
	maxMetadataValue = 256
)

// notCounted are members of a body, in any dialect, that change no answer.
var notCounted = []string{
	"stream", "stream_options", "user", "safety_identifier", "metadata", "prompt_cache_key", "prompt_cache_retention",
	"prompt_cache_options", "cache_control",
}

// empty notes an array that has nothing in it: canon takes it for none, a provider may refuse it.
func (x *extras) empty(where at, name string, v jsonx.Value) {
	if v.Kind() == jsonx.Array && len(bytes.TrimSpace(v[1:len(v)-1])) == 0 {
		x.add(where, name, v)
	}
}

// hash adds the extras to s, in an order that does not depend on theirs. A body without any adds nothing.
func (x *extras) hash(s *sum, dialect string, stream bool, body jsonx.Value) {
	if x.whole {
		x.list = append(x.list, extra{place: "body", value: body})
	}
	if len(x.list) == 0 {
		return
	}
	slices.SortStableFunc(x.list, func(a, b extra) int {
		return cmp.Or(cmp.Compare(a.place, b.place), cmp.Compare(a.i, b.i), cmp.Compare(a.j, b.j), cmp.Compare(a.name, b.name))
	})
	s.tag('X')
	s.text(dialect)
	s.bool(stream)
	for _, e := range x.list {
		s.tag('x')
		s.text(e.place)
		s.uint(uint64(int64(e.i)))
		s.uint(uint64(int64(e.j)))
		s.text(e.name)
		s.value(e.value)
	}
}

func index(list []string, name []byte) int {
	for i := range list {
		if list[i] == string(name) {
			return i
		}
	}
	return -1
}
