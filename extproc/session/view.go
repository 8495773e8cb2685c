package session

import (
	"encoding/json"
	"time"
)

// View is a session as the API shows it.
type View struct {
	Tenant   string    `json:"tenant"`
	Consumer string    `json:"consumer,omitempty"`
	ID       string    `json:"id"`
	Policy   string    `json:"policy"`
	Revision uint64    `json:"revision"`
	Created  time.Time `json:"created"`
	Used     time.Time `json:"used"`
	Expires  time.Time `json:"expires"`
	// Turns that are kept, and that are not any more.
	Turns     int `json:"turns"`
	Forgotten int `json:"forgotten"`
	// Tokens of the turns that are kept, estimated.
	Tokens   int64               `json:"tokens"`
	Intent   string              `json:"intent,omitempty"`
	Slots    map[string]Slot     `json:"slots"`
	Entities map[string][]string `json:"entities"`
	State    string              `json:"state,omitempty"`
	Entered  *time.Time          `json:"entered,omitempty"`
	Events   []Event             `json:"events"`
}

func viewOf(s *Session) View {
	v := View{
		Tenant: s.Tenant, Consumer: s.Consumer, ID: s.ID, Policy: s.Policy, Revision: s.Revision,
		Created: s.Created.UTC(), Used: s.Used.UTC(), Expires: s.Expires.UTC(), Forgotten: s.Forgotten,
		Intent: s.Intent, Slots: s.Slots, Entities: s.Entities, State: s.State, Events: s.Events,
	}
	for i := range s.Turns {
		v.Tokens += s.Turns[i].Tokens
		if !s.Turns[i].Continues {
			v.Turns++
		}
	}
	if v.Slots == nil {
		v.Slots = map[string]Slot{}
	}
	if v.Entities == nil {
		v.Entities = map[string][]string{}
	}
	if v.Events == nil {
		v.Events = []Event{}
	}
	if !s.Entered.IsZero() {
		at := s.Entered.UTC()
		v.Entered = &at
	}
	return v
}

// Line is a session in a list: no text, no slots.
type Line struct {
	Tenant   string    `json:"tenant"`
	Consumer string    `json:"consumer,omitempty"`
	ID       string    `json:"id"`
	Policy   string    `json:"policy"`
	Store    string    `json:"store"` // memory or redis
	Used     time.Time `json:"used"`
	Expires  time.Time `json:"expires"`
	Turns    int       `json:"turns"`
	Tokens   int64     `json:"tokens"`
	State    string    `json:"state,omitempty"`
	Intent   string    `json:"intent,omitempty"`
}

func lineOf(s *Session, store string) Line {
	v := viewOf(s)
	return Line{
		Tenant: v.Tenant, Consumer: v.Consumer, ID: v.ID, Policy: v.Policy, Store: store, Used: v.Used, Expires: v.Expires,
		Turns: v.Turns, Tokens: v.Tokens, State: v.State, Intent: v.Intent,
	}
}

// export is a session as it is kept, but for what is Weir's own business.
func export(s *Session) ([]byte, error) {
	if err := s.open(); err != nil {
		return nil, err
	}
	out := *s
	out.Erasure = ""
	return json.Marshal(&out)
}
