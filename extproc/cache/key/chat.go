package key

import (
	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/jsonx"
)

// chat hashes a request in the form in the middle. Fields that change no answer are left out: Stream, IncludeUsage, User, cache
// marks; Extra is told by extras. With guard, the texts of the last message are left out as well.
func (s *sum) chat(r *canon.Request, guard bool) {
	s.text(r.Model)
	last := -1
	if guard {
		last = len(r.Messages) - 1
	}
	s.uint(uint64(len(r.Messages)))
	var calls []canon.Part // of the last assistant message
	for i := range r.Messages {
		m := &r.Messages[i]
		if m.Role == canon.RoleAssistant {
			calls = m.Parts
		}
		s.message(m, calls, i == last)
	}
	s.tools(r)
	s.optInt('m', r.MaxTokens)
	s.optFloat('t', r.Temperature)
	s.optFloat('p', r.TopP)
	s.optInt('k', r.TopK)
	s.optFloat('P', r.PresencePenalty)
	s.optFloat('F', r.FrequencyPenalty)
	s.optInt('s', r.Seed)
	if len(r.Stop) > 0 {
		s.tag('S')
		s.uint(uint64(len(r.Stop)))
		for _, stop := range r.Stop {
			s.text(stop)
		}
	}
	if f := r.Format; f != nil && f.Kind != canon.FormatText {
		s.tag('f')
		s.text(string(f.Kind))
		s.text(f.Name)
		s.raw(f.Schema)
		s.optBool('!', f.Strict)
	}
	if t := r.Reasoning; t != nil {
		s.tag('r')
		s.bool(t.Disabled)
		s.text(t.Effort)
		s.optInt('b', t.BudgetTokens)
	}
	s.tag('.')
}

func (s *sum) tools(r *canon.Request) {
	s.uint(uint64(len(r.Tools)))
	for i := range r.Tools {
		t := &r.Tools[i]
		s.text(t.Name)
		s.text(t.Description)
		s.raw(t.Parameters)
		s.optBool('!', t.Strict)
	}
	if len(r.Tools) == 0 {
		s.optBool('l', r.ParallelToolCalls)
		return
	}
	// Both dialects say that auto, and calls side by side, are what they do when nothing is said.
	if p := r.ParallelToolCalls; p != nil && !*p {
		s.tag('l')
	}
	if c := r.ToolChoice; c != nil && c.Mode != canon.ChoiceAuto {
		s.tag('c')
		s.text(string(c.Mode))
		s.text(c.Name)
	}
}

// message hashes one turn; calls are those that a result in it may answer.
func (s *sum) message(m *canon.Message, calls []canon.Part, noText bool) {
	s.tag('M')
	s.text(string(m.Role))
	if m.Name != "" && !(m.Role == canon.RoleTool && len(m.Parts) == 1 && named(calls, m.Parts[0].Result, m.Name)) {
		s.tag('n')
		s.text(m.Name)
	}
	for i := range m.Parts {
		s.part(&m.Parts[i], calls, noText)
	}
	s.tag('.')
}

func (s *sum) part(p *canon.Part, calls []canon.Part, noText bool) {
	if p.Kind == canon.PartText && noText {
		return
	}
	s.tag('0' + byte(p.Kind))
	switch p.Kind {
	case canon.PartText, canon.PartRefusal:
		s.text(p.Text)
	case canon.PartReasoning:
		s.text(p.Text)
		s.text(p.Signature)
		s.text(p.Origin)
	case canon.PartImage:
		s.text(p.Image.URL)
		s.text(p.Image.MediaType)
		s.text(p.Image.Data)
		s.text(p.Image.Detail)
	case canon.PartToolCall:
		s.text(p.Call.ID)
		s.text(p.Call.Name)
		s.rawText(p.Call.Arguments)
	case canon.PartToolResult:
		s.text(p.Result.ID)
		if name := p.Result.Name; name != "" && !named(calls, p.Result, name) {
			s.tag('n')
			s.text(name)
		}
		s.bool(p.Result.IsError)
		for i := range p.Result.Parts {
			s.part(&p.Result.Parts[i], nil, false)
		}
		s.tag('.')
	}
}

// named tells that a result's name says nothing new: it is that of the call with its ID. Some dialects repeat it, others do not.
func named(calls []canon.Part, r *canon.ToolResult, name string) bool {
	if r == nil {
		return false
	}
	for i := range calls {
		if c := calls[i].Call; c != nil && c.ID == r.ID {
			return c.Name == name
		}
	}
	return false
}

// raw hashes a schema, a part of a checked body or nil.
func (s *sum) raw(v []byte) {
	if len(v) == 0 {
		s.tag(0)
		return
	}
	s.tag(1)
	s.value(v)
}

// rawText hashes a call's arguments. They are the text of an object; what is none (a request that was made by hand) counts as it is.
func (s *sum) rawText(text string) {
	b := []byte(text)
	if jsonx.Check(b) != nil {
		s.tag(2)
		s.text(text)
		return
	}
	s.raw(jsonx.Root(b))
}
