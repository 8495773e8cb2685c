package session

import (
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/weir-dev/weir/adapters/canon"
)

// Session is one conversation.
type Session struct {
	Tenant   string `json:"tenant"`
	Consumer string `json:"consumer,omitempty"`
	ID       string `json:"id"`
	// Policy that it was last used under.
	Policy string `json:"policy"`
	// Revision counts changes, from 1.
	Revision uint64    `json:"revision"`
	Created  time.Time `json:"created"`
	// Used is when a request or the API last changed it.
	Used    time.Time `json:"used"`
	Expires time.Time `json:"expires"`

	Turns []Said `json:"turns,omitempty"`
	// Forgotten counts the turns that are not kept any more, those in the Summary included.
	Forgotten int      `json:"forgotten,omitempty"`
	Summary   *Summary `json:"summary,omitempty"`

	Slots    map[string]Slot     `json:"slots,omitempty"`
	Entities map[string][]string `json:"entities,omitempty"`
	Intent   string              `json:"intent,omitempty"`

	// State of the machine, and since when; "" where the policy has none.
	State   string    `json:"state,omitempty"`
	Entered time.Time `json:"entered,omitzero"`
	Events  []Event   `json:"events,omitempty"`

	// Responses is what the stateful Responses API keeps of it.
	Responses json.RawMessage `json:"responses,omitempty"`
	packed    *segment        // Responses, not opened yet; nil: it is

	// Erasure is the ID of the last time that what was here before was erased.
	Erasure string `json:"erasure,omitempty"`
	// Erased says that there is nothing here but that.
	Erased bool `json:"erased,omitempty"`
}

// Said is what was said in one exchange with a model. Entries of a session are replaced and not changed: copies of the session have them, too.
type Said struct {
	ID string    `json:"id"` // random
	At time.Time `json:"at"` // of the answer
	// Continues says that Input begins with the results of tool calls of the entry before: together they are one turn.
	Continues bool     `json:"continues,omitempty"`
	Input     Messages `json:"input,omitempty"`
	Output    Messages `json:"output,omitempty"`
	// Tokens of both, estimated.
	Tokens int64  `json:"tokens"`
	Model  string `json:"model,omitempty"`

	// in has the bytes from from to to of Input and Output; nil where nobody has written them yet. They are there once the entry is opened.
	in       *segment
	from, to int
	opened   bool
	// What is known of an entry before it is opened; size is 0 where it is not known.
	size          int64
	images, calls bool
}

// Summary stands for turns that are not kept any more.
type Summary struct {
	Text   string    `json:"text"`
	Turns  int       `json:"turns"` // that it stands for
	Tokens int64     `json:"tokens"`
	At     time.Time `json:"at"`
}

// Slot is a value that a conversation has filled.
type Slot struct {
	Value json.RawMessage `json:"value"`
	// Source is rule, model or api.
	Source string    `json:"source"`
	At     time.Time `json:"at"`
}

// The sources of slots.
const (
	FromRule  = "rule"
	FromModel = "model"
	FromAPI   = "api"
)

// Event is something that happened to the state of a conversation.
type Event struct {
	At   time.Time `json:"at"`
	Name string    `json:"name"`
	// From and To are the states; equal where the event left it.
	From string `json:"from"`
	To   string `json:"to"`
}

// What a session holds at most, beside what its policy says.
const (
	maxSlots        = 128
	maxSlotBytes    = 8 << 10
	maxEntities     = 64 // kinds
	maxEntityValues = 32 // of a kind; the newest are kept
	maxEntityBytes  = 1 << 10
	maxEvents       = 64 // the newest are kept
)

// setSlot sets or, where the value is nil or null, removes a slot. It says whether there was room.
func (s *Session) setSlot(name string, v Slot) bool {
	if len(v.Value) == 0 || string(v.Value) == "null" {
		delete(s.Slots, name)
		return true
	}
	if _, have := s.Slots[name]; len(v.Value) > maxSlotBytes || !have && len(s.Slots) >= maxSlots {
		return false
	}
	if s.Slots == nil {
		s.Slots = map[string]Slot{}
	}
	s.Slots[name] = v
	return true
}

// addEntity adds a value of a kind; one that is there already becomes the newest.
func (s *Session) addEntity(kind, value string) {
	have, known := s.Entities[kind]
	if value == "" || len(value) > maxEntityBytes || !known && len(s.Entities) >= maxEntities {
		return
	}
	if s.Entities == nil {
		s.Entities = map[string][]string{}
	}
	have = slices.DeleteFunc(slices.Clone(have), func(v string) bool { return v == value })
	have = append(have, value)
	s.Entities[kind] = have[max(0, len(have)-maxEntityValues):]
}

func (s *Session) note(e Event) {
	s.Events = append(s.Events, e)
	s.Events = s.Events[max(0, len(s.Events)-maxEvents):]
}

// clone copies what changes of a session may touch.
func (s *Session) clone() *Session {
	out := *s
	out.Turns = slices.Clip(s.Turns) // whose entries are replaced in a copy
	out.Slots = maps.Clone(s.Slots)
	out.Entities = maps.Clone(s.Entities)
	out.Events = slices.Clone(s.Events)
	return &out
}

// open reads all that was said.
func (s *Session) open() error {
	if err := s.openResponses(); err != nil {
		return err
	}
	return openAll(s.Turns)
}

// openResponses reads what the Responses API keeps.
func (s *Session) openResponses() error {
	if s.packed == nil {
		return nil
	}
	raw, err := s.packed.open()
	if err != nil {
		return unreadable(err)
	}
	s.Responses, s.packed = raw, nil
	return nil
}

// append adds what was said, once. What continues a call goes behind the turn with the call.
func (s *Session) append(said Said) error {
	at := len(s.Turns)
	for i := range s.Turns {
		if s.Turns[i].ID == said.ID {
			return nil
		}
	}
	if ids := leadingResults(said.Input); len(ids) > 0 {
		i, err := lastCall(s.Turns, ids)
		if err != nil {
			return err
		}
		if i >= 0 {
			said.Continues = true
			at = i + 1
			for at < len(s.Turns) && s.Turns[at].Continues {
				at++
			}
		}
	}
	s.Turns = slices.Concat(s.Turns[:at], []Said{said}, s.Turns[at:])
	return nil
}

// lastCall is the last of the turns that has a call of one of the IDs, or -1.
func lastCall(turns []Said, ids []string) (int, error) {
	for i := len(turns) - 1; i >= 0; i-- {
		if !turns[i].hasCalls() {
			continue
		}
		if err := turns[i].open(); err != nil {
			return 0, err
		}
		if callsAny(turns[i].Input, ids) || callsAny(turns[i].Output, ids) {
			return i, nil
		}
	}
	return -1, nil
}

// first is how many entries the oldest turn has: what continues it goes with it.
func (s *Session) first() int {
	n := min(1, len(s.Turns))
	for n < len(s.Turns) && s.Turns[n].Continues {
		n++
	}
	return n
}

// trim forgets the oldest turns until the session is as small as it may be. Images are forgotten before words are. The newest turn
// stays, however large it is, up to the bytes.
func (s *Session) trim(turns int, bytes int64) error {
	groups := 0
	for i := range s.Turns {
		if !s.Turns[i].Continues {
			groups++
		}
	}
	for ; groups > turns && len(s.Turns) > 0; groups-- {
		s.forget(s.first())
	}
	size := s.responsesBytes()
	for i := range s.Turns {
		size += s.Turns[i].bytes()
	}
	copied := false
	for i := 0; size > bytes && i < len(s.Turns); i++ {
		if !s.Turns[i].hasImages() {
			continue
		}
		if err := s.Turns[i].open(); err != nil {
			return err
		}
		t := s.Turns[i]
		t.Input, t.Output = withoutImages(t.Input), withoutImages(t.Output)
		t.in, t.size = nil, 0
		size -= s.Turns[i].bytes() - t.bytes()
		if !copied {
			s.Turns, copied = slices.Clone(s.Turns), true
		}
		s.Turns[i] = t
	}
	for size > bytes && len(s.Turns) > 0 {
		n := s.first()
		for i := range n {
			size -= s.Turns[i].bytes()
		}
		s.forget(n)
	}
	return nil
}

// responsesBytes is what the Responses API keeps.
func (s *Session) responsesBytes() int64 {
	if s.packed != nil {
		return int64(s.packed.size)
	}
	return int64(len(s.Responses))
}

// forget drops the oldest entries, which are whole turns.
func (s *Session) forget(entries int) {
	for i := range entries {
		if !s.Turns[i].Continues {
			s.Forgotten++
		}
	}
	s.Turns = s.Turns[entries:]
}

// bytes is about what an entry has as JSON.
func (t *Said) bytes() int64 {
	if t.size == 0 {
		r := canon.Request{Messages: t.Input}
		o := canon.Request{Messages: t.Output}
		t.size = int64(r.SizeHint() + o.SizeHint() - 768)
	}
	return t.size
}

// hasImages says whether an entry has images that are kept as bytes.
func (t *Said) hasImages() bool {
	if t.in != nil {
		return t.images
	}
	image := func(p *canon.Part) bool { return p.Image != nil && p.Image.Data != "" }
	return hasPart(t.Input, image) || hasPart(t.Output, image)
}

// hasCalls says whether an entry has calls of tools.
func (t *Said) hasCalls() bool {
	if t.in != nil {
		return t.calls
	}
	call := func(p *canon.Part) bool { return p.Call != nil }
	return hasPart(t.Input, call) || hasPart(t.Output, call)
}

// hasPart says whether a part of messages, or of the results in them, is of some kind.
func hasPart(list []canon.Message, is func(*canon.Part) bool) bool {
	for i := range list {
		for j := range list[i].Parts {
			p := &list[i].Parts[j]
			if is(p) {
				return true
			}
			if p.Result != nil {
				for k := range p.Result.Parts {
					if is(&p.Result.Parts[k]) {
						return true
					}
				}
			}
		}
	}
	return false
}

// imageGone stands for an image that is not kept.
const imageGone = "[an image that is not kept]"

// withoutImages replaces images that are kept as bytes; those that are kept as an address stay.
func withoutImages(list []canon.Message) []canon.Message {
	drop := func(parts []canon.Part) []canon.Part {
		if !slices.ContainsFunc(parts, func(p canon.Part) bool { return p.Image != nil && p.Image.Data != "" }) {
			return parts
		}
		parts = slices.Clone(parts)
		for i := range parts {
			if p := &parts[i]; p.Image != nil && p.Image.Data != "" {
				*p = canon.Part{Text: imageGone}
			}
		}
		return parts
	}
	list = slices.Clone(list)
	for i := range list {
		list[i].Parts = slices.Clone(drop(list[i].Parts))
		for j := range list[i].Parts {
			if p := &list[i].Parts[j]; p.Result != nil {
				r := *p.Result
				r.Parts = drop(r.Parts)
				p.Result = &r
			}
		}
	}
	return list
}
