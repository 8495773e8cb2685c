package session

import (
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// Turns are kept in segments: some of them after another, compressed together. One that is full is not touched any more as long as all of its turns are
// kept: a request reads the last turns and writes its own, and what lies between them is copied as it is, however long the conversation is.

// segment is a piece of a conversation.
type segment struct {
	codec  *codec
	packed []byte // as it is stored: a byte that says how, and the rest
	size   int    // bytes that the turns have
	turns  int
	raw    []byte // the turns; nil until they are asked for
}

// full is from how many bytes on a segment takes no more turns. Larger ones are compressed better, smaller ones cost less to write: each request
// writes the last one anew.
const full = 8 << 10

// How a block is stored: its first byte.
const (
	plain  = 0
	zipped = 1
)

// open gives the bytes of the turns.
func (g *segment) open() ([]byte, error) {
	if g.raw == nil && g.size > 0 {
		raw, err := g.codec.unpack(g.packed, g.size)
		if err != nil {
			return nil, err
		}
		g.raw = raw
	}
	return g.raw, nil
}

// pack appends bytes as a block.
func (c *codec) pack(out, raw []byte) []byte {
	if len(raw) < worthIt {
		return append(append(out, plain), raw...)
	}
	return c.zip.EncodeAll(raw, append(out, zipped))
}

// unpack reads a block that holds size bytes. They may be those of the block itself.
func (c *codec) unpack(block []byte, size int) ([]byte, error) {
	if len(block) == 0 || size > maxDecoded {
		return nil, errWire
	}
	how, raw := block[0], block[1:]
	switch how {
	case plain:
	case zipped:
		// What says that it holds more than it should is not given the memory.
		var head zstd.Header
		if err := head.Decode(raw); err != nil || head.HasFCS && head.FrameContentSize != uint64(size) {
			return nil, errUnzip
		}
		var err error
		if raw, err = c.unzip.DecodeAll(raw, make([]byte, 0, size)); err != nil {
			return nil, errUnzip
		}
	default:
		return nil, fmt.Errorf("%w: it is compressed in a way that this version of Weir does not know", errUnreadable)
	}
	if len(raw) != size {
		return nil, errWire
	}
	return raw, nil
}

// open reads what was said.
func (t *Said) open() error {
	if t.in == nil || t.opened {
		return nil
	}
	raw, err := t.in.open()
	if err != nil {
		return unreadable(err)
	}
	if t.Input, t.Output, err = readSaid(string(raw[t.from:t.to])); err != nil {
		return unreadable(err)
	}
	t.opened = true
	return nil
}

// openAll reads what was said in some turns.
func openAll(turns []Said) error {
	for i := range turns {
		if err := turns[i].open(); err != nil {
			return err
		}
	}
	return nil
}

// segments puts turns into segments, those that are full as they are. sizes are the bytes of each turn.
func (c *codec) segments(turns []Said, in *room) (list []*segment, sizes []int, err error) {
	sizes = make([]int, 0, len(turns))
	raw := in.turns[:0] // of turns that are in none
	defer func() { in.turns = raw }()
	loose := 0
	flush := func() {
		if loose > 0 {
			list = append(list, &segment{packed: c.pack(make([]byte, 0, len(raw)/2+64), raw), size: len(raw), turns: loose})
			raw, loose = raw[:0], 0
		}
	}
	for i := 0; i < len(turns); {
		t := &turns[i]
		if g := t.in; g != nil && g.size >= full && whole(g, turns[i:]) {
			flush()
			list = append(list, g)
			for range g.turns {
				sizes = append(sizes, turns[i].to-turns[i].from)
				i++
			}
			continue
		}
		before := len(raw)
		if t.in == nil {
			raw = appendSaid(raw, t)
		} else {
			have, err := t.in.open()
			if err != nil {
				return nil, nil, unreadable(err)
			}
			raw = append(raw, have[t.from:t.to]...)
		}
		sizes = append(sizes, len(raw)-before)
		i++
		if loose++; len(raw) >= full {
			flush()
		}
	}
	flush()
	return list, sizes, nil
}

// whole says whether turns begin with all of those of a segment.
func whole(g *segment, turns []Said) bool {
	if len(turns) < g.turns {
		return false
	}
	for i := range turns[:g.turns] {
		if turns[i].in != g {
			return false
		}
	}
	return true
}
