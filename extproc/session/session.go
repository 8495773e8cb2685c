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

	// Erasure is the ID of the last time that what was here before was erased.
	Erasure string `json:"erasure,omitempty"`
	// Erased says that there is nothing here but that.
	Erased bool `json:"erased,omitempty"`
}

// Said is what was said in one exchange with a model.
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
	out.Turns = slices.Clone(s.Turns)
	out.Slots = maps.Clone(s.Slots)
	out.Entities = maps.Clone(s.Entities)
	out.Events = slices.Clone(s.Events)
	return &out
}

// append adds what was said, once. What continues a call goes behind the turn with the call.
func (s *Session) append(said Said) {
	at := len(s.Turns)
	for i := range s.Turns {
		if s.Turns[i].ID == said.ID {
			return
		}
	}
	if ids := leadingResults(said.Input); len(ids) > 0 {
		for i := len(s.Turns) - 1; i >= 0; i-- {
			if callsAny(s.Turns[i].Output, ids) {
				said.Continues = true
				at = i + 1
				for at < len(s.Turns) && s.Turns[at].Continues {
					at++
				}
				break
			}
		}
	}
	s.Turns = slices.Insert(s.Turns, at, said)
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
func (s *Session) trim(turns int, bytes int64) {
	groups := 0
	for i := range s.Turns {
		if !s.Turns[i].Continues {
			groups++
		}
	}
	for ; groups > turns; groups-- {
		s.forget(s.first())
	}
	size := int64(len(s.Responses))
	for i := range s.Turns {
		size += sizeOf(&s.Turns[i])
	}
	for i := 0; size > bytes && i < len(s.Turns); i++ {
		before := sizeOf(&s.Turns[i])
		s.Turns[i].Input, s.Turns[i].Output = withoutImages(s.Turns[i].Input), withoutImages(s.Turns[i].Output)
		size -= before - sizeOf(&s.Turns[i])
	}
	for size > bytes && len(s.Turns) > 0 {
		n := s.first()
		for i := range n {
			size -= sizeOf(&s.Turns[i])
		}
		s.forget(n)
	}
}

// forget drops the oldest entries, which are whole turns.
func (s *Session) forget(entries int) {
	for i := range entries {
		if !s.Turns[i].Continues {
			s.Forgotten++
		}
	}
	s.Turns = slices.Delete(s.Turns, 0, entries)
}

// sizeOf is about what an entry has as JSON.
func sizeOf(s *Said) int64 {
	r := canon.Request{Messages: s.Input}
	o := canon.Request{Messages: s.Output}
	return int64(r.SizeHint() + o.SizeHint() - 768)
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
