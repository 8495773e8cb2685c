package session

import (
	"encoding/json"
	"maps"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
)

// The blocks of a session, which follow each other: its head, its segments, and what the Responses API keeps.
const (
	blockHead protowire.Number = iota + 1
	blockSegment
	blockResponses
	blockHeadSize // before blockHead, where that is compressed
)

// The fields of a head.
const (
	headTenant protowire.Number = iota + 1
	headConsumer
	headID
	headPolicy
	headRevision
	headCreated
	headUsed
	headExpires
	headForgotten
	headSummary
	headSlot
	headEntity
	headIntent
	headState
	headEntered
	headEvent
	headErasure
	headErased
	headTurn
	headSegment // how many turns a segment has
	headResponses
)

// The flags of a turn.
const (
	turnContinues = 1 << iota
	turnImages
	turnCalls
)

// write makes bytes of a session: what read reads. They are in the room, until that is used again.
func (c *codec) write(s *Session, in *room) ([]byte, error) {
	list, sizes, err := c.segments(s.Turns, in)
	if err != nil {
		return nil, err
	}
	responses := s.packed
	if responses == nil && len(s.Responses) > 0 {
		responses = &segment{packed: c.pack(nil, s.Responses), size: len(s.Responses)}
	}
	head := appendHead(in.head[:0], s, sizes)
	for _, g := range list {
		head = appendUint(head, headSegment, g.turns)
	}
	if responses != nil {
		head = appendUint(head, headResponses, responses.size)
	}
	out := appendUint(in.all[:0], blockHeadSize, len(head))
	out = appendMessage(out, blockHead, func(b []byte) []byte { return c.pack(b, head) })
	block := func(field protowire.Number, packed []byte) {
		out = protowire.AppendBytes(protowire.AppendTag(out, field, protowire.BytesType), packed)
	}
	for _, g := range list {
		block(blockSegment, g.packed)
	}
	if responses != nil {
		block(blockResponses, responses.packed)
	}
	in.head, in.all = head, out
	return out, nil
}

func appendHead(b []byte, s *Session, sizes []int) []byte {
	b = appendString(b, headTenant, s.Tenant)
	b = appendString(b, headConsumer, s.Consumer)
	b = appendString(b, headID, s.ID)
	b = appendString(b, headPolicy, s.Policy)
	b = appendUint(b, headRevision, s.Revision)
	b = appendTime(b, headCreated, s.Created)
	b = appendTime(b, headUsed, s.Used)
	b = appendTime(b, headExpires, s.Expires)
	b = appendUint(b, headForgotten, s.Forgotten)
	if s.Summary != nil {
		b = appendMessage(b, headSummary, func(b []byte) []byte {
			b = appendString(b, 1, s.Summary.Text)
			b = appendUint(b, 2, s.Summary.Turns)
			b = appendUint(b, 3, s.Summary.Tokens)
			return appendTime(b, 4, s.Summary.At)
		})
	}
	for _, name := range slices.Sorted(maps.Keys(s.Slots)) {
		slot := s.Slots[name]
		b = appendMessage(b, headSlot, func(b []byte) []byte {
			b = appendString(b, 1, name)
			b = appendString(b, 2, string(slot.Value))
			b = appendString(b, 3, slot.Source)
			return appendTime(b, 4, slot.At)
		})
	}
	for _, kind := range slices.Sorted(maps.Keys(s.Entities)) {
		b = appendMessage(b, headEntity, func(b []byte) []byte {
			b = appendString(b, 1, kind)
			for _, v := range s.Entities[kind] {
				b = appendString(b, 2, v)
			}
			return b
		})
	}
	b = appendString(b, headIntent, s.Intent)
	b = appendString(b, headState, s.State)
	b = appendTime(b, headEntered, s.Entered)
	for i := range s.Events {
		e := &s.Events[i]
		b = appendMessage(b, headEvent, func(b []byte) []byte {
			b = appendTime(b, 1, e.At)
			b = appendString(b, 2, e.Name)
			b = appendString(b, 3, e.From)
			return appendString(b, 4, e.To)
		})
	}
	b = appendString(b, headErasure, s.Erasure)
	b = appendBool(b, headErased, s.Erased)
	for i := range s.Turns {
		t := &s.Turns[i]
		flags := 0
		if t.Continues {
			flags |= turnContinues
		}
		if t.hasImages() {
			flags |= turnImages
		}
		if t.hasCalls() {
			flags |= turnCalls
		}
		b = appendMessage(b, headTurn, func(b []byte) []byte {
			b = appendString(b, 1, t.ID)
			b = appendTime(b, 2, t.At)
			b = appendUint(b, 3, flags)
			b = appendUint(b, 4, t.Tokens)
			b = appendString(b, 5, t.Model)
			b = appendUint(b, 6, t.bytes())
			return appendUint(b, 7, sizes[i])
		})
	}
	return b
}

// read reads what write made. Turns and what the Responses API keeps are read when they are opened; the session shares its memory with
// the bytes, which do not change.
func (c *codec) read(blob []byte) (*Session, error) {
	s := &Session{}
	var list []*segment
	var responses *segment
	size, headed := 0, false
	for at := 0; at < len(blob); {
		field, wire, n := protowire.ConsumeTag(blob[at:])
		if n < 0 {
			return nil, errWire
		}
		at += n
		if wire != protowire.BytesType {
			v, n := protowire.ConsumeVarint(blob[at:])
			if n < 0 || wire != protowire.VarintType {
				return nil, errWire
			}
			at += n
			if field == blockHeadSize {
				size = value{n: v}.int()
			}
			continue
		}
		block, n := protowire.ConsumeBytes(blob[at:])
		if n < 0 {
			return nil, errWire
		}
		at += n
		switch field {
		case blockHead:
			head, err := c.unpack(block, size)
			if err != nil {
				return nil, err
			}
			if err := s.readHead(string(head), &list, &responses); err != nil {
				return nil, err
			}
			for _, g := range list {
				g.codec = c
			}
			if responses != nil {
				responses.codec = c
			}
			headed = true
		case blockSegment:
			if len(list) == 0 {
				return nil, errWire
			}
			list[0].packed, list = block, list[1:]
		case blockResponses:
			if responses == nil {
				return nil, errWire
			}
			responses.packed = block
		}
	}
	if !headed || len(list) > 0 || responses != nil && responses.packed == nil {
		return nil, errWire
	}
	s.packed = responses
	return s, nil
}

func (s *Session) readHead(head string, list *[]*segment, responses **segment) error {
	var counts []int
	turns := 0
	count := func(field protowire.Number, _ value) error {
		if field == headTurn {
			turns++
		}
		return nil
	}
	if err := eachField(head, count); err != nil {
		return err
	}
	if turns > 0 {
		s.Turns = make([]Said, 0, turns)
	}
	err := eachField(head, func(field protowire.Number, v value) error {
		switch field {
		case headTenant:
			s.Tenant = v.text
		case headConsumer:
			s.Consumer = v.text
		case headID:
			s.ID = v.text
		case headPolicy:
			s.Policy = v.text
		case headRevision:
			s.Revision = v.n
		case headCreated:
			s.Created = v.time()
		case headUsed:
			s.Used = v.time()
		case headExpires:
			s.Expires = v.time()
		case headForgotten:
			s.Forgotten = v.int()
		case headSummary:
			return s.readSummary(v.text)
		case headSlot:
			return s.readSlot(v.text)
		case headEntity:
			return s.readEntity(v.text)
		case headIntent:
			s.Intent = v.text
		case headState:
			s.State = v.text
		case headEntered:
			s.Entered = v.time()
		case headEvent:
			return s.readEvent(v.text)
		case headErasure:
			s.Erasure = v.text
		case headErased:
			s.Erased = v.bool()
		case headTurn:
			return s.readTurn(v.text)
		case headSegment:
			counts = append(counts, v.int())
		case headResponses:
			*responses = &segment{size: v.int()}
		}
		return nil
	})
	if err != nil {
		return err
	}
	// Each turn is in one segment, in their order.
	next := 0
	for _, n := range counts {
		if n == 0 || n > len(s.Turns)-next {
			return errWire
		}
		g := &segment{turns: n}
		for i := next; i < next+n; i++ {
			t := &s.Turns[i]
			t.in, t.from, t.to = g, g.size, g.size+t.to // readTurn has left the size there
			if g.size = t.to; g.size > maxDecoded {
				return errWire
			}
		}
		*list, next = append(*list, g), next+n
	}
	if next != len(s.Turns) {
		return errWire
	}
	return nil
}

func (s *Session) readSummary(text string) error {
	s.Summary = &Summary{}
	return eachField(text, func(field protowire.Number, v value) error {
		switch field {
		case 1:
			s.Summary.Text = v.text
		case 2:
			s.Summary.Turns = v.int()
		case 3:
			s.Summary.Tokens = v.int64()
		case 4:
			s.Summary.At = v.time()
		}
		return nil
	})
}

func (s *Session) readSlot(text string) error {
	name, slot := "", Slot{}
	err := eachField(text, func(field protowire.Number, v value) error {
		switch field {
		case 1:
			name = v.text
		case 2:
			slot.Value = json.RawMessage(v.text)
		case 3:
			slot.Source = v.text
		case 4:
			slot.At = v.time()
		}
		return nil
	})
	if err == nil && !json.Valid(slot.Value) {
		err = errWire
	}
	if s.Slots == nil {
		s.Slots = map[string]Slot{}
	}
	s.Slots[name] = slot
	return err
}

func (s *Session) readEntity(text string) error {
	kind, values := "", []string(nil)
	err := eachField(text, func(field protowire.Number, v value) error {
		switch field {
		case 1:
			kind = v.text
		case 2:
			values = append(values, v.text)
		}
		return nil
	})
	if s.Entities == nil {
		s.Entities = map[string][]string{}
	}
	s.Entities[kind] = values
	return err
}

func (s *Session) readEvent(text string) error {
	var e Event
	err := eachField(text, func(field protowire.Number, v value) error {
		switch field {
		case 1:
			e.At = v.time()
		case 2:
			e.Name = v.text
		case 3:
			e.From = v.text
		case 4:
			e.To = v.text
		}
		return nil
	})
	s.Events = append(s.Events, e)
	return err
}

// readTurn reads what is known of a turn before it is opened. Said.to is the bytes that it has.
func (s *Session) readTurn(text string) error {
	var t Said
	err := eachField(text, func(field protowire.Number, v value) error {
		switch field {
		case 1:
			t.ID = v.text
		case 2:
			t.At = v.time()
		case 3:
			t.Continues, t.images, t.calls = v.n&turnContinues != 0, v.n&turnImages != 0, v.n&turnCalls != 0
		case 4:
			t.Tokens = v.int64()
		case 5:
			t.Model = v.text
		case 6:
			t.size = v.int64()
		case 7:
			t.to = v.int()
		}
		return nil
	})
	s.Turns = append(s.Turns, t)
	return err
}
