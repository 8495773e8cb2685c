package gpu

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
)

// command is the body of POST /control. Fields of Fault that are left out stay as they are.
type command struct {
	Servers []int `json:"servers"` // by number, from 0; empty: the one that is asked
	All     bool  `json:"all"`     // every server
	Reset   bool  `json:"reset"`   // be healthy first: what is left out returns to its default
	Kill    bool  `json:"kill"`
	Revive  bool  `json:"revive"`
	Fault
}

// state is what GET and POST /control answer for each server.
type state struct {
	Server  int    `json:"server"`
	Address string `json:"address"`
	Alive   bool   `json:"alive"`
	Fault   Fault  `json:"fault"`
	Stats   view   `json:"stats"`
}

// view is what of Stats people ask for.
type view struct {
	Requests     uint64  `json:"requests"`
	Served       uint64  `json:"served"`
	Refused      uint64  `json:"refused"`
	Failed       uint64  `json:"failed"`
	Aborted      uint64  `json:"aborted"`
	Waiting      int     `json:"waiting"`
	Running      int     `json:"running"`
	KVCache      float64 `json:"kvCache"`
	PromptTokens uint64  `json:"promptTokens"`
	CachedTokens uint64  `json:"cachedTokens"`
	OutputTokens uint64  `json:"outputTokens"`
	Preemptions  uint64  `json:"preemptions"`
}

func (s Stats) view() view {
	e := s.Engine
	return view{s.Requests, s.Served, s.Refused, s.Failed, s.Aborted, e.Waiting, e.Running, e.KVUsed, e.PromptTokens, e.CachedTokens, e.OutputTokens, e.Preemptions}
}

func (p *Pool) states() []state {
	var out []state
	for _, s := range p.Servers {
		out = append(out, state{s.index, s.addr, s.Alive(), s.Fault(), s.Stats().view()})
	}
	return out
}

func (p *Pool) getControl(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, p.states())
}

func (s *Server) postControl(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
	if err != nil {
		writeJSON(w, http.StatusBadRequest, map[string]string{"error": "the command cannot be read: " + err.Error()})
		return
	}
	suicide, err := s.command(body)
	if err != nil {
		writeJSON(w, http.StatusBadRequest, map[string]string{"error": err.Error()})
		return
	}
	writeJSON(w, http.StatusOK, s.pool.states())
	if suicide {
		_ = http.NewResponseController(w).Flush() // the answer should be out before the end
		s.Kill()
	}
}

// command does what a body says, to all servers or to none. Whoever is to kill itself is told so, to answer before.
func (s *Server) command(body []byte) (suicide bool, err error) {
	var c command
	if err := strict(body, &c); err != nil {
		return false, fmt.Errorf("the command cannot be read: %w", err)
	}
	if c.Kill && c.Revive {
		return false, errors.New("kill and revive cannot be asked for at once")
	}
	targets := []*Server{s}
	switch {
	case c.All:
		targets = s.pool.Servers
	case len(c.Servers) > 0:
		targets = nil
		for _, i := range c.Servers {
			if i < 0 || i >= len(s.pool.Servers) {
				return false, fmt.Errorf("there is no server %d: the numbers are from 0 to %d", i, len(s.pool.Servers)-1)
			}
			targets = append(targets, s.pool.Servers[i])
		}
	}
	faults := make([]Fault, len(targets))
	for i, t := range targets {
		var patch command
		if !c.Reset {
			patch.Fault = t.Fault()
		}
		if err := strict(body, &patch); err != nil {
			return false, fmt.Errorf("the command cannot be read: %w", err)
		}
		if err := patch.Fault.check(); err != nil {
			return false, err
		}
		faults[i] = patch.Fault
	}
	for i, t := range targets {
		if err := t.Set(faults[i]); err != nil {
			return false, err
		}
		switch {
		case c.Kill && t == s:
			suicide = true
		case c.Kill:
			t.Kill()
		case c.Revive:
			if err := t.Revive(); err != nil {
				return false, err
			}
		}
	}
	return suicide, nil
}

// strict reads JSON that has no unknown fields, and nothing after it.
func strict(b []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if d.More() {
		return errors.New("there is more after the end")
	}
	return nil
}
