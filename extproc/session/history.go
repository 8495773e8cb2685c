package session

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"slices"
	"strings"

	"github.com/weir-dev/weir/adapters/canon"
)

// plan is what becomes of a request.
type plan struct {
	// add are the messages that go before what the caller says.
	add []canon.Message
	// fresh are the caller's messages that the session does not have yet.
	fresh []canon.Message
	// own says that the caller sends a history of its own, so that none is added.
	own bool
	// turns that were added.
	turns int
}

// bounds of what is added.
type bounds struct {
	turns  int
	tokens int64 // 0: none
}

// planOf decides what of a conversation is added to a request that says talk, which holds no system prompts.
//
//   - Where talk begins with what the conversation ends with, the caller sends that itself, and only what is before is added.
//   - Where it holds answers of a model and does not, the caller keeps its own history, which is not the one that is kept here (it was
//     edited, or another branch was taken): nothing is added, for both together would contradict each other.
//   - Else the last turns are added. The turn with the calls that talk answers is always one of them.
func planOf(kept []Said, talk []canon.Message, b bounds) plan {
	all, turn := flatten(kept)
	cut, own := overlap(all, talk)
	if own == 0 && answered(talk) > 0 {
		fresh := talk
		if len(all) > 0 {
			fresh = talk[answered(talk):]
		}
		return plan{own: true, fresh: fresh}
	}
	out := plan{fresh: talk[own:]}
	total := 0
	if len(turn) > 0 {
		total = turn[len(turn)-1] + 1
	}
	first := total - b.turns // the first turn that is added
	if b.tokens > 0 {
		first = max(first, affordable(kept, total, b.tokens))
	}
	last := -1 // the turn that goes last, whenever it was: results stand right behind their calls
	if ids := leadingResults(talk); len(ids) > 0 && own == 0 {
		for i := len(all) - 1; i >= 0 && last < 0; i-- {
			if callsAny(all[i:i+1], ids) {
				last = turn[i]
			}
		}
	}
	var chosen, end []canon.Message
	before := -1
	for i := range cut {
		switch {
		case turn[i] == last:
			end = append(end, all[i])
		case turn[i] >= first:
			chosen = append(chosen, all[i])
		default:
			continue
		}
		if turn[i] != before {
			before = turn[i]
			out.turns++
		}
	}
	out.add = paired(append(chosen, end...), talk)
	return out
}

// flatten puts the entries of a session in one list; turn says which turn each message is of.
func flatten(kept []Said) (all []canon.Message, turn []int) {
	n := -1
	for i := range kept {
		if !kept[i].Continues || n < 0 {
			n++
		}
		for _, list := range [...]Messages{kept[i].Input, kept[i].Output} {
			for _, m := range list {
				all, turn = append(all, m), append(turn, n)
			}
		}
	}
	return all, turn
}

// affordable is the first of the last turns that have no more tokens together.
func affordable(kept []Said, total int, tokens int64) int {
	first, turn := total, total
	for i := len(kept) - 1; i >= 0; i-- {
		if tokens -= kept[i].Tokens; tokens < 0 {
			break
		}
		if !kept[i].Continues || i == 0 {
			turn--
			first = turn
		}
	}
	return first
}

// answered is the index after the last message of a model.
func answered(talk []canon.Message) int {
	for i := len(talk) - 1; i >= 0; i-- {
		if talk[i].Role == canon.RoleAssistant {
			return i + 1
		}
	}
	return 0
}

// atom is the smallest part of what is said that can be compared over dialects, which divide messages differently.
type atom struct {
	what string // role or kind, and the content
	at   int    // message
}

// atoms of messages: texts without the white space around them, which callers trim; no reasoning, which callers leave out.
func atoms(list []canon.Message) []atom {
	var out []atom
	for i := range list {
		var text strings.Builder
		flush := func() {
			if t := strings.TrimSpace(text.String()); t != "" {
				role := list[i].Role
				out = append(out, atom{string(role) + "\x00" + t, i})
			}
			text.Reset()
		}
		for j := range list[i].Parts {
			p := &list[i].Parts[j]
			switch p.Kind {
			case canon.PartText, canon.PartRefusal:
				text.WriteString(p.Text)
				continue
			case canon.PartReasoning:
				continue
			}
			flush()
			switch {
			case p.Image != nil:
				sum := sha256.Sum256([]byte(p.Image.URL + "\x00" + p.Image.Data))
				out = append(out, atom{"image\x00" + string(sum[:]), i})
			case p.Call != nil:
				out = append(out, atom{"call\x00" + p.Call.ID + "\x00" + p.Call.Name + "\x00" + sameJSON(p.Call.Arguments), i})
			case p.Result != nil:
				out = append(out, atom{"result\x00" + p.Result.ID + "\x00" + strings.TrimSpace(resultText(p.Result)), i})
			}
		}
		flush()
	}
	return out
}

func resultText(r *canon.ToolResult) string {
	var b strings.Builder
	for i := range r.Parts {
		b.WriteString(r.Parts[i].Text)
	}
	return b.String()
}

// sameJSON writes JSON in one way, as far as it is JSON: members sorted, no white space, numbers as they were.
func sameJSON(text string) string {
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var v any
	if d.Decode(&v) != nil || d.More() {
		return text
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if e.Encode(v) != nil {
		return text
	}
	return strings.TrimSpace(b.String())
}

// overlap finds how the end of what is kept is the beginning of what the caller says: cut messages of all are before that, own of talk
// are it. Without an overlap cut is len(all).
func overlap(all, talk []canon.Message) (cut, own int) {
	a, c := atoms(all), atoms(talk)
	for n := min(len(a), len(c)); n > 0; n-- {
		start := len(a) - n
		whole := (start == 0 || a[start-1].at != a[start].at) && (n == len(c) || c[n].at != c[n-1].at)
		if whole && slices.EqualFunc(a[start:], c[:n], func(x, y atom) bool { return x.what == y.what }) {
			return a[start].at, c[n-1].at + 1
		}
	}
	return len(all), 0
}

// paired leaves out calls that nothing answers, and results of calls that are not there: every provider refuses those. What follows the added
// messages may answer calls of the last of them.
func paired(add, talk []canon.Message) []canon.Message {
	out := make([]canon.Message, 0, len(add))
	open := map[string]bool{} // calls of the message of the model that came last
	for i := range add {
		m := add[i]
		switch m.Role {
		case canon.RoleAssistant:
			answers := map[string]bool{}
			for _, id := range leadingResults(add[i+1:]) {
				answers[id] = true
			}
			if onlyResults(add[i+1:]) {
				for _, id := range leadingResults(talk) {
					answers[id] = true
				}
			}
			clear(open)
			m.Parts = filter(m.Parts, func(p *canon.Part) bool {
				if p.Call != nil && answers[p.Call.ID] {
					open[p.Call.ID] = true
					return true
				}
				return p.Call == nil
			})
			if !says(m.Parts) {
				continue
			}
		case canon.RoleTool:
			m.Parts = filter(m.Parts, func(p *canon.Part) bool { return p.Result != nil && open[p.Result.ID] })
		default:
			clear(open)
		}
		if len(m.Parts) > 0 {
			out = append(out, m)
		}
	}
	return out
}

// says tells whether there is more than reasoning.
func says(parts []canon.Part) bool {
	return slices.ContainsFunc(parts, func(p canon.Part) bool { return p.Kind != canon.PartReasoning })
}

func onlyResults(list []canon.Message) bool {
	return !slices.ContainsFunc(list, func(m canon.Message) bool { return m.Role != canon.RoleTool })
}

// filter keeps some parts, without a copy where it keeps all.
func filter(parts []canon.Part, keep func(*canon.Part) bool) []canon.Part {
	for i := range parts {
		if !keep(&parts[i]) {
			out := slices.Clone(parts[:i])
			for j := i + 1; j < len(parts); j++ {
				if keep(&parts[j]) {
					out = append(out, parts[j])
				}
			}
			return out
		}
	}
	return parts
}

// unmarked are messages without marks of prompt caches, of which a request may have few: they are the caller's to set.
func unmarked(list []canon.Message) []canon.Message {
	for i := range list {
		if slices.ContainsFunc(list[i].Parts, func(p canon.Part) bool { return p.CacheMark }) {
			list = slices.Clone(list)
			for ; i < len(list); i++ {
				list[i].Parts = slices.Clone(list[i].Parts)
				for j := range list[i].Parts {
					list[i].Parts[j].CacheMark = false
				}
			}
			break
		}
	}
	return list
}

func isSystem(r canon.Role) bool { return r == canon.RoleSystem || r == canon.RoleDeveloper }
